"""Labels: every request gets a verdict, masks are measured once, pictures keep nothing but what the mask explains."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib.boxes import box_around
from lib.core import runtime
from lib.core.geometry import box_mask
from lib.core.images import read_image, read_mask, write_png
from lib.core.params import Params
from lib.core.records import Synthetic
from lib.labels import labelling
from lib.labels.labelling import label_all
from lib.labels.masks import METHODS
from tests.category import CATEGORY, placement, tiny_params

FINAL, SYNTH = Path("data/masks/x/slab"), Path("data/synth/x/slab")
DEFECT = (12, 14, 24, 19)  # inside of the placement's box


def synthetic(number: int, known: bool = False, **changes: Any) -> Synthetic:
    """A record, with its picture on the disk: a defect on a ground that was repainted, hardly visibly, in the box."""
    request = placement(number, box=(8, 8, 44, 40))
    normal = read_image(Path(f"data/prepared/{CATEGORY}/images/{request.normal}.png"))
    image, mask = normal.copy(), box_mask(DEFECT, 48, 48)
    image[box_mask(request.box, 48, 48)] += 1
    image[mask] = 230
    path, file = SYNTH / "images" / f"{request.id}.png", SYNTH / "masks" / f"{request.id}.png"
    digest = write_png(path, image)
    values = {
        **{name: getattr(request, name) for name in ("category", "defect_type", "normal", "box", "like", "component")},
        **{"placement": request.id, "generator": "x", "model": "x", "prompt": request.prompt, "seed": request.seed},
        **{"knobs": {}, "image": path.as_posix(), "sha256": digest},
    }
    if known:
        values |= {"mask": file.as_posix(), "mask_sha256": write_png(file, mask)}
    return Synthetic(**values | changes)


def labelled(params: Params, real: dict, records: list[Synthetic]) -> tuple[list[Synthetic], dict, np.ndarray]:
    """The labelled records; pictures lie in `out`, where the records' paths point once it is renamed."""
    return label_all(params, real, records, Path("out"), FINAL)


def test_accepted_rejected_and_failed_add_up_to_what_was_requested(params: Params, real: dict):
    failed = replace(synthetic(1), image=None, sha256=None, reason="non-finite output")
    faint = synthetic(2)
    write_png(Path(str(faint.image)), read_image(Path(real[str(faint.normal)].image)))
    records, numbers, _ = labelled(params, real, [synthetic(0), failed, faint])
    assert [record.accepted for record in records] == [True, False, False]
    assert [record.reason for record in records] == [None, "non-finite output", "no visible change"]
    assert records[1].image is None and records[1].mask is None and records[1].scores == {}
    assert (numbers["samples"], numbers["accepted"], numbers["failed"]) == (3, 1, 1)
    assert numbers["rejected"] == {"no visible change": 1} and numbers["failures"] == {"non-finite output": 1}
    assert numbers["acceptance_rate"] == pytest.approx(1 / 3, abs=1e-6)


def test_real_defects_that_are_too_small_for_the_gate_are_counted_by_type(params: Params, real: dict):
    sizes = [int(read_mask(Path(sample.mask)).sum()) for sample in real.values() if sample.mask]
    assert labelled(params, real, [])[1]["real_too_small"] == {}
    gate = params.gate.model_copy(update={"min_area": max(sizes) + 1})
    counts = labelled(params.model_copy(update={"gate": gate}), real, [])[1]["real_too_small"]
    assert sum(counts.values()) == len(sizes)


def test_real_defects_are_held_against_those_of_other_capture_groups(params: Params, real: dict):
    assert labelled(params, real, [])[1]["real_acceptance_rate"] is not None
    shots = {name: replace(sample, group="one part") for name, sample in real.items()}
    assert labelled(params, shots, [])[1]["real_acceptance_rate"] is None


def test_a_picture_keeps_what_the_mask_explains_and_nothing_else(params: Params, real: dict):
    [record], numbers, _ = labelled(params, real, [synthetic(0)])
    raw, normal = read_image(SYNTH / "images" / f"{record.placement}.png"), read_image(Path(real["good-0"].image))
    mask = METHODS[params.masks.method](raw, normal, record.box, params.masks.component_ratio)
    image = read_image(Path("out/images") / f"{record.placement}.png")
    assert np.array_equal(read_mask(Path("out/masks") / f"{record.placement}.png"), mask)
    assert np.array_equal(image[mask], raw[mask])
    reach = params.synth.feather + 2
    far = ~box_mask((DEFECT[0] - reach, DEFECT[1] - reach, DEFECT[2] + reach, DEFECT[3] + reach), 48, 48)
    assert np.array_equal(image[far], normal[far]) and (raw[far] != normal[far]).any()
    assert record.image == (FINAL / "images" / f"{record.placement}.png").as_posix()
    assert record.sha256 != synthetic(0).sha256 and numbers["masks"] == "measured"
    assert record.knobs == params.masks.model_dump()


