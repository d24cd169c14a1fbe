"""Boxes of real defects, the placements drawn by their law, and the stages and rows made of them."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.boxes import mask_boxes, real_components
from lib.core.geometry import box_mask
from lib.core.images import read_image, read_mask, write_png
from lib.core.records import DefectBox, Description, Placement, Sample, by_id, read_records, write_records
from lib.dataset.published_rows import published_rows
from lib.foreground import foreground_mask
from lib.language import location_of
from lib.placement import place_boxes

ROOT = Path(__file__).parents[1]


def blob(shape, *boxes):
    mask = np.zeros(shape, dtype=bool)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask


# Boxes of masks


@st.composite
def masks(draw):
    """A small mask of up to eight rectangles, from specks to stripes, which may overlap or leave the picture."""
    mask = np.zeros((draw(st.integers(1, 40)), draw(st.integers(1, 40))), dtype=bool)
    for x, y, w, h in draw(st.lists(st.tuples(*[st.integers(0, 39)] * 2, *[st.integers(1, 12)] * 2), max_size=8)):
        mask[y : y + h, x : x + w] = True
    return mask


@settings(deadline=None)  # a busy machine is no failure
@given(masks(), st.floats(0, 1))
def test_each_mask_pixel_lies_in_exactly_one_box_inside_the_picture(mask, margin):
    height, width = mask.shape
    covered = np.zeros(mask.shape, dtype=int)
    found = mask_boxes(mask, margin, 1)
    for item in found:
        x0, y0, x1, y1 = item.box
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
        covered[y0:y1, x0:x1] += 1
    assert (covered[mask] == 1).all() and covered.max() <= 1
    assert sum(item.area for item in found) == mask.sum()


@settings(deadline=None)  # a busy machine is no failure
@given(masks())
def test_without_margin_each_side_of_a_box_touches_the_mask(mask):
    for item in mask_boxes(mask, 0.0, 1):
        x0, y0, x1, y1 = item.box
        assert mask[y0, x0:x1].any() and mask[y1 - 1, x0:x1].any()
        assert mask[y0:y1, x0].any() and mask[y0:y1, x1 - 1].any()


@settings(deadline=None)  # a busy machine is no failure
@given(masks(), st.floats(0, 1))
def test_the_order_is_by_area_then_position_and_the_centroid_lies_in_the_box(mask, margin):
    found = mask_boxes(mask, margin, 1)
    assert found == sorted(found, key=lambda item: (-item.area, item.box[1], item.box[0]))
    for item in found:
        assert item.box[0] < item.centroid[0] < item.box[2] and item.box[1] < item.centroid[1] < item.box[3]


def test_the_margin_is_a_share_of_the_longer_side_rounded_up_and_clipped_to_the_picture():
    (item,) = mask_boxes(blob((50, 60), (2, 20, 23, 26)), 0.1, 1)  # 21 x 6 px: 2.1 px become 3
    assert item.box == (0, 17, 26, 29)
    assert item.centroid == (12.5, 23.0) and item.area == 126


def test_a_crack_broken_into_islands_is_one_defect_and_a_distant_one_another():
    crack = [(10 + 12 * k, 20 + 3 * k, 20 + 12 * k, 22 + 3 * k) for k in range(15)]
    found = mask_boxes(blob((200, 300), *crack, (40, 150, 60, 170)), 0.15, 1)
    assert [item.area for item in found] == [400, 300]
    assert all(found[1].box[0] <= x0 and x1 <= found[1].box[2] for x0, _, x1, _ in crack)


def test_small_components_are_dropped_unless_none_would_be_left():
    mask = blob((60, 60), (5, 5, 15, 15), (40, 40, 41, 43), (50, 5, 51, 6))
    assert [item.area for item in mask_boxes(mask, 0.0, 1)] == [100, 3, 1]
    assert [item.area for item in mask_boxes(mask, 0.0, 4)] == [100]
    assert [item.area for item in mask_boxes(mask, 0.0, 500)] == [100]
    assert mask_boxes(np.zeros((9, 9), dtype=bool), 0.1, 4) == []


# Placements


def toy_category(folder, texture=False, goods=5, size=(160, 120)):
    """Samples and boxes of a toy category: a bright disc on a dark ground, or a texture, with small defects.

    The train part has two scratches on the object and two chips at its right edge, the val and test parts one huge
    defect each, which no placement may resemble.
    """
    rng = np.random.default_rng(0)
    width, height = size

    def picture():
        image = rng.normal(60, 3, (height, width, 3))
        if texture:
            image += rng.normal(0, 40, (height, width, 1))
        else:
            disc = cv2.circle(np.zeros((height, width), np.uint8), (width // 2, height // 2), 45, 1, -1)
            image[disc > 0] += 130
        return np.clip(image, 0, 255).astype(np.uint8)

    def sample(name, defect_type, split, box=None):
        write_png(folder / f"{name}.png", picture())
        mask = None
        if box is not None:
            mask = f"{folder.as_posix()}/{name}_mask.png"
            write_png(Path(mask), box_mask(box, width, height))
        image = f"{folder.as_posix()}/{name}.png"
        return Sample(name, "toy", defect_type, image, mask, name, split, size, name)

    edge = width // 2 + 45
    samples = [sample(f"good-{number}", "good", "train") for number in range(goods)]
    samples += [
        sample("good-val", "good", "val"),
        sample("scratch-0", "scratch", "train", (60, 50, 75, 54)),
        sample("scratch-1", "scratch", "train", (90, 70, 96, 82)),
        sample("chip-0", "chip", "train", (edge - 9, 52, edge + 7, 64)),
        sample("chip-1", "chip", "train", (edge - 8, 56, edge + 6, 66)),
        sample("scratch-val", "scratch", "val", (0, 0, 150, 110)),
        sample("scratch-test", "scratch", "test", (0, 0, 150, 110)),
    ]
    boxes = [
        DefectBox(sample.id, number, sample.defect_type, component.box, component.area)
        for sample, number, component in real_components(samples, 0.15, 4)
    ]
    return samples, boxes


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return toy_category(tmp_path_factory.mktemp("toy"))


def test_the_test_part_has_no_boxes(toy):
    assert {box.sample for box in toy[1]} == {"scratch-0", "scratch-1", "chip-0", "chip-1", "scratch-val"}


def test_the_same_seed_gives_the_same_list_and_another_seed_another(toy):
    assert place_boxes(*toy, 6, 0.15, seed=3) == place_boxes(*toy, 6, 0.15, seed=3)
    assert place_boxes(*toy, 6, 0.15, seed=3) != place_boxes(*toy, 6, 0.15, seed=4)


def test_more_placements_extend_the_list_of_each_type_without_changing_it(toy):
    few, many = ({p.id: p for p in place_boxes(*toy, number, 0.15, seed=0)} for number in (4, 11))
    assert len(few) == 8 and len(many) == 22
    assert all(many[name] == placement for name, placement in few.items())


def test_the_order_of_the_records_does_not_matter(toy):
    samples, boxes = toy
    assert place_boxes(samples[::-1], boxes[::-1], 5, 0.15, 0) == place_boxes(samples, boxes, 5, 0.15, 0)


def test_good_pictures_of_the_train_part_are_used_equally(toy):
    placements = place_boxes(*toy, 10, 0.15, 0)
    for defect_type in ("chip", "scratch"):
        normals = [p.normal for p in placements if p.defect_type == defect_type]
        assert {name: normals.count(name) for name in normals} == {f"good-{k}": 2 for k in range(5)}


def test_every_placement_says_where_its_own_box_lies_and_has_its_own_seed(toy):
    placements = place_boxes(*toy, 12, 0.15, 0)
    for placement in placements:
        assert placement.location == location_of(placement.box, 160, 120)
        assert placement.location in placement.prompt
    assert len({p.seed for p in placements}) == len({p.id for p in placements}) == 24
    assert placements[0].id == "toy-chip-00000"


def shares(placements, samples):
    known = by_id(samples)
    found = {}
    for placement in placements:
        x0, y0, x1, y1 = placement.box
        foreground = foreground_mask(read_image(Path(known[placement.normal].image)))
        found.setdefault(placement.defect_type, []).append(foreground[y0:y1, x0:x1].mean())
    return found


def test_placements_lie_on_the_object_as_much_as_the_real_defects_do(toy):
    found = shares(place_boxes(*toy, 15, 0.15, 0), toy[0])
    assert min(found["scratch"]) >= 0.89
    assert min(found["chip"]) > 0.25 and max(found["chip"]) < 0.85  # at the edge: neither beside nor inside


def test_without_jitter_sizes_are_those_of_the_train_part(toy):
    sizes = {(p.box[2] - p.box[0], p.box[3] - p.box[1]) for p in place_boxes(*toy, 20, 0.0, 0)}
    train = {(b.box[2] - b.box[0], b.box[3] - b.box[1]) for b in toy[1] if not b.sample.endswith("val")}
    assert sizes == train


def test_on_a_texture_defects_can_be_anywhere(tmp_path):
    placements = place_boxes(*toy_category(tmp_path, texture=True), 60, 0.15, 0)
    assert len({p.location for p in placements if p.defect_type == "scratch"}) == 9


@pytest.mark.parametrize("texture", [True, False])
@pytest.mark.parametrize("size", [(20, 11), (3, 400), (1, 1)])
def test_boxes_fit_into_good_pictures_of_any_size(tmp_path, texture, size):
    samples, boxes = toy_category(tmp_path, texture)
    good = Path(samples[0].image).with_name("tiny.png")
    write_png(good, np.full((size[1], size[0], 3), 90, np.uint8))
    tiny = Sample("tiny", "toy", "good", good.as_posix(), None, "tiny", "train", size, "tiny")
    rest = [s for s in samples if s.defect_type != "good"]
    for placement in place_boxes([tiny, *rest], boxes, 20, 0.8, 0):
        x0, y0, x1, y1 = placement.box
        assert 0 <= x0 < x1 <= size[0] and 0 <= y0 < y1 <= size[1]


def test_a_train_part_without_good_pictures_or_boxes_is_refused(toy):
    samples, boxes = toy
    with pytest.raises(ValueError, match="a good picture in the train part"):
        place_boxes([s for s in samples if s.defect_type != "good"], boxes, 2, 0.1, 0)
    with pytest.raises(ValueError, match="a box of a real defect in the train part"):
        place_boxes(samples, [b for b in boxes if b.sample == "scratch-val"], 2, 0.1, 0)


# Published rows and stages


def test_published_rows_can_be_read_back_and_name_the_cell_of_their_own_box(toy, tmp_path):
    samples, boxes = toy
    placements = place_boxes(samples, boxes, 5, 0.15, 0)
    rows = published_rows(placements, samples, tmp_path)
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == rows
    for row, placement in zip(rows, placements, strict=True):
        assert set(row) == {"good", "mask", "text"}
        mask = Path(row["mask"])
        assert mask.parent.name == placement.defect_type and mask.stem == placement.id
        assert set(np.unique(cv2.imread(mask, cv2.IMREAD_UNCHANGED))) == {0, 255}
        height, width = read_image(Path(row["good"])).shape[:2]
        (item,) = mask_boxes(read_mask(mask), 0.0, 1)
        assert item.box == placement.box and location_of(item.box, width, height) in row["text"]


def test_a_placement_on_an_unknown_picture_is_refused_by_name(toy, tmp_path):
    placement = place_boxes(*toy, 1, 0.1, 0)[0]
    with pytest.raises(ValueError, match=f"{placement.id}: no sample"):
        published_rows([placement], [], tmp_path)


def params_of_toy(folder):
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["dataset"]["categories"] = ["toy"]
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def run(module, folder, *arguments):
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )


def test_the_stages_chain_from_prepared_samples_to_published_rows_without_torch(tmp_path):
    samples, _ = toy_category(tmp_path / "pictures")
    params_of_toy(tmp_path)
    write_records(tmp_path / "data/prepared/toy/samples.jsonl", samples)
    (tmp_path / "torch.py").write_text("raise ImportError('a light stage imports torch')\n")
    for stage in ("describe", "boxes", "random_boxes"):
        done = run(f"stages.{stage}", tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    done = run("lib.dataset.published_rows", tmp_path, "--category", "toy", "--out", "rows")
    assert (done.returncode, done.stderr) == (0, "")

    boxes = read_records(tmp_path / "data/boxes/toy.jsonl", DefectBox)
    descriptions = read_records(tmp_path / "data/descriptions/toy.jsonl", Description)
    placements = read_records(tmp_path / "data/placements/toy.jsonl", Placement)
    assert [(b.sample, b.component) for b in boxes] == [(d.sample, d.component) for d in descriptions]
    assert descriptions[0].location == "in the center" and len(descriptions[0].captions) >= 4
    assert len((tmp_path / "rows/rows.jsonl").read_text().splitlines()) == len(placements)


def test_a_stage_says_in_one_line_what_is_wrong(tmp_path):
    params_of_toy(tmp_path)
    (tmp_path / "data/prepared/toy").mkdir(parents=True)
    (tmp_path / "data/prepared/toy/samples.jsonl").write_text('{"id": 1, "colour": "red"}\n')
    done = run("stages.boxes", tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "samples.jsonl, line 1" in done.stderr and "colour" in done.stderr
