"""For long-running stages: atomic outputs, resumable work, seeds, progress bars, devices and threads."""

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import filelock
from tqdm import tqdm

from lib.core.errors import UserError

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

WORK = Path(".work")  # for unfinished work, outside of all DVC outputs; `make clean-work` deletes it

SHOWN_AFTER = 2.0  # seconds
THREADS = 8  # more would gain little, and each may hold a picture of a hundred million pixels


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: write a temporary file beside it, flush it to disk, then rename it.

    On an error no partial file remains, and an OSError names the file, which that of a full disk does not by itself.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and not error.filename:
            error.filename = str(path)
        raise


def write_text(path: Path, text: str) -> None:
    """`write_bytes` for text in UTF-8, with Unix line endings on every platform."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON, equal bytes for equal values: sorted keys, indented, with a newline at the end.

    Raises ValueError for NaN, which JSON does not have: use None for a missing number.
    """
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` that replaces it as a whole when the block ends without an error.

    If a launcher started several processes, only the first one replaces the folder.
    """
    beside = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        if first_process():
            replace_folder(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def first_process() -> bool:
    """Whether this is the first, or only, process that a launcher started."""
    return int(os.environ.get("RANK", 0)) == 0


def replace_folder(source: Path, target: Path, without: Sequence[str] = ()) -> None:
    """Rename the folder `source` to `target`; an old `target` is moved aside first and deleted last.

    without: patterns of files that have no place in it. If it is on another file system (`.work` may be a link to a
    faster disk), it is copied beside the target first and deleted last, so that a full disk loses nothing of it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    ready = source
    if source.stat().st_dev != target.parent.stat().st_dev:
        ready = target.with_name(f"{target.name}.tmp-{os.getpid()}")
        try:
            shutil.copytree(source, ready, ignore=shutil.ignore_patterns(*without))
        except BaseException:
            shutil.rmtree(ready, ignore_errors=True)
            raise
    else:
        for file in [file for pattern in without for file in source.rglob(pattern)]:
            file.unlink()
    old = target.with_name(f"{target.name}.old-{os.getpid()}")
    if target.exists():
        os.replace(target, old)
    os.replace(ready, target)
    shutil.rmtree(old, ignore_errors=True)
    if ready != source:
        shutil.rmtree(source)


def fingerprint(*parts: Any) -> str:
    """16 hex digits that change if any part does: JSON values, and files or folders (by content) given as Path."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        if not isinstance(part, Path):
            digest.update(json.dumps(part, sort_keys=True).encode() + b"\n")  # separates the parts
            continue
        files = [part] if part.is_file() else sorted(f for f in part.rglob("*") if f.is_file() and f.suffix != ".pyc")
        for file in files:
            digest.update(file.relative_to(part.parent).as_posix().encode())
            with open(file, "rb") as content:
                digest.update(hashlib.file_digest(content, hashlib.blake2b).digest())
    return digest.hexdigest()


def source(*modules: str) -> list[Path]:
    """The files or folders of our own modules, for a fingerprint: changed code must not continue old work."""
    places = [Path(__file__).parents[2].joinpath(*module.split(".")) for module in modules]
    return [place if place.is_dir() else place.with_suffix(".py") for place in places]


def work_folder(stage: str, key: str) -> Path:
    """The folder for a stage's unfinished work, by the fingerprint `key` of its inputs, so that a killed run continues
    and a run with other inputs starts again. Work of the same stage with other keys is deleted.

    The process locks it until it ends. Raises UserError if another process holds the lock: killing `dvc` alone leaves
    its stage running, and both would overwrite each other's files.
    """
    folder = WORK / stage / key
    if first_process():  # only it takes the lock, so that only it may delete
        _claim(WORK.absolute() / f"{stage}.lock")
        for other in folder.parent.glob("*"):
            if other.name != key:
                shutil.rmtree(other, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def discard_work(stage: str) -> None:
    """Delete a stage's unfinished work after its result was written: checkpoints are several times as large as that."""
    if first_process():
        shutil.rmtree(WORK / stage, ignore_errors=True)


_claimed: dict[Path, filelock.BaseFileLock] = {}


def _claim(path: Path) -> None:
    """Lock a file until the process ends; the system releases the lock if the process is killed."""
    if path in _claimed:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, note = filelock.FileLock(path), path.with_suffix(".pid")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        holder = note.read_text(encoding="utf-8") if note.exists() else "unknown"
        raise UserError(
            f"{path.stem} is already at work in process {holder}, perhaps left over from a killed `dvc repro`: "
            f"wait for it, or stop it with `kill {holder}`, then run again"
        ) from None
    _claimed[path] = lock
    write_text(note, str(os.getpid()))


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seed_for(*parts: int | str) -> int:
    """A seed in [0, 2^63) for one item, derived from the run's seed and the item's id: the same on every machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def progress(items: Iterable[Item], what: str, total: int | None = None, initial: int = 0) -> "tqdm[Item]":
    """A progress bar on the error stream; in a log file, a line every half minute.

    Nothing is shown for work that takes less than SHOWN_AFTER.
    """
    slow = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(items, desc=what, total=total, initial=initial, mininterval=slow, delay=SHOWN_AFTER, dynamic_ncols=True)


def in_threads(function: Callable[[Item], Result], items: Sequence[Item], what: str) -> list[Result]:
    """`map` on up to THREADS threads, in order: decoding, conversion and filters run outside of Python's lock."""
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        return list(progress(pool.map(function, items), what, total=len(items)))


def device() -> "torch.device":
    """The CUDA device if there is one, else Apple's, else the CPU; ACCELERATE_USE_CPU=1 selects the CPU."""
    import torch

    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in {"1", "true", "yes"}:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def mixed_precision(where: "torch.device") -> str:
    """`bf16` on a GPU that computes in it, `fp16` on an older one (V100, T4), which only emulates it, slowly; `no`
    elsewhere: bfloat16 is rarely faster on a CPU."""
    import torch

    if where.type != "cuda":
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def dtype_of(where: "torch.device") -> "torch.dtype":
    """The type of the numbers that networks compute in on a device, by `mixed_precision`."""
    import torch

    return {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[mixed_precision(where)]


def cores(where: "torch.device") -> int:
    """How many calls of torch should run in parallel: one per core on a CPU, one elsewhere."""
    import torch

    return torch.get_num_threads() if where.type == "cpu" else 1


@contextlib.contextmanager
def side_by_side(where: "torch.device", calls: int) -> Iterator[Callable[..., list[Any]]]:
    """Yield a `map` that runs up to `calls` calls of torch in parallel on a CPU, each with its share of the cores, and
    one after the other elsewhere.

    Small layers are too short to be divided among cores: two calls with one core each are faster than two calls with
    both, especially if another process uses a core, for which every divided layer would wait. If there are a few more
    calls than cores, all run at once, so that they end together instead of leaving cores idle.
    """
    import torch

    threads, calls, share = torch.get_num_threads(), *_shared(where, calls)
    if calls < 2:
        yield lambda function, *columns: list(map(function, *columns))
        return
    try:
        with ThreadPoolExecutor(calls, initializer=torch.set_num_threads, initargs=(share,)) as pool:
            yield lambda function, *columns: list(pool.map(function, *columns))
    finally:
        torch.set_num_threads(threads)


def _shared(where: "torch.device", calls: int) -> tuple[int, int]:
    """How many of so many calls `side_by_side` runs at once, and the threads of each."""
    import torch

    at_once = min(calls, cores(where)) if calls >= 2 * cores(where) else calls
    return at_once, max(torch.get_num_threads() // max(at_once, 1), 1)


def threads_each(where: "torch.device", calls: int) -> int:
    """The number of threads that each of so many calls by `side_by_side` has, on which the last bits of sums depend."""
    return _shared(where, calls)[1]


def on_cores(
    where: "torch.device", function: Callable[..., Result], *columns: Sequence[Any], out_of: int | None = None
) -> list[Result]:
    """`map` by `side_by_side`. out_of: the number of calls of a whole run, if a resumed run has fewer: each call gets
    as many threads as there, since the number of threads affects the last bits of sums.
    """
    with side_by_side(where, out_of or len(columns[0])) as run:
        return run(function, *columns)
