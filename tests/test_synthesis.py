"""Synthesis goes on where it was killed: no gaps, no repeats, the same bytes; every sample says how it was made."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from lib.core.images import read_image
from lib.core.params import Params
from lib.core.records import Placement, Synthetic, read_records
from lib.core.runtime import write_json
from lib.generators import RealData, find, perlin, read_real
from lib.synthesis import synthesize_all, write_sheet
from tests.category import CATEGORY, placement, tiny_params, write_category
from tests.conftest import ROOT

PLACEMENTS = [placement(number, f"good-{number % 3}") for number in range(7)]  # four batches of at most two
OUT = Path("data/synth/perlin/slab")
MODEL = Path("models/generators/perlin/slab")


def made(
    params: Params, name: str = "perlin", key: str = "k", out: Path = OUT, placements: list[Placement] = PLACEMENTS
) -> list[Synthetic]:
    real = read_real(CATEGORY)
    find(name).finetune(params, real, key, MODEL, Path("curves"))
    return synthesize_all(params, real, name, MODEL, placements, key, out)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def params(inside: Path, raw_params: dict) -> Params:
    write_category()
    return tiny_params(raw_params)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The ids of every batch that the generator was asked for."""
    seen: list[list[str]] = []
    plain = perlin.synthesize

    def counted(params: Params, real: RealData, model: Path, batches):
        for batch in batches:
            seen.append([item.id for item in batch])
            yield from plain(params, real, model, [batch])

    monkeypatch.setattr(perlin, "synthesize", counted)
    return seen


def kill_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = perlin.synthesize

    def dies(params: Params, real: RealData, model: Path, batches):
        for number, batch in enumerate(plain(params, real, model, batches)):
            if number == count:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(perlin, "synthesize", dies)


def test_every_placement_gets_one_picture_in_its_order(params: Params):
    records = made(params)
    assert [record.placement for record in records] == [item.id for item in PLACEMENTS]
    assert read_records(OUT / "manifest.jsonl", Synthetic) == records
    pictures = {f"{folder}/{item.id}.png" for item in PLACEMENTS for folder in ("images", "masks")}
    assert set(contents(OUT)) == {"manifest.jsonl", *pictures}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_run_that_was_stopped_goes_on_without_gaps_or_repeats(
    params: Params, calls: list, monkeypatch: pytest.MonkeyPatch, count: int
):
    made(params, key="whole", out=Path("whole"))
    calls.clear()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        kill_after(count, patched)
        made(params, out=Path("stopped"))
    assert not Path("stopped").exists(), "what is not finished is not published"
    before = len(calls)
    resumed = made(params, out=Path("stopped"))
    assert calls[before:] == [[item.id for item in PLACEMENTS[at : at + 2]] for at in range(2 * count, 7, 2)]
    assert [record.placement for record in resumed] == [item.id for item in PLACEMENTS]
    whole, stopped = contents(Path("whole")), contents(Path("stopped"))
    assert {name: data for name, data in whole.items() if name != "manifest.jsonl"} == {
        name: data for name, data in stopped.items() if name != "manifest.jsonl"
    }


