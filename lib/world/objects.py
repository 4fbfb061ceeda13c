"""Objects that people use, as lines in the world; several hide or reveal which of two similar movements it is."""

from collections.abc import Callable

import numpy as np

from lib.world.skeleton import Array

Joints = dict[str, Array]  # positions 't 3' by name
Lines = list[Array]  # polylines 'p 3', in body heights
BOX_FACE = [(-0.1, -0.07), (0.1, -0.07), (0.1, 0.07), (-0.1, 0.07), (-0.1, -0.07)]  # y, z relative to the centre
UP = np.array([0.0, 0.0, 1.0])


def objects(name: str, movement: str, joints: Joints, progress: Array, frame: int) -> Lines:
    """The object of an action in one frame; "": none."""
    return OBJECTS[name](movement, joints, progress, frame) if name else []


def _line(*points) -> Array:
    """A polyline from its points, or a point from its three coordinates."""
    return np.array(points, dtype=float)


def _circle(centre: Array, radius: float, *, plane: str = "xz", points: int = 11) -> Array:
    angle = np.linspace(0, 2 * np.pi, points)
    ring = np.zeros((points, 3))
    for axis, values in zip(plane, (np.cos(angle), np.sin(angle))):
        ring[:, "xyz".index(axis)] = radius * values
    return centre + ring


def _hands(joints: Joints, frame: int) -> Array:
    return (joints["hand_l"][frame] + joints["hand_r"][frame]) / 2


def _forearm(joints: Joints, frame: int, side: str = "r") -> Array:
    """Unit vector '3' from elbow to hand."""
    along = joints["hand_" + side][frame] - joints["elbow_" + side][frame]
    return along / np.linalg.norm(along)


def _chair_at(x: float) -> Lines:
    z = 0.22
    legs = [[(x - 0.1, y, 0), (x - 0.1, y, z), (x + 0.13, y, z), (x + 0.13, y, 0)] for y in (-0.11, 0.11)]
    back = [(x - 0.1, -0.11, z), (x - 0.13, -0.11, z + 0.28), (x - 0.13, 0.11, z + 0.28), (x - 0.1, 0.11, z)]
    return [_line(*line) for line in (*legs, back, [(x + 0.13, -0.11, z), (x + 0.13, 0.11, z)])]


def _chair(movement: str, joints: Joints, progress: Array, frame: int) -> Lines:
    # stands where the person sits, which may be before or after the clip
    return _chair_at(joints["pelvis"][:, 0].min() if np.ptp(joints["pelvis"][:, 0]) > 0.1 else -0.22)


def _box(movement: str, joints: Joints, progress: Array, frame: int) -> Lines:
    # in the hands before it is put down or after it is picked up, else on the floor
    down = int(np.abs(progress - 0.5).argmin())
    in_hands = progress[frame] > 0.5 if movement == "pick up" else progress[frame] < 0.5
    if movement not in ("pick up", "put down"):
        in_hands = True
    hands = _hands(joints, frame)
    x, y, z = hands if in_hands else (*_hands(joints, down)[:2], 0.07)
    face = np.array([(x, y + dy, max(z, 0.07) + dz) for dy, dz in BOX_FACE])
    return [face, face + (0.1, 0, 0)]


def _rope(movement: str, joints: Joints, progress: Array, frame: int) -> Lines:
    # an arc from hand to hand that turns around the body once per cycle
    angle, along = 2 * np.pi * progress[frame] + np.pi, np.linspace(0, 1, 9)[:, None]
    middle = joints["pelvis"][frame] + 0.62 * np.array([np.sin(angle), 0, np.cos(angle)])
    line = (1 - along) * joints["hand_l"][frame] + along * joints["hand_r"][frame]
    line = line + 4 * along * (1 - along) * (middle - _hands(joints, frame))
    return [np.maximum(line, [-np.inf, -np.inf, 0.0])]


def _barbell(movement: str, joints: Joints, progress: Array, frame: int) -> Lines:
    hands, ends = _hands(joints, frame), (-0.34, 0.34)
    bar = _line(*(hands + (0, y, 0) for y in ends))
    return [bar, *(_circle(hands + (0, y, 0), r) for y in ends for r in (0.11, 0.06))]


