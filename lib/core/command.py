"""How a stage is run: `python -m stages.NAME --category ...` from the root of the repository."""

import argparse
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

OURS = Path(__file__).resolve().parents[2]

HELP = {
    "category": "a name from dataset.categories in params.yaml",
    "generator": "a name from generators in params.yaml; none: real defects only",
    "detector": "a name from detectors in params.yaml",
}


def run(stage: Callable[..., None], description: str | None, *names: str) -> None:
    """Call a stage with its command-line arguments; a mistake of the user's is one message and exit code 2.

    What our own code refuses is such a mistake. An error out of a library is a bug and keeps its traceback.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in names:
        parser.add_argument(f"--{name}", required=True, help=HELP[name])
    try:
        stage(**vars(parser.parse_args()))
    except FileNotFoundError as error:
        sys.exit(_said(f"{error.filename or error}: not found; `dvc repro` makes what a stage reads"))
    except (ValueError, FloatingPointError) as error:
        if not _raised_by_us(error):
            raise
        sys.exit(_said(str(error)))


def _raised_by_us(error: Exception) -> bool:
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    place = Path(frame.f_code.co_filename).resolve()
    return OURS in place.parents and "site-packages" not in place.parts


def _said(message: str) -> int:
    print(message, file=sys.stderr)
    return 2
