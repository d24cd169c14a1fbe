"""The page: one file that loads nothing, shows names as text, adds up, keeps its bound, is equal for equal input."""

import base64
import io
import json
import re
import subprocess
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from lib.core.geometry import Window, box_mask
from lib.core.images import write_png
from lib.core.params import Params
from lib.core.records import Sample, Synthetic, read_records, write_records
from lib.core.runtime import write_json, write_text
from lib.report.gallery import gallery, outline, outline_in, read_answers
from lib.report.missed import FOUND
from lib.report.page import LIMIT, write_page
from lib.report.scores import read_scores
from lib.report.sheets import error_sheets, place_sheets
from lib.report.tables import read_evidence, write_report
from lib.report.tradeoff import LEVELS
from stages import report as stage
from tests.category import CATEGORY, placement, tiny_params, write_category
from tests.report.browser import CHROMIUM, needs_browser
from tests.report.test_tables import GATE, METRICS, write_detection

PAGE = METRICS / "report/index.html"
EVIL = "a <b>bold</b> reason </script><script>alert('&amp;')</script>"
GENERATORS = ("perlin", "dmgr")
COUNT = 6  # placements
TOTALS = "".join(f'<td class="right">{count}</td>' for count in (12, 4, 4, 4))  # asked, accepted, rejected, failed
SEED = 2**62 + 1  # JavaScript would round it


class Page(HTMLParser):
    """What a browser sees of a page: tags with attributes, text by the tag around it, JSON islands by their ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []  # those that are shown
        self.islands: dict[str, str] = {}
        self.within: tuple[str, dict[str, str | None]] = ("", {})
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.within = tag, dict(attrs)
        self.tags.append(self.within)

    def handle_endtag(self, tag):
        self.within = "", {}

    def handle_data(self, data):
        tag, attributes = self.within
        if attributes.get("type") == "application/json":
            self.islands[str(attributes["id"])] = data
        elif tag not in {"script", "style"}:
            self.texts.append(data)


def answer(number: int, generator: str) -> Synthetic:
    """Accepted, rejected with markup in its reason, failed, and, by `dmgr`, on a background of its own, in turns."""
    asked = placement(number, defect_type=("scratch", "dent")[number % 2], seed=SEED + number)
    folder = Path(f"data/masks/{generator}/{CATEGORY}")
    failed, own = number % 3 == 2, generator == "dmgr" and number % 3 == 0
    image, mask = folder / "images" / f"{asked.id}.png", folder / "masks" / f"{asked.id}.png"
    if not failed:
        pixels = np.random.default_rng(number + len(generator)).integers(0, 255, (48, 48, 3), dtype=np.uint8)
        write_png(image, pixels)
        write_png(mask, box_mask(asked.box, 48, 48))
    scores = {"contrast": 2.0 ** (number + 3 * len(generator)), "outside": 0.0, "thickness": 2.8 if number % 3 else 1.0}
    return Synthetic(
        placement=asked.id,
        category=CATEGORY,
        defect_type=asked.defect_type,
        normal=None if own else asked.normal,
        box=asked.box,
        like=asked.like,
        component=0,
        generator=generator,
        model="none",
        prompt=asked.prompt,
        seed=asked.seed,
        knobs={"inner": {"seed": -SEED}},
        image=None if failed else image.as_posix(),
        sha256=None if failed else "0" * 64,
        mask=None if failed else mask.as_posix(),
        scores={} if failed else scores,
        accepted=number % 3 == 0,
        reason=None if number % 3 == 0 else EVIL,
        painted_sha256=None if failed else f"{number + 16 * len(generator):064x}",
        mask_source=None if failed else "measured",
    )


def write_inputs(raw_params: dict) -> Params:
    """A tiny category with the answers of two generators, and the metrics of one detector on it."""
    write_category()
    for generator in GENERATORS:
        records = [answer(number, generator) for number in range(COUNT)]
        write_records(Path(f"data/masks/{generator}/{CATEGORY}/manifest.jsonl"), records)
        counts = {"samples": COUNT, "accepted": 2, "rejected": {"no visible change": 2}, "failed": 2}
        counts |= {"failures": {"no candidate fits": 2}, "accepted_per_type": {"dent": 1, "scratch": 1}}
        write_json(METRICS / f"masks/{generator}.json", {CATEGORY: GATE | counts})
    values = {(arm, CATEGORY): [0.5, 0.6, 0.7] for arm in ("none", "placebo", *GENERATORS)}
    write_detection(values)
    likeness = dict.fromkeys(("kernel_distance", "diversity", "diversity_real", "memorised_share"), 0.125)
    write_json(METRICS / "fidelity.json", {generator: {CATEGORY: likeness} for generator in GENERATORS})
    write_json(METRICS / "mask_truth.json", {})
    write_text(METRICS / f"finetune/dmgr/{CATEGORY}/plots/metrics/loss.tsv", "step\tloss\n10\t0.9\n20\t0.5\n")
    for arm in ("none", "placebo", *GENERATORS):
        write_png(METRICS / f"detection/unet/{CATEGORY}/{arm}/worst.png", np.full((90, 820, 3), 90, np.uint8))
    write_png(METRICS / f"placements/{CATEGORY}.png", np.full((800, 840, 3), 200, np.uint8))
    raw = {**raw_params, "generators": list(GENERATORS), "detectors": ["unet"]}
    return tiny_params(raw, detect={"on_synthetic": ["unet"]})


def write_both(params: Params, limit: int = LIMIT) -> None:
    """The report and its page, of one evidence."""
    evidence = read_evidence(params, METRICS)
    write_report(params, METRICS, evidence)
    write_page(params, METRICS, evidence, limit)


@pytest.fixture
def params(inside: Path, raw_params: dict) -> Params:
    return write_inputs(raw_params)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory, raw_params: dict) -> str:
    """The page, written once in a folder of its own: drawing takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        params = write_inputs(raw_params)
        write_both(params)
        return PAGE.read_text(encoding="utf-8")


