"""Review and requests on the page, in a browser with real pointers and keys: what is saved is what the stages read."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.core.forms import REQUESTS, REVIEW, Form, read_form
from lib.core.records import DefectBox, Sample, Synthetic, read_records
from lib.core.runtime import write_text
from lib.labels.review import read_verdicts
from lib.placement.requests import Request, read_requests
from tests.category import CATEGORY, placement
from tests.report.browser import Tab, needs_browser, tab
from tests.report.test_page import EVIL, PAGE, answer, write_both, write_inputs

pytestmark = [needs_browser, pytest.mark.slow]

STALE = f"{CATEGORY},perlin,slab-gone,{'a' * 64},bad,an old row"
ASKED = f'{CATEGORY},good-1,dent,4 5 20 18,,2,"{EVIL}"'
Box = tuple[float, float, float, float]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, raw_params: dict) -> Iterator[Path]:
    """A working folder with a page whose tables already have a row each; the tests run within it."""
    folder = tmp_path_factory.mktemp("forms")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        params = write_inputs(raw_params)
        write_text(REVIEW.path, f"{','.join(REVIEW.columns)}\n{STALE}\n")
        write_text(REQUESTS.path, f"{','.join(REQUESTS.columns)}\n{ASKED}\n")
        write_both(params)
        yield folder


@pytest.fixture(scope="module")
def chromium(folder: Path) -> Iterator[Tab]:
    with tab(folder / "browser") as opened:
        yield opened


@pytest.fixture
def page(chromium: Tab, folder: Path) -> Iterator[Tab]:
    """The page as it is opened for the first time; no test may cause an error or a request."""
    for file in chromium.downloads.iterdir():
        file.unlink()
    chromium.size(1200, 900)
    chromium.theme("light")
    chromium.open(folder / PAGE)
    chromium.run("localStorage.clear()")
    chromium.requests.clear()
    chromium.reload()
    yield chromium
    chromium.run("0")
    assert chromium.errors == []
    asked_for = {address for address in chromium.requests if not address.startswith(("data:", "blob:"))}
    assert asked_for <= {(folder / name).as_uri() for name in (PAGE, "other.html", "deaf.html")}


def saved(page: Tab, form: Form, button: str) -> list[dict[str, str]]:
    """The rows of the file that the page saves, which is put into its place and read as the stages read it."""
    page.click(button)
    shutil.move(page.downloaded(form.path.name), form.path)
    rows, problems = read_form(form)
    assert problems == []
    return [row.values for row in rows]


def card(page: Tab, generator: str, number: int) -> str:
    """A selector of one sample's card."""
    name = f"{generator}/{placement(number).id}"
    page.run(
        f"[...document.querySelectorAll('#samples button.card')].find(c => key(c.sample) === '{name}').id = 'sought'"
    )
    return "#sought"


def close(page: Tab) -> None:
    """The viewer, whose end is told to the script a moment later."""
    page.press("Escape")
    page.wait("current === null")


def judged() -> dict[str, object]:
    """What the stage masks takes from the table."""
    records = [answer(number, "perlin") for number in range(6)]
    painted = [Synthetic(**{**one.__dict__, "sha256": one.painted_sha256}) for one in records]
    verdicts, _ = read_verdicts("perlin", {CATEGORY: painted})
    return {"bad": verdicts[CATEGORY].bad, "stale": verdicts[CATEGORY].stale}


def asked() -> list[Request]:
    """What the stage random_boxes takes from the table."""
    samples = read_records(Path(f"data/prepared/{CATEGORY}/samples.jsonl"), Sample)
    boxes = read_records(Path(f"data/boxes/{CATEGORY}.jsonl"), DefectBox)
    return read_requests({CATEGORY: (samples, boxes)})[0][CATEGORY]


# Review


def test_samples_are_marked_by_keyboard_and_saved_as_the_stage_reads_them(page: Tab):
    page.click(card(page, "perlin", 0))
    page.press("x")
    assert page.run("$('bad').getAttribute('aria-pressed')") == "true"
    page.press("ArrowDown")
    assert page.run("current.record.generator") == "dmgr"
    page.press("x")
    close(page)
    assert page.run("document.activeElement.sample.record.generator") == "perlin", "the focus is back on the card"
    assert page.run("$('marked').textContent") == "Marked: 3 bad, 0 with a mask to correct."
    rows = saved(page, REVIEW, "#save-review")
    assert [(row["generator"], row["placement"], row["verdict"]) for row in rows] == [
        ("dmgr", placement(0).id, "bad"),
        ("perlin", placement(0).id, "bad"),
        ("perlin", "slab-gone", "bad"),
    ]
    assert rows[1]["sha256"] == answer(0, "perlin").painted_sha256
    assert judged() == {"bad": {placement(0).id}, "stale": (4,)}


