"""A detector as ONNX: onnxruntime gives what torch gives, in any batch and on any side, and says where it cannot."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from skimage import data

from lib import recalibrate
from lib.alarms import Decision
from lib.core.errors import UserError
from lib.core.images import write_png
from lib.core.params import Params
from lib.core.runtime import write_json
from lib.detectors import find
from lib.exchange import FILE, export, load_exchanged, network_of, with_decision
from lib.trained import load_trained, read_decision
from lib.vision.examples import Example
from tests.blobs import BUDGET
from tests.commands import run_here
from tests.conftest import ROOT

DETECT = BUDGET.model_copy(
    update={"encoder": "efficientnet_lite0", "window": 64, "steps": 2, "validate_every": 1, "batch_size": 2}
)
NARROW = {
    "unet": {"width": 8},
    "patchcore": {"coreset": 40},
    "rgpkd": {"width": 8, "bank": 3},
    "pagmfr": {"width": 8, "steps": 2},
}
TOLERANCE = 1e-4


def picture(seed: int, height: int = 64, width: int = 64) -> np.ndarray:
    """Cloth with a little noise and a dark square: (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    cloth = 120 + 40 * np.sin(rows / 2) * np.sin(columns / 3 + seed)
    cloth = cloth[..., None] + rng.normal(0, 4, (height, width, 3))
    y, x = rng.integers(8, min(height, width) - 24, 2)
    cloth[y : y + 12, x : x + 14] -= 60 * (seed % 2)
    return np.clip(cloth, 0, 255).astype(np.uint8)


def example(seed: int) -> Example:
    mask = np.abs(picture(seed).astype(int) - picture(seed - seed % 2)).max(axis=2) > 90
    return Example(picture(seed), mask if seed % 2 and mask.any() else None, False, "good" if seed % 2 == 0 else "hole")


def train(name: str, raw_params: dict, folder: Path, **changes) -> Path:
    """A trained seed, as `lib.detection` leaves one."""
    module = find(name)
    params = Params.model_validate(raw_params | {"detect": DETECT.model_copy(update=changes).model_dump()})
    settings = module.Settings.model_validate(raw_params[name] | NARROW[name])
    examples = [example(seed) for seed in range(8)]
    kept = [one for one in examples if not one.has_defect] if module.LEARNS_FROM == "good" else examples
    module.fit(kept, examples[:3], params, settings, 0, folder)
    write_json(
        folder / "threshold.json", {"threshold": 0.25, "alarm_threshold": 0.5, "chosen_on": "val", "min_area": 3}
    )
    write_json(folder / "detector.json", {"detector": name, "category": "cloth", "arm": "none", "seed": 0, "depth": 8})
    return folder


@pytest.fixture(scope="module", params=NARROW)
def exported(request, raw_params, tmp_path_factory) -> Path:
    folder = train(request.param, raw_params, tmp_path_factory.mktemp(request.param))
    export(folder)
    return folder


def session(folder: Path):
    return onnxruntime.InferenceSession(str(folder / FILE), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 64, 64), (5, 64, 64), (2, 128, 96), (1, 160, 160)])
def test_windows_of_any_side_and_number_score_as_in_torch(exported: Path, batch: int, height: int, width: int):
    windows = np.stack([picture(seed, height, width) for seed in range(batch)])
    with torch.inference_mode():
        expected = network_of(load_trained(exported))(torch.from_numpy(windows)).numpy()
    (scores,) = session(exported).run(None, {"windows": windows})
    assert scores.shape == (batch, height, width) and scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=TOLERANCE)


def test_windows_of_photographs_score_as_in_torch_in_any_batch(exported: Path):
    photographs = [data.coins(), data.brick(), data.page()]
    windows = np.stack([photo[y : y + 96, x : x + 96] for photo in photographs for y in (0, 90) for x in (40, 200)])
    windows = np.repeat(windows[..., None], 3, axis=3)
    with torch.inference_mode():
        expected = network_of(load_trained(exported))(torch.from_numpy(windows)).numpy()
    run = session(exported)
    (together,) = run.run(None, {"windows": windows})
    np.testing.assert_allclose(together, expected, atol=TOLERANCE)
    alone = np.concatenate([run.run(None, {"windows": windows[n : n + 1]})[0] for n in range(len(windows))])
    np.testing.assert_allclose(alone, together, atol=1e-6 * max(1, together.max()))


def test_the_batch_changes_nothing(exported: Path):
    windows, run = np.stack([picture(seed) for seed in range(6)]), session(exported)
    together = run.run(None, {"windows": windows})[0]
    alone = np.concatenate([run.run(None, {"windows": windows[n : n + 1]})[0] for n in range(6)])
    np.testing.assert_allclose(alone, together, atol=1e-6 * max(1, together.max()))


