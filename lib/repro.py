"""`dvc repro` with a progress display: "stage 12 of 46, about 9 minutes left".

    python -m lib.repro             like dvc repro
    python -m lib.repro report      like dvc repro report

The output of DVC and the stages is passed through; progress is printed on the error stream. The time left is estimated
from the last duration of each stage that may still run (`.work/durations`, which every run of a stage writes), scaled
by the speed of this run so far. A stage that never ran is estimated from others with its name; if there are none, it is
left out, and the time is given as "more than".
"""

import argparse
import contextlib
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from lib.core.command import ESTIMATE, duration_file, end_with
from lib.core.errors import UserError
from lib.settings import load_all

TOLD = re.compile(r"(Running stage|Stage) '([^']+)'")  # DVC's messages before a stage runs, and for a skipped one
PACED_AFTER = 60.0  # seconds of earlier duration, before which the speed of this run is not used
PACE = (0.25, 4.0)  # limits of that speed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="STAGE", help="stages of dvc.yaml; default: all of it")
    targets = parser.parse_args().targets
    load_all()  # what is wrong in params.yaml would stop the run at a later stage, whose former results are gone then
    lock = Path("dvc.lock")
    if lock.is_file() and not lock.stat().st_size:
        raise UserError(
            f"{lock}: empty, as DVC leaves it where the disk is full; `git checkout {lock}`, or delete it: what is in "
            "DVC's cache does not run again"
        )
    return repro(targets)


@dataclass
class Progress:
    """The progress of a run of the pipeline.

    stages: the names of all stages that DVC will visit; due: those that changed or depend on changed ones, and may run;
    seconds: the last durations of stages; estimate: seconds of all of them, if `lib.start` expects some, else 0.
    """

    stages: Sequence[str]
    due: frozenset[str]
    seconds: Mapping[str, float]
    estimate: float = 0.0
    visits: list[str] = field(default_factory=list)

    def reached(self, name: str) -> None:
        """DVC has come to a stage."""
        if name in self.stages and name not in self.visits:
            self.visits.append(name)

    def sentence(self, elapsed: float) -> str:
        """The stage that DVC is at, and the time left, `elapsed` seconds after the start."""
        remaining = [name for name in self.stages if name in self.due and name not in self.visits[:-1]]
        place = f"stage {len(self.visits)} of {len(self.stages)}"
        durations = [taken for name in remaining if (taken := self._expected(name)) is not None]
        if len(durations) < len(remaining) and self.estimate > elapsed + sum(durations):
            return f"{place}, {about(self.estimate - elapsed)} left by the estimate of lib.start"
        if not durations:
            return place
        done = sum(self._expected(name) or 0 for name in self.visits[:-1] if name in self.due)
        pace = min(max(elapsed / done, PACE[0]), PACE[1]) if done >= PACED_AFTER else 1.0
        if len(durations) < len(remaining):
            return f"{place}, more than {minutes(max(pace * sum(durations), 60))} left"
        return f"{place}, {about(pace * sum(durations))} left"

    def _expected(self, name: str) -> float | None:
        """The seconds that a stage took, or others of its matrix on average; None where none of them ever ran."""
        if name in self.seconds:
            return self.seconds[name]
        others = [taken for other, taken in self.seconds.items() if other.split("@")[0] == name.split("@")[0]]
        return mean(others) if others else None


def minutes(seconds: float) -> str:
    """A time in words, to the minute."""
    rounded = max(round(seconds / 60), 1)
    return "1 minute" if rounded == 1 else f"{rounded} minutes"


def about(seconds: float) -> str:
    """A time to come, in words."""
    return "less than a minute" if seconds < 45 else f"about {minutes(seconds)}"


def progress_of(targets: Sequence[str], folder: Path) -> Progress:
    """What lies ahead of `dvc repro` in a repository. Raises UserError where DVC cannot tell."""
    import networkx
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

    try:
        with contextlib.chdir(folder), Repo() as repo:  # DVC's names of stages begin at the working folder
            graph = repo.index.graph  # from a stage to those that it reads from
            wanted = [stage for target in targets or ["dvc.yaml"] for stage in repo.stage.collect(target)]
            ahead = networkx.compose_all(
                graph.subgraph({stage, *networkx.descendants(graph, stage)}) for stage in wanted
            )
            stages = {stage.addressing: stage for stage in ahead if isinstance(stage, PipelineStage)}
            status = repo.status(list(targets) or None, with_deps=True)
            changed = [stage for stage in ahead if stage.addressing in status]
    except DvcException as error:
        raise UserError(f"{error}") from error
    due = {stage.addressing for one in changed for stage in {one, *networkx.ancestors(ahead, one)}}
    is_whole = "report" in stages and stages.keys() <= due
    estimate = (_number(folder / ESTIMATE) if is_whole else None) or 0.0
    return Progress(list(stages), frozenset(due & stages.keys()), durations(folder), estimate)


def durations(folder: Path) -> dict[str, float]:
    """The seconds that each stage took the last time, by its name; a file that holds no such number tells nothing."""
    files = (folder / duration_file("x").parent).glob("*.json")
    return {path.stem: taken for path in files if (taken := _number(path)) is not None}


def _number(path: Path) -> float | None:
    """The number of seconds in a JSON file; None where there is none."""
    with contextlib.suppress(OSError, ValueError, TypeError, OverflowError, RecursionError):
        taken = float(json.loads(path.read_text(encoding="utf-8")))
        if math.isfinite(taken) and taken >= 0:
            return taken
    return None


def repro(targets: Sequence[str], folder: Path = Path(), env: Mapping[str, str] | None = None) -> int:
    """Run `dvc repro` in a repository, tell how far it is, and return its exit code.

    env: variables of the run, those of this process by default.
    """
    progress, started = progress_of(targets, folder), time.monotonic()
    command = [sys.executable, "-m", "dvc", "repro", *targets]
    variables = {**(os.environ if env is None else env), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=folder, env=variables, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.buffer.write(line)
            sys.stdout.flush()
            if match := TOLD.match(line.decode(errors="replace")):
                progress.reached(match[2])
                if match[1] == "Running stage":
                    print(progress.sentence(time.monotonic() - started), file=sys.stderr, flush=True)
    if process.returncode == 0 and progress.estimate:
        (folder / ESTIMATE).unlink(missing_ok=True)  # what stages took is better
    return process.returncode


if __name__ == "__main__":
    end_with(main)
