"""The stage prepare, with a data set that gives regions: what it writes, and what a killed run leaves."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from lib.core.images import read_mask
from lib.core.records import Sample, read_records
from stages import prepare
from tests.conftest import ROOT


@pytest.fixture
def coco(inside: Path) -> Path:
    """A COCO data set of eight good pictures and eight with a crack and a dent, and a params.yaml that names it."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["dataset"] |= {"path": "data/coco", "categories": ["nut"]}
    (inside / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    root = inside / "data/coco"
    (root / "images").mkdir(parents=True)
    images, annotations = [], []
    for number in range(16):
        picture = np.random.default_rng(number).integers(0, 255, (32, 40, 3)).astype(np.uint8)
        Image.fromarray(picture).save(root / f"images/{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 40, "height": 32})
        for category, x in ((1, 4), (2, 20)) if number < 8 else ():
            ring = [x, 5, x + 6, 5, x + 6, 9 + number, x, 9 + number]
            annotations.append({"image_id": number, "category_id": category, "segmentation": [ring], "bbox": []})
    categories = [{"id": 1, "name": "crack"}, {"id": 2, "name": "dent"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "all.json").write_text(json.dumps(content))
    return inside


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_masks_and_maps_of_types_lie_beside_the_records_that_name_them(coco: Path, capsys):
    prepare.main()
    assert "nut: read as coco: all.json holds images, annotations, categories" in capsys.readouterr().out
    samples = read_records(Path("data/prepared/nut/samples.jsonl"), Sample)
    mixed = [sample for sample in samples if sample.defect_type == "mixed"]
    assert len(samples) == 16 and len(mixed) == 8 and {sample.split for sample in mixed} == {"train", "val", "test"}
    for sample in mixed:
        assert sample.mask == f"data/prepared/nut/masks/{sample.id}.png" and sample.mask_source == "polygon"
        assert sample.type_map and sample.type_map.path == f"data/prepared/nut/types/{sample.id}.png"
        labels = np.asarray(Image.open(sample.type_map.path))
        assert labels.dtype == np.uint8 and set(np.unique(labels)) == {0, 1, 2}
        assert sample.type_map.types == ("crack", "dent") and (labels[:, :12].max(), labels[:, 20:].max()) == (1, 2)
        assert np.array_equal(read_mask(Path(sample.mask)), labels > 0)
    before = contents(Path("data/prepared"))
    prepare.main()
    assert contents(Path("data/prepared")) == before


@pytest.mark.parametrize("after", [0, 5])
def test_a_killed_run_leaves_what_was_there_before_or_nothing(coco: Path, after: int):
    def killed() -> None:
        child = os.fork()
        if child == 0:
            from lib.dataset import conversion

            plain, calls = conversion.write_png, []

            def write(*arguments):
                calls.append(1)
                if len(calls) > after:
                    os._exit(9)
                return plain(*arguments)

            conversion.write_png = write
            try:
                prepare.main()
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9

    killed()
    assert not Path("data/prepared").exists()
    prepare.main()
    before = contents(Path("data/prepared"))
    killed()
    assert contents(Path("data/prepared")) == before
    prepare.main()
    assert contents(Path("data/prepared")) == before
