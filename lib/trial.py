"""Try the whole pipeline in minutes, without touching your settings and results.

    python -m lib.trial

One rendered category is processed from pictures to the report page, with the settings of presets/fast.yaml and
presets/try.yaml. It runs in a copy of the repository's files in `.work/try`, which is a DVC repository of its own: your
params.yaml, dvc.lock, data, models and metrics are not changed. A try that was stopped continues; if files have changed
since, a new one starts. `make clean-work` deletes it.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from lib.core.command import end_with
from lib.core.errors import UserError
from lib.core.forms import REQUESTS, REVIEW
from lib.core.runtime import fingerprint, work_folder, write_text
from lib.preset import applied
from lib.repro import repro

PRESETS = ("fast", "try")
PAGE = Path("metrics/report/index.html")
FORMS = (REVIEW, REQUESTS)
LEFT_OUT = ("dvc.lock", "metrics/", "tests/", "docs/", "bench/", *(f"{form.path.parent.as_posix()}/" for form in FORMS))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    started = time.monotonic()
    folder = copied()
    if code := repro(["report"], folder, environment()):
        return code
    page = folder / PAGE
    print(f"\n{page.with_name('report.md').read_text(encoding='utf-8')}")
    print(f"Done in {round(time.monotonic() - started)} seconds; every sample, in any browser: {page.as_posix()}")
    return 0


def copied() -> Path:
    """The folder in which the try runs: the files that Git knows, as they are now, in Git and DVC repositories of their
    own, with the settings of the try.

    Raises UserError outside of a clone, for settings that cannot be, and while another try runs.
    """
    names = [name for name in tracked() if not name.startswith(LEFT_OUT)]
    params = applied(PRESETS)
    folder = work_folder("try", fingerprint(names, params and params[0], *map(Path, names)))
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(name, folder / name)
    if params:
        write_text(folder / "params.yaml", params[0])
    for form in FORMS:  # what people say is of their own samples
        write_text(folder / form.path, ",".join(form.columns) + "\n")
    # Of its own Git, or DVC would ask the user's; DVCLive asks for a commit.
    who = ["-c", "user.name=try", "-c", "user.email=try@localhost", "-c", "commit.gpgsign=false"]
    for command in (["init"], [*who, "commit", "--allow-empty", "--no-verify", "--message", "try"]):
        subprocess.run(["git", *command, "--quiet"], cwd=folder, check=True, env=environment())
    return folder


def tracked() -> list[str]:
    """The files of this repository that Git knows and that are there."""
    done = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        raise UserError("the try copies the files that Git knows, and here it knows none: run it in a clone's root")
    return [name for name in done.stdout.split("\0") if name and Path(name).is_file()]


def environment() -> dict[str, str]:
    """Our variables, with this Python first on the path, and without those that name the user's own Git repository."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**own, "PATH": path, "DVC_NO_ANALYTICS": "1"}


if __name__ == "__main__":
    end_with(main)
