"""Defects of several types in one picture, told apart wherever a picture is learned from, cut out or judged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lib.boxes import real_defects
from lib.core.defects import defect_mask, read_labels, types_of, whole_defects
from lib.core.errors import UserError
from lib.core.images import read_image, write_png
from lib.core.records import GOOD, DefectBox, TypeMap, read_records, write_records
from lib.detection import read_examples
from lib.labels import labelling
from lib.metrics.ranking import defect_pixels
from lib.scoring import Prediction, rank_parts
from lib.vision.windows import Pools, batch_of
from tests.blobs import BUDGET
from tests.mixed import DENT, SCRATCH, mixed_sample


def test_new_defects_are_not_drawn_like_fragments():
    def box(sample: str, area: int, name: str = "stain", component: int = 0) -> DefectBox:
        return DefectBox(sample, component, name, (0, 0, 9, 9), area)

    boxes = [box("a", 728), box("a", 15, component=1), box("b", 300), box("b", 100, component=1), box("c", 8, "pit")]
    assert whole_defects(boxes) == [boxes[0], boxes[2], boxes[3], boxes[4]]
    assert whole_defects([]) == []


def test_the_ground_around_a_defect_is_no_defect_of_another_type(tmp_path: Path):
    sample = mixed_sample(tmp_path)
    image = read_image(Path(sample.image)).copy()
    alone = labelling._real_traits({"mixed-0": sample})["dent"]["mixed-0"].contrast
    image[SCRATCH] = 255  # which the dent lies within
    write_png(Path(sample.image), image)
    assert np.allclose(labelling._real_traits({"mixed-0": sample})["dent"]["mixed-0"].contrast, alone, atol=1)


def test_a_record_with_a_type_map_is_read_as_it_was_written(tmp_path: Path):
    sample = mixed_sample(tmp_path)
    write_records(tmp_path / "samples.jsonl", [sample])
    assert read_records(tmp_path / "samples.jsonl", type(sample)) == [sample]


def test_each_type_has_its_own_pixels(tmp_path: Path):
    sample = mixed_sample(tmp_path)
    assert types_of(sample) == ("dent", "scratch")
    np.testing.assert_array_equal(defect_mask(sample, "dent"), DENT)
    np.testing.assert_array_equal(defect_mask(sample, "scratch"), SCRATCH)
    plain = replace(sample, type_map=None, defect_type="dent")
    np.testing.assert_array_equal(defect_mask(plain, "dent"), DENT | SCRATCH)
    with pytest.raises(UserError, match="no mask"):
        defect_mask(replace(plain, mask=None), "dent")


def test_a_picture_that_is_no_map_of_these_types_is_refused(tmp_path: Path):
    sample = mixed_sample(tmp_path)
    with pytest.raises(UserError, match="from 0 to 1"):
        read_labels(TypeMap(str(sample.type_map.path), "another digest", ("dent",)))
    with pytest.raises(UserError, match="no type map"):
        read_labels(TypeMap(sample.image, "a third", ("dent", "scratch")))


def test_boxes_of_a_type_are_of_its_pixels_alone_and_numbered_through(tmp_path: Path):
    found = list(real_defects([mixed_sample(tmp_path)], 0.0, 4))
    assert [(one.number, one.defect_type, one.component.box, one.component.area) for one in found] == [
        (0, "dent", (40, 25, 52, 37), int(DENT.sum())),
        (1, "scratch", (20, 10, 70, 50), int(SCRATCH.sum())),
    ], "without types the dent, within the scratch's box, would be a part of it"


def test_the_gate_learns_what_a_type_is_like_from_its_own_pixels(tmp_path: Path):
    traits = labelling._real_traits({"mixed-0": mixed_sample(tmp_path)})
    assert {name: [one.area for one in of_type.values()] for name, of_type in traits.items()} == {
        "dent": [int(DENT.sum())],
        "scratch": [int(SCRATCH.sum())],
    }


def test_a_window_around_a_type_has_pixels_of_it_and_labels_of_all(tmp_path: Path):
    examples = read_examples([mixed_sample(tmp_path)])
    assert examples[0].types == ("dent", "scratch")
    pools = Pools.of(examples)
    assert pools.types == ["dent", "scratch"] and [len(of_type) for of_type in pools.real] == [1, 1]
    assert not pools.good
    seen = set()
    for scale in (1.0, 0.5):
        for n in range(30):
            rng = np.random.default_rng(n)
            batch = batch_of(pools, BUDGET.model_copy(update={"scale": scale}), rng, types=["dent", "scratch"])
            grey = batch.images.mean(axis=3)
            if scale == 1:  # augmentation shifts brightness by less than what lies between
                np.testing.assert_array_equal(batch.labels == 1, grey < 75)
                np.testing.assert_array_equal(batch.labels == 2, grey > 175)
            seen |= set(np.unique(batch.labels).tolist())
            np.testing.assert_array_equal(batch.masks, batch.labels > 0)
    assert seen == {0, 1, 2}


def test_labels_count_the_types_that_are_asked_for_and_pass_over_all_others(tmp_path: Path):
    (example,) = read_examples([mixed_sample(tmp_path)])
    np.testing.assert_array_equal(example.labels(["dent", "scratch"]), DENT + 2 * SCRATCH)
    np.testing.assert_array_equal(example.labels(["hole", "scratch"]), 2 * SCRATCH)
    assert not example.labels(["hole"]).any()


def test_a_type_is_ranked_by_its_own_defects_among_normal_pixels(tmp_path: Path):
    (example,) = read_examples([mixed_sample(tmp_path)])
    scores = np.where(DENT, 0.9, np.where(SCRATCH, 0.2, 0.5)).astype(np.float32)
    np.save(tmp_path / "map.npy", scores)
    one = Prediction(tmp_path / "map.npy", defect_pixels(scores, example.mask), 0.9, 0.2, 0.9)
    both, dent, scratch, other = rank_parts(
        [example], [one], [{GOOD, "dent", "scratch"}, {GOOD, "dent"}, {GOOD, "scratch"}, {GOOD, "hole"}]
    )
    assert dent.auroc() == 1 and scratch.auroc() == 0 and 0 < both.auroc() < 1
    assert dent.positives.size == DENT.sum() and dent.negatives == (~(DENT | SCRATCH)).sum()
    assert other.positives.size == 0 and other.negatives == 0
