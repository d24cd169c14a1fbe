"""Every export, read back by a reader that is not ours: the same pictures, the same masks, the same types.

COCO by pycocotools, Datumaro by its package where it is installed; the other readers follow the documentation of the
tools, and do as these do: anomalib pairs pictures and masks by their order, Ultralytics resamples polygons.
"""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scipy import ndimage

from lib.core.geometry import Mask
from lib.core.images import read_image, read_mask
from lib.dataset.findings import Findings
from lib.dataset.formats import table
from lib.export.datasets import FORMATS, write_dataset
from lib.export.instances import instances_of, polygon
from lib.export.yolo import DECIMALS
from tests.export.conftest import CATEGORY, GENERATORS, Truth

Found = dict[str, tuple[Path, str, dict[str, Mask]]]  # by name: picture, subset, mask by type


def exported(name: str) -> Path:
    out = Path("data/export") / name
    write_dataset(name, out, [CATEGORY], ["train", "val"], GENERATORS)
    return out / CATEGORY


def assert_same(found: Found, truth: Truth) -> None:
    assert found.keys() == truth.subset.keys()
    for name, (picture, subset, masks) in found.items():
        assert subset == truth.subset[name]
        assert masks.keys() == truth.masks[name].keys(), name
        for defect_type, mask in masks.items():
            np.testing.assert_array_equal(mask, truth.masks[name][defect_type], err_msg=f"{name}, {defect_type}")
        np.testing.assert_array_equal(read_image(picture), truth.pixels[name])
        np.testing.assert_array_equal(cv2.imread(picture)[..., ::-1], truth.pixels[name])
        plain = np.asarray(Image.open(picture).convert("RGB"))  # which turns nothing, whatever a tag says
        np.testing.assert_array_equal(plain, truth.pixels[name])


def test_coco_comes_back_through_pycocotools(truth: Truth):
    folder, found = exported("coco"), Found()
    for file in sorted((folder / "annotations").iterdir()):
        coco, subset = COCO(file), file.stem.removeprefix("instances_")
        names = {entry["id"]: entry["name"] for entry in coco.loadCats(coco.getCatIds())}
        assert list(names.values()) == truth.types()  # the same numbers in every file
        for image in coco.loadImgs(coco.getImgIds()):
            masks: dict[str, Mask] = {}
            for entry in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
                mask = coco.annToMask(entry) > 0
                x, y, width, height = entry["bbox"]
                assert (x, y, width, height) == cv2.boundingRect(mask.astype(np.uint8))
                assert entry["area"] == mask.sum() and entry["iscrowd"] == 0
                assert cv2.connectedComponents(mask.astype(np.uint8))[0] == 2
                name = names[entry["category_id"]]
                masks[name] = masks.get(name, False) | mask
            picture = folder / "images" / subset / image["file_name"]
            assert read_image(picture).shape[:2] == (image["height"], image["width"])
            found[picture.stem] = picture, subset, masks
    assert_same(found, truth)


def anomalib_samples(root: Path) -> list[tuple[str, str, Path, Path | None]]:
    """Split, label, picture and mask as anomalib's `MVTecAD` has them: PNG alone; masks in the order of pictures."""
    files = sorted(path for path in root.glob("**/*") if path.suffix in (".png", ".PNG"))
    of = {path: path.relative_to(root).parts for path in files}
    pictures = [path for path in files if of[path][0] != "ground_truth"]
    masks = iter([path for path in files if of[path][0] == "ground_truth"])
    rows: list[tuple[str, str, Path, Path | None]] = []
    for path in pictures:
        split, label, _ = of[path]
        bad = split == "test" and label != "good"
        rows.append((split, label, path, next(masks) if bad else None))
    assert next(masks, None) is None
    assert all(mask is None or picture.stem in mask.stem for _, _, picture, mask in rows), "masks of other pictures"
    return rows


