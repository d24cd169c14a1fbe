"""The whole chain, in small, under real DVC in temporary clones: what people do with it, and what they rely on."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lib.core.forms import REQUESTS, REVIEW
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
GENERATORS = yaml.safe_load((ROOT / "presets/try.yaml").read_text(encoding="utf-8"))["generators"]


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
        "PYTHONDONTWRITEBYTECODE": "",  # the stages of a clone share what Python has compiled
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
def chain(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A clone in which `dvc repro` ran to its end, and whose results are committed."""
    folder = clone(tmp_path_factory.mktemp("chain"), tiny_base)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    (folder / "params.yaml").write_text(yaml.safe_dump(params | {"generators": GENERATORS}, sort_keys=False))
    run(folder, "dvc", "repro")
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", "results")
    return folder


def contents(folder: Path) -> dict[str, str]:
    """A digest of every file, but those of tries and of Git's and Python's own bookkeeping."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    own = {name: path for name, path in files.items() if name.parts[0] not in (".work", ".git")}
    return {
        name.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in own.items()
        if "__pycache__" not in name.parts
    }


def locked(folder: Path) -> dict[str, dict]:
    """What `dvc.lock` says of all stages, but for the folders of people's tables, of which a try has its own."""
    stages = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    tables = [form.path.parent.as_posix() for form in (REVIEW, REQUESTS)]
    return {
        name: stage | {"deps": [dep for dep in stage.get("deps", []) if dep["path"] not in tables]}
        for name, stage in stages.items()
    }


