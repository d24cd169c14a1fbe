"""Exact metrics against what one would use without us: time, ratio and error, in one run on one machine.

    python bench/metrics.py

60 maps of 256 x 256 float32 with about 100 regions. Best of 5 runs, which neighbours disturb least; the slow
published loop runs once. Much of the gain is numpy's vectorised sort: to see a processor without AVX-512, run
with NPY_DISABLE_CPU_FEATURES="X86_V4 AVX512_ICL AVX512_SPR"; without AVX2 too, put "X86_V3" before these.
"""

import sys
import time
from pathlib import Path

import numpy as np
from scipy import ndimage
from skimage.measure import label, regionprops
from sklearn.metrics import average_precision_score, roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.metrics.ranking import average_precision, defect_pixels, rank, rank_pixels

LIMIT, THRESHOLDS = 0.3, 200


def scored_pictures(pictures=60, size=256, seed=0):
    """Smooth noise plus a bump where the defects are; three of four pictures have 1 to 4 defects."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    maps, masks = [], []
    for i in range(pictures):
        mask = np.zeros((size, size), bool)
        for _ in range(rng.integers(1, 5) if i % 4 else 0):
            cx, cy, a, b = *rng.integers(20, size - 20, 2), *rng.integers(2, 24, 2)
            mask |= ((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 <= 1
        noise = ndimage.gaussian_filter(rng.normal(size=mask.shape), 4) * 8
        bump = ndimage.gaussian_filter(mask.astype(float), 3) * rng.uniform(0, 4)
        maps.append((noise + bump).astype(np.float32))
        masks.append(mask)
    return maps, masks


def auroc(scores, labels):
    return rank(scores, labels).auroc()


def streamed(maps, masks):
    """The ranking of all pixels, with one picture at a time in hand, as `evaluate` does it."""
    ranking = rank_pixels([defect_pixels(scores, mask) for scores, mask in zip(maps, masks, strict=True)])
    for scores, mask in zip(maps, masks, strict=True):
        ranking.count(scores[~mask])
    return ranking


def aupro(maps, masks):
    return streamed(maps, masks).aupro(LIMIT)


def all_five(maps, masks):
    ranking = streamed(maps, masks)
    return ranking.auroc(), ranking.average_precision(), *ranking.f1_max(), ranking.aupro(LIMIT)


def area_to_limit(fpr, pro):
    """Normalised area under the points, in ascending order of `fpr`, with a straight line at the limit."""
    inside = fpr < LIMIT
    x = np.r_[fpr[inside], LIMIT]
    y = np.r_[pro[inside], np.interp(LIMIT, fpr, pro)]
    return float(np.trapezoid(y, x) / LIMIT)


def published_loop(maps, masks):
    """200 thresholds x pictures x regionprops, as published evaluation scripts do it."""
    low, high = min(m.min() for m in maps), max(m.max() for m in maps)
    points = []
    for threshold in np.linspace(high, low, THRESHOLDS):
        overlaps, false, normal = [], 0, 0
        for scores, mask in zip(maps, masks, strict=True):
            predicted = scores > threshold
            for region in regionprops(label(mask, connectivity=2)):
                rows, columns = region.coords.T
                overlaps.append(predicted[rows, columns].mean())
            false += np.logical_and(predicted, ~mask).sum()
            normal += (~mask).sum()
        points.append((false / normal, np.mean(overlaps)))
    return area_to_limit(*np.array(points).T)


def careful_loop(maps, masks):
    """The same 200 thresholds with regions labelled once, pixels gathered once, and an end at the limit."""
    ids, count = [], 0
    for mask in masks:
        labels, regions = ndimage.label(mask, structure=np.ones((3, 3)))
        ids.append(labels[mask] + count - 1)
        count += regions
    joined = np.concatenate(ids)
    sizes = np.bincount(joined)
    positives = np.concatenate([m[mask] for m, mask in zip(maps, masks, strict=True)])
    negatives = np.concatenate([m[~mask] for m, mask in zip(maps, masks, strict=True)])
    low = min(positives.min(), negatives.min())
    high = max(positives.max(), negatives.max())
    points = []
    for threshold in np.linspace(high, low, THRESHOLDS, dtype=np.float32):
        false = np.count_nonzero(negatives > threshold) / negatives.size
        overlaps = np.bincount(joined[positives > threshold], minlength=count) / sizes
        points.append((false, overlaps.mean()))
        if false >= LIMIT:
            break
    return area_to_limit(*np.array(points).T)


def argsort_and_sums(maps, masks):
    """Every distinct threshold: one argsort of all pixels, then cumulative sums. Exact."""
    normals, gains = [], []
    for mask in masks:
        labels, _ = ndimage.label(mask, structure=np.ones((3, 3)))
        sizes = np.bincount(labels.ravel())
        gains.append(np.where(mask, 1 / sizes[labels], 0).ravel())
        normals.append(~mask.ravel())
    scores = np.concatenate([m.ravel() for m in maps])
    order = np.argsort(-scores)
    ends = np.r_[np.flatnonzero(np.diff(scores[order])), scores.size - 1]
    fpr = np.cumsum(np.concatenate(normals)[order])[ends]
    pro = np.cumsum(np.concatenate(gains)[order])[ends]
    return area_to_limit(np.r_[0, fpr / fpr[-1]], np.r_[0, pro / pro[-1]])


def timed(function, *arguments, repeats=5):
    """(best seconds, result)."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function(*arguments)
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def main():
    maps, masks = scored_pictures()
    scores = np.concatenate([m.ravel() for m in maps])
    labels = np.concatenate([m.ravel() for m in masks])
    regions = sum(ndimage.label(mask, structure=np.ones((3, 3)))[1] for mask in masks)
    print(f"{len(maps)} maps, {scores.size / 1e6:.1f} Mpix, {regions} regions, {labels.mean():.1%} defect\n")
    tables = {
        "pixel AUROC": [
            ("ours", timed(auroc, scores, labels)),
            ("sklearn.roc_auc_score", timed(roc_auc_score, labels, scores)),
        ],
        "pixel AP": [
            ("ours", timed(average_precision, scores, labels)),
            ("sklearn.average_precision_score", timed(average_precision_score, labels, scores)),
        ],
        f"AUPRO to {LIMIT}": [
            ("ours", timed(aupro, maps, masks)),
            ("argsort and cumulative sums", timed(argsort_and_sums, maps, masks)),
            (f"{THRESHOLDS} thresholds, careful loop", timed(careful_loop, maps, masks)),
            (
                f"{THRESHOLDS} thresholds, published loop (one run)",
                timed(published_loop, maps, masks, repeats=1),
            ),
        ],
    }
    print("| metric | way | s | time / ours | value - ours |")
    print("|---|---|---|---|---|")
    for metric, rows in tables.items():
        _, (own_seconds, own_value) = rows[0]
        for name, (seconds, value) in rows:
            ratio, error = seconds / own_seconds, value - own_value
            print(f"| {metric} | {name} | {seconds:.3f} | {ratio:.1f} | {error:+.0e} |")
    seconds, _ = timed(all_five, maps, masks)
    print(f"| AUROC, AP, F1-max and its threshold, AUPRO | ours, one ranking | {seconds:.3f} | | |")


if __name__ == "__main__":
    main()