def test_mvtec_comes_back_as_anomalib_reads_it(truth: Truth):
    found = Found()
    expected = Truth()
    for name, subset in truth.subset.items():
        masks = truth.masks[name]
        label = next(iter(masks), "good") if len(masks) < 2 else "mixed"  # one mask for all types
        union = {label: np.logical_or.reduce(list(masks.values()))} if masks else {}
        expected.add(name, "train" if subset == "train" and not masks else "test", truth.pixels[name], union)
    for split, label, picture, mask in anomalib_samples(exported("mvtec")):
        name = picture.stem.split("-", 1)[1]
        found[name] = picture, split, {} if mask is None else {label: read_mask(mask)}
    assert_same(found, expected)


def resampled(segment: np.ndarray, count: int = 1000) -> np.ndarray:
    """As Ultralytics' loader: `count` points along the closed polygon, its own ones among them where they are fewer."""
    closed = np.concatenate([segment, segment[:1]])
    own = np.arange(len(closed))
    at = np.linspace(0, len(closed) - 1, max(count - len(closed), 0) if len(closed) < count else count)
    if len(closed) < count:
        at = np.sort(np.concatenate([at, own]))
    return np.stack([np.interp(at, own, closed[:, axis]) for axis in (0, 1)], axis=1).astype(np.float32)


def ultralytics_mask(line: str, shape: tuple[int, int]) -> Mask:
    """One line of a label file, as a mask: shares as float32, cut down to whole pixels, filled with their border."""
    values = line.split()[1:]
    assert len(values) >= 6 and len(values) % 2 == 0, "fewer than three corners would be read as a box"
    segment = np.array(values, np.float32).reshape(-1, 2)
    assert segment.min() >= 0 and segment.max() <= 1
    points = resampled(segment) * np.array(shape[::-1], np.float32)
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [points.astype(np.int32)], color=1)
    return mask > 0


def test_yolo_comes_back_as_ultralytics_reads_it(truth: Truth):
    folder, found = exported("yolo"), Found()
    data = yaml.safe_load((folder / "data.yaml").read_text())
    assert set(data) == {"train", "val", "names"} and list(data["names"].values()) == truth.types()
    assert data["train"] == ["images/train", *(f"images/{generator}" for generator in GENERATORS)]
    for place in [*data["train"], data["val"]]:
        for picture in (folder / place).iterdir():
            label = Path(str(picture).replace("/images/", "/labels/")).with_suffix(".txt")
            masks: dict[str, Mask] = {}
            for line in label.read_text().splitlines():
                name = data["names"][int(line.split()[0])]
                masks[name] = masks.get(name, False) | ultralytics_mask(line, read_image(picture).shape[:2])
            found[picture.stem] = picture, picture.parent.name, masks
    assert_same(found, truth)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.8, 1.5, 3]))
def test_ultralytics_sees_all_but_a_pixel_in_a_thousand(seed: int, smooth: float):
    """Its loader puts points between the corners, as many as make 1000: seldom, one of them lies in a pixel beside."""
    mask = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(60, 80)), smooth) > 0.02
    differing, total = 0, 0
    for instance in instances_of([("dent", mask)]):
        corners = polygon(instance) / (80, 60)
        if len(corners) < 1000:
            line = "0 " + " ".join(f"{share:.{DECIMALS}f}" for share in corners.ravel())
            x0, y0, x1, y1 = instance.box
            whole = np.zeros(mask.shape, bool)
            whole[y0:y1, x0:x1] = instance.mask
            differing += int((ultralytics_mask(line, mask.shape) != whole).sum())
            total += instance.area
    assert differing <= max(1, total / 1000)


def test_ultralytics_thins_out_what_has_more_than_a_thousand_corners():
    noise = instances_of([("dent", np.random.default_rng(0).random((80, 80)) < 0.6)])[0]
    corners = polygon(noise)
    line = "0 " + " ".join(f"{share:.{DECIMALS}f}" for share in (corners / 80).ravel())
    whole = np.zeros((80, 80), bool)
    x0, y0, x1, y1 = noise.box
    whole[y0:y1, x0:x1] = noise.mask
    seen = ultralytics_mask(line, (80, 80))
    assert len(corners) > 5000  # five times as many as the loader keeps, of the most ragged mask that there is
    assert 0.5 < (seen & whole).sum() / (seen | whole).sum() < 1