def test_a_try_leaves_the_user_s_as_it_is_and_gives_what_the_same_settings_give_in_another_folder(
    chain: Path, tmp_path: Path, tiny_base: Path
):
    """`make try` and `dvc repro` run all stages, with the same settings, in two folders: so their locks are equal."""
    project = clone(tmp_path, tiny_base)
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["dataset"]["path"] = "data/mine"  # of which the try wants nothing
    (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    small = {section: values for section, values in MICRO.items() if section not in ("dataset", "rtdetr")}
    for name, values in {"fast": small, "try": {"base": MICRO["base"]}}.items():
        preset = project / f"presets/{name}.yaml"
        knobs = yaml.safe_load(preset.read_text())
        for section, more in values.items():
            knobs[section] = {**knobs.get(section, {}), **more}
        if name == "try":
            knobs["workpieces"] = MICRO["workpieces"]
        preset.write_text("# small\n" + yaml.safe_dump(knobs))
    for name in ("dvc.lock", "data/mine/a.png", "metrics/summary.json", "models/detectors/mine"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("the user's own" if name != "dvc.lock" else "schema: '2.0'\nstages: {}\n")
    run(project, "git", "add", "--force", "tiny")
    before, status = contents(project), run(project, "git", "status", "--porcelain").stdout

    done = run(project, "python", "-m", "lib.trial")
    page = Path(project, done.stdout.rsplit(": ", 1)[1].strip())
    assert page.is_file() and page.name == "index.html" and page.is_relative_to(project / ".work/try")
    assert "stage 1 of" in done.stderr and "| mvp_diff " in done.stdout
    assert contents(project) == before
    assert run(project, "git", "status", "--porcelain").stdout == status
    [one] = (project / ".work/try").iterdir()
    assert yaml.safe_load((one / "params.yaml").read_text())["dataset"]["categories"] == ["hex_nut"]
    assert locked(one) == locked(chain) and len(locked(chain)) > 15

    again = run(project, "python", "-m", "lib.trial")
    assert "Running stage" not in again.stdout, "what is done and has not changed is not done again"
    (project / "lib/plots.py").write_text((project / "lib/plots.py").read_text() + "\n# changed\n")
    (project / "stages/workpieces.py").write_text("raise SystemExit(3)\n")
    assert run(project, "python", "-m", "lib.trial", check=False).returncode == 255
    [other] = (project / ".work/try").iterdir()
    assert other != one, "what has changed begins another one"


def seconds_of_computing(folder: Path, *command: str) -> tuple[float, str]:
    """Processor time, which a busy machine stretches less than it stretches the clock's, and what is printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output = run(folder, *command).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, output


def test_a_second_repro_does_nothing_and_is_quick(chain: Path, tmp_path: Path):
    idle, output = seconds_of_computing(chain, "dvc", "repro")
    assert "Running stage" not in output and "up to date" in output
    run(tmp_path, "git", "init", "--quiet")
    run(tmp_path, "dvc", "init", "--quiet")
    bare, _ = seconds_of_computing(tmp_path, "dvc", "status")
    assert idle < 6 * bare, "measured: 4 times DVC's own start for these stages, which no machine changes much"


def test_nothing_that_the_pipeline_leaves_behind_is_unknown_to_git(chain: Path):
    assert run(chain, "git", "status", "--porcelain").stdout == ""
    ignoring = run(chain, "git", "ls-files", "*.gitignore").stdout.split()
    assert ignoring == [".dvc/.gitignore", ".gitignore"], "DVC has added its own where ours forgets an output"


def test_the_report_has_every_arm_and_the_summary_is_what_metrics_show(chain: Path):
    report = (chain / "metrics/report/report.md").read_text()
    assert all(f"| {arm} " in report for arm in ("none", "placebo", *GENERATORS))
    assert "measured" in report and "cosine_rgb_otsu" in report
    summary = json.loads((chain / "metrics/summary.json").read_text())
    assert set(summary["unet"]) == {"none", "placebo", *GENERATORS}
    assert set(summary["patchcore"]) == {"none", "placebo"}, "what learns from good pictures is trained once"
    assert "pixel_ap" in run(chain, "dvc", "metrics", "show").stdout


def test_no_pixel_outside_of_the_boxes_has_changed(chain: Path):
    for generator in GENERATORS:
        numbers = json.loads((chain / f"metrics/masks/{generator}.json").read_text())["hex_nut"]
        assert numbers["samples"] == 6 and numbers["pixels_changed_outside"] == 0


def test_every_synthetic_sample_can_be_traced_to_its_source(chain: Path):
    samples = {
        row["id"]: row
        for row in map(json.loads, (chain / "data/prepared/hex_nut/samples.jsonl").read_text().splitlines())
    }
    rows = [json.loads(r) for r in (chain / "data/masks/mvp_diff/hex_nut/manifest.jsonl").read_text().splitlines()]
    for row in rows:
        assert samples[row["normal"]]["split"] == "train" and samples[row["normal"]]["defect_type"] == "good"
        assert row["model"].startswith("tiny@") and row["knobs"]["guidance_scale"] == 4.5
        assert (chain / row["image"]).is_file() and (chain / row["mask"]).is_file()


def test_one_knob_of_synth_reruns_synth_and_what_follows_and_nothing_before(chain: Path):
    output = run(chain, "dvc", "exp", "run", "-S", "synth.guidance_scale=5").stdout
    reran = set(re.findall(r"Running stage '(\w+)", output))
    assert {"synth", "masks"} <= reran
    assert reran <= {"synth", "masks", "fidelity", "detect", "evaluate", "report"}
    difference = run(chain, "dvc", "params", "diff", "HEAD").stdout
    assert "synth.guidance_scale" in difference
    assert run(chain, "dvc", "metrics", "diff", "HEAD").returncode == 0
    page = run(chain, "dvc", "plots", "show").stdout.strip().splitlines()[-1]
    assert page.endswith("index.html")
    drawn = json.loads(run(chain, "dvc", "plots", "show", "--json").stdout)
    assert not drawn.get("errors") and "unet" in json.dumps(drawn["data"]["metrics/plots/arms.csv"])
    files = {Path(name).name for name in drawn["data"]}
    assert {"mvp_diff-hex_nut.csv", "training.png", "alarms.png", "pixel_ap.png"} <= files, "curves and pictures"


def test_a_fresh_clone_reads_own_pictures_though_it_has_none_of_the_results_that_the_lock_names(chain: Path, tmp_path):
    run(tmp_path, "git", "clone", "--quiet", str(chain), "other")
    other = tmp_path / "other"
    assert "metrics/report" in (other / "dvc.lock").read_text() and not (other / "metrics/report").exists()
    shutil.copytree(chain / "data/workpieces/hex_nut", other / "data/mydata/bracket")
    run(other, "sh", "-c", "dvc exp run -S dataset.path=data/mydata -S 'dataset.categories=[bracket]' prepare")
    assert (other / "data/prepared/bracket/samples.jsonl").is_file()


def test_going_back_after_an_experiment_restores_params_and_results(chain: Path):
    run(chain, "sh", "-c", "git checkout . && dvc checkout")
    assert "guidance_scale: 4.5" in (chain / "params.yaml").read_text()
    assert "Running stage" not in run(chain, "dvc", "repro").stdout
    assert run(chain, "git", "status", "--porcelain").stdout == ""


def test_new_pictures_are_searched_by_the_command_of_the_readme(chain: Path):
    folder = chain
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


def test_a_knob_that_does_not_exist_is_refused(chain: Path):
    assert run(chain, "dvc", "exp", "run", "-S", "synth.guidance=5", check=False).returncode != 0


def test_a_value_that_cannot_be_is_refused_with_its_key(chain: Path):
    done = run(chain, "dvc", "repro", "--dry", check=False)
    assert done.returncode == 0
    params = (chain / "params.yaml").read_text()
    (chain / "params.yaml").write_text(params.replace("strength: 1.0", "strength: 7"))
    done = run(chain, "dvc", "repro", check=False)
    (chain / "params.yaml").write_text(params)
    assert done.returncode != 0 and "synth.strength" in done.stdout + done.stderr


REPLACED = ["workpieces/hex_nut", "prepared", "descriptions", "boxes", "placements"]


def test_a_folder_that_holds_somebody_s_files_is_not_deleted(chain: Path):
    """By DVC, which leaves what `persist`s to the stage (see below), nor by the stages, which refuse."""
    stages = {"workpieces/hex_nut": "workpieces", "prepared": "prepare", "descriptions": "describe"}
    stages = {name: stages.get(name, name.replace("placements", "random_boxes")) for name in REPLACED}
    for name, stage in stages.items():
        own = chain / "data" / name / "bracket" / "train" / "good" / "mine.png"
        own.parent.mkdir(parents=True)
        own.write_bytes(b"mine")
        command = ("dvc", "repro", stage) if stage == "prepare" else (sys.executable, "-m", f"stages.{stage}")
        done = run(chain, *command, check=False)
        assert done.returncode != 0 and "bracket/train/good/mine.png" in done.stdout + done.stderr
        assert own.read_bytes() == b"mine"
        shutil.rmtree(chain / "data" / name / "bracket")
    left = run(chain, "dvc", "status", "--quiet", *stages.values(), check=False)
    assert left.returncode == 0, "nothing else was changed"


def test_products_beside_the_embedded_ones_outlive_every_command(chain: Path):
    folder, own = chain, chain / "data/workpieces/bracket/train/good/mine.png"
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


def test_somebody_s_files_in_other_folders_go_as_the_page_of_data_says(chain: Path):
    folder, names = chain, ("data/placements/mine.txt", "metrics/report/mine.txt", "metrics/masks/mine.txt")

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


def test_bad_data_is_refused_in_one_list_and_nothing_is_written(chain: Path):
    folder = chain / "bad" / "hex_nut"
    shutil.copytree(chain / "data/workpieces/hex_nut", folder)
    (folder / "train/good/000.png").write_bytes(b"")
    (folder / "ground_truth/crack/000_mask.png").unlink()
    params = (chain / "params.yaml").read_text()
    (chain / "params.yaml").write_text(params.replace("path: data/workpieces", "path: bad"))
    before = (chain / "data/prepared/hex_nut/samples.jsonl").read_bytes()
    done = run(chain, sys.executable, "-m", "stages.prepare", check=False)
    (chain / "params.yaml").write_text(params)
    assert done.returncode == 2
    assert "train/good/000.png" in done.stderr and "crack/000" in done.stderr
    assert (chain / "data/prepared/hex_nut/samples.jsonl").read_bytes() == before
