"""Movements with tools, and of sports; without its object, one may look like another.

`u` is the progress of a movement performed once, 0..1 over 't'; `c` the number of completed cycles of a repeated one.
"""

import numpy as np

from lib.world.exercises import gait
from lib.world.poses import Rng, bump, oscillate, set_angles, smoothstep
from lib.world.skeleton import Array, Pose


def _sine(cycles: Array, phase: float = 0.0) -> Array:
    """-1 to 1, `phase` in cycles."""
    return np.sin(2 * np.pi * (cycles + phase))


def _sit(pose: Pose, rng: Rng, lean: float = 8) -> None:
    """On a chair throughout."""
    pose["lean"] += rng.normal(lean, 4)
    set_angles(pose, hip=rng.uniform(82, 92), knee=rng.uniform(78, 95), spread=6)
    pose["forward"] -= 0.22


def _alternate(pose: Pose, c: Array, name: str, centre: float, amplitude: float) -> None:
    """One angle of both sides, half a cycle apart."""
    for side, phase in (("l", 0.0), ("r", 0.5)):
        pose[f"{name}_{side}"] = centre + amplitude * _sine(c, phase)


def press(pose: Pose, c: Array, rng: Rng) -> None:
    s = oscillate(c)
    set_angles(pose, arm=45 + rng.uniform(115, 130) * s, elbow=115 * (1 - s), open=rng.uniform(8, 18))
    set_angles(pose, knee=rng.uniform(5, 15), spread=rng.uniform(6, 14))


def chop(pose: Pose, c: Array, rng: Rng) -> None:
    s = oscillate(c) ** 2  # up slowly, down fast
    pose["lean"] += 10 + rng.uniform(25, 40) * (1 - s)
    set_angles(pose, arm=35 + rng.uniform(115, 135) * s, elbow=rng.uniform(5, 20) + 25 * s, open=4)
    set_angles(pose, knee=rng.uniform(12, 28), spread=rng.uniform(8, 16))


def sweep(pose: Pose, c: Array, rng: Rng) -> None:
    swing = rng.uniform(20, 32) * _sine(c)
    pose["lean"] += rng.uniform(12, 24)
    set_angles(pose, arm=rng.uniform(25, 40), elbow=rng.uniform(20, 40), knee=rng.uniform(8, 20))
    pose["open_l"], pose["open_r"] = 6 + swing, 6 - swing
    pose["arm_r"] = pose["arm_r"] + 18
    pose["forward"] += 0.05 * _sine(c, 0.25)


def drum(pose: Pose, c: Array, rng: Rng) -> None:
    _sit(pose, rng)
    set_angles(pose, arm=rng.uniform(25, 40), open=rng.uniform(12, 25))
    _alternate(pose, 2 * c, "elbow", rng.uniform(50, 65), rng.uniform(22, 35))


def strum(pose: Pose, c: Array, rng: Rng) -> None:
    set_angles(pose, knee=rng.uniform(4, 16), spread=8)
    pose["arm_r"], pose["elbow_r"] = np.full_like(c, 10.0), 75 + 14 * _sine(2 * c)
    pose["open_r"], pose["wrist_r"] = np.full_like(c, rng.uniform(18, 30)), np.full_like(c, -45.0)
    pose["arm_l"], pose["open_l"] = np.full_like(c, rng.uniform(25, 40)), np.full_like(c, rng.uniform(30, 45))
    pose["elbow_l"] = np.full_like(c, rng.uniform(55, 75))
    pose["jump"] = 0.01 * oscillate(2 * c)


def stir(pose: Pose, c: Array, rng: Rng) -> None:
    pose["lean"] += rng.uniform(4, 12)
    pose["arm_r"], pose["elbow_r"] = 30 + 12 * _sine(c), 55 + 12 * _sine(c, 0.25)
    pose["wrist_r"] = -15 + 18 * _sine(c, 0.5)
    pose["arm_l"] = np.full_like(c, rng.uniform(0, 40))


def drink(pose: Pose, c: Array, rng: Rng) -> None:
    s = oscillate(c)
    pose["arm_r"], pose["elbow_r"] = 25 + rng.uniform(20, 30) * s, 60 + rng.uniform(65, 75) * s
    pose["open_r"], pose["wrist_r"] = np.full_like(c, rng.uniform(8, 18)), -18 * s
    pose["head"] = pose["head"] + rng.uniform(8, 20) * s


def phone(pose: Pose, c: Array, rng: Rng) -> None:
    pose["arm_r"], pose["elbow_r"] = np.full_like(c, rng.uniform(25, 40)), 140 + 3 * _sine(c)
    pose["open_r"], pose["wrist_r"] = np.full_like(c, rng.uniform(25, 38)), np.full_like(c, -25.0)
    pose["arm_l"] = rng.uniform(0, 25) * oscillate(c)
    pose["elbow_l"] = 20 + rng.uniform(10, 40) * oscillate(c)


