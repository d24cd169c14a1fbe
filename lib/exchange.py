"""Export a trained detector as one ONNX file, which runs without Python or PyTorch, and run it with onnxruntime.

    python -m lib.exchange models/detectors/unet/bracket/none/seed-0
    python -m lib.predict models/detectors/unet/bracket/none/seed-0 FOLDER --out FOLDER --runtime onnx

The first command writes `model.onnx` into the folder, or to --out; DVC does not track that file. The file alone is a
model for `lib.predict`, too. `unet`, `patchcore`, `rgpkd` and `pagmfr` can be exported; a detector that predicts boxes
cannot. The file tells no types apart, even if the detector does.

The graph: `windows`, (batch, side, side, 3) uint8 RGB -> `scores`, (batch, side, side) float32. It includes scaling and
normalisation of values, and patchcore's memory bank. Batch and sides are variable; sides must be multiples of
`multiple`. A program finds what else it needs in the file's metadata, with JSON values:

    sight       window, overlap, multiple, batch, scale, smoothing, largest: how a whole picture is predicted,
                see `lib/vision/tiles.py`
    threshold   the score from which on a pixel belongs to a defect
    alarm_threshold, min_area
                the score that so many connected pixels of a defect must reach, or it is not marked: see lib/alarms.py
    detector    provenance: detector, category, arm, seed, depth, as in detector.json
    weights     the fingerprint of the model.safetensors that was exported
    ignored     null, or PNG in Base64: 255 where pixels never count; pictures are grey (128) there, scores lower than
                all others

Tracing makes constants of all decisions that Python takes by the size of the input. So before the file is written, the
graph is run with other sides and batches than the traced ones, and must agree with torch within TOLERANCE.
"""

import argparse
import base64
import copy
import functools
import io
import json
import os
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from lib.alarms import Decision
from lib.core.command import end_with
from lib.core.errors import UserError
from lib.core.geometry import RGB, Mask
from lib.core.images import png_bytes
from lib.core.pipeline import refuse_outputs
from lib.core.runtime import fingerprint, write_bytes
from lib.scoring import Answer
from lib.trained import (
    WEIGHTS,
    Inspector,
    Trained,
    checked_decision,
    checked_provenance,
    counting,
    load_trained,
    read_decision,
    read_ignored,
    read_provenance,
)
from lib.vision.tiles import Sight, predict_whole

FILE = "model.onnx"
OPSET = 18
PICTURES = 4  # largest number of pictures in parallel: each is in memory, a large one takes gigabytes
CACHED = 2**16  # pixels per run: feature maps of more do not fit into a core's cache, and take a quarter more time
TOLERANCE = 1e-4  # of scores in [0, 1]; of the highest score where that is above 1
PACKAGES = "the packages onnx and onnxruntime are needed: install requirements.txt"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of one trained seed, models/detectors/DETECTOR/.../seed-N")
    parser.add_argument("--out", type=Path, help=f"the file to write; {FILE} in the model's folder if left out")
    args = parser.parse_args()
    os.environ["ACCELERATE_USE_CPU"] = "1"  # the graph is made of what lies there
    if args.out and not (args.out.name == FILE and args.out.parent.resolve() == args.model.resolve()):
        refuse_outputs(args.out)
    file = export(args.model, args.out)
    print(f"{file}: {file.stat().st_size / 2**20:.1f} MiB", file=sys.stderr)


def export(folder: Path, out: Path | None = None) -> Path:
    """Write the detector of a trained seed as ONNX, atomically; returns the file.

    Raises UserError if there is no trained seed, its detector cannot be exported, or onnx or onnxruntime is missing.
    """
    trained, out = load_trained(folder), out or folder / FILE
    name = trained.provenance["detector"]
    if not hasattr(trained.module, "window_scores"):
        raise UserError(f"{folder}: {name} is no network of windows and cannot be written as ONNX")
    network = network_of(trained)
    try:
        data = _described(_graph(network, sight_of(trained)), trained)
        session = _session(data)
    except ModuleNotFoundError as error:
        raise UserError(f"{name} cannot be written as ONNX: {PACKAGES} ({error})") from error
    difference = _difference(network, session, sight_of(trained))
    if not difference <= TOLERANCE:
        raise UserError(
            f"{folder}: the graph of {name} differs from torch by {difference:.2g}, at most {TOLERANCE:g} is allowed: "
            "its backbone, detect.encoder, does not suit tiles of any side; nothing is written"
        )
    write_bytes(out, data)
    return out


