// Requests: where a person wants a defect. All coordinates are pixels of the whole picture, whatever is shown of it.
const { pictures: goods, types } = JSON.parse($("good-pictures").textContent);
const LEAST = 3; // px on the screen: less is a click and no box
const MOST = 400; // points of a shape
const placeKey = row => JSON.stringify([row.category, row.picture, row.type, row.box, row.polygon]);
let requests = [...forms.requests.rows];
let good = null, draft = null, stroke = null; // the picture, what is drawn on it, the points of a drawing under way
const corners = ["x0", "y0", "x1", "y1"].map(name => $("ask-" + name));

function choose(picture) {
  good = picture;
  [draft, stroke] = [null, null];
  const [width, height] = good.size;
  $("good").src = "data:image/webp;base64," + good.image;
  $("good").alt = good.id;
  $("surface").style.aspectRatio = `${width} / ${height}`;
  $("surface").style.width = `min(100%, ${Math.max(width, 512)}px, ${70 * width / height}vh)`;
  $("good").style.imageRendering = Math.max(width, height) < 512 ? "pixelated" : "auto";
  $("surface").setAttribute("aria-label", `${good.id}: draw here`);
  $("ink").setAttribute("viewBox", `0 0 ${width} ${height}`);
  for (const [number, input] of corners.entries()) input.max = good.size[number % 2];
  for (const button of $("goods").children) button.setAttribute("aria-pressed", String(button.picture === good));
  $("ask-type").replaceChildren(...types[good.category].map(type => make("option", { value: type }, type)));
  showDraft();
}
function chooseCategory(category) {
  const those = goods.filter(picture => picture.category === category);
  $("goods").replaceChildren(...those.map(picture => {
    const button = make("button", { onclick: () => choose(picture), title: picture.id },
      make("img", { src: "data:image/webp;base64," + picture.image, alt: picture.id, loading: "lazy" }));
    button.picture = picture;
    return button;
  }));
  choose(those[0]);
}

// Ink: what is asked for on this picture, and what is being drawn.
const numbers = text => text.split(" ").filter(Boolean).map(Number);
const boxOf = row => row.box ? numbers(row.box) : around(pairs(numbers(row.polygon)));
const pairs = values => values.flatMap((x, n) => n % 2 ? [] : [[x, values[n + 1]]]);
function around(points) {
  const [xs, ys] = [0, 1].map(axis => points.map(point => point[axis]));
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs) + 1, Math.max(...ys) + 1];
}
function ink(box, points, name) {
  const [rect, path] = $("ink-pieces").content.firstElementChild.cloneNode(true).children;
  for (const [attribute, value] of Object.entries({ x: box[0], y: box[1], width: box[2] - box[0], height: box[3] - box[1] }))
    rect.setAttribute(attribute, value);
  path.setAttribute("d", points.length ? "M" + points.map(([x, y]) => `${x + 0.5},${y + 0.5}`).join("L") + "Z" : "");
  for (const piece of [rect, path]) piece.setAttribute("class", name);
  return [rect, path];
}
function showDraft(typed = false) {
  const here = requests.filter(row => row.category === good.category && row.picture === good.id);
  $("ink").replaceChildren(...here.flatMap(row => ink(boxOf(row), pairs(numbers(row.polygon)), "asked")),
    ...(draft ? ink(draft.box, draft.points, "draft") : []));
  if (!typed) for (const [number, input] of corners.entries()) input.value = draft ? draft.box[number] : "";
  $("ask-add").disabled = !draft || !fits(draft.box);
}
const fits = ([x0, y0, x1, y1]) => [x0, y0, x1, y1].every(Number.isInteger)
  && 0 <= x0 && x0 < x1 && x1 <= good.size[0] && 0 <= y0 && y0 < y1 && y1 <= good.size[1];

