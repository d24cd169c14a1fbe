"""Every method there is, in small, under real DVC, on pictures of somebody's own, as the README has them read."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from lib.core.params import methods
from tests.test_chain import clone, run

pytestmark = pytest.mark.slow

TINY = {
    "generators": list(methods("generators")),
    "detectors": list(methods("detectors")),
    "placements": {"per_type": 1},
    "detect": {"seeds": [0], "on_synthetic": ["pagmfr"], "steps": 2, "batch_size": 4, "validate_every": 2},
    "defectfill": {"variants": 1, "candidates": 1},
    "defect_gen": {"wide_width": 8, "narrow_width": 8, "train_steps": 2, "variants": 1},
    "dmgr": {"global_width": 8, "local_width": 8, "global_steps": 2, "local_steps": 2, "levels": 3, "good_windows": 1},
    "rgpkd": {"width": 8, "bank": 4},
    "pagmfr": {"width": 8, "steps": 2},
    "rtdetr": {"width": 16, "queries": 5, "steps": 2},
}


def test_every_generator_and_every_detector_reach_the_report_of_own_pictures(tmp_path: Path, tiny_base: Path):
    folder = clone(tmp_path, tiny_base)
    run(folder, sys.executable, "-m", "lib.preset", "all-generators", "all-detectors")
    params = yaml.safe_load((folder / "params.yaml").read_text())
    assert set(params["generators"]) == set(TINY["generators"])
    for key, values in TINY.items():
        params[key] = values if isinstance(values, list) else params[key] | values
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    run(folder, "git", "commit", "--quiet", "--all", "--message", "all methods")
    run(folder, sys.executable, "-m", "stages.workpieces")
    (folder / "data/mydata").mkdir()
    (folder / "data/workpieces/hex_nut").rename(folder / "data/mydata/bracket")

    run(folder, "sh", "-c", "dvc exp run -S dataset.path=data/mydata -S 'dataset.categories=[bracket]' prepare")
    assert (folder / "data/prepared/bracket/samples.jsonl").is_file()
    output = run(folder, "dvc", "repro", "report").stdout
    assert "report" in output and "workpieces" not in output, "the demonstration is not rendered"
    assert "| bracket" in run(folder, "cat", "metrics/report/report.md").stdout
    summary = json.loads((folder / "metrics/summary.json").read_text())
    for detector in methods("detectors"):
        arms = TINY["generators"] if detector == "pagmfr" else []
        assert set(summary[detector]) == {"none", "placebo", *arms}
    for generator in methods("generators"):
        numbers = json.loads((folder / f"metrics/masks/{generator}.json").read_text())["bracket"]
        assert numbers["samples"] == 3 and numbers["pixels_changed_outside"] == 0
    assert (folder / "metrics/fidelity/bracket.png").is_file()

    committed = run(folder, "sh", "-c", "git for-each-ref --format='%(refname)' refs/exps | xargs -n1 git ls-tree -r")
    assert "params.yaml" in committed.stdout and "mydata" not in committed.stdout, "own pictures stay out of Git"
    run(folder, "sh", "-c", "git checkout params.yaml")
    assert "bracket" not in (folder / "params.yaml").read_text()
