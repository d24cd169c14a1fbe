"""The detectors: one method, one file; the name in params.yaml is the file's name.

A method's module offers

- `Settings`: a `Section` with the types of its own section in params.yaml;
- `LEARNS_FROM`: "defects": it is trained for every arm; or "good": it is trained once, on good pictures only;
- `fit(train, val, params, settings, seed, out)`: trains on examples (`lib/vision/examples.py`), selects on val, writes
  weights as safetensors and `config.json` into the folder `out`, returns its `History`; seeds may train in parallel
  threads;
- `load(folder)`: the model that `fit` wrote; `predict(model, image)`: (H, W, 3) uint8 -> (H, W) float32, higher where
  a defect is more likely, on one scale for all pictures; may be called from several threads;
- `boxes(model, image)`, if it predicts boxes: its scored boxes, on which it is evaluated; `predict` then returns their
  `painted` map. For other detectors the boxes are those of what is marked in the map (`lib/metrics/boxes.py`);
- `model.types`, if it classifies types: their names. Its boxes then have labels, k for the k-th type; if it predicts no
  boxes, it offers `predict_typed(model, image)`: the scores, and the most likely type of each pixel, (H, W) uint8, also
  where there is no defect;
- `sight(model)` and `window_scores(model, images)`, if it is one network on windows: how a whole picture is predicted
  (`lib/vision/tiles.py`), and (B, 3, H, W) float in [0, 1] -> (B, H, W); `lib/exchange.py` exports it as ONNX.

`lib/detection.py` trains them all, chooses thresholds on val and draws curves; `lib/evaluation.py` evaluates on test.
"""

import importlib
from types import ModuleType

from lib.core.errors import UserError
from lib.core.params import methods


def find(name: str) -> ModuleType:
    """Import the module of a detector. Raises UserError, which lists the known names, for an unknown one."""
    if name not in methods("detectors"):
        raise UserError(f"detectors: {name!r} is unknown, known are {', '.join(methods('detectors'))}")
    return importlib.import_module(f"lib.detectors.{name}")
