"""The whole chain, in small, under real DVC in temporary clones: what people do with it, and what they rely on."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lib.core.params import methods
from lib.dataset.workpieces import STATIONS
from tests.conftest import ROOT

resource = pytest.importorskip("resource", reason="processor time of children is measured by POSIX alone")

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
MICRO = {
    "workpieces": {"train_good": 4, "test_good": 2, "per_defect": 6},
    "dataset": {"categories": ["hex_nut"]},
    "placements": {"per_type": 2},
    "base": {"model": "tiny"},
    "finetune": {"steps": 4, "warmup_steps": 1, "checkpoint_every": 2, "batch_size": 2},
    "mvp_diff": {"variants": 1},
    "synth": {"steps": 2, "batch_size": 4},
    "detect": {"seeds": [0, 1], "steps": 4, "batch_size": 2, "validate_every": 2, "window": 64},
    "patchcore": {"coreset": 50},
    "rtdetr": {"width": 16, "queries": 8, "steps": 2},
}
GENERATORS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["generators"]


def environment() -> dict[str, str]:
    """Ours before everything else on the path, one thread for each process, no network, a name for commits."""
    names = {f"GIT_{who}_{what}": "test@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return {
        **os.environ,
        **names,
        "PATH": path,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "DVC_NO_ANALYTICS": "1",
    }


def run(folder: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess:
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def clone(folder: Path, tiny_base: Path) -> Path:
    """The working tree as Git would commit it, with the micro configuration and a tiny random base."""
    listed = run(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard").stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file() and name != "dvc.lock" and not name.startswith("metrics/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    shutil.copytree(tiny_base, folder / "tiny")
    params = yaml.safe_load((folder / "params.yaml").read_text())
    for section, values in MICRO.items():
        params[section].update(values)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    run(folder, "git", "init", "--quiet")
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", "micro")
    return folder


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> tuple[Path, Path]:
    """Two clones in which `dvc repro` ran to its end, side by side."""
    folders = [clone(tmp_path_factory.mktemp(name), tiny_base) for name in ("first", "second")]
    runs = [
        subprocess.Popen(
            ["dvc", "repro"], cwd=f, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for f in folders
    ]
    for process in runs:
        output, _ = process.communicate()
        assert process.returncode == 0, output[-4000:]
    run(folders[0], "git", "add", "--all")
    run(folders[0], "git", "commit", "--quiet", "--message", "results")
    return folders[0], folders[1]


def test_two_runs_in_two_folders_give_the_same_lock(chains: tuple[Path, Path]):
    first, second = ((folder / "dvc.lock").read_text() for folder in chains)
    assert first == second


def seconds_of_computing(folder: Path, *command: str) -> tuple[float, str]:
    """Processor time, which a busy machine stretches less than it stretches the clock's, and what is printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output = run(folder, *command).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, output


def test_a_second_repro_does_nothing_and_is_quick(chains: tuple[Path, Path], tmp_path: Path):
    idle, output = seconds_of_computing(chains[0], "dvc", "repro")
    assert "Running stage" not in output and "up to date" in output
    run(tmp_path, "git", "init", "--quiet")
    run(tmp_path, "dvc", "init", "--quiet")
    bare, _ = seconds_of_computing(tmp_path, "dvc", "status")
    assert idle < 6 * bare, "measured: 4 times DVC's own start for these stages, which no machine changes much"


def test_nothing_that_the_pipeline_leaves_behind_is_unknown_to_git(chains: tuple[Path, Path]):
    assert run(chains[0], "git", "status", "--porcelain").stdout == ""
    ignoring = run(chains[0], "git", "ls-files", "*.gitignore").stdout.split()
    assert ignoring == [".dvc/.gitignore", ".gitignore"], "DVC has added its own where ours forgets an output"


