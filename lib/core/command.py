"""How a stage is run, `python -m stages.NAME --category ...`, and how the other commands, `python -m lib.NAME`, end."""

import argparse
import contextlib
import errno
import io
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import lib
from lib.core import runtime
from lib.core.errors import UserError, shortlist
from lib.core.pipeline import input_state

MESSAGE = 1_000  # characters of a system's error that are shown: it may hold a name of any length
INTERRUPTED, UNREAD = 130, 141  # exit codes, as of shells, after Ctrl-C, and where nobody reads the output any more
ESTIMATE = runtime.WORK / "estimate.json"  # seconds of the whole run, as `lib.start` expects
OUTPUTS = ("data/", "models/", "metrics/")  # what stages write for other stages

OF_THE_DISK = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, getattr(errno, "EDQUOT", errno.ENOSPC))

HELP = {
    "category": "a name from dataset.categories in params.yaml",
    "generator": "a name from generators in params.yaml",
    "detector": "a name from detectors in params.yaml",
    "format": "a name from export.formats in params.yaml",
}


def run(stage: Callable[..., None], description: str | None, *names: str) -> None:
    """Call a stage with its command-line arguments `--name`, one for each of `names`.

    A UserError, a missing output of an earlier stage, a full disk, one that may not be written, or an input that
    changed meanwhile ends with a message and exit code 2. Any other error is a fault of the program and keeps its
    traceback. The duration of a complete run is stored for `lib.repro`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in names:
        parser.add_argument(f"--{name}", required=True, help=HELP[name])
    item = vars(parser.parse_args())
    own = Path(sys.argv[0]).stem  # the stage's name in dvc.yaml
    try:
        before = input_state(own, **item) if runtime.first_process() else {}
        stage(**item)
        if before:
            _refuse_changes(before, input_state(own, **item))
    except FileNotFoundError as error:
        # A library may raise the error without a name. On Windows paths have backslashes.
        name = Path(str(error.filename)).as_posix() if error.filename else ""
        if not name.startswith(OUTPUTS):
            raise
        _refuse(f"{name}: not found; `dvc repro` makes what a stage reads")
    except UserError as error:
        _refuse(str(error))
    except Exception as error:
        reason = _fault_of_the_disk(error)
        if reason is None:
            raise
        _refuse(f"{reason}; once that is mended, `dvc repro` goes on from there")
    if runtime.first_process():
        name = "@".join(filter(None, (own, "-".join(item.values()))))
        with contextlib.suppress(OSError):  # the result is valid even if this cannot be stored
            runtime.write_json(duration_file(name), round(time.monotonic() - lib.STARTED, 1))


def _fault_of_the_disk(error: Exception) -> str | None:
    """What an error says of a disk that is full or may not be written; None if it says nothing of that."""
    if isinstance(error, shutil.Error):
        # Copying a folder goes on after an error, and tells all of them: source, target, and what went wrong.
        return str(error.args[0][0][2])[:MESSAGE]
    if isinstance(error, OSError):
        return str(error)[:MESSAGE] if error.errno in OF_THE_DISK else None
    # safetensors has an exception of its own for a full disk.
    told = any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EROFS))
    return str(error)[:MESSAGE] if told else None


def _refuse_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Raise UserError where an input changed while the stage ran, so that DVC stores nothing of it."""
    if changed := sorted(name for name in {**before, **after} if before.get(name) != after.get(name)):
        raise UserError(
            f"changed while the stage ran: {shortlist(changed)}. Nobody knows what it has read, so its result does not "
            "count: say `dvc repro` again. For other settings while a run goes on there is `dvc exp run --queue`"
        )


def end_with(main: Callable[[], int | None]) -> NoReturn:
    """Call the `main` of a command, and exit with the code that it returns.

    A UserError, or an OSError such as a full disk, ends with one message and exit code 2, Ctrl-C and a reader of the
    output that has left (`| head`) with none. Any other error is a fault of the program and keeps its traceback.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # names may hold what a console cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is buffered is written once more at exit
        code = UNREAD
    except KeyboardInterrupt:
        code = INTERRUPTED
    except UserError as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"{error}"[:MESSAGE])
    sys.exit(code)


def duration_file(name: str) -> Path:
    """The JSON file with the seconds of a stage's last complete run; name: as in DVC, `detect@unet-perlin-nut`."""
    return runtime.WORK / "durations" / f"{name}.json"


def _refuse(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(2)