// By mouse, pen or finger.
function pixelAt(event) {
  const frame = $("surface").getBoundingClientRect();
  const share = [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
  return good.size.map((size, axis) => Math.min(Math.max(Math.floor(share[axis] * size), 0), size - 1));
}
$("surface").onpointerdown = event => {
  if (event.button !== 0 || stroke) return;
  event.preventDefault();
  $("surface").focus({ preventScroll: true });
  $("surface").setPointerCapture(event.pointerId);
  stroke = { pointer: event.pointerId, points: [pixelAt(event)], far: 0, from: [event.clientX, event.clientY] };
  draft = null;
  showDraft();
};
$("surface").onpointermove = event => {
  if (!stroke || event.pointerId !== stroke.pointer) return;
  for (const one of event.getCoalescedEvents ? [...event.getCoalescedEvents(), event] : [event]) {
    stroke.far = Math.max(stroke.far, Math.hypot(one.clientX - stroke.from[0], one.clientY - stroke.from[1]));
    const [x, y] = pixelAt(one), [lastX, lastY] = stroke.points.at(-1);
    if (x !== lastX || y !== lastY) stroke.points.push([x, y]);
  }
  draft = drawn(stroke.points, 0);
  showDraft();
};
$("surface").onpointerup = event => {
  if (!stroke || event.pointerId !== stroke.pointer) return;
  const pixel = good.size[0] / $("surface").getBoundingClientRect().width;
  const done = drawn(stroke.points, Math.max(0.5, 0.75 * pixel));
  draft = stroke.far < LEAST || ($("ask-tool").value === "shape" && done.points.length < 3) ? null : done;
  stroke = null;
  showDraft();
};
$("surface").onpointercancel = () => { [stroke, draft] = [null, null]; showDraft(); };
function drawn(points, tolerance) {
  if ($("ask-tool").value === "box") return { box: around([points[0], points.at(-1)]), points: [] };
  let kept = tolerance ? simplified(points, tolerance) : points;
  while (tolerance && kept.length > MOST) kept = simplified(points, tolerance *= 1.5);
  return { box: around(kept), points: kept };
}
// Douglas and Peucker 1973: points nearer to the line than the tolerance, px, are left out.
function simplified(points, tolerance) {
  const kept = new Set([0, points.length - 1]), spans = [[0, points.length - 1]];
  while (spans.length) {
    const [first, last] = spans.pop();
    let far = tolerance, at = null;
    for (let n = first + 1; n < last; n++) {
      const away = distance(points[n], points[first], points[last]);
      if (away > far) [far, at] = [away, n];
    }
    if (at !== null) { kept.add(at); spans.push([first, at], [at, last]); }
  }
  return points.filter((_, n) => kept.has(n));
}
function distance([x, y], [ax, ay], [bx, by]) {
  const [dx, dy] = [bx - ax, by - ay], square = dx * dx + dy * dy;
  const along = square ? Math.min(Math.max(((x - ax) * dx + (y - ay) * dy) / square, 0), 1) : 0;
  return Math.hypot(x - ax - along * dx, y - ay - along * dy);
}

// By keyboard: a box in the middle, moved and resized by arrows; or by its numbers.
$("surface").onkeydown = event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (event.key === "Enter" && draft) add();
  else if (event.key === "Enter") {
    const half = good.size.map(size => Math.max(Math.round(size / 16), 1)), middle = good.size.map(size => Math.floor(size / 2));
    const low = middle.map((at, axis) => Math.max(at - half[axis], 0));
    draft = { box: [...low, ...middle.map((at, axis) => Math.min(at + half[axis], good.size[axis]))], points: [] };
  } else if (event.key === "Escape" && draft) draft = null;
  else if (draft && Object.hasOwn(moves, event.key)) {
    const step = Math.max(Math.round(Math.max(...good.size) / 128), 1), by = moves[event.key].map(sign => sign * step);
    if (event.shiftKey) draft = { box: draft.box.map((at, n) => n < 2 ? at : Math.min(Math.max(at + by[n - 2], draft.box[n - 2] + 1), good.size[n - 2])), points: [] };
    else {
      const shift = by.map((way, axis) => Math.min(Math.max(way, -draft.box[axis]), good.size[axis] - draft.box[axis + 2]));
      draft = { box: draft.box.map((at, n) => at + shift[n % 2]), points: draft.points.map(point => point.map((at, axis) => at + shift[axis])) };
    }
  } else return;
  event.preventDefault();
  showDraft();
};
for (const input of corners) input.oninput = () => {
  const box = corners.map(one => one.value === "" ? NaN : Number(one.value));
  draft = { box, points: [] };
  if (fits(box)) showDraft(true);
  else $("ask-add").disabled = true;
};

function add() {
  const count = Number($("ask-count").value);
  if (!draft || !fits(draft.box) || !$("ask-count").checkValidity() || !Number.isInteger(count)) { $("ask-count").reportValidity(); return; }
  const row = { category: good.category, picture: good.id, type: $("ask-type").value, box: draft.box.join(" "),
    polygon: draft.points.flat().join(" "), count: String(count), note: $("ask-note").value };
  const same = requests.find(one => placeKey(one) === placeKey(row));
  if (same) row.count = String(Math.min(Number(same.count) + count, Number($("ask-count").max)));
  draft = null;
  replace([...requests.filter(one => one !== same), row], `${row.count} ${row.type} on ${row.picture}`);
}
function replace(after, what) {
  const before = requests, put = rows => { requests = rows; keep(forms.requests); showRequests(); };
  undos.push({ what, back: () => put(before) });
  put(after);
  tell(what + ".");
  showMarks();
}
function showRequests() {
  const total = requests.reduce((sum, row) => sum + Number(row.count), 0);
  $("asked-count").textContent = `Requests: ${requests.length}, samples: ${total}.`;
  $("asked").replaceChildren(...requests.map(row => {
    const picture = goods.find(one => one.category === row.category && one.id === row.picture);
    const show = make("button", { disabled: !picture, onclick: () => {
      $("ask-category").value = row.category;
      chooseCategory(row.category);
      choose(picture);
      $("surface").scrollIntoView({ block: "nearest" });
    } }, row.picture);
    const remove = make("button", { onclick: () => replace(requests.filter(one => one !== row), `removed: ${row.type} on ${row.picture}`) }, "remove");
    const cells = [row.category, show, row.type, row.box || boxOf(row).join(" "), row.polygon ? `shape of ${pairs(numbers(row.polygon)).length} points` : "box",
      row.count, row.note, remove];
    return make("tr", {}, ...cells.map(one => make("td", {}, one)));
  }));
  if (good) showDraft();
}
$("save-requests").onclick = () => save(forms.requests, requests);
$("ask-add").onclick = add;
$("ask-category").append(...Object.keys(types).filter(category => goods.some(picture => picture.category === category))
  .map(category => make("option", { value: category }, category)));
$("ask-category").onchange = () => chooseCategory($("ask-category").value);
if (goods.length) chooseCategory($("ask-category").value);
else $("asking").hidden = true;
