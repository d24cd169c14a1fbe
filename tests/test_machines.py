"""What docs/many-machines.md says is so: remotes, stages side by side, clones for tasks, two nodes, the queue."""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from tests.conftest import ROOT
from tests.test_chain import clone, environment, run

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs/many-machines.md").read_text(encoding="utf-8")
FINETUNE = "finetune@mvp_diff-hex_nut"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A clone in which what takes seconds was run, with a folder as its remote."""
    folder = clone(tmp_path_factory.mktemp("home"), tiny_base)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["detect"]["seeds"] = [0]
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    run(folder, "dvc", "repro", "describe", "random_boxes")
    run(folder, "dvc", "remote", "add", "--default", "storage", str(tmp_path_factory.mktemp("remote")))
    commit(folder, "light stages")
    run(folder, "dvc", "push")
    return folder


@pytest.fixture(scope="module")
def pulled(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone that has pulled what there is, and in which nothing was done since."""
    folder = tmp_path_factory.mktemp("pulled") / "clone"
    run(home, "git", "clone", "--quiet", str(home), str(folder))
    run(folder, "dvc", "pull", "--allow-missing")
    return folder


@pytest.fixture
def copy(pulled: Path, tmp_path: Path) -> Path:
    """Another machine, with such a clone of its own."""
    return Path(shutil.copytree(pulled, tmp_path / "copy", symlinks=True))


