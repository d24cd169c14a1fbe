"""DefectFill on tiny random weights: what learns, which hole is painted, which candidate is kept, what stays."""

import hashlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.core.defects import defect_mask
from lib.core.geometry import box_mask, crop, polygon_mask, window_around
from lib.core.images import png_bytes, read_image, read_mask, write_png
from lib.core.params import Params, WindowParams
from lib.core.records import Placement
from lib.diffusion.components import Components, load
from lib.generators import NON_FINITE, Answer, Failed, Made, defectfill, read_real
from lib.generators.defectfill import Holes, Settings, finetune, object_prompt, synthesize, view_of
from tests.category import CATEGORY, placement, tiny_params

pytestmark = pytest.mark.usefixtures("workplace")

CPU = torch.device("cpu")
Finetuned = tuple[Path, dict[str, str], dict[str, str]]


def hashes(parts: Components) -> dict[str, str]:
    """A hash of every weight of the base, without adapters and words."""
    return {
        f"{part}.{name.replace('.base_layer', '')}": hashlib.sha256(value.detach().numpy().tobytes()).hexdigest()
        for part in ("unet", "vae", "text_encoder")
        for name, value in getattr(parts, part).state_dict().items()
        if "lora" not in name and "token" not in name
    }


@pytest.fixture(scope="module")
def params(raw_params: dict, tiny_base: Path) -> Params:
    changes: dict[str, Any] = {"rank": 2, "alpha": 4, "variants": 2, "candidates": 2, "guard": 100, "long": "parts"}
    return tiny_params(raw_params, tiny_base, defectfill=changes)


def own(params: Params, **changes: Any) -> Settings:
    return params.section("defectfill", Settings).model_copy(update=changes)


@pytest.fixture(scope="module")
def model(params: Params, workplace: Path, monkeymodule: pytest.MonkeyPatch) -> Finetuned:
    """The folder of a fine-tuned model, and the hashes of the base's weights before and after."""
    loaded: list[Components] = []
    before: list[dict[str, str]] = []

    def spying(*args: Any) -> Components:
        loaded.append(load(*args))
        before.append(hashes(loaded[-1]))
        return loaded[-1]

    out = workplace / "model"
    with monkeymodule.context() as patched:
        patched.setattr(defectfill, "load", spying)
        finetune(params, own(params), read_real(CATEGORY), "key", out, out / "curves")
    return out, before[0], hashes(loaded[0])


# Fine-tuning


def test_only_adapters_and_words_learn(model: Finetuned):
    _, before, after = model
    assert len(before) > 80 and before == after


def test_the_model_says_its_words_and_its_base(model: Finetuned, tiny_base: Path):
    facts = json.loads((model[0] / "model.json").read_text())
    assert facts["words"] == ["<dent>", "<scratch>"] and facts["base"] == str(tiny_base)
    assert {"pytorch_lora_weights.safetensors", "word-dent.safetensors", "word-scratch.safetensors"} <= {
        path.name for path in model[0].iterdir()
    }
    assert (model[0] / "curves/plots/metrics/loss.tsv").exists()


