"""Fine-tune a generator on the real defects of one category.

Not in `lib/synthesis.py`: a change of synthesis must not rerun fine-tuning.
"""

from pathlib import Path

from lib.core.params import Params
from lib.core.runtime import atomic_folder, discard_work, write_json
from lib.generators import RealData, find


def finetune(params: Params, real: RealData, name: str, key: str, model: Path, curves: Path) -> None:
    """Fine-tune the generator `name` on the real defects of a category, and write `model` and its loss in `curves`.

    For a method without a function `finetune` the folders record that there is no training. key: fingerprint of all
    inputs.
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
