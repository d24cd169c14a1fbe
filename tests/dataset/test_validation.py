"""Validation: every kind of broken data set is found, all of it at once, with the file's name."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib.dataset.examination import examine, perceptual_hash
from lib.dataset.findings import Findings
from lib.dataset.validation import validate
from tests.reading import read_category


def photograph(seed: int, width: int = 48, height: int = 32) -> Image.Image:
    """A picture that no other seed gives."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def mask(width: int = 48, height: int = 32, value: int = 255) -> Image.Image:
    """A mask with one square."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[8:14, 10:16] = value
    return Image.fromarray(pixels)


@pytest.fixture
def nut(tmp_path: Path) -> Path:
    """A sound category in the MVTec AD layout: two good pictures in each part, three with a crack."""
    base = tmp_path / "nut"
    for folder in ("train/good", "test/good", "test/crack", "ground_truth/crack"):
        (base / folder).mkdir(parents=True)
    for number in range(2):
        photograph(number).save(base / f"train/good/{number}.png")
        photograph(10 + number).save(base / f"test/good/{number}.png")
    for number in range(3):
        photograph(20 + number).save(base / f"test/crack/{number}.png")
        mask().save(base / f"ground_truth/crack/{number}_mask.png")
    return base


def findings_of(base: Path) -> Findings:
    findings = Findings()
    validate(read_category(base.parent, base.name, findings), findings)
    return findings


def test_a_sound_category_has_no_findings(nut):
    assert findings_of(nut) == Findings()


@pytest.mark.parametrize(
    ("name", "picture"),
    [
        ("grey.png", photograph(30).convert("L")),
        ("deep.png", Image.fromarray(np.random.default_rng(31).integers(0, 65535, (32, 48), dtype=np.uint16))),
        ("palette.png", photograph(32).convert("P")),
        ("alpha.png", photograph(33).convert("RGBA")),
        ("jpeg.jpg", photograph(34)),
        ("windows.bmp", photograph(35)),
        ("tagged.tiff", photograph(36)),
    ],
)
def test_every_kind_of_picture_is_accepted(nut, name, picture):
    picture.save(nut / "train/good" / name)
    findings = findings_of(nut)
    assert not findings.problems and len(findings.warnings) == (name in ("grey.png", "deep.png"))


def turned(path: Path) -> None:
    """Write a picture of 48 x 32 stored px that its EXIF tag turns to 32 x 48."""
    picture = photograph(40)
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(path, exif=exif)


def test_a_turned_picture_counts_upright_and_a_mask_of_its_stored_size_is_turned_with_it(nut):
    (nut / "test/crack/0.png").unlink()
    turned(nut / "test/crack/0.jpg")
    findings = findings_of(nut)
    assert not findings.problems and "0_mask.png" in findings.warnings[0] and "rotated with it" in findings.warnings[0]
    mask(32, 48).save(nut / "ground_truth/crack/0_mask.png")
    assert findings_of(nut) == Findings()
    pictures = read_category(nut.parent, nut.name, Findings())
    assert examine(next(one for one in pictures if one.path.suffix == ".jpg")).size == (32, 48)


def test_a_mask_that_fits_a_turned_picture_either_way_is_warned_of(nut):
    (nut / "test/crack/0.png").unlink()
    picture = photograph(40)
    exif = picture.getexif()
    exif[0x0112] = 3
    picture.save(nut / "test/crack/0.jpg", exif=exif)
    findings = findings_of(nut)
    assert not findings.problems and "0_mask.png" in findings.warnings[0] and "upright picture" in findings.warnings[0]


def test_negative_and_endless_values_are_refused_with_the_name_of_their_picture(nut):
    Image.fromarray(np.full((32, 48), -1, np.int32)).save(nut / "train/good/0.tif")
    Image.fromarray(np.full((32, 48), np.nan, np.float32)).save(nut / "train/good/1.tif")
    first, second = (problem for problem in findings_of(nut).problems if "holds values" in problem)
    assert "good/0.tif" in first and "good/1.tif" in second


@pytest.mark.parametrize("kept", [0, 10, 200])
def test_empty_and_truncated_files_are_found(nut, kept):
    for name in ("train/good/0.png", "ground_truth/crack/1_mask.png"):
        whole = (nut / name).read_bytes()
        # A small mask is smaller than the longest cut.
        (nut / name).write_bytes(whole[: min(kept, len(whole) // 2)])
    problems = "\n".join(findings_of(nut).problems)
    assert "train/good/0.png: cannot be read as a picture" in problems
    assert "crack/1_mask.png: cannot be read as a picture" in problems


def test_a_dangling_link_is_found(nut):
    (nut / "train/good/9.png").symlink_to(nut / "nowhere.png")
    assert "good/9.png: cannot be read" in findings_of(nut).problems[0]


def save_margin(nut: Path) -> None:
    """A picture whose left half is empty, with a mask that lies there."""
    pixels = np.array(photograph(50))
    pixels[:, :24] = 0
    Image.fromarray(pixels).save(nut / "test/crack/0.png")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (mask(40, 30), "the mask is 40 x 30 px, its picture 48 x 32 px; draw"),
        (mask(value=0), "the mask is empty"),
        (Image.new("L", (48, 32), 255), "marks the whole picture"),
    ],
)
def test_masks_that_do_not_fit_are_found(nut, broken, said):
    broken.save(nut / "ground_truth/crack/0_mask.png")
    problems = findings_of(nut).problems
    assert len(problems) == 1 and "crack/0_mask.png" in problems[0] and said in problems[0]


def test_a_twin_has_to_be_a_picture_of_the_same_size(nut):
    (nut / "twins/crack").mkdir(parents=True)
    photograph(70).save(nut / "twins/crack/0.png")
    assert findings_of(nut) == Findings()
    pictures = read_category(nut.parent, nut.name, Findings())
    digests = [examine(picture).twin_sha256 for picture in pictures if picture.defect_type == "crack"]
    assert digests == [hashlib.sha256((nut / "twins/crack/0.png").read_bytes()).hexdigest(), None, None]
    photograph(70).resize((40, 30)).save(nut / "twins/crack/1.png")
    (nut / "twins/crack/2.png").write_bytes(b"no picture")
    first, second = findings_of(nut).problems
    assert "crack/1.png: the twin is 40 x 30 px, its picture 48 x 32 px" in first
    assert "twins/crack/2.png: cannot be read as a picture" in second


def test_a_mask_beside_everything_that_the_picture_shows_is_found(nut):
    save_margin(nut)
    findings = findings_of(nut)
    assert not findings.problems, "something may be missing there, as the broken tip of a pin"
    assert "touch nothing" in findings.warnings[0] and "x 24 to 48, y 0 to 32" in findings.warnings[0]


def test_a_mask_of_zeros_and_ones_is_accepted_with_a_warning(nut):
    mask(value=1).save(nut / "ground_truth/crack/0_mask.png")
    findings = findings_of(nut)
    assert not findings.problems and "1 mask(s) hold values other than 0 and 255" in findings.warnings[0]


@pytest.mark.parametrize("name", ["train/good/9.bmp", "test/good/9.bmp", "test/crack/2.png"])
def test_the_same_picture_twice_is_found_across_formats_parts_and_types(nut, name):
    photograph(0).save(nut / name)
    problems = findings_of(nut).problems
    assert len(problems) == 1 and "the same picture twice" in problems[0]
    assert "train/good/0.png" in problems[0] and name in problems[0]


def test_names_that_would_give_one_id_are_found(nut):
    photograph(60).save(nut / "train/good/0.jpg")
    photograph(61).save(nut / "test/good/A.png")
    photograph(62).save(nut / "test/good/a.jpg")
    problems = findings_of(nut).problems
    assert len(problems) == 2 and "0.jpg" in problems[0] and "0.png" in problems[0] and "A.png" in problems[1]


def test_too_few_pictures_of_a_kind_are_found(nut):
    for number in range(2):
        (nut / f"train/good/{number}.png").unlink()
        (nut / f"test/good/{number}.png").unlink()
        (nut / f"test/crack/{number}.png").unlink()
        (nut / f"ground_truth/crack/{number}_mask.png").unlink()
    problems = "\n".join(findings_of(nut).problems)
    assert "no good pictures" in problems and "the defect type crack has one picture" in problems


def test_a_folder_of_masks_that_is_named_wrong_is_one_problem_that_names_both_folders(nut):
    (nut / "ground_truth").rename(nut / "groundtruth")
    [problem] = findings_of(nut).problems
    assert "3 defect pictures and not one mask" in problem
    assert str(nut / "ground_truth/crack") in problem and "not read: groundtruth" in problem


def test_grey_pictures_among_ones_in_colour_are_warned_of(nut):
    pictures = sorted(nut.glob("t*/*/*.png"))
    for number, path in enumerate(pictures, start=1):
        Image.open(path).convert("L").save(path)
        told = [one for one in findings_of(nut).warnings if "are grey, the others in colour" in one]
        assert len(told) == (number < len(pictures))
        assert not told or f"{number} of {len(pictures)} pictures" in told[0]


def test_masks_with_black_defects_are_warned_of(nut):
    for path in (nut / "ground_truth/crack").iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    findings = findings_of(nut)
    assert not findings.problems
    [warning] = findings.warnings
    assert "3 mask(s) mark more than half" in warning and "invert them" in warning


def test_a_category_without_defects_is_a_problem(nut):
    for file in [*nut.glob("test/crack/*"), *nut.glob("ground_truth/crack/*")]:
        file.unlink()
    assert "no defect pictures" in findings_of(nut).problems[0]


def test_all_problems_are_told_at_once(nut):
    (nut / "train/good/0.png").write_bytes(b"")
    mask(40, 30).save(nut / "ground_truth/crack/0_mask.png")
    (nut / "ground_truth/crack/1_mask.png").unlink()
    photograph(11).save(nut / "train/good/7.png")
    assert len(findings_of(nut).problems) == 4


def scene(seed: int) -> Image.Image:
    """A smooth picture with structure, as a camera gives it."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC)


def distance(one: Image.Image, other: Image.Image) -> int:
    return (perceptual_hash(np.array(one)) ^ perceptual_hash(np.array(other))).bit_count()


def test_the_perceptual_hash_stays_close_when_a_picture_is_rescaled_brightened_or_noisy_and_not_between_pictures():
    first = scene(0)
    noisy = np.clip(np.array(first) + np.random.default_rng(1).normal(0, 3, (120, 160, 3)), 0, 255).astype(np.uint8)
    variants = [first.resize((200, 150)), first.point(lambda value: value * 0.8 + 20), Image.fromarray(noisy)]
    assert max(distance(first, variant) for variant in variants) <= 4
    assert min(distance(scene(one), scene(other)) for one in range(12) for other in range(one)) > 8