@pytest.fixture(scope="module")
def finetuned(pulled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a clone in which one stage has been run."""
    folder = Path(shutil.copytree(pulled, tmp_path_factory.mktemp("finetuned") / "clone", symlinks=True))
    run(folder, "dvc", "repro", "--single-item", FINETUNE)
    return folder


@pytest.fixture
def later(finetuned: Path, tmp_path: Path) -> Path:
    """That machine after this stage, with a clone of its own."""
    return Path(shutil.copytree(finetuned, tmp_path / "later", symlinks=True))


def commit(folder: Path, message: str) -> None:
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", message)


def start(folder: Path, *command: str, **variables: str) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment() | variables, **pipes)


def end(process: subprocess.Popen) -> str:
    output, _ = process.communicate()
    assert process.returncode == 0, output[-3000:]
    return output


def writers(folder: Path) -> set[int]:
    """Numbers of the processes that write into the clone just now, as DVC notes them."""
    try:
        noted = json.loads((folder / ".dvc/tmp/rwlock").read_text()).get("write", {})
        return {entry["pid"] for entry in noted.values()}
    except (FileNotFoundError, json.JSONDecodeError):  # none yet, or just being written
        return set()


def until_writing(folder: Path, process: subprocess.Popen) -> None:
    while process.pid not in writers(folder):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)


def locked(folder: Path) -> set[str]:
    return set(yaml.safe_load((folder / "dvc.lock").read_text())["stages"])


def test_push_clone_pull_and_a_repro_that_runs_nothing(home: Path, tmp_path: Path):
    run(tmp_path, "git", "clone", "--quiet", str(home), "other")
    other = tmp_path / "other"
    partly = run(other, "dvc", "pull", check=False)
    assert partly.returncode == 1 and "metrics/report" in partly.stderr, "what was never made is listed"
    assert run(other, "dvc", "pull", "--allow-missing").returncode == 0
    output = run(other, "dvc", "repro", "describe", "random_boxes").stdout
    assert "Running stage" not in output and "up to date" in output
    assert (other / "data/placements/hex_nut.jsonl").read_bytes() == (
        home / "data/placements/hex_nut.jsonl"
    ).read_bytes()
    assert run(other, "git", "status", "--porcelain").stdout == ""


def test_independent_stages_run_at_the_same_time_and_the_lock_has_both(copy: Path):
    stages = ("baseline@unet-hex_nut", FINETUNE)
    both = [start(copy, "dvc", "--wait-for-lock", "repro", "--single-item", stage) for stage in stages]
    together = False
    while all(process.poll() is None for process in both):
        together |= {process.pid for process in both} <= writers(copy)
        time.sleep(0.01)
    assert all(map(end, both)) and together
    assert set(stages) <= locked(copy)


def test_four_at_once_wait_for_each_other_while_they_use_the_lock(copy: Path):
    stages = ["mask_truth", "baseline@patchcore-hex_nut", "finetune@perlin-hex_nut", "finetune@cutpaste-hex_nut"]
    for process in [start(copy, "dvc", "--wait-for-lock", "repro", "--single-item", stage) for stage in stages]:
        end(process)
    assert set(stages) <= locked(copy)


def test_a_stage_that_meets_what_is_being_made_is_refused_and_harms_nothing(later: Path):
    first = start(later, "dvc", "repro", "--force", "--single-item", FINETUNE)
    until_writing(later, first)
    force = ("dvc", "--wait-for-lock", "repro", "--force", "--single-item")
    others = [start(later, *force, stage) for stage in ("synth@mvp_diff-hex_nut", FINETUNE)]
    for other in others:
        output, _ = other.communicate()
        assert other.returncode == 255 and "is busy, it is being blocked by" in output
    end(first)
    assert run(later, "dvc", "status", "--quiet", FINETUNE, check=False).returncode == 0


HOLD = "import sys, dvc.repo\nwith dvc.repo.Repo('.').lock: print('held', flush=True); sys.stdin.read()"


def test_whoever_waits_for_the_lock_gets_it_and_others_give_up_after_some_seconds(copy: Path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD], cwd=copy, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"held\n"
    refused = run(copy, "dvc", "repro", "--single-item", "boxes", check=False)
    assert refused.returncode == 255 and "Unable to acquire lock" in refused.stderr
    waiting = start(copy, "dvc", "--wait-for-lock", "repro", "--single-item", "boxes")
    time.sleep(5)
    assert waiting.poll() is None
    holder.communicate()
    end(waiting)


def test_a_process_of_another_machine_is_taken_for_dead(copy: Path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (copy / ".dvc/tmp").mkdir(exist_ok=True)
    entry = {str(copy / "data/boxes"): {"pid": gone.pid, "cmd": "dvc repro"}}
    (copy / ".dvc/tmp/rwlock").write_text(json.dumps({"read": {}, "write": entry}))
    done = run(copy, "dvc", "repro", "--force", "--single-item", "boxes")
    assert "had been killed. Auto removed it" in done.stdout + done.stderr


def test_tasks_in_clones_of_their_own_bring_their_results_home(home: Path, tmp_path: Path):
    """`docs/examples/task.sh` for two stages side by side, then Slurm's script for one that needs one of them."""
    here = tmp_path / "here"
    run(tmp_path, "git", "clone", "--quiet", str(home), "here")
    tasks = [
        start(here, "sh", "docs/examples/task.sh", str(here), stage) for stage in (FINETUNE, "baseline@unet-hex_nut")
    ]
    for task in tasks:
        end(task)
    (here / "synth.txt").write_text("nothing\nsynth@mvp_diff-hex_nut\n")
    task = start(here, "sh", "docs/examples/slurm-array.sh", "synth.txt", SLURM_ARRAY_TASK_ID="2")
    assert f"Stage '{FINETUNE}' is cached" in end(task), "the task takes what the other one has pushed"
    run(here, "dvc", "pull", "--allow-missing")
    run(here, "dvc", "fetch", "--run-cache")
    output = run(here, "dvc", "repro", "--pull", "synth@mvp_diff-hex_nut", "baseline@unet-hex_nut").stdout
    for stage in (FINETUNE, "synth@mvp_diff-hex_nut", "baseline@unet-hex_nut"):
        assert f"Stage '{stage}' is cached - skipping run, checking out outputs" in output
    assert "Running stage" not in output
    assert len((here / "data/synth/mvp_diff/hex_nut/manifest.jsonl").read_text().splitlines()) == 6


def nodes(folder: Path) -> list[dict[str, str]]:
    """The configuration of the page for both nodes, at a free port; the variables that name them."""
    [text] = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        values = yaml.safe_load(text) | {"main_process_port": free.getsockname()[1]}
    for rank in (0, 1):
        (folder / f"node-{rank}.yaml").write_text(yaml.safe_dump(values | {"machine_rank": rank}))
    return [{"ACCELERATE_CONFIG_FILE": f"node-{rank}.yaml", "ACCELERATE_USE_CPU": "1"} for rank in (0, 1)]


def test_two_nodes_share_finetuning_and_synthesis(later: Path):
    item = ("--generator", "mvp_diff", "--category", "hex_nut")
    weights, made = later / "models/generators/mvp_diff/hex_nut", later / "data/synth/mvp_diff/hex_nut"
    alone = load_file(weights / "pytorch_lora_weights.safetensors")
    params = later / "params.yaml"  # one batch for each node
    params.write_text(params.read_text().replace("steps: 2\n  batch_size: 4", "steps: 2\n  batch_size: 3"))
    for stage in ("finetune", "synth"):
        first, second = nodes(later)
        other = start(later, sys.executable, "-m", "lib.launch", f"stages.{stage}", *item, **second)
        one = start(later, "dvc", "repro", "--force", "--single-item", f"{stage}@mvp_diff-hex_nut", **first)
        end(one), end(other)
    together = load_file(weights / "pytorch_lora_weights.safetensors")
    assert all(np.allclose(alone[name], together[name], atol=1e-5) for name in alone)
    assert any(not np.array_equal(alone[name], together[name]) for name in alone), "one process did it all"
    rows = [json.loads(row) for row in (made / "manifest.jsonl").read_text().splitlines()]
    assert len({row["placement"] for row in rows}) == len(rows) == 6
    assert run(later, "dvc", "status", "--quiet", "synth@mvp_diff-hex_nut", check=False).returncode == 0


def states(folder: Path) -> list[str]:
    return re.findall(r"\b(Queued|Running|Success|Failed)$", run(folder, "dvc", "queue", "status").stdout, re.M)


def test_experiments_wait_in_the_queue_and_own_pictures_come_along_when_dvc_tracks_them(copy: Path):
    queue = ("dvc", "exp", "run", "--queue")
    run(copy, *queue, "-S", "placements.per_type=3,4", "random_boxes")
    run(copy, "dvc", "exp", "run", "--run-all")
    assert states(copy) == ["Success"] * 2
    run(copy, *queue, "-S", "placements.per_type=5,6", "random_boxes")
    run(copy, "dvc", "queue", "start", "--jobs", "2")
    until = time.monotonic() + 120
    while states(copy) != ["Success"] * 4:
        assert time.monotonic() < until, run(copy, "dvc", "queue", "status").stdout
        time.sleep(3)  # less often than it takes to ask
    shutil.copytree(copy / "data/workpieces/hex_nut", copy / "data/mydata/bracket")
    own = ("-S", "dataset.path=data/mydata", "-S", "dataset.categories=[bracket]", "prepare")
    run(copy, *queue, *own)
    assert run(copy, "dvc", "exp", "run", "--run-all").returncode == 0, "DVC says nothing of failures"
    assert sorted(states(copy)) == ["Failed"] + ["Success"] * 4
    run(copy, "dvc", "add", "data/mydata")
    run(copy, "git", "add", "data/mydata.dvc")
    assert run(copy, "git", "status", "--porcelain").stdout == "A  data/mydata.dvc\n"
    run(copy, "git", "commit", "--quiet", "--message", "own pictures")
    run(copy, *queue, *own)
    run(copy, "dvc", "exp", "run", "--run-all")
    assert sorted(states(copy)) == ["Failed"] + ["Success"] * 5
