"""Every annotation format is read from files that the tests write, with the masks that a direct drawing gives."""

import base64
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from lib.core.geometry import box_mask
from lib.core.images import read_mask, read_pixels
from lib.core.params import Dataset, Layout, Split
from lib.core.records import Sample
from lib.dataset.annotations import draw
from lib.dataset.conversion import converted
from lib.dataset.findings import Findings
from lib.dataset.formats.label_studio import unpacked
from lib.dataset.layouts import FORMATS, locate
from lib.dataset.splitting import split_categories
from tests.reading import read_category

WIDTH, HEIGHT = 64, 48
SPLIT = Split(rule="first_third", shots=6, val_fraction=0.34)


class Defect(NamedTuple):
    label: str
    box: tuple[int, int, int, int]


# Six defect pictures: two of one type each, four of both; and six good ones.
DEFECTS = {
    f"p{n}": [Defect("Kratzer groß", (4 + n, 5, 24 + n, 9))] * (n != 1)
    + [Defect("dent", (30, 20 + n, 40, 30 + n))] * (n > 0)
    for n in range(6)
}
GOOD = [f"g{n}" for n in range(6)]
NAMES = {"Kratzer groß": "Kratzer_gross", "dent": "dent"}


def pixels(stem: str) -> np.ndarray:
    """Noise, in which the defects of a picture are dark."""
    seed = int(stem[1:]) + 100 * (stem[0] == "g")
    picture = np.random.default_rng(seed).normal(150, 5, (HEIGHT, WIDTH, 3))
    for defect in DEFECTS.get(stem, []):
        picture[box_mask(defect.box, WIDTH, HEIGHT)] -= 90
    return np.clip(picture, 0, 255).astype(np.uint8)


