"""params.yaml: what is committed loads, what is wrong is refused with the name of its key, nothing stands idle."""

import copy
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from lib.core.errors import UserError
from lib.core.params import Dataset, Params, Positive, Section, load, methods
from tests.conftest import ROOT


def refusal(tmp_path: Path, raw: dict, key: str, value: Any) -> str:
    """What `load` says about the committed values with one of them changed; `key` is a dotted path."""
    values = copy.deepcopy(raw)
    section = values
    *sections, last = key.split(".")
    for name in sections:
        section = section[name]
    section[last] = value
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError) as error:
        load(path)
    return str(error.value)


def test_the_committed_params_load_and_hold_what_the_file_says(raw_params: dict):
    params = load(ROOT / "params.yaml")
    assert params.model_dump(mode="json") == raw_params


@pytest.mark.parametrize("key", ["synth.guidence_scale", "colour"])
def test_an_unknown_key_is_refused_and_named(tmp_path: Path, raw_params: dict, key: str):
    message = refusal(tmp_path, raw_params, key, 3)
    assert f"1 problem(s):\n  {key}: Extra inputs are not permitted" in message


def test_a_name_that_is_unfit_for_a_path_is_refused_with_one_that_is_not(tmp_path: Path, raw_params: dict):
    message = refusal(tmp_path, raw_params, "dataset.categories", ["steel bracket"])
    assert "1 problem(s)" in message and "rename it to, say, steel_bracket" in message


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("split.val_fraction", 1.5, "less than 1"),
        ("split.shots", 1, "greater than or equal to 2"),
        ("synth.strength", 0, "greater than 0"),
        ("synth.scheduler", "magic", "'ddim', 'dpm++', 'euler' or 'unipc'"),
        ("finetune.steps", "many", "valid integer"),
        ("finetune.ema_decay", 1, "less than 1"),
        ("detect.window", 100, "multiple of 16"),
        ("generators", [], "at least 1 item"),
        ("dataset.categories", ["nut", "nut"], "each may stand there once"),
        ("detect.seeds", [1, 1], "each may stand there once"),
        (
            "detect.seeds",
            [0, 5, 1000],
            "seeds that are 1000 higher, so 1000 would be a seed of both arms: expected no two",
        ),
        ("base", None, "valid dictionary"),
        ("seed", -1, "greater than or equal to 0"),
        ("synth.guidance_scale", float("inf"), "finite number"),
        ("detect.learning_rate", float("inf"), "finite number"),
        ("finetune.min_snr_gamma", float("inf"), "finite number"),
        ("gate.outlier", float("nan"), "finite number"),
    ],
)
def test_an_impossible_value_is_refused_with_key_expectation_and_what_was_found(
    tmp_path: Path, raw_params: dict, key: str, value: Any, expected: str
):
    message = refusal(tmp_path, raw_params, key, value)
    assert str(tmp_path / "params.yaml") in message
    assert f"  {key}: " in message and expected in message and f"(found {value!r})" in message


def test_all_problems_are_told_at_once(tmp_path: Path, raw_params: dict):
    message = refusal(tmp_path, {**raw_params, "seed": -1, "boxes": {}}, "gate.min_area", 0)
    assert "4 problem(s)" in message
    assert all(f"  {key}: " in message for key in ("seed", "boxes.margin", "boxes.min_area", "gate.min_area"))


def test_a_missing_key_is_named(tmp_path: Path, raw_params: dict):
    keys = {key: value for key, value in raw_params["gate"].items() if key != "outlier"}
    assert "  gate.outlier: Field required" in refusal(tmp_path, raw_params, "gate", keys)


@pytest.mark.parametrize("kind", ["generators", "detectors"])
def test_a_method_that_has_no_file_is_refused_with_the_known_ones(tmp_path: Path, raw_params: dict, kind: str):
    message = refusal(tmp_path, raw_params, kind, [*raw_params[kind], "magic"])
    number = len(raw_params[kind])
    assert f"1 problem(s):\n  {kind}.{number}: no method has this name, known are " in message
    assert all(name in message for name in raw_params[kind]) and f"lib/{kind}/magic.py" in message


@pytest.mark.parametrize("name", ["perlin", "mvp_diff", "unet"])
def test_a_method_in_use_needs_its_section(tmp_path: Path, raw_params: dict, name: str):
    values = {key: value for key, value in raw_params.items() if key != name}
    assert f"  {name}: the method has no section of its own: add the line `{name}: {{}}`" in refusal(
        tmp_path, values, "seed", 0
    )
    assert f"  {name}: a section holds keys and values (found 3)" in refusal(tmp_path, raw_params, name, 3)


def test_a_detector_of_the_arms_is_one_of_the_detectors(tmp_path: Path, raw_params: dict):
    message = refusal(tmp_path, raw_params, "detect.on_synthetic", ["rgpkd"])
    assert "  detect.on_synthetic.0: expected a name from detectors (found 'rgpkd')" in message


class Knobs(Section):
    depth: Positive
    blend: str
    gloss: float = 1.0


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"depth": 0, "blend": "soft"}, "  magic.depth: Input should be greater than or equal to 1 (found 0)"),
        ({"depth": 1}, "  magic.blend: Field required"),
        ({"depth": 1, "blend": "soft", "gloss": float("inf")}, "  magic.gloss: Input should be a finite number"),
        ({"depth": 1, "blend": "soft", "hue": 2}, "  magic.hue: Extra inputs are not permitted (found 2)"),
        (None, "  magic: Input should be a valid dictionary"),
    ],
)
def test_the_own_settings_of_a_method_are_refused_with_their_keys(raw_params: dict, values: Any, problem: str):
    params = Params.model_validate({**raw_params, "magic": values})
    with pytest.raises(UserError) as error:
        params.section("magic", Knobs)
    assert str(error.value).startswith("params.yaml: 1 problem(s):\n") and problem in str(error.value)