def test_a_focused_card_is_marked_and_unmarked_without_opening_it(page: Tab):
    sought = card(page, "perlin", 1)
    page.run(f"document.querySelector('{sought}').focus()")
    page.press("x")
    assert page.run(f"document.querySelector('{sought} .mark').textContent") == "bad" and not page.run(
        "$('viewer').open"
    )
    page.press("m")
    assert page.run(f"document.querySelector('{sought} .mark').textContent") == "mask"
    page.press("m")
    assert page.run(f"document.querySelector('{sought} .mark').textContent") == ""


def test_every_step_is_undone_and_the_last_one_is_told(page: Tab):
    page.click(card(page, "perlin", 0))
    page.click("#bad")
    page.click("#mask")
    close(page)
    assert "1 with a mask" in page.run("$('marked').textContent")
    page.press("u")
    assert "2 bad, 0 with" in page.run("$('marked').textContent")
    page.press("z", control=True)
    assert page.run("$('marked').textContent").startswith("Marked: 1 bad, 0")
    assert page.run("$('done').textContent") == f"Undone: {placement(0).id} by perlin."
    assert page.run("document.querySelector('.undo').disabled"), "nothing is left to undo"
    page.press("u")
    assert page.run("$('marked').textContent").startswith("Marked: 1 bad, 0"), "the row of the file is no step"


def test_the_filter_shows_what_is_marked_and_what_is_not(page: Tab):
    page.click(card(page, "dmgr", 3))
    page.press("x")
    close(page)
    page.run("$('by-review').value = 'marked'; $('by-review').dispatchEvent(new Event('change'))")
    assert page.run("shown.map(key)") == [f"dmgr/{placement(3).id}"]
    page.click(card(page, "dmgr", 3))
    page.press("x")
    assert page.run("shown.length") == 1, "it stays under the eyes while it is open"
    close(page)
    assert page.run("shown.length") == 0
    page.run("$('by-review').value = 'not marked'; $('by-review').dispatchEvent(new Event('change'))")
    assert page.run("shown.length") == 12


def test_a_new_filter_far_down_shows_its_first_sample_and_how_many_there_are(page: Tab):
    page.size(640, 420)
    page.run("scrollTo(0, $('samples').getBoundingClientRect().bottom + scrollY - 100)")
    set_value(page, "by-verdict", "failed")
    first, bar = page.run(
        "[document.querySelector('#samples .card').getBoundingClientRect().top,"
        " $('filters').getBoundingClientRect().bottom]"
    )
    assert 0 <= first - bar < 20
    assert page.run("$('filters').contains($('count'))") and page.run("$('count').textContent") == "4 of 12 shown"


def test_a_rejected_sample_says_why_on_its_card_and_by_which_score_in_the_viewer(page: Tab):
    sought = card(page, "perlin", 1)
    assert page.run(f"document.querySelector('{sought} figcaption').textContent").endswith(f"rejected: {EVIL}")
    page.click(sought)
    told = page.run("$('judged').textContent")
    assert told.startswith(f"rejected: {EVIL}. Thickness 2.80 x the thickest real one (limit 2.00). Window of")
    assert "scratch-0, of the train part" in page.run("$('facts').textContent")
    close(page)
    page.run("open(samples.find(s => s.verdict === 'accepted'))")
    assert "limit" not in page.run("$('judged').textContent"), "it was accepted"
    close(page)
    full = "offending({{verdict: 'rejected', record: {{shape: {}, scores: {{fill: 1}}}}}}).length"
    assert page.run(full.format("null")) == 1 and page.run(full.format("[[0, 0], [4, 0], [4, 4]]")) == 0, "drawn"
    options = page.run("[...order.options].map(o => o.textContent)")
    assert options[0] == "placement" and "thickness, x the thickest real one" in options


def test_filters_order_and_rows_side_by_side_are_reset_at_once(page: Tab):
    assert page.run("[...$('by-reason').options].map(o => o.value)") == ["", "(accepted)", EVIL]
    set_value(page, "by-reason", "(accepted)")
    assert page.run("new Set(shown.map(s => s.verdict)).size") == 1 and page.run("shown[0].verdict") == "accepted"
    set_value(page, "by-sort by", "contrast")
    page.run("falling.click(); beside.click()")
    page.click("#reset")
    assert page.run("[shown.length, order.value, falling.checked, beside.checked]") == [12, "", False, False]
    assert page.run("shown.map(key)") == page.run("samples.map(key)")