def write_pictures(folder: Path, stems: list[str], suffix: str = ".png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stem in stems:
        Image.fromarray(pixels(stem)).save(folder / f"{stem}{suffix}")


def truth(stem: str) -> np.ndarray:
    """1 where a picture shows a dent, 2 where it shows a scratch."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for defect in DEFECTS[stem]:
        labels[box_mask(defect.box, WIDTH, HEIGHT)] = 1 if defect.label == "dent" else 2
    return labels


def ring(box) -> list[float]:
    x0, y0, x1, y1 = map(float, box)
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def prepared(root: Path, out: Path, **knobs: object) -> tuple[dict[str, Sample], list[str]]:
    """The samples by the stem of their picture, as `prepare` makes them, and the warnings."""
    nothing = {"group_table": None, "group_column": None, "group_pattern": None, "depth": "auto"}
    dataset = Dataset.model_validate({"path": str(root), "categories": ["nut"], **nothing, **knobs})
    splits, depth, looks = split_categories(dataset, SPLIT)
    samples = converted(splits["nut"][0], depth, out, out, looks["nut"].drawn)
    return {Path(sample.image).stem: sample for sample in samples}, looks["nut"].findings.warnings


def same_as_drawn(samples: dict[str, Sample]) -> None:
    """All pictures are there, each with the types and exactly the mask that its regions say."""
    assert set(samples) == {*DEFECTS, *GOOD}
    for stem in GOOD:
        assert samples[stem].defect_type == "good" and samples[stem].mask is None
    for stem, defects in DEFECTS.items():
        sample = samples[stem]
        assert np.array_equal(read_mask(Path(str(sample.mask))), truth(stem) > 0), stem
        if len(defects) == 1:
            assert sample.defect_type == NAMES[defects[0].label] and sample.type_map is None
        else:
            assert sample.defect_type == "mixed" and sample.type_map is not None
            assert sample.type_map.types == ("Kratzer_gross", "dent")
            assert np.array_equal(np.asarray(Image.open(sample.type_map.path)), (3 - truth(stem)) % 3)


# The writers, each of which gives the layout and the source of the masks -------------------------------------------


def write_coco(root: Path, segment: Callable | None) -> None:
    write_pictures(root / "images", [*DEFECTS, *GOOD])
    images = [
        {"id": 10 + n, "file_name": f"{stem}.png", "width": WIDTH, "height": HEIGHT}
        for n, stem in enumerate([*DEFECTS, *GOOD])
    ]
    annotations = []
    for n, defects in enumerate(DEFECTS.values()):
        for defect in defects:
            x0, y0, x1, y1 = defect.box
            one = {"id": len(annotations), "image_id": 10 + n, "category_id": 7 if defect.label == "dent" else 3}
            one |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0}
            annotations.append(one | ({"segmentation": segment(defect.box)} if segment else {}))
    categories = [{"id": 3, "name": "Kratzer groß"}, {"id": 7, "name": "dent"}]
    (root / "annotations").mkdir()
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations/instances.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def compressed(box):
    runs = coco.encode(np.asfortranarray(box_mask(box, WIDTH, HEIGHT).astype(np.uint8)))
    return {"size": runs["size"], "counts": runs["counts"].decode()}


def uncompressed(box):
    flat = box_mask(box, WIDTH, HEIGHT).T.ravel()
    counts, last = [0], False
    for value in flat:
        if value != last:
            counts.append(0)
            last = value
        counts[-1] += 1
    return {"size": [HEIGHT, WIDTH], "counts": counts}


@pytest.mark.parametrize(
    ("segment", "source"),
    [(lambda box: [ring(box)], "polygon"), (compressed, "drawn"), (uncompressed, "drawn"), (None, "box")],
    ids=["polygons", "compressed", "uncompressed", "boxes"],
)
def test_coco(tmp_path: Path, segment, source):
    write_coco(tmp_path / "in", segment)
    assert locate(tmp_path / "in", "nut")[1:] == (
        "coco",
        "annotations/instances.json holds images, annotations, categories",
    )
    samples, warnings = prepared(tmp_path / "in", tmp_path / "out", boxes="whole")
    same_as_drawn(samples)
    assert {sample.mask_source for stem, sample in samples.items() if stem in DEFECTS} == {source}
    assert any("'Kratzer groß' is Kratzer_gross" in warning for warning in warnings)


def test_boxes_alone_become_what_grabcut_finds_and_the_record_says_so(tmp_path: Path):
    write_coco(tmp_path / "in", None)
    samples, warnings = prepared(tmp_path / "in", tmp_path / "out")
    assert {sample.mask_source for stem, sample in samples.items() if stem in DEFECTS} <= {"grabcut", "box"}
    assert any("GrabCut" in warning and "dataset.boxes" in warning for warning in warnings)
    again, _ = prepared(tmp_path / "in", tmp_path / "again")
    assert [one.mask_sha256 for one in samples.values()] == [one.mask_sha256 for one in again.values()]
    for stem in DEFECTS:
        assert not (read_mask(Path(str(samples[stem].mask))) & (truth(stem) == 0)).any()


@pytest.mark.parametrize("kind", ["box", "segment", "darknet"])
def test_yolo(tmp_path: Path, kind):
    root = tmp_path / "in"
    pictures, labels = (
        (root / "obj", root / "obj") if kind == "darknet" else (root / "train/images", root / "train/labels")
    )
    write_pictures(pictures, [*DEFECTS, *GOOD])
    labels.mkdir(exist_ok=True)
    for stem in [*DEFECTS, *GOOD[:3]]:  # three good ones have an empty file, three none
        lines = []
        for defect in DEFECTS.get(stem, []):
            x0, y0, x1, y1 = defect.box
            values = [(x0 + x1) / 2 / WIDTH, (y0 + y1) / 2 / HEIGHT, (x1 - x0) / WIDTH, (y1 - y0) / HEIGHT]
            if kind == "segment":
                values = [value / side for value, side in zip(ring(defect.box), [WIDTH, HEIGHT] * 4, strict=True)]
            lines.append(" ".join([str(int(defect.label == "dent")), *(f"{value:.6f}" for value in values)]))
        (labels / f"{stem}.txt").write_text("\n".join(lines))
    if kind == "darknet":
        (labels / "classes.txt").write_text("Kratzer groß\ndent\n", encoding="utf-8")
    else:
        names = "[Kratzer groß, dent]" if kind == "box" else "{0: Kratzer groß, 1: dent}"
        (root / "data.yaml").write_text(
            f"path: /somewhere/else\ntrain: train/images\nnames: {names}\n", encoding="utf-8"
        )
    assert locate(root, "nut").layout == "yolo"
    samples, warnings = prepared(root, tmp_path / "out", boxes="whole")
    same_as_drawn(samples)
    assert any("3 picture(s) without a file of labels count as good" in warning for warning in warnings)
    if kind != "darknet":
        assert all("-train-" in sample.id for sample in samples.values())


def test_yolo_counts_no_picture_as_good_where_no_picture_has_labels(tmp_path: Path):
    test_yolo(tmp_path, "box")
    write_pictures(tmp_path / "in/test/images", ["p77"])
    samples, warnings = prepared(tmp_path / "in", tmp_path / "again", boxes="whole")
    assert "p77" not in samples and any("p77.png" in warning for warning in warnings)


def test_voc_and_neu_det(tmp_path: Path):
    root = tmp_path / "in"
    write_pictures(root / "train/images/mixed", [*DEFECTS, *GOOD])
    (root / "train/annotations").mkdir()
    for stem in [*DEFECTS, *GOOD]:
        objects = "".join(
            f"<object><name>{one.label}</name><bndbox><xmin>{one.box[0] + 1}</xmin><ymin>{one.box[1] + 1}</ymin>"
            f"<xmax>{one.box[2]}</xmax><ymax>{one.box[3]}</ymax></bndbox></object>"
            for one in DEFECTS.get(stem, [])
        )
        text = (
            f"<annotation><folder>nut</folder><filename>{stem}.jpg</filename><size><width>{WIDTH}</width>"
            f"<height>{HEIGHT}</height><depth>3</depth></size>{objects}</annotation>"
        )
        (root / f"train/annotations/{stem}.xml").write_text(text, encoding="utf-8")
    assert locate(root, "nut").layout == "voc"
    samples, _ = prepared(root, tmp_path / "out", boxes="whole")
    same_as_drawn(samples)
    assert all("-train-" in sample.id for sample in samples.values())
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/val.txt").write_text("p0\n")
    assert prepared(root, tmp_path / "again", boxes="whole")[0]["p0"].id == "Kratzer_gross-val-p0"


def cvat_shape(kind: str, defect: Defect) -> str:
    x0, y0, x1, y1 = defect.box
    if kind == "box":
        return f'<box label="{defect.label}" xtl="{x0}" ytl="{y0}" xbr="{x1}" ybr="{y1}" z_order="0"/>'
    if kind == "polygon":
        points = ring(defect.box)
        pairs = ";".join(f"{x},{y}" for x, y in zip(points[::2], points[1::2], strict=True))
        return f'<polygon label="{defect.label}" points="{pairs}"/>'
    wide, high = x1 - x0 + 2, y1 - y0 + 2  # a rectangle with a margin of 1 px around the box
    flat, counts, last = box_mask((1, 1, wide - 1, high - 1), wide, high).ravel(), [0], False
    for value in flat:
        if value != last:
            counts.append(0)
            last = value
        counts[-1] += 1
    runs = ", ".join(map(str, counts))
    return f'<mask label="{defect.label}" rle="{runs}" left="{x0 - 1}" top="{y0 - 1}" width="{wide}" height="{high}"/>'


@pytest.mark.parametrize("kind", ["box", "polygon", "mask"])
def test_cvat(tmp_path: Path, kind):
    root = tmp_path / "in"
    write_pictures(root / "images", [*DEFECTS, *GOOD])
    images = "".join(
        f'<image id="{n}" name="shots/{stem}.png" subset="Train" width="{WIDTH}" height="{HEIGHT}">'
        + "".join(cvat_shape(kind, defect) for defect in DEFECTS.get(stem, []))
        + ('<polyline label="dent" points="1,1;2,2"/>' if stem == "p0" else "")
        + "</image>"
        for n, stem in enumerate([*DEFECTS, *GOOD])
    )
    text = f"<?xml version='1.0' encoding='utf-8'?><annotations><version>1.1</version>{images}</annotations>"
    (root / "annotations.xml").write_text(text, encoding="utf-8")
    assert locate(root, "nut").layout == "cvat"
    samples, warnings = prepared(root, tmp_path / "out", boxes="whole")
    same_as_drawn(samples)
    assert any("marks no area: 1 polyline" in warning for warning in warnings)
    assert all("-train-" in sample.id for sample in samples.values())


def labelme_shape(kind: str, defect: Defect) -> dict:
    x0, y0, x1, y1 = defect.box
    shape = {"label": defect.label, "shape_type": kind, "group_id": None, "flags": {}}
    if kind == "polygon":
        points = ring(defect.box)
        return shape | {"points": [[x, y] for x, y in zip(points[::2], points[1::2], strict=True)]}
    if kind == "rectangle":
        return shape | {"points": [[x1, y1], [x0, y0]]}
    buffer = io.BytesIO()
    Image.fromarray(np.ones((y1 - y0, x1 - x0), bool)).save(buffer, "PNG")
    return shape | {"points": [[x0, y0], [x1 - 1, y1 - 1]], "mask": base64.b64encode(buffer.getvalue()).decode()}


@pytest.mark.parametrize("kind", ["polygon", "rectangle", "mask"])
def test_labelme(tmp_path: Path, kind):
    root = tmp_path / "in"
    write_pictures(root / "images", [*DEFECTS, *GOOD])
    (root / "json").mkdir()
    for stem in [*DEFECTS, *GOOD]:
        shapes = [labelme_shape(kind, defect) for defect in DEFECTS.get(stem, [])]
        content = {"version": "5.4.1", "shapes": shapes, "imagePath": f"..\\images\\{stem}.png", "imageData": None}
        content |= {"imageHeight": HEIGHT, "imageWidth": WIDTH}
        (root / f"json/{stem}.json").write_text(json.dumps(content), encoding="utf-8")
    assert locate(root, "nut").layout == "labelme"
    samples, _ = prepared(root, tmp_path / "out", boxes="whole")
    same_as_drawn(samples)


def packed(values: np.ndarray) -> list[int]:
    """Label Studio's run lengths of flat uint8 values: runs of up to 16 equal values, and one value that is literal."""
    bits = f"{len(values):032b}" + f"{7:05b}" + "".join(f"{width - 1:04b}" for width in (3, 4, 8, 16))
    at = 0
    while at < len(values):
        same = 1
        while at + same < len(values) and values[at + same] == values[at] and same < 60000:
            same += 1
        if same == 1:
            bits += "0" + "00" + f"{0:03b}" + f"{values[at]:08b}"
        else:
            bits += "1" + "11" + f"{same - 1:016b}" + f"{values[at]:08b}"
        at += same
    bits += "0" * (-len(bits) % 8)
    return [int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)]


