"""Adapt a generator to the real defects of one category; apart from synthesis, whose code must not rerun it."""

from pathlib import Path

from lib.core.params import Params
from lib.core.runtime import atomic_folder, discard_work, write_json
from lib.generators import RealData, find


def finetune(params: Params, real: RealData, name: str, key: str, model: Path, curves: Path) -> None:
    """Adapt the generator `name` to the real defects of a category: the folder `model`, its loss in `curves`.

    A method without a function `finetune` learns nothing; the folders then say so. `key`: fingerprint of all inputs.
    """
    module = find(name)
    settings = params.section(name, module.Settings)
    with atomic_folder(model) as out:
        if hasattr(module, "finetune"):
            module.finetune(params, settings, real, key, out, curves)
        else:
            write_json(out / "model.json", {"generator": name, "training_free": True})
            write_json(curves / "metrics.json", {"step": 0})
    discard_work(f"finetune-{name}-{real.category}")