def test_the_committed_settings_of_every_method_are_valid(raw_params: dict):
    params = load(ROOT / "params.yaml")
    for kind in ("generators", "detectors"):
        for name in methods(kind):
            module = importlib.import_module(f"lib.{kind}.{name}")
            assert params.section(name, module.Settings).model_dump(mode="json") == raw_params[name]


def test_detectors_that_learn_from_defects_have_an_arm_for_every_generator(raw_params: dict):
    params = load(ROOT / "params.yaml")
    assert params.arms("unet") == ("none", "placebo", *params.generators)
    assert params.arms("patchcore") == ("none", "placebo")


@pytest.mark.parametrize("text", ["a: [", "", "- a\n- b\n"])
def test_a_file_that_holds_no_mapping_is_refused_by_its_name(tmp_path: Path, text: str):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"params\.yaml: "):
        load(path)


@pytest.mark.parametrize("path", ["data", ".", "data/prepared", "data/masks/nut", "models", str(ROOT)])
def test_pictures_lie_where_no_stage_writes(tmp_path: Path, raw_params: dict, path: str, monkeypatch):
    monkeypatch.chdir(ROOT)
    message = refusal(tmp_path, raw_params, "dataset.path", path)
    assert "  dataset.path: " in message and "the pipeline writes to " in message and "data/NAME" in message


@pytest.mark.parametrize("path", ["", "data/" + "x" * 5000])
def test_a_data_set_has_a_path_that_can_be(tmp_path: Path, raw_params: dict, path: str):
    message = refusal(tmp_path, raw_params, "dataset.path", path)
    assert "  dataset.path: " in message and "expected a folder of pictures, such as data/NAME" in message


@pytest.mark.parametrize("place", ["../parts.csv", "/etc/parts.csv"])
def test_a_table_of_groups_lies_in_the_data_set(raw_params, place):
    values = {**raw_params["dataset"], "group_table": place, "group_column": "part"}
    with pytest.raises(ValueError, match="group_table: expected a file in dataset"):
        Dataset.model_validate(values)


@pytest.mark.parametrize(("key", "value"), [("group_table", "sources.csv"), ("group_column", "sheet")])
def test_a_table_of_groups_needs_its_column_and_a_column_its_table(
    tmp_path: Path, raw_params: dict, key: str, value: str
):
    message = refusal(tmp_path, raw_params, f"dataset.{key}", value)
    assert "  dataset: " in message and "group_table and group_column belong together" in message


def test_groups_have_one_source(tmp_path: Path, raw_params: dict):
    values = {**raw_params["dataset"], "group_table": "sources.csv", "group_column": "sheet"}
    assert "not both" in refusal(tmp_path, {**raw_params, "dataset": values}, "dataset.group_pattern", "(.*)_")


@pytest.mark.parametrize("name", ["a b", "a;rm", "../up", "-rf", "a/b", "$HOME", "a\n", "", "ä", "x" * 65])
@pytest.mark.parametrize("key", ["dataset.categories", "generators", "detectors"])
def test_names_unfit_for_a_path_or_a_shell_are_refused(tmp_path: Path, raw_params: dict, key: str, name: str):
    assert f"  {key}.0: " in refusal(tmp_path, raw_params, key, [name])


def leaves(value: Any, path: str = "") -> list[str]:
    if not isinstance(value, dict):
        return [path]
    return [leaf for key, inner in value.items() for leaf in leaves(inner, f"{path}.{key}" if path else key)]


def test_every_key_is_read_by_some_stage(raw_params: dict):
    """As an attribute in the code, or as a template in the pipeline; the declaration alone does not count."""
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("lib", "stages")
        for path in (ROOT / folder).rglob("*.py")
        if path != ROOT / "lib/core/params.py"
    )
    templates = "\n".join(path.read_text(encoding="utf-8") for path in [ROOT / "dvc.yaml"] if path.exists())
    idle = [
        key
        for key in leaves(raw_params)
        if not re.search(rf"\.{key.rpartition('.')[2]}\b(?!\()", code) and f"${{{key}}}" not in templates
    ]
    assert not idle, f"nothing reads {idle}"


LISTS = [
    f"{section}.{key}" if key else section
    for section, values in yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")).items()
    for key, value in (values.items() if isinstance(values, dict) else [("", values)])
    if isinstance(value, list)
]


@pytest.mark.parametrize("key", LISTS)
def test_dvc_can_make_any_list_empty_and_long_again_and_keeps_all_comments(tmp_path: Path, raw_params: dict, key: str):
    file = tmp_path / "params.yaml"
    file.write_bytes((ROOT / "params.yaml").read_bytes())
    comments = file.read_text(encoding="utf-8").count("# ")
    for items in (["a"], [], ["a", "b", "c"], []):
        apply_overrides(file, [f"{key}=[{','.join(items)}]"])
        expected = copy.deepcopy(raw_params)
        section, _, name = key.partition(".")
        (expected[section] if name else expected)[name or section] = items
        assert yaml.safe_load(file.read_text(encoding="utf-8")) == expected
        assert file.read_text(encoding="utf-8").count("# ") == comments
