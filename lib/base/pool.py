"""Rendered pictures to learn from, in pairs with and without a defect: made once, kept in the work folder."""

import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from lib.base.settings import RENDERER, SIDE
from lib.core.runtime import fingerprint, progress, work_folder, write_bytes
from lib.dataset.surfaces import Pair, random_pair

ARRAYS = ("normal", "defect", "mask", "foreground")  # of a Pair, in its order
CHUNK = 250  # pairs of one file, which one process renders at a time


def rendered_pool(count: int, seed: int) -> list[Pair]:
    """`count` random pairs of SIDE x SIDE pixels, the same for the same seed; the first call renders them, in parallel.

    Pair number n depends on seed and n alone: a larger pool begins with the smaller one.
    """
    folder = work_folder("base-pool", fingerprint(RENDERER, seed, CHUNK, SIDE))
    chunks = range((count + CHUNK - 1) // CHUNK)
    with ProcessPoolExecutor() as workers:
        files = list(progress(workers.map(partial(_render_chunk, folder, seed), chunks), "render", total=len(chunks)))
    pairs: list[Pair] = []
    for file in files:
        with np.load(file) as stored:
            words = json.loads(str(stored["words"]))
            arrays = (stored[name] for name in ARRAYS)
            pairs += [Pair(*parts, *names) for *parts, names in zip(*arrays, words, strict=True)]
    return pairs[:count]


def _render_chunk(folder: Path, seed: int, chunk: int) -> Path:
    """The file of one chunk, rendered where it is not there yet."""
    file = folder / f"{chunk:05d}.npz"
    if not file.exists():
        pairs = [random_pair(np.random.default_rng([seed, chunk, index]), SIDE) for index in range(CHUNK)]
        arrays = {name: np.stack([getattr(pair, name) for pair in pairs]) for name in ARRAYS}
        words = json.dumps([(pair.surface, pair.defect_type) for pair in pairs])
        with tempfile.TemporaryFile() as buffer:
            np.savez(buffer, allow_pickle=False, words=np.array(words), **arrays)
            buffer.seek(0)
            write_bytes(file, buffer.read())
    return file