@pytest.mark.parametrize("known", [False, True])
def test_what_was_painted_outside_of_the_box_is_told_although_it_is_put_back(params: Params, real: dict, known: bool):
    record = synthetic(0, known=known)
    image = read_image(Path(str(record.image)))
    image[2, 40:43] += 9
    write_png(Path(str(record.image)), image)
    [refused], numbers, _ = labelled(params, real, [record])
    assert (refused.accepted, refused.reason) == (False, "changed outside of the box")
    assert numbers["pixels_changed_outside"] == 3


def test_the_whole_box_is_kept_where_that_is_wanted(params: Params, real: dict, raw_params: dict):
    record = synthetic(0)
    [same], *_ = labelled(tiny_params(raw_params, masks={"keep": "box"}), real, [record])
    assert (same.image, same.sha256) == (record.image, record.sha256) and not Path("out/images").exists()


def test_the_configured_method_trims_the_picture_that_it_labels(params: Params, real: dict, raw_params: dict):
    published = tiny_params(raw_params, masks={"method": "cosine_rgb_otsu"})
    record = synthetic(0)
    raw, normal = read_image(Path(str(record.image))), read_image(Path(real["good-0"].image))
    labelled(published, real, [record])
    mask = METHODS["cosine_rgb_otsu"](raw, normal, record.box, params.masks.component_ratio)
    assert np.array_equal(read_mask(Path("out/masks") / f"{record.placement}.png"), mask)
    image = read_image(Path("out/images") / f"{record.placement}.png")
    assert np.array_equal(image[mask], raw[mask])


def test_a_known_mask_is_taken_as_it_is_and_its_picture_stays(params: Params, real: dict):
    record = synthetic(0, known=True)
    [same], numbers, _ = labelled(params, real, [record])
    assert np.array_equal(read_mask(Path("out/masks") / f"{record.placement}.png"), box_mask(DEFECT, 48, 48))
    assert (same.image, same.sha256, same.knobs) == (record.image, record.sha256, {}) and numbers["masks"] == "known"
    assert same.scores["area"] == 60 and same.accepted


def test_masks_of_one_category_count_as_measured_where_any_is(params: Params, real: dict):
    assert labelled(params, real, [synthetic(0, known=True), synthetic(1)])[1]["masks"] == "measured"
    failed = replace(synthetic(1), image=None, sha256=None, reason="non-finite output")
    assert labelled(params, real, [synthetic(0, known=True), failed])[1]["masks"] == "known"


def test_a_picture_with_a_background_of_its_own_is_judged_by_its_mask_alone(params: Params, real: dict):
    record = synthetic(0, known=True, normal=None, box=DEFECT)
    [judged], *_ = labelled(params, real, [record])
    assert judged.accepted and judged.box == DEFECT and judged.scores["fill"] == pytest.approx(60 / 48**2, abs=1e-6)
    [other], *_ = labelled(params, real, [synthetic(0, known=True)])
    assert "grain" in judged.scores and "grain" not in other.scores, "only who paints a background answers for it"


def test_a_twin_is_what_the_mask_of_a_background_of_its_own_is_measured_against(params: Params, real: dict):
    record = synthetic(0, normal=None, box=(0, 0, 48, 48))
    twin = read_image(Path(real["good-0"].image))
    write_png(SYNTH / "normals" / f"{record.placement}.png", twin)
    [judged], *_ = labelled(params, real, [record])
    mask = read_mask(Path("out/masks") / f"{record.placement}.png")
    rows, columns = np.nonzero(mask)
    tight = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    assert judged.box == box_around(mask, params.boxes.margin) != tight, "framed as a real defect"
    assert (mask & box_mask(DEFECT, 48, 48)).sum() == 60 and judged.accepted
    image = read_image(Path("out/images") / f"{record.placement}.png")
    assert np.array_equal(image[30:], twin[30:]), "where the mask is not, the picture is the twin"


def test_a_picture_that_can_be_compared_with_nothing_is_a_fault(params: Params, real: dict):
    with pytest.raises(ValueError, match="neither a mask nor a normal"):
        labelled(params, real, [synthetic(0, normal=None)])


def test_labels_depend_on_neither_the_number_of_cores_nor_the_order(
    params: Params, real: dict, monkeypatch: pytest.MonkeyPatch
):
    records = [synthetic(number, known=number % 3 == 0) for number in range(9)]
    many, numbers, sheet = labelled(params, real, records)
    monkeypatch.setattr(runtime, "THREADS", 1)
    one, same, again = labelled(params, real, records)
    assert (many, numbers) == (one, same) and np.array_equal(sheet, again)
    assert labelled(params, real, records[::-1])[0] == many[::-1]


def test_each_good_picture_is_decoded_once(params: Params, real: dict, monkeypatch: pytest.MonkeyPatch):
    records, reads = [synthetic(number) for number in range(6)], []
    monkeypatch.setattr(runtime, "THREADS", 1)
    monkeypatch.setattr(labelling, "read_image", lambda path: reads.append(path) or read_image(path))
    labelled(params, real, records)
    assert sum(path.stem == "good-0" for path in reads) == 1


def test_the_sheet_shows_the_first_samples_of_each_type_alone(params: Params, real: dict):
    sheet = labelled(params, real, [synthetic(number) for number in range(15)])[2]
    assert sheet.shape == (3 * (128 + 4) + 4, 12 * (128 + 4) + 4, 3), "twelve of them, four in a row"