def test_a_sample_that_failed_has_no_picture_to_speak_of(page: Tab):
    page.click(card(page, "perlin", 2))
    page.press("x")
    assert page.run("$('bad').disabled") and page.run("$('marked').textContent").startswith("Marked: 1 bad, 0")


def test_notes_are_typed_without_touching_the_marks_and_are_no_formulas(page: Tab):
    page.click(card(page, "perlin", 0))
    assert page.run("$('note').disabled"), "a note belongs to a mark"
    page.press("x")
    page.click("#note")
    page.type('=HYPERLINK("x u m")')
    for key in ("x", "u", "m", " ", "ArrowLeft"):
        page.press(key)
    assert page.run("current.record.placement") == placement(0).id and "2 bad" in page.run("$('marked').textContent")
    close(page)
    rows = saved(page, REVIEW, "#save-review")
    assert [row["note"] for row in rows if row["placement"] == placement(0).id] == ['\'=HYPERLINK("x u m")xum']
    for start in "=+-@\t":
        assert page.run(f"cell({json.dumps(start + '1')})") in {"'" + start + "1", "1"}
    assert page.run("cell('a\\r\\nb, \"c\"')") == '"a b, ""c"""'


def test_marks_and_requests_outlive_a_reload_and_the_files_can_be_had_back(page: Tab):
    page.click(card(page, "perlin", 0))
    page.press("x")
    close(page)
    page.run("$('ask-x0').value = 1; $('ask-y0').value = 2; $('ask-x1').value = 9; $('ask-y1').value = 8")
    page.run("$('ask-x0').dispatchEvent(new Event('input'))")
    page.click("#ask-add")
    page.reload()
    assert page.run("$('marked').textContent").startswith("Marked: 2 bad, 0")
    assert page.run("$('asked-count').textContent") == "Requests: 2, samples: 10."
    assert page.run("$('done').textContent") == "Marks and requests of an earlier visit are here again."
    page.click("#forget")
    told = "Discarded: 1 mark and 1 request. What is in the files is here again."
    assert page.run("$('done').textContent") == told
    assert page.run("$('marked').textContent").startswith("Marked: 1 bad, 0")
    assert page.run("$('asked-count').textContent") == "Requests: 1, samples: 2."
    page.press("u")
    assert page.run("$('marked').textContent").startswith("Marked: 2 bad, 0")


def test_a_page_of_another_run_does_not_have_them(page: Tab, folder: Path):
    page.click(card(page, "perlin", 0))
    page.press("x")
    other, text = folder / "other.html", (folder / PAGE).read_text(encoding="utf-8")
    other.write_text(re.sub(r'"run":"\w{16}"', '"run":"0123456789abcdef"', text), encoding="utf-8")
    page.open(other)
    assert page.run("$('marked').textContent").startswith("Marked: 1 bad, 0")


def test_what_was_asked_for_is_found_among_the_random_ones(page: Tab, folder: Path):
    assert page.run("$('by-place')") is None, "where there are random ones alone"
    other, text = folder / "other.html", (folder / PAGE).read_text(encoding="utf-8")
    other.write_text(text.replace(placement(1).id, "slab-dent-asked-0123abcd-000"), encoding="utf-8")
    page.open(other)
    set_value(page, "by-place", "asked for")
    assert set(page.run("shown.map(key)")) == {f"{name}/slab-dent-asked-0123abcd-000" for name in ("perlin", "dmgr")}


def test_a_browser_that_keeps_nothing_is_told_of(page: Tab, folder: Path):
    deaf, text = folder / "deaf.html", (folder / PAGE).read_text(encoding="utf-8")
    broken = "Object.defineProperty(window, 'localStorage', { get() { throw new Error('not here'); } });"
    deaf.write_text(text.replace('"use strict";', f'"use strict";\n{broken}', 1), encoding="utf-8")
    page.open(deaf)
    told = "This browser keeps nothing over a reload: save before you leave."
    assert page.run("$('kept').textContent") == told
    page.click(card(page, "perlin", 0))
    page.press("x")
    assert (
        page.run("$('marked').textContent").startswith("Marked: 2 bad, 0") and page.run("$('kept').textContent") == told
    )
    assert page.run("unsaved.size && !dispatchEvent(new Event('beforeunload', { cancelable: true }))"), "it asks back"
    page.press("u")
    page.run("unsaved.clear()")


# Requests


