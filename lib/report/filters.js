// Filters and order.
const fields = { category: s => s.record.category, type: s => s.record.defect_type, generator: s => s.record.generator,
  verdict: s => s.verdict, reason: s => s.record.reason || "(accepted)",
  review: s => markOf(s) ? "marked" : "not marked" };
const isAsked = s => /-asked-[0-9a-f]{8}-\d{3}$/.test(s.record.placement);
if (samples.some(isAsked)) fields.place = s => isAsked(s) ? "asked for" : "random";
const scores = [...new Set(samples.flatMap(s => Object.keys(s.record.scores)))];
const choice = (name, values, first, said = v => v) => {
  const select = make("select", { id: "by-" + name, onchange: redraw }, make("option", { value: "" }, first));
  for (const v of values) select.append(make("option", { value: v }, said(v).length > 60 ? said(v).slice(0, 60) + "…" : said(v)));
  $("filters").lastElementChild.before(make("label", {}, name, select));
  return select;
};
const chosen = Object.fromEntries(Object.entries(fields).map(([name, of]) =>
  [name, choice(name, name === "review" ? ["marked", "not marked"] : [...new Set(samples.map(of))].sort(), "all")]));
const order = choice("sort by", scores, "placement", name => limits[name] ? `${name}, ${limits[name].unit}` : name);
const tick = (text, change) => {
  const box = make("input", { type: "checkbox", onchange: change });
  $("filters").lastElementChild.before(make("label", { className: "tick" }, box, text));
  return box;
};
const falling = tick("largest first", redraw), beside = tick("placements side by side", redraw);
const outlines = tick("outlines", () => $("samples").classList.toggle("plain", !outlines.checked));
outlines.checked = true;
$("filters").lastElementChild.before(make("button", { id: "reset", onclick: () => {
  for (const select of [...Object.values(chosen), order]) select.value = "";
  falling.checked = beside.checked = false;
  only = null;
  history.replaceState(null, "", "#gallery");
  redraw();
} }, "reset filters"));

// After a change far down, the first of what is now shown stands below the bar.
function redraw() {
  draw();
  const bar = $("filters"), covered = getComputedStyle(bar).position === "sticky" ? bar.offsetHeight + 8 : 0;
  scrollBy(0, Math.min($("samples").getBoundingClientRect().top - covered, 0));
}

function draw() {
  const at = s => s.record.scores[order.value];
  shown = samples.filter(s => (only === null || s.record.placement === only)
    && Object.entries(fields).every(([name, of]) => !chosen[name].value || of(s) === chosen[name].value));
  // Array.sort is stable: equal scores stay in the order of placements; samples without the score come last.
  if (order.value) shown.sort((a, b) => at(a) === undefined ? (at(b) === undefined ? 0 : 1) : at(b) === undefined ? -1
    : (at(a) - at(b)) * (falling.checked ? -1 : 1));
  else if (falling.checked) shown.reverse();
  $("count").textContent = `${shown.length} of ${samples.length} shown` + (only === null ? "" : `: placement ${only}`);
  if (beside.checked || only !== null) {
    const rows = [...new Set(shown.map(s => s.record.placement))].map(placement => make("div", {},
      make("h3", {}, make("a", { href: "#placement=" + encodeURIComponent(placement) }, placement)), side(placement)));
    $("samples").replaceChildren(...rows);
  } else {
    $("samples").replaceChildren(make("div", { className: "grid" }, ...shown.map(s => card(s))));
  }
}
// The good window, then what every generator painted there.
function side(placement, now = null) {
  const all = byPlacement.get(placement), first = all.find(s => s.good !== null && s.record.normal !== null);
  const row = make("div", { className: "row" });
  if (first) row.append(make("span", { className: "card" }, frame(first, first.good, false, ""), make("figcaption", {}, "good")));
  for (const name of generators) {
    const sample = byKey.get(name + "/" + placement);
    if (sample) row.append(card(sample, sample === now));
  }
  return row;
}
