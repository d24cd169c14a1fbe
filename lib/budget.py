"""How long the chain will take: measured seconds for each unit of work, and how fast this machine is beside ours."""

import math
import os
import time
from collections.abc import Mapping

import numpy as np

from lib.core.params import Params

# Processor seconds with one thread, measured on 2026-11-29 on one core of a shared server, in a run
# of `lib.start`'s settings on 33 pictures of 512 px with 5 types: of single stages, and of the whole for the rest.
STAGE = 2.0  # until a stage has loaded its libraries, and what DVC does about it
STEP = {"perlin": 0.0, "cutpaste": 0.0, "mvp_diff": 0.37}  # a step of finetune on 12 samples, with models/base
PAINT = {"perlin": 0.04, "cutpaste": 0.04, "mvp_diff": 0.39}  # a sample
JUDGE = 0.15  # a sample in masks, fidelity and report
FIT = {"unet": 0.055, "patchcore": 0.0}  # a step on 4 windows of 128 px with a frozen encoder; one that learns: twice
VALIDATE = 1.0  # a megapixel, after scaling, of val
EVALUATE = 2.0  # a megapixel, after scaling, of test, with all metrics
READ = 0.05  # a picture, before it is split
TRUTH = 8.0  # mask_truth and the features of fidelity, which do not grow

SORT = 0.055  # of a million floats, on that core
SHARED = 0.6  # by the clock on two cores, of the processor's seconds on one: half of the stages use one alone


def seconds(params: Params, counts: Mapping[str, int], types: int, megapixels: float) -> dict[str, float]:
    """Seconds of each part of `dvc repro report` on one idle core of the machine of the figures above.

    counts: pictures in the parts train, val and test. types: pairs of category and defect type. megapixels: of a
    picture, before scaling. Raises KeyError for methods other than those that `lib.proposal` proposes.
    """
    detect, finetune, categories = params.detect, params.finetune, len(params.dataset.categories)
    samples, scaled = types * params.placements.per_type, megapixels * detect.scale**2
    batch = detect.batch_size / 4 * (detect.window / 128) ** 2
    validations = math.ceil(detect.steps / detect.validate_every) + 1  # the last one chooses the threshold
    learning = 2.0 if (params.model_extra or {})["unet"]["encoder_rate"] else 1.0
    detectors = evaluation = 0.0
    for name in params.detectors:
        arms, seeds = len(params.arms(name)), len(params.detect.seeds)
        training = categories * detect.steps * FIT[name] * batch * learning
        looks = validations if FIT[name] else 1
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
    """How many times longer the clock shows on this machine now than the processor of ours took.

    How fast a core is tells a sort, by processor time; how many others want one, the load of the last minute, which
    Windows does not have. More than two cores are of no use to most stages.
    """
    numbers, taken = np.random.default_rng(0).random(1_000_000), []
    for _ in range(10):
        started = time.thread_time()
        np.sort(numbers)
        taken.append(time.thread_time() - started)
    cores = os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return float(np.median(taken)) / SORT * (SHARED if cores > 1 else 1.0) * max((load + 1) / cores, 1.0)