def test_the_page_is_one_file_that_loads_nothing(text: str):
    page = Page(text)
    for tag, attributes in page.tags:
        assert "srcset" not in attributes and tag not in {"iframe", "object", "embed", "base"}
        assert (attributes.get("src") or "data:").startswith("data:"), tag
        assert re.match(r"#|data:", attributes.get("href") or "#"), tag
    assert not re.search(r"https?:|[\"'(=]\s*//|@import|url\((?!#)|\bfetch\(|import\(", text)
    assert "default-src 'none'" in text, "and the browser is told so"


def test_names_and_reasons_are_text_and_never_markup(text: str):
    page = Page(text)
    assert any(EVIL in shown for shown in page.texts), "as it is written, in the table of counts"
    assert EVIL in page.islands["data"].encode().decode("unicode_escape")
    tags = Counter(tag for tag, _ in page.tags)
    assert tags["b"] == 0 and tags["script"] == 6, "five islands and our own script"
    assert text.count("</script") == 6


def test_equal_input_gives_equal_bytes_in_another_folder(params: Params, text: str):
    write_both(params)
    assert PAGE.read_text(encoding="utf-8") == text


def test_the_stage_reads_every_table_once_for_both(params: Params, text: str, monkeypatch: pytest.MonkeyPatch):
    read: Counter[str] = Counter()
    parse = pd.read_csv

    def reading(path: Path, **options):
        read[Path(path).as_posix()] += 1
        return parse(path, **options)

    monkeypatch.setattr(pd, "read_csv", reading)
    monkeypatch.setattr(stage, "load", lambda: params)
    stage.main()
    levels = {name: count for name, count in read.items() if name.endswith((LEVELS, FOUND))}
    assert len(levels) == 2 * 4 and set(levels.values()) == {1}
    assert PAGE.read_text(encoding="utf-8") == text


def test_the_page_of_a_report_is_the_same_when_it_reads_the_evidence_itself(params: Params, text: str):
    write_report(params, METRICS, read_evidence(params, METRICS))
    write_page(params, METRICS, read_evidence(params, METRICS))
    assert PAGE.read_text(encoding="utf-8") == text, "writing the report changes no evidence"


def test_every_request_is_in_the_island_and_in_the_counts(text: str):
    page = Page(text)
    samples = json.loads(page.islands["data"])["samples"]
    assert len(samples) == len(GENERATORS) * COUNT and json.loads(page.islands["names"]) == list(GENERATORS)
    verdicts = Counter(sample["verdict"] for sample in samples)
    assert verdicts == {"accepted": 4, "rejected": 4, "failed": 4}
    assert TOTALS in text
    assert "All 12 samples are here." in text
    assert "<li>perlin: 2 of 6 samples accepted; fewer than 3 of slab dent (1), slab scratch (1); copies of" in text


