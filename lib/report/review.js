// Review: what a person says of samples. A row of the table names a picture by the digest that it was painted with.
const forms = JSON.parse($("forms").textContent);
const rowKey = row => [row.generator, row.category, row.placement, row.sha256].join("/");
const blank = s => ({ category: s.record.category, generator: s.record.generator, placement: s.record.placement,
  sha256: s.record.painted_sha256, verdict: "", note: "" });
const marks = new Map(forms.review.rows.map(row => [rowKey(row), row]));
const markOf = s => s.record.painted_sha256 === null ? undefined : marks.get(rowKey(blank(s)));
const verdicts = { x: "bad", m: "mask" };
const undos = []; // of both tables: what was done, and how it is taken back

// What was just done, for some seconds, or until it is clicked away.
let telling = 0;
function tell(text) {
  $("done").textContent = text;
  clearTimeout(telling);
  telling = setTimeout(() => tell(""), 8000);
}
$("done").onclick = () => tell("");

function mark(sample, verdict) {
  if (sample.record.painted_sha256 === null) return;
  const row = blank(sample), id = rowKey(row), before = marks.get(id);
  const after = before && before.verdict === verdict ? undefined : { ...row, verdict, note: before ? before.note : "" };
  undos.push({ what: `${row.placement} by ${row.generator}`, back: () => put(id, before) });
  put(id, after);
  tell(after ? `${row.placement} by ${row.generator}: ${verdict}.` : `${row.placement} by ${row.generator}: no mark.`);
}
function put(id, row) {
  if (row) marks.set(id, row); else marks.delete(id);
  keep();
  showMarks();
}
function undo() {
  const last = undos.pop();
  if (!last) return;
  last.back();
  tell(`Undone: ${last.what}.`);
}
function showMark(element) {
  const row = markOf(element.sample);
  element.querySelector(".mark").textContent = row ? row.verdict : "";
  element.classList.toggle("bad", Boolean(row && row.verdict === "bad")); // not printed
}
function showMarks() {
  for (const element of document.querySelectorAll("button.card")) showMark(element);
  const all = [...marks.values()], count = verdict => all.filter(row => row.verdict === verdict).length;
  $("marked").textContent = `Marked: ${count("bad")} bad, ${count("mask")} with a mask to correct.`;
  for (const button of document.querySelectorAll(".undo")) button.disabled = !undos.length;
  if (current) showVerdict(current);
}
// The verdict in the viewer.
function showVerdict(sample) {
  const row = markOf(sample), can = sample.record.painted_sha256 !== null;
  for (const verdict of Object.values(verdicts)) {
    $(verdict).setAttribute("aria-pressed", String(Boolean(row && row.verdict === verdict)));
    $(verdict).disabled = !can;
  }
  $("note").disabled = !row;
  if (document.activeElement !== $("note")) $("note").value = row ? row.note : "";
  $("how").textContent = row && row.verdict === "mask" ? `Copy ${sample.record.mask} to data/review/masks/` +
    `${sample.record.generator}/${sample.record.category}/${sample.record.placement}.png and correct it there.` : "";
}
for (const verdict of Object.values(verdicts)) $(verdict).onclick = () => mark(current, verdict);
$("note").oninput = () => {
  const row = current && markOf(current);
  if (row) { marks.set(rowKey(row), { ...row, note: $("note").value }); keep(); }
};
for (const button of document.querySelectorAll(".undo")) button.onclick = undo;
const typing = event => Boolean(event.target.matches && event.target.matches("input:not([type=checkbox]), select, textarea"));
addEventListener("keydown", event => {
  if (typing(event) || event.altKey) return;
  const sample = current || (document.activeElement && document.activeElement.sample);
  const command = event.ctrlKey || event.metaKey;
  if (command ? event.key === "z" && !event.shiftKey : event.key === "u") { event.preventDefault(); undo(); }
  else if (!command && sample && Object.hasOwn(verdicts, event.key)) { event.preventDefault(); mark(sample, verdicts[event.key]); }
});

// Tables as files. A field that a spreadsheet would take for a formula gets an apostrophe.
function cell(value) {
  const text = String(value).replace(/[\r\n]+/g, " ").trim(), safe = /^[=+\-@\t]/.test(text) ? "'" + text : text;
  return /[",]/.test(safe) ? '"' + safe.replaceAll('"', '""') + '"' : safe;
}
const inOrder = (rows, columns) => [...rows].sort((a, b) => {
  const column = columns.find(name => a[name] !== b[name]);
  return column === undefined ? 0 : a[column] < b[column] ? -1 : 1;
});
function save(form, rows) {
  const lines = [form.columns, ...inOrder(rows, form.columns).map(row => form.columns.map(name => row[name]))];
  const text = lines.map(line => line.map(cell).join(",") + "\n").join(""), name = form.path.split("/").pop();
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "text/csv" })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  unsaved.delete(form.path);
  tell(`${name} is downloaded: put it in the place of ${form.path}, then run dvc repro.`);
}
$("save-review").onclick = () => save(forms.review, marks.values());

// What is not saved yet outlives a reload where the browser keeps something for this file.
const unsaved = new Set(), place = "blemish " + forms.run;
let keeps = true;
function keep(form = forms.review) {
  unsaved.add(form.path);
  try { localStorage.setItem(place, JSON.stringify({ review: [...marks.values()], requests })); } catch { keeps = false; }
  showKept();
}
function restore() {
  try {
    const kept = JSON.parse(localStorage.getItem(place));
    localStorage.setItem("blemish", ""); // whether it would keep anything
    if (!kept) return;
    marks.clear();
    for (const row of kept.review) marks.set(rowKey(row), row);
    requests = kept.requests;
    tell("Marks and requests of an earlier visit are here again.");
  } catch { keeps = false; }
}
function showKept() {
  $("kept").textContent = keeps ? "They outlive a reload in this browser, and are in no file before they are saved."
    : "This browser keeps nothing over a reload: save before you leave.";
}
// How many rows differ from those of the file: added, changed or gone.
function differing(rows, form, keyOf) {
  const [here, file] = [rows, form.rows].map(list =>
    new Map(list.map(row => [keyOf(row), JSON.stringify(form.columns.map(name => row[name]))])));
  return [...new Set([...here.keys(), ...file.keys()])].filter(key => here.get(key) !== file.get(key)).length;
}
const several = (count, name) => `${count} ${name}${count === 1 ? "" : "s"}`;
function forget() {
  const before = { rows: [...marks.values()], requests };
  const counts = several(differing(before.rows, forms.review, rowKey), "mark") + " and "
    + several(differing(requests, forms.requests, placeKey), "request");
  const set = (rows, others) => {
    marks.clear();
    for (const row of rows) marks.set(rowKey(row), row);
    requests = others;
    keep(); keep(forms.requests); showMarks(); showRequests();
  };
  undos.push({ what: `discarding ${counts}`, back: () => set(before.rows, before.requests) });
  set(forms.review.rows, forms.requests.rows);
  tell(`Discarded: ${counts}. What is in the files is here again.`);
}
$("forget").onclick = forget;
addEventListener("beforeunload", event => { if (unsaved.size && !keeps) event.preventDefault(); });