def test_no_node_of_the_graph_copies_its_input_to_pad_it(exported: Path):
    kinds = {node.op_type for node in onnx.load(exported / FILE).graph.node}
    assert "Conv" in kinds and "Pad" not in kinds


def test_many_windows_are_run_in_parts_that_fit_a_cores_cache(exported: Path, monkeypatch: pytest.MonkeyPatch):
    whole = load_exchanged(exported).predict(picture(1, 160, 160))
    monkeypatch.setattr("lib.exchange.CACHED", 1)
    alone = load_exchanged(exported).predict(picture(1, 160, 160))
    np.testing.assert_allclose(alone, whole, atol=1e-6 * max(1, whole.max()))


@pytest.mark.parametrize("shape", [(64, 64), (100, 230), (40, 50)])
def test_whole_pictures_score_as_in_torch(exported: Path, shape: tuple[int, int]):
    image, trained = picture(1, *shape) if min(shape) > 40 else picture(0, *shape), load_trained(exported)
    expected = trained.module.predict(trained.model, image)
    for place in (exported, exported / FILE):
        np.testing.assert_allclose(load_exchanged(place).predict(image), expected, atol=TOLERANCE)


def test_the_file_tells_all_that_a_program_needs(exported: Path):
    values = {one.key: json.loads(one.value) for one in onnx.load(exported / FILE).metadata_props}
    trained = load_trained(exported)
    assert (values["threshold"], values["alarm_threshold"], values["min_area"]) == (0.25, 0.5, 3)
    assert values["detector"] == trained.provenance and values["weights"] == trained.weights
    sight = trained.module.sight(trained.model)
    assert values["sight"]["window"] == sight.window and values["sight"]["scale"] == sight.scale
    (taken,), (given,) = session(exported).get_inputs(), session(exported).get_outputs()
    assert (taken.name, taken.type, taken.shape[3]) == ("windows", "tensor(uint8)", 3) and given.name == "scores"
    assert all(isinstance(extent, str) for extent in taken.shape[:3]), "batch and sides are free"
    alone = load_exchanged(exported / FILE)
    assert alone.decision == trained.decision and alone.depth == 8


def test_other_weights_beside_the_file_are_noticed_and_the_threshold_beside_it_counts(exported: Path, tmp_path: Path):
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    write_json(tmp_path / "threshold.json", {"threshold": 0.5})
    assert load_exchanged(tmp_path).decision.threshold == 0.5
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(UserError, match=r"model\.onnx: made of other weights"):
        load_exchanged(tmp_path)


def test_a_file_of_before_there_were_two_thresholds_has_the_one_for_both(exported: Path, tmp_path: Path):
    graph = onnx.load(exported / FILE)
    kept = {one.key: one.value for one in graph.metadata_props if one.key != "alarm_threshold"}
    onnx.helper.set_model_props(graph, kept)
    onnx.save(graph, tmp_path / FILE)
    assert load_exchanged(tmp_path / FILE).decision == Decision(0.25, 0.25, 3)
    (tmp_path / "new.onnx").write_bytes(with_decision(tmp_path / FILE, Decision(0.1, 0.2, 7)))
    assert load_exchanged(tmp_path / "new.onnx").decision == Decision(0.1, 0.2, 7)


def test_a_file_of_when_maps_were_clipped_loads(exported: Path, tmp_path: Path):
    with_metadata(exported / FILE, tmp_path / FILE, sight=lambda text: json.dumps(json.loads(text) | {"highest": 1.0}))
    image = picture(1, 100, 120)
    assert np.array_equal(
        load_exchanged(tmp_path / FILE).predict(image), load_exchanged(exported / FILE).predict(image)
    )


def with_metadata(source: Path, target: Path, **changes: Callable[[str], str]) -> None:
    """Copy a graph with other metadata: each change gets the value of its key as it was."""
    graph = onnx.load(source)
    values = {one.key: one.value for one in graph.metadata_props}
    onnx.helper.set_model_props(graph, values | {key: change(values[key]) for key, change in changes.items()})
    onnx.save(graph, target)