def _ball(movement: str, joints: Joints, progress: Array, frame: int) -> Lines:
    now = progress[frame]
    if movement == "kick":  # it lies in front until the leg is highest, then flies
        gone = max(np.sin(2 * np.pi * now), 0) * (np.cos(2 * np.pi * now) < 0)
        centre = _line(0.32 + 0.5 * gone, 0, 0.06 + 0.3 * gone)
    elif movement == "throw":
        flight = max(now - 0.5, 0)
        centre = joints["hand_r"][frame] + (0.04 + 1.6 * flight, 0, 0.03 + 0.5 * flight - flight**2)
    else:  # bounces once per push of the hand
        hand = joints["hand_r"][frame]
        height = abs(np.cos(np.pi * 1.4 * now))
        centre = _line(hand[0] + 0.05, hand[1], 0.06 + (hand[2] - 0.1) * height)
    return [_circle(centre, r) for r in (0.065, 0.03)]


def _balls(movement: str, joints: Joints, progress: Array, frame: int) -> Lines:
    hands, lines = (joints["hand_l"][frame], joints["hand_r"][frame]), []
    for ball in range(3):
        along = (1.5 * progress[frame] + ball / 3) % 1
        centre = (1 - along) * hands[0] + along * hands[1] + (0.05, 0, 0.05 + 1.4 * along * (1 - along))
        lines += [_circle(centre, 0.045, points=7), _circle(centre, 0.015, points=5)]
    return lines


def _tool(length: float, head: float) -> Callable[..., Lines]:
    """A handle held in both hands that prolongs the forearms, with a head across its end."""

    def tool(movement: str, joints: Joints, progress: Array, frame: int) -> Lines:
        hands, along = _hands(joints, frame), _forearm(joints, frame) + _forearm(joints, frame, "l")
        end = hands + length * along / np.linalg.norm(along)
        end[2] = max(end[2], 0.01)
        lines = [_line(hands - 0.08 * along, end)]
        return lines + ([_line(end - (0.02, 0, head), end + (0.1, 0, 0))] if head else [])

    return tool


def _log(movement: str, joints: Joints, progress: Array, frame: int) -> Lines:
    return [_circle(_line(0.62, 0, z), 0.12, plane="xy") for z in (0.02, 0.1, 0.18)]


def _axe(*moment) -> Lines:
    return _tool(0.3, 0.1)(*moment) + _log(*moment)


def _handle_to_floor(width: float, teeth: int) -> Callable[..., Lines]:
    """A broom or a rake: from the hands down to the floor in front."""

    def tool(movement: str, joints: Joints, progress: Array, frame: int) -> Lines:
        high, low = joints["hand_r"][frame], joints["hand_l"][frame]
        foot = _line(low[0] + 0.3, low[1] + 0.25 * np.sin(2 * np.pi * progress[frame]), 0.03)
        lines = [_line(high, low, foot), _line(foot - (0, width, 0), foot + (0, width, 0))]
        places = np.linspace(-width, width, teeth)
        return lines + [_line(foot + (0, y, 0), foot + (0.06, y, -0.03)) for y in places]

    return tool


def _flag(movement: str, joints: Joints, progress: Array, frame: int) -> Lines:
    side = max("lr", key=lambda s: joints["hand_" + s][frame][2])
    hand, along = joints["hand_" + side][frame], _forearm(joints, frame, side)
    top, across = hand + 0.4 * along, np.array([0.0, 0.26 if side == "l" else -0.26, 0.0])
    low = hand + 0.2 * along
    cloth = [_line(top - k * (top - low), top - k * (top - low) + across) for k in (0.0, 0.33, 0.66, 1.0)]
    return [_line(hand - 0.1 * along, top), *cloth]


def _bag(movement: str, joints: Joints, progress: Array, frame: int) -> Lines:
    x = 0.46 + 0.03 * np.sin(4 * np.pi * progress[frame])
    sides = [_line((x + dx, dy, 0.42), (x + dx, dy, 0.95)) for dx, dy in ((-0.05, 0), (0.05, 0), (0, 0.06), (0, -0.06))]
    return [*sides, _line((x, 0, 0.95), (x, 0, 1.25))]


def _drums(movement: str, joints: Joints, progress: Array, frame: int) -> Lines:
    drum = [_circle(_line(0.3, y, z), 0.14, plane="xy") for y in (-0.16, 0.16) for z in (0.2, 0.36)]
    sticks = []
    for s in "lr":
        hand = joints["hand_" + s][frame]
        sticks.append(_line(hand, hand + 0.16 * _forearm(joints, frame, s)))
    return _chair_at(joints["pelvis"][frame, 0])[:2] + drum + sticks