def studio_result(kind: str, defect: Defect) -> dict:
    x0, y0, x1, y1 = defect.box
    result = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0, "type": f"{kind}labels"}
    value: dict = {f"{kind}labels": [defect.label]}
    if kind == "rectangle":
        value |= {"x": 100 * x0 / WIDTH, "y": 100 * y0 / HEIGHT, "rotation": 0}
        value |= {"width": 100 * (x1 - x0) / WIDTH, "height": 100 * (y1 - y0) / HEIGHT}
    elif kind == "polygon":
        points = ring(defect.box)
        value["points"] = [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in zip(points[::2], points[1::2], strict=True)]
    else:
        opaque = np.repeat(box_mask(defect.box, WIDTH, HEIGHT).ravel(), 4).astype(np.uint8) * 255
        value |= {"format": "rle", "rle": packed(opaque)}
    return result | {"value": value}


@pytest.mark.parametrize("kind", ["rectangle", "polygon", "brush"])
def test_label_studio(tmp_path: Path, kind):
    root = tmp_path / "in"
    write_pictures(root / "photos", [*DEFECTS, *GOOD])
    forms = (
        "/data/upload/3/0a1b2c3d-{}.png",
        "/data/local-files/?d=line%201/photos/{}.png",
        "s3://bucket/photos/{}.png",
    )
    tasks = []
    for n, stem in enumerate([*DEFECTS, *GOOD]):
        results = [studio_result(kind, defect) for defect in DEFECTS.get(stem, [])]
        annotations = [{"was_cancelled": True, "result": ["nothing"]}, {"was_cancelled": False, "result": results}]
        tasks.append({"id": n, "data": {"image": forms[n % 3].format(stem)}, "annotations": annotations})
    (root / "project-1.json").write_text(json.dumps(tasks), encoding="utf-8")
    assert locate(root, "nut").layout == "label_studio"
    samples, _ = prepared(root, tmp_path / "out", boxes="whole")
    same_as_drawn(samples)


