"""The key of unfinished work: everything that dvc.yaml lists for a stage moves it, and nothing else does."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lib.core.errors import UserError
from lib.core.pipeline import _filled, input_key, part_key, refuse_outputs
from tests.conftest import ROOT

STAGE = {
    "matrix": {"method": "${methods}", "category": "${dataset.categories}"},
    "cmd": "python -m stages.paint --method ${item.method}",
    "deps": ["data/${item.category}.jsonl", "lib/paint", "${dataset.path}"],
    "params": ["seed", "paint.depth", "${item.method}"],
}
PARAMS = {
    "seed": 1,
    "methods": ["brush", "spray"],
    "dataset": {"path": "mine", "categories": ["nut"]},
    "paint": {"depth": 2, "gloss": 3},
    "brush": {"hair": 4},
    "spray": {},
}
FILES = {"data/nut.jsonl": "a", "lib/paint/a.py": "b", "mine/x.png": "c", "other.txt": "d"}


@pytest.fixture
def project(inside: Path) -> Path:
    for name, text in FILES.items():
        (inside / name).parent.mkdir(parents=True, exist_ok=True)
        (inside / name).write_text(text)
    write(STAGE, PARAMS)
    return inside


def write(stage: dict, params: dict) -> None:
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"paint": stage}}))
    Path("params.yaml").write_text(yaml.safe_dump(params))


def key(method: str = "brush") -> str:
    return input_key("paint", method=method, category="nut")


@pytest.mark.parametrize("name", ["data/nut.jsonl", "lib/paint/a.py", "mine/x.png"])
def test_every_dependency_moves_the_key(project: Path, name: str):
    before = key()
    Path(name).write_text("changed")
    assert key() != before


@pytest.mark.parametrize(
    "values",
    [{"seed": 2}, {"paint": {"depth": 9, "gloss": 3}}, {"brush": {"hair": 9}}, {"brush": {}}],
)
def test_every_parameter_moves_the_key(project: Path, values: dict):
    before = key()
    write(STAGE, PARAMS | values)
    assert key() != before


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("name", ["deps", "params"])
def test_an_entry_that_is_taken_out_moves_the_key(project: Path, name: str, index: int):
    before = key()
    entries = list(STAGE[name])
    del entries[index]
    write({**STAGE, name: entries}, PARAMS)
    assert key() != before


def test_what_is_not_listed_does_not_move_the_key(project: Path):
    before = key()
    Path("other.txt").write_text("changed")
    write(STAGE, PARAMS | {"paint": {"depth": 2, "gloss": 9}, "spray": {"cap": 1}})
    assert key() == before


def test_methods_have_keys_of_their_own(project: Path):
    assert key("brush") != key("spray")
    before = key("brush")
    write(STAGE, PARAMS | {"spray": {"cap": 1}})
    assert key("brush") == before


@pytest.mark.parametrize("hair", ["other.txt", "mine/..", {"of": {"horses": ["none", "other.txt"]}}])
def test_what_lies_at_a_place_that_a_parameter_names_moves_the_key(project: Path, hair: object):
    write(STAGE, PARAMS | {"brush": {"hair": hair}})
    before = key()
    Path("other.txt").write_text("changed")
    assert key() != before


@pytest.mark.parametrize("hair", ["", "some/hub-id", "x" * 999, None])
def test_a_value_that_names_no_place_is_a_value(project: Path, hair: str | None):
    write(STAGE, PARAMS | {"brush": {"hair": hair}})
    before = key()
    Path("other.txt").write_text("changed")
    assert key() == before


NAMED = {
    "rtdetr.weights": [("detect", "rtdetr"), ("baseline", "rtdetr")],
    "pagmfr.textures": [("detect", "pagmfr"), ("baseline", "pagmfr")],
    "pagmfr.objects": [("detect", "pagmfr"), ("baseline", "pagmfr")],
    "detect.encoder": [("detect", "unet"), ("baseline", "patchcore")],
    "base.model": [("finetune", "mvp_diff"), ("synth", "defectfill")],
}


@pytest.mark.parametrize(("name", "stage", "method"), [(n, *one) for n, stages in NAMED.items() for one in stages])
def test_finished_seeds_and_samples_of_other_content_at_a_named_place_are_not_continued(
    inside: Path, raw_params: dict, monkeypatch: pytest.MonkeyPatch, name: str, stage: str, method: str
):
    monkeypatch.setattr("lib.core.pipeline._there", lambda *_: [])  # what dvc.yaml lists is another test's
    section, setting = name.split(".")
    params = raw_params | {section: raw_params[section] | {setting: "named"}}
    Path("dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    Path("params.yaml").write_text(yaml.safe_dump(params))
    Path("named").mkdir()
    Path("named/one.png").write_text("old")
    item = {"generator": method, "detector": method, "category": "nut"}
    before = input_key(stage, **item)
    Path("named/one.png").write_text("new")
    assert input_key(stage, **item) != before


def test_a_dependency_that_is_not_there_is_named(project: Path):
    Path("data/nut.jsonl").unlink()
    with pytest.raises(UserError, match=r"data/nut.jsonl: not found; `dvc repro` makes what the stage paint reads"):
        key()


def part(**changes) -> str:
    values = {"narrower": {"mine": Path("mine/x.png")}, "unread": ["seed"], "method": "brush", "category": "nut"}
    return part_key("paint", **values | changes)


def test_the_key_of_a_part_moves_with_what_the_part_reads_and_with_nothing_else(project: Path):
    before = part()
    Path("mine/y.png").write_text("of another part")
    write(STAGE, PARAMS | {"seed": 2})
    assert part() == before
    for name in ("mine/x.png", "data/nut.jsonl", "lib/paint/a.py"):
        Path(name).write_text("changed")
        assert part() != before
        before = part()
    write(STAGE, PARAMS | {"paint": {"depth": 9, "gloss": 3}})
    assert part() != before


def test_a_part_may_leave_out_only_what_is_listed(project: Path):
    with pytest.raises(ValueError, match=r"mine/x\.png: not listed for the stage paint"):
        part(narrower={"mine/x.png": Path("mine/x.png")})
    with pytest.raises(ValueError, match=r"paint\.gloss: not listed"):
        part(unread=["paint.gloss"])
    with pytest.raises(UserError, match=r"mine/z\.png: not found"):
        part(narrower={"mine": Path("mine/z.png")})


@given(st.recursive(st.integers() | st.text("ab{}", max_size=4), lambda inner: st.lists(inner, max_size=3)))
def test_text_without_templates_stays_as_it_is(node):
    assert _filled(node, {}) == node


def test_a_template_that_is_all_of_a_text_keeps_its_type():
    assert _filled({"matrix": "${a.b}"}, {"a": {"b": [1, 2]}}) == {"matrix": [1, 2]}


@pytest.mark.parametrize(
    ("place", "is_output"),
    [
        ("data/painted", True),
        ("data/painted/deeper/x.html", True),
        ("elsewhere/../data/painted", True),
        ("linked/painted", True),
        ("data/models/brush/nut", True),
        ("metrics/spray.json", True),
        ("metrics/brush.json", True),
        ("data", False),
        ("metrics/curves/loss.csv", True),
        ("data/models/brush", False),
        ("data/painted-by-me", False),
        ("metrics/brush.html", False),
        ("/data/painted", False),
    ],
)
def test_what_stages_write_is_no_place_for_anything_else(project: Path, place: str, is_output: bool):
    outs = ["data/models/${item.method}/${item.category}", {"data/painted": {"persist": True}}]
    metrics, curves = [{"metrics/${item.method}.json": {"cache": False}}], [{"metrics/curves": {"x": "step"}}]
    write(STAGE | {"outs": outs, "metrics": metrics, "plots": curves}, PARAMS)
    Path("linked").symlink_to("data")
    if is_output:
        with pytest.raises(UserError, match="belongs to the stage paint of dvc"):
            refuse_outputs(Path(place))
    else:
        refuse_outputs(Path(place))
    Path("dvc.yaml").unlink()
    refuse_outputs(Path(place))
