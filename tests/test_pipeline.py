"""dvc.yaml says exactly what the stages do: code, parameters, and no heavy import where none is needed."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from lib.core.params import methods
from tests.commands import run_here
from tests.conftest import ROOT

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
# Listed as folders where a stage uses most files of them.
LAYERS = [
    *("lib/base", "lib/core", "lib/dataset/formats", "lib/diffusion", "lib/export", "lib/metrics", "lib/placement"),
    *("lib/report", "lib/vision"),
]
SETTINGS = ROOT / "lib/__init__.py"  # of how fast and how loud, not of what is computed
LIGHT = ["workpieces", "prepare", "describe", "boxes", "random_boxes", "masks", "export", "report"]


@cache
def imported(file: Path) -> set[Path]:
    """The project's own modules that a file names in any import, wherever it stands."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            place = ROOT.joinpath(*name.split("."))
            if name.startswith(("lib", "stages")):
                found |= {path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()}
    packages = {parent / "__init__.py" for path in found | {file} for parent in path.parents if ROOT in parent.parents}
    return {path for path in found | packages if path.is_file() and path != SETTINGS and not is_bare(path)}


@cache
def is_bare(file: Path) -> bool:
    """Whether a file holds a docstring and nothing else."""
    return all(isinstance(node, ast.Expr) for node in ast.parse(file.read_text(encoding="utf-8")).body)


def closure(*files: Path) -> set[str]:
    """All of our own files that running these files reads."""
    seen: set[Path] = set()
    queue = list(files)
    while queue:
        file = queue.pop()
        if file not in seen:
            seen.add(file)
            queue += imported(file)
    return {path.relative_to(ROOT).as_posix() for path in seen}


def variants(stage: dict) -> list[dict[str, str]]:
    """The names that a matrix stage is made for; generators and detectors decide which module runs."""
    lists = {"generator": methods("generators"), "detector": methods("detectors")}
    chosen: list[dict[str, str]] = [{}]
    for name in stage.get("matrix", {}):
        if name in lists:
            chosen = [{**one, name: value} for one in chosen for value in lists[name]]
    return chosen


@pytest.mark.parametrize("name", [*STAGES, "base"])
def test_a_stage_depends_on_exactly_the_code_that_it_runs(name: str):
    stage = STAGES.get(name) or yaml.safe_load((ROOT / "models/dvc.yaml").read_text())["stages"]["base"]
    listed = {dep for dep in stage["deps"] if dep.endswith(".py") or dep in LAYERS}
    modules = [ROOT.joinpath(*name.split(".")) for name in re.findall(r"(?:lib|stages)\.[\w.]+", str(stage["cmd"]))]
    scripts = [place / "__main__.py" if place.is_dir() else place.with_suffix(".py") for place in modules]
    runs_method = "lib/generators/${item.generator}.py" in listed or "lib/detectors/${item.detector}.py" in listed
    anywhere: set[str] = set()
    for choice in variants(stage) if runs_method else [{}]:
        methods = [ROOT / "lib" / f"{kind}s" / f"{value}.py" for kind, value in choice.items()]
        methods = [path for path in methods if any(f"{path.parent.name}/${{" in dep for dep in listed)]
        needed = {
            next((layer for layer in LAYERS if layer in listed and file.startswith(f"{layer}/")), file)
            for file in closure(*scripts, *methods)
        }
        filled = {re.sub(r"\$\{item\.(\w+)\}", lambda hit, c=choice: c[hit.group(1)], dep) for dep in listed}
        assert needed - filled == set(), "changed code would not rerun the stage"
        anywhere |= needed | filled & {path.relative_to(ROOT).as_posix() for path in methods}
    filled_all = {dep for dep in listed if "${" not in dep}
    assert filled_all - anywhere == set(), "code that no variant runs would rerun the stage"


def leaves(values: dict, prefix: str = "") -> set[str]:
    """Dotted keys of all values that are no sections."""
    return {
        key
        for name, value in values.items()
        for key in (leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}"})
    }


def test_every_stage_lists_keys_and_whole_sections_of_params_yaml_and_no_others(raw_params: dict):
    own = {name for kind in ("generators", "detectors") for name in methods(kind) if name in raw_params}
    shared = {name: value for name, value in raw_params.items() if name not in own}
    keys = leaves(shared)
    listed = {key for stage in STAGES.values() for key in stage.get("params", [])}
    listed -= {"${item.generator}", "${item.detector}"}
    sections = listed & {name for name, value in shared.items() if isinstance(value, dict)}
    assert listed - sections <= keys, "a key that params.yaml lacks"
    listed |= {key for name in sections for key in leaves({name: shared[name]})}
    templates = set(re.findall(r"\$\{([a-z_.]+)\}", (ROOT / "dvc.yaml").read_text(encoding="utf-8")))
    assert keys == (listed | templates) & keys, "a key that moves no stage"


