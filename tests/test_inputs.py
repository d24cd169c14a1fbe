"""dvc.yaml names what a stage reads, all of it and nothing else: each stage runs in small and its reading is recorded.

So a parameter or a file that is taken out of dvc.yaml, or forgotten there, fails here, and with it the keys of
unfinished work are right, since `lib.core.pipeline` computes them from the same lists.
"""

import importlib
import itertools
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from lib.core import pipeline
from lib.core.forms import REQUESTS, REVIEW
from lib.core.params import Params, Section
from tests.conftest import ROOT
from tests.test_chain import MICRO

pytestmark = pytest.mark.slow

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
SECTIONS = {
    name: list(field.annotation.model_fields)
    for name, field in Params.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}
# Read in some configurations alone: the revision of a hub id, the column of a table.
SELDOM = {"base.revision", "base.allow_download", "dataset.group_column"}

recorder: "Recorder | None" = None


class Recorder:
    """Parameters by their dotted keys, and files below the working folder, that are read while it is the recorder."""

    def __init__(self, root: Path) -> None:
        self.root, self.params, self.files = root, set[str](), set[str]()

    def open(self, path: Any, mode: Any) -> None:
        if isinstance(path, (str, Path)) and not (isinstance(mode, str) and set(mode) & set("wxa+")):
            absolute = Path(path).absolute()
            if self.root in absolute.parents:
                self.files.add(absolute.relative_to(self.root).as_posix())


def _hook(event: str, arguments: tuple) -> None:
    if event == "open" and recorder is not None:
        recorder.open(arguments[0], arguments[1])


@contextmanager
def recording(root: Path, patch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """Record every read of a parameter (an attribute, or a dump of its whole section) and every file opened to read."""
    global recorder
    recorder = this = Recorder(root)
    owners: dict[int, str] = {}  # of the sections of the Params that the stage loads
    keep: list[Any] = []  # so that no id is used twice
    plain, plain_section, plain_dump = Params.__getattribute__, Section.__getattribute__, Section.model_dump

    def of_params(self: Params, name: str) -> Any:
        value = plain(self, name)
        if name in Params.model_fields:
            if isinstance(value, Section):
                owners[id(value)] = name
                keep.append(value)
            else:
                this.params.add(name)
        return value

    def of_section(self: Section, name: str) -> Any:
        if name in type(self).model_fields and id(self) in owners:
            this.params.add(f"{owners[id(self)]}.{name}")
        return plain_section(self, name)

    def dump(self: Section, **options: Any) -> dict[str, Any]:
        if id(self) in owners:
            fields = type(self).model_fields.keys() - options.get("exclude", set())
            this.params |= {f"{owners[id(self)]}.{name}" for name in fields}
        return plain_dump(self, **options)

    def section(self: Params, method: str, settings: type[Section]) -> Section:
        this.params.add(method)
        return settings.model_validate((self.model_extra or {})[method])

    with patch.context() as patched:
        patched.setattr(Params, "__getattribute__", of_params)
        patched.setattr(Section, "__getattribute__", of_section)
        patched.setattr(Section, "model_dump", dump)
        patched.setattr(Params, "section", section)
        patched.setattr("lib.core.params._methods_at_fault", lambda params: [])  # looks at all methods
        try:
            yield this
        finally:
            recorder = None


sys.addaudithook(_hook)


def items(stage: dict, params: dict) -> list[dict[str, str]]:
    """The matrix of a stage, filled in; one empty item for a stage without."""
    matrix = pipeline._filled(stage.get("matrix", {}), params)
    return [dict(zip(matrix, values, strict=True)) for values in itertools.product(*matrix.values())]


@pytest.fixture(scope="module")
def reads(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> dict[str, list[tuple[dict, Recorder]]]:
    """For each stage, in the order of dvc.yaml, what each item of its matrix reads in a micro run."""
    root = tmp_path_factory.mktemp("reads")
    shutil.copytree(tiny_base, root / "tiny")
    (root / "models/base").mkdir(parents=True)  # a dependency that must be there, whatever base.model names
    shutil.copy(ROOT / "dvc.yaml", root)
    for folder in ("lib", "stages"):
        (root / folder).symlink_to(ROOT / folder)
    for form in (REVIEW, REQUESTS):
        (root / form.path.parent).mkdir(parents=True)
        (root / form.path).write_text(",".join(form.columns))
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, values in MICRO.items():
        params[section].update(values)
    params["detect"]["seeds"] = [0]  # another one reads the same
    params["detectors"].append("rtdetr")  # answers boxes, which no default detector does
    params["detect"]["on_synthetic"].append("rtdetr")
    params["export"]["formats"] = ["csv"]  # the default has no stage of it
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    record: dict[str, list[tuple[dict, Recorder]]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name, stage in STAGES.items():
            main = importlib.import_module(f"stages.{name}").main
            for item in items(stage, params):
                with recording(root, patch) as recorder:
                    main(**item)
                record.setdefault(name, []).append((item, recorder))
    return record


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_lists_exactly_the_parameters_that_it_reads(name: str, reads: dict):
    listed_anywhere: set[str] = set()
    used: set[str] = set()
    text = yaml.safe_dump(STAGES[name])
    templates = set(re.findall(r"\$\{([a-z_]+\.[a-z_]+)\}", text)) - {
        "item.generator",
        "item.category",
        "item.detector",
    }
    for item, recorder in reads[name]:
        listed = {
            key
            for entry in pipeline._filled(STAGES[name].get("params", []), {"item": item})
            for key in ([f"{entry}.{field}" for field in SECTIONS[entry]] if entry in SECTIONS else [entry])
        }
        assert recorder.params - listed - templates == set(), f"{item}: a change of these would not rerun the stage"
        listed_anywhere |= listed
        used |= recorder.params
    assert listed_anywhere - used - SELDOM == set(), "a change of these would rerun the stage for nothing"


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_lists_exactly_the_data_that_it_reads(name: str, reads: dict):
    opened: set[str] = set()
    listed_anywhere: set[str] = set()
    for item, recorder in reads[name]:
        params = {"item": item, "dataset": {"path": "data/workpieces"}}
        listed = set(pipeline._filled(STAGES[name]["deps"], params))
        outs = [out for kind in ("outs", "metrics", "plots") for out in STAGES[name].get(kind, [])]
        written = pipeline._filled([out if isinstance(out, str) else next(iter(out)) for out in outs], params)
        data = {
            file
            for file in recorder.files
            if file.startswith(("data/", "models/", "metrics/", "tiny/"))
            and not any(lies_in(file, out) for out in written)
        }
        places = listed | ({"tiny"} if "models/base" in listed else set())
        unlisted = {file for file in data if not any(lies_in(file, dep) for dep in places)}
        # Pictures are known by their digests, which stand in the records.
        assert {file for file in unlisted if not file.endswith(".png")} == set(), item
        listed_anywhere |= {dep for dep in listed if dep.startswith(("data/", "models/", "metrics/"))}
        opened |= data | ({"models/base"} if any(file.startswith("tiny/") for file in data) else set())
    idle = {dep for dep in listed_anywhere if not any(lies_in(file, dep) for file in opened)}
    assert idle == set(), "a change of these would rerun the stage for nothing"


def lies_in(file: str, place: str) -> bool:
    return f".tmp-{os.getpid()}" in file or file == place or file.startswith(f"{place}/")
