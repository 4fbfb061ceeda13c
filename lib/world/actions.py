"""Sixteen human actions as joint-angle trajectories, and the skeleton that they move.

The embedded world (`lib/world/render.py`) paints these skeletons. A pose is given by angles in degrees, all arrays over the
`t` frames of a clip. Limb angles are measured in the world, not against the parent limb: flexion 0 hangs down, 90
points forward, 180 points up; abduction opens to the side. Lengths are in body heights; x is forward, y is the
person's left, z is up.

Three pairs of actions are one movement run forwards and backwards (sit down / stand up, raise arms / lower arms, pick
up / put down) and one pair differs in tempo and amplitude (walk / run): `confusable_pairs` in `params/concepts/embedded.yaml`. As with real people the two
directions are not exact mirror images (one leans further forward to stand up than to sit down), but the difference is
within the spread between persons, so that single frames stay ambiguous.
"""

from collections.abc import Callable

import numpy as np

Pose = dict[str, np.ndarray]  # angle or offset by name, each 't'


def smoothstep(u: np.ndarray) -> np.ndarray:
    """The ease-in, ease-out ramp from 0 to 1 over u in 0..1 (clamped outside)."""
    u = np.clip(u, 0.0, 1.0)
    return u * u * (3.0 - 2.0 * u)


def bump(u: np.ndarray) -> np.ndarray:
    """0 at u = 0 and 1, 1 in the middle."""
    return np.sin(np.pi * np.clip(u, 0.0, 1.0))


def _rest(t: int, rng: np.random.Generator) -> Pose:
    """A person who stands, with the small differences between persons."""
    pose = {
        name: np.zeros(t)
        for name in (
            "lean",
            "forward",
            "jump",
            "head",
            "hip_l",
            "hip_r",
            "spread_l",
            "spread_r",
            "knee_l",
            "knee_r",
            "arm_l",
            "arm_r",
            "open_l",
            "open_r",
            "elbow_l",
            "elbow_r",
            "wrist_l",
            "wrist_r",
        )
    }
    pose["lean"] += rng.normal(2, 3)
    for side in "lr":
        pose["open_" + side] += rng.uniform(6, 16)
        pose["elbow_" + side] += rng.uniform(5, 20)
        pose["arm_" + side] += rng.normal(0, 5)
        pose["spread_" + side] += rng.uniform(2, 9)
        pose["knee_" + side] += rng.uniform(0, 6)
        pose["hip_" + side] += 0.5 * pose["knee_" + side]
    return pose


def _set(pose: Pose, **values: np.ndarray) -> Pose:
    """Overwrites angles; a name without a side sets both sides."""
    for name, value in values.items():
        for key in [name] if name in pose else [name + "_l", name + "_r"]:
            pose[key] = np.broadcast_to(np.asarray(value, dtype=float), pose[key].shape).copy()
    return pose


def _seat(pose: Pose, u: np.ndarray, rng: np.random.Generator, lean: float, reach: float) -> Pose:
    """Between standing (u = 0) and sitting on a chair (u = 1)."""
    s, depth = smoothstep(u), rng.uniform(80, 95)
    pose["lean"] = pose["lean"] + rng.normal(lean, 9) * bump(u) + 4 * s
    reach = rng.normal(reach, 16)
    rest = rng.uniform(15, 40)  # the hands lie on the thighs
    _set(pose, hip=depth * s, knee=depth * s, arm=reach * bump(u) + rest * s, elbow=10 + rng.uniform(10, 50) * s)
    pose["forward"] = -0.22 * s
    return pose


def _arms_up(pose: Pose, u: np.ndarray, rng: np.random.Generator, bend: float) -> Pose:
    """Between hanging arms (u = 0) and arms overhead (u = 1), to the front or to the side."""
    s, side, top = smoothstep(u), rng.uniform(0, 1), rng.uniform(150, 175)
    _set(
        pose, arm=(1 - side) * top * s, open=10 + side * (top - 10) * s, elbow=np.abs(rng.normal(bend, 8)) * (1 - side)
    )
    return pose


