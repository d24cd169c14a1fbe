"""Location phrases and captions."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from lib.boxes import mask_boxes
from lib.language import captions, location_of, mirrored, normal_caption, prompt


def location_of_mask(mask):
    """The phrase of a mask's first defect, all of its pixels taken as one."""
    (component,) = mask_boxes(mask, 99.0, 1)
    return location_of(component.centroid, mask.shape[1], mask.shape[0])


def test_a_mask_in_the_top_right_ninth_is_in_the_upper_right():
    mask = np.zeros((90, 120), dtype=bool)
    mask[5:12, 100:110] = True
    assert location_of_mask(mask) == "in the upper right"


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24)), st.booleans(), st.booleans())
def test_flipping_a_mask_swaps_the_words_and_nothing_else(mask, left_right, up_down):
    assume(mask.any())
    flipped = mask[:: -1 if up_down else 1, :: -1 if left_right else 1]
    assert location_of_mask(flipped) == mirrored(location_of_mask(mask), left_right, up_down)


def test_the_nine_cells_have_nine_phrases():
    phrases = [[location_of((x, y), 6, 6) for x in (1, 3, 5)] for y in (1, 3, 5)]
    assert phrases == [
        ["in the upper left", "in the upper center", "in the upper right"],
        ["in the middle left", "in the center", "in the middle right"],
        ["in the bottom left", "in the bottom center", "in the bottom right"],
    ]


def test_a_box_counts_by_its_centre_and_anything_else_is_refused():
    assert location_of((0, 0, 10, 30), 30, 30) == "in the middle left"
    with pytest.raises(ValueError, match="expected a point"):
        location_of((1, 2, 3), 30, 30)


def test_mirroring_swaps_words_only_along_the_flipped_direction():
    assert mirrored("in the upper right", True, False) == "in the upper left"
    assert mirrored("in the upper right", False, True) == "in the bottom right"
    assert mirrored("in the center", True, True) == "in the center"


def test_the_prompt_is_the_first_caption_and_has_the_published_structure():
    sentence = "There is a chipped edge defect in the upper right of the image; hex_nut_chipped_edge"
    assert prompt("chipped_edge", "hex_nut", "in the upper right") == sentence
    assert captions("chipped_edge", "hex_nut", "in the upper right")[0] == sentence


def test_captions_differ_and_each_names_the_type_the_place_and_the_tag():
    texts = captions("broken_large", "metal_nut", "in the bottom center")
    assert len(set(texts)) == len(texts) >= 4
    for text in texts:
        words, tag = text.split("; ")
        assert tag == "metal_nut_broken_large"
        assert "a broken large defect" in words and "in the bottom center" in words.lower()
        assert "_" not in words and text[0].isupper()


@pytest.mark.parametrize(
    ("defect_type", "noun"),
    [
        ("crack", "a crack defect"),
        ("oil", "an oil defect"),
        ("uneven", "an uneven defect"),
        ("uniform_stain", "a uniform stain defect"),
        ("uninked", "an uninked defect"),
        ("used", "a used defect"),
        ("surface-defect", "a surface defect"),
    ],
)
def test_articles_follow_the_sound_and_defect_is_said_once(defect_type, noun):
    assert noun + " in the center" in prompt(defect_type, "tile", "in the center")


def test_a_picture_without_defect_has_its_own_caption():
    assert normal_caption("hex_nut") == "The hex nut in the image is flawless; hex_nut_good"