def test_packed_run_lengths_of_label_studio_hold_any_values():
    values = np.random.default_rng(0).choice([0, 0, 0, 7, 255], 500).astype(np.uint8)
    assert np.array_equal(unpacked(bytes(packed(values)), 500), values)
    with pytest.raises(ValueError, match="another number"):
        unpacked(bytes(packed(values)), 499)
    with pytest.raises(IndexError, match="too early"):
        unpacked(bytes(packed(values))[:-9], 500)


def test_a_table(tmp_path: Path):
    root = tmp_path / "in"
    write_pictures(root / "shots", [*DEFECTS, *GOOD])
    (root / "masks").mkdir()
    rows = [["image", "mask", "label", "split", "group"]]
    for stem in [*DEFECTS, *GOOD]:
        for n, defect in enumerate(DEFECTS.get(stem, [])):
            Image.fromarray(box_mask(defect.box, WIDTH, HEIGHT)).save(root / f"masks/{stem}_{n}.png")
            rows.append([f"shots/{stem}.png", f"masks\\{stem}_{n}.png", defect.label, "test", stem])
        if stem in GOOD:
            part = "testing" if stem == "g5" else "training"
            rows.append([f"shots/{stem}.png", "", "good", part, ""])
    with (root / "list.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=";").writerows(rows)
    assert locate(root, "nut").layout == "table"
    samples, _ = prepared(root, tmp_path / "out")
    same_as_drawn(samples)
    assert samples["p0"].id == "Kratzer_gross-test-p0" and samples["p0"].group == "p0"
    assert samples["g0"].id == "good-train-g0" and samples["g0"].group == "good-train-g0"


# The folder layouts of public data sets ------------------------------------------------------------------------------

SINGLE = ["p0", "p1"]  # of one type each


def write_mask(path: Path, stem: str, value: int = 255) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((truth(stem) > 0).astype(np.uint8) * value).save(path)


def write_folders(root: Path, layout: str) -> None:
    """A category `nut` with good pictures g0 to g5 and defects p0 and p1."""
    base = root / "nut"
    if layout == "mvtec_loco":
        write_pictures(base / "train/good", GOOD[:2])
        write_pictures(base / "validation/good", GOOD[2:4])
        write_pictures(base / "test/good", GOOD[4:])
        write_pictures(base / "test/structural_anomalies", SINGLE)
        for stem in SINGLE:
            (base / f"ground_truth/structural_anomalies/{stem}").mkdir(parents=True)
            labels = truth(stem)
            halves = labels.copy(), labels.copy()
            halves[0][:, : WIDTH // 4], halves[1][:, WIDTH // 4 :] = 0, 0
            for n, half in enumerate(halves):
                Image.fromarray((half > 0).astype(np.uint8) * (249 - n)).save(
                    base / f"ground_truth/structural_anomalies/{stem}/{n:03d}.png"
                )
        (base / "ground_truth/structural_anomalies/p1/001.png").unlink(), "its left half is empty"
    elif layout == "mvtec_ad2":
        write_pictures(base / "train/good", GOOD[:2])
        write_pictures(base / "validation/good", GOOD[2:4])
        write_pictures(base / "test_public/good", GOOD[4:])
        write_pictures(base / "test_public/bad", SINGLE)
        write_pictures(base / "test_private", ["p5"])
        for stem in SINGLE:
            write_mask(base / f"test_public/ground_truth/bad/{stem}_mask.png", stem)
    elif layout == "mvtec_3d":
        for part, stems in (("train", GOOD[:2]), ("validation", GOOD[2:4]), ("test", GOOD[4:])):
            write_pictures(base / part / "good/rgb", stems)
            write_mask(base / part / f"good/gt/{stems[0]}.png", "p0", 0)
        write_pictures(base / "test/hole/rgb", SINGLE)
        for stem in SINGLE:
            write_mask(base / f"test/hole/gt/{stem}.png", stem)
    elif layout == "visa":
        write_pictures(base / "Data/Images/Normal", GOOD, ".jpg")
        write_pictures(base / "Data/Images/Anomaly", SINGLE)
        rows = ["object,split,label,image,mask"]
        rows += [f"nut,{'train' if n < 4 else 'test'},normal,nut/Data/Images/Normal/g{n}.jpg," for n in range(6)]
        for stem in SINGLE:
            write_mask(base / f"Data/Masks/Anomaly/{stem}.png", stem, 3)
            rows.append(f"nut,test,anomaly,nut/Data/Images/Anomaly/{stem}.png,nut/Data/Masks/Anomaly/{stem}.png")
        (root / "split_csv").mkdir()
        (root / "split_csv/1cls.csv").write_text("\n".join(rows))
    elif layout == "btad":
        write_pictures(base / "train/ok", GOOD[:4])
        write_pictures(base / "test/ok", GOOD[4:])
        write_pictures(base / "test/ko", SINGLE, ".bmp")
        for stem in SINGLE:
            write_mask(base / f"ground_truth/ko/{stem}.png", stem)
    else:
        for part, good, defect in (("train", GOOD[:4], "p0"), ("test", GOOD[4:], "p1")):
            write_pictures(base / part, [*good, defect])
            write_mask(base / part / f"{defect}_GT.png", defect)
            for stem in good:
                write_mask(base / part / f"{stem}_GT.png", "p0", 0)


@pytest.mark.parametrize(
    ("layout", "defect_type", "parts"),
    [
        ("mvtec_loco", "structural_anomalies", ["train", "train", "val", "val", "test", "test"]),
        ("mvtec_ad2", "bad", ["train", "train", "val", "val", "test", "test"]),
        ("mvtec_3d", "hole", ["train", "train", "val", "val", "test", "test"]),
        ("visa", "anomaly", ["train"] * 4 + ["test"] * 2),
        ("btad", "ko", ["train"] * 4 + ["test"] * 2),
        ("kolektor_sdd2", "defect", ["train"] * 4 + ["test"] * 2),
    ],
)
def test_public_layouts_are_read_with_parts_types_and_masks(tmp_path: Path, layout, defect_type, parts):
    write_folders(tmp_path / "in", layout)
    assert locate(tmp_path / "in", "nut").layout == layout
    findings = Findings()
    pictures = {picture.path.stem: picture for picture in read_category(tmp_path / "in", "nut", findings)}
    assert not findings.problems and set(pictures) == {*GOOD, *SINGLE}
    assert [one for one in findings.warnings if "no labels: test_private" not in one] == []
    assert [pictures[stem].folder for stem in GOOD] == parts
    assert {pictures[stem].defect_type for stem in GOOD} == {"good"}
    assert {pictures[stem].defect_type for stem in SINGLE} == {defect_type}
    for stem in SINGLE:
        one = pictures[stem]
        if layout == "mvtec_loco":
            assert np.array_equal(draw(one.annotation, read_pixels(one.path)).labels > 0, truth(stem) > 0)
        else:
            assert one.mask and np.array_equal(read_mask(one.mask), truth(stem) > 0)


@pytest.mark.parametrize("layout", ["mvtec_loco", "mvtec_ad2", "mvtec_3d", "visa", "btad", "kolektor_sdd2"])
def test_a_missing_mask_of_a_public_layout_is_a_problem_that_names_it(tmp_path: Path, layout):
    write_folders(tmp_path / "in", layout)
    signs = ("ground_truth", "Masks", "_GT", "gt")
    for mask in sorted(tmp_path.rglob("*p0*")):
        if any(sign in mask.as_posix().removeprefix(tmp_path.as_posix()) for sign in signs):
            for file in mask.iterdir() if mask.is_dir() else [mask]:
                file.unlink()
    findings = Findings()
    read_category(tmp_path / "in", "nut", findings)
    assert len(findings.problems) == 1 and "p0" in findings.problems[0] and "without a mask" in findings.problems[0]


STRAYS = {  # a picture in a folder of no meaning, and a mask without a picture
    "mvtec_loco": ("other/p3", "ground_truth/structural_anomalies/p4/000"),
    "mvtec_ad2": ("test_public/scratch/p3", "test_public/ground_truth/bad/p4_mask"),
    "mvtec_3d": ("test/hole/p3", "test/hole/gt/p4"),
    "visa": ("Data/Images/Other/p3", "Data/Masks/Anomaly/p4"),
    "btad": ("test/scratch/p3", "ground_truth/ko/p4"),
    "kolektor_sdd2": ("train/more/p3", "test/p4_GT"),
}


@pytest.mark.parametrize("layout", STRAYS)
def test_what_a_public_layout_does_not_read_is_one_warning_that_names_it(tmp_path: Path, layout):
    write_folders(tmp_path / "in", layout)
    strays = [tmp_path / f"in/nut/{name}.png" for name in STRAYS[layout]]
    for path in strays:
        write_mask(path, "p0")
    findings = Findings()
    pictures = read_category(tmp_path / "in", "nut", findings)
    assert len(pictures) == len(GOOD) + len(SINGLE) and not findings.problems
    [warning] = [one for one in findings.warnings if "2 picture(s) that this layout has no place for" in one]
    assert all(str(path) in warning for path in strays)


def test_lamps_of_one_part_are_one_capture_group(tmp_path: Path):
    write_folders(tmp_path / "in", "mvtec_ad2")
    bad = tmp_path / "in/nut/test_public/bad"
    for name in ("000_regular", "000_shift_1", "001_regular"):
        Image.fromarray(pixels("p0")).save(bad / f"{name}.png")
        write_mask(bad.parent / f"ground_truth/bad/{name}_mask.png", "p0")
    groups = {picture.path.stem: picture.group for picture in read_category(tmp_path / "in", "nut", Findings())}
    assert groups["000_regular"] == groups["000_shift_1"] != groups["001_regular"]


def test_a_png_beside_a_jpeg_is_its_mask(tmp_path: Path):
    base = tmp_path / "in/nut"
    write_pictures(base / "good", GOOD, ".jpg")
    write_pictures(base / "scratch", SINGLE, ".jpg")
    for stem in SINGLE:
        write_mask(base / f"scratch/{stem}.png", stem)
    pictures = {picture.path.stem: picture for picture in read_category(tmp_path / "in", "nut", Findings())}
    assert set(pictures) == {*GOOD, *SINGLE} and pictures["p0"].mask == base / "scratch/p0.png"


def test_every_layout_is_one_file_and_one_name():
    files = {path.stem for path in (Path(__file__).parents[2] / "lib/dataset/formats").glob("*.py")} - {"__init__"}
    assert set(FORMATS) == files == set(get_args(Layout)) - {"auto"}
