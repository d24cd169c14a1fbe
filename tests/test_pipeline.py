"""dvc.yaml says exactly what the stages do: code, parameters, and no heavy import where none is needed."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lib.core.runtime import source
from lib.detectors import DETECTORS
from lib.generators import GENERATORS
from tests.conftest import ROOT

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
LAYERS = [
    "lib/base",
    "lib/core",
    "lib/diffusion",
    "lib/metrics",
]  # listed as folders: who uses one file of them uses most
SETTINGS = ROOT / "lib/__init__.py"  # of how fast and how loud, not of what is computed
LIGHT = ["workpieces", "prepare", "describe", "boxes", "random_boxes", "masks", "fidelity", "report"]


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
    lists = {"generator": GENERATORS, "detector": DETECTORS}
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
            next((layer for layer in LAYERS if file.startswith(f"{layer}/")), file)
            for file in closure(*scripts, *methods)
        }
        filled = {re.sub(r"\$\{item\.(\w+)\}", lambda hit, c=choice: c[hit.group(1)], dep) for dep in listed}
        assert needed - filled == set(), "changed code would not rerun the stage"
        anywhere |= needed | filled & {path.relative_to(ROOT).as_posix() for path in methods}
    filled_all = {dep for dep in listed if "${" not in dep}
    assert filled_all - anywhere == set(), "code that no variant runs would rerun the stage"


# What a resumable stage may leave out of the key of its unfinished work: it says who is asked, not what is computed.
UNKEYED = {"lib/launch.py", "lib/plots.py", "lib/generators/__init__.py"}


@pytest.mark.parametrize("name", ["stages/finetune.py", "stages/synth.py", "lib/detection.py"])
def test_changed_code_never_continues_old_work(name: str):
    script = ROOT / name
    call = next(
        node
        for node in ast.walk(ast.parse(script.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "source"
    )
    modules = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
    methods = DETECTORS if "detection" in name else GENERATORS
    for method in methods.values():
        keyed = [path.relative_to(ROOT).as_posix() for path in source(*modules, method)]
        needed = closure(script, *source(method)) - UNKEYED - {name}
        assert {file for file in needed if not any(file == k or file.startswith(f"{k}/") for k in keyed)} == set()


def leaves(values: dict, prefix: str = "") -> set[str]:
    """Dotted keys of all values that are no sections."""
    return {
        key
        for name, value in values.items()
        for key in (leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}"})
    }


def test_every_stage_lists_single_keys_and_every_key_moves_a_stage(raw_params: dict):
    keys = leaves(raw_params)
    listed = {key for stage in STAGES.values() for key in stage.get("params", [])}
    assert listed <= keys, "a whole section, or a key that is not in params.yaml"
    templates = set(re.findall(r"\$\{([a-z_.]+)\}", (ROOT / "dvc.yaml").read_text(encoding="utf-8")))
    assert keys == listed | (templates & keys)


def test_stage_scripts_are_thin():
    for script in (ROOT / "stages").glob("*.py"):
        assert len(script.read_text(encoding="utf-8").splitlines()) <= 60, script.name


@pytest.mark.parametrize("name", LIGHT)
def test_light_stages_start_without_torch(name: str):
    check = f"import sys, stages.{name}; sys.exit(any(m in sys.modules for m in ('torch', 'diffusers', 'matplotlib')))"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("name", ["finetune", "synth", "baseline", "detect", "evaluate"])
def test_diffusers_is_loaded_by_the_method_that_needs_it_alone(name: str):
    check = (
        f"import sys, stages.{name}; from lib import generators, detectors; generators.find('perlin');"
        " detectors.find('unet'); sys.exit('diffusers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_explains_itself(name: str):
    done = subprocess.run([sys.executable, "-m", f"stages.{name}", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and len(done.stdout) > 100
