"""Settings for a data set, as a pure function of what was seen of it."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lib.core.params import Dataset, Split
from lib.dataset.findings import Findings
from lib.proposal import Facts, choices, group_table, scale_for, settings_of, split_for, window_for

GOOD_BOTH = {("a", "good"): frozenset({"train", "test"})}
PLAIN = Facts(
    dataset=Dataset(
        path="data/mine", categories=("a",), group_table=None, group_column=None, group_pattern=None, depth="auto"
    ),
    reason="a: read as mvtec: the folders train and test",
    parts={**GOOD_BOTH, ("a", "dent"): frozenset({"test"})},
    numbers={("a", "dent"): 12},
    single=True,
    shortest=400,
    longest=500,
    short=(20,),
    long=(40,),
    megapixels=0.2,
    mixed=False,
    grouping="",
)


@pytest.mark.parametrize(
    ("shortest", "longest", "short", "scale"),
    [
        (400, 500, (400,), 1.0),  # small pictures stay as they are, whatever is on them
        (640, 640, (400,), 1.0),
        (640, 641, (400,), 0.5),
        (1000, 1280, (40, 60), 0.5),
        (1000, 1281, (40, 60), 0.25),
        (1000, 1024, (15, 100, 100, 100), 0.5),  # a quarter of the defects may be small
        (1000, 1024, (15, 15, 100, 100), 1.0),  # 7.5 px would be left of them
        (1000, 1024, (16, 16, 100, 100), 0.5),
        (4000, 6000, (500,), 0.125),  # no smaller than that
        (100, 5000, (90,), 1.0),  # a strip has to stay as high as it takes
        (260, 5000, (90,), 0.25),
    ],
)
def test_large_pictures_are_seen_smaller_as_long_as_small_defects_stay_visible(shortest, longest, short, scale):
    facts = replace(PLAIN, shortest=shortest, longest=longest, short=short)
    chosen, reason = scale_for(facts)
    assert chosen == scale and str(longest) in reason
    assert chosen == 1 or np.quantile(short, 0.25) * chosen >= 8
    if "vanish" in reason:
        assert np.quantile(short, 0.25) * chosen < 16
    if "narrowest picture" in reason:
        assert shortest * chosen < 128


@pytest.mark.parametrize(
    ("shortest", "scale", "long", "window"),
    [
        (400, 1.0, (40,), 128),
        (400, 0.25, (40,), 96),  # 100 px are left
        (105, 1.0, (40,), 96),
        (20, 1.0, (10,), 32),  # the least that a detector takes
        (400, 1.0, (128,), 128),
        (400, 1.0, (129,), 192),
        (400, 0.5, (129,), 128),
        (400, 1.0, (1000,), 256),
        (150, 1.0, (1000,), 144),
        (400, 1.0, (10, 10, 1000), 128),
    ],
)
def test_windows_fit_into_pictures_and_around_most_defects(shortest, scale, long, window):
    chosen, reason = window_for(replace(PLAIN, shortest=shortest, long=long), scale)
    assert chosen == window and chosen % 16 == 0 and "px after scaling" in reason


BOTH = frozenset({"train", "test"})


@pytest.mark.parametrize(
    ("parts", "numbers", "rule", "shots"),
    [
        ({**GOOD_BOTH, ("a", "dent"): frozenset({"test"})}, (12,), "first_third", None),
        ({**GOOD_BOTH, ("a", "dent"): frozenset({""})}, (12,), "first_third", None),
        ({**GOOD_BOTH, ("a", "dent"): BOTH}, (12,), "given", None),
        ({**GOOD_BOTH, ("a", "dent"): BOTH, ("a", "cut"): frozenset({"test"})}, (12, 12), "first_third", None),
        ({("a", "good"): frozenset({"train"}), ("a", "dent"): BOTH}, (12,), "first_third", None),  # nothing to test on
        ({**GOOD_BOTH, ("a", "dent"): BOTH | {"val"}}, (12,), "first_third", None),  # val lacks good pictures
        ({("a", "good"): BOTH | {"val"}, ("a", "dent"): BOTH}, (12,), "first_third", None),  # and here defects
        ({("a", "good"): BOTH | {"val"}, ("a", "dent"): BOTH | {"val"}}, (12,), "given", None),
        ({**GOOD_BOTH, ("a", "dent"): BOTH | {""}}, (12,), "first_third", None),
        (PLAIN.parts, (3,), "first_third", None),
        (PLAIN.parts, (5, 40), "first_third", None),
        (PLAIN.parts, (6,), "shots", 3),
        (PLAIN.parts, (8, 14), "shots", 4),
        (PLAIN.parts, (8, 15), "first_third", None),  # 4 of 15 would be fewer than a third
        (PLAIN.parts, (9,), "first_third", None),
    ],
)
def test_the_rule_of_the_split(parts, numbers, rule, shots):
    facts = replace(PLAIN, parts=parts, numbers={("a", str(n)): number for n, number in enumerate(numbers)})
    values = {choice.key: choice.value for choice in split_for(facts)}
    assert values["split.rule"] == rule and values.get("split.shots") == shots
    of_groups = {choice.key: choice.value for choice in split_for(replace(facts, single=False))}
    assert of_groups.get("split.shots") is None, "shots are pictures, and here these are groups of several"


@pytest.mark.parametrize("thorough", [False, True])
def test_every_choice_has_a_reason_in_one_line(thorough: bool):
    chosen = choices(PLAIN, thorough)
    assert len({choice.key for choice in chosen}) == len(chosen)
    for choice in chosen:
        assert len(choice.reason) > 10 and "\n" not in choice.reason, choice
    settings = settings_of(chosen)
    assert settings["dataset"]["path"] == "data/mine" and settings["detectors"][:2] == ["unet", "patchcore"]
    assert settings["detect"]["learning_rate"] == 0.003 and settings["unet"]["encoder_rate"] == 0.1
    assert (settings["detect"]["steps"] == 600, len(settings["detect"]["seeds"])) == (thorough, 3 if thorough else 1)


def test_given_parts_go_with_the_first_fold_whatever_params_yaml_had():
    settings = settings_of(choices(replace(PLAIN, parts={**GOOD_BOTH, ("a", "dent"): BOTH})))
    assert Split(**settings["split"], shots=6, val_fraction=0.34).fold == 0 and settings["split"]["rule"] == "given"


def test_types_are_told_apart_where_pictures_show_several():
    for mixed, classes in ((False, "defect"), (True, "types")):
        assert settings_of(choices(replace(PLAIN, mixed=mixed)))["unet"]["classes"] == classes


def test_what_capture_groups_mean_is_told():
    told = {choice.key: choice.reason for choice in choices(PLAIN)}
    assert "none are known" in told["dataset.group_table"] and "flatters" in told["dataset.group_table"]
    known = PLAIN.dataset.model_copy(update={"group_table": "t.csv", "group_column": "part"})
    told = {choice.key: choice.reason for choice in choices(replace(PLAIN, dataset=known))}
    assert "stay in one part" in told["dataset.group_table"] == told["dataset.group_column"]


NAMES = {f"a/good/{number}.png" for number in range(6)}


@pytest.mark.parametrize(
    ("column", "values", "found"),
    [
        ("part", "aabbcc", 3),
        ("Serial_No", "aabbcc", 3),
        ("capture_group", "aab", 2),  # half of the pictures are enough
        ("part", "aa", None),
        ("part", "abcdef", None),  # nothing repeats
        ("part", "aaaaaa", None),  # all are one
        ("weight", "aabbcc", None),
        ("workpieceID", "aabbcc", 3),
        ("Part No.", "aabbcc", 3),
        ("captureGroup", "aabbcc", 3),
        ("part_type", "aabbcc", None),
        ("object_class", "aabbcc", None),
        ("board_version", "aabbcc", None),
        ("group size", "aabbcc", None),
        ("opposition", "aabbcc", None),
        ("particle", "aabbcc", None),
        ("department", "aabbcc", None),
    ],
)
def test_a_table_of_capture_groups_is_found_by_its_columns(tmp_path: Path, column: str, values: str, found):
    rows = [[name, "x", value] for name, value in zip(sorted(NAMES), values, strict=False)]
    with open(tmp_path / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows([["path", "note", column], *rows])
    table = group_table(tmp_path, NAMES, Findings())
    assert (table and (table.name, table.column, table.groups)) == (found and ("list.csv", column, found))


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_table_of_capture_groups_is_found_whatever_separates_its_columns_and_however_path_is_written(tmp_path, mark):
    rows = [["Path", "Part"], *([name, "aabbcc"[n]] for n, name in enumerate(sorted(NAMES)))]
    (tmp_path / "list.csv").write_text("\n".join(mark.join(row) for row in rows), encoding="utf-8-sig")
    assert group_table(tmp_path, NAMES, Findings()) == ("list.csv", "Part", 3, 6)


def test_tables_that_say_parts_or_cannot_be_read_are_passed_over(tmp_path: Path):
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "b.csv").write_text("name,part\nx,1\n")
    (tmp_path / "c.csv").write_text(
        "path,part\n" + "".join(f"{name},{('Train', 'test')[n % 2]}\n" for n, name in enumerate(NAMES))
    )
    rows = "".join(f".\\{name.replace('/', chr(92))},{n % 2}\n" for n, name in enumerate(sorted(NAMES)))
    (tmp_path / "d.csv").write_text("path,position\n" + rows)
    findings = Findings()
    table = group_table(tmp_path, NAMES, findings)
    [told] = findings.warnings
    assert "a.csv: cannot be read as text in UTF-8" in told and "dataset.group_table" in told
    assert table and table.name == "d.csv" and (table.groups, table.pictures) == (2, 6)
