"""Coreset selection: a few vectors that represent many, by greedy k-centre in a random projection."""

import numpy as np
import torch
from torch import Tensor

from lib.core.runtime import progress, seed_for

PROJECTED = 64  # dimensions in which the coreset is chosen


def projected(patches: Tensor, seed: int) -> Tensor:
    """Random projection (N, C) -> (N, PROJECTED), which nearly preserves distances (Johnson & Lindenstrauss 1984).

    Patches that have no more dimensions are returned unchanged.
    """
    if patches.shape[1] <= PROJECTED:
        return patches
    rng = np.random.default_rng(seed_for(seed, "projection"))
    matrix = rng.standard_normal((patches.shape[1], PROJECTED), np.float32) / PROJECTED**0.5
    return patches @ torch.from_numpy(matrix).to(patches.device)


def greedy_coreset(patches: Tensor, size: int, seed: int) -> tuple[Tensor, list[float]]:
    """Greedy k-centre selection (Roth et al. 2022, algorithm 1): starting from a random patch, always add the patch
    that is farthest from those chosen so far.

    patches: (N, D). Returns the indices (min(size, N),) of the chosen ones, all different, and after each the covering
    radius: the largest distance of a patch to its nearest chosen one, at most twice the optimum (Gonzalez 1985).
    """
    patches = patches - patches.mean(dim=0)  # distances are computed by products, which are more exact near the origin
    norms = patches.square().sum(dim=1)
    newest = int(np.random.default_rng(seed_for(seed, "first patch")).integers(len(patches)))
    chosen, radii = [], []
    nearest = torch.full_like(norms, torch.inf)
    for _ in progress(range(min(size, len(patches))), f"choose patches, seed {seed}"):
        chosen.append(newest)
        squared = norms + norms[newest] - 2 * (patches @ patches[newest])
        nearest = torch.minimum(nearest, squared.clamp(min=0))
        # Below all distances: another patch at distance 0 may still be chosen, this one may not.
        nearest[newest] = -1
        newest = int(nearest.argmax())
        radii.append(max(float(nearest[newest]), 0) ** 0.5)
    return torch.tensor(chosen, device=patches.device), radii
