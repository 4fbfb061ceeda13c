"""Poses over time: the person at rest, and the curves that movements are made of.

The angles are those of `skeleton`. Every movement varies from person to person: `rng` draws its extent and its style.
"""

import numpy as np

from lib.world.skeleton import Array, Pose

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


def rest(t: int, rng: Rng) -> Pose:
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


def set_angles(pose: Pose, **values: Array | float) -> None:
    """Overwrites angles; names without a side set both sides."""
    for name, value in values.items():
        for key in [name] if name in pose else [name + "_l", name + "_r"]:
            pose[key] = np.full_like(pose[key], value)
