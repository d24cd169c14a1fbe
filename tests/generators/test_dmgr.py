"""DMGR on tiny networks: windows and patches, what a request decides, both modes, and that no batch shows."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file

from lib.core.geometry import box_mask
from lib.core.images import png_bytes, read_image
from lib.core.params import Params
from lib.core.records import DefectBox
from lib.core.runtime import fingerprint
from lib.diffusion import pixel
from lib.diffusion.patches import (
    Frame,
    Request,
    allowed,
    defect_patches,
    good_windows,
    kind_of,
    request_of,
    surroundings,
)
from lib.diffusion.pixel import PixelObjective
from lib.generators import NON_FINITE, Answer, Failed, Made, RealData, dmgr, read_real
from lib.generators.dmgr import Result, Sampler, Settings, answer, finetune, sampler_of, synthesize
from lib.synthesis import synthesize_all
from tests.category import CATEGORY, placement, tiny_params

pytestmark = pytest.mark.usefixtures("workplace")


@pytest.fixture(scope="module")
def params(raw_params: dict) -> Params:
    return tiny_params(raw_params)


@pytest.fixture(scope="module")
def own(params: Params) -> Settings:
    return params.section("dmgr", Settings)


@pytest.fixture(scope="module")
def frame(params: Params, own: Settings) -> Frame:
    return own.frame(params.window)


@pytest.fixture(scope="module")
def model(params: Params, own: Settings, workplace: Path) -> Path:
    finetune(params, own, read_real(CATEGORY), "k", workplace / "model", workplace / "curves")
    return workplace / "model"


def drawn(params: Params, own: Settings, model: Path, *batches: list) -> list[Answer]:
    return [answer for answers in synthesize(params, own, read_real(CATEGORY), model, batches) for answer in answers]


# Windows and patches


@hypothesis_settings(max_examples=60)
@given(data=st.data())
def test_a_box_fits_its_patch_with_context_and_the_patch_lies_in_the_window(params: Params, data: st.DataObject):
    frame = Frame(64, 48, params.window)
    width, height = data.draw(st.integers(80, 400)), data.draw(st.integers(80, 400))
    x0, y0 = data.draw(st.integers(0, width - 2)), data.draw(st.integers(0, height - 2))
    box = (x0, y0, data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height)))
    window = frame.around(box)
    longer = max(box[2] - box[0], box[3] - box[1])
    scale = frame.side / window.side
    assert scale * params.window.context * longer <= frame.patch + 1e-6
    assert abs(box[0] + box[2] - 2 * window.x0 - window.side) <= 1, "the box lies in the middle"
    assert abs(box[1] + box[3] - 2 * window.y0 - window.side) <= 1
    inside = window.inside(box)
    small = tuple(round(place * scale) for place in inside)
    x, y = frame.corner(small)
    assert 0 <= x <= frame.side - frame.patch and 0 <= y <= frame.side - frame.patch
    if scale * longer < frame.patch - 2:
        assert x - 1 <= small[0] and small[2] <= x + frame.patch + 1
        assert y - 1 <= small[1] and small[3] <= y + frame.patch + 1


def test_a_small_box_keeps_its_native_scale(params: Params):
    assert Frame(64, 48, params.window).around((30, 30, 40, 40)).side == 64


@pytest.mark.parametrize(
    ("box", "kind"), [((0, 0, 20, 10), "wide"), ((0, 0, 10, 20), "tall"), ((0, 0, 14, 10), "square")]
)
def test_the_local_model_knows_a_defect_by_its_type_and_shape(box: tuple, kind: str):
    assert kind_of(DefectBox("a", 0, "dent", box, 9)) == f"dent {kind}"


def of_boxes(real: RealData, frame: Frame, each: int) -> tuple[torch.Tensor, torch.Tensor]:
    images = [Path(real.samples[item.sample].image) for item in real.boxes]
    return defect_patches(frame, images, real.boxes, each, 0)


def test_the_region_of_a_patch_is_the_box_in_whatever_way_the_patch_is_flipped(frame: Frame):
    """The category's defects fill their boxes with grey levels from 200, and the ground ends at 150."""
    patches, regions = of_boxes(read_real(CATEGORY), Frame(32, 32, frame.window), 8)
    bright = patches.mean(dim=1, keepdim=True) > 0.37
    overlap = ((bright & regions).flatten(1).sum(dim=1) / (bright | regions).flatten(1).sum(dim=1)).tolist()
    assert len(overlap) == 24 and min(overlap) > 0.6, "a border pixel more or less where the patch is shrunk"
    assert sum(share == 1 for share in overlap) > 12, "no pixel at native scale"
    assert len({tuple(region.flatten().tolist()) for region in regions}) > 12, "at many places"


