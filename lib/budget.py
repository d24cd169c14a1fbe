"""How long the chain will take: measured seconds for each unit of work, and how fast this machine is beside ours."""

import math
import time
from collections.abc import Mapping

import numpy as np

from lib.core.params import Params

# Seconds on two CPU cores without a GPU, measured DATE with the settings of `lib.start` for photographs.
STAGE = 4.0  # until a stage has loaded its libraries, and what DVC does about it
STEP = {"perlin": 0.0, "cutpaste": 0.0, "mvp_diff": 0.40, "defectfill": 1.2, "defect_gen": 1.2, "dmgr": 1.2}
PAINT = {"perlin": 0.02, "cutpaste": 0.02, "mvp_diff": 0.4, "defectfill": 1.2, "defect_gen": 1.0, "dmgr": 4.0}
JUDGE = 0.1  # a synthetic sample, in masks, fidelity and report
FIT = 0.25  # a step of a detector on 4 windows of 128 px with a frozen encoder
LOOK = 0.5  # a megapixel, after scaling, by a detector
BASE = 10.0  # mask_truth and fidelity, which load the base and features

MATMUL = 0.01  # seconds of `pace` on the machine of the figures above


def seconds(params: Params, counts: Mapping[str, int], types: int, megapixels: float) -> dict[str, float]:
    """Seconds of each kind of stage of `dvc repro report`, on the machine of the figures above, within a factor of two.

    counts: pictures in the parts train, val and test. types: pairs of category and defect type. megapixels: of a
    picture, before scaling.
    """
    detect, categories, seeds = params.detect, len(params.dataset.categories), len(params.detect.seeds)
    samples = types * params.placements.per_type
    scaled = megapixels * detect.scale**2
    learning = 2.0 if getattr(params, "unet", {}).get("encoder_rate") else 1.0
    validations = math.ceil(detect.steps / detect.validate_every) + 1
    fit = detect.steps * FIT * learning * (detect.window / 128) ** 2 * detect.batch_size / 4 * categories
    fit += validations * counts["val"] * scaled * LOOK
    arms = {detector: len(params.arms(detector)) for detector in params.detectors}
    chain = {
        "prepare and placements": 4 * STAGE + 0.05 * sum(counts.values()),
        "finetune": sum(categories * (STAGE + params.finetune.steps * STEP.get(g, 1.0)) for g in params.generators),
        "synth": sum(categories * STAGE + samples * PAINT.get(g, 1.0) for g in params.generators),
        "masks, fidelity": (len(params.generators) + 2) * STAGE + BASE + JUDGE * samples * len(params.generators),
        "detectors": sum(seeds * fit * n + categories * max(n - 1, 1) * STAGE for n in arms.values()),
        "evaluate": sum(STAGE + seeds * n * counts["test"] * scaled * LOOK for n in arms.values()),
        "report": STAGE,
    }
    return chain


def pace() -> float:
    """How many times longer this machine takes now than ours did, by a product of matrices; busy cores count."""
    matrix = np.ones((512, 512), np.float32)
    taken = []
    for _ in range(20):
        started = time.perf_counter()
        matrix @ matrix
        taken.append(time.perf_counter() - started)
    return float(np.median(taken)) / MATMUL
