"""The skeleton: joint angles become joint positions, and positions become the postures that captions mention.

A pose consists of angles in degrees, arrays over the `t` frames of a clip. Limb angles are relative to the world, not
to the parent limb: flexion 0 hangs down, 90 points forward, 180 points up; abduction opens to the side. Lengths are in
body heights; x points forward, y to the person's left, z up.
"""

import numpy as np

Array = np.ndarray
Pose = dict[str, Array]  # angle or offset by name, each 't'


def _direction(flexion: Array, abduction: Array, side: int) -> Array:
    """Unit vectors 't 3' along a limb; side is +1 for the left, -1 for the right."""
    f, a = np.radians(flexion), np.radians(abduction)
    return np.stack([np.sin(f), side * np.cos(f) * np.sin(a), -np.cos(f) * np.cos(a)], axis=-1)


def skeleton(pose: Pose, build: dict[str, float]) -> dict[str, Array]:
    """Forward kinematics: joint positions 't 3' by name, with the lowest joint at z = 0 plus the pose's jump.

    build: scale factors 'limb' for the lengths of limbs, 'broad' for the widths of shoulders and hips.
    """
    limb, broad = build["limb"], build["broad"]
    lean = np.radians(pose["lean"])
    up = np.stack([np.sin(lean), np.zeros_like(lean), np.cos(lean)], axis=-1)
    joints = {"pelvis": np.zeros_like(up)}
    joints["neck"] = 0.29 * up
    tilt = lean * 0.6 - np.radians(pose["head"])
    joints["head"] = joints["neck"] + 0.115 * np.stack([np.sin(tilt), np.zeros_like(tilt), np.cos(tilt)], axis=-1)
    for name, side in (("l", 1), ("r", -1)):
        across = np.array([0.0, side, 0.0])
        shoulder = joints["shoulder_" + name] = joints["neck"] - 0.02 * up + 0.105 * broad * across
        arm, open_, elbow, wrist = (pose[f"{part}_{name}"] for part in ("arm", "open", "elbow", "wrist"))
        joints["elbow_" + name] = shoulder + 0.165 * limb * _direction(arm, open_, side)
        joints["hand_" + name] = joints["elbow_" + name] + 0.165 * limb * _direction(arm + elbow, open_ + wrist, side)
        hip = joints["hip_" + name] = joints["pelvis"] + 0.06 * broad * across
        flexion, spread = pose["hip_" + name], pose["spread_" + name]
        joints["knee_" + name] = hip + 0.245 * limb * _direction(flexion, spread, side)
        shin = flexion - pose["knee_" + name]
        joints["foot_" + name] = joints["knee_" + name] + 0.245 * limb * _direction(shin, spread, side)
        toes = _direction(np.clip(shin + 90, -60, 100), spread * 0, side)
        joints["toe_" + name] = joints["foot_" + name] + 0.07 * toes
    ground = np.min([joint[:, 2] for joint in joints.values()], axis=0)
    shift = np.stack([pose["forward"], np.zeros_like(ground), pose["jump"] - ground], axis=-1)
    return {name: joint + shift for name, joint in joints.items()}


def _angle(a: Array, b: Array) -> float:
    """The angle between two vectors '3', in degrees."""
    return np.degrees(np.arccos(np.clip(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)), -1, 1)))


# postures that captions may mention; the first one that applies to a body part is used
TRUNK = ["body flat and low near the ground", "bending far forward", "leaning forward", "back upright"]
ARMS = ["both arms overhead", "one hand up", "arms stretched out", "arms hanging down", "elbows bent"]
KNEES = ["both knees bent", "one knee bent", "one leg lifted", "legs straight"]
FEET = ["feet wide apart", "one foot in front", "feet off the ground", "feet together"]
POSTURES = [*TRUNK, *ARMS, *KNEES, *FEET]


def postures(joints: dict[str, Array], frame: int) -> list[str]:
    """The visible postures in one frame, at most one per body part."""
    at = {name: joint[frame] for name, joint in joints.items()}
    lean = _angle(at["neck"] - at["pelvis"], np.array([0.0, 0.0, 1.0]))
    hands = [at[f"hand_{s}"][2] - at[f"shoulder_{s}"][2] for s in "lr"]  # heights above the shoulders
    knees = [_angle(at[f"hip_{s}"] - at[f"knee_{s}"], at[f"foot_{s}"] - at[f"knee_{s}"]) for s in "lr"]
    apart = np.abs(at["foot_l"] - at["foot_r"])
    low = at["pelvis"][2] < 0.42 and abs(at["foot_l"][0] - at["pelvis"][0]) > 0.3
    lowest = min(at[joint][2] for joint in ("toe_l", "toe_r", "foot_l", "foot_r"))
    low_hand, high_hand, upright = min(hands), max(hands), lean < 45
    arms = [low_hand > 0.08, high_hand > 0.05, low_hand > -0.1 and upright, high_hand < -0.26 and upright, upright]
    parts = [
        (TRUNK, [lean > 55 and low, lean > 45, lean > 20, True]),
        (ARMS, arms),
        (KNEES, [max(knees) < 125, min(knees) < 125, apart[2] > 0.15, True]),
        (FEET, [apart[1] > 0.3, apart[0] > 0.2, lowest > 0.03, True]),
    ]
    return [names[conditions.index(True)] for names, conditions in parts if True in conditions]