def surface(page: Tab) -> Box:
    """Left, top, width and height of what is drawn on, in px of the screen."""
    page.centre("#surface")
    return tuple(page.run("(r => [r.x, r.y, r.width, r.height])($('surface').getBoundingClientRect())"))


def on(page: Tab, *pixels: tuple[int, int], size: tuple[int, int] = (48, 48)) -> list[tuple[float, float]]:
    """The middles of pixels of the good picture, on the screen."""
    left, top, width, height = surface(page)
    return [(left + (x + 0.5) * width / size[0], top + (y + 0.5) * height / size[1]) for x, y in pixels]


def set_value(page: Tab, name: str, value: str) -> None:
    page.run(f"$('{name}').value = {json.dumps(value)}; $('{name}').dispatchEvent(new Event('change'))")


def test_a_box_is_drawn_by_mouse_in_pixels_of_the_picture(page: Tab):
    set_value(page, "ask-type", "scratch")
    set_value(page, "ask-count", "5")
    page.mouse(on(page, (30, 12), (20, 25), (10, 40)))
    assert page.run("corners.map(c => c.value)") == ["10", "12", "31", "41"], "from any corner to the other"
    page.click("#ask-add")
    saved(page, REQUESTS, "#save-requests")
    assert Request(CATEGORY, "good-0", "scratch", (10, 12, 31, 41), None, 5) in asked()


def test_a_shape_is_drawn_by_finger_and_keeps_its_corners(page: Tab):
    page.size(390, 844, phone=True)
    set_value(page, "ask-type", "dent")
    set_value(page, "ask-tool", "shape")
    path = [(8, 8), (14, 8), (20, 8), (26, 8), (26, 16), (26, 24), (17, 24), (8, 24), (8, 16)]
    where = on(page, *path)
    before = page.run("scrollY")
    page.touch(where)
    assert page.run("scrollY") == before, "the finger draws and does not scroll"
    page.click("#ask-add")
    saved(page, REQUESTS, "#save-requests")
    [request] = [one for one in asked() if one.shape]
    assert request.box == (8, 8, 27, 25) and {(8, 8), (26, 8), (26, 24), (8, 24)} <= set(request.shape or ())
    assert len(request.shape or ()) <= 6, "what lies on a straight line is left out"


def test_a_picture_that_is_embedded_smaller_is_drawn_on_in_its_own_pixels(page: Tab):
    page.run("choose({ ...goods[0], size: [4800, 2400] })")
    page.mouse(on(page, (100, 200), (2400, 1200), size=(4800, 2400)))
    x0, y0, x1, y1 = page.run("draft.box")
    assert abs(x0 - 100) < 10 and abs(y0 - 200) < 10 and abs(x1 - 2401) < 10 and abs(y1 - 1201) < 10


def test_a_drawing_that_leaves_the_picture_ends_at_its_border(page: Tab):
    left, top, width, height = surface(page)
    page.mouse([*on(page, (40, 40)), (left + width + 30, top + height + 10)])
    assert page.run("draft.box") == [40, 40, 48, 48]


def test_a_click_draws_nothing(page: Tab):
    page.mouse(on(page, (20, 20)))
    assert page.run("draft") is None and page.run("$('ask-add').disabled")


def test_all_of_it_works_by_keyboard(page: Tab):
    page.run("$('surface').focus()")
    page.press("Enter")
    assert page.run("draft.box") == [21, 21, 27, 27], "in the middle"
    for key in ("ArrowLeft", "ArrowUp", "ArrowUp"):
        page.press(key)
    page.press("ArrowRight", shift=True)
    assert page.run("draft.box") == [20, 19, 27, 25], "moved by one to the left and two up, a pixel wider"
    page.press("Escape")
    assert page.run("draft") is None
    page.press("Enter")
    page.press("Enter")
    assert page.run("requests.at(-1).box") == "21 21 27 27" and page.run("requests.at(-1).count") == "8"


def test_a_box_of_numbers_is_added_where_it_lies_within_the_picture(page: Tab):
    for name, value in (("x0", "2"), ("y0", "3"), ("x1", "49"), ("y1", "9")):
        page.click(f"#ask-{name}")
        page.type(value)
    assert page.run("$('ask-add').disabled"), "49 is beyond the border"
    page.run("$('ask-x1').value = 48; $('ask-x1').dispatchEvent(new Event('input'))")
    page.click("#ask-add")
    assert page.run("requests.at(-1).box") == "2 3 48 9"


