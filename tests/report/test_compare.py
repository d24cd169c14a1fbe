"""Two runs side by side: what was changed and what it did, from Git and DVC's cache, with nothing checked out."""

import hashlib
import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from lib.core.errors import UserError
from lib.metrics.intervals import chance_difference
from lib.report import runs
from lib.report.before_after import moved, outcomes, verdict_of
from lib.report.compare import changed_code, changed_params, compared, headline, stale
from lib.report.runs import Run, find_run
from lib.report.scores import COLUMNS
from tests.commands import run_here
from tests.conftest import ROOT
from tests.test_chain import BIN, run

EVIL = "faint <b>and</b> <script>alert(1)</script>"
# A pipeline of one stage that leaves what the page reads; `k` moves all of it.
STAGE = f"""
import json, sys, yaml
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
import numpy as np
from lib.core.images import write_png
from lib.core.records import Sample, write_records
k = yaml.safe_load(open("params.yaml"))["synth"]["k"]
pixels = lambda seed: np.random.default_rng(seed).integers(0, 255, (48, 48, 3), dtype=np.uint8)
good = write_png(Path("data/mine/good.png"), pixels(0))
sample = Sample("good-0", "slab", "good", "data/mine/good.png", None, "g", "train", (48, 48), good)
write_records(Path("data/prepared/slab/samples.jsonl"), [sample])
records = []
for number in range(5):
    name = f"slab-dent-{{number:05d}}"
    image, mask = Path(f"data/synth/perlin/slab/{{name}}.png"), Path(f"data/masks/perlin/slab/masks/{{name}}.png")
    box = [10, 12, 26 + k * (number == 3), 22]
    label = np.zeros((48, 48), bool)
    label[box[1] : box[3], box[0] : box[2]] = True
    accepted = number != k
    records.append(dict(
        placement=name, generator="perlin", category="slab", defect_type="dent", normal="good-0", box=box,
        image=image.as_posix(), sha256=write_png(image, pixels(number + 10 * k * (number < 4))),
        mask=mask.as_posix(), mask_sha256=write_png(mask, label), accepted=accepted,
        reason=None if accepted else {EVIL!r},
    ))
Path("data/masks/perlin/slab/manifest.jsonl").write_text("".join(json.dumps(r) + "\\n" for r in records))
metrics = [{list(COLUMNS)!r}, [0.5, 0.6, 0.7]]
arms = {{"none": 0.0, "placebo": 0.02, "perlin": 0.3 * k}}
seeds = lambda by: {{str(n): {{metric: value + by for metric in metrics[0]}} for n, value in enumerate(metrics[1])}}
arms = {{arm: {{"seeds": seeds(by)}} for arm, by in arms.items()}}
Path("metrics/detection").mkdir(parents=True, exist_ok=True)
Path("metrics/detection/unet.json").write_text(json.dumps({{"slab": arms}}))
"""
PARAMS = """
dataset:
  categories:
  - slab
generators:
- perlin
detectors:
- unet
window:
  context: 1.3
  min_side: 16
synth:
  k: 0
"""
PIPELINE = """
stages:
  make:
    cmd: python lib/make.py
    deps:
    - lib/make.py
    params:
    - synth.k
    outs:
    - data/prepared
    - data/synth
    - data/masks
    - metrics/detection/unet.json:
        cache: false
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real repository: a commit `first`, a second one with other code, an experiment `more` with `synth.k=1`."""
    folder = tmp_path_factory.mktemp("project")
    run(folder, "git", "init", "--quiet", "--initial-branch=main")
    run(folder, "dvc", "init", "--quiet")
    for name, text in (("params.yaml", PARAMS), ("dvc.yaml", PIPELINE), ("lib/make.py", STAGE)):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / ".gitignore").write_text("/data/\n/page.html\n/metrics/compare/\n*.pyc\n")
    for message in ("first", "second"):
        run(folder, "dvc", "repro")
        run(folder, "git", "add", "--all")
        run(folder, "git", "commit", "--quiet", "--message", message)
        run(folder, "git", "tag", message)
        (folder / "lib/make.py").write_text(STAGE + "# another version\n")
    run(folder, "git", "checkout", "--quiet", ".")
    run(folder, "dvc", "repro")
    run(folder, "dvc", "exp", "run", "--name", "more", "--set-param", "synth.k=1")
    return folder


