"""Sixteen human actions as joint-angle trajectories, and the skeleton that they animate.

A pose consists of angles in degrees, arrays over the `t` frames of a clip. Limb angles are relative to the world, not
to the parent limb: flexion 0 hangs down, 90 points forward, 180 points up; abduction opens to the side. Lengths are in
body heights; x points forward, y to the person's left, z up.

Three pairs of actions are the same movement forwards and backwards (sit down / stand up, raise arms / lower arms, pick
up / put down), one pair differs in tempo and amplitude (walk / run): `confusable_pairs` in
`params/concepts/embedded.yaml`. The directions are not exact mirror images (people lean further forward to stand up
than to sit down), but variation between persons is larger, so single frames are ambiguous.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

Array = np.ndarray
Pose = dict[str, Array]  # angle or offset by name, each 't'
Rng = np.random.Generator

LIMB_ANGLES = ["hip", "spread", "knee", "arm", "open", "elbow", "wrist"]
ANGLES = ["lean", "forward", "jump", "head", *(f"{name}_{side}" for name in LIMB_ANGLES for side in "lr")]


def smoothstep(u: Array) -> Array:
    """Eases in and out from 0 to 1 for u in 0..1, clamped outside."""
    u = np.clip(u, 0.0, 1.0)
    return u * u * (3.0 - 2.0 * u)


def bump(u: Array) -> Array:
    """0 at u = 0 and u = 1, 1 at u = 0.5."""
    return np.sin(np.pi * np.clip(u, 0.0, 1.0))


def oscillate(cycles: Array) -> Array:
    """0 at whole cycles, 1 at half cycles."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * cycles)


def _rest(t: int, rng: Rng) -> Pose:
    """A standing person, with small variation between persons."""
    pose = {name: np.zeros(t) for name in ANGLES}
    pose["lean"] += rng.normal(2, 3)
    for side in "lr":
        pose["open_" + side] += rng.uniform(6, 16)
        pose["elbow_" + side] += rng.uniform(5, 20)
        pose["arm_" + side] += rng.normal(0, 5)
        pose["spread_" + side] += rng.uniform(2, 9)
        pose["knee_" + side] += rng.uniform(0, 6)
        pose["hip_" + side] += 0.5 * pose["knee_" + side]
    return pose


def _set(pose: Pose, **values: Array | float) -> None:
    """Overwrites angles; names without a side set both sides."""
    for name, value in values.items():
        for key in [name] if name in pose else [name + "_l", name + "_r"]:
            pose[key] = np.full_like(pose[key], value)


def _seat(pose: Pose, u: Array, rng: Rng, lean: float, reach: float) -> None:
    """From standing (u = 0) to sitting on a chair (u = 1)."""
    s, depth = smoothstep(u), rng.uniform(80, 95)
    pose["lean"] = pose["lean"] + rng.normal(lean, 9) * bump(u) + 4 * s
    reach = rng.normal(reach, 16)
    thigh = rng.uniform(15, 40)  # where the hands rest
    _set(pose, hip=depth * s, knee=depth * s, arm=reach * bump(u) + thigh * s, elbow=10 + rng.uniform(10, 50) * s)
    pose["forward"] = -0.22 * s


def _arms_up(pose: Pose, u: Array, rng: Rng, bend: float) -> None:
    """From hanging arms (u = 0) to arms overhead (u = 1), via the front or the side."""
    s, side, top = smoothstep(u), rng.uniform(0, 1), rng.uniform(150, 175)
    _set(pose, arm=(1 - side) * top * s, open=10 + side * (top - 10) * s)
    _set(pose, elbow=np.abs(rng.normal(bend, 8)) * (1 - side))


def _reach_floor(pose: Pose, u: Array, rng: Rng, knee: float) -> None:
    """Standing with a box in the hands (u = 0 and 1), reaching to the floor (u = 0.5)."""
    s, bend = bump(u), max(rng.normal(knee, 16), 15)
    pose["lean"] += rng.uniform(65, 90) * s
    _set(pose, hip=bend * 0.9 * s, knee=bend * 1.1 * s, open=6)
    _set(pose, arm=rng.uniform(20, 40) * (1 - s) + 25 * s, elbow=rng.uniform(50, 80) * (1 - s))