def test_the_report_has_every_arm_and_the_summary_is_what_metrics_show(chains: tuple[Path, Path]):
    report = (chains[0] / "metrics/report/report.md").read_text()
    assert all(f"| {arm} " in report for arm in ("none", "placebo", *GENERATORS))
    assert "measured" in report and "cosine_rgb_otsu" in report
    summary = json.loads((chains[0] / "metrics/summary.json").read_text())
    assert set(summary["unet"]) == {"none", "placebo", *GENERATORS}
    assert set(summary["patchcore"]) == {"none", "placebo"}, "what learns from good pictures is trained once"
    assert "pixel_ap" in run(chains[0], "dvc", "metrics", "show").stdout


def test_no_pixel_outside_of_the_boxes_has_changed(chains: tuple[Path, Path]):
    for generator in GENERATORS:
        numbers = json.loads((chains[0] / f"metrics/masks/{generator}.json").read_text())["hex_nut"]
        assert numbers["samples"] == 6 and numbers["pixels_changed_outside"] == 0


def test_every_synthetic_sample_can_be_traced_to_its_source(chains: tuple[Path, Path]):
    samples = {
        row["id"]: row
        for row in map(json.loads, (chains[0] / "data/prepared/hex_nut/samples.jsonl").read_text().splitlines())
    }
    rows = [json.loads(r) for r in (chains[0] / "data/masks/mvp_diff/hex_nut/manifest.jsonl").read_text().splitlines()]
    for row in rows:
        assert samples[row["normal"]]["split"] == "train" and samples[row["normal"]]["defect_type"] == "good"
        assert row["model"].startswith("tiny@") and row["knobs"]["guidance_scale"] == 4.5
        assert (chains[0] / row["image"]).is_file() and (chains[0] / row["mask"]).is_file()


def test_one_knob_of_synth_reruns_synth_and_what_follows_and_nothing_before(chains: tuple[Path, Path]):
    output = run(chains[0], "dvc", "exp", "run", "-S", "synth.guidance_scale=5").stdout
    reran = set(re.findall(r"Running stage '(\w+)", output))
    assert {"synth", "masks"} <= reran
    assert reran <= {"synth", "masks", "fidelity", "detect", "evaluate", "report"}
    difference = run(chains[0], "dvc", "params", "diff", "HEAD").stdout
    assert "synth.guidance_scale" in difference
    assert run(chains[0], "dvc", "metrics", "diff", "HEAD").returncode == 0
    page = run(chains[0], "dvc", "plots", "show").stdout.strip().splitlines()[-1]
    assert page.endswith("index.html")


def test_going_back_after_an_experiment_restores_params_and_results(chains: tuple[Path, Path]):
    run(chains[0], "sh", "-c", "git checkout . && dvc checkout")
    assert "guidance_scale: 4.5" in (chains[0] / "params.yaml").read_text()
    assert "Running stage" not in run(chains[0], "dvc", "repro").stdout
    assert run(chains[0], "git", "status", "--porcelain").stdout == ""


def test_own_pictures_are_read_by_the_command_of_the_readme(chains: tuple[Path, Path]):
    folder = chains[1]
    shutil.copytree(folder / "data/workpieces/hex_nut", folder / "data/mydata/bracket")
    run(folder, "git", "add", "dvc.lock", "metrics")
    run(folder, "git", "commit", "--quiet", "--message", "results")
    run(folder, "sh", "-c", "dvc exp run -S dataset.path=data/mydata -S 'dataset.categories=[bracket]' prepare")
    assert (folder / "data/prepared/bracket/samples.jsonl").is_file()
    output = run(folder, "dvc", "repro", "report").stdout
    assert "report" in output and "workpieces" not in output, "the demonstration is not rendered"
    assert "| bracket" in run(folder, "cat", "metrics/report/report.md").stdout
    committed = run(folder, "sh", "-c", "git for-each-ref --format='%(refname)' refs/exps | xargs -n1 git ls-tree -r")
    assert "params.yaml" in committed.stdout and "mydata" not in committed.stdout, "own pictures stay out of Git"
    run(folder, "sh", "-c", "git checkout params.yaml")
    assert "bracket" not in (folder / "params.yaml").read_text()
    run(folder, "sh", "-c", "git checkout . && dvc checkout")


