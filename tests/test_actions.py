import numpy as np
import pytest

from lib.language.vocabulary import read_confusable_pairs
from lib.run.params import FOLDER
from lib.world.definition import read_world
from lib.world.movements import perform
from lib.world.skeleton import POSTURES, postures, skeleton

ACTIONS = read_world("embedded").actions
MOVEMENTS = {each.movement for each in read_world("rendered").actions.values()}

BUILD = {"limb": 1.0, "broad": 1.0}
SECONDS = np.arange(24) / 12


def performed(action, seed=0):
    pose, progress = perform(action, SECONDS, np.random.default_rng(seed), speed=1.0)
    return skeleton(pose, BUILD), progress


def test_the_pairs_are_actions():
    pairs = read_confusable_pairs(FOLDER / "concepts" / "embedded.yaml")
    assert len(ACTIONS) >= 16 and len(pairs) == 4 and {name for pair in pairs for name in pair} <= set(ACTIONS)


@pytest.mark.parametrize("action", sorted(MOVEMENTS))
def test_bodies_keep_their_bones_and_stay_above_the_floor(action):
    for seed in range(5):
        joints, _ = performed(action, seed)
        for a, b, length in (
            ("hip_l", "knee_l", 0.245),
            ("knee_r", "foot_r", 0.245),
            ("shoulder_l", "elbow_l", 0.165),
            ("elbow_r", "hand_r", 0.165),
            ("pelvis", "neck", 0.29),
        ):
            np.testing.assert_allclose(np.linalg.norm(joints[a] - joints[b], axis=1), length, atol=1e-9)
        assert min(joint[:, 2].min() for joint in joints.values()) >= -1e-9


@pytest.mark.parametrize(
    "action, joint, up",
    [
        ("sit down", "pelvis", False),
        ("stand up", "pelvis", True),
        ("raise arms", "hand_l", True),
        ("lower arms", "hand_l", False),
    ],
)
def test_directed_actions_go_their_way(action, joint, up):
    for seed in range(10):
        height = performed(action, seed)[0][joint][:, 2]
        assert (height[-1] - height[0] > 0.15) == up and abs(height[-1] - height[0]) > 0.15


def test_running_leaves_the_ground_and_walking_does_not():
    lowest = {
        action: max(min(joint[t, 2] for joint in joints.values()) for t in range(24))
        for action in ("walk", "run")
        for joints in [performed(action)[0]]
    }
    assert lowest["run"] > 0.02 and lowest["walk"] < 1e-9


def test_limbs_point_where_their_angles_say():
    pose, _ = perform("walk", SECONDS[:1], np.random.default_rng(0), speed=1.0)
    pose = {name: np.zeros(1) for name in pose}
    pose["arm_l"], pose["open_r"] = np.array([90.0]), np.array([90.0])
    joints = skeleton(pose, BUILD)
    np.testing.assert_allclose(joints["hand_l"] - joints["shoulder_l"], [[0.33, 0, 0]], atol=1e-9)  # forward
    np.testing.assert_allclose(joints["hand_r"] - joints["shoulder_r"], [[0, -0.33, 0]], atol=1e-9)  # to the right
    np.testing.assert_allclose(joints["foot_l"] - joints["hip_l"], [[0, 0, -0.49]], atol=1e-9)  # hangs down


def test_postures_say_what_the_body_does():
    joints, progress = performed("jumping jack")
    height = joints["hand_l"][:, 2]
    high = postures(joints, int(height.argmax()))
    assert "both arms overhead" in high and "feet wide apart" in high
    assert "both knees bent" in postures(performed("sit down")[0], 23)
    assert "body flat and low near the ground" in postures(performed("push up")[0], 0)
    said = {word for action in MOVEMENTS for t in range(24) for word in postures(performed(action)[0], t)}
    assert said <= set(POSTURES)
