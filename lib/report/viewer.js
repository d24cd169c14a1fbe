// The scores for which the gate refused a sample, each with its limit.
function offending(sample) {
  if (sample.verdict !== "rejected") return [];
  return Object.entries(sample.record.scores).flatMap(([name, value]) => {
    if (name === "fill" && sample.record.shape) return []; // a shape that a person drew may fill its box
    const { unit, digits, least, most } = limits[name] || {};
    const bound = value < least ? least : value > most ? most : undefined; // a bound that is not there is never passed
    return bound === undefined ? [] : [`${name} ${value.toFixed(digits)} ${unit} (limit ${bound.toFixed(digits)})`];
  });
}

// One sample: good, painted, outlined, each at a whole multiple of its pixels.
function open(sample) {
  const r = sample.record, embedded = Math.round(sample.side * sample.zoom) || 128;
  current = sample;
  $("title").textContent = r.placement + " by " + r.generator;
  $("judged").replaceChildren(make("b", { className: sample.verdict }, sample.verdict), r.reason ? ": " + r.reason : "",
    offending(sample).map(text => ". " + text[0].toUpperCase() + text.slice(1)).join(""),
    sample.side ? `. Window of ${sample.side} px` + (sample.zoom < 1 ? `, shown at ${sample.zoom} of its size.` : ".") : ".");
  const width = Math.min(innerWidth, 1160) - 56, across = innerWidth < 600 ? 1 : 3;
  const times = Math.max(1, Math.min(8, Math.floor((width / across - 10) / embedded)));
  const pixels = Math.min(embedded * times, width);
  const good = r.normal === null ? "twin, painted by the generator" : "good";
  const none = r.normal === null ? "no picture without the defect: the background is the generator's own" : "no picture";
  const views = [[good, sample.good, false, none], ["painted", sample.painted, false, r.reason || "no picture"],
    ["mask", sample.painted, true, "no mask"]];
  $("trio").replaceChildren(...views.map(([name, number, outlined, missing]) => {
    const view = frame(sample, number, outlined, missing);
    view.style.width = pixels + "px";
    return make("figure", {}, view, make("figcaption", {}, number === null ? name : `${name} ×${times}`));
  }));
  $("link").href = "#placement=" + encodeURIComponent(r.placement);
  $("others").replaceChildren(...side(r.placement, sample).children);
  $("facts").replaceChildren(...facts(r).map(([name, value]) => [name, name === "like" && sample.like_part ? `${value}, of the ${sample.like_part} part` : value])
    .map(([name, value]) => make("tr", {}, make("td", {}, name), make("td", {}, value))));
  $("viewer").append($("done")); // what lies outside of an open dialog is neither seen nor read aloud
  if (!$("viewer").open) $("viewer").showModal();
  flipped = false;
  showVerdict(sample);
}
const facts = (value, name = "") => value !== null && typeof value === "object" && !Array.isArray(value)
  ? (Object.keys(value).length ? Object.entries(value).flatMap(([k, v]) => facts(v, name ? name + "." + k : k)) : [[name, "-"]])
  : [[name, value === null ? "-" : Array.isArray(value) ? JSON.stringify(value) : String(value)]];
function flip(on) {
  if (!current || on === flipped || current.good === null || current.painted === null) return;
  flipped = on;
  const [first, ...rest] = $("trio").querySelectorAll("img");
  first.src = uri(on ? current.painted : current.good);
  for (const image of rest) image.src = uri(on ? current.good : current.painted);
}
function step(by) {
  const list = shown.includes(current) ? shown : samples;
  open(list[(list.indexOf(current) + by + list.length) % list.length]);
}
function through(by) {
  const list = generators.map(g => byKey.get(g + "/" + current.record.placement)).filter(Boolean);
  open(list[(list.indexOf(current) + by + list.length) % list.length]);
}
$("prev").onclick = () => step(-1); $("next").onclick = () => step(1); $("close").onclick = () => $("viewer").close();
$("viewer").onclick = event => { if (event.target === $("viewer")) $("viewer").close(); };
$("viewer").onclose = () => { current = null; document.body.append($("done")); if (chosen.review.value) draw(); };
$("trio").onpointerdown = () => flip(true);
for (const name of ["pointerup", "pointercancel", "blur"]) addEventListener(name, () => flip(false));
$("trio").oncontextmenu = event => event.preventDefault();
addEventListener("keydown", event => {
  const keys = { ArrowRight: () => step(1), ArrowLeft: () => step(-1), ArrowDown: () => through(1), ArrowUp: () => through(-1), " ": () => flip(true) };
  if (current && !typing(event) && keys[event.key] && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); keys[event.key](); }
});
addEventListener("keyup", event => { if (event.key === " " && current) { event.preventDefault(); flip(false); } });