def read(pose: Pose, c: Array, rng: Rng) -> None:
    _sit(pose, rng)
    set_angles(pose, arm=rng.uniform(20, 32), elbow=rng.uniform(65, 85), open=rng.uniform(5, 12))
    pose["head"] = pose["head"] - 25
    pose["elbow_r"] = pose["elbow_r"] + 14 * np.maximum(_sine(0.7 * c), 0)  # turns a page


def eat(pose: Pose, c: Array, rng: Rng) -> None:
    _sit(pose, rng, lean=14)
    s = oscillate(1.3 * c)
    set_angles(pose, arm=rng.uniform(28, 38), elbow=rng.uniform(45, 55))
    pose["arm_r"], pose["elbow_r"] = pose["arm_r"] + 10 * s, pose["elbow_r"] + rng.uniform(65, 80) * s
    pose["wrist_r"] = -18 * s


def type_keys(pose: Pose, c: Array, rng: Rng) -> None:
    _sit(pose, rng)
    set_angles(pose, arm=rng.uniform(25, 35))
    _alternate(pose, 2.5 * c, "elbow", rng.uniform(52, 62), rng.uniform(4, 9))


def ride(pose: Pose, c: Array, rng: Rng) -> None:
    pose["lean"] += rng.uniform(22, 38)
    set_angles(pose, arm=rng.uniform(60, 75), elbow=rng.uniform(5, 20), open=4, spread=3)
    _alternate(pose, 1.3 * c, "hip", 58, 24)
    _alternate(pose, 1.3 * c + 0.12, "knee", 68, 26)
    pose["jump"] = pose["jump"] + 0.06


def throw(pose: Pose, u: Array, rng: Rng) -> None:
    s = smoothstep(1.2 * u)
    pose["lean"] += -14 + 34 * s
    pose["arm_r"] = -35 + 230 * bump(0.75 * s + 0.1) * (s < 0.67) + (60 + 135 * (1 - s)) * (s >= 0.67)
    pose["elbow_r"] = rng.uniform(40, 60) * (1 - s)
    pose["arm_l"], pose["open_l"] = 70 * (1 - s), np.full_like(u, rng.uniform(10, 25))
    pose["hip_l"], pose["hip_r"] = 12 + 20 * s, -12 - 14 * s
    set_angles(pose, knee=rng.uniform(8, 22))


def dribble(pose: Pose, c: Array, rng: Rng) -> None:
    pose["lean"] += rng.uniform(10, 24)
    set_angles(pose, knee=rng.uniform(18, 36), hip=rng.uniform(8, 18), spread=rng.uniform(6, 12))
    pose["arm_r"], pose["elbow_r"] = 12 + 12 * oscillate(1.4 * c), 35 + rng.uniform(25, 38) * oscillate(1.4 * c)


def dance(pose: Pose, c: Array, rng: Rng) -> None:
    _alternate(pose, c, "open", rng.uniform(60, 95), rng.uniform(35, 55))
    set_angles(pose, elbow=rng.uniform(10, 50))
    _alternate(pose, 2 * c, "hip", 14, 16)
    _alternate(pose, 2 * c, "knee", 26, 22)
    pose["jump"] = 0.02 * oscillate(2 * c)


def hoop(pose: Pose, c: Array, rng: Rng) -> None:
    pose["lean"] += rng.uniform(5, 9) * _sine(c)
    set_angles(pose, open=rng.uniform(55, 85), elbow=rng.uniform(20, 60), spread=rng.uniform(6, 12))
    pose["forward"] += 0.03 * _sine(c, 0.25)


def climb(pose: Pose, c: Array, rng: Rng) -> None:
    pose["lean"] += rng.uniform(0, 8)
    _alternate(pose, c, "arm", rng.uniform(115, 130), 30)
    _alternate(pose, c, "elbow", 30, 25)
    _alternate(pose, c + 0.5, "hip", 38, 30)
    _alternate(pose, c + 0.5, "knee", 60, 36)
    pose["jump"] = 0.04 + 0.12 * (c - c.min())


def climb_down(pose: Pose, c: Array, rng: Rng) -> None:
    climb(pose, -c, rng)


def draw_bow(pose: Pose, u: Array, rng: Rng) -> None:
    s = smoothstep(1.3 * u)
    set_angles(pose, arm=rng.uniform(80, 92), elbow=4, open=4, spread=rng.uniform(8, 14))
    pose["elbow_r"], pose["open_r"], pose["arm_r"] = 130 * s, 6 + 45 * s, pose["arm_r"] - 25 * s
    pose["wrist_r"] = -50 * s


def row(pose: Pose, c: Array, rng: Rng) -> None:
    s = oscillate(c)
    pose["lean"] += -18 + rng.uniform(40, 55) * s
    set_angles(pose, hip=rng.uniform(78, 86), knee=12 + 45 * s, arm=60 + 20 * s, elbow=75 * (1 - s), open=12)