def test_of_a_defect_and_of_the_ground_below_nothing_is_known_but_the_place(frame: Frame):
    real = read_real(CATEGORY)
    goods = [sample for sample in real.samples.values() if sample.defect_type == "good"]
    windows, places = good_windows(frame, goods, real.boxes, 4, 0)
    assert places.shape == (12, 1, 32, 32) and 0.01 < places.float().mean() < 0.6
    for signals, regions in ((windows, places), of_boxes(real, frame, 4)):
        given = surroundings(signals, regions)
        inside = regions.expand_as(signals)
        assert (given[:, :3][inside] == 0).all() and torch.equal(given[:, :3][~inside], signals[~inside])
        assert torch.equal(given[:, 3:], regions.float())


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"patch": 64}, "does not fit into a window of 32"), ({"patch": 18}, "cannot be halved 2 times")],
)
def test_sizes_that_do_not_go_together_are_refused(own: Settings, changes: dict, said: str):
    with pytest.raises(ValidationError, match=said):
        Settings.model_validate(own.model_dump() | changes)


def test_a_drift_of_tone_leaves_no_outline_of_the_box_and_the_defect_stays(params: Params, own: Settings):
    own = own.model_copy(update={"side": 64, "patch": 48, "radius": 24.0})
    normal, box = np.full((120, 120, 3), 128, np.uint8), (40, 40, 80, 80)
    request = request_of(box, normal, 0, 1, own.frame(params.window), own.radius)
    rows, columns = np.mgrid[:64, :64]
    dark = np.exp(-((rows - 31.5) ** 2 + (columns - 31.5) ** 2) / 20)[..., None] * [-60.0, -60, -60]
    reference = np.full((64, 64, 3), 128, np.float32)
    made = answer(request, Result((reference + dark + 25).astype(np.float32), reference, {}), box, normal, params, own)
    assert isinstance(made, Made)
    change = made.image.astype(int) - normal
    assert change.max() <= 1, "the drift of 25 is gone"
    assert change[58:62, 58:62].mean() < -40, "the defect is as dark as it was painted"
    assert np.abs(change[44, 44:76]).max() <= 1, "nothing in the margin"


def test_the_margin_of_a_long_box_is_that_of_its_longer_side(params: Params, own: Settings):
    """Boxes add a share of the defect's longer side on every side."""
    own = own.model_copy(update={"side": 64, "patch": 64, "radius": 40.0})
    normal, box = np.full((120, 120, 3), 128, np.uint8), (30, 48, 90, 72)
    request = request_of(box, normal, 0, 1, own.frame(params.window), own.radius)
    reference = np.full((64, 64, 3), 128, np.float32)
    ramp = np.broadcast_to(np.linspace(-60, 60, 64)[:, None, None] ** 2 / 40, (64, 64, 3))
    made = answer(request, Result((reference + ramp).astype(np.float32), reference, {}), box, normal, params, own)
    assert isinstance(made, Made)
    change = np.abs(made.image.astype(int) - normal).mean(axis=2)[:, 40:80].mean(axis=1)
    of_longer = params.boxes.margin / (1 + 2 * params.boxes.margin) * 60
    assert change[48 + round(of_longer / 3)] < 0.6 * change[48 + round(of_longer)], "it fades over all of the margin"


# The model


def test_both_networks_are_trained_and_their_averages_saved(model: Path, workplace: Path, params: Params):
    for name in ("global", "local"):
        [last] = Path(f".work/finetune-dmgr-{CATEGORY}/{name}/k").glob("step-*3")
        state, saved = load_file(last / "state.safetensors"), load_file(model / name / pixel.WEIGHTS)
        assert all(torch.equal(value, state[f"ema/network.{key}"]) for key, value in saved.items())
        assert any(not torch.equal(value, state[f"weight/network.{key}"]) for key, value in saved.items())
    facts = json.loads((model / "model.json").read_text())
    assert facts["kinds"] == ["dent square", "scratch tall", "scratch wide"] and facts["seed"] == params.seed
    assert facts["weights"] == f"{fingerprint(model / 'global')}+{fingerprint(model / 'local')}"
    sheet = read_image(workplace / "curves/process.png")
    assert sheet.shape[1] > 8 * 60 and np.ptp(sheet) > 20, "how samples form"


