"""Synthesis goes on where it was killed: no gaps, no repeats, the same bytes; every sample says how it was made."""

import itertools
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.boxes import mask_boxes
from lib.core.errors import UserError
from lib.core.geometry import Box, box_mask, feathered, paste_back, resize
from lib.core.images import is_grey, read_image, read_mask, write_png
from lib.core.params import Params, methods
from lib.core.records import Placement, Synthetic, read_records
from lib.core.runtime import write_json
from lib.finetuning import finetune
from lib.generators import NON_FINITE, Answer, Failed, Made, RealData, find, perlin, read_real
from lib.placement.foreground import outline_error
from lib.synthesis import kept_within, synthesize_all, write_sheet
from lib.vision.shapes import grown
from tests.category import CATEGORY, placement, tiny_params, write_category
from tests.conftest import ROOT

PLACEMENTS = [placement(number, f"good-{number % 3}") for number in range(7)]  # four batches of at most two
OUT = Path("data/synth/perlin/slab")
MODEL = Path("models/generators/perlin/slab")


def synthesized(
    params: Params, key: str = "k", out: Path = OUT, placements: list[Placement] = PLACEMENTS
) -> list[Synthetic]:
    real = read_real(CATEGORY)
    finetune(params, real, "perlin", key, MODEL, Path("curves"))
    return synthesize_all(params, real, "perlin", MODEL, placements, key, out)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def params(inside: Path, raw_params: dict) -> Params:
    write_category()
    return tiny_params(raw_params)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The ids of every batch that the generator was given."""
    given: list[list[str]] = []
    plain = perlin.synthesize

    def counted(params: Params, settings: perlin.Settings, real: RealData, model: Path, batches):
        for batch in batches:
            given.append([item.id for item in batch])
            yield from plain(params, settings, real, model, [batch])

    monkeypatch.setattr(perlin, "synthesize", counted)
    return given


def kill_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = perlin.synthesize

    def dies(params: Params, settings: perlin.Settings, real: RealData, model: Path, batches):
        for number, batch in enumerate(plain(params, settings, real, model, batches)):
            if number == count:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(perlin, "synthesize", dies)


def test_every_placement_gets_one_picture_in_its_order(params: Params):
    records = synthesized(params)
    assert [record.placement for record in records] == [item.id for item in PLACEMENTS]
    assert read_records(OUT / "manifest.jsonl", Synthetic) == records
    pictures = {f"{folder}/{item.id}.png" for item in PLACEMENTS for folder in ("images", "masks")}
    assert set(contents(OUT)) == {"manifest.jsonl", *pictures}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_run_that_was_stopped_goes_on_without_gaps_or_repeats(
    params: Params, calls: list, monkeypatch: pytest.MonkeyPatch, count: int
):
    synthesized(params, key="whole", out=Path("whole"))
    calls.clear()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        kill_after(count, patched)
        synthesized(params, out=Path("stopped"))
    assert not Path("stopped").exists(), "what is not finished is not published"
    before = len(calls)
    resumed = synthesized(params, out=Path("stopped"))
    assert calls[before:] == [[item.id for item in PLACEMENTS[at : at + 2]] for at in range(2 * count, 7, 2)]
    assert [record.placement for record in resumed] == [item.id for item in PLACEMENTS]
    whole, stopped = contents(Path("whole")), contents(Path("stopped"))
    assert {name: data for name, data in whole.items() if name != "manifest.jsonl"} == {
        name: data for name, data in stopped.items() if name != "manifest.jsonl"
    }


def test_a_changed_key_starts_afresh(params: Params, calls: list, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        kill_after(2, patched)
        synthesized(params, key="old")
    calls.clear()
    synthesized(params, key="new")
    assert len(calls) == 4 and not list(Path(".work").rglob("*old*"))


def test_a_new_run_replaces_the_old_samples(params: Params):
    synthesized(params)
    synthesized(params, key="new", placements=PLACEMENTS[:1])
    assert sorted(path.name for path in (OUT / "images").iterdir()) == [f"{PLACEMENTS[0].id}.png"]


def test_what_a_kill_left_half_written_is_not_published(params: Params, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        kill_after(1, patched)
        synthesized(params)
    [images] = Path(".work").rglob("images")
    (images / f"{PLACEMENTS[2].id}.png.tmp-4242").write_bytes(b"half a pict")
    synthesized(params)
    assert not list(OUT.rglob("*.tmp-*"))


KILLED = """
import sys, time
sys.path.insert(0, {root!r})
import lib
from lib.vision import pseudo
from tests.conftest import ROOT
from tests.category import tiny_params
from tests.test_synthesis import synthesized
import yaml
plain = pseudo._altered
pseudo._altered = lambda *args: time.sleep(0.1) or plain(*args)
synthesized(tiny_params(yaml.safe_load((ROOT / "params.yaml").read_text())))
"""


@pytest.mark.slow
def test_kill_9_and_a_rerun_give_the_bytes_of_an_uninterrupted_run(params: Params, calls: list):
    run = subprocess.Popen([sys.executable, "-c", KILLED.format(root=str(ROOT))], stderr=subprocess.DEVNULL)
    while not list(Path(".work").rglob("batch-000001.jsonl")):
        assert run.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    run.kill()  # SIGKILL, where there is one
    run.wait()
    synthesized(params)
    assert 1 <= len(calls) <= 2, "the first two batches were not made again"
    resumed = contents(OUT)
    synthesized(params, key="fresh")
    assert contents(OUT) == resumed


def test_two_processes_share_the_batches_and_the_first_one_publishes(
    params: Params, calls: list, monkeypatch: pytest.MonkeyPatch
):
    class Alone:
        def wait_for_everyone(self) -> None:
            """Nobody to wait for: the processes of this test run one after the other."""

    synthesized(params, key="whole")
    whole = contents(OUT)
    calls.clear()
    monkeypatch.setitem(sys.modules, "accelerate", SimpleNamespace(PartialState=Alone))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    synthesized(params, out=Path("shared"))
    assert not Path("shared").exists() and len(calls) == 2
    monkeypatch.setenv("RANK", "0")
    synthesized(params, out=Path("shared"))
    given = sorted(identity for batch in calls for identity in batch)
    assert given == [item.id for item in PLACEMENTS], "each sample was made once"
    shared = contents(Path("shared"))
    assert shared.pop("manifest.jsonl").count(b"\n") == 7
    assert shared == {name: data for name, data in whole.items() if name != "manifest.jsonl"}


def test_a_record_says_everything_that_its_sample_was_made_from(params: Params, monkeypatch: pytest.MonkeyPatch):
    def trained(params: Params, settings: perlin.Settings, real: RealData, key: str, out: Path, curves: Path) -> None:
        facts = {"generator": "perlin", "base": "models/base", "revision": "abc", "weights": "def"}
        write_json(out / "model.json", facts)

    monkeypatch.setattr(perlin, "finetune", trained, raising=False)
    request = PLACEMENTS[1]
    record = synthesized(params)[1]
    assert (record.placement, record.category, record.defect_type) == (request.id, CATEGORY, "scratch")
    for name in ("normal", "box", "prompt", "seed", "like", "component"):
        assert getattr(record, name) == getattr(request, name)
    assert (record.generator, record.model) == ("perlin", "models/base@abc+def")
    assert record.knobs == {}, "perlin has no settings of its own, and uses none of others"
    assert read_image(Path(record.image or "")).shape == read_image(Path(record.mask or "")).shape == (40, 48, 3)
    assert record.accepted is None and record.scores == {}, "nobody has judged it yet"


def test_the_settings_of_a_method_are_knobs_of_its_samples(params: Params, monkeypatch: pytest.MonkeyPatch):
    class Settings(perlin.Settings):
        opacity: float

    monkeypatch.setattr(perlin, "Settings", Settings)
    changed = Params.model_validate(params.model_dump() | {"perlin": {"opacity": 0.5}})
    assert {tuple(record.knobs.items()) for record in synthesized(changed)} == {(("opacity", 0.5),)}
    with pytest.raises(UserError, match=r"perlin.opacity"):
        synthesized(params)


def answering(monkeypatch: pytest.MonkeyPatch, *answers: Answer | None) -> None:
    """Have the generator give these answers, in turn, where they are not None."""
    plain = perlin.synthesize

    def changed(params: Params, settings: perlin.Settings, real: RealData, model: Path, batches):
        queue = list(answers)
        for batch in plain(params, settings, real, model, batches):
            yield [(queue.pop(0) if queue else None) or answer for answer in batch]

    monkeypatch.setattr(perlin, "synthesize", changed)


def test_a_sample_that_failed_has_no_picture_and_says_why(params: Params, monkeypatch: pytest.MonkeyPatch):
    answering(monkeypatch, None, Failed(NON_FINITE))
    records = synthesized(params)
    assert [record.reason for record in records[:3]] == [None, NON_FINITE, None]
    failed = records[1]
    assert (failed.image, failed.sha256, failed.mask, failed.accepted) == (None, None, None, None)
    assert failed.like == PLACEMENTS[1].like and len(records) == len(PLACEMENTS)
    assert not (OUT / "images" / f"{failed.placement}.png").exists()
    write_sheet(records, read_real(CATEGORY), params, Path("sheet.png"))


def on_a_part(box: Box, name: str = "good-0") -> np.ndarray:
    """Make a good picture show a bright part in this box on dark ground; (H, W) bool."""
    path = Path(f"data/prepared/{CATEGORY}/images/{name}.png")
    picture = read_image(path)
    part = box_mask(box, *picture.shape[1::-1])
    picture[part], picture[~part] = 200, 30
    write_png(path, picture)
    return part


@pytest.mark.parametrize("known", [True, False])
def test_what_lies_off_the_part_stays_as_it_is_if_the_placement_says_so(
    params: Params, monkeypatch: pytest.MonkeyPatch, known: bool
):
    part = on_a_part((12, 10, 40, 40))
    normal = read_image(Path(f"data/prepared/{CATEGORY}/images/good-0.png"))
    defect = box_mask((0, 16, 24, 32), 48, 48)
    painted = np.where(defect[..., None], np.uint8(90), normal)
    answering(monkeypatch, *[Made(painted, defect if known else None, notes={"score": 1})] * 2)
    items = [placement(0, on_part=True), placement(1)]
    kept, free = synthesized(params, placements=items)
    assert np.array_equal(read_image(Path(str(free.image))), painted) and free.notes == {"score": 1}
    image = read_image(Path(str(kept.image)))
    near = grown(part, outline_error(part.shape) + params.synth.feather + 2)  # small parts seem a pixel larger
    assert np.array_equal(image[~near], normal[~near]) and (painted[~near] != normal[~near]).any()
    inside = grown(part, outline_error(part.shape))
    assert np.array_equal(image[inside], painted[inside])
    undone = (painted != normal).any(axis=2) & (image == normal).all(axis=2)
    assert kept.notes == {"score": 1, "undone": int(undone.sum())} and undone.any()
    assert kept.knobs == {"feather": params.synth.feather, "on_part": True} and free.knobs == {}
    if known:
        assert np.array_equal(read_mask(Path(str(kept.mask))), defect & ~undone)
        assert np.array_equal(read_mask(Path(str(free.mask))), defect)


def test_a_part_that_a_person_drew_counts_instead_of_the_detected_one(params: Params, monkeypatch: pytest.MonkeyPatch):
    on_a_part((12, 10, 40, 40))
    normal = read_image(Path(f"data/prepared/{CATEGORY}/images/good-0.png"))
    write_png(Path("drawn.png"), box_mask((0, 0, 20, 48), 48, 48))
    real = read_real(CATEGORY)
    real.samples["good-0"] = replace(real.samples["good-0"], foreground="drawn.png")
    monkeypatch.setattr("tests.test_synthesis.read_real", lambda category: real)
    answering(monkeypatch, Made(255 - normal))
    [record] = synthesized(params, placements=[placement(0, on_part=True)])
    image = read_image(Path(str(record.image)))
    assert np.array_equal(image[:, :20], 255 - normal[:, :20]) and (
        np.array_equal(image[:, 20 + params.synth.feather :], normal[:, 20 + params.synth.feather :])
    ), "it needs no margin for an error of detection"


def test_the_dark_inside_of_a_part_belongs_to_it(params: Params, monkeypatch: pytest.MonkeyPatch):
    on_a_part((8, 8, 40, 40))
    path = Path(f"data/prepared/{CATEGORY}/images/good-0.png")
    normal = read_image(path)
    normal[16:32, 16:32] = 30
    write_png(path, normal)
    painted = np.where(box_mask((10, 10, 34, 34), 48, 48)[..., None], np.uint8(120), normal)
    answering(monkeypatch, Made(painted))
    [record] = synthesized(params, placements=[placement(0, on_part=True)])
    assert np.array_equal(read_image(Path(str(record.image))), painted)


def test_where_no_part_is_detected_nothing_is_undone(params: Params, monkeypatch: pytest.MonkeyPatch):
    normal = read_image(Path(f"data/prepared/{CATEGORY}/images/good-0.png"))
    answering(monkeypatch, Made(255 - normal))
    [record] = synthesized(params, placements=[placement(0, on_part=True)])
    assert np.array_equal(read_image(Path(str(record.image))), 255 - normal) and record.notes == {"undone": 0}


def without_colour(name: str = "good-0") -> np.ndarray:
    """Make a good picture grey; (H, W, 3)."""
    path = Path(f"data/prepared/{CATEGORY}/images/{name}.png")
    grey = read_image(path)[..., :1].repeat(3, axis=2)
    write_png(path, grey)
    return grey


def test_a_camera_without_colour_sees_grey_defects_alone(params: Params, monkeypatch: pytest.MonkeyPatch):
    grey = without_colour()
    inside = box_mask((10, 12, 26, 22), *grey.shape[1::-1])
    painted = np.where(inside[..., None], np.uint8([250, 40, 11]), grey)
    own = np.full((60, 70, 3), [90, 10, 20], np.uint8)
    answering(monkeypatch, Made(painted, inside), Made(own, normal=own // 2, own_background=True))
    same, alone, on_colour = synthesized(params, placements=[*(placement(n) for n in (0, 1)), placement(2, "good-1")])
    assert np.array_equal(read_image(Path(str(same.image))), np.where(inside[..., None], np.uint8(100), grey))
    assert (read_image(Path(str(alone.image))) == 40).all(), "a background of its own has no colour either"
    assert (read_image(OUT / "normals" / f"{alone.placement}.png") == 20).all()
    assert not is_grey(read_image(Path(str(on_colour.image))))


def test_what_was_colour_alone_is_no_defect_in_grey(params: Params, monkeypatch: pytest.MonkeyPatch):
    grey = without_colour()
    inside = box_mask((10, 12, 26, 22), *grey.shape[1::-1])
    tinted, darker = box_mask((10, 12, 18, 22), *grey.shape[1::-1]), box_mask((18, 12, 26, 22), *grey.shape[1::-1])
    painted = np.where(tinted[..., None], grey + np.array([30, -30, 0]), grey - 50 * darker[..., None]).astype(np.uint8)
    answering(monkeypatch, Made(painted, inside))
    [record] = synthesized(params, placements=[placement(0)])
    assert np.array_equal(read_mask(Path(str(record.mask))), darker)
    assert np.array_equal(read_image(Path(str(record.image))), np.where(darker[..., None], grey - 50, grey))


@given(st.integers(0, 2**32 - 1), st.integers(0, 4), st.sampled_from(["small", "large", "none", "all"]))
def test_keeping_within_a_room_is_pasting_the_whole_picture_into_it(seed: int, feather: int, what: str):
    rng = np.random.default_rng(seed)
    normal, room = rng.integers(0, 256, (30, 40, 3), np.uint8), np.zeros((30, 40), bool)
    x, y = rng.integers(0, 30, 2)
    room[y : y + rng.integers(1, 30), x : x + rng.integers(1, 40)] = True
    shape = {"small": box_mask((x, y, x + 6, y + 5), 40, 30), "large": rng.random((30, 40)) < 0.5}
    changes = shape.get(what, np.full((30, 40), what == "all"))
    image = np.where(changes[..., None], 255 - normal, normal)
    kept = kept_within(room, Made(image, changes), normal, feather)
    assert np.array_equal(kept.image, paste_back(image, normal, room, feather))
    assert kept.mask is not None and not (kept.mask & ~(changes & room)).any()
    deep = changes & (feathered(room, feather) == 1)
    assert np.array_equal(kept.image[deep], image[deep]) and kept.mask[deep].all()


def test_a_batch_that_is_not_finite_at_all_stops_the_run_and_names_the_cause(
    params: Params, monkeypatch: pytest.MonkeyPatch
):
    answering(monkeypatch, None, None, Failed(NON_FINITE), Failed(NON_FINITE))
    with pytest.raises(UserError, match=rf"perlin.*{PLACEMENTS[2].id}.*synth.guidance_scale.*{MODEL}"):
        synthesized(params)


def test_a_batch_of_one_may_fail_as_any_sample_may(params: Params, monkeypatch: pytest.MonkeyPatch):
    answering(monkeypatch, *[None] * 6, Failed(NON_FINITE))
    assert [record.reason for record in synthesized(params)] == [None] * 6 + [NON_FINITE]


PLAIN = np.full((60, 70, 3), 120, np.uint8)


def test_a_picture_with_a_background_of_its_own_names_no_good_one_and_keeps_its_twin(
    params: Params, monkeypatch: pytest.MonkeyPatch
):
    mask = np.zeros((60, 70), bool)
    mask[5:9, 20:40] = True
    shown = np.where(mask[..., None], np.uint8(20), PLAIN)
    answering(
        monkeypatch,
        Made(shown, mask, own_background=True, notes={"score": 0.5}),
        Made(shown, normal=PLAIN, own_background=True),
    )
    items = [replace(item, on_part=True) for item in PLACEMENTS]
    with_mask, with_twin, plain = synthesized(params, placements=items)[:3]
    real = mask_boxes(mask, params.boxes.margin, 1)[0].box
    assert with_mask.box == real == (17, 2, 43, 12), "0.15 of the longer side, as a real defect's"
    assert (with_mask.normal, with_mask.notes) == (None, {"score": 0.5})
    assert np.array_equal(read_mask(Path(with_mask.mask or "")), mask)
    assert (with_twin.normal, with_twin.box, with_twin.mask) == (None, (0, 0, 70, 60), None)
    assert np.array_equal(read_image(OUT / "normals" / f"{with_twin.placement}.png"), PLAIN)
    assert plain.normal == PLACEMENTS[2].normal

    answering(monkeypatch, Made(shown, mask, own_background=True), Made(shown, mask, own_background=True))
    records = synthesized(params, key="sheet")[:2]
    write_sheet(records, read_real(CATEGORY), params, Path("sheet.png"))
    defect = read_image(Path(f"data/prepared/{CATEGORY}/images/scratch-0.png"))[7:39, :32]  # 1.3 times 24 px around it
    sheet = read_image(Path("sheet.png"))
    assert np.array_equal(sheet[4:164, 4:164], resize(defect, 160, 160)), "beside it, the real one that it is like"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (Made(PLAIN), r"image is uint8 \(60, 70, 3\), expected uint8 \(40, 48, 3\)"),
        (Made(PLAIN / 2, own_background=True), "image is float64"),
        (Made(PLAIN, np.ones((60, 71), bool), own_background=True), "mask is bool"),
        (Made(PLAIN, np.ones((60, 70)), own_background=True), "mask is float64"),
        (Made(PLAIN, own_background=True), "needs a mask, or a normal"),
        (Made(PLAIN[:40, :48], normal=PLAIN[:40, :48]), "a normal is given"),
    ],
)
def test_a_broken_answer_is_named_with_its_placement(
    params: Params, monkeypatch: pytest.MonkeyPatch, answer: Made, problem: str
):
    answering(monkeypatch, None, answer)
    with pytest.raises(RuntimeError, match=f"generator perlin, placement {PLACEMENTS[1].id}: .*{problem}"):
        synthesized(params)


def test_a_procedure_is_named_where_there_is_no_model(params: Params):
    records = synthesized(params)
    assert {record.model for record in records} == {"perlin"} and all(record.knobs == {} for record in records)
    assert json.loads((MODEL / "model.json").read_text()) == {"generator": "perlin", "training_free": True}
    assert json.loads(Path("curves/metrics.json").read_text()) == {"step": 0}


def test_no_placements_are_an_empty_manifest(params: Params):
    assert synthesized(params, placements=[]) == []
    assert contents(OUT) == {"manifest.jsonl": b""}
    write_sheet([], read_real(CATEGORY), params, Path("sheet.png"))
    assert read_image(Path("sheet.png")).size


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_generator_that_gives_too_few_or_too_many_is_named(
    params: Params, monkeypatch: pytest.MonkeyPatch, count: int
):
    plain = perlin.synthesize
    monkeypatch.setattr(perlin, "synthesize", lambda *args: ((batch * 2)[:count] for batch in plain(*args)))
    with pytest.raises(RuntimeError, match=f"generator perlin: {count} pictures.*{PLACEMENTS[min(count, 1)].id}"):
        synthesized(params)


def test_a_generator_that_ends_before_the_last_batch_is_named(params: Params, monkeypatch: pytest.MonkeyPatch):
    plain = perlin.synthesize
    monkeypatch.setattr(perlin, "synthesize", lambda *args: itertools.islice(plain(*args), 2))
    with pytest.raises(RuntimeError, match=f"generator perlin: 0 pictures.*{PLACEMENTS[4].id}"):
        synthesized(params)


def test_a_sheet_shows_samples_of_all_types(params: Params):
    dents = [placement(number, defect_type="dent") for number in range(20, 22)]
    records = synthesized(params, placements=[*PLACEMENTS, *dents])
    write_sheet(records, read_real(CATEGORY), params, Path("sheet.png"))
    first = Path("sheet.png").read_bytes()
    write_sheet(records, read_real(CATEGORY), params, Path("sheet.png"))
    assert Path("sheet.png").read_bytes() == first
    assert read_image(Path("sheet.png")).shape == (3 * 164 + 4, 8 * 164 + 4, 3), "nine samples beside their normals"


def test_an_unknown_generator_is_refused_with_the_known_names():
    with pytest.raises(
        UserError, match=rf"generators: 'perlni' is unknown, known are {', '.join(methods('generators'))}"
    ):
        find("perlni")


def test_a_generator_sees_the_train_part_alone(params: Params):
    real = read_real(CATEGORY)
    assert {sample.split for sample in real.samples.values()} == {"train"} and len(real.samples) == 6
    shown = {box.sample for box in real.boxes} | {sample for sample, _ in real.descriptions}
    assert shown == {"scratch-0", "scratch-1", "dent-0"}
