"""Review: verdicts hit the picture that was seen and no other, corrected masks fit, all faults are told at once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lib.core.errors import UserError
from lib.core.geometry import box_mask
from lib.core.images import read_image, read_mask, write_png
from lib.core.params import Params
from lib.core.records import Sample, Synthetic
from lib.core.runtime import write_text
from lib.labels.labelling import label_all
from lib.labels.masks import only_what_changed
from lib.labels.review import MASKS, REVIEW, read_verdicts, rejected_corrections
from tests.category import CATEGORY
from tests.labels.test_labelling import FINAL, synthetic

GENERATOR = "perlin"
CORRECTED = (14, 14, 30, 20)  # half of it is not measured as change


def row(record: Synthetic, verdict: str = "bad", **changes: str) -> str:
    values = {"category": CATEGORY, "generator": GENERATOR, "placement": record.placement, "sha256": str(record.sha256)}
    return ",".join((values | {"verdict": verdict, "note": ""} | changes).values())


def write_review(*rows: str) -> None:
    write_text(REVIEW.path, "\n".join([",".join(REVIEW.columns), *rows, ""]))


def write_mask(record: Synthetic, box: tuple[int, int, int, int] = CORRECTED, size: tuple[int, int] = (48, 48)) -> Path:
    path = MASKS / GENERATOR / CATEGORY / f"{record.placement}.png"
    write_png(path, box_mask(box, *size))
    return path


def labelled(params: Params, real: dict[str, Sample], *records: Synthetic) -> tuple[list[Synthetic], dict, str]:
    verdicts, told = read_verdicts(GENERATOR, {CATEGORY: records})
    rows, numbers, _ = label_all(params, real, list(records), Path("out"), FINAL, verdicts[CATEGORY])
    return rows, numbers, told


def problems(*records: Synthetic) -> list[str]:
    with pytest.raises(UserError) as caught:
        read_verdicts(GENERATOR, {CATEGORY: records})
    return str(caught.value).splitlines()


def test_without_a_table_nothing_is_said(params: Params, real: dict):
    [one], numbers, told = labelled(params, real, synthetic(0))
    assert one.accepted and told == "" and numbers["review"] == {"bad": 0, "masks": 0, "stale": 0}
    REVIEW.path.parent.mkdir(parents=True)
    (REVIEW.path.parent / "README.md").touch()
    assert labelled(params, real, synthetic(0))[0] == [one]


def test_what_a_person_refuses_is_rejected_and_nothing_else_changes(params: Params, real: dict):
    before, *_ = labelled(params, real, *map(synthetic, range(3)))
    write_review(row(synthetic(1), note="a smudge"))
    after, numbers, told = labelled(params, real, *map(synthetic, range(3)))
    assert after == [before[0], replace(before[1], accepted=False, reason="reviewed"), before[2]]
    assert numbers["rejected"] == {"reviewed": 1} and numbers["accepted"] == 2
    assert numbers["review"] == {"bad": 1, "masks": 0, "stale": 0}
    assert told == "data/review/review.csv: samples refused: 1, masks corrected: 0"


def test_the_reason_of_a_person_stands_above_that_of_the_gate(params: Params, real: dict):
    faint = synthetic(0)
    digest = write_png(Path(str(faint.image)), read_image(Path(real[str(faint.normal)].image)))
    faint = replace(faint, sha256=digest)
    assert labelled(params, real, faint)[0][0].reason == "no visible change"
    write_review(row(faint))
    assert labelled(params, real, faint)[0][0].reason == "reviewed"


def test_the_record_keeps_the_digest_of_the_painted_picture_by_which_rows_name_it(params: Params, real: dict):
    measured, known = labelled(params, real, synthetic(0), synthetic(1, known=True))[0]
    assert measured.painted_sha256 == synthetic(0).sha256 != measured.sha256, "trimmed to its mask"
    assert known.painted_sha256 == known.sha256
    assert (measured.mask_source, known.mask_source) == ("measured", "known")


def test_a_verdict_on_a_picture_that_was_painted_anew_is_stale_and_hits_nothing(params: Params, real: dict):
    failed = replace(synthetic(1), image=None, sha256=None, reason="non-finite output")
    write_review(
        row(synthetic(0), sha256="0" * 64),
        row(synthetic(1)),
        row(synthetic(0), placement="slab-gone"),
        row(synthetic(0), category="elsewhere"),
        row(synthetic(0), generator="cutpaste"),
    )
    [record, _], numbers, told = labelled(params, real, synthetic(0), failed)
    assert record.accepted and numbers["review"] == {"bad": 0, "masks": 0, "stale": 3}
    assert told.endswith("; rows that name no sample, since it was painted anew or is gone: 4 (lines 2, 3, 4, 5)")


def test_a_corrected_mask_is_the_label_and_what_the_painted_picture_keeps(params: Params, real: dict):
    record = synthetic(0)
    raw, normal = read_image(Path(str(record.image))), read_image(Path(real[str(record.normal)].image))
    write_review(row(record, "mask"))
    write_mask(record)
    [after], numbers, told = labelled(params, real, record)
    mask = box_mask(CORRECTED, 48, 48)
    assert np.array_equal(read_mask(Path("out/masks") / f"{record.placement}.png"), mask)
    image = read_image(Path("out/images") / f"{record.placement}.png")
    assert np.array_equal(image, only_what_changed(raw, normal, mask, params.synth.feather))
    assert after.mask_source == "corrected" and after.scores["area"] == mask.sum()
    assert after.painted_sha256 == record.sha256, "so that the row still names it"
    assert "method" not in after.knobs and numbers["review"]["masks"] == 1 and "masks corrected: 1" in told


def test_a_corrected_mask_replaces_a_known_one_and_no_unlabelled_defect_lies_beside_it(params: Params, real: dict):
    record = synthetic(0, known=True)
    raw, normal = read_image(Path(str(record.image))), read_image(Path(real[str(record.normal)].image))
    write_review(row(record, "mask"))
    write_mask(record)
    [after], *_ = labelled(params, real, record)
    mask = box_mask(CORRECTED, 48, 48)
    assert after.mask_source == "corrected" and after.painted_sha256 == record.sha256
    assert np.array_equal(read_mask(Path("out/masks") / f"{record.placement}.png"), mask)
    image = read_image(Path("out/images") / f"{record.placement}.png")
    assert np.array_equal(image, only_what_changed(raw, normal, mask, params.synth.feather))
    assert (raw != normal).any(axis=2)[~mask].any() and not (image != normal).any(axis=2)[: CORRECTED[1] - 8].any()


def test_the_gate_judges_a_corrected_mask_as_given(params: Params, real: dict):
    write_review(row(synthetic(0), "mask"))
    write_mask(synthetic(0), synthetic(0).box)
    [after], *_ = labelled(params, real, synthetic(0))
    assert not after.accepted and after.scores["fill"] == 1 and after.reason == "no visible change", "on average"


def test_samples_that_the_gate_rejects_with_their_corrected_masks_are_named(params: Params, real: dict):
    first = synthetic(0)
    records = [
        replace(first, placement="a", mask_source="corrected", accepted=False, reason="stronger than real defects"),
        replace(first, placement="b", mask_source="corrected", accepted=True),
        replace(first, placement="c", mask_source="measured", accepted=False, reason="weaker"),
    ]
    told = rejected_corrections(records)
    assert told == "\nrejected by the gate with their corrected masks: a (stronger than real defects)"
    assert rejected_corrections(records[1:]) == ""


def test_on_a_background_of_its_own_a_corrected_mask_may_lie_anywhere_and_gives_the_box(params: Params, real: dict):
    record = synthetic(0, known=True, normal=None, box=(12, 14, 24, 19))
    write_review(row(record, "mask"))
    write_mask(record, (10, 21, 30, 29))
    assert labelled(params, real, record)[0][0].box == (7, 18, 33, 32), "with a margin of 0.15 of its length"


def test_a_mask_of_a_picture_that_was_painted_anew_is_not_used(params: Params, real: dict):
    write_review(row(synthetic(0), "mask", sha256="0" * 64))
    write_mask(synthetic(0))
    [after], numbers, _ = labelled(params, real, synthetic(0))
    assert after.mask_source == "measured" and numbers["review"] == {"bad": 0, "masks": 0, "stale": 1}


@pytest.mark.usefixtures("params")
def test_corrected_masks_that_do_not_fit_are_told_all_at_once():
    records = [synthetic(number) for number in range(5)]
    write_review(*(row(record, "mask") for record in records))
    write_mask(records[0], size=(40, 48))
    write_mask(records[1], (0, 0, 12, 12))
    write_mask(records[2], (3, 3, 3, 3))
    write_text(MASKS / GENERATOR / CATEGORY / f"{records[3].placement}.png", "no picture")
    told = problems(*records)
    parts = ("40 x 48 px, expected 48 x 48", "reaches out of the box", "empty", "cannot be read", "not there")
    assert len(told) == 5
    assert all(any(part in one for one in told) for part in parts), told


@pytest.mark.usefixtures("params")
def test_files_that_no_row_names_are_told():
    write_review(row(synthetic(0)))
    write_mask(synthetic(0))
    write_text(MASKS / "notes.txt", "")
    strange, unnamed = sorted(problems(synthetic(0)), key=len)
    assert f"no row of {REVIEW.path.as_posix()} with the verdict mask names it" in unnamed
    assert "notes.txt: expected data/review/masks/GENERATOR/CATEGORY/PLACEMENT.png" in strange


@pytest.mark.usefixtures("params")
def test_bad_rows_are_told_all_at_once_with_their_lines():
    good = row(synthetic(0))
    write_review(
        good,
        row(synthetic(1), generator="nobody"),
        row(synthetic(1), category="../up"),
        row(synthetic(1), placement="a/b"),
        row(synthetic(1), sha256="12"),
        row(synthetic(1), "good"),
        row(synthetic(0), "mask"),
        "too,few",
    )
    told = "\n".join(problems(synthetic(0)))
    for line, part in {
        3: "no generator 'nobody', known are cutpaste",
        4: "category '../up': expected letters",
        5: "placement 'a/b'",
        6: "sha256: expected 64 hexadecimal digits",
        7: "verdict 'good': expected bad or mask",
        8: "the sample of line 2 once more",
        9: "2 fields, expected 6",
    }.items():
        assert f"data/review/review.csv, line {line}: {part}" in told, told