def _guitar(movement: str, joints: Joints, progress: Array, frame: int) -> Lines:
    body, left = joints["pelvis"][frame] + (0.1, -0.04, 0.08), joints["hand_l"][frame]
    return [_circle(body, r, plane="yz") for r in (0.12, 0.08, 0.03)] + [_line(body, left, left + 0.25 * (left - body))]


def _pot(movement: str, joints: Joints, progress: Array, frame: int) -> Lines:
    hand = joints["hand_r"][frame]
    pot = [_circle(_line(0.3, 0, z), 0.13, plane="xy") for z in (0.4, 0.47, 0.53)]
    stove = [_line((0.16, y, 0), (0.16, y, 0.38), (0.5, y, 0.38), (0.5, y, 0)) for y in (-0.2, 0.2)]
    return [*pot, *stove, _line(hand, (0.3, 0, 0.42))]


def _in_hand(height: float, width: float) -> Callable[..., Lines]:
    """A small upright thing in the right hand."""

    def thing(movement: str, joints: Joints, progress: Array, frame: int) -> Lines:
        x, y, z = joints["hand_r"][frame] + (0.03, 0, 0)
        edges = [(x, y - width, z - height), (x, y - width, z + height), (x, y + width, z + height)]
        return [_line(*edges, (x, y + width, z - height), edges[0]), _line((x, y, z - height), (x, y, z + height))]

    return thing


def _book(movement: str, joints: Joints, progress: Array, frame: int) -> Lines:
    x, y, z = _hands(joints, frame) + (0.04, 0, 0.03)
    pages = [_line((x, y, z - 0.07), (x - 0.03, y + s, z - 0.07), (x - 0.03, y + s, z + 0.07), (x, y, z + 0.07))
             for s in (-0.12, 0.12)]  # fmt: skip
    return _chair_at(joints["pelvis"][frame, 0]) + [*pages, _line((x, y, z - 0.07), (x, y, z + 0.07))]


def _table(movement: str, joints: Joints, progress: Array, frame: int) -> Lines:
    legs = [_line((0.12, y, 0), (0.12, y, 0.36), (0.55, y, 0.36), (0.55, y, 0)) for y in (-0.22, 0.22)]
    return (
        _chair_at(joints["pelvis"][frame, 0]) + legs + [_line((x, -0.22, 0.36), (x, 0.22, 0.36)) for x in (0.12, 0.55)]
    )


def _plate(*moment) -> Lines:
    return _table(*moment) + [_circle(_line(0.26, 0, 0.38), r, plane="xy") for r in (0.1, 0.06)]


def _laptop(*moment) -> Lines:
    screen = _line(
        (0.36, -0.14, 0.38), (0.42, -0.14, 0.58), (0.42, 0.14, 0.58), (0.36, 0.14, 0.38), (0.36, -0.14, 0.38)
    )
    keys = _line((0.36, -0.14, 0.38), (0.2, -0.14, 0.38), (0.2, 0.14, 0.38), (0.36, 0.14, 0.38))
    return [*_table(*moment), screen, keys]


def _bike(movement: str, joints: Joints, progress: Array, frame: int) -> Lines:
    x, y, z = joints["pelvis"][frame]
    front, rear, crank = _line(x + 0.5, y, 0.17), _line(x - 0.2, y, 0.17), _line(x + 0.12, y, 0.15)
    seat, bar = _line(x, y, z - 0.03), _line(x + 0.42, y, z + 0.02)
    frame_lines = [_line(rear, crank, seat, rear), _line(crank, bar, seat), _line(front, bar, bar + (0.06, 0, 0.05))]
    return [_circle(front, 0.17), _circle(rear, 0.17), *frame_lines]


def _hoop(movement: str, joints: Joints, progress: Array, frame: int) -> Lines:
    angle = 2 * np.pi * progress[frame]
    centre = joints["pelvis"][frame] + (0.12 * np.cos(angle), 0.12 * np.sin(angle), 0.03)
    return [_circle(centre, 0.3, plane="xy", points=17)]


def _ladder(movement: str, joints: Joints, progress: Array, frame: int) -> Lines:
    rails = [_line((0.24, y, 0), (0.24, y, 1.7)) for y in (-0.14, 0.14)]
    return rails + [_line((0.24, -0.14, z), (0.24, 0.14, z)) for z in np.arange(0.1, 1.7, 0.16)]


