"""All movements by name, and how a person performs one."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from lib.world import activities, exercises
from lib.world.exercises import arms_up, gait, reach_floor, seat
from lib.world.poses import Rng, rest
from lib.world.skeleton import Array, Pose


class Movement(NamedTuple):
    """A trajectory, performed once or, with a cadence in cycles per second, repeated."""

    trajectory: Callable[[Pose, Array, Rng], None]
    cadence: float = 0.0


MOVEMENTS = {
    "sit down": Movement(lambda pose, u, rng: seat(pose, u, rng, lean=26, reach=-8)),
    "stand up": Movement(lambda pose, u, rng: seat(pose, 1 - u, rng, lean=40, reach=18)),
    "raise arms": Movement(lambda pose, u, rng: arms_up(pose, u, rng, bend=8)),
    "lower arms": Movement(lambda pose, u, rng: arms_up(pose, 1 - u, rng, bend=20)),
    "pick up": Movement(lambda pose, u, rng: reach_floor(pose, u, rng, knee=64)),
    "put down": Movement(lambda pose, u, rng: reach_floor(pose, u, rng, knee=48)),
    "walk": Movement(partial(gait, lean=2, stride=24, lift=34, elbow=15, jump=0, speed=0.5), 0.85),
    "run": Movement(partial(gait, lean=10, stride=40, lift=85, elbow=75, jump=0.04, speed=0.8), 1.5),
    "jumping jack": Movement(exercises.jumping_jack, 0.8),
    "squat": Movement(exercises.squat, 0.8),
    "wave": Movement(exercises.wave, 0.8),
    "clap": Movement(exercises.clap, 0.8),
    "punch": Movement(exercises.punch, 1.2),
    "kick": Movement(exercises.kick, 0.8),
    "push up": Movement(exercises.push_up, 0.8),
    "jump rope": Movement(exercises.jump_rope, 1.4),
    "stand still": Movement(lambda pose, u, rng: None),
    "walk backwards": Movement(activities.walk_backwards, 0.85),
    "carry": Movement(activities.carry, 0.85),
    "push cart": Movement(activities.push_cart, 0.85),
    "press": Movement(activities.press, 0.7),
    "chop": Movement(activities.chop, 0.8),
    "sweep": Movement(activities.sweep, 0.8),
    "drum": Movement(activities.drum, 0.9),
    "strum": Movement(activities.strum, 0.9),
    "stir": Movement(activities.stir, 0.9),
    "drink": Movement(activities.drink, 0.6),
    "phone": Movement(activities.phone, 0.6),
    "read": Movement(activities.read, 0.6),
    "eat": Movement(activities.eat, 0.6),
    "type": Movement(activities.type_keys, 1.0),
    "ride": Movement(activities.ride, 0.9),
    "throw": Movement(activities.throw),
    "dribble": Movement(activities.dribble, 0.9),
    "dance": Movement(activities.dance, 0.8),
    "hoop": Movement(activities.hoop, 1.1),
    "climb": Movement(activities.climb, 0.8),
    "climb down": Movement(activities.climb_down, 0.8),
    "draw bow": Movement(activities.draw_bow),
    "row": Movement(activities.row, 0.7),
    "swing club": Movement(activities.swing_club),
    "juggle": Movement(activities.juggle, 0.8),
    "lunge": Movement(activities.lunge, 0.7),
    "swim": Movement(activities.swim, 0.7),
    "ski": Movement(activities.ski, 0.7),
    "bow": Movement(activities.take_bow),
    "lie down": Movement(activities.lie_down),
    "get up": Movement(activities.get_up),
    "fence": Movement(activities.fence, 0.9),
    "trampoline": Movement(activities.trampoline, 0.8),
}


def perform(movement: str, seconds: Array, rng: Rng, *, speed: float) -> tuple[Pose, Array]:
    """One person's performance of a movement, with variation drawn from `rng`.

    seconds: times of the frames, 't', from 0; speed: relative tempo. Returns the pose and the progress 't': 0..1 for a
    movement performed once, the number of completed cycles for a repeated one.
    """
    trajectory, cadence = MOVEMENTS[movement]
    length = seconds[-1] - seconds[0] if len(seconds) > 1 else 1.0
    if not cadence:  # the movement fills most of the clip; the person holds still before and after
        duration = length * np.clip(rng.uniform(0.6, 0.95) / speed, 0.4, 1.0)
        progress = np.clip((seconds - rng.uniform(0, length - duration)) / duration, 0.0, 1.0)
    else:
        progress = cadence * speed * rng.uniform(0.85, 1.15) * seconds + rng.uniform(0, 1)
    pose = rest(len(seconds), rng)
    trajectory(pose, progress, rng)
    return pose, progress


def telling_frame(pose: Pose, rng: Rng) -> int:
    """The frame that a photographer would choose: of three random ones, the one furthest from standing still."""
    t = len(pose["lean"])
    frames = rng.integers(t // 6, t - t // 6, 3)
    joints = [name for name in pose if name.split("_")[0] in ("arm", "open", "hip", "spread", "lean")]
    displacement = sum(np.abs(pose[name]) for name in joints)
    return int(frames[displacement[frames].argmax()])