@pytest.mark.parametrize(("mode", "highest", "channels"), [("anchored", 777, 7), ("free", 999, 3)])
def test_networks_learn_the_levels_they_sample_and_are_given_the_surroundings(
    params: Params,
    own: Settings,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    highest: int,
    channels: int,
):
    """Of 10 levels from 0 to 999 an anchored sample starts at number 7, round(0.8 * 9), which is level 777."""
    objectives: list[PixelObjective] = []

    def kept(objective: PixelObjective, *others: object) -> None:
        objectives.append(objective)

    monkeypatch.setattr(dmgr, "train", kept)
    own = own.model_copy(update={"mode": mode})
    real = read_real(CATEGORY)
    finetune(params, own, real, "kept", workplace / mode, workplace / "curves")
    for objective in objectives:
        assert objective.levels == range(highest + 1) and objective.network.config.in_channels == channels
        assert (objective.given is None) == (mode == "free")
        if objective.given is not None:
            outside = ~objective.given[:, 3:].bool().expand_as(objective.signals)
            assert torch.equal(objective.given[:, :3][outside], objective.signals[outside])
    whole, part = objectives
    assert whole.signals.shape[2:] == (own.side, own.side) and whole.classes is None
    assert part.signals.shape[2:] == (own.patch, own.patch) and len(part.classes) == len(part.signals)


def test_equal_runs_of_training_give_equal_bytes(params: Params, own: Settings, model: Path, workplace: Path):
    finetune(params, own, read_real(CATEGORY), "again", workplace / "again", workplace / "curves")
    first, second = (
        {
            file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in folder.rglob("*")
            if file.is_file()
        }
        for folder in (model, workplace / "again")
    )
    assert first == second and len(first) == 5


# Samples


def test_anchored_changes_nothing_outside_of_box_and_gate(params: Params, own: Settings, model: Path, frame: Frame):
    own = own.model_copy(update={"radius": 1.0})  # whose support ends before such a long box does
    item = placement(0, box=(4, 8, 40, 22))
    [made] = drawn(params, own, model, [item])
    assert isinstance(made, Made) and made.mask is None and not made.own_background
    normal = read_image(Path(read_real(CATEGORY).samples[item.normal].image))
    change = (made.image != normal).any(axis=2)
    request = request_of(item.box, normal, 0, 1, frame, own.radius)
    mask = allowed(item.box, normal.shape, request, frame, own.radius)
    assert change.any() and not change[~mask].any() and not change[~box_mask(item.box, 48, 48)].any()
    assert mask.sum() < box_mask(item.box, 48, 48).sum()


def test_free_paints_its_background_and_labels_the_patch(params: Params, own: Settings, workplace: Path):
    free = own.model_copy(update={"mode": "free"})
    finetune(params, free, read_real(CATEGORY), "free", workplace / "free", workplace / "curves")
    [made] = drawn(params, free, workplace / "free", [placement(0)])
    assert isinstance(made, Made) and made.own_background and made.image.shape == (*made.mask.shape, 3)
    scale = made.image.shape[0] / own.side
    assert made.mask.sum() == pytest.approx((own.patch * scale) ** 2, rel=0.1)
    window = made.notes["window"]
    assert window[2] == made.image.shape[0] and made.notes["patch"][2] == round(own.patch * scale)