def test_new_pictures_are_searched_by_the_command_of_the_readme(chains: tuple[Path, Path]):
    folder = chains[1]
    shutil.copytree(
        folder / "models/detectors/unet/hex_nut", folder / "models/detectors/unet/bracket", dirs_exist_ok=True
    )
    shutil.copytree(folder / "data/workpieces/hex_nut/test/crack", folder / "data/new")
    command = "python -m lib.predict models/detectors/unet/bracket/none/seed-0 data/new --out data/found"
    run(folder, "sh", "-c", command)
    assert len((folder / "data/found/scores.csv").read_text().splitlines()) == 7
    assert len(list((folder / "data/found").glob("*_mask.png"))) == 6
    run(folder, "sh", "-c", "python -m lib.exchange models/detectors/unet/bracket/none/seed-0")
    by_torch = (folder / "data/found/scores.csv").read_text().splitlines()
    run(folder, "sh", "-c", f"{command} --runtime onnx")
    by_onnx = (folder / "data/found/scores.csv").read_text().splitlines()
    for ours, theirs in zip(by_onnx[1:], by_torch[1:], strict=True):
        assert abs(float(ours.split(",")[1]) - float(theirs.split(",")[1])) < 1e-4
    refused = run(folder, "sh", "-c", command.replace("seed-0", "seed-9"), check=False)
    assert refused.returncode == 2 and "holds no trained detector" in refused.stderr
    shutil.rmtree(folder / "models/detectors/unet/bracket")


def test_a_knob_that_does_not_exist_is_refused(chains: tuple[Path, Path]):
    assert run(chains[1], "dvc", "exp", "run", "-S", "synth.guidance=5", check=False).returncode != 0


def test_a_value_that_cannot_be_is_refused_with_its_key(chains: tuple[Path, Path]):
    done = run(chains[1], "dvc", "repro", "--dry", check=False)
    assert done.returncode == 0
    params = (chains[1] / "params.yaml").read_text()
    (chains[1] / "params.yaml").write_text(params.replace("strength: 1.0", "strength: 7"))
    done = run(chains[1], "dvc", "repro", check=False)
    (chains[1] / "params.yaml").write_text(params)
    assert done.returncode != 0 and "synth.strength" in done.stdout + done.stderr


REPLACED = ["workpieces/hex_nut", "prepared", "descriptions", "boxes", "placements"]


@pytest.mark.parametrize("name", REPLACED)
def test_a_folder_that_holds_somebody_s_files_is_not_deleted(chains: tuple[Path, Path], name: str):
    folder = chains[1]
    stages = {"workpieces/hex_nut": "workpieces", "prepared": "prepare", "descriptions": "describe"}
    own = folder / "data" / name / "bracket" / "train" / "good" / "mine.png"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    stage = stages.get(name, name.replace("placements", "random_boxes"))
    done = run(folder, "dvc", "repro", stage, check=False)
    assert done.returncode != 0 and "bracket/train/good/mine.png" in done.stdout + done.stderr
    assert own.read_bytes() == b"mine"
    shutil.rmtree(folder / "data" / name / "bracket")
    assert run(folder, "dvc", "status", "--quiet", stage, check=False).returncode == 0, "nothing else was changed"


def test_products_beside_the_embedded_ones_outlive_every_command(chains: tuple[Path, Path]):
    folder, own = chains[1], chains[1] / "data/workpieces/bracket/train/good/mine.png"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    run(folder, "dvc", "exp", "run", "-S", "workpieces.test_good=3", "--single-item", "workpieces")
    run(folder, "dvc", "repro", "--force", "--single-item", "workpieces")
    run(folder, "git", "checkout", "params.yaml")
    run(folder, "dvc", "repro", "--single-item", "workpieces")
    run(folder, "dvc", "checkout", "workpieces")
    assert own.read_bytes() == b"mine"
    shutil.rmtree(folder / "data/workpieces/bracket")
    assert run(folder, "dvc", "status", "--quiet", "workpieces", check=False).returncode == 0