def test_a_changed_key_starts_afresh(params: Params, calls: list, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        kill_after(2, patched)
        made(params, key="old")
    calls.clear()
    made(params, key="new")
    assert len(calls) == 4 and not list(Path(".work").rglob("*old*"))


def test_a_new_run_replaces_the_old_samples(params: Params):
    made(params)
    made(params, key="new", placements=PLACEMENTS[:1])
    assert sorted(path.name for path in (OUT / "images").iterdir()) == [f"{PLACEMENTS[0].id}.png"]


def test_what_a_kill_left_half_written_is_not_published(params: Params, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        kill_after(1, patched)
        made(params)
    [images] = Path(".work").rglob("images")
    (images / f"{PLACEMENTS[2].id}.png.tmp-4242").write_bytes(b"half a pict")
    made(params)
    assert not list(OUT.rglob("*.tmp-*"))


KILLED = """
import sys, time
sys.path.insert(0, {root!r})
import lib
from lib.generators import perlin
from tests.conftest import ROOT
from tests.category import tiny_params
from tests.test_synthesis import made
import yaml
plain = perlin._altered
perlin._altered = lambda *args: time.sleep(0.1) or plain(*args)
made(tiny_params(yaml.safe_load((ROOT / "params.yaml").read_text())))
"""


@pytest.mark.slow
def test_kill_9_and_a_rerun_give_the_bytes_of_an_uninterrupted_run(params: Params, calls: list):
    run = subprocess.Popen([sys.executable, "-c", KILLED.format(root=str(ROOT))], stderr=subprocess.DEVNULL)
    while not list(Path(".work").rglob("batch-000001.jsonl")):
        assert run.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    made(params)
    assert 1 <= len(calls) <= 2, "the first two batches were not made again"
    resumed = contents(OUT)
    made(params, key="fresh")
    assert contents(OUT) == resumed


def test_two_processes_share_the_batches_and_the_first_one_publishes(
    params: Params, calls: list, monkeypatch: pytest.MonkeyPatch
):
    class Alone:
        def wait_for_everyone(self) -> None:
            """Nobody to wait for: the processes of this test run one after the other."""

    made(params, key="whole")
    whole = contents(OUT)
    calls.clear()
    monkeypatch.setitem(sys.modules, "accelerate", SimpleNamespace(PartialState=Alone))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    made(params, out=Path("shared"))
    assert not Path("shared").exists() and len(calls) == 2
    monkeypatch.setenv("RANK", "0")
    made(params, out=Path("shared"))
    asked = sorted(identity for batch in calls for identity in batch)
    assert asked == [item.id for item in PLACEMENTS], "each sample was made once"
    shared = contents(Path("shared"))
    assert shared.pop("manifest.jsonl").count(b"\n") == 7
    assert shared == {name: data for name, data in whole.items() if name != "manifest.jsonl"}


def test_a_record_says_everything_that_its_sample_was_made_from(params: Params, monkeypatch: pytest.MonkeyPatch):
    def trained(params: Params, real: RealData, key: str, out: Path, curves: Path) -> None:
        write_json(
            out / "model.json", {"generator": "perlin", "base": "models/base", "revision": "abc", "weights": "def"}
        )

    monkeypatch.setattr(perlin, "finetune", trained)
    asked = PLACEMENTS[1]
    record = made(params)[1]
    assert (record.placement, record.category, record.defect_type) == (asked.id, CATEGORY, "scratch")
    assert (record.normal, record.box, record.prompt, record.seed) == (
        asked.normal,
        asked.box,
        asked.prompt,
        asked.seed,
    )
    assert (record.generator, record.model) == ("perlin", "models/base@abc+def")
    assert record.knobs == {**params.synth.model_dump(), **params.window.model_dump()}
    assert read_image(Path(record.image)).shape == read_image(Path(record.mask or "")).shape == (40, 48, 3)
    assert record.accepted is None and record.scores == {}, "nobody has judged it yet"


def test_a_procedure_is_named_where_there_is_no_model(params: Params):
    assert {record.model for record in made(params)} == {"perlin"}


def test_no_placements_are_an_empty_manifest(params: Params):
    assert made(params, placements=[]) == []
    assert contents(OUT) == {"manifest.jsonl": b""}
    write_sheet([], read_real(CATEGORY), params, Path("sheet.png"))
    assert read_image(Path("sheet.png")).size


@pytest.mark.parametrize("count", [0, 1])
def test_a_generator_that_makes_too_little_is_found_out(params: Params, monkeypatch: pytest.MonkeyPatch, count: int):
    plain = perlin.synthesize
    monkeypatch.setattr(perlin, "synthesize", lambda *args: (batch[:count] for batch in plain(*args)))
    with pytest.raises(ValueError):
        made(params)


def test_a_sheet_shows_samples_of_all_types(params: Params):
    dents = [placement(number, defect_type="dent") for number in range(20, 22)]
    records = made(params, placements=[*PLACEMENTS, *dents])
    write_sheet(records, read_real(CATEGORY), params, Path("sheet.png"))
    first = Path("sheet.png").read_bytes()
    write_sheet(records, read_real(CATEGORY), params, Path("sheet.png"))
    assert Path("sheet.png").read_bytes() == first
    assert read_image(Path("sheet.png")).shape == (3 * 164 + 4, 8 * 164 + 4, 3), "nine samples beside their normals"


def test_an_unknown_generator_is_refused_with_the_known_names():
    with pytest.raises(ValueError, match=r"generators: perlni is unknown, known are perlin, mvp_diff"):
        find("perlni")


def test_a_generator_sees_the_train_part_alone(params: Params):
    real = read_real(CATEGORY)
    assert {sample.split for sample in real.samples.values()} == {"train"} and len(real.samples) == 6
    known = {box.sample for box in real.boxes} | {sample for sample, _ in real.descriptions}
    assert known == {"scratch-0", "scratch-1", "dent-0"}
