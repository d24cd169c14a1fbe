"""The frame of a part: where it is, how large, and how it is turned against another one."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.placement.parts import ANGLES, Pose, part_at, parts_of, poses, turn_costs, turning
from lib.placement.surroundings import features

STEP = 2 * np.pi / ANGLES
SCALE = np.full(3, 8.0, np.float32)
angles = st.floats(-10, 10)
points = st.tuples(st.floats(-500, 500), st.floats(-500, 500)).map(np.array)


def drawn(outline, angle=0.0, size=1.0, centre=(100.0, 100.0), mark=False):
    """The only part of a picture (200, 200, 3): a polygon around (0, 0), turned, scaled and moved."""
    corners = size * np.array(outline, float) @ turning(angle) + centre
    where = np.zeros((200, 200), np.uint8)
    cv2.fillPoly(where, [np.rint(corners * 16).astype(np.int32)], 1, shift=4)
    image = np.full((200, 200, 3), 40, np.uint8)
    image[where > 0] = 170
    if mark:
        spot = size * np.array([[25.0, 0.0]]) @ turning(angle) + centre
        cv2.circle(image, tuple(np.rint(spot[0]).astype(int).tolist()), 8, (60, 60, 60), -1)
    return parts_of(where > 0, features(image, where > 0))[0]


def polygon(corners, radius=50.0):
    turns = 2 * np.pi * np.arange(corners) / corners
    return radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)


BOOT = [(-40, -50), (-10, -50), (-10, 20), (40, 20), (40, 50), (-40, 50)]  # alike under no turn


def between(one, other):
    """The angle from one direction to the other, in [0, pi]."""
    return abs((one - other + np.pi) % (2 * np.pi) - np.pi)


@given(angles, angles, points)
def test_turns_add_up_and_keep_lengths(one, other, point):
    turned = point @ turning(one) @ turning(other)
    assert np.allclose(turned, point @ turning(one + other), atol=1e-6)
    assert np.isclose(np.linalg.norm(turned), np.linalg.norm(point), atol=1e-6)


def test_a_quarter_turn_leads_from_x_to_y():
    assert np.allclose(np.array([1.0, 0.0]) @ turning(np.pi / 2), [0, 1])


@given(points, points, angles, st.floats(0.2, 5), points, points)
def test_a_pose_carries_centre_to_centre_and_scales_all_distances_alike(source, target, turn, scale, one, other):
    pose = Pose(source, target, np.array(turn), np.array(scale))
    assert np.allclose(pose(source), target)
    assert np.isclose(np.linalg.norm(pose(one) - pose(other)), scale * np.linalg.norm(one - other), atol=1e-6)
    back = Pose(target, source, np.array(-turn), np.array(1 / scale))
    assert np.allclose(back(pose(one)), one, atol=1e-6)


def test_several_poses_carry_a_point_to_several_places():
    turns = np.array([0.0, np.pi / 2, np.pi])
    pose = Pose(np.zeros(2), np.array([[10.0, 0], [0, 0], [0, 5]]), turns, np.array([1.0, 2, 1]))
    assert np.allclose(pose(np.array([1.0, 0])), [[11, 0], [0, 2], [-1, 5]])


@settings(max_examples=20)
@given(st.floats(0, 2 * np.pi), st.floats(0, 2 * np.pi), st.floats(0.7, 1.3), st.integers(80, 120))
def test_the_turn_of_a_part_without_symmetry_is_found(one, other, size, middle):
    source, target = drawn(BOOT, one), drawn(BOOT, other, size, (middle, 100))
    _, pose = poses(source, [target], SCALE)
    assert between(pose.turn[0], other - one) <= 2 * STEP
    assert np.isclose(pose.scale[0], size, rtol=0.05)
    toe = np.array([[30.0, 35.0]])
    assert np.allclose(pose(toe @ turning(one) + 100)[0], size * toe @ turning(other) + [middle, 100], atol=5)


@settings(max_examples=10)
@given(st.floats(0.05, 2 * np.pi), st.sampled_from([4, 6]))
def test_a_symmetric_part_has_as_many_turns_as_it_looks_alike_under(angle, corners):
    _, pose = poses(drawn(polygon(corners)), [drawn(polygon(corners), angle)], SCALE)
    steps = (pose.turn - angle) / (2 * np.pi / corners)
    assert np.abs(steps - np.rint(steps)).max() * 2 * np.pi / corners < 4 * STEP
    assert len(set((np.rint(steps) % corners).astype(int).tolist())) == corners


@settings(max_examples=10)
@given(st.floats(0, 2 * np.pi))
def test_a_mark_tells_the_turns_of_a_symmetric_part_apart(angle):
    _, pose = poses(drawn(polygon(6), mark=True), [drawn(polygon(6), angle, mark=True)], SCALE)
    assert between(pose.turn, angle).max() <= 4 * STEP


def test_a_round_part_has_any_turn():
    disc = drawn(polygon(90))
    assert len(poses(disc, [disc], SCALE)[1].turn) == ANGLES


def test_a_part_is_like_itself_under_no_turn():
    boot = drawn(BOOT)
    costs = turn_costs(boot, boot, SCALE)
    assert costs.argmin() == 0 and costs[0] < 1e-9 < costs[1]


def test_unlike_parts_are_no_targets():
    boot, disc, small = drawn(BOOT), drawn(polygon(90)), drawn(BOOT, size=0.4)
    assert set(poses(boot, [disc, small, boot], SCALE)[0]) == {2}


def test_the_turn_of_a_part_does_not_depend_on_what_a_defect_hides():
    where = np.zeros((200, 200), np.uint8)
    cv2.fillPoly(where, [np.array(BOOT, np.int32) + 100], 1)
    image = np.where(where[..., None] > 0, 170, 40).astype(np.uint8).repeat(3, axis=2)
    stained = image.copy()
    stained[60:90, 60:90] = (250, 0, 0)
    box = (58, 58, 92, 92)
    costs = [
        turn_costs(parts_of(where > 0, features(one, where > 0, [box]))[0], drawn(BOOT), SCALE)
        for one in (image, stained)
    ]
    assert np.array_equal(*costs)


@pytest.mark.parametrize("upright", [True, False])
def test_a_profile_from_border_to_border_has_an_axis_and_no_ends(upright):
    where = np.zeros((120, 200), bool)
    if upright:
        where[:, 70:110] = True
    else:
        where[40:80] = True
    image = np.where(where[..., None], 170, 40).astype(np.uint8).repeat(3, axis=2)
    profile = parts_of(where, features(image, where))[0]
    assert profile.axis == pytest.approx(np.pi / 2 if upright else 0)
    assert profile.size == pytest.approx(40, rel=0.05) and profile.length == pytest.approx(
        120 if upright else 200, rel=0.05
    )
    _, pose = poses(profile, [profile], SCALE)
    assert sorted(np.abs(pose.turn).round(6)) == [0, round(np.pi, 6)]


def test_a_box_belongs_to_the_part_that_it_lies_on_or_is_nearest_to():
    where = np.zeros((120, 200), np.uint8)
    for x in (50, 150):
        cv2.circle(where, (x, 60), 30, 1, -1)
    look = features(where[..., None].repeat(3, axis=2) * 100, where > 0)
    parts = parts_of(where > 0, look)
    assert len(parts) == 2
    assert part_at(parts, (60, 50, 75, 60), look).centre[0] == pytest.approx(50, abs=2)
    assert part_at(parts, (105, 5, 115, 15), look).centre[0] == pytest.approx(150, abs=2)


def test_specks_are_no_parts_and_a_whole_picture_has_none():
    where = np.zeros((120, 200), np.uint8)
    cv2.circle(where, (50, 60), 30, 1, -1)
    cv2.circle(where, (150, 60), 4, 1, -1)
    image = where[..., None].repeat(3, axis=2) * 100
    assert len(parts_of(where > 0, features(image, where > 0))) == 1
    assert parts_of(where >= 0, features(image, where >= 0)) == []