def test_the_island_keeps_every_field_of_a_record_as_it_is(text: str):
    for sample in json.loads(Page(text).islands["data"])["samples"]:
        number = int(sample["record"]["placement"][-1])
        assert list(sample["record"]) == list(Synthetic.__dataclass_fields__)
        assert sample["like_part"] == "train"
        assert sample["record"]["seed"] == str(SEED + number), "2^62 is more than JavaScript's numbers hold"
        assert sample["record"]["knobs"] == {"inner": {"seed": str(-SEED)}}
        assert sample["record"]["reason"] == (None if number % 3 == 0 else EVIL)


def test_a_sample_shows_what_pictures_there_are(text: str):
    island = json.loads(Page(text).islands["data"])
    of = {(s["record"]["generator"], int(s["record"]["placement"][-1])): s for s in island["samples"]}
    for (generator, number), sample in of.items():
        failed, own = number % 3 == 2, generator == "dmgr" and number % 3 == 0
        assert (sample["painted"] is None, sample["good"] is None) == (failed, own)
        assert sample["thumb"] == (sample["good"] if failed else sample["painted"]), "small enough to be its own"
        assert bool(sample["outline"]) != failed
        picture = Image.open(io.BytesIO(base64.b64decode(island["pictures"][sample["thumb"]])))
        assert picture.size == (sample["side"], sample["side"]) and sample["zoom"] == 1
    assert of["perlin", 1]["good"] == of["dmgr", 1]["good"], "one good window for all generators"


def test_the_twin_that_a_generator_painted_stands_for_the_good_picture(params: Params):
    write_png(Path(f"data/synth/dmgr/{CATEGORY}/normals/{placement(0).id}.png"), np.full((48, 48, 3), 9, np.uint8))
    shown, _ = gallery(params, read_answers(params), 10**6)
    twins = {s["record"]["placement"]: s["good"] for s in shown["samples"] if s["record"]["normal"] is None}
    assert twins[placement(0).id] is not None and twins[placement(3).id] is None


def test_a_large_window_is_shrunk_and_has_a_thumbnail(params: Params):
    record = answer(1, "perlin")
    large = np.random.default_rng(0).integers(0, 255, (700, 700, 3), dtype=np.uint8)
    write_png(Path(str(record.image)), large)
    write_png(Path(str(record.mask)), box_mask((100, 100, 600, 600), 700, 700))
    write_png(Path(f"data/prepared/{CATEGORY}/images/good-0.png"), large)
    big = Synthetic(**{**record.__dict__, "box": (50, 50, 650, 650)})
    shown, _ = gallery(params, {"perlin": {CATEGORY: [big]}}, 10**7)
    [sample] = shown["samples"]
    assert (sample["side"], sample["zoom"]) == (700, round(512 / 700, 4))
    sizes = [
        Image.open(io.BytesIO(base64.b64decode(shown["pictures"][sample[name]]))).size for name in ("painted", "thumb")
    ]
    assert sizes == [(512, 512), (128, 128)]


def test_a_page_without_room_leaves_the_same_placements_out_for_all_and_says_so(params: Params, text: str):
    limit = len(text.encode()) - 2000
    write_both(params, limit)
    short = PAGE.read_text(encoding="utf-8")
    samples = json.loads(Page(short).islands["data"])["samples"]
    assert len(short.encode()) <= limit and 0 < len(samples) < len(GENERATORS) * COUNT
    shown = {
        name: [s["record"]["placement"] for s in samples if s["record"]["generator"] == name] for name in GENERATORS
    }
    assert shown["perlin"] == shown["dmgr"]
    assert f"{len(samples)} of 12 samples are here, at most {len(shown['perlin'])} of each generator" in short
    assert TOTALS in short, "all are counted"
    used = {number for s in samples for number in (s["good"], s["painted"], s["thumb"])} - {None}
    assert used == set(range(len(json.loads(Page(short).islands["data"])["pictures"]))), "no picture without a sample"