def test_somebody_s_files_in_other_folders_go_as_the_page_of_data_says(chains: tuple[Path, Path]):
    folder, names = chains[1], ("data/placements/mine.txt", "metrics/report/mine.txt", "metrics/masks/mine.txt")

    def left() -> set[str]:
        return {name for name in names if (folder / name).is_file()}

    for name in names:
        (folder / name).write_text("mine")
    run(folder, "dvc", "exp", "run", "--temp", "-S", "workpieces.test_good=3", "--single-item", "workpieces")
    assert run(folder, "dvc", "checkout", check=False).returncode != 0 and left() == set(names)
    run(folder, "dvc", "exp", "run", "-S", "placements.jitter=0.2", "random_boxes")
    assert left() == set(names[1:]), "what the target does not need is not looked at"
    run(folder, "git", "checkout", "params.yaml")
    run(folder, "dvc", "repro", "report")
    assert left() == {"metrics/masks/mine.txt"}
    (folder / "metrics/masks/mine.txt").unlink()


def test_every_folder_of_pictures_that_dvc_would_delete_is_left_to_its_stage():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    kept = [name for stage in stages.values() for out in stage["outs"] if isinstance(out, dict) for name in out]
    assert {name for name in kept if name.startswith("data/")} >= {f"data/{name}" for name in REPLACED}
    rendered = {stages["workpieces"]["outs"][n].popitem()[0] for n in range(3)}
    assert rendered == {f"data/workpieces/{name}" for name in STATIONS}


TINY = {
    "generators": list(methods("generators")),
    "detectors": list(methods("detectors")),
    "placements": {"per_type": 1},
    "detect": {"seeds": [0], "on_synthetic": ["pagmfr"], "steps": 2, "batch_size": 4, "validate_every": 2},
    "defectfill": {"variants": 1, "candidates": 1},
    "defect_gen": {"wide_width": 8, "narrow_width": 8, "train_steps": 2, "variants": 1},
    "dmgr": {"global_width": 8, "local_width": 8, "global_steps": 2, "local_steps": 2, "levels": 3, "good_windows": 1},
    "rgpkd": {"width": 8, "bank": 4},
    "pagmfr": {"width": 8},
    "rtdetr": {"width": 16, "queries": 5, "steps": 2},
}


def test_every_generator_and_every_detector_reach_the_report(tmp_path: Path, tiny_base: Path):
    folder = clone(tmp_path, tiny_base)
    run(folder, sys.executable, "-m", "lib.preset", "all-generators", "all-detectors")
    params = yaml.safe_load((folder / "params.yaml").read_text())
    assert set(params["generators"]) == set(TINY["generators"])
    for key, values in TINY.items():
        params[key] = values if isinstance(values, list) else params[key] | values
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    run(folder, "dvc", "repro")
    summary = json.loads((folder / "metrics/summary.json").read_text())
    for detector in methods("detectors"):
        arms = TINY["generators"] if detector == "pagmfr" else []
        assert set(summary[detector]) == {"none", "placebo", *arms}
    for generator in methods("generators"):
        numbers = json.loads((folder / f"metrics/masks/{generator}.json").read_text())["hex_nut"]
        assert numbers["samples"] == 3 and numbers["pixels_changed_outside"] == 0
    assert (folder / "metrics/fidelity/hex_nut.png").is_file()


def test_bad_data_is_refused_in_one_list_and_nothing_is_written(chains: tuple[Path, Path]):
    folder = chains[1] / "bad" / "hex_nut"
    shutil.copytree(chains[1] / "data/workpieces/hex_nut", folder)
    (folder / "train/good/000.png").write_bytes(b"")
    (folder / "ground_truth/crack/000_mask.png").unlink()
    params = (chains[1] / "params.yaml").read_text()
    (chains[1] / "params.yaml").write_text(params.replace("path: data/workpieces", "path: bad"))
    before = (chains[1] / "data/prepared/hex_nut/samples.jsonl").read_bytes()
    done = run(chains[1], sys.executable, "-m", "stages.prepare", check=False)
    (chains[1] / "params.yaml").write_text(params)
    assert done.returncode == 2
    assert "train/good/000.png" in done.stderr and "crack/000" in done.stderr
    assert (chains[1] / "data/prepared/hex_nut/samples.jsonl").read_bytes() == before