def test_class_place_and_seed_come_from_the_request(
    params: Params, own: Settings, model: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def sampler(self: Sampler, requests: list) -> list[Result]:
        asked.extend(requests)
        blank = np.zeros((own.side, own.side, 3), np.float32)
        return [Result(blank, blank, {}) for _ in requests]

    monkeypatch.setattr(Sampler, "__call__", sampler)
    items = [placement(0), placement(1, box=(30, 4, 40, 12)), placement(2, defect_type="dent", like="dent-0")]
    drawn(params, own, model, items)
    assert [request.kind for request in asked] == [2, 2, 0]
    assert len({request.seed for request in asked}) == 3
    assert asked[0].window != asked[1].window and asked[0].open.any()


def test_the_requested_class_is_what_the_local_network_paints(
    params: Params, own: Settings, model: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []
    plain = Sampler.__call__

    def sampler(self: Sampler, requests: list[Request]) -> list[Result]:
        asked.extend(requests)
        return plain(self, requests)

    monkeypatch.setattr(Sampler, "__call__", sampler)
    drawn(params, own, model, [placement(0)])
    kinds = [plain(sampler_of(model, own), [replace(asked[0], kind=kind)])[0].picture for kind in range(3)]
    assert all((kinds[one] != kinds[other]).any() for one, other in ((0, 1), (0, 2), (1, 2)))


def test_both_networks_see_the_ground_around_the_box_and_nothing_within(params: Params, own: Settings, model: Path):
    """What is in the box of the good picture changes no estimate; what is beside it changes those of both networks."""
    sampler, seen = sampler_of(model, own), dict[str, list[torch.Tensor]](whole=[], part=[])
    for name in seen:
        network = getattr(sampler, name)
        network.register_forward_pre_hook(lambda _, inputs, kept=seen[name]: kept.append(inputs[0].detach()[:, 3:]))
    normal = np.random.default_rng(0).integers(90, 150, (48, 48, 3), dtype=np.uint8)
    request = request_of((18, 18, 30, 30), normal, 0, 1, own.frame(params.window), own.radius)
    sampler.draw([request])
    x, y = request.corner
    inner = request.open[:, y : y + own.patch, x : x + own.patch]
    for name, region in (("whole", request.open), ("part", inner)):
        for ground in seen[name]:
            assert torch.equal(ground[0, 3:].bool(), region) and 0 < region.sum() < region.numel()
            assert not ground[0, :3].masked_select(region).any() and ground[0, :3].masked_select(~region).any()
    source = request.source[:, y : y + own.patch, x : x + own.patch]
    assert torch.equal(seen["part"][0][0, :3], source.masked_fill(inner, 0)), "the patch is where the defect will be"


def test_a_sample_depends_on_its_seed_alone_whatever_the_batch(params: Params, own: Settings, model: Path):
    pairs = [("scratch", "scratch-0"), ("dent", "dent-0")]
    items = [placement(n, defect_type=pairs[n % 2][0], like=pairs[n % 2][1]) for n in range(4)]
    together = drawn(params, own, model, items)
    alone = drawn(params, own, model, *([item] for item in items))
    digests = [[png_bytes(a.image) for a in answers if isinstance(a, Made)] for answers in (together, alone)]
    assert digests[0] == digests[1] and len(set(digests[0])) == 4
    assert [a.notes for a in together if isinstance(a, Made)] == [a.notes for a in alone if isinstance(a, Made)]


def test_a_picture_that_is_not_finite_fails_as_such(
    params: Params, own: Settings, model: Path, monkeypatch: pytest.MonkeyPatch
):
    blank = np.zeros((own.side, own.side, 3), np.float32)
    monkeypatch.setattr(Sampler, "__call__", lambda self, requests: [Result(blank * np.nan, blank, {})])
    assert drawn(params, own, model, [placement(0)]) == [Failed(NON_FINITE)]


def test_the_manifest_names_networks_window_loss_and_search(params: Params, model: Path):
    [record] = synthesize_all(params, read_real(CATEGORY), "dmgr", model, [placement(0)], "k", Path("synth"))
    facts = json.loads((model / "model.json").read_text())
    assert record.model.endswith(f"+{facts['weights']}") and record.normal == "good-0" and record.mask is None
    assert set(record.notes) == {"window", "patch", "radius", "loss", "given_up", "not_finite"}
    assert record.notes["loss"] >= 0 and record.knobs["rate"] == dmgr_rate(params)


def test_without_an_optimised_level_there_is_no_loss(params: Params, own: Settings, model: Path):
    free_throughout = own.model_copy(update={"anchor_until": 250, "resonance_from": 0})
    [made] = drawn(params, free_throughout, model, [placement(0)])
    assert isinstance(made, Made) and made.notes["loss"] is None


def dmgr_rate(params: Params) -> float:
    return params.section("dmgr", dmgr.Settings).rate