def _bow(movement: str, joints: Joints, progress: Array, frame: int) -> Lines:
    grip, right = joints["hand_l"][frame], joints["hand_r"][frame]
    tips = [grip + (-0.08, 0, z) for z in (-0.3, 0.3)]
    arrow = [_line(right, right + 0.5 * (grip - right) / max(np.linalg.norm(grip - right), 0.1))]
    return [_line(tips[0], grip, tips[1]), _line(tips[0], right, tips[1])] + (arrow if progress[frame] < 0.95 else [])


def _javelin(movement: str, joints: Joints, progress: Array, frame: int) -> Lines:
    flight = max(progress[frame] - 0.5, 0)
    centre = joints["hand_r"][frame] + (1.8 * flight, 0, 0.4 * flight)
    return [_line(centre - (0.42, 0, 0.12), centre + (0.42, 0, 0.12))]


def _boat(movement: str, joints: Joints, progress: Array, frame: int) -> Lines:
    hulls = [_line((-0.5, 0, 0.2), (-0.3, y, 0.16), (0.6, y, 0.16), (0.85, 0, 0.2)) for y in (-0.17, 0.17)]
    keel, oars = _line((-0.5, 0, 0.2), (-0.3, 0, 0.0), (0.6, 0, 0.0), (0.85, 0, 0.2)), []
    for s, side in (("l", 1), ("r", -1)):
        hand = joints["hand_" + s][frame]
        oars.append(_line(hand, hand + (-0.3 * np.sin(2 * np.pi * progress[frame]), 0.5 * side, -0.22)))
    return [*hulls, keel, *oars]


def _skis(movement: str, joints: Joints, progress: Array, frame: int) -> Lines:
    lines = []
    for s in "lr":
        foot, hand = joints["foot_" + s][frame], joints["hand_" + s][frame]
        lines.append(_line(foot + (-0.3, 0, 0.01), foot + (0.4, 0, 0.01), foot + (0.48, 0, 0.05)))
        lines.append(_line(hand + (0.03, 0, 0.05), hand + (-0.3, 0, -hand[2] + 0.02)))
    return lines


def _cart(movement: str, joints: Joints, progress: Array, frame: int) -> Lines:
    x, y, z = _hands(joints, frame)
    basket = [_line((x, y + s, z), (x + 0.06, y + s, 0.18), (x + 0.42, y + s, 0.18), (x + 0.5, y + s, z), (x, y + s, z))
              for s in (-0.13, 0.13)]  # fmt: skip
    return basket + [_circle(_line(x + dx, y, 0.06), 0.05, points=7) for dx in (0.1, 0.38)]


def _trampoline(movement: str, joints: Joints, progress: Array, frame: int) -> Lines:
    legs = [_line((x, y, 0.0), (x, y, 0.05)) for x in (-0.4, 0.4) for y in (-0.3, 0.3)]
    return [_circle(_line(0, 0, 0.05), r, plane="xy", points=17) for r in (0.52, 0.46)] + legs


def _treadmill(movement: str, joints: Joints, progress: Array, frame: int) -> Lines:
    x = joints["pelvis"][frame, 0]
    belt = [_line((x - 0.4, y, 0.0), (x + 0.45, y, 0.0)) for y in (-0.14, -0.05, 0.05, 0.14)]
    posts = [_line((x + 0.4, y, 0), (x + 0.46, y, 0.55), (x + 0.3, y, 0.55)) for y in (-0.15, 0.15)]
    return [*belt, *posts, _line((x + 0.46, -0.15, 0.55), (x + 0.46, 0.15, 0.55))]


OBJECTS = {
    "chair": _chair,
    "box": _box,
    "rope": _rope,
    "barbell": _barbell,
    "ball": _ball,
    "balls": _balls,
    "axe": _axe,
    "broom": _handle_to_floor(0.1, 5),
    "rake": _handle_to_floor(0.16, 7),
    "flag": _flag,
    "bag": _bag,
    "drums": _drums,
    "guitar": _guitar,
    "pot": _pot,
    "cup": _in_hand(0.045, 0.03),
    "phone": _in_hand(0.06, 0.015),
    "book": _book,
    "plate": _plate,
    "laptop": _laptop,
    "bike": _bike,
    "hoop": _hoop,
    "ladder": _ladder,
    "bow": _bow,
    "javelin": _javelin,
    "boat": _boat,
    "club": _tool(0.42, 0.03),
    "sword": _tool(0.4, 0.0),
    "skis": _skis,
    "cart": _cart,
    "trampoline": _trampoline,
    "treadmill": _treadmill,
}
