"""Defect-Gen on tiny networks: joint signals, two stages, what a type and a seed decide, empty labels, copies."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lib.core.errors import UserError
from lib.core.geometry import box_mask
from lib.core.images import png_bytes, read_image
from lib.core.params import Params
from lib.core.records import DefectBox
from lib.core.runtime import fingerprint
from lib.diffusion import pixel
from lib.diffusion.pixel import cosine_schedule, descend
from lib.generators import NON_FINITE, Failed, Made, RealData, defect_gen, read_real
from lib.generators.defect_gen import (
    GROUP,
    Sampler,
    Settings,
    View,
    defect_types,
    distance_between_real,
    finetune,
    finished,
    joint_signals,
    known_channels,
    nearest,
    networks,
    one_hot,
    real_label,
    synthesize,
    training_views,
    two_stages,
    view_of,
)
from lib.synthesis import synthesize_all
from tests.category import CATEGORY, placement, tiny_params
from tests.mixed import mixed_sample

pytestmark = pytest.mark.usefixtures("workplace")

SIDE, TYPES = 32, ["dent", "scratch"]
CHANNELS = 3 + 1 + len(TYPES)
UNKNOWN = torch.full((1, 1, 1, 1), torch.nan)


@pytest.fixture(scope="module")
def params(raw_params: dict) -> Params:
    return tiny_params(raw_params, synth={"steps": 4}, defect_gen={"label": "real"})


@pytest.fixture(scope="module")
def own(params: Params) -> Settings:
    return params.section("defect_gen", Settings)


@pytest.fixture(scope="module")
def model(params: Params, own: Settings, workplace: Path) -> Path:
    finetune(params, own, read_real(CATEGORY), "k", workplace / "model", workplace / "curves")
    return workplace / "model"


@pytest.fixture(scope="module")
def views(params: Params, own: Settings) -> tuple[View, ...]:
    return training_views(params, own, read_real(CATEGORY), TYPES, seed=0)


# Signals


@settings(max_examples=30)
@given(types=st.integers(1, 5), seed=st.integers(0, 99))
def test_the_label_channels_have_one_class_per_pixel_and_give_the_label_back(types: int, seed: int):
    label = np.random.default_rng(seed).integers(0, types + 1, (2, 5, 5), dtype=np.uint8)
    coded = one_hot(label, types)
    assert coded.shape == (2, types + 1, 5, 5) and set(coded.unique().tolist()) <= {-1.0, 1.0}
    assert ((coded + 1) / 2).sum(dim=1).eq(1).all()
    assert np.array_equal(coded.argmax(dim=1).numpy(), label)


def test_a_class_above_the_last_is_refused():
    with pytest.raises(ValueError, match="class 3, expected 0 to 2"):
        one_hot(np.full((1, 2, 2), 3, np.uint8), 2)


def test_a_signal_is_the_picture_and_its_label_side_by_side(views: tuple[View, ...]):
    signals = joint_signals(views, len(TYPES))
    assert signals.shape == (len(views), CHANNELS, SIDE, SIDE) and signals.abs().max() <= 1
    for view, signal in zip(views, signals, strict=True):
        kind = TYPES.index("dent" if view.sample.startswith("dent") else "scratch") + 1
        picture, mask = finished(signal.numpy(), kind, SIDE, 1)
        assert np.array_equal(picture, view.picture) and np.array_equal(mask, view.label == kind) and mask.any()


# Windows


def test_every_real_defect_gives_its_views_and_nothing_else_is_read(
    params: Params, own: Settings, monkeypatch: pytest.MonkeyPatch
):
    read: list[str] = []
    monkeypatch.setattr(defect_gen, "read_image", lambda path: read.append(path.stem) or read_image(path))
    views = training_views(params, own, read_real(CATEGORY), TYPES, seed=0)
    assert set(read) == {"scratch-0", "scratch-1", "dent-0"}
    assert [view.sample for view in views] == [name for name in read for _ in range(own.variants)]
    for view in views:
        kind = 1 if view.sample.startswith("dent") else 2
        assert view.picture.shape == (SIDE, SIDE, 3) and view.label.dtype == np.uint8
        assert set(np.unique(view.label)) == {0, kind}, "labels know no values between classes"


def test_views_follow_their_seed(params: Params, own: Settings, views: tuple[View, ...]):
    again = training_views(params, own, read_real(CATEGORY), TYPES, seed=0)
    other = training_views(params, own, read_real(CATEGORY), TYPES, seed=1)
    same = [np.array_equal(a.picture, b.picture) for a, b in zip(views, again, strict=True)]
    assert all(same) and not all(np.array_equal(a.picture, b.picture) for a, b in zip(views, other, strict=True))


def test_a_defect_without_a_mask_is_refused_by_the_name_of_its_picture(params: Params, own: Settings):
    real = read_real(CATEGORY)
    object.__setattr__(real.samples["dent-0"], "mask", None)
    with pytest.raises(UserError, match=r"dent-0\.png: a picture with a defect but no mask"):
        training_views(params, own, real, TYPES, seed=0)


@settings(max_examples=50)
@given(
    x0=st.integers(0, 50),
    y0=st.integers(0, 50),
    width=st.integers(1, 12),
    height=st.integers(1, 12),
    flips=st.tuples(st.booleans(), st.booleans()),
    seed=st.integers(0, 2**63 - 1),
)
def test_picture_and_mask_are_cut_at_native_scale_and_shifted_and_flipped_together(
    raw_params: dict, x0: int, y0: int, width: int, height: int, flips: tuple[bool, bool], seed: int
):
    window = tiny_params(raw_params).window
    box = (x0, y0, x0 + width, y0 + height)
    normal = np.random.default_rng(0).integers(0, 200, (64, 64, 3), dtype=np.uint8)
    inside = box_mask(box, 64, 64)
    defect = normal + 50 * inside[..., None].astype(np.uint8)

    def cut(image: np.ndarray, flips: tuple[bool, bool]) -> tuple[np.ndarray, np.ndarray]:
        return view_of(image, inside, box, flips, window, SIDE, np.random.default_rng(seed))

    (picture, mask), (plain, _) = cut(defect, flips), cut(normal, flips)
    assert picture.shape == (SIDE, SIDE, 3) and mask.sum() == width * height
    assert np.array_equal(mask, (picture != plain).any(axis=2))
    unflipped, where = cut(defect, (False, False))
    axes = [axis for axis, flipped in ((1, flips[0]), (0, flips[1])) if flipped]
    assert np.array_equal(picture, np.flip(unflipped, axes)) and np.array_equal(mask, np.flip(where, axes))


def test_the_label_of_a_long_scratch_stays_in_one_piece_when_its_window_is_shrunk(raw_params: dict):
    scratch = np.zeros((600, 600), np.uint8)
    cv2.line(scratch, (120, 250), (440, 330), 1, 2)
    box = cv2.boundingRect(scratch)
    image, window = np.full((600, 600, 3), 180, np.uint8), tiny_params(raw_params).window
    image[scratch > 0] = 60
    corners = (box[0], box[1], box[0] + box[2], box[1] + box[3])
    picture, label = view_of(image, scratch > 0, corners, (False, False), window, 64, np.random.default_rng(0))
    assert cv2.connectedComponents(label.astype(np.uint8), connectivity=8)[0] == 2
    dark = picture.mean(axis=2) < 160
    assert (label & dark).sum() > 0.7 * dark.sum()


# Two stages


class Recorder(nn.Module):
    """Says a fixed share of what it gets, or a fixed answer, and keeps what it got."""

    def __init__(self, answer: Tensor | None = None) -> None:
        super().__init__()
        self.answer, self.calls = answer, list[tuple[int, Tensor]]()

    def forward(self, x, timesteps, class_labels=None):
        self.calls.append((int(timesteps), x.clone()))
        return type("Output", (), {"sample": 0.5 * x if self.answer is None else self.answer})()


def start(seed: int = 0) -> Tensor:
    return pixel.starting_noise([seed], (CHANNELS, 4, 4))


@pytest.mark.parametrize("switch", [0, 1, 400, 999, 1000])
def test_the_wide_network_sees_every_level_down_to_the_switch_and_the_narrow_one_all_below(switch: int):
    wide, narrow, schedule = Recorder(), Recorder(), cosine_schedule()
    descend(schedule, two_stages(wide, narrow, schedule, switch, UNKNOWN, "x0"), start())
    assert [t for t, _ in wide.calls] == list(range(999, switch - 1, -1))
    assert [t for t, _ in narrow.calls] == list(range(switch - 1, -1, -1))


def test_with_fewer_steps_the_networks_still_share_them_at_the_switch():
    wide, narrow, schedule = Recorder(), Recorder(), cosine_schedule().respaced(20)
    descend(schedule, two_stages(wide, narrow, schedule, 400, UNKNOWN, "x0"), start())
    told = [t for t, _ in wide.calls + narrow.calls]
    assert told == schedule.timesteps.flip(0).tolist() and len(told) == 20
    assert min(t for t, _ in wide.calls) >= 400 > max(t for t, _ in narrow.calls)


@pytest.mark.parametrize("switch", [-1, 1001])
def test_a_switch_outside_of_the_levels_is_refused(raw_params: dict, switch: int):
    with pytest.raises(ValueError, match=f"switch: {switch}, expected 0 to 1000"):
        two_stages(Recorder(), Recorder(), cosine_schedule(), switch, UNKNOWN, "x0")
    with pytest.raises(UserError, match=r"defect_gen\.switch"):
        tiny_params(raw_params, defect_gen={"switch": switch}).section("defect_gen", Settings)


def test_the_narrow_network_goes_on_with_the_signal_as_the_wide_one_left_it():
    schedule = cosine_schedule(20)
    wide, narrow = Recorder(), Recorder()
    descend(schedule, two_stages(wide, narrow, schedule, 8, UNKNOWN, "x0"), start())
    x = start()
    for t in range(19, 7, -1):
        x = pixel.cold_step(schedule, x, 0.5 * x, t, t - 1)
    assert torch.equal(narrow.calls[0][1], x)


def test_the_narrow_network_alone_corrects():
    """Of a network that says nothing the wide one's estimate is 0, the narrow one's what it keeps of the signal."""
    silent, schedule, x = Recorder(torch.zeros(1, CHANNELS, 4, 4)), cosine_schedule(), start()
    denoise = two_stages(silent, silent, schedule, 400, UNKNOWN, "correction")
    assert not denoise(x, 400).any()
    for t in (0, 399):
        assert torch.allclose(denoise(x, t), pixel.kept_of(schedule.signal(t))[0] * x) and denoise(x, t).any()


def test_samples_are_drawn_as_the_narrow_network_was_trained(params: Params, own: Settings, model: Path):
    assert own.narrow_prediction == "correction"
    published = own.model_copy(update={"narrow_prediction": "x0"})
    [one], [other] = (drawn(params, settings, model, [placement(0)]) for settings in (own, published))
    assert isinstance(one, Made) and isinstance(other, Made) and not np.array_equal(one.image, other.image)


def test_one_network_in_both_stages_does_not_notice_the_switch():
    schedule, network = cosine_schedule(50), Recorder()
    results = [
        descend(schedule, two_stages(network, network, schedule, switch, UNKNOWN, "x0"), start())
        for switch in (0, 20, 49, 50)
    ]
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("switch", [0, 400, 1000])
def test_with_the_true_signal_as_estimate_both_stages_end_at_it(views: tuple[View, ...], switch: int):
    true = joint_signals(views[:1], len(TYPES))
    wide, narrow, schedule = Recorder(true), Recorder(true), cosine_schedule().respaced(50)
    noise = pixel.starting_noise([5], true.shape[1:])
    result = descend(schedule, two_stages(wide, narrow, schedule, switch, UNKNOWN, "x0"), noise)
    assert torch.allclose(result, true, atol=1e-4)


def sampler_of(model: Path, steps: int, switch: int) -> Sampler:
    wide, narrow = (pixel.load(model / name, torch.device("cpu")) for name in ("wide", "narrow"))
    return Sampler(wide, narrow, cosine_schedule().respaced(steps), switch)


def test_a_sampler_keeps_nothing_of_the_calls_before(model: Path):
    used = sampler_of(model, 6, 400)
    results = {}
    for switch in (0, 1000, 400):
        sampler = Sampler(used.wide, used.narrow, used.schedule, switch)
        results[switch] = sampler([1], UNKNOWN)
        assert np.array_equal(results[switch], sampler_of(model, 6, switch)([1], UNKNOWN))
    assert not np.array_equal(results[0], results[1000])


@pytest.mark.parametrize("label", ["drawn", "real"])
def test_what_is_known_of_a_label_is_kept_at_every_level(own: Settings, label: str):
    wide, schedule, mask = Recorder(), cosine_schedule().respaced(12), square(1, 3, side=4)
    known = known_channels(2, 2, 2 * mask.astype(np.uint8), own.model_copy(update={"label": label}))
    assert known[:3].isnan().all() and (known[4] == -1).all()
    if label == "drawn":
        assert known[[3, 5]].isnan().all()
    else:
        assert np.array_equal(known[5].numpy(), np.where(mask, 1, -1)) and torch.equal(known[3], -known[5])
    result = descend(schedule, two_stages(wide, wide, schedule, 0, known[None], "x0"), start())[0]
    channels = [channel for channel in range(CHANNELS) if not known[channel].isnan().any()]
    assert torch.allclose(result[channels], known[channels], atol=1e-5)
    for t, (_, x) in zip(reversed(range(12)), wide.calls, strict=True):
        expected = schedule.noisy(known, t, start()[0])[channels]
        assert torch.allclose(x[0, channels], expected, atol=2e-2), "with as much of its own noise"


def test_a_real_label_is_that_of_the_defect_that_the_placement_is_like(views: tuple[View, ...]):
    like = placement(0, like="dent-0")
    chosen = [real_label(like, views, seed) for seed in range(4)]
    assert [any(np.array_equal(label, view.label) for view in views if view.sample == "dent-0") for label in chosen]
    assert all(set(np.unique(label)) == {0, 1} for label in chosen) and len({label.tobytes() for label in chosen}) > 1


def test_of_a_window_with_several_types_the_requested_one_alone_is_asked_for(
    tmp_path: Path, params: Params, own: Settings
):
    mixed, real = mixed_sample(tmp_path), own.model_copy(update={"label": "real"})
    boxes = (
        DefectBox(mixed.id, 0, "dent", (40, 25, 52, 37), 1),
        DefectBox(mixed.id, 1, "scratch", (20, 10, 70, 50), 1),
    )
    views = training_views(params, own, RealData("slab", {mixed.id: mixed}, boxes, {}), TYPES, seed=0)
    assert any(set(np.unique(view.label)) == {0, 1, 2} for view in views), "or the test shows nothing"
    for kind in (1, 2):
        like = placement(0, like=mixed.id, component=kind - 1, defect_type=TYPES[kind - 1])
        for label in (real_label(like, views, seed) for seed in range(8)):
            known = known_channels(2, kind, label, real)
            assert np.array_equal(known[3:].argmax(dim=0).numpy(), np.where(label == kind, kind, 0))
            assert known[3:].add(1).div(2).sum(dim=0).eq(1).all(), "each pixel has one class"


# Networks and training


def published(raw_params: dict) -> Settings:
    values = {
        "side": 256,
        "wide_width": 128,
        "wide_levels": 6,
        "narrow_width": 192,
        "narrow_levels": 3,
        "blocks": 2,
        "attention_side": 32,
    }
    return tiny_params(raw_params, defect_gen=values).section("defect_gen", Settings)


def test_the_published_size_is_a_matter_of_settings(raw_params: dict):
    with torch.device("meta"):
        pair = networks(published(raw_params), 9)
    assert list(pair) == ["wide", "narrow"]
    wide, narrow = pair["wide"].config, pair["narrow"].config
    assert list(wide.block_out_channels) == [128, 128, 256, 256, 512, 512]
    assert [name.startswith("Attn") for name in wide.down_block_types] == [False] * 3 + [True] * 3
    assert wide.resnet_time_scale_shift == "scale_shift" and wide.norm_num_groups == 32
    assert list(narrow.block_out_channels) == [192, 384, 768] and pair["narrow"].mid_block is None
    assert narrow.in_channels == narrow.out_channels == 9 and narrow.layers_per_block == 2


def test_a_narrow_network_that_would_see_all_of_the_picture_is_refused(raw_params: dict):
    params = tiny_params(raw_params, defect_gen={"side": 64, "narrow_levels": 3, "blocks": 1})
    with pytest.raises(UserError, match="the narrow network sees 101 px, all of the picture's 64"):
        params.section("defect_gen", Settings)


def test_both_networks_are_trained_and_their_averages_saved(model: Path, workplace: Path):
    for name in ("wide", "narrow"):
        [last] = Path(f".work/finetune-defect_gen-{CATEGORY}/{name}/k").glob("step-*3")
        state, saved = load_file(last / "state.safetensors"), load_file(model / name / pixel.WEIGHTS)
        assert {f"ema/network.{key}" for key in saved} == {key for key in state if key.startswith("ema/")}
        assert all(torch.equal(value, state[f"ema/network.{key}"]) for key, value in saved.items())
        assert any(not torch.equal(value, state[f"weight/network.{key}"]) for key, value in saved.items())
        assert saved["conv_out.weight"].abs().max() > 0, "it has learnt something"
    assert (workplace / "curves/plots/metrics/loss.tsv").exists()
    assert (workplace / "curves/wide/plots/metrics/loss.tsv").exists()


def test_each_network_learns_its_own_side_of_the_switch(
    params: Params, own: Settings, workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    class Noted(defect_gen.PixelObjective):
        def __init__(self, *args, levels: range | None) -> None:
            super().__init__(*args, levels=levels)
            asked.append((self.prediction, self.levels))

    monkeypatch.setattr(defect_gen, "PixelObjective", Noted)
    monkeypatch.setattr(defect_gen, "train", lambda *args: None)
    for switch in (400, 0):
        finetune(params, own.model_copy(update={"switch": switch}), read_real(CATEGORY), "", tmp_path, tmp_path)
    whole = range(1000)
    assert asked == [("x0", whole[400:]), ("correction", whole[:400]), ("x0", whole), ("correction", whole)]


def test_the_model_says_what_it_is(params: Params, model: Path, views: tuple[View, ...]):
    facts = json.loads((model / "model.json").read_text())
    assert facts["generator"] == "defect_gen" and facts["base"] == "scratch" and facts["types"] == TYPES
    assert facts["types"] == defect_types(read_real(CATEGORY)) and facts["seed"] == params.seed
    assert facts["weights"] == f"{fingerprint(model / 'wide')}+{fingerprint(model / 'narrow')}"
    assert facts["distance_between_real"] == distance_between_real(views)


def test_equal_runs_of_training_give_equal_bytes(params: Params, own: Settings, model: Path, workplace: Path):
    finetune(params, own, read_real(CATEGORY), "again", workplace / "again", workplace / "curves")
    digests = [
        {
            file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in folder.rglob("*")
            if file.is_file()
        }
        for folder in (model, workplace / "again")
    ]
    assert digests[0] == digests[1] and len(digests[0]) == 5


def test_damaged_weights_are_refused(params: Params, own: Settings, model: Path, tmp_path: Path):
    for name in ("wide", "narrow"):
        for file in ("config.json", pixel.WEIGHTS):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / file).write_bytes((model / name / file).read_bytes())
    (tmp_path / "model.json").write_bytes((model / "model.json").read_bytes())
    weights = load_file(tmp_path / "narrow" / pixel.WEIGHTS)
    save_file({key: value for key, value in weights.items() if key != "conv_in.bias"}, tmp_path / "narrow/x")
    (tmp_path / "narrow/x").rename(tmp_path / "narrow" / pixel.WEIGHTS)
    with pytest.raises(UserError, match=r"narrow: .*conv_in\.bias"):
        next(iter(synthesize(params, own, read_real(CATEGORY), tmp_path, [[placement(0)]])))


# Synthesis


def signal_of(kind: int, label: np.ndarray, level: float = 0.2) -> np.ndarray:
    """A flat picture, and the label given as (S, S) bool."""
    signal = np.full((CHANNELS, SIDE, SIDE), -1, np.float32)
    signal[:3] = level
    signal[3][~label], signal[3 + kind][label] = 1, 1
    return signal


def square(x0: int, x1: int, side: int = SIDE) -> np.ndarray:
    return box_mask((x0, x0, x1, x1), side, side)


def test_specks_are_no_part_of_a_mask():
    label = square(4, 12) | square(20, 22) | square(26, 27)
    for smallest, expected in ((1, label), (2, square(4, 12) | square(20, 22)), (5, square(4, 12))):
        assert np.array_equal(finished(signal_of(2, label), 2, SIDE, smallest)[1], expected)


def test_a_mask_is_as_large_as_it_was_asked_for_and_lies_where_the_label_does():
    _, mask = finished(signal_of(1, square(8, 16)), 1, 2 * SIDE, 1)
    assert mask.shape == (2 * SIDE, 2 * SIDE) and mask.dtype == bool
    assert abs(int(mask.sum()) - 256) <= 40 and mask[18:30, 18:30].all() and not mask[36:].any()


def drawn(params: Params, own: Settings, model: Path, *batches: list) -> list[Made | Failed]:
    answers = list(synthesize(params, own, read_real(CATEGORY), model, batches))
    assert [len(batch) for batch in answers] == [len(batch) for batch in batches]
    return [answer for batch in answers for answer in batch]


def test_a_sample_is_a_window_of_its_own_with_its_mask_and_notes(
    params: Params, own: Settings, model: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Sampler, "__call__", lambda self, seeds, known: [signal_of(2, square(4, 12)) for _ in seeds])
    small, large = drawn(params, own, model, [placement(0), placement(1, box=(2, 2, 42, 20))])
    assert isinstance(small, Made) and isinstance(large, Made)
    assert small.image.shape == (SIDE, SIDE, 3) and large.image.shape == (48, 48, 3), "at most the good picture's side"
    for made in (small, large):
        assert made.own_background and made.normal is None and made.mask is not None
        assert made.image.dtype == np.uint8 and made.mask.shape == made.image.shape[:2]
        assert made.notes["tries"] == 1 and made.notes["nearest"] in ("scratch-0", "scratch-1", "dent-0")
        assert made.notes["nearest_distance"] > 0 and json.dumps(made.notes)


def test_an_empty_label_is_drawn_again_and_fails_with_a_reason_in_the_end(
    params: Params, own: Settings, model: Path, monkeypatch: pytest.MonkeyPatch
):
    empty, asked = np.zeros((SIDE, SIDE), bool), list[list[int]]()

    def sampler(self: Sampler, seeds: list[int], known: Tensor) -> list[np.ndarray]:
        asked.append(list(seeds))
        full = len(asked) == 2
        return [signal_of(2, square(4, 12) if full and n == 0 else empty) for n in range(len(seeds))]

    monkeypatch.setattr(Sampler, "__call__", sampler)
    first, second, other = drawn(params, own, model, [placement(0), placement(1), placement(2)])
    assert isinstance(first, Made) and first.notes["tries"] == 2
    assert second == other == Failed("empty label in each of 2 tries")
    assert [len(seeds) for seeds in asked] == [3, 3] and not set(asked[0]) & set(asked[1])


def test_a_label_of_specks_alone_is_empty(params: Params, own: Settings, model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Sampler, "__call__", lambda self, seeds, known: [signal_of(2, square(4, 5)) for _ in seeds])
    assert isinstance(drawn(params, own, model, [placement(0)])[0], Failed)


def test_a_signal_that_is_not_finite_fails_as_such(
    params: Params, own: Settings, model: Path, monkeypatch: pytest.MonkeyPatch
):
    broken = signal_of(2, square(4, 12), level=float("nan"))
    monkeypatch.setattr(Sampler, "__call__", lambda self, seeds, known: [broken for _ in seeds])
    assert drawn(params, own, model, [placement(0)]) == [Failed(NON_FINITE)]


def test_every_placement_is_asked_for_in_its_own_type(
    params: Params, own: Settings, model: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[Tensor] = []

    def sampler(self: Sampler, seeds: list[int], known: Tensor) -> list[np.ndarray]:
        asked.extend(known)
        return [signal_of(kind, square(4, 12)) for kind in (2, 1)]

    monkeypatch.setattr(Sampler, "__call__", sampler)
    items = [placement(0), placement(1, defect_type="dent", like="dent-0")]
    drawn(params, own.model_copy(update={"label": "drawn"}), model, items)
    assert [one[3:].isnan().flatten(1).all(dim=1).tolist() for one in asked] == [
        [True, False, True],
        [True, True, False],
    ]
    asked.clear()
    drawn(params, own.model_copy(update={"label": "real"}), model, items)
    assert [(one[3:] == 1).flatten(1).any(dim=1).tolist() for one in asked] == [
        [True, False, True],
        [True, True, False],
    ]


def test_a_sample_depends_on_its_seed_alone_whatever_the_batch(params: Params, own: Settings, model: Path):
    pairs = [("scratch", "scratch-0"), ("dent", "dent-0")]
    items = [placement(n, defect_type=pairs[n % 2][0], like=pairs[n % 2][1]) for n in range(5)]
    together = drawn(params, own, model, items)
    again = drawn(params, own, model, items[:3], items[3:])
    alone = drawn(params, own, model, *([item] for item in items))

    def digests(answers: list[Made | Failed]) -> list[object]:
        return [png_bytes(a.image) + png_bytes(a.mask) if isinstance(a, Made) else a for a in answers]

    assert digests(together) == digests(again) == digests(alone)
    pictures = [digest for digest in digests(together) if isinstance(digest, bytes)]
    assert len(pictures) >= 2 and len(set(pictures)) == len(pictures)


@pytest.mark.parametrize(("threads", "sizes"), [(1, [6, 3]), (2, [9])])
def test_small_batches_are_drawn_together_so_that_every_core_has_a_group(
    params: Params, own: Settings, model: Path, monkeypatch: pytest.MonkeyPatch, threads: int, sizes: list[int]
):
    asked = []

    def sampler(self: Sampler, seeds: list[int], known: Tensor) -> list[np.ndarray]:
        asked.append(len(seeds))
        return [signal_of(2, square(4, 12)) for _ in seeds]

    monkeypatch.setattr(Sampler, "__call__", sampler)
    monkeypatch.setattr(defect_gen, "cores", lambda where: threads)
    answers = drawn(params, own, model, *([placement(3 * n + m) for m in range(3)] for n in range(3)))
    assert asked == sizes and all(isinstance(answer, Made) for answer in answers)


class Threads(Recorder):
    """Keeps how many threads it was given."""

    device, config = torch.device("cpu"), SimpleNamespace(in_channels=CHANNELS, sample_size=4)

    def forward(self, x, timesteps, class_labels=None):
        self.calls.append((torch.get_num_threads(), x))
        return type("Output", (), {"sample": 0.5 * x})()


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize(("count", "groups"), [(1, 1), (GROUP, 1), (GROUP + 1, 2), (3 * GROUP, 3), (9 * GROUP - 1, 9)])
def test_a_group_has_one_core_in_every_batch_since_other_sizes_and_threads_add_up_in_another_order(
    threads, count, groups
):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        network = Threads()
        signals = Sampler(network, network, cosine_schedule(3), 400)(range(count), UNKNOWN.expand(count, 1, 1, 1))
        assert len(signals) == count and len(network.calls) == 3 * groups
        assert {(threads, len(x)) for threads, x in network.calls} == {(1, GROUP)}
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sampler(raw_params: dict) -> Sampler:
    """Of the default sizes, with random weights: at tiny ones other kernels run."""
    torch.manual_seed(0)
    pair = networks(Settings.model_validate(raw_params["defect_gen"]), CHANNELS)
    for network in pair.values():
        torch.nn.init.normal_(network.conv_out.weight, std=0.02)
        network.requires_grad_(False).eval().to(memory_format=torch.channels_last)
    return Sampler(pair["wide"], pair["narrow"], cosine_schedule().respaced(2), 400)


@settings(max_examples=20)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=2 * GROUP + 1), st.data())
def test_signals_have_equal_bits_in_every_batch_at_every_place_and_beside_any_others(sampler, seeds, data):
    known = torch.full((6, CHANNELS, 1, 1), torch.nan)
    known[:3, 4], known[3:, 5] = -1, -1
    place = data.draw(st.integers(0, len(seeds) - 1))
    together = sampler(seeds, known[seeds])
    assert np.array_equal(together[place : place + 1], sampler([seeds[place]], known[[seeds[place]]]))


def test_a_sample_of_another_type_is_another_sample(model: Path):
    sampler = sampler_of(model, 5, 400)
    known = torch.full((2, CHANNELS, 1, 1), torch.nan)
    known[0, 4], known[1, 5] = -1, -1
    assert not np.array_equal(sampler([1], known[:1]), sampler([1], known[1:]))


def test_the_manifest_names_both_networks_the_switch_and_the_seed_and_counts_what_has_no_label(
    params: Params, model: Path, monkeypatch: pytest.MonkeyPatch
):
    def sampler(self: Sampler, seeds: list[int], known: Tensor) -> list[np.ndarray]:
        return [signal_of(2, square(4, 12) & bool((one[5] == 1).any())) for one in known]  # none for the dent

    monkeypatch.setattr(Sampler, "__call__", sampler)
    asked = [placement(0), placement(1, defect_type="dent", like="dent-0")]
    full, empty = synthesize_all(params, read_real(CATEGORY), "defect_gen", model, asked, "k", Path("synth"))
    facts = json.loads((model / "model.json").read_text())
    assert full.model.endswith(f"+{facts['weights']}") and facts["weights"].count("+") == 1
    assert full.seed == asked[0].seed and full.knobs["switch"] == 400
    assert (full.knobs["steps"], full.knobs["train_steps"]) == (params.synth.steps, 3), "no name hides another"
    assert full.normal is None and full.box == (2, 2, 14, 14)
    assert Path(str(full.image)).stem == Path(str(full.mask)).stem == asked[0].id
    assert empty.image is None and empty.reason == "empty label in each of 2 tries"


# Copies


def test_a_training_window_is_told_for_a_copy_of_itself(views: tuple[View, ...]):
    assert nearest(views[5].picture, views) == {"nearest": views[5].sample, "nearest_distance": 0.0}
    off = np.clip(views[5].picture.astype(int) + 3, 0, 255).astype(np.uint8)
    assert nearest(off, views)["nearest"] == views[5].sample and 2.9 < nearest(off, views)["nearest_distance"] <= 3


def test_the_distance_between_real_windows_looks_at_other_pictures_alone():
    flat = [
        View(name, 0, np.full((4, 4, 3), level, np.uint8), np.zeros((4, 4), np.uint8))
        for name, level in (("a", 10), ("a", 11), ("b", 20), ("c", 50))
    ]
    assert distance_between_real(flat) == 10  # of a, b and c from the nearest of another: 10, 9, 30
    assert distance_between_real(flat[:2]) is None
