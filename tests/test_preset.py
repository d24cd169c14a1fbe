"""Presets: each one is valid, keeps the comments of params.yaml, and says what it changes."""

import importlib
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from lib import preset
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
    preset.main()


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
