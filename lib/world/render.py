"""Draws people who perform actions: stills with facts for captions, and videos.

*Stills*, which the small CLIPs are trained on, resemble pictures on the web: a sharp, well-lit, centred person seen
from the front or the side. *Videos* deviate from them with `world_difficulty`: arbitrary viewpoints, smaller people,
clutter, occluders, a moving camera, dim and tinted light, blur, noise and compression.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from lib.world.definition import Action, Crew, World
from lib.world.movements import perform, telling_frame
from lib.world.objects import objects
from lib.world.poses import Rng
from lib.world.skeleton import Array, postures, skeleton

COLOURS = {
    "red": (205, 45, 45),
    "orange": (235, 140, 40),
    "yellow": (230, 210, 60),
    "green": (60, 150, 70),
    "blue": (50, 90, 200),
    "purple": (130, 70, 170),
    "white": (235, 235, 235),
    "black": (40, 40, 45),
}
TROUSERS = {
    "black": (35, 35, 40),
    "blue": (50, 65, 130),
    "grey": (125, 125, 130),
    "brown": (115, 80, 50),
    "white": (225, 225, 220),
}
SKINS = [(245, 208, 178), (224, 172, 125), (172, 116, 78), (110, 70, 45)]
HAIRS = [(30, 25, 20), (95, 60, 30), (190, 150, 80), (150, 150, 150)]
SCENES = {
    "room": ((214, 204, 188), (150, 110, 80)),
    "gym": ((170, 175, 185), (190, 150, 100)),
    "park": ((165, 205, 235), (95, 150, 70)),
    "street": ((185, 165, 150), (110, 110, 115)),
    "beach": ((150, 205, 240), (225, 205, 150)),
    "kitchen": ((225, 225, 210), (165, 155, 150)),
    "stage": ((95, 35, 45), (110, 75, 50)),
    "pool": ((190, 215, 225), (70, 150, 205)),
    "snow": ((170, 195, 230), (240, 243, 248)),
}  # wall or sky, ground
OVERSAMPLING = 2  # drawn at this scale and averaged down, because Pillow does not anti-alias lines
MARGIN = 0.25  # of the backdrop above the frame, in frame heights
THIN = {"rope", "bow", "hoop", "javelin", "rake", "boat"}  # drawn with thin lines


def _look(still: bool, difficulty: float, crew: Crew | None, rng: Rng) -> dict[str, float]:
    """Camera, light and sensor of one clip. difficulty: 0 for the easiest videos, 1 for the hardest; `crew` may set
    it, and what follows from it."""
    crew = None if still else crew
    d = 0.0 if still else rng.uniform(*crew.difficulty) if crew else difficulty
    look = {
        "yaw": rng.uniform(-1, 1) * (75 if still else 75 + 105 * d),  # degrees; 0: the person faces the camera
        "pitch": rng.uniform(0, 6 + 20 * d),
        "height": rng.uniform(0.80 - 0.35 * d, 0.94 - 0.22 * d),  # of the person, in frame heights
        "shift_x": rng.uniform(-1, 1) * (0.04 + 0.16 * d),
        "shift_y": rng.uniform(-1, 1) * (0.02 + 0.06 * d),
        "pan": rng.normal(0, 0.10 * d),  # frame widths over the clip
        "shake": 0.012 * d,
        "gain": rng.uniform(0.85 - 0.45 * d, 1.1),
        "tint": 0.05 + 0.25 * d,
        "haze": rng.uniform(0, 0.35 * d),
        "blur": rng.uniform(0, 0.3 + 2.0 * d),  # pixels before downsampling
        "ghost": rng.uniform(0, 0.55 * d),  # weight of the previous frame
        "noise": rng.uniform(0, 3 + 11 * d),
        "clutter": rng.poisson(0.3 + 4 * d),
        "occluders": int(rng.random() < 0.65 * d),
        "vignette": rng.uniform(0, 0.5 * d),
        "tempo": float(np.exp(rng.normal(0, 0.15 + 0.15 * d))),
        "zoom": 1.0,
    }
    if crew:
        look |= {name: rng.uniform(*span) for name in ("gain", "zoom") if (span := getattr(crew, name))}
        look["yaw"] = rng.choice([-1, 1]) * rng.uniform(*crew.yaw) if crew.yaw else look["yaw"]
        look["pan"] = rng.normal(0, crew.pan) if crew.pan is not None else look["pan"]
        look["shake"] = look["shake"] if crew.shake is None else crew.shake
        look["clutter"] = rng.integers(*crew.clutter, endpoint=True) if crew.clutter else look["clutter"]
    return look


class Camera(NamedTuple):
    """An orthographic camera; lengths in pixels before downsampling."""

    yaw: float
    pitch: float
    unit: float  # one body height
    target: Array  # '3', the point in the world that it looks at
    feet: Array  # 't 2', the image position of the floor below the target in each frame

    def project(self, point: Array, frame: int) -> Array:
        """World coordinates '... 3' -> image x, image y and nearness to the viewer."""
        x, y, z = point[..., 0] - self.target[0], point[..., 1] - self.target[1], point[..., 2]
        right = x * np.sin(self.yaw) - y * np.cos(self.yaw)
        near = x * np.cos(self.yaw) + y * np.sin(self.yaw)
        across = self.feet[frame, 0] + self.unit * right
        down = self.feet[frame, 1] - self.unit * (z * np.cos(self.pitch) - near * np.sin(self.pitch))
        return np.stack([across, down, near * np.cos(self.pitch) + z * np.sin(self.pitch)], axis=-1)


def _colour(rgb: Array) -> tuple[int, ...]:
    return tuple(int(c) for c in np.clip(rgb, 0, 255))


def _backdrop(size: int, horizon: float, scene: str, clutter: int, rng: Rng) -> Image.Image:
    """The scene, larger than the frame so that the camera can move. horizon: in frame heights from the top."""
    image = Image.new("RGB", (2 * size, round(1.5 * size)))
    draw = ImageDraw.Draw(image)
    wall, ground = (np.array(colour) + rng.normal(0, 14, 3) for colour in SCENES[scene])
    horizon += MARGIN

    def box(x: float, y: float, width: float, height: float, colour: Array) -> None:
        draw.rectangle([x * size, y * size, (x + width) * size, (y + height) * size], fill=_colour(colour))

    box(0, 0, 2, horizon, wall)
    box(0, horizon, 2, 2, ground)
    for x in np.arange(0, 2, 0.5) + rng.uniform(0, 0.3):
        if scene == "room":  # windows
            box(x, horizon - 0.5, 0.25, 0.3, np.array((200, 225, 240)))
        elif scene == "gym":  # wall bars
            for i in range(4):
                box(x, horizon - 0.12 - 0.13 * i, 0.4, 0.02, wall * 0.75)
        elif scene == "park":  # trees
            y = horizon - rng.uniform(0.15, 0.3)
            box(x, y, 0.05, horizon - y, np.array((100, 70, 45)))
            crown = (x - 0.1, y - 0.25, x + 0.15, y + 0.05)
            draw.ellipse([edge * size for edge in crown], fill=(60, 120, 55))
        elif scene == "street":  # houses
            y = horizon - rng.uniform(0.25, 0.65)
            box(x, y, 0.42, horizon - y, wall * rng.uniform(0.6, 0.95))
        elif scene == "beach":  # the sea
            box(0, horizon - 0.14, 2, 0.14, np.array((45, 110, 190)))
        elif scene == "kitchen":  # cupboards
            box(x, horizon - 0.62, 0.4, 0.22, np.array((190, 140, 90)))
            box(x, horizon - 0.2, 0.45, 0.2, np.array((120, 120, 125)))
        elif scene == "stage":  # curtains
            box(x, 0, 0.2, horizon, wall * 1.5)
        elif scene == "pool":  # lanes
            box(0, horizon + 0.08 + 0.2 * x, 2, 0.02, np.array((235, 235, 235)))
        else:  # snowy mountains
            peak = horizon - rng.uniform(0.3, 0.6)
            edges = [(x - 0.2, horizon), (x + 0.15, peak), (x + 0.5, horizon)]
            draw.polygon([(across * size, down * size) for across, down in edges], fill=(205, 215, 232))
    for _ in range(clutter):
        width, height = rng.uniform(0.05, 0.2, 2)
        box(rng.uniform(0.4, 1.5), horizon + rng.uniform(-0.35, 0.08), width, height, rng.uniform(30, 230, 3))
    return image


def _facts(name: str, action: Action, scenes: list[str], yaw: float, rng: Rng) -> dict:
    """What a caption may mention, except the postures."""
    if action.only or rng.random() < 0.4:
        scene = action.place
    else:
        scene = scenes[rng.integers(len(scenes))]
    shirt, trousers = (list(colours)[rng.integers(len(colours))] for colours in (COLOURS, TROUSERS))
    view = "front" if abs(yaw) < 35 else "side" if abs(yaw) < 125 else "back"
    return dict(action=name, shirt=shirt, scene=scene, object=action.object, trousers=trousers, view=view)


def _limbs(shirt: Array, trousers: Array, sleeve: Array) -> list[tuple[str, str, Array, float]]:
    """Both joints, colour and width of each limb."""
    limbs = []
    for s in "lr":
        limbs.append(("hip_" + s, "knee_" + s, trousers, 0.095))
        limbs.append(("knee_" + s, "foot_" + s, trousers * 0.9, 0.075))
        limbs.append(("foot_" + s, "toe_" + s, np.array((45, 35, 35)), 0.06))
        limbs.append(("shoulder_" + s, "elbow_" + s, shirt * 0.85, 0.07))
        limbs.append(("elbow_" + s, "hand_" + s, sleeve, 0.055))
    return limbs


def _draw_stroke(draw: ImageDraw.ImageDraw, points: Array, colour: Array, width: float, filled: bool) -> None:
    fill, flat, r = _colour(colour), [(x, y) for x, y, _ in points], width / 2
    if filled:
        draw.polygon(flat, fill=fill)
    draw.line(flat, fill=fill, width=max(round(width), 1), joint="curve")
    for x, y in (flat[0], flat[-1]):  # round ends
        draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)


def _draw_head(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, yaw: float, skin: Array, hair: Array) -> None:
    draw.ellipse([x - r, y - 1.1 * r, x + r, y + 1.1 * r], fill=_colour(hair))
    x, y, r = x + 0.5 * r * np.sin(yaw), y + 0.25 * r, r * (0.85 if np.cos(yaw) > -0.5 else 0.0)  # the face
    draw.ellipse([x - r, y - r, x + r, y + r], fill=_colour(skin))


class Shot(NamedTuple):
    """One camera setting, from a frame on."""

    start: int
    camera: Camera
    backdrop: Image.Image


def _shot(start: int, look: dict[str, float], target: Array, shift: Array, scene: str, canvas: int, rng: Rng) -> Shot:
    height = look["height"] * look["zoom"]
    floor = 0.5 + look["height"] / 2 + look["shift_y"] + 0.95 * (height - look["height"])  # close-ups keep the head
    feet = ([0.5 + look["shift_x"], floor] - shift) * canvas
    camera = Camera(np.radians(look["yaw"]), np.radians(look["pitch"]), height * canvas, target, feet)
    horizon = 0.5 + look["height"] / 2 + look["shift_y"] - rng.uniform(0.06, 0.2)
    return Shot(start, camera, _backdrop(canvas, horizon, scene, look["clutter"], rng))


def render(
    world: World,
    name: str,
    rng: Rng,
    *,
    size: int,
    num_frames: int,
    fps: float,
    still: bool,
    difficulty: float = 0.0,
    crew: Crew | None = None,
    film: Rng | None = None,
    action: Action | None = None,
) -> tuple[Array, dict]:
    """Renders one person performing an action for `num_frames`; a still is a single frame of such a clip.

    size: height and width in pixels. difficulty: 0..1, how far videos deviate from stills (unused for stills and where
    a crew has one). film: draws person, place and camera instead of `rng`, so that clips of a film share them. action:
    of the world, unless another is given. Returns frames 't h w c' uint8 and the facts that a caption may mention
    (postures are those of the first frame).
    """
    action, film = action or world.actions[name], film or rng
    look = _look(still, difficulty, crew, film)
    pose, progress = perform(action.movement, np.arange(num_frames) / fps, rng, speed=look["tempo"])
    joints = skeleton(pose, {"limb": film.uniform(0.9, 1.1), "broad": film.uniform(0.85, 1.2)})
    frames = [telling_frame(pose, rng)] if still else list(range(num_frames))
    facts = _facts(name, action, list(world.scenes), look["yaw"], film) | {"postures": postures(joints, frames[0])}

    shift = np.cumsum(rng.normal(0, look["shake"], (num_frames, 2)), axis=0)
    shift[:, 0] += look["pan"] * np.linspace(-0.5, 0.5, num_frames)
    shift = np.clip(shift, -0.2, 0.2)  # of the camera, in frame widths
    canvas, target = size * OVERSAMPLING, joints["pelvis"][frames].mean(axis=0)
    shots = [_shot(0, look, target, shift, facts["scene"], canvas, film)]
    if crew and not still and rng.random() < crew.cut:
        start = int(rng.integers(num_frames // 4, 3 * num_frames // 4))
        shots.append(_shot(start, _look(still, difficulty, crew, rng), target, shift, facts["scene"], canvas, rng))
    occluders = []  # x, width, y, colour
    for _ in range(look["occluders"]):
        occluders.append((*rng.uniform((0.1, 0.06, 0), (0.9, 0.14, 0.6)), rng.uniform(20, 200, 3)))
    person = _person(facts, film)
    person["thickness"], person["object colour"] = film.uniform(0.85, 1.25), film.uniform(40, 170, 3)

    pictures = []
    for frame in frames:
        shot = [each for each in shots if each.start <= frame][-1]
        left, top = (0.5 + shift[frame, 0]) * canvas, (MARGIN + shift[frame, 1]) * canvas
        image = shot.backdrop.transform((canvas, canvas), Image.Transform.AFFINE, (1, 0, left, 0, 1, top))
        draw = ImageDraw.Draw(image)
        lines = objects(action.object, action.movement, joints, progress, frame)
        _draw(draw, shot.camera, {joint: each[frame] for joint, each in joints.items()}, lines, frame, person)
        for x, width, y, colour in occluders:  # closer than the person, so they move faster
            x = x - shift[frame, 0] * 1.3
            draw.rectangle([x * canvas, y * canvas, (x + width) * canvas, canvas], fill=_colour(colour))
        pictures.append(image.filter(ImageFilter.BoxBlur(look["blur"])).reduce(OVERSAMPLING))
    return _develop(np.stack([np.asarray(picture) for picture in pictures]), look, rng), facts


def _person(facts: dict, rng: Rng) -> dict:
    """Colours of clothes, skin and hair, and whether the sleeves are long."""
    shirt, trousers = np.array(COLOURS[facts["shirt"]]), np.array(TROUSERS[facts["trousers"]])
    skin, hair = (np.array(colours[rng.integers(len(colours))]) for colours in (SKINS, HAIRS))
    limbs = _limbs(shirt, trousers, skin if rng.random() < 0.5 else shirt * 0.85)
    width = 0.02 if facts["object"] in THIN else 0.035
    return {"shirt": shirt, "skin": skin, "hair": hair, "limbs": limbs, "object width": width}


def _draw(
    draw: ImageDraw.ImageDraw, camera: Camera, joints: dict[str, Array], lines: list[Array], frame: int, person: dict
) -> None:
    """Draws a person and the lines of an object, the nearest last."""
    at = {name: camera.project(joint, frame) for name, joint in joints.items()}
    unit = camera.unit
    strokes = [
        (at[a][2] + at[b][2], [at[a], at[b]], colour, width * person["thickness"] * unit, False)
        for a, b, colour, width in person["limbs"]
    ]
    torso = [at[name] for name in ("shoulder_l", "shoulder_r", "hip_r", "hip_l", "shoulder_l")]
    depth = at["neck"][2] + at["pelvis"][2]
    strokes.append((depth, torso, person["shirt"], 0.09 * person["thickness"] * unit, True))
    for line in (camera.project(line, frame) for line in lines):
        strokes.append((2 * line[:, 2].mean(), line, person["object colour"], person["object width"] * unit, False))
    strokes.append((2 * at["head"][2], [], person["hair"], 0.0, False))
    for _, points, *style in sorted(strokes, key=lambda stroke: stroke[0]):
        if len(points):
            _draw_stroke(draw, points, *style)
        else:
            _draw_head(draw, *at["head"][:2], 0.068 * unit, camera.yaw, person["skin"], person["hair"])


def _develop(frames: Array, look: dict[str, float], rng: Rng) -> Array:
    """Applies light, colour and sensor effects to a clip 't h w c'."""
    t, size = frames.shape[:2]
    pixels = frames.astype(np.float32)
    for i in range(1, t):
        pixels[i] += look["ghost"] * (pixels[i - 1] - pixels[i])
    gain = look["gain"] * (1 + look["tint"] * rng.uniform(-1, 1, 3)).astype(np.float32)
    across = np.linspace(-1, 1, size, dtype=np.float32)
    light = 1 - look["vignette"] * (across[:, None] ** 2 + across[None, :] ** 2) / 2
    pixels = pixels * light[:, :, None] * gain
    pixels = pixels + look["haze"] * (pixels.mean() - pixels)
    pixels += np.float32(look["noise"]) * rng.standard_normal(pixels.shape, dtype=np.float32)
    return pixels.clip(0, 255).astype(np.uint8)