def _reach_floor(pose: Pose, u: np.ndarray, rng: np.random.Generator, knee: float) -> Pose:
    """Standing with a box in the hands (u = 0, 1) and down at the floor in the middle (u = 0.5)."""
    s = bump(u)
    bend = max(rng.normal(knee, 16), 15)
    pose["lean"] = pose["lean"] + rng.uniform(65, 90) * s
    _set(
        pose,
        hip=bend * 0.9 * s,
        knee=bend * 1.1 * s,
        arm=rng.uniform(20, 40) * (1 - s) + 25 * s,
        open=6,
        elbow=rng.uniform(50, 80) * (1 - s),
    )
    return pose


def _gait(
    pose: Pose,
    c: np.ndarray,
    rng: np.random.Generator,
    stride: float,
    lift: float,
    elbow: float,
    lean: float,
    speed: float,
) -> Pose:
    stride, lift, swing = stride * rng.uniform(0.85, 1.15), lift * rng.uniform(0.8, 1.2), rng.uniform(0.7, 1.1)
    pose["lean"] = pose["lean"] + lean
    for side, phase in (("l", 0.0), ("r", np.pi)):
        angle = 2 * np.pi * c + phase
        pose["hip_" + side] = stride * np.sin(angle) + 0.25 * lift * np.maximum(np.cos(angle), 0)
        pose["knee_" + side] = 6 + lift * np.maximum(np.cos(angle), 0)
        pose["arm_" + side] = -swing * stride * np.sin(angle)
        pose["elbow_" + side] = np.full_like(c, elbow * rng.uniform(0.8, 1.2))
    pose["forward"] = speed * rng.uniform(0.1, 0.5) * (c - c.mean())  # the camera follows more or less
    return pose


def walk(pose: Pose, c: np.ndarray, rng: np.random.Generator) -> Pose:
    return _gait(pose, c, rng, stride=24, lift=34, elbow=15, lean=2, speed=0.5)


def run(pose: Pose, c: np.ndarray, rng: np.random.Generator) -> Pose:
    pose = _gait(pose, c, rng, stride=40, lift=85, elbow=75, lean=10, speed=0.8)
    pose["jump"] = 0.04 * np.abs(np.sin(2 * np.pi * c))
    return pose


def jumping_jack(pose: Pose, c: np.ndarray, rng: np.random.Generator) -> Pose:
    s = 0.5 - 0.5 * np.cos(2 * np.pi * c)
    _set(pose, open=12 + rng.uniform(135, 160) * s, spread=4 + rng.uniform(18, 28) * s, elbow=5, arm=0)
    pose["jump"] = rng.uniform(0.03, 0.08) * np.abs(np.sin(2 * np.pi * c))
    return pose


def squat(pose: Pose, c: np.ndarray, rng: np.random.Generator) -> Pose:
    s, depth = 0.5 - 0.5 * np.cos(2 * np.pi * c), rng.uniform(85, 115)
    pose["lean"] = pose["lean"] + rng.uniform(15, 30) * s
    _set(
        pose,
        hip=depth * 0.95 * s,
        knee=depth * 1.15 * s,
        spread=rng.uniform(8, 16),
        arm=rng.uniform(60, 95) * (0.25 + 0.75 * s),
        elbow=rng.uniform(0, 50),
    )
    return pose


def wave(pose: Pose, c: np.ndarray, rng: np.random.Generator) -> Pose:
    side = rng.choice(["l", "r"])
    pose["open_" + side] = rng.uniform(85, 125) + np.zeros_like(c)
    pose["elbow_" + side] = np.zeros_like(c)
    pose["wrist_" + side] = rng.uniform(55, 80) + rng.uniform(25, 40) * np.sin(2 * np.pi * 1.5 * c)
    return pose


def clap(pose: Pose, c: np.ndarray, rng: np.random.Generator) -> Pose:
    s = 0.5 - 0.5 * np.cos(2 * np.pi * 1.5 * c)
    _set(
        pose,
        arm=rng.uniform(35, 60),
        elbow=rng.uniform(40, 65),
        open=8 + rng.uniform(20, 35) * s,
        wrist=-22 - 10 * (1 - s),
    )
    return pose


def punch(pose: Pose, c: np.ndarray, rng: np.random.Generator) -> Pose:
    pose["lean"] = pose["lean"] + rng.uniform(4, 14)
    stance = rng.uniform(12, 25)
    _set(pose, hip_l=stance, hip_r=-stance, knee=rng.uniform(12, 30))
    for side, phase in (("l", 0.0), ("r", 0.5)):
        s = np.maximum(np.sin(2 * np.pi * (c + phase)), 0) ** 1.5
        pose["arm_" + side] = 30 + 60 * s
        pose["elbow_" + side] = 115 - 110 * s
    return pose


