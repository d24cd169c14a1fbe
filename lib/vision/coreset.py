"""A few vectors that stand for many: the greedy k-centre choice, in fewer dimensions."""

import numpy as np
import torch
from torch import Tensor

from lib.core.runtime import progress, seed_for

PROJECTED = 64  # dimensions in which the coreset is chosen


def projected(patches: Tensor, seed: int) -> Tensor:
    """(N, C) -> (N, PROJECTED), at random, which keeps distances nearly as they are (Johnson & Lindenstrauss 1984).

    Patches of no more dimensions stay as they are.
    """
    if patches.shape[1] <= PROJECTED:
        return patches
    rng = np.random.default_rng(seed_for(seed, "projection"))
    matrix = rng.standard_normal((patches.shape[1], PROJECTED), np.float32) / PROJECTED**0.5
    return patches @ torch.from_numpy(matrix).to(patches.device)


def greedy_coreset(patches: Tensor, size: int, seed: int) -> tuple[Tensor, list[float]]:
    """The greedy k-centre choice (algorithm 1): from a random patch on, always the one farthest from all so far.

    patches: (N, D). Returns the numbers (min(size, N),) of the chosen ones, none of them twice, and after each the
    covering radius: the largest distance of a patch to its nearest chosen one. The radius is at most twice the best
    possible one (Gonzalez 1985).
    """
    patches = patches - patches.mean(dim=0)  # distances by products lose the fewer digits, the smaller the vectors are
    norms = patches.square().sum(dim=1)
    newest = int(np.random.default_rng(seed_for(seed, "first patch")).integers(len(patches)))
    chosen, radii = [], []
    nearest = torch.full_like(norms, torch.inf)
    for _ in progress(range(min(size, len(patches))), f"choose patches, seed {seed}"):
        chosen.append(newest)
        squared = norms + norms[newest] - 2 * (patches @ patches[newest])
        nearest = torch.minimum(nearest, squared.clamp(min=0))
        # Below all others: a neighbour so close that its distance rounds to 0, too, is not chosen yet.
        nearest[newest] = -1
        newest = int(nearest.argmax())
        radii.append(max(float(nearest[newest]), 0) ** 0.5)
    return torch.tensor(chosen, device=patches.device), radii