def test_text_encoder_and_words_learn_at_their_own_rates(
    params: Params, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    rates: dict[str, float] = {}

    def spying(objective: Any, count: int, shared: Any, *rest: Any) -> None:
        rates.update({name: shared.learning_rate * rest[-1](name) for name, _ in objective.named_parameters()})

    monkeypatch.setattr(defectfill, "train", spying)
    chosen = own(params, learning_rate_text=0.003, learning_rate_word=0.005)
    finetune(params, chosen, read_real(CATEGORY), "key", tmp_path, tmp_path)
    adapters = {name: rate for name, rate in rates.items() if "lora" in name}
    assert {rate for name, rate in adapters.items() if name.startswith("unet.")} == {params.finetune.learning_rate}
    assert {round(rate, 9) for name, rate in adapters.items() if name.startswith("text_")} == {0.003}
    assert [rate for name, rate in rates.items() if "trainable_tokens" in name] == [pytest.approx(0.005)]


def test_views_are_of_the_train_part_and_their_types(params: Params, monkeypatch: pytest.MonkeyPatch):
    opened: list[str] = []
    monkeypatch.setattr(defectfill, "read_image", lambda path: opened.append(path.stem) or read_image(path))
    parts = load(params.base, CPU)
    views = defectfill.encoded_views(params, own(params), read_real(CATEGORY), parts, ["dent", "scratch"])
    assert set(opened) == {"scratch-0", "scratch-1", "dent-0"}
    assert views.pictures.shape == (6, 32, 32, 3) and len(views.latents) == len(views.masked) == 6
    assert sorted(views.types.tolist()) == [0, 0, 1, 1, 1, 1]
    assert set(views.masks.unique().tolist()) == {0, 1} and (views.masks.flatten(1).sum(dim=1) > 0).all()


@settings(max_examples=80)
@given(
    x0=st.integers(0, 37),
    y0=st.integers(0, 37),
    width=st.integers(1, 10),
    height=st.integers(1, 10),
    flips=st.tuples(st.booleans(), st.booleans()),
    largest=st.integers(8, 64),
    seed=st.integers(0, 2**63 - 1),
)
def test_views_keep_picture_and_mask_aligned_and_hold_some_of_the_defect(
    x0: int, y0: int, width: int, height: int, flips: tuple[bool, bool], largest: int, seed: int
):
    box = (x0, y0, x0 + width, y0 + height)
    mask = box_mask(box, 48, 48)
    picture = np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255
    windows = WindowParams(context=1.3, min_side=16)
    view, hole = view_of(picture, mask, box, flips, windows, largest, 32, seed)
    assert view.shape == (32, 32, 3) and hole.shape == (32, 32) and hole.any()
    assert (hole == (view[..., 0] > 127)).mean() > 0.8, "but for what resizing does to borders"
    assert np.array_equal(hole[view[..., 0] == 255], np.ones((view[..., 0] == 255).sum(), bool))


@pytest.mark.parametrize("seed", range(20))
def test_a_view_is_enlarged_by_at_most_an_eighth(seed: int, monkeypatch: pytest.MonkeyPatch):
    sides: list[int] = []
    monkeypatch.setattr(
        defectfill,
        "crop",
        lambda array, window: sides.append(window.side) or np.zeros((32, 32, *array.shape[2:]), array.dtype),
    )
    mask = box_mask((10, 10, 40, 40), 48, 48)
    view_of(
        np.zeros((48, 48, 3), np.uint8),
        mask,
        (10, 10, 40, 40),
        (False, False),
        WindowParams(context=1.3, min_side=16),
        99,
        32,
        seed,
    )
    assert 39 / 1.125 - 1 <= sides[0] <= 39


# Holes


def hole_of(params: Params, request: Placement, side: int = 32, **changes: Any) -> np.ndarray:
    return Holes(params, own(params, **changes), read_real(CATEGORY), side).job(request).hole


@pytest.mark.parametrize("shape", ["real", "drawn", "box"])
def test_a_hole_lies_in_its_box_and_is_its_seeds_alone(params: Params, shape: str):
    requests = [placement(number, box=(5, 5, 45, 40), like="dent-0", defect_type="dent") for number in range(2)]
    holes = [hole_of(params, request, shape=shape) for request in requests]
    assert all(hole.any() and not hole[~box_mask((5, 5, 45, 40), 48, 48)].any() for hole in holes)
    assert np.array_equal(holes[0], hole_of(params, requests[0], shape=shape))
    assert np.array_equal(*holes) == (shape == "box")
    assert shape != "box" or np.array_equal(holes[0], box_mask((5, 5, 45, 40), 48, 48))


@pytest.mark.parametrize("shape", ["real", "drawn", "box"])
def test_the_shape_that_a_person_drew_is_the_hole_as_it_is(params: Params, shape: str):
    request = placement(0, box=(10, 12, 30, 30), shape=((12, 14), (26, 14), (19, 28)))
    hole = hole_of(params, request, shape=shape)
    expected = np.zeros((48, 48), bool)
    expected[12:30, 10:30] = polygon_mask(request.shape, request.box)
    assert np.array_equal(hole, expected) and 80 < hole.sum() < 150


def test_a_real_hole_is_the_mask_of_the_defect_that_the_placement_was_drawn_from(params: Params, workplace: Path):
    mask_file = workplace / f"data/prepared/{CATEGORY}/masks/scratch-0.png"
    whole = read_mask(mask_file)
    halved = whole.copy()
    halved[:, 16:] = False  # of a box from 4 to 28
    try:
        write_png(mask_file, halved)
        hole = hole_of(params, placement(0, box=(8, 10, 40, 18)), growth=0)
    finally:
        write_png(mask_file, whole)
    half = hole[10:18, 8:24].sum(), hole[10:18, 24:40].sum()
    assert max(half) > 3 * min(half), "one half of the box, as in the real one"


def test_a_long_line_is_painted_in_parts_at_native_scale(params: Params, monkeypatch: pytest.MonkeyPatch):
    line = box_mask((2, 22, 46, 24), 48, 48)[5:43, 1:47]
    monkeypatch.setattr(Holes, "_shape", lambda self, placement: line)
    request = placement(0, box=(1, 5, 47, 43))
    job = Holes(params, own(params), read_real(CATEGORY), 32).job(request)
    assert len(job.parts) >= 2 and {part.window.side for part in job.parts} == {32}
    assert np.array_equal(np.any([part.hole for part in job.parts], axis=0), job.hole)
    for part in job.parts:
        columns = np.nonzero(part.hole)[1]
        assert part.window.x0 <= columns.min() and columns.max() < part.window.x0 + 32
    [one] = Holes(params, own(params, long="shrink"), read_real(CATEGORY), 32).job(request).parts
    assert one.window.side > 32


# Synthesis


def answers(params: Params, folder: Path, *batches: list[Placement], **changes: Any) -> list[Answer]:
    made = list(synthesize(params, own(params, **changes), read_real(CATEGORY), folder, batches))
    assert [len(batch) for batch in made] == [len(batch) for batch in batches]
    return [one for batch in made for one in batch]


def pictures(params: Params, folder: Path, *batches: list[Placement], **changes: Any) -> list[np.ndarray]:
    made = answers(params, folder, *batches, **changes)
    return [one.image for one in made if isinstance(one, Made)]


def normal_of(request: Placement) -> np.ndarray:
    return read_image(Path(f"data/prepared/{CATEGORY}/images/{request.normal}.png"))


REQUESTS = [placement(0), placement(1), placement(2, "good-1"), placement(3, "good-2", (22, 40, 40, 56))]


@pytest.mark.parametrize("shape", ["real", "box"])
def test_outside_of_the_hole_every_bit_stays(params: Params, model: Finetuned, shape: str):
    for request, image in zip(REQUESTS, pictures(params, model[0], REQUESTS, shape=shape), strict=True):
        normal, hole = normal_of(request), hole_of(params, request, shape=shape)
        assert image.shape == normal.shape and image.dtype == np.uint8
        assert np.array_equal(image[~hole], normal[~hole]) and (image != normal)[hole].mean() > 0.1


def test_a_person_s_shape_is_painted_and_nothing_else(params: Params, model: Finetuned):
    request = placement(0, box=(8, 8, 40, 40), shape=((10, 10), (36, 12), (20, 36)))
    [image] = pictures(params, model[0], [request])
    hole = hole_of(params, request)
    assert np.array_equal(image[~hole], normal_of(request)[~hole]) and (image != normal_of(request))[hole].mean() > 0.1


def test_a_hole_over_the_whole_picture_is_allowed(params: Params, model: Finetuned):
    [image] = pictures(params, model[0], [placement(0, box=(0, 0, 48, 48))], shape="box")
    assert (image != normal_of(placement(0))).mean() > 0.2


def test_an_empty_hole_leaves_the_picture_as_it_is(params: Params, model: Finetuned):
    [image] = pictures(params, model[0], [placement(0, box=(20, 20, 20, 20))])
    assert np.array_equal(image, normal_of(placement(0)))


def test_a_sample_is_its_seeds_alone(params: Params, model: Finetuned):
    first, again = (pictures(params, model[0], REQUESTS[:2]) for _ in range(2))
    assert [png_bytes(image) for image in first] == [png_bytes(image) for image in again]
    assert not np.array_equal(*first), "another seed, another defect"
    for together, request in zip(pictures(params, model[0], REQUESTS, candidates=1), REQUESTS, strict=True):
        [alone] = pictures(params, model[0], [request], candidates=1)
        assert np.abs(together.astype(int) - alone).max() <= 2


def test_every_candidate_has_noise_of_its_own(params: Params, model: Finetuned, monkeypatch: pytest.MonkeyPatch):
    plain, seeds = defectfill.latent_noise, list[int]()
    monkeypatch.setattr(defectfill, "latent_noise", lambda chosen, *rest: seeds.extend(chosen) or plain(chosen, *rest))
    answers(params, model[0], REQUESTS[:2], candidates=3)
    assert len(set(seeds)) == 6


@pytest.mark.parametrize(
    ("prompt", "asks"),
    [
        ("object", {"A slab with <scratch>", "A slab with <dent>", ""}),
        ("defect", {"A photo of <scratch>", "A photo of <dent>", ""}),
    ],
)
def test_the_word_asks_and_the_sampler_keeps_the_background(
    params: Params, model: Finetuned, monkeypatch: pytest.MonkeyPatch, prompt: str, asks: set[str]
):
    plain, calls, prompts = defectfill.inpaint, list[dict](), list[str]()
    plain_embed = defectfill.embed
    monkeypatch.setattr(defectfill, "inpaint", lambda *args, **named: calls.append(named) or plain(*args, **named))
    monkeypatch.setattr(defectfill, "embed", lambda parts, texts: prompts.extend(texts) or plain_embed(parts, texts))
    requests = [placement(0), placement(1, defect_type="dent", like="dent-0")]
    answers(params, model[0], requests, candidates=1, prompt=prompt)
    assert set(prompts) == asks
    assert calls[0]["keep_background"] is True


def test_the_object_is_named_in_words():
    assert object_prompt("deep_cut", "hex_nut-2") == "A hex nut 2 with <deep_cut>"


def test_the_least_faithful_candidate_is_kept_and_the_notes_tell_all(
    params: Params, model: Finetuned, monkeypatch: pytest.MonkeyPatch
):
    made = answers(params, model[0], REQUESTS[:1], candidates=3)[0]
    assert isinstance(made, Made)
    notes = made.notes
    assert len(notes["candidates"]) == 3 and notes["chosen"] == int(np.argmax(notes["candidates"]))
    assert notes["beyond_limit"] == [] and notes["limit"] > max(notes["candidates"]) and notes["parts"] == 1
    assert notes["prompt"] == "A photo of <scratch>"
    json.dumps(notes, allow_nan=False)
    monkeypatch.setattr(defectfill, "real_differences", lambda *args: {"scratch": 1e-9, "dent": 1e-9})
    [bounded] = answers(params, model[0], REQUESTS[:1], candidates=3)
    assert isinstance(bounded, Made) and bounded.notes["beyond_limit"] == [0, 1, 2]
    assert bounded.notes["chosen"] == int(np.argmin(notes["candidates"]))


def test_what_real_defects_differ_by_is_measured_for_each_type(params: Params):
    backbone = defectfill.load_backbone(defectfill.DEFAULT)
    compare = partial(defectfill.difference, backbone, resolution=32)
    most = defectfill.real_differences(params, read_real(CATEGORY), compare)
    assert set(most) == {"dent", "scratch"} and all(0 < value < 4 for value in most.values())


def test_a_picture_with_many_defects_is_painted_over_once(params: Params, monkeypatch: pytest.MonkeyPatch):
    painted, seen, plain, real = [], [], defectfill.without_defect, read_real(CATEGORY)
    monkeypatch.setattr(defectfill, "without_defect", lambda *given: painted.append(given) or plain(*given))
    boxes = [replace(box, box=(x, 4, x + 9, 13)) for box in real.boxes for x in (4, 20)]

    def compare(picture, without, mask):
        seen.append((picture, without, mask))
        return float(mask.sum())

    defectfill.real_differences(params, replace(real, boxes=tuple(boxes)), compare)
    assert len(seen) == len(boxes) == 2 * len(painted)
    for box, views in zip(boxes, seen, strict=True):
        sample = real.samples[box.sample]
        picture, mask = read_image(Path(sample.image)), defect_mask(sample, box.defect_type)
        window = window_around(box.box, picture.shape, params.window.context, params.window.min_side)
        alone = (picture, plain(picture, mask), defectfill.shapes.grown(mask, 1))
        assert all(np.array_equal(view, crop(array, window)) for view, array in zip(views, alone, strict=True))


@pytest.mark.parametrize("broken", [{0}, {0, 1}])
def test_a_candidate_that_is_no_picture_is_passed_over(
    params: Params, model: Finetuned, monkeypatch: pytest.MonkeyPatch, broken: set[int]
):
    plain, number = defectfill.inpaint, iter(range(9))

    def breaking(*args: Any, **named: Any) -> Any:
        sampled = plain(*args, **named)
        return sampled._replace(generated=sampled.generated * torch.nan) if next(number) in broken else sampled

    monkeypatch.setattr(defectfill, "inpaint", breaking)
    [answer] = answers(params, model[0], REQUESTS[:1])
    if broken == {0}:
        assert isinstance(answer, Made) and answer.notes["chosen"] == 1 and answer.notes["candidates"][0] is None
    else:
        assert answer == Failed(NON_FINITE)


def test_each_part_sees_what_the_one_before_painted(params: Params, model: Finetuned, monkeypatch: pytest.MonkeyPatch):
    line = box_mask((2, 22, 46, 24), 48, 48)[5:43, 1:47]
    monkeypatch.setattr(Holes, "_shape", lambda self, placement: line)
    shown: list[np.ndarray] = []
    plain = defectfill._changes
    monkeypatch.setattr(
        defectfill,
        "_changes",
        lambda params, parts, before, *rest: shown.extend(before) or plain(params, parts, before, *rest),
    )
    request = placement(0, box=(1, 5, 47, 43))
    [image] = pictures(params, model[0], [request], candidates=1)
    assert len(shown) >= 2 and np.array_equal(shown[0], normal_of(request))
    assert not np.array_equal(shown[1], shown[0])
    hole = hole_of(params, request)
    assert np.array_equal(image[~hole], normal_of(request)[~hole])
