"""Estimate how long the pipeline takes: measured seconds per unit of work, and the speed of this machine."""

import math
import os
import time
from collections.abc import Mapping

import numpy as np

from lib.core.params import Params

# CPU seconds with one thread, measured on 2026-11-29 on one core of a shared server, with the settings of `lib.start`
# for 33 pictures of 512 px with 5 types: of single stages where possible, else derived from the whole run.
STAGE = 2.0  # start of a stage: its imports, and DVC's work
# Per step of finetune on 12 samples, with models/base (defectfill: 2026-12-01, beside mvp_diff on another machine).
STEP = {"perlin": 0.0, "cutpaste": 0.0, "mvp_diff": 0.37, "defectfill": 0.67}
PAINT = {"perlin": 0.04, "cutpaste": 0.04, "mvp_diff": 0.58, "defectfill": 1.2}  # per sample, of four candidates
JUDGE = 0.15  # per sample in masks, fidelity and report
# Per step on 4 windows of 128 px; unet: encoder frozen, twice if it is trained.
FIT = {"unet": 0.055, "patchcore": 0.0, "pagmfr": 0.28}
VALIDATE = 1.0  # per megapixel of val, after scaling
EVALUATE = 2.0  # per megapixel of test, after scaling, with all metrics
READ = 0.05  # per picture, before the split
TRUTH = 8.0  # mask_truth and the features of fidelity, which are constant

SORT = 0.135  # of a million floats by merging, on a core where a step of finetune takes as long (2026-12-01)
SHARED = 0.6  # wall time on two cores, relative to CPU seconds on one: half of the stages use only one


def seconds(params: Params, counts: Mapping[str, int], types: int, megapixels: float) -> dict[str, float]:
    """Seconds of each part of `dvc repro report` on one idle core of the machine of the figures above.

    counts: pictures in the parts train, val and test. types: pairs of category and defect type. megapixels: of a
    picture, before scaling. Raises KeyError for methods other than those that `lib.proposal` proposes.
    """
    detect, finetune, categories = params.detect, params.finetune, len(params.dataset.categories)
    samples, scaled = types * params.placements.per_type, megapixels * detect.scale**2
    batch = detect.batch_size / 4 * (detect.window / 128) ** 2
    detectors = evaluation = 0.0
    for name in params.detectors:
        own = (params.model_extra or {})[name]
        arms, seeds, steps = len(params.arms(name)), len(params.detect.seeds), own.get("steps", detect.steps)
        learning = 2.0 if own.get("encoder_rate") else 1.0
        training = categories * steps * FIT[name] * batch * learning
        # The last look chooses the threshold.
        looks = math.ceil(steps / detect.validate_every) + 1 if FIT[name] else 1
        detectors += arms * (seeds * (training + looks * counts["val"] * scaled * VALIDATE) + categories * STAGE)
        evaluation += STAGE + arms * seeds * counts["test"] * scaled * EVALUATE
    return {
        "prepare to placements": 4 * STAGE + READ * sum(counts.values()),
        "finetune": sum(
            categories * (STAGE + finetune.steps * finetune.batch_size / 12 * STEP[name]) for name in params.generators
        ),
        "synth": sum(categories * STAGE + samples * PAINT[name] for name in params.generators),
        "masks, fidelity, report": TRUTH + len(params.generators) * (STAGE + JUDGE * samples) + 3 * STAGE,
        "detectors": detectors,
        "evaluate": evaluation,
    }


def pace() -> float:
    """Wall time on this machine at present, relative to the CPU seconds above.

    The time of a sort shows the speed of a core, a stable one, since numpy's default runs eight times as fast on cores
    with AVX-512, and the pipeline does not; the load average of the last minute, which Windows lacks, shows how
    many processes compete. Most stages do not use more than two cores.
    """
    numbers, taken = np.random.default_rng(0).random(1_000_000), []
    for _ in range(10):
        started = time.thread_time()
        np.sort(numbers, kind="stable")
        taken.append(time.thread_time() - started)
    cores = os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return float(np.median(taken)) / SORT * (SHARED if cores > 1 else 1.0) * max((load + 1) / cores, 1.0)
