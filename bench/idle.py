"""What a `dvc repro` costs when there is nothing to do, beside a bare `dvc status` in an empty repository of DVC.

    python bench/idle.py [--rounds 12]

Run it in a clone whose pipeline is up to date. Both take turns, so that a busy machine slows each; quoted is the median
of the rounds' ratios. The bare command is DVC's own start: imports, Git, its lock.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

ENVIRONMENT = {**os.environ, "DVC_NO_ANALYTICS": "1"}


def seconds(folder: Path, *command: str) -> tuple[float, str]:
    """How long a command takes in a folder, and what it prints. Raises CalledProcessError when it fails."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, check=True, capture_output=True, text=True)
    return time.perf_counter() - start, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    rounds = parser.parse_args().rounds
    ours = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as name:
        empty = Path(name)
        for command in (("git", "init", "--quiet"), ("dvc", "init", "--quiet")):
            seconds(empty, *command)
        rows = []
        for turn in range(rounds + 1):
            bare, _ = seconds(empty, "dvc", "status")
            idle, output = seconds(ours, "dvc", "repro")
            if "Running stage" in output:
                raise SystemExit("this `dvc repro` had something to do: run it to its end first")
            if turn:  # the first one warms up
                rows.append((bare, idle))
                print(f"round {turn}: bare status {bare:.2f} s, idle repro {idle:.2f} s, ratio {idle / bare:.2f}")
    bare, idle = (statistics.median(column) for column in zip(*rows, strict=True))
    ratio = statistics.median(idle / bare for bare, idle in rows)
    print(f"medians: bare status {bare:.2f} s, idle repro {idle:.2f} s, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
