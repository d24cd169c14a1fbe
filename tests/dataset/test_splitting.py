"""Splitting: a capture group lies in one part, every part can do its work, and leaks are found."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lib.core.defects import defect_mask
from lib.core.params import Dataset, Split
from lib.core.records import GOOD, Sample, read_records
from lib.dataset.annotations import Annotation, Rectangle, Region
from lib.dataset.findings import DatasetProblems
from lib.dataset.pictures import Picture
from lib.dataset.splitting import assign_splits, leaks, near_duplicates, thinned
from tests.reading import split_category

ROOT = Path(__file__).parents[2]
FIRST_THIRD = Split(rule="first_third", shots=6, val_fraction=0.34)
GIVEN = Split(rule="given", shots=6, val_fraction=0.34)
SHOTS = Split(rule="shots", shots=6, val_fraction=0.34)


def pictures_of(defect_type: str, number: int, folder: str = "") -> list[Picture]:
    return [Picture(defect_type, folder, Path(f"{index}.png")) for index in range(number)]


def parts(pictures: list[Picture], split: Split, groups: dict[str, str] | None = None) -> list[str]:
    """The part of every picture, in order; without groups every picture is its own."""
    own = {picture.id: picture.id for picture in pictures} | (groups or {})
    part_of = assign_splits(pictures, own, split)
    return [part_of[own[picture.id]] for picture in pictures]


def in_fold(split: Split, fold: int) -> Split:
    return Split(**split.model_dump() | {"fold": fold})


def test_the_first_third_of_a_type_by_natural_name_is_for_fitting():
    assert parts(pictures_of("crack", 18), FIRST_THIRD) == ["train"] * 4 + ["val"] * 2 + ["test"] * 12


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (2, ["train", "test"]),
        (3, ["train", "val", "test"]),
        (5, ["train", "val", "test", "test", "test"]),
    ],
)
def test_few_pictures_still_leave_one_for_test(number, expected):
    assert parts(pictures_of("crack", number), FIRST_THIRD) == expected


def test_shots_are_counted_in_pictures_and_taken_in_whole_groups():
    groups = {f"crack-{index}": f"tile{index // 3}" for index in range(12)}
    assert parts(pictures_of("crack", 12), SHOTS, groups) == ["train"] * 3 + ["val"] * 3 + ["test"] * 6
    assert parts(pictures_of("crack", 20), SHOTS) == ["train"] * 4 + ["val"] * 2 + ["test"] * 14


def test_the_smaller_group_is_for_validation():
    groups = {f"crack-{index}": "small" if index < 2 else f"tile{(index - 2) // 6}" for index in range(32)}
    assert Counter(parts(pictures_of("crack", 32), FIRST_THIRD, groups)) == {"train": 6, "val": 2, "test": 24}


def test_a_group_of_two_types_lies_in_one_part_and_leaves_both_types_their_test_pictures():
    pictures = pictures_of("crack", 3) + pictures_of("dent", 6)
    groups = {"crack-0": "shared", "dent-5": "shared"}
    assert parts(pictures, FIRST_THIRD, groups) == ["train", "val", "test", "val", *["test"] * 4, "train"]


@pytest.mark.parametrize("split", [FIRST_THIRD, SHOTS], ids=["first_third", "shots"])
def test_three_folds_fit_on_three_sets_of_defects_that_have_none_in_common(split):
    known = []
    for fold in (0, 1, 2):
        turned = parts(pictures_of("crack", 18), in_fold(split, fold))
        known.append({index for index, part in enumerate(turned) if part != "test"})
        assert Counter(turned) == {"train": 4, "val": 2, "test": 12}
    assert known == [set(range(6)), set(range(6, 12)), set(range(12, 18))]


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (2, ["train test", "test train", "test train"]),
        (3, ["train val test", "test train val", "val test train"]),
        (4, ["train val test test", "test train val test", "val test test train"]),
        (5, ["train val test test test", "test test train val test", "test test test train val"]),
    ],
)
def test_a_fold_begins_later_in_the_series_and_goes_on_at_its_start(number, expected):
    pictures = pictures_of("crack", number)
    assert [" ".join(parts(pictures, in_fold(FIRST_THIRD, fold))) for fold in (0, 1, 2)] == expected


def test_a_fold_turns_good_pictures_without_folders_and_leaves_a_test_folder_alone():
    for fold, test in ((0, {6, 7, 8}), (1, {0, 1, 2}), (2, {3, 4, 5})):
        found = parts(pictures_of(GOOD, 9), in_fold(FIRST_THIRD, fold))
        assert {index for index, part in enumerate(found) if part == "test"} == test
    kept = pictures_of(GOOD, 6, "train") + pictures_of(GOOD, 3, "test")
    assert parts(kept, FIRST_THIRD) == parts(kept, in_fold(FIRST_THIRD, 1))


def test_given_parts_have_one_fold():
    with pytest.raises(ValueError, match=r"fold.*given"):
        in_fold(GIVEN, 1)


def test_good_pictures_keep_to_their_folders_and_validation_is_spread_over_the_series():
    pictures = pictures_of("good", 9, "train") + pictures_of("good", 3, "test")
    spread = ["train", "val", "train", "train", "val", "train", "train", "val", "train"]
    assert parts(pictures, FIRST_THIRD) == spread + ["test"] * 3


def test_without_folders_the_last_third_of_the_good_pictures_is_test():
    assert parts(pictures_of("good", 9), FIRST_THIRD)[6:] == ["test"] * 3
    assert "test" not in parts(pictures_of("good", 9), FIRST_THIRD)[:6]


def test_good_pictures_follow_the_defects_of_their_group_against_their_folder():
    pictures = pictures_of("crack", 3, "test") + pictures_of("good", 2, "train") + pictures_of("good", 1, "test")
    groups = {"crack-test-2": "a", "good-train-0": "a", "crack-test-0": "b", "good-test-0": "b"}
    assert parts(pictures, FIRST_THIRD, groups) == ["train", "val", "test", "test", "train", "train"]


def test_a_good_group_in_both_folders_is_held_out():
    pictures = pictures_of("good", 2, "train") + pictures_of("good", 1, "test")
    assert parts(pictures, FIRST_THIRD, {"good-train-1": "a", "good-test-0": "a"}) == ["train", "test", "test"]


def test_given_parts_are_kept_and_the_later_one_has_a_group_that_lies_in_two():
    pictures = [*pictures_of("hole", 4, "train"), *pictures_of(GOOD, 2, "val"), *pictures_of("dirt", 3, "test")]
    groups = {picture.id: picture.id for picture in pictures}
    groups[pictures[0].id] = groups[pictures[-1].id]
    expected = ["test", *["train"] * 3, *["val"] * 2, *["test"] * 3]
    assert parts(pictures, GIVEN, groups) == expected


def test_without_a_given_val_part_it_is_spread_over_train_of_defects_and_good_ones_alike():
    pictures = [*pictures_of("hole", 6, "train"), *pictures_of(GOOD, 3, "train"), *pictures_of("hole", 2, "test")]
    found = parts(pictures, GIVEN)
    assert found[:6].count("val") == 2 and found[6:9].count("val") == 1 and found[9:] == ["test"] * 2
    assert "val" not in found[:1] and found[:6].count("train") == 4


@settings(max_examples=60)
@given(
    rows=st.lists(st.tuples(st.sampled_from(["crack", "dent", "good"]), st.integers(0, 12)), min_size=1, max_size=60),
    rule=st.sampled_from(["first_third", "shots"]),
    shots=st.integers(2, 20),
    fraction=st.floats(0.01, 0.99),
    fold=st.sampled_from([0, 1, 2]),
    folders=st.booleans(),
)
def test_whatever_the_groups_are_each_gets_one_part_whatever_the_order_of_the_pictures(
    rows, rule, shots, fraction, fold, folders
):
    split = Split(rule=rule, shots=shots, val_fraction=fraction, fold=fold)
    pictures = [
        Picture(kind, "" if not folders else "train" if kind == "good" and index % 2 else "test", Path(f"{index}.png"))
        for index, (kind, _) in enumerate(rows)
    ]
    groups = {picture.id: f"tile{group}" for picture, (_, group) in zip(pictures, rows, strict=True)}
    part_of = assign_splits(pictures, groups, split)
    assert part_of.keys() == set(groups.values()) and set(part_of.values()) <= {"train", "val", "test"}
    assert assign_splits(pictures[::-1], groups, split) == part_of
    for alone in ("crack", "dent"):  # a type that shares no group with the other one
        own, other = (
            {groups[one.id] for one in pictures if (one.defect_type == alone) is this} for this in (True, False)
        )
        if len(own) > 1 and not own & other:
            assert {"train", "test"} <= {part_of[group] for group in own}


def sample(name: str, split: str, group: str, sha256: str) -> Sample:
    return Sample(name, "nut", "good", f"nut/{name}.png", None, group, split, (8, 8), sha256)


def test_a_planted_duplicate_file_is_a_leak_and_so_is_a_shared_group():
    clean = [sample("a", "train", "1", "aa"), sample("b", "val", "2", "bb"), sample("c", "test", "3", "cc")]
    assert leaks(clean) == []
    (content,) = leaks([*clean, sample("d", "test", "4", "aa")])
    assert "content aa is in more than one part: nut/d.png in test, nut/a.png" in content
    (group,) = leaks([*clean, sample("d", "test", "2", "dd")])
    assert "capture group 2 is in more than one part" in group


def test_near_duplicates_are_looked_for_across_parts_only_and_the_closest_comes_first():
    samples = [sample("a", "train", "1", "a"), sample("b", "val", "2", "b"), sample("c", "test", "3", "c")]
    hashes = {"a": 2**64 - 1, "b": 2**64 - 1, "c": 2**64 - 8}
    assert [(one.id, two.id) for one, two in near_duplicates(samples, hashes)] == [("a", "c"), ("b", "c")]
    assert near_duplicates([replace(one, split="test") for one in samples], hashes) == []
    assert [one.id for one, _ in near_duplicates(samples, hashes | {"b": 2**64 - 8})] == ["b", "a"]
    assert near_duplicates(samples, hashes | {"c": 0}) == []


def defect(name: str, defect_type: str, split: str, group: str) -> Sample:
    return replace(sample(name, split, group, name), defect_type=defect_type)


@pytest.mark.parametrize(("fraction", "kept"), [(1.0, 4), (0.75, 3), (0.5, 2), (0.51, 3), (0.3, 2), (0.01, 1)])
def test_a_fraction_of_the_train_defects_stays_and_all_else_is_as_it_was(fraction, kept):
    samples = [sample("g", "train", "g", "g"), *(defect(f"{n}", "crack", "train", f"{n}") for n in (10, 9, 8, 7))]
    samples += [defect("1", "crack", "val", "1"), defect("2", "crack", "test", "2")]
    left = thinned(samples, fraction)
    assert [one.id for one in left] == ["g", *[f"{n}" for n in (10, 9, 8, 7) if n < 7 + kept], "1", "2"]


def test_a_group_that_one_of_its_types_keeps_stays_whole():
    both = defect("1", "crack", "train", "a"), defect("2", "dent", "train", "a")
    alone = [defect("0", "dent", "train", "b"), defect("3", "crack", "train", "c"), sample("4", "train", "c", "4")]
    assert [one.id for one in thinned([*both, *alone], 0.5)] == ["1", "2", "0", "4"]


@given(
    rows=st.lists(
        st.tuples(st.sampled_from(["crack", "dent", GOOD]), st.sampled_from(["train", "test"]), st.integers(0, 4))
    ),
    fraction=st.floats(0.01, 1),
)
def test_whatever_is_thinned_no_group_is_split_and_no_type_is_lost(rows, fraction):
    samples = [defect(f"{n}", kind, part, f"{part}{group}") for n, (kind, part, group) in enumerate(rows)]
    left = thinned(samples, fraction)
    gone = [one for one in samples if one not in left]
    assert all(one.split == "train" and one.defect_type != GOOD for one in gone)
    assert not {one.group for one in gone} & {one.group for one in left if one.defect_type != GOOD}
    assert {one.defect_type for one in left} == {one.defect_type for one in samples}
    assert fraction < 1 or left == samples


def write_category(base: Path) -> None:
    """Nine good and nine cracked pictures in plain folders."""
    for folder in ("good", "crack", "masks/crack"):
        (base / folder).mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(9):
        for kind in ("good", "crack"):
            Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(base / kind / f"{number}.png")
        Image.fromarray(np.pad(np.full((4, 4), 255, np.uint8), ((8, 12), (8, 20)))).save(
            base / f"masks/crack/{number}.png"
        )


def dataset(root: Path) -> Dataset:
    return Dataset(
        path=str(root), categories=("nut",), group_table=None, group_column=None, group_pattern=None, depth="auto"
    )


def test_a_category_that_cannot_fill_its_parts_is_refused_with_every_reason(tmp_path):
    write_category(tmp_path / "nut")
    one_group = dataset(tmp_path).model_copy(update={"group_pattern": "(nut)"})
    with pytest.raises(DatasetProblems) as raised:
        split_category(one_group, FIRST_THIRD, "nut")
    said = str(raised.value)
    assert "train part has no good pictures" in said and "the defect type crack has no pictures in the train" in said


def test_a_type_with_a_single_picture_to_learn_from_is_warned_of(tmp_path):
    write_category(tmp_path / "nut")
    assert split_category(dataset(tmp_path), FIRST_THIRD, "nut")[1]["warnings"] == []
    for number in range(4, 9):
        (tmp_path / f"nut/crack/{number}.png").unlink()
        (tmp_path / f"nut/masks/crack/{number}.png").unlink()
    [warning] = split_category(dataset(tmp_path), FIRST_THIRD, "nut")[1]["warnings"]
    assert warning.startswith("1 defect type(s) have a single picture in the train part: crack. ")


def test_half_of_the_defects_train_beside_the_same_val_and_test_parts(tmp_path):
    write_category(tmp_path / "nut")
    whole, half = (
        split_category(dataset(tmp_path), FIRST_THIRD.model_copy(update={"train_fraction": share}), "nut")
        for share in (1.0, 0.5)
    )
    assert whole[1]["counts"]["train"] == {GOOD: 4, "crack": 2} and half[1]["counts"]["train"] == {GOOD: 4, "crack": 1}
    assert half[1]["split"]["train_fraction"] == 0.5 and "single picture" in half[1]["warnings"][1]
    assert half[1]["warnings"][0] == "split.train_fraction leaves out 1 defect picture(s) of the train part"
    assert [one for one in half[0] if one.split != "train"] == [one for one in whole[0] if one.split != "train"]


def test_a_fraction_that_leaves_out_nothing_says_so(tmp_path):
    """All known defects of a type may be of one part, which is not taken apart."""
    write_category(tmp_path / "nut")
    rows = [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.glob("nut/*/*.png"))]
    table = "".join(f"{row},{'one' if 'crack' in row and int(Path(row).stem) < 4 else row}\n" for row in rows)
    (tmp_path / "groups.csv").write_text(f"path,part\n{table}")
    grouped = dataset(tmp_path).model_copy(update={"group_table": "groups.csv", "group_column": "part"})
    counts, warnings = [], []
    for share in (1.0, 0.1):
        summary = split_category(grouped, FIRST_THIRD.model_copy(update={"train_fraction": share}), "nut")[1]
        counts.append(summary["counts"])
        warnings.append([one for one in summary["warnings"] if "train_fraction" in one])
    assert counts[0] == counts[1] and warnings[0] == []
    assert warnings[1] == [
        "split.train_fraction leaves out 0 defect picture(s) of the train part, none with crack, since capture groups "
        "stay whole"
    ]


def test_a_near_copy_in_another_part_is_warned_of_with_both_names(tmp_path):
    write_category(tmp_path / "nut")
    pixels = np.array(Image.open(tmp_path / "nut/good/0.png"))
    pixels[5, 5] ^= 1
    Image.fromarray(pixels).save(tmp_path / "nut/good/8.png")
    warnings = split_category(dataset(tmp_path), FIRST_THIRD, "nut")[1]["warnings"]
    assert len(warnings) == 1 and "good/0.png ~ " in warnings[0] and "good/8.png" in warnings[0]


def test_a_type_may_be_called_mixed_and_is_one_type_as_long_as_no_annotation_tells_several(tmp_path):
    write_category(tmp_path / "nut")
    for folder in ("crack", "masks/crack"):
        (tmp_path / "nut" / folder).rename(tmp_path / "nut" / folder.replace("crack", "mixed"))
    samples, summary = split_category(dataset(tmp_path), FIRST_THIRD, "nut")
    defects = [one for one in samples if one.defect_type != GOOD]
    assert {one.defect_type for one in defects} == {"mixed"} and summary["counts"]["test"]["mixed"] == 6
    assert not any(one.type_map for one in samples) and all(defect_mask(one, "mixed").sum() == 16 for one in defects)


def test_a_type_called_mixed_is_split_apart_from_pictures_of_several_types():
    box = Rectangle((1, 1, 3, 3))
    both = Annotation(Path("notes.json"), (Region("crack", box), Region("dent", box)))
    pictures = [Picture("mixed", "", Path(f"{number}.png"), annotation=both) for number in range(9)]
    alone = Annotation(Path("notes.json"), (Region("mixed", box),))
    pictures += [Picture("mixed", "", Path(f"{number}.png"), annotation=alone) for number in range(9, 18)]
    expected = ["train", "train", "val", *["test"] * 6]
    assert parts(pictures, FIRST_THIRD) == expected * 2
    assert parts([*pictures[:9], *pictures_of("mixed", 18)[9:]], FIRST_THIRD) == expected * 2


def prepare(folder: Path, categories: list[str]) -> subprocess.CompletedProcess[str]:
    settings = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    settings["dataset"] |= {"path": "../pictures", "categories": categories}
    (folder / "params.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    command = [sys.executable, str(ROOT / "stages/prepare.py")]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_stage_writes_both_files_twice_alike_and_keeps_them_when_the_data_set_breaks(tmp_path):
    write_category(tmp_path / "pictures/nut")
    (tmp_path / "project").mkdir()
    out = tmp_path / "project/data/prepared/nut"

    assert prepare(tmp_path / "project", ["nut"]).returncode == 0
    first = {file.name: file.read_bytes() for file in out.iterdir()}
    assert prepare(tmp_path / "project", ["nut"]).returncode == 0
    assert {file.name: file.read_bytes() for file in out.iterdir()} == first and len(first) == 2

    samples = read_records(out / "samples.jsonl", Sample)
    summary = json.loads(first["split.json"])
    assert [one.id for one in samples] == sorted(one.id for one in samples) and len(samples) == 18
    assert samples[0].image == "../pictures/nut/crack/0.png" and samples[0].mask == "../pictures/nut/masks/crack/0.png"
    assert samples[0].size == (32, 24)
    assert summary["counts"] == {
        "train": {"crack": 2, "good": 4},
        "val": {"crack": 1, "good": 2},
        "test": {"crack": 6, "good": 3},
    }
    assert summary["sha256"]["train"][samples[0].image] == samples[0].sha256

    (tmp_path / "pictures/nut/masks/crack/3.png").unlink()
    (tmp_path / "pictures/nut/good/3.png").write_bytes(b"")
    failed = prepare(tmp_path / "project", ["nut", "bolt"])
    assert failed.returncode == 2 and "3 problem(s)" in failed.stderr, "those of all categories in one list"
    assert all(name in failed.stderr for name in ("crack/3.png", "good/3.png", "bolt: this folder is missing"))
    assert {file.name: file.read_bytes() for file in out.iterdir()} == first
