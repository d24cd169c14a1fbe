"""Presets: each one is valid, keeps the comments of params.yaml, and says what it changes."""

import importlib
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import preset
from lib.core.command import end_with
from lib.core.params import load, methods
from tests.conftest import ROOT

NAMES = sorted(file.stem for file in (ROOT / "presets").glob("*.yaml"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["lib.preset", *arguments])
    with pytest.raises(SystemExit) as ended:
        end_with(preset.main)
    if ended.value.code:
        raise ended.value


def leaves(node: dict, above: str = "") -> dict[str, object]:
    found = {}
    for key, value in node.items():
        found |= leaves(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_sets_its_knobs_keeps_all_others_and_every_comment(here: Path, monkeypatch, capsys, name: str):
    before = (here / "params.yaml").read_text()
    call(monkeypatch, name)
    after = (here / "params.yaml").read_text()
    wanted = leaves(yaml.safe_load((here / f"presets/{name}.yaml").read_text()))
    old, new = leaves(yaml.safe_load(before)), leaves(yaml.safe_load(after))
    assert new == old | wanted
    comments = re.compile(r"# .*$", re.MULTILINE)
    assert comments.findall(after) == comments.findall(before)
    told = capsys.readouterr().out.splitlines()
    assert {line.split(":")[0] for line in told} == {key for key in wanted if wanted[key] != old[key]}
    params = load()
    for kind in ("generators", "detectors"):
        for method in methods(kind):
            params.section(method, importlib.import_module(f"lib.{kind}.{method}").Settings)
    call(monkeypatch, name)
    assert "as the preset has it" in capsys.readouterr().out
    assert (here / "params.yaml").read_text() == after


def test_every_generator_has_a_preset_and_what_has_all_has_every_one(here: Path):
    listed = yaml.safe_load((here / "presets/all-generators.yaml").read_text())["generators"]
    assert sorted(listed) == sorted(methods("generators"))
    listed = yaml.safe_load((here / "presets/all-detectors.yaml").read_text())["detectors"]
    assert sorted(listed) == sorted(methods("detectors"))
    single = {name.split("-")[0] for name in NAMES}
    assert set(methods("generators")) - {"perlin"} <= single, "perlin has nothing to choose"


def test_the_list_says_what_each_is_for(here: Path, monkeypatch, capsys):
    call(monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES and all(len(line.split()) > 4 for line in lines)


def test_a_dry_run_changes_nothing_and_later_presets_win(here: Path, monkeypatch, capsys):
    before = (here / "params.yaml").read_text()
    call(monkeypatch, "fast", "mvp_diff-sd15", "--dry-run")
    assert (here / "params.yaml").read_text() == before
    assert "finetune.steps: 100 -> 10000" in capsys.readouterr().out
    call(monkeypatch, "mvp_diff-sd15", "fast")
    assert load().finetune.steps == 100 and load().mvp_diff["rank"] == 4


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("# x\nsynth:\n  speed: 3\n", "presets/mine.yaml: synth.speed is no knob of params.yaml"),
        ("# x\nsynth:\n  strength: 7\n", "synth.strength"),
        ("# x\nmvp_diff:\n  rank: -5\n", "mvp_diff.rank"),
        ("# x\ngenerators:\n- magic\n", "no method has this name"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(here: Path, monkeypatch, capsys, content: str, told: str):
    (here / "presets/mine.yaml").write_text(content)
    before = (here / "params.yaml").read_text()
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch, "mine")
    assert stopped.value.code == 2 and told in capsys.readouterr().err
    assert (here / "params.yaml").read_text() == before


def test_an_unknown_name_is_refused_with_the_known_ones(here: Path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        call(monkeypatch, "../params")
    assert "known are" in capsys.readouterr().err


def comments_of(text: str) -> list[str]:
    """The comments that have a line of their own, and the blank lines."""
    return [line.strip() for line in text.splitlines() if line.strip().startswith("#") or not line.strip()]


ITEMS = ["a", "b", "c", "d"]


@settings(max_examples=150)
@given(
    old=st.lists(st.sampled_from(ITEMS), unique=True),
    new=st.lists(st.sampled_from(ITEMS), unique=True),
    behind=st.sets(st.sampled_from(ITEMS)),
    above=st.sets(st.sampled_from(ITEMS)),
    flow=st.booleans(),
    indent=st.sampled_from(["", "  "]),
)
def test_whatever_a_list_becomes_comments_stay_with_their_items(old, new, behind, above, flow: bool, indent: str):
    def line(item: str) -> str:
        return f"{indent}- {item}" + (f"  # of {item}" if item in behind else "")

    items = "".join(f"{indent}# above {item}\n" * (item in above) + f"{line(item)}\n" for item in old)
    listed = f" [{', '.join(old)}]  # all\n" if flow or not old else f"  # all\n{items}"
    text = f"# head\nlist:{listed}\n# --- mine ---\nnext: 1  # end\n"
    after = preset.with_list(text, ("list",), new)
    assert yaml.safe_load(after) == {"list": new, "next": 1}
    assert sorted(comments_of(after)) == sorted(comments_of(text))
    assert after.endswith("\n# --- mine ---\nnext: 1  # end\n") and "  # all\n" in after
    if old and not flow:
        assert all(line(item) in after.splitlines() for item in new if item in old)
        for item in above & set(old) & set(new):
            assert f"{indent}# above {item}\n" in after
    assert preset.with_list(after, ("list",), new) == after


def test_comments_of_people_in_lists_outlive_a_preset(here: Path, monkeypatch):
    text = (here / "params.yaml").read_text()
    listed = "generators:\n- perlin  # quick\n# the best one\n- mvp_diff  # mine\n\n# --- my settings ---\n"
    (here / "params.yaml").write_text(re.sub(r"^generators:\n(- .*\n)+", listed, text, flags=re.MULTILINE))
    (here / "presets/mine.yaml").write_text("# x\ngenerators: [cutpaste, mvp_diff]\nsynth:\n  steps: 7\n")
    call(monkeypatch, "mine")
    after = (here / "params.yaml").read_text()
    assert "generators:\n- cutpaste\n# the best one\n- mvp_diff  # mine\n\n# --- my settings ---\n" in after
    assert load().generators == ("cutpaste", "mvp_diff") and load().synth.steps == 7


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("seed: 0", "seed: 0\nseed: 1", "duplicate key"),
        ("synth:\n", "synth:\n\t", "no valid YAML"),
        ("synth:\n", "synth:\n   odd: 1\n", "params.yaml"),
        ("seed: 0", "seed: 0 # \xff".encode("latin-1"), "params.yaml: no UTF-8 at byte"),
        ("seed: 0", "seed: -1", "params.yaml: 1 problem(s):\n  seed"),
        (None, "", "params.yaml: expected sections with keys and values (found None)"),
        (None, "- a", "params.yaml: expected sections"),
        (None, "detect: 3", "  detect: "),
        (None, None, "params.yaml: not found; run this from the root"),
    ],
)
def test_a_params_yaml_that_is_wrong_is_told_by_its_name(here: Path, monkeypatch, capsys, old, new, told: str):
    content = (here / "params.yaml").read_bytes()
    if new is None:
        (here / "params.yaml").unlink()
    else:
        new = new if isinstance(new, bytes) else new.encode()
        (here / "params.yaml").write_bytes(content.replace(old.encode(), new, 1) if old else new)
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch, "fast")
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and told in said and "/tmp" not in said


def test_it_is_told_whether_params_yaml_was_wrong_before(here: Path, monkeypatch, capsys):
    (here / "presets/mine.yaml").write_text("# x\nsynth:\n  strength: 7\n")
    with pytest.raises(SystemExit):
        call(monkeypatch, "mine")
    said = capsys.readouterr().err
    assert said.startswith("params.yaml with presets/mine.yaml: 1 problem(s)") and "Nothing is written" in said
    text = (here / "params.yaml").read_text()
    (here / "params.yaml").write_text(text.replace("seed: 0", "seed: -1", 1))
    with pytest.raises(SystemExit):
        call(monkeypatch, "mine")
    said = capsys.readouterr().err
    assert said.startswith("params.yaml: 1 problem(s)") and "so before presets/mine.yaml changed anything" in said


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("# x\nsynth:\n  strength: [1]\n", "synth.strength"),
        ("# x\nseed:\n  more: 1\n", "seed.more is no knob"),
        ("# x\ngenerators: perlin\n", "generators"),
        ("# x\n", "presets/mine.yaml: expected sections"),
        ("", "presets/mine.yaml: expected sections"),
        ("# x\na: [\n", "presets/mine.yaml: no valid YAML"),
    ],
)
def test_a_preset_of_another_form_is_one_message(here: Path, monkeypatch, capsys, content: str, told: str):
    (here / "presets/mine.yaml").write_text(content)
    with pytest.raises(SystemExit):
        call(monkeypatch, "mine")
    assert told in capsys.readouterr().err


def test_without_presets_it_is_said_where_to_run_this(here: Path, monkeypatch, capsys):
    shutil.rmtree(here / "presets")
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch)
    assert stopped.value.code == 2 and "presets: no preset is there" in capsys.readouterr().err


def test_a_params_yaml_that_is_a_link_stays_one(here: Path, monkeypatch):
    (here / "params.yaml").rename(here / "shared.yaml")
    (here / "params.yaml").symlink_to("shared.yaml")
    call(monkeypatch, "fast")
    assert (here / "params.yaml").is_symlink() and load(here / "shared.yaml").finetune.steps == 100
