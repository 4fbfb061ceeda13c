"""Sixteen everyday movements and exercises, without tools.

`u` is the progress of a movement performed once, 0..1 over 't'; `c` the number of completed cycles of a repeated one.
"""

import numpy as np

from lib.world.poses import Rng, bump, oscillate, set_angles, smoothstep
from lib.world.skeleton import Array, Pose


def seat(pose: Pose, u: Array, rng: Rng, lean: float, reach: float) -> None:
    """From standing (u = 0) to sitting on a chair (u = 1)."""
    s, depth = smoothstep(u), rng.uniform(80, 95)
    pose["lean"] = pose["lean"] + rng.normal(lean, 9) * bump(u) + 4 * s
    reach = rng.normal(reach, 16)
    thigh = rng.uniform(15, 40)  # where the hands rest
    set_angles(pose, hip=depth * s, knee=depth * s, arm=reach * bump(u) + thigh * s, elbow=10 + rng.uniform(10, 50) * s)
    pose["forward"] = -0.22 * s


def arms_up(pose: Pose, u: Array, rng: Rng, bend: float) -> None:
    """From hanging arms (u = 0) to arms overhead (u = 1), via the front or the side."""
    s, side, top = smoothstep(u), rng.uniform(0, 1), rng.uniform(150, 175)
    set_angles(pose, arm=(1 - side) * top * s, open=10 + side * (top - 10) * s)
    set_angles(pose, elbow=np.abs(rng.normal(bend, 8)) * (1 - side))


def reach_floor(pose: Pose, u: Array, rng: Rng, knee: float) -> None:
    """Standing with a box in the hands (u = 0 and 1), reaching to the floor (u = 0.5)."""
    s, bend = bump(u), max(rng.normal(knee, 16), 15)
    pose["lean"] += rng.uniform(65, 90) * s
    set_angles(pose, hip=bend * 0.9 * s, knee=bend * 1.1 * s, open=6)
    set_angles(pose, arm=rng.uniform(20, 40) * (1 - s) + 25 * s, elbow=rng.uniform(50, 80) * (1 - s))


def gait(
    pose: Pose, c: Array, rng: Rng, *, lean: float, stride: float, lift: float, elbow: float, jump: float, speed: float
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
    set_angles(pose, open=12 + rng.uniform(135, 160) * s, spread=4 + rng.uniform(18, 28) * s, elbow=5, arm=0)
    pose["jump"] = rng.uniform(0.03, 0.08) * np.abs(np.sin(2 * np.pi * c))


def squat(pose: Pose, c: Array, rng: Rng) -> None:
    s, depth = oscillate(c), rng.uniform(85, 115)
    pose["lean"] += rng.uniform(15, 30) * s
    set_angles(pose, hip=depth * 0.95 * s, knee=depth * 1.15 * s, spread=rng.uniform(8, 16))
    set_angles(pose, arm=rng.uniform(60, 95) * (0.25 + 0.75 * s), elbow=rng.uniform(0, 50))


def wave(pose: Pose, c: Array, rng: Rng) -> None:
    side = rng.choice(["l", "r"])
    pose["open_" + side] = np.full_like(c, rng.uniform(85, 125))
    pose["elbow_" + side] = np.zeros_like(c)
    pose["wrist_" + side] = rng.uniform(55, 80) + rng.uniform(25, 40) * np.sin(2 * np.pi * 1.5 * c)


def clap(pose: Pose, c: Array, rng: Rng) -> None:
    s = 0.5 - 0.5 * np.cos(2 * np.pi * 1.5 * c)
    set_angles(pose, arm=rng.uniform(35, 60), elbow=rng.uniform(40, 65))
    set_angles(pose, open=8 + rng.uniform(20, 35) * s, wrist=-22 - 10 * (1 - s))


def punch(pose: Pose, c: Array, rng: Rng) -> None:
    pose["lean"] += rng.uniform(4, 14)
    stance = rng.uniform(12, 25)
    set_angles(pose, hip_l=stance, hip_r=-stance, knee=rng.uniform(12, 30))
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
    set_angles(pose, arm=rng.uniform(0, 35), open=rng.uniform(15, 45), elbow=rng.uniform(20, 70))


def push_up(pose: Pose, c: Array, rng: Rng) -> None:
    s = oscillate(c)
    lean = 62 + 20 * s
    set_angles(pose, lean=lean, hip=-lean + rng.uniform(-4, 6), knee=0, spread=3, head=20)
    set_angles(pose, arm=5 - 60 * s, elbow=95 * s, open=rng.uniform(5, 25))


def jump_rope(pose: Pose, c: Array, rng: Rng) -> None:
    s = oscillate(c)
    pose["jump"] = rng.uniform(0.06, 0.12) * s
    set_angles(pose, hip=10 + 10 * (1 - s), knee=12 + 22 * (1 - s), spread=2)
    set_angles(pose, arm=-5, open=rng.uniform(16, 28), elbow=rng.uniform(60, 85), wrist=25)