def test_a_threshold_set_anew_is_the_lone_files_too(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for file in exported.iterdir():
        (tmp_path / "seed-0" / file.name).parent.mkdir(exist_ok=True)
        (tmp_path / "seed-0" / file.name).write_bytes(file.read_bytes())
    write_png(tmp_path / "good" / "0.png", picture(0))
    file = tmp_path / "seed-0" / FILE
    before = load_exchanged(file)
    arguments = ["lib.recalibrate", tmp_path / "seed-0", tmp_path / "good", "--min-area", 5]
    monkeypatch.setattr(sys, "argv", [str(word) for word in arguments])
    recalibrate.main()
    after = load_exchanged(file)
    assert after.decision == read_decision(tmp_path / "seed-0") != before.decision and after.decision.min_area == 5
    assert np.array_equal(after.look(picture(1))[0], before.look(picture(1))[0])
    file.write_bytes(b"no graph")
    stored = (tmp_path / "seed-0" / "threshold.json").read_bytes()
    with pytest.raises(UserError):
        recalibrate.main()
    assert (tmp_path / "seed-0" / "threshold.json").read_bytes() == stored, "all or nothing"


def test_a_scaled_detector_without_a_pretrained_encoder_is_written_too(raw_params, tmp_path: Path):
    folder = train("unet", raw_params, tmp_path, encoder="none", scale=0.5)
    image, trained = picture(3, 150, 210), load_trained(folder)
    inspector = load_exchanged(export(folder, tmp_path / "other.onnx"))
    np.testing.assert_allclose(inspector.predict(image), trained.module.predict(trained.model, image), atol=TOLERANCE)
    assert not (folder / FILE).exists()


def test_a_backbone_of_transformers_is_written_too(raw_params, tmp_path: Path, tiny_backbone: Path):
    (tmp_path / "seed").mkdir()
    folder = train("patchcore", raw_params, tmp_path / "seed", encoder=str(tiny_backbone))
    image, trained = picture(3), load_trained(folder)
    scores = load_exchanged(export(folder)).predict(image)
    np.testing.assert_allclose(scores, trained.module.predict(trained.model, image), atol=TOLERANCE)


def test_a_graph_that_differs_is_not_written(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lib.exchange.TOLERANCE", -1.0)
    with pytest.raises(UserError, match="differs from torch"):
        export(exported, tmp_path / FILE)
    assert not (tmp_path / FILE).exists()


def test_what_is_no_such_file_is_told_in_one_line(exported: Path, tmp_path: Path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes((exported / FILE).read_bytes()[:999])
    with pytest.raises(UserError, match=r"broken\.onnx: cannot be read as ONNX"):
        load_exchanged(broken)
    with pytest.raises(UserError, match=r"nowhere\.onnx: not found; python -m lib\.exchange"):
        load_exchanged(tmp_path / "nowhere.onnx")
    with pytest.raises(UserError, match="holds no trained detector"):
        load_exchanged(tmp_path)
    foreign = onnx.load(exported / FILE)
    del foreign.metadata_props[:]
    onnx.save(foreign, broken)
    with pytest.raises(UserError, match=r"broken\.onnx: lacks the metadata"):
        load_exchanged(broken)
    for sight in (
        "[128]",
        "{}",
        "no JSON",
        '{"window": "128", "overlap": 0, "multiple": 1, "batch": 1, "scale": 1}',
        "[" * 10**5,
    ):
        with_metadata(exported / FILE, broken, sight=lambda _, sight=sight: sight)
        with pytest.raises(UserError, match=r"broken\.onnx: lacks the metadata"):
            load_exchanged(broken)
    for key, text, message in (
        ("ignored", '"x"', "ignored holds no PNG"),
        ("ignored", "7", "ignored holds no PNG"),
        ("detector", '["unet"]', "expected an object of JSON with detector"),
    ):
        with_metadata(exported / FILE, broken, **{key: lambda _, text=text: text})
        with pytest.raises(UserError, match=message):
            load_exchanged(broken)


def test_a_detector_of_boxes_has_no_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_json(tmp_path / "threshold.json", {"threshold": 0.5})
    write_json(tmp_path / "detector.json", {"detector": "rtdetr", "depth": 8})
    monkeypatch.setattr(find("rtdetr"), "load", lambda folder: None)
    with pytest.raises(UserError, match="rtdetr is no network of windows"):
        export(tmp_path)


@pytest.mark.parametrize("exported", ["unet"], indirect=True)
def test_the_command_writes_a_file_that_runs_without_torch(exported: Path, tmp_path: Path):
    out = tmp_path / FILE
    done = run_here(ROOT, "lib.exchange", exported, "--out", out)
    assert done.returncode == 0 and "MiB" in done.stderr
    check = (
        "import sys, numpy, lib; from pathlib import Path; from lib.exchange import load_exchanged; "
        f"scores = load_exchanged(Path({str(out)!r})).predict(numpy.zeros((70, 90, 3), numpy.uint8)); "
        "sys.exit(scores.shape != (70, 90) or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0
    owned = run_here(ROOT, "lib.exchange", exported, "--out", "data/prepared/model.onnx")
    assert owned.returncode == 2 and "data/prepared belongs to the stage prepare" in owned.stderr
    refused = run_here(ROOT, "lib.exchange", tmp_path)
    assert refused.returncode == 2 and "holds no trained detector" in refused.stderr
