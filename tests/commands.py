"""A command of ours as `python -m` runs it, in this process: a new one would import torch and others once more."""

import contextlib
import io
import runpy
import subprocess
import sys
import warnings
from pathlib import Path
from unittest.mock import patch


def run_here(folder: Path, module: str, *words: object) -> subprocess.CompletedProcess[str]:
    """What `python -m module words` prints in the folder, and its exit code. What it does not catch is raised."""
    command = [module, *map(str, words)]
    out, err = io.StringIO(), io.StringIO()
    code: int | str | None = 0
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        patch.object(sys, "argv", command),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", RuntimeWarning)  # of runpy, about modules that are imported already
        try:
            runpy.run_module(module, run_name="__main__")
        except SystemExit as ended:
            code = ended.code
    if isinstance(code, str):
        err.write(code)
    return subprocess.CompletedProcess(
        command, 1 if isinstance(code, str) else code or 0, out.getvalue(), err.getvalue()
    )