def _gait(
    pose: Pose, c: Array, rng: Rng, lean: float, stride: float, lift: float, elbow: float, jump: float, speed: float
) -> None:
    pose["lean"] += lean
    pose["jump"] = jump * np.abs(np.sin(2 * np.pi * c))
    stride, lift, swing = stride * rng.uniform(0.85, 1.15), lift * rng.uniform(0.8, 1.2), rng.uniform(0.7, 1.1)
    for side, phase in (("l", 0.0), ("r", np.pi)):
        angle = 2 * np.pi * c + phase
        pose["hip_" + side] = stride * np.sin(angle) + 0.25 * lift * np.maximum(np.cos(angle), 0)
        pose["knee_" + side] = 6 + lift * np.maximum(np.cos(angle), 0)
        pose["arm_" + side] = -swing * stride * np.sin(angle)
        pose["elbow_" + side] = np.full_like(c, elbow * rng.uniform(0.8, 1.2))
    pose["forward"] = speed * rng.uniform(0.1, 0.5) * (c - c.mean())  # the camera follows imperfectly


def jumping_jack(pose: Pose, c: Array, rng: Rng) -> None:
    s = oscillate(c)
    _set(pose, open=12 + rng.uniform(135, 160) * s, spread=4 + rng.uniform(18, 28) * s, elbow=5, arm=0)
    pose["jump"] = rng.uniform(0.03, 0.08) * np.abs(np.sin(2 * np.pi * c))


def squat(pose: Pose, c: Array, rng: Rng) -> None:
    s, depth = oscillate(c), rng.uniform(85, 115)
    pose["lean"] += rng.uniform(15, 30) * s
    _set(pose, hip=depth * 0.95 * s, knee=depth * 1.15 * s, spread=rng.uniform(8, 16))
    _set(pose, arm=rng.uniform(60, 95) * (0.25 + 0.75 * s), elbow=rng.uniform(0, 50))


def wave(pose: Pose, c: Array, rng: Rng) -> None:
    side = rng.choice(["l", "r"])
    pose["open_" + side] = np.full_like(c, rng.uniform(85, 125))
    pose["elbow_" + side] = np.zeros_like(c)
    pose["wrist_" + side] = rng.uniform(55, 80) + rng.uniform(25, 40) * np.sin(2 * np.pi * 1.5 * c)


def clap(pose: Pose, c: Array, rng: Rng) -> None:
    s = 0.5 - 0.5 * np.cos(2 * np.pi * 1.5 * c)
    _set(pose, arm=rng.uniform(35, 60), elbow=rng.uniform(40, 65))
    _set(pose, open=8 + rng.uniform(20, 35) * s, wrist=-22 - 10 * (1 - s))


def punch(pose: Pose, c: Array, rng: Rng) -> None:
    pose["lean"] += rng.uniform(4, 14)
    stance = rng.uniform(12, 25)
    _set(pose, hip_l=stance, hip_r=-stance, knee=rng.uniform(12, 30))
    for side, phase in (("l", 0.0), ("r", 0.5)):
        s = np.maximum(np.sin(2 * np.pi * (c + phase)), 0) ** 1.5
        pose["arm_" + side] = 30 + 60 * s
        pose["elbow_" + side] = 115 - 110 * s


def kick(pose: Pose, c: Array, rng: Rng) -> None:
    side = rng.choice(["l", "r"])
    s = np.maximum(np.sin(2 * np.pi * c), 0)
    pose["hip_" + side] = rng.uniform(70, 105) * s - 15 * np.maximum(-np.sin(2 * np.pi * c), 0)
    pose["knee_" + side] = 10 + 55 * np.maximum(np.cos(2 * np.pi * c), 0) * (1 - s)
    pose["lean"] -= rng.uniform(5, 18) * s
    _set(pose, arm=rng.uniform(0, 35), open=rng.uniform(15, 45), elbow=rng.uniform(20, 70))