def kick(pose: Pose, c: np.ndarray, rng: np.random.Generator) -> Pose:
    side = rng.choice(["l", "r"])
    s = np.maximum(np.sin(2 * np.pi * c), 0)
    pose["hip_" + side] = rng.uniform(70, 105) * s - 15 * np.maximum(-np.sin(2 * np.pi * c), 0)
    pose["knee_" + side] = 10 + 55 * np.maximum(np.cos(2 * np.pi * c), 0) * (1 - s)
    pose["lean"] = pose["lean"] - rng.uniform(5, 18) * s
    _set(pose, arm=rng.uniform(0, 35), open=rng.uniform(15, 45), elbow=rng.uniform(20, 70))
    return pose


def push_up(pose: Pose, c: np.ndarray, rng: np.random.Generator) -> Pose:
    s = 0.5 - 0.5 * np.cos(2 * np.pi * c)
    lean = 62 + 20 * s
    _set(
        pose,
        lean=lean,
        hip=-lean + rng.uniform(-4, 6),
        knee=0,
        spread=3,
        arm=5 - 60 * s,
        elbow=95 * s,
        open=rng.uniform(5, 25),
        head=20,
    )
    return pose


def jump_rope(pose: Pose, c: np.ndarray, rng: np.random.Generator) -> Pose:
    s = 0.5 - 0.5 * np.cos(2 * np.pi * c)
    pose["jump"] = rng.uniform(0.06, 0.12) * s
    _set(
        pose,
        hip=10 + 10 * (1 - s),
        knee=12 + 22 * (1 - s),
        spread=2,
        arm=-5,
        open=rng.uniform(16, 28),
        elbow=rng.uniform(60, 85),
        wrist=25,
    )
    return pose


# label: (trajectory, "once" over the clip or "cycle", the object it needs, the scene it prefers)
ACTIONS: dict[str, tuple[Callable[[Pose, np.ndarray, np.random.Generator], Pose], str, str, str]] = {
    "sit down": (lambda pose, u, rng: _seat(pose, u, rng, lean=26, reach=-8), "once", "chair", "room"),
    "stand up": (lambda pose, u, rng: _seat(pose, 1 - u, rng, lean=40, reach=18), "once", "chair", "room"),
    "raise arms": (lambda pose, u, rng: _arms_up(pose, u, rng, bend=8), "once", "", "gym"),
    "lower arms": (lambda pose, u, rng: _arms_up(pose, 1 - u, rng, bend=20), "once", "", "gym"),
    "pick up": (lambda pose, u, rng: _reach_floor(pose, u, rng, knee=64), "once", "box", "room"),
    "put down": (lambda pose, u, rng: _reach_floor(pose, u, rng, knee=48), "once", "box", "room"),
    "walk": (walk, "cycle", "", "street"),
    "run": (run, "cycle", "", "park"),
    "jumping jack": (jumping_jack, "cycle", "", "gym"),
    "squat": (squat, "cycle", "", "gym"),
    "wave": (wave, "cycle", "", "street"),
    "clap": (clap, "cycle", "", "room"),
    "punch": (punch, "cycle", "", "gym"),
    "kick": (kick, "cycle", "", "park"),
    "push up": (push_up, "cycle", "", "park"),
    "jump rope": (jump_rope, "cycle", "rope", "street"),
}


def perform(action: str, seconds: np.ndarray, rng: np.random.Generator, *, speed: float) -> tuple[Pose, np.ndarray]:
    """One person's performance of an action.

    Args:
        action: a key of `ACTIONS`.
        seconds: the times of the frames, 't', from 0.
        speed: tempo against the usual one (1.0).
    Returns:
        the pose, and 't' the progress: 0..1 of a movement that happens once, cycles done of one that repeats.
    """
    trajectory, kind, _, _ = ACTIONS[action]
    length = seconds[-1] - seconds[0] if len(seconds) > 1 else 1.0
    if kind == "once":  # the movement takes most of the clip; before and after it the person holds still
        took = length * np.clip(rng.uniform(0.6, 0.95) / speed, 0.4, 1.0)
        progress = (seconds - rng.uniform(0, length - took)) / took
        progress = np.clip(progress, 0.0, 1.0)
    else:
        cadence = {"run": 1.5, "jump rope": 1.4, "punch": 1.2, "walk": 0.85}.get(action, 0.8)  # cycles a second
        progress = cadence * speed * rng.uniform(0.85, 1.15) * seconds + rng.uniform(0, 1)
    return trajectory(_rest(len(seconds), rng), progress, rng), progress