def sight_of(trained: Trained) -> Sight:
    """How a detector predicts whole pictures."""
    sight: Sight = trained.module.sight(trained.model)
    return sight


def network_of(trained: Trained) -> Any:
    """The detector as a torch module, (B, H, W, 3) uint8 -> (B, H, W) float32, for sides that are multiples of
    `sight.multiple`."""
    from torch import Tensor, nn

    from lib.vision.backbones import Halved

    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = copy.deepcopy(trained.model)
            # Named, so that they become the graph's weights.
            self.parts = nn.ModuleList(part for part in vars(self.model).values() if isinstance(part, nn.Module))
            self.requires_grad_(False).eval()
            for part in self.modules():
                if isinstance(part, Halved):
                    part.forward = functools.partial(_halved, part)  # type: ignore[method-assign]

        def forward(self, windows: Tensor) -> Tensor:
            images = windows.permute(0, 3, 1, 2).float() / 255
            scores: Tensor = trained.module.window_scores(self.model, images)
            return scores

    return Windows()


def _halved(convolution: Any, x: Any) -> Any:
    """The result of a `lib.vision.backbones.Halved` for x; in the graph one node with padding. By default its padding
    would be a node of its own, which copies the input, and in another layout than that of onnxruntime.
    """
    import torch

    class Halving(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
            return type(convolution).forward(convolution, x)

        @staticmethod
        def symbolic(graph: Any, x: Any, weight: Any, bias: Any) -> Any:
            before, after = (convolution.kernel_size[0] - 2) // 2, (convolution.kernel_size[0] - 1) // 2
            sizes = [None, convolution.out_channels, None, None]
            node = graph.op(
                "Conv",
                x,
                weight,
                bias,
                kernel_shape_i=convolution.kernel_size,
                strides_i=convolution.stride,
                group_i=convolution.groups,
                pads_i=[before, before, after, after],
            )
            return node.setType(x.type().with_sizes(sizes))

    return Halving.apply(x, convolution.weight, convolution.bias)


def _graph(network: Any, sight: Sight) -> bytes:
    """The traced graph of a module of `network_of`."""
    import torch

    axes, data = {0: "batch", 1: "height", 2: "width"}, io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about what tracing fixes; that is what `_difference` is for
        torch.onnx.export(
            network,
            (torch.from_numpy(_noise(2, sight.window, sight.window + sight.multiple)),),
            data,  # type: ignore[arg-type]
            dynamo=False,  # torch.export takes forty times as long for the same graph
            opset_version=OPSET,
            input_names=["windows"],
            output_names=["scores"],
            dynamic_axes={"windows": axes, "scores": axes},
        )
    return data.getvalue()


def _noise(batch: int, height: int, width: int) -> NDArray[np.uint8]:
    """Windows (B, H, W, 3) of noise over a slope, the same each time."""
    slope = np.linspace(40, 160, width)[None, None, :, None]
    noise = np.random.default_rng(batch).integers(0, 96, (batch, height, width, 3))
    return (slope + noise).astype(np.uint8)


def _difference(network: Any, session: Any, sight: Sight) -> float:
    """The largest difference of the graph from torch, relative to the highest score if that is above 1."""
    import torch

    most = max(sight.largest or 0, 3 * sight.window // 2)  # side that `predict_tiled` asks for
    largest = -(-most // sight.multiple) * sight.multiple
    differences = []
    for batch, side in ((1, sight.window), (3, sight.window + sight.multiple), (1, largest)):
        windows = _noise(batch, side, side)
        with torch.inference_mode():
            expected = network(torch.from_numpy(windows)).numpy()
        try:
            scores = session.run(None, {"windows": windows})[0]
        except Exception:  # onnxruntime has a dozen of its own; all say that sides or batches are fixed in the graph
            return float("inf")
        differences.append(float(np.abs(scores - expected).max() / max(1.0, float(expected.max()))))
    return max(differences)


def _described(data: bytes, trained: Trained) -> bytes:
    """The graph with its metadata."""
    import onnx

    graph = onnx.load_from_string(data)
    values = {
        "sight": asdict(sight_of(trained)),
        **asdict(trained.decision),
        "detector": trained.provenance,
        "weights": trained.weights,
        "ignored": None if trained.ignored is None else base64.b64encode(png_bytes(trained.ignored)).decode(),
    }
    onnx.helper.set_model_props(graph, {name: json.dumps(value, sort_keys=True) for name, value in values.items()})
    onnx.checker.check_model(graph)
    return bytes(graph.SerializeToString())


def with_decision(file: Path, decision: Decision) -> bytes:
    """The content of an exported ONNX file, with another decision in its metadata.

    Raises UserError if it cannot be read, or the package onnx is missing.
    """
    try:
        import onnx

        graph = onnx.load_from_string(file.read_bytes())
    except ModuleNotFoundError as error:
        raise UserError(f"{file}: its threshold cannot be changed: {PACKAGES} ({error})") from error
    except Exception as error:  # protobuf's own
        raise UserError(
            f"{file}: cannot be read as ONNX; delete it, or write it anew with python -m lib.exchange"
        ) from error
    changes = {name: json.dumps(value) for name, value in asdict(decision).items()}
    onnx.helper.set_model_props(graph, {one.key: one.value for one in graph.metadata_props} | changes)
    return bytes(graph.SerializeToString())


def _unpacked(text: str | None, file: Path) -> Mask | None:
    """The pixels that never count, from a graph's metadata. Raises UserError if it is not a picture."""
    if text is None:
        return None
    try:
        data = np.frombuffer(base64.b64decode(text), np.uint8)
    except (ValueError, TypeError):
        data = np.zeros(0, np.uint8)
    pixels = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if data.size else None
    if pixels is None:
        raise UserError(f"{file}: ignored holds no PNG; write it anew with python -m lib.exchange")
    return np.asarray(pixels > 0)


def load_exchanged(place: Path) -> Inspector:
    """Load an ONNX file, or the `model.onnx` in a trained seed's folder, with the folder's threshold.json.

    Does not import torch or the detector's module. Raises UserError if the file is missing, broken, not written by
    `export`, or made from other weights than those in the folder.
    """
    file = place / FILE if place.is_dir() else place
    if place.is_dir():
        read_provenance(place)  # says it where this is no trained seed at all
    if not file.is_file():
        raise UserError(f"{file}: not found; python -m lib.exchange {place} writes it")
    try:
        session = _session(file.read_bytes())
    except ModuleNotFoundError as error:
        raise UserError(f"--runtime onnx: {PACKAGES} ({error})") from error
    except Exception as error:  # onnxruntime has a dozen of its own
        raise UserError(f"{file}: cannot be read as ONNX; write it anew with python -m lib.exchange") from error
    values = session.get_modelmeta().custom_metadata_map
    try:
        read = {
            name: json.loads(values[name])
            for name in ("sight", "threshold", "min_area", "detector", "weights", "ignored")
        }
        read["alarm_threshold"] = json.loads(values.get("alarm_threshold", values["threshold"]))  # once there was none
        read["sight"].pop("highest", None)  # of earlier versions, which clipped at it
        sight = TypeAdapter(Sight).validate_json(json.dumps(read["sight"]), strict=True)
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file}: lacks the metadata of python -m lib.exchange, write it with that") from error
    decision = checked_decision(read, file)
    if place.is_dir():
        decision = _beside(place, read["weights"])

    workers = ThreadPoolExecutor(_cores(), "onnx")

    def score(windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        most = max(1, CACHED // windows[0, ..., 0].size)
        parts = [windows[first : first + most] for first in range(0, len(windows), most)]
        return np.concatenate(list(workers.map(lambda part: session.run(None, {"windows": part})[0], parts)))

    def look(image: RGB) -> Answer:
        return Answer(predict_whole(image, score, sight))

    ignored = read_ignored(place) if place.is_dir() else _unpacked(read["ignored"], file)
    return Inspector(
        counting(look, ignored),
        decision,
        checked_provenance(read["detector"], file),
        read["weights"],
        at_once=min(_cores(), PICTURES),
    )


def _beside(folder: Path, weights: str) -> Decision:
    """The folder's threshold. Raises UserError if its weights are not those of the ONNX file."""
    file = folder / WEIGHTS
    if file.is_file() and fingerprint(file) != weights:
        raise UserError(f"{folder / FILE}: made of other weights than {WEIGHTS}: run python -m lib.exchange {folder}")
    return read_decision(folder)


def _session(data: bytes) -> Any:
    """onnxruntime on the CPU with one thread per run: parallel runs keep all cores busy, parallel layers do not."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _cores() -> int:
    """As many as torch would take: OMP_NUM_THREADS, or all."""
    return int(os.environ.get("OMP_NUM_THREADS", "").split(",")[0] or 0) or os.cpu_count() or 1


if __name__ == "__main__":
    end_with(main)