def swing_club(pose: Pose, u: Array, rng: Rng) -> None:
    swing = rng.uniform(95, 120) * np.cos(np.pi * smoothstep(1.2 * u))
    pose["lean"] += rng.uniform(18, 30)
    set_angles(pose, arm=rng.uniform(18, 30), elbow=rng.uniform(2, 12), knee=rng.uniform(12, 24), spread=10)
    pose["open_l"], pose["open_r"] = swing, -swing


def juggle(pose: Pose, c: Array, rng: Rng) -> None:
    set_angles(pose, arm=rng.uniform(12, 25), open=rng.uniform(6, 14))
    _alternate(pose, 1.5 * c, "elbow", rng.uniform(70, 85), rng.uniform(20, 30))
    pose["head"] = pose["head"] + 10


def lunge(pose: Pose, c: Array, rng: Rng) -> None:
    s, left = oscillate(c), np.floor(c) % 2 == 0
    front, back = rng.uniform(70, 85) * s, rng.uniform(20, 30) * s
    for side, ahead in (("l", left), ("r", ~left)):
        pose["hip_" + side] = np.where(ahead, front, -back)
        pose["knee_" + side] = np.where(ahead, front, back + 45 * s)
    set_angles(pose, open=rng.uniform(28, 40), elbow=rng.uniform(75, 100), wrist=-70)


def swim(pose: Pose, c: Array, rng: Rng) -> None:
    set_angles(pose, lean=rng.uniform(80, 88), spread=3, head=25)
    for side, phase in (("l", 0.0), ("r", 0.5)):
        turn = 360 * (c + phase)
        pose["arm_" + side] = 90 - 90 * np.cos(np.radians(turn)) + 20 * np.sin(np.radians(turn))
        pose["open_" + side] = 10 + 35 * np.maximum(np.sin(np.radians(turn)), 0)
        pose["elbow_" + side] = 40 * np.maximum(np.sin(np.radians(turn)), 0)
    _alternate(pose, 2 * c, "hip", -84, 10)
    set_angles(pose, knee=rng.uniform(4, 14))


def ski(pose: Pose, c: Array, rng: Rng) -> None:
    pose["lean"] += rng.uniform(24, 38) + 5 * _sine(c)
    set_angles(pose, hip=rng.uniform(35, 50), knee=rng.uniform(50, 70), open=rng.uniform(14, 26))
    _alternate(pose, c, "arm", rng.uniform(25, 40), 14)
    set_angles(pose, elbow=rng.uniform(40, 60))


def take_bow(pose: Pose, u: Array, rng: Rng) -> None:
    s = bump(u)
    pose["lean"] += rng.uniform(60, 80) * s
    set_angles(pose, arm=rng.uniform(0, 40) * s, open=6)


def lie_down(pose: Pose, u: Array, rng: Rng) -> None:
    s = smoothstep(u)
    pose["lean"] += -rng.uniform(82, 90) * s + 60 * bump(u) ** 2
    set_angles(pose, hip=rng.uniform(82, 90) * s, knee=rng.uniform(70, 95) * bump(u), open=12)
    set_angles(pose, arm=rng.uniform(60, 85) * s, elbow=15)


def get_up(pose: Pose, u: Array, rng: Rng) -> None:
    lie_down(pose, 1 - u, rng)


def fence(pose: Pose, c: Array, rng: Rng) -> None:
    s = oscillate(c)
    pose["arm_r"], pose["elbow_r"] = 60 + 95 * s, 15 + 40 * s
    pose["open_r"] = np.full_like(c, rng.uniform(4, 20))
    pose["arm_l"], pose["open_l"] = np.full_like(c, -20.0), np.full_like(c, rng.uniform(30, 60))
    pose["hip_l"], pose["hip_r"] = np.full_like(c, -20.0), 14 + 22 * (1 - s)
    set_angles(pose, knee=rng.uniform(14, 30))


def trampoline(pose: Pose, c: Array, rng: Rng) -> None:
    s = oscillate(c)
    pose["jump"] = 0.05 + rng.uniform(0.2, 0.32) * s
    set_angles(pose, open=30 + rng.uniform(50, 90) * s, elbow=10, knee=10 + 35 * (1 - s), hip=8 + 18 * (1 - s))


def push_cart(pose: Pose, c: Array, rng: Rng) -> None:
    gait(pose, c, rng, lean=14, stride=22, lift=32, elbow=15, jump=0, speed=0.5)
    set_angles(pose, arm=rng.uniform(55, 68), elbow=rng.uniform(5, 20))


def carry(pose: Pose, c: Array, rng: Rng) -> None:
    gait(pose, c, rng, lean=2, stride=20, lift=30, elbow=15, jump=0, speed=0.5)
    set_angles(pose, arm=rng.uniform(15, 28), elbow=rng.uniform(60, 78))


def walk_backwards(pose: Pose, c: Array, rng: Rng) -> None:
    gait(pose, -c, rng, lean=-2, stride=20, lift=30, elbow=18, jump=0, speed=0.5)