def test_the_same_place_once_more_adds_to_its_number_and_is_undone(page: Tab):
    for _ in range(2):
        page.run("$('surface').focus()")
        page.press("Enter")
        page.press("Enter")
    assert page.run("$('asked-count').textContent") == "Requests: 2, samples: 18."
    page.press("u")
    page.press("u")
    assert page.run("$('asked-count').textContent") == "Requests: 1, samples: 2."


def test_rows_of_the_file_are_shown_as_text_removed_and_had_back(page: Tab):
    assert EVIL in page.run("$('asked').textContent") and page.run("$('asked').querySelector('b') === null")
    page.click("#asked td:last-child button")
    assert page.run("requests.length") == 0
    page.press("u")
    assert page.run("requests[0].note") == EVIL
    page.click("#asked td:nth-child(2) button")
    assert page.run("good.id") == "good-1" and page.run("document.querySelectorAll('#ink rect.asked').length") == 1
    rows = saved(page, REQUESTS, "#save-requests")
    assert [row["note"] for row in rows] == [EVIL] and asked()[0].box == (4, 5, 20, 18)


# For everybody

CONTRAST = """(() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = rgb => rgb.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const ground = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return parse(getComputedStyle(document.documentElement).backgroundColor);
  };
  const told = {};
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    if (element.closest("svg, script, :disabled, [disabled]")) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const name = element.tagName + "." + element.className;
    if (!(name in told) || ratio < told[name]) told[name] = ratio;
  }
  return told;
})()"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_text_has_the_contrast_that_wcag_asks_for(page: Tab, theme: str):
    page.theme(theme)
    page.click(card(page, "perlin", 1))
    page.press("x")
    inside = page.run(CONTRAST)
    close(page)
    outside = page.run(CONTRAST)
    low = {name: ratio for told in (inside, outside) for name, ratio in told.items() if ratio < 4.5}
    assert len(inside) > 5 and len(outside) > 5 and low == {}


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_makes_the_page_wider_than_the_screen(page: Tab, width: int):
    page.size(width, 800, phone=width < 600)
    assert page.run("document.documentElement.scrollWidth") <= width
    page.click(card(page, "perlin", 0))
    assert page.run("$('viewer').scrollWidth <= $('viewer').clientWidth")


@pytest.mark.parametrize(("width", "pinned"), [(360, [3]), (600, [3]), (700, [1, 2, 3])])
def test_the_arm_of_a_row_stays_in_view_when_its_table_is_scrolled_sideways(page: Tab, width: int, pinned: list[int]):
    page.size(width, 800)
    page.run("document.querySelector('details:has(.numbers)').open = true")
    wide = "document.querySelector('details .numbers .wide')"
    page.wait(f"parseFloat({wide}.firstElementChild.style.getPropertyValue('--third')) > 0")  # pinned once it is open
    page.run(f"{wide}.scrollLeft = 250")
    assert page.run(f"{wide}.scrollLeft") == 250
    cells = page.run(
        f"[...{wide}.querySelectorAll('tbody tr:first-child td')].slice(0, 3)"
        ".map(e => e.getBoundingClientRect()).map(r => [r.left, r.right])"
    )
    left = page.run(f"{wide}.getBoundingClientRect().left")
    for number in pinned:
        assert cells[number - 1][0] == pytest.approx(left, abs=0.5)
        left = cells[number - 1][1]


def test_print_is_light_keeps_colours_and_leaves_out_what_is_marked_as_bad(page: Tab):
    page.click(card(page, "perlin", 0))
    page.press("x")
    close(page)
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    page.send("Emulation.setEmulatedMedia", media="print", features=dark)
    assert page.run("[...document.querySelectorAll('#samples .card')].filter(e => e.checkVisibility()).length") == 11
    style = "getComputedStyle(document.body)"
    assert page.run(f"[{style}.backgroundColor, {style}.printColorAdjust]") == ["rgb(255, 255, 255)", "exact"]
    assert not page.run("$('filters').checkVisibility()")


def test_reasons_have_room_on_a_phone(page: Tab):
    page.size(360, 800, phone=True)
    assert page.run("Math.min(...[...document.querySelectorAll('td.why')].map(e => e.offsetWidth))") >= 300


def test_everything_that_is_pressed_has_a_name(page: Tab):
    nameless = page.run(
        "[...document.querySelectorAll('button, input, select, [tabindex]')].filter(e => !(e.textContent.trim() ||"
        " e.getAttribute('aria-label') || (e.labels && e.labels.length) || e.querySelector('img[alt]:not([alt=\"\"])')"
        " )).map(e => e.outerHTML.slice(0, 80))"
    )
    assert nameless == []
