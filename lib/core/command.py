"""How a stage is run: `python -m stages.NAME --category ...` from the root of the repository."""

import argparse
import dis
import sys
from collections.abc import Callable
from pathlib import Path

OURS = Path(__file__).resolve().parents[2]

MADE = ("data/", "models/", "metrics/")  # what stages leave for other stages

HELP = {
    "category": "a name from dataset.categories in params.yaml",
    "generator": "a name from generators in params.yaml",
    "detector": "a name from detectors in params.yaml",
}


def run(stage: Callable[..., None], description: str | None, *names: str) -> None:
    """Call a stage with its command-line arguments; a mistake of the user's is one message and exit code 2.

    What our own code refuses with a `raise` is such a mistake. Any other error is a bug and keeps its traceback.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in names:
        parser.add_argument(f"--{name}", required=True, help=HELP[name])
    try:
        stage(**vars(parser.parse_args()))
    except FileNotFoundError as error:
        if not str(error.filename).startswith(MADE):
            raise
        sys.exit(_said(f"{error.filename}: not found; `dvc repro` makes what a stage reads"))
    except (ValueError, FloatingPointError) as error:
        if not _raised_by_us(error):
            raise
        sys.exit(_said(str(error)))


def _raised_by_us(error: Exception) -> bool:
    last = error.__traceback__
    while last and last.tb_next:
        last = last.tb_next
    if last is None:
        return False
    code = last.tb_frame.f_code
    place = Path(code.co_filename).resolve()
    # What fails in compiled code, such as adding arrays that do not fit, has no frame of its own: it seems to be ours.
    raised = code.co_code[last.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return raised and OURS in place.parents and "site-packages" not in place.parts


def _said(message: str) -> int:
    print(message, file=sys.stderr)
    return 2