def compare(folder: Path, *names: str, check: bool = True) -> subprocess.CompletedProcess:
    for known in (runs._listing, runs._cache):  # a process of its own would know nothing either
        known.cache_clear()
    done = run_here(folder, "lib.report.compare", "--out", "page.html", *names)
    assert not check or done.returncode == 0, done.stderr
    return done


class Text(HTMLParser):
    """What is shown of a page, its tags, and what they load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for key, value in attrs if key in ("src", "href") and value]

    def handle_data(self, data):
        if self.tags and self.tags[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.mark.slow
def test_an_experiment_against_a_tag(project: Path):
    compare(project, "first", "more")
    page = (project / "page.html").read_text()
    shown = Text(page)
    assert "what placebo differed by from none in each run" in shown.text and "older than" not in shown.text
    assert "synth.k 0 1" in shown.text
    assert "1 → 0 → 1" not in shown.text
    assert "4 of 5" not in shown.text
    # Placement 0 is accepted now, 1 is no longer, 2 has another picture, 3 another box, 4 is the same.
    assert "5 4 1 0 1 1 4 1 0 0" in shown.text
    assert "4 placements of both runs differ in picture, mask or verdict, 1 do not." in shown.text
    order = [shown.text.index(f"slab-dent-0000{number} by perlin") for number in (0, 1, 2, 3)]
    assert order == sorted(order) and "slab-dent-00004 by perlin" not in shown.text
    assert "slab-dent-00003 by perlin accepted, another request of the same name" in shown.text
    assert EVIL in shown.text and "script" not in shown.tags
    images = [one for one in shown.loads if one.startswith("data:image/webp")]
    assert len(images) == 3 * 3 + 4  # good, before and after; the good picture twice where the request is another one
    assert all(one.startswith(("data:", "#")) for one in shown.loads)
    # perlin rose by 0.3 where the spread over seeds is 0.1: beyond; none and placebo did not move.
    assert "unet pixel AP perlin 0.500 ± 0.100" not in shown.text
    assert "unet pixel AP perlin 0.600 ± 0.100 0.900 ± 0.100 +0.300 [+0.300, +0.300]" in shown.text
    assert f"{len(COLUMNS)} of {len(COLUMNS)} differences lie beyond" in shown.text
    assert f"{2 * len(COLUMNS)} numbers are equal" in shown.text
    compare(project, "first", "more")
    assert (project / "page.html").read_text() == page


@pytest.mark.slow
def test_the_workspace_is_the_second_run_unless_another_is_named(project: Path):
    compare(project, "second")  # the experiment was applied to the workspace
    shown = Text((project / "page.html").read_text())
    assert "second and workspace" in shown.text and "synth.k 0 1" in shown.text
    compare(project, "more", "workspace")
    shown = Text((project / "page.html").read_text())
    assert "0 placements of both runs differ in picture, mask or verdict, 5 do not." in shown.text


@pytest.mark.slow
def test_pictures_that_the_cache_lost_are_told_and_the_page_goes_on(project: Path, tmp_path: Path):
    folder = tmp_path / "copy"
    shutil.copytree(project, folder, symlinks=True)
    lock = yaml.safe_load(run(folder, "git", "show", "first:dvc.lock").stdout)
    digests = {out["path"]: out["md5"] for out in lock["stages"]["make"]["outs"]}

    def cached(digest: str) -> Path:
        return folder / ".dvc/cache/files/md5" / digest[:2] / digest[2:]

    pictures = json.loads(cached(digests["data/synth"]).read_text())
    cached(pictures[0]["md5"]).chmod(0o644)
    cached(pictures[0]["md5"]).unlink()
    compare(folder, "first", "more")
    shown = Text((folder / "page.html").read_text())
    assert "1 pictures or masks are no longer to be had" in shown.text and "no longer in DVC's cache" in shown.text
    cached(digests["data/masks"]).unlink()
    compare(folder, "first", "more")
    shown = Text((folder / "page.html").read_text())
    assert "data/masks/perlin/slab/manifest.jsonl of first" in shown.text and "synth.k 0 1" in shown.text


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["--upload-pack=x", "a b", "first:params.yaml", "a..b", "$(touch x)", "no-such-one", "", "x" * 300, "@", "/"],
)
def test_a_name_that_is_none_is_refused_in_one_line(name: str, project: Path):
    done = compare(project, "--", name, check=False) if name.startswith("-") else compare(project, name, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert not (project / "x").exists()


@pytest.mark.slow
def test_a_file_of_somebody_else_is_not_written_over(project: Path):
    (project / "page.html").write_text("mine")
    done = compare(project, "first", check=False)
    assert done.returncode == 2 and "no page of this command" in done.stderr
    assert (project / "page.html").read_text() == "mine"
    (project / "page.html").unlink()


@pytest.mark.slow
def test_a_page_that_cannot_be_written_is_one_line(project: Path):
    command = [sys.executable, "-m", "lib.report.compare", "first", "--out", "dvc.yaml/page.html"]
    done = subprocess.run(command, cwd=project, env={"PYTHONPATH": str(ROOT), "PATH": f"{BIN}:/usr/bin:/bin"},
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 2 and done.stderr.splitlines()[-1].endswith("'dvc.yaml'"), done.stderr
    assert "Traceback" not in done.stderr


def test_changed_parameters_are_told_with_both_values():
    a = {"seed": 0, "synth": {"steps": 10, "old": True}, "detect": {"seeds": [0, 1]}, "perlin": {}}
    b = {"seed": 0, "synth": {"steps": 20, "new": None}, "detect": {"seeds": [0, 1]}, "perlin": {"x": 1}}
    assert changed_params(a, b).to_numpy().tolist() == [
        ["synth.steps", "10", "20"],
        ["synth.old", "true", "-"],
        ["perlin", "{}", "-"],
        ["synth.new", "-", "null"],
        ["perlin.x", "-", "1"],
    ]


def test_stages_whose_code_or_command_differs_are_told_with_the_files():
    def stage(digest: str, cmd: str = "run") -> dict:
        return {"cmd": cmd, "deps": [{"path": "lib/core", "md5": digest}, {"path": "data/x", "md5": digest}]}

    a = {"synth@a": stage("1"), "synth@b": stage("1"), "masks": stage("1"), "old": stage("1"), "same": stage("1")}
    b = {"synth@a": stage("2"), "synth@b": stage("2"), "masks": stage("1", "go"), "same": stage("1"), "new": stage("1")}
    assert changed_code(a, b).to_numpy().tolist() == [
        ["synth", 2, "lib/core"],
        ["masks", 1, "its command"],
        ["old", 1, "only before"],
        ["new", 1, "only after"],
    ]


def scores(shift: float, spread: float = 0.1) -> dict:
    values = {"none": 0.0, "placebo": 0.0, "perlin": shift}
    seeds = np.array([-1, 0, 1]) * spread
    return {
        ("unet", arm, metric): {category: list(0.5 + by + seeds) for category in ("a", "b")}
        for arm, by in values.items()
        for metric in COLUMNS
    }


def test_a_difference_is_beyond_when_it_is_larger_than_that_of_equal_arms():
    for shift, verdict in ((0.01, "within"), (0.3, "beyond"), (-0.3, "beyond"), (0.0, "equal")):
        table = compared(scores(0.0), scores(shift))
        [row] = table[(table["arm"] == "perlin") & (table["metric"] == "pixel_ap")].to_dict("records")
        assert row["verdict"] == verdict and row["difference"] == pytest.approx(shift)
        arm = [0.4, 0.5, 0.6]
        once = chance_difference([[arm] * 4] * 2, 0.95)  # none and placebo
        assert row["equal_arms"] == pytest.approx(0.0 if verdict == "equal" else once)
        assert row["placebo_before"] == pytest.approx(0.0)


def test_what_neither_run_changed_stands_once_behind_the_range_and_what_either_changed_twice():
    before, after = scores(0.0), scores(0.3)
    after["unet", "placebo", "pixel_ap"]["a"] = [0.2, 0.5, 0.9]
    table = compared(before, after)
    [row] = table[(table["arm"] == "perlin") & (table["metric"] == "pixel_ap")].to_dict("records")
    arm = [0.4, 0.5, 0.6]
    expected = chance_difference([[arm] * 4 + [[0.2, 0.5, 0.9]], [arm] * 4], 0.95)
    assert row["equal_arms"] == pytest.approx(expected)


def test_a_category_that_did_not_change_adds_no_chance_to_a_difference():
    before, after = scores(0.0), scores(0.0)
    for values, shift in ((before, 0.0), (after, 0.1)):
        values["unet", "perlin", "pixel_ap"] = {"a": [0.1, 0.5, 0.9], "b": [0.5 + shift, 0.51 + shift, 0.52 + shift]}
        for arm in ("none", "placebo"):
            values["unet", arm, "pixel_ap"]["b"] = [0.5, 0.51, 0.52]
    [row] = compared(before, after).query("arm == 'perlin' and metric == 'pixel_ap'").to_dict("records")
    assert row["difference"] == pytest.approx(0.05) and row["verdict"] == "beyond"
    alone = chance_difference([[[0.5, 0.51, 0.52]] * 4], 0.95)
    assert row["equal_arms"] == pytest.approx(alone / 2)


def test_a_stage_is_stale_when_another_one_has_replaced_what_it_read():
    def of(digest: str) -> Run:
        made = {"deps": [{"path": "lib/a.py", "md5": "7" * 32}], "outs": [{"path": "data/x", "md5": "1" * 32}]}
        reading = {"deps": [{"path": "data/x", "md5": digest}]}
        found = Run("it", None)
        found.__dict__["lock"] = {"make": made, "read@a": reading, "read@b": reading}
        return found

    assert stale(of("1" * 32)) == ""
    assert "older than what they read: read (2)." in stale(of("2" * 32))


def test_a_stage_is_stale_when_one_of_those_that_fill_a_folder_has_replaced_its_part(monkeypatch: pytest.MonkeyPatch):
    """The digest of the folder is computed as DVC computes it."""

    def entry(name: str, digit: str) -> dict[str, str]:
        return {"md5": digit * 32, "relpath": name}

    def listed(*entries: dict[str, str]) -> str:
        return hashlib.md5(json.dumps(list(entries), sort_keys=True).encode()).hexdigest() + ".dir"

    nut, gone = listed(entry("none/x.bin", "1")), listed(entry("y.bin", "2"))
    lists = {nut: {"none/x.bin": "1" * 32}, gone: {"y.bin": "2" * 32}}
    monkeypatch.setattr("lib.report.runs._listing", lambda digest: lists.get(digest, {}))
    of_both = listed(entry("bolt.json", "3"), entry("nut/none/x.bin", "1"))
    with_gone = listed(entry("bolt.json", "3"), entry("gone/y.bin", "2"), entry("nut/none/x.bin", "1"))

    def of(digest: str, nuts: str = nut) -> Run:
        ran = {
            "one": {"outs": [{"path": "models/nut", "md5": nuts}]},
            "two": {"outs": [{"path": "models/bolt.json", "md5": "3" * 32}]},
            "judge": {"deps": [{"path": "models", "md5": digest}, {"path": "data/review", "md5": "4" * 32 + ".dir"}]},
        }
        found = Run("it", None)
        found.__dict__["lock"] = ran
        found.__dict__["_ran"] = ran | {"old": {"outs": [{"path": "models/gone", "md5": gone}]}}
        return found

    assert stale(of(of_both)) == stale(of(with_gone)) == "", "what a stage of once left there may lie there"
    assert "older than what they read: judge." in stale(of("5" * 32 + ".dir"))
    assert stale(of("5" * 32 + ".dir", "6" * 32 + ".dir")) == "", "the cache lost a list, so that nothing can be said"


def test_what_dvc_yaml_has_no_more_is_no_stage_of_a_run(inside: Path):
    Path("params.yaml").write_text("generators: [a]\ndetect:\n  on_synthetic: [u, v]\nexport:\n  formats: []\n")
    lists = "matrix: {d: '${detect.on_synthetic}', g: '${generators}'}"
    Path("dvc.yaml").write_text(
        f"stages:\n  one: {{cmd: x}}\n  detect:\n    {lists}\n  export: {{matrix: {{f: '${{export.formats}}'}}}}\n"
    )
    names = ["one", "detect@u-a", "detect@v-a", "detect@u-b", "export@coco", "gone"]
    Path("dvc.lock").write_text(json.dumps({"stages": {key: {} for key in names}}))
    assert list(Run("workspace", None).lock) == names[:3]


def test_metrics_of_other_categories_and_arms_are_left_out():
    before, after = scores(0.0), scores(0.2)
    for key in list(after):
        after[key] = {"b": after[key]["b"], "c": after[key]["b"]}
    del after["unet", "placebo", "pixel_ap"]
    table = compared(before, after)
    assert len(table) == 3 * len(COLUMNS) - 1
    assert headline(compared(before, {})) == "The runs have no metrics in common."
    one = {key: {"a": [0.5]} for key in before}
    assert set(compared(one, {key: {"a": [0.6]} for key in before})["verdict"]) == {"-"}


def test_what_neither_run_defines_is_no_row_and_no_equal_number():
    before, after = scores(0.0), scores(0.0)
    for arm in ("none", "placebo", "perlin"):
        for category in ("a", "b"):
            before["unet", arm, "type_miou"][category] = [np.nan] * 3
            after["unet", arm, "type_miou"][category] = [np.nan] * 3
    after["unet", "perlin", "aupro"]["a"] = [np.nan] * 3
    table = compared(before, after)
    assert "type_miou" not in set(table["metric"]) and len(table) == 3 * (len(COLUMNS) - 1)
    [lost] = table[(table["arm"] == "perlin") & (table["metric"] == "aupro")].to_dict("records")
    assert lost["verdict"] == "-" and np.isnan(lost["after"]), "defined in one of them"
    assert headline(table).endswith(f" {len(table) - 1} numbers are equal.")
    undefined = {key: {"a": [np.nan] * 3} for key in before}
    assert headline(compared(undefined, undefined)) == "The runs have no metrics in common."


def test_outcomes_count_what_changed():
    def record(verdict: str, sha256: str = "1") -> dict:
        return {"image": None if verdict == "failed" else "x", "accepted": verdict == "accepted", "sha256": sha256}

    a = {
        ("perlin", "c"): {
            "1": record("accepted"),
            "2": record("rejected"),
            "3": record("failed"),
            "4": record("accepted"),
        }
    }
    b = {("perlin", "c"): {"1": record("rejected"), "2": record("accepted", "2"), "3": record("failed")}}
    [row] = outcomes(a, b).to_dict("records")
    assert {key: row[key] for key in ("asked", "accepted", "failed", "now accepted", "no longer", "only before")} == {
        "asked": "4 → 3", "accepted": "2 → 1", "failed": "1", "now accepted": 1, "no longer": 1, "only before": 1,
    }  # fmt: skip
    assert [verdict_of(record(name)) for name in ("accepted", "rejected", "failed")] == [
        "accepted",
        "rejected",
        "failed",
    ]
    assert isinstance(outcomes({}, {}), pd.DataFrame) and outcomes({}, b).to_dict("records")[0]["asked"] == "- → 3"


def test_a_run_without_a_name_is_the_workspace():
    assert find_run(None) == find_run("workspace") == Run("workspace", None)
    with pytest.raises(UserError, match="expected one revision"):
        find_run("-x")


def test_a_box_where_a_defect_came_to_lie_is_no_other_request():
    placed = {"normal": "good-0", "box": [10, 10, 30, 30], "defect_type": "dent", "like": "a", "component": 0}
    assert moved(placed, placed | {"box": [11, 10, 30, 30]}) and not moved(placed, dict(placed))
    own = placed | {"normal": None}
    assert not moved(own, own | {"box": [11, 10, 30, 30]}) and moved(own, own | {"like": "b"})