def test_sheets_of_places_and_errors_are_embedded_under_their_names_and_shrunk(params: Params, text: str):
    assert text.count("<figcaption>unet, perlin, missed 0 of 1</figcaption><img") == 1, "above its picture"
    page = Page(text)
    [places] = [
        attributes for tag, attributes in page.tags if attributes.get("alt") == f"places of defects on {CATEGORY}"
    ]
    picture = Image.open(io.BytesIO(base64.b64decode(str(places["src"]).split(",")[1])))
    assert picture.size == (820, 781)
    assert place_sheets(params, METRICS, 100) == (
        [],
        "1 of 1 sheets are left out, since the page has a bound on its size.",
    )


def test_sheets_are_embedded_smaller_before_one_is_left_out(params: Params):
    noise = np.random.default_rng(0).integers(0, 255, (400, 820, 3), dtype=np.uint8)
    write_png(METRICS / f"placements/{CATEGORY}.png", noise)
    [[wide], [small]] = (
        place_sheets(params, METRICS, room)[0]
        for room in (10**7, len(place_sheets(params, METRICS, 10**7)[0][0].image) - 1)
    )
    widths = [Image.open(io.BytesIO(base64.b64decode(one.image.split(",")[1]))).width for one in (wide, small)]
    assert widths == [820, 640]


def test_misses_and_false_alarms_are_counted_on_the_first_seed(params: Params):
    file = Path(f"data/prepared/{CATEGORY}/samples.jsonl")
    samples = read_records(file, Sample)
    write_records(file, samples + [replace(one, id=f"{one.id}-new", split="test") for one in samples])
    write_detection({(arm, CATEGORY): [0.25, 1.0] for arm in ("none", "placebo", *GENERATORS)})
    sheets, _ = error_sheets(params, METRICS, read_scores(params, METRICS / "detection"), 10**6)
    # 1 + 5 pictures with defects, of which a quarter was found, and 3 good ones, of which a quarter gave an alarm
    assert sheets[0].name == "unet, none, missed 4 of 6, false alarms on 1 of 3"


@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_an_outline_runs_on_the_pixels_of_its_mask_and_around_every_piece(mask: np.ndarray):
    paths = re.findall(r"M(-?\d+),(-?\d+)l([^z]*)z", outline(mask))
    pieces = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] - 1
    assert len(paths) >= pieces and bool(paths) == mask.any()
    for x, y, steps in paths:
        moves = [tuple(map(int, step.split(","))) for step in steps.split()]
        points = np.cumsum([(int(x), int(y)), *moves], axis=0)
        assert mask[points[:, 1] // 4, points[:, 0] // 4].all()


def test_an_outline_of_a_thin_scratch_in_a_large_window_is_one_line():
    scratch = np.zeros((1000, 1000), np.uint8)
    cv2.line(scratch, (100, 300), (900, 600), 1, 1)
    assert outline_in(scratch > 0, Window(0, 0, 1000), 192).count("M") == 1


@needs_browser
def test_the_script_runs_in_a_browser_without_an_error(text: str, tmp_path: Path):
    probe = """<script>
      const told = [document.querySelectorAll("#samples .card").length];
      $("by-verdict").value = "failed"; draw(); told.push(shown.length);
      $("by-verdict").value = ""; $("by-sort by").value = "contrast"; draw();
      told.push(shown.filter(s => "contrast" in s.record.scores).every((s, n, all) =>
        !n || all[n - 1].record.scores.contrast <= s.record.scores.contrast));
      const press = (key, type = "keydown") => dispatchEvent(new KeyboardEvent(type, { key }));
      const views = () => [...$("trio").querySelectorAll("img")].map(image => image.src);
      open(samples.find(s => s.good !== null && s.painted !== null));
      const before = views(); press(" "); const held = views(); press(" ", "keyup");
      told.push(before[0] === held[1] && before[1] === held[0] && before[0] !== before[1]);
      told.push(String(views()) === String(before), $("facts").textContent.includes("<b>bold</b>"));
      const first = current; press("ArrowRight"); told.push(current !== first);
      press("ArrowDown"); told.push($("viewer").open);
      document.documentElement.dataset.told = JSON.stringify(told);
    </script></body>"""
    probed = tmp_path / "probed.html"
    probed.write_text(text.replace("</body>", probe), encoding="utf-8")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [str(CHROMIUM), *options, "--enable-logging=stderr", "--dump-dom", probed.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "CONSOLE" not in done.stderr, done.stderr[-2000:]
    told = next(attributes["data-told"] for tag, attributes in Page(done.stdout).tags if tag == "html")
    assert json.loads(str(told)) == [12, 4, True, True, True, True, True, True]