@pytest.mark.parametrize("kind", ["generator", "detector"])
def test_the_settings_of_a_method_rerun_the_stages_of_that_method_alone(kind: str):
    with_own = {name for name, stage in STAGES.items() if f"${{item.{kind}}}" in stage.get("params", [])}
    assert with_own == {"generator": {"finetune", "synth"}, "detector": {"baseline", "detect"}}[kind]
    for stage in STAGES.values():
        assert not set(stage.get("params", [])) & set(methods(f"{kind}s")), "the section of one method, for all of them"


# Each place of the library, from the ground up; what stands in one line does not import what stands below it.
LAYERS_UP = [
    ["lib/core"],
    ["lib/dataset", "lib/export", "lib/metrics/ranking.py", "lib/metrics/intervals.py"],
    ["lib/alarms.py", "lib/language.py", "lib/intake.py", "lib/plots.py", "lib/diffusion", "lib/vision/backbones.py"],
    ["lib/boxes.py", "lib/metrics"],
    ["lib/placement", "lib/labels", "lib/generators/__init__.py"],
    ["lib/vision"],
    ["lib/generators", "lib/detectors", "lib/scoring.py"],
    [
        "lib/finetuning.py",
        "lib/synthesis.py",
        "lib/detection.py",
        "lib/marks.py",
        "lib/report",
        "lib/base",
        "lib/launch.py",
        "lib/results.py",
        "lib/settings.py",
        "lib/trained.py",
    ],
    ["lib/exchange.py", "lib/evaluation.py", "lib/preset.py", "lib/repro.py", "lib/proposal.py", "lib/budget.py"],
    ["lib/predict.py", "lib/recalibrate.py", "lib/start.py", "lib/trial.py"],
    ["stages"],
]


def layer_of(file: str) -> int:
    """The layer of the longest place that holds the file."""
    places = [(len(place), number) for number, row in enumerate(LAYERS_UP) for place in row if file.startswith(place)]
    assert places, f"{file} has no layer"
    return max(places)[1]


FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("lib", "stages")
    for path in (ROOT / folder).rglob("*.py")
    if not is_bare(path) and path != SETTINGS
)


@pytest.mark.parametrize("file", FILES)
def test_imports_point_down(file: str):
    up = {
        path
        for path in (one.relative_to(ROOT).as_posix() for one in imported(ROOT / file))
        if layer_of(path) > layer_of(file)
    }
    assert up == set()


def test_no_two_files_import_each_other_in_a_circle():
    graph = {file: {one.relative_to(ROOT).as_posix() for one in imported(ROOT / file)} - {file} for file in FILES}
    graph = {file: {one for one in others if one in graph} for file, others in graph.items()}
    while ends := [file for file, others in graph.items() if not others]:
        graph = {file: others - set(ends) for file, others in graph.items() if file not in ends}
    assert not graph, f"in or above a circle: {sorted(graph)}"


def test_a_file_can_be_read_in_one_sitting():
    long = {file: len((ROOT / file).read_text(encoding="utf-8").splitlines()) for file in FILES}
    assert {file: lines for file, lines in long.items() if lines > 350} == {
        file: lines
        for file, lines in long.items()
        if file == "lib/dataset/surfaces.py"  # the renderer
    }


@pytest.mark.parametrize("kind", ["generators", "detectors"])
def test_a_method_is_a_file_with_a_section_and_a_test(kind: str, raw_params: dict):
    for name in methods(kind):
        assert isinstance(raw_params.get(name), dict), f"lib/{kind}/{name}.py: its section is missing in params.yaml"
        test = ROOT / "tests" / kind / f"test_{name}.py"
        assert test.is_file(), f"lib/{kind}/{name}.py: its test is missing, tests/{kind}/test_{name}.py"


def test_stage_scripts_are_thin():
    for script in (ROOT / "stages").glob("*.py"):
        assert len(script.read_text(encoding="utf-8").splitlines()) <= 60, script.name


def test_light_stages_start_without_torch():
    """In one process: what none of them has loaded behind the last one, none has loaded."""
    check = (
        "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(f'stages.{name}')\n"
        "    assert not {'torch', 'diffusers', 'matplotlib'} & set(sys.modules), name"
    )
    assert subprocess.run([sys.executable, "-c", check, *LIGHT], cwd=ROOT).returncode == 0


def test_diffusers_is_loaded_by_the_method_that_needs_it_alone():
    check = (
        "import importlib, sys\nfrom lib import generators, detectors\n"
        "generators.find('perlin'), detectors.find('unet')\nfor name in sys.argv[1:]:\n"
        "    importlib.import_module(f'stages.{name}')\n    assert 'diffusers' not in sys.modules, name"
    )
    names = ["finetune", "synth", "baseline", "detect", "evaluate"]
    assert subprocess.run([sys.executable, "-c", check, *names], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_explains_itself(name: str):
    done = run_here(ROOT, f"stages.{name}", "--help")
    assert done.returncode == 0 and len(done.stdout) > 100