def push_up(pose: Pose, c: Array, rng: Rng) -> None:
    s = oscillate(c)
    lean = 62 + 20 * s
    _set(pose, lean=lean, hip=-lean + rng.uniform(-4, 6), knee=0, spread=3, head=20)
    _set(pose, arm=5 - 60 * s, elbow=95 * s, open=rng.uniform(5, 25))


def jump_rope(pose: Pose, c: Array, rng: Rng) -> None:
    s = oscillate(c)
    pose["jump"] = rng.uniform(0.06, 0.12) * s
    _set(pose, hip=10 + 10 * (1 - s), knee=12 + 22 * (1 - s), spread=2)
    _set(pose, arm=-5, open=rng.uniform(16, 28), elbow=rng.uniform(60, 85), wrist=25)


# label: (trajectory, performed "once" or in a "cycle", object, usual scene)
ACTIONS: dict[str, tuple[Callable[[Pose, Array, Rng], None], str, str, str]] = {
    "sit down": (lambda pose, u, rng: _seat(pose, u, rng, lean=26, reach=-8), "once", "chair", "room"),
    "stand up": (lambda pose, u, rng: _seat(pose, 1 - u, rng, lean=40, reach=18), "once", "chair", "room"),
    "raise arms": (lambda pose, u, rng: _arms_up(pose, u, rng, bend=8), "once", "", "gym"),
    "lower arms": (lambda pose, u, rng: _arms_up(pose, 1 - u, rng, bend=20), "once", "", "gym"),
    "pick up": (lambda pose, u, rng: _reach_floor(pose, u, rng, knee=64), "once", "box", "room"),
    "put down": (lambda pose, u, rng: _reach_floor(pose, u, rng, knee=48), "once", "box", "room"),
    "walk": (partial(_gait, lean=2, stride=24, lift=34, elbow=15, jump=0, speed=0.5), "cycle", "", "street"),
    "run": (partial(_gait, lean=10, stride=40, lift=85, elbow=75, jump=0.04, speed=0.8), "cycle", "", "park"),
    "jumping jack": (jumping_jack, "cycle", "", "gym"),
    "squat": (squat, "cycle", "", "gym"),
    "wave": (wave, "cycle", "", "street"),
    "clap": (clap, "cycle", "", "room"),
    "punch": (punch, "cycle", "", "gym"),
    "kick": (kick, "cycle", "", "park"),
    "push up": (push_up, "cycle", "", "park"),
    "jump rope": (jump_rope, "cycle", "rope", "street"),
}


def perform(action: str, seconds: Array, rng: Rng, *, speed: float) -> tuple[Pose, Array]:
    """One person's performance of an action, with variation drawn from `rng`.

    seconds: times of the frames, 't', from 0; speed: relative tempo. Returns the pose and the progress 't': 0..1 for a
    movement performed once, the number of completed cycles for a repeated one.
    """
    trajectory, kind, _, _ = ACTIONS[action]
    length = seconds[-1] - seconds[0] if len(seconds) > 1 else 1.0
    if kind == "once":  # the movement fills most of the clip; the person holds still before and after
        duration = length * np.clip(rng.uniform(0.6, 0.95) / speed, 0.4, 1.0)
        progress = np.clip((seconds - rng.uniform(0, length - duration)) / duration, 0.0, 1.0)
    else:
        cadence = {"run": 1.5, "jump rope": 1.4, "punch": 1.2, "walk": 0.85}.get(action, 0.8)  # cycles per second
        progress = cadence * speed * rng.uniform(0.85, 1.15) * seconds + rng.uniform(0, 1)
    pose = _rest(len(seconds), rng)
    trajectory(pose, progress, rng)
    return pose, progress


def telling_frame(pose: Pose, rng: Rng) -> int:
    """The frame that a photographer would choose: of three random ones, the one furthest from standing still."""
    t = len(pose["lean"])
    frames = rng.integers(t // 6, t - t // 6, 3)
    joints = [name for name in pose if name.split("_")[0] in ("arm", "open", "hip", "spread", "lean")]
    displacement = sum(np.abs(pose[name]) for name in joints)
    return int(frames[displacement[frames].argmax()])


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