def datumaro_items(folder: Path) -> Found:
    """As Datumaro's documentation describes its JSON."""
    found = Found()
    for file in (folder / "annotations").iterdir():
        content = json.loads(file.read_text())
        assert content["dm_format_version"] == "1.0"
        labels = [label["name"] for label in content["categories"]["label"]["labels"]]
        for item in content["items"]:
            masks: dict[str, Mask] = {}
            boxes = {one["group"]: one for one in item["annotations"] if one["type"] == "bbox"}
            for one in item["annotations"]:
                if one["type"] == "mask":
                    mask = coco_mask.decode(one["rle"]) > 0
                    box = boxes.pop(one["group"])
                    assert tuple(box["bbox"]) == cv2.boundingRect(mask.astype(np.uint8))
                    assert box["label_id"] == one["label_id"]
                    masks[labels[one["label_id"]]] = masks.get(labels[one["label_id"]], False) | mask
            assert not boxes
            picture = folder / "images" / file.stem / item["image"]["path"]
            assert list(read_image(picture).shape[:2]) == item["image"]["size"]
            found[item["id"]] = picture, file.stem, masks
    return found


def test_datumaro_comes_back_as_its_documentation_says(truth: Truth):
    assert_same(datumaro_items(exported("datumaro")), truth)


def test_datumaro_comes_back_through_its_package(truth: Truth):
    datumaro = pytest.importorskip("datumaro", reason="datumaro is not installed: pip install datumaro")
    folder, found = exported("datumaro"), Found()
    data = datumaro.Dataset.import_from(str(folder), "datumaro")
    labels = [label.name for label in data.categories()[datumaro.AnnotationType.label]]
    for item in data:
        masks: dict[str, Mask] = {}
        for one in item.annotations:
            if one.type == datumaro.AnnotationType.mask:
                masks[labels[one.label]] = masks.get(labels[one.label], False) | one.image.astype(bool)
        found[item.id] = Path(item.media.path), item.subset, masks
    assert_same(found, truth)


def test_the_table_names_every_picture_and_mask(truth: Truth):
    folder, found = exported("csv"), Found()
    with open(folder / "samples.csv", newline="") as file:
        for row in csv.DictReader(file):
            picture = folder / row["image"]
            _, _, masks = found.setdefault(picture.stem, (picture, row["subset"], {}))
            assert (row["subset"] in GENERATORS) == bool(row["placement"])
            if row["mask"]:
                mask = masks[row["defect_type"]] = read_mask(folder / row["mask"])
                assert int(row["area"]) == mask.sum()
                x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
                box = [x, y, x + width, y + height]
                assert [int(row[key]) for key in ("x0", "y0", "x1", "y1")] == box
    assert_same(found, truth)


def test_the_table_comes_back_through_our_own_reader(truth: Truth):
    findings = Findings()
    pictures = table.read(exported("csv"), findings)
    assert not findings.problems
    parts = {name: "train" if subset in GENERATORS else subset for name, subset in truth.subset.items()}
    assert {one.path.stem: one.folder for one in pictures} == parts
    for one in pictures:
        assert {kind for kind in one.types if kind != "good"} == truth.masks[one.path.stem].keys()


@pytest.mark.parametrize("name", FORMATS)
def test_the_provenance_of_every_picture_lies_beside(name: str, truth: Truth):
    folder = exported(name)
    rows = [json.loads(line) for line in (folder / "provenance.jsonl").read_text().splitlines()]
    assert len(rows) == len(truth.subset)
    for row in rows:
        assert not Path(row["file"]).is_absolute() and (folder / row["file"]).is_file()
        if row["subset"] in GENERATORS:
            record = row["record"]
            assert record["generator"] == row["subset"] and record["seed"] >= 2**60
            assert record["scores"] == {"contrast": 7.5} and record["model"] == "a procedure" and record["placement"]
