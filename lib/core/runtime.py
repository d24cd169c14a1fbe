"""What every long-running stage needs: atomic outputs, keys for resumable work, seeds, progress, device."""

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

WORK = Path(".work")  # unfinished work lies here, outside of every DVC output; `make clean-work` empties it

SHOWN_AFTER = 2.0  # seconds


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that nobody ever sees half of it: beside, flushed to the disk, then renamed.

    What goes wrong leaves no half file, and an OSError names the file, which that of a full disk by itself does not.
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
    """`write_bytes` for text in UTF-8, with Unix line ends on every platform."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON that is equal for equal values: sorted keys, indented, a newline at the end.

    Raises ValueError for NaN, which is no JSON: a missing number is None.
    """
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` that takes its place, whole, when the block ends without an error.

    Of several processes that do the same work side by side only the first publishes its folder.
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
    """Whether this is the first, or only, process of those that a launcher started side by side."""
    return int(os.environ.get("RANK", 0)) == 0


def replace_folder(source: Path, target: Path) -> None:
    """Rename the folder `source` to `target`; an old `target` is moved aside first and deleted last.

    From another file system (`.work` may be a link to a faster disk) it is copied beside the target first.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.stat().st_dev != target.parent.stat().st_dev:
        beside = target.with_name(f"{target.name}.tmp-{os.getpid()}")
        shutil.copytree(source, beside)
        shutil.rmtree(source)
        source = beside
    old = target.with_name(f"{target.name}.old-{os.getpid()}")
    if target.exists():
        os.replace(target, old)
    os.replace(source, target)
    shutil.rmtree(old, ignore_errors=True)


def fingerprint(*parts: Any) -> str:
    """16 hex digits that change when any part does: JSON values, and files or folders (by content) given as Path."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        if not isinstance(part, Path):
            digest.update(json.dumps(part, sort_keys=True).encode() + b"\n")  # no JSON text runs into the next
            continue
        files = [part] if part.is_file() else sorted(f for f in part.rglob("*") if f.is_file() and f.suffix != ".pyc")
        for file in files:
            digest.update(file.relative_to(part.parent).as_posix().encode())
            with open(file, "rb") as content:
                digest.update(hashlib.file_digest(content, hashlib.blake2b).digest())
    return digest.hexdigest()


def source(*modules: str) -> list[Path]:
    """The files or folders of our own modules, to be part of a fingerprint: changed code meets no old state."""
    places = [Path(__file__).parents[2].joinpath(*module.split(".")) for module in modules]
    return [place if place.is_dir() else place.with_suffix(".py") for place in places]


def work_folder(stage: str, key: str) -> Path:
    """The folder where a stage keeps unfinished work under the fingerprint of its inputs, so that a killed run goes
    on where it was and a changed run never meets stale state. Work of the same stage under other keys is removed.

    It is this process's until it ends. Raises UserError when another one holds it: killing `dvc` alone leaves its
    stage running, and the two would write over each other.
    """
    folder = WORK / stage / key
    if first_process():  # the others must not remove what it may refuse to touch
        _claim(WORK.absolute() / f"{stage}.lock")
        for other in folder.parent.glob("*"):
            if other.name != key:
                shutil.rmtree(other, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def discard_work(stage: str) -> None:
    """Remove a stage's unfinished work, once what became of it lies in its place: checkpoints are several times as
    large as what they are for."""
    if first_process():
        shutil.rmtree(WORK / stage, ignore_errors=True)


_claimed: dict[Path, filelock.BaseFileLock] = {}


def _claim(path: Path) -> None:
    """Hold the lock file until the process ends; what dies, however it dies, holds nothing."""
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


def seed_for(*parts: int | str) -> int:
    """A seed in [0, 2^63) for one item, from the run's seed and the item's id: the same on every machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def progress(items: Iterable[Item], what: str, total: int | None = None, initial: int = 0) -> "tqdm[Item]":
    """A progress bar with the time left, on the error stream; in a log file, a line every half minute.

    What is done sooner than SHOWN_AFTER shows nothing.
    """
    slow = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(items, desc=what, total=total, initial=initial, mininterval=slow, delay=SHOWN_AFTER, dynamic_ncols=True)


def device() -> "torch.device":
    """The first CUDA device where there is one, else Apple's, else the CPU; ACCELERATE_USE_CPU=1 asks for the CPU."""
    import torch

    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in {"1", "true", "yes"}:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def mixed_precision(where: "torch.device") -> str:
    """`bf16` on a GPU that has it, `fp16` on an older one, `no` elsewhere: on a CPU bfloat16 seldom pays."""
    import torch

    if where.type != "cuda":
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def cores(where: "torch.device") -> int:
    """How many calls of torch are worth running side by side: one for each core on a CPU, one elsewhere."""
    import torch

    return torch.get_num_threads() if where.type == "cpu" else 1


@contextlib.contextmanager
def side_by_side(where: "torch.device", calls: int) -> Iterator[Callable[..., list[Any]]]:
    """Yield a `map` with up to `calls` calls of torch at a time on a CPU, each with its share of the cores; one by one
    elsewhere.

    Small layers are over too soon to be shared among cores: two calls of one core each outrun two calls of both, and
    by far where something else keeps a core busy, for which every shared layer would wait. A few calls more than
    cores all run at once: they end together, where the last one would have left the other cores idle.
    """
    import torch

    threads, available = torch.get_num_threads(), cores(where)
    calls = calls if calls < 2 * available else available
    if calls < 2:
        yield lambda function, *columns: list(map(function, *columns))
        return
    share = max(threads // calls, 1)
    try:
        with ThreadPoolExecutor(calls, initializer=torch.set_num_threads, initargs=(share,)) as pool:
            yield lambda function, *columns: list(pool.map(function, *columns))
    finally:
        torch.set_num_threads(threads)


def on_cores(
    where: "torch.device", function: Callable[..., Result], *columns: Sequence[Any], out_of: int | None = None
) -> list[Result]:
    """`map` by `side_by_side`. `out_of`: of how many calls these are left after a kill. They get no more threads than
    in an unbroken run, since the order in which threads add up shows in the last bits.
    """
    with side_by_side(where, out_of or len(columns[0])) as run:
        return run(function, *columns)