def _direction(flexion: np.ndarray, abduction: np.ndarray, side: int) -> np.ndarray:
    """Unit vectors 't 3' of a limb; side is +1 for the left, -1 for the right."""
    f, a = np.radians(flexion), np.radians(abduction)
    return np.stack([np.sin(f), side * np.cos(f) * np.sin(a), -np.cos(f) * np.cos(a)], axis=-1)


def skeleton(pose: Pose, build: dict[str, float]) -> dict[str, np.ndarray]:
    """Forward kinematics: where the joints are.

    Args:
        build: 'limb' and 'broad', factors on the lengths of the limbs and on the widths of shoulders and hips.
    Returns:
        joint positions 't 3' by name, standing on the floor z = 0 (or above it by the pose's jump).
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
        joints["toe_" + name] = joints["foot_" + name] + 0.07 * _direction(
            np.clip(shin + 90, -60, 100), spread * 0, side
        )
    ground = np.min([joint[:, 2] for joint in joints.values()], axis=0)
    shift = np.stack([pose["forward"], np.zeros_like(ground), pose["jump"] - ground], axis=-1)
    return {name: joint + shift for name, joint in joints.items()}


def _angle(a: np.ndarray, b: np.ndarray) -> float:
    """Between two vectors '3', in degrees."""
    return np.degrees(np.arccos(np.clip(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)), -1, 1)))


POSTURES = [
    "body flat and low near the ground",
    "bending far forward",
    "leaning forward",
    "back upright",
    "both arms overhead",
    "one hand up",
    "arms stretched out",
    "arms hanging down",
    "elbows bent",
    "both knees bent",
    "one knee bent",
    "one leg lifted",
    "legs straight",
    "feet wide apart",
    "one foot in front",
    "feet off the ground",
    "feet together",
]


def postures(joints: dict[str, np.ndarray], frame: int) -> list[str]:
    """What a viewer can say of the body in one frame, read off the joints: some of `POSTURES`, which captions name."""
    at = {name: joint[frame] for name, joint in joints.items()}
    trunk = at["neck"] - at["pelvis"]
    lean = _angle(trunk, np.array([0.0, 0.0, 1.0]))
    words = []
    hands = [at[f"hand_{s}"][2] - at[f"shoulder_{s}"][2] for s in "lr"]
    if lean > 55 and at["pelvis"][2] < 0.42 and abs(at["foot_l"][0] - at["pelvis"][0]) > 0.3:
        words.append("body flat and low near the ground")
    elif lean > 45:
        words.append("bending far forward")
    elif lean > 20:
        words.append("leaning forward")
    else:
        words.append("back upright")
    if min(hands) > 0.08:
        words.append("both arms overhead")
    elif max(hands) > 0.05:
        words.append("one hand up")
    elif min(hands) > -0.1 and lean < 45:
        words.append("arms stretched out")
    elif max(hands) < -0.26 and lean < 45:
        words.append("arms hanging down")
    elif lean < 45:
        words.append("elbows bent")
    knees = [_angle(at[f"hip_{s}"] - at[f"knee_{s}"], at[f"foot_{s}"] - at[f"knee_{s}"]) for s in "lr"]
    if max(knees) < 125:
        words.append("both knees bent")
    elif min(knees) < 125:
        words.append("one knee bent")
    elif abs(at["foot_l"][2] - at["foot_r"][2]) > 0.15:
        words.append("one leg lifted")
    else:
        words.append("legs straight")
    if abs(at["foot_l"][1] - at["foot_r"][1]) > 0.3:
        words.append("feet wide apart")
    elif abs(at["foot_l"][0] - at["foot_r"][0]) > 0.2:
        words.append("one foot in front")
    elif min(at["toe_l"][2], at["toe_r"][2], at["foot_l"][2], at["foot_r"][2]) > 0.03:
        words.append("feet off the ground")
    else:
        words.append("feet together")
    return words
