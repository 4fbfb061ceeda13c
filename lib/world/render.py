"""The embedded world, the default data set: rendered people performing actions, as H.264 files.

*Stills*, which the embedded CLIP is trained on, resemble pictures on the web: a sharp, well-lit, centred person seen
from the front or the side. *Videos* deviate from them with `world_difficulty`: arbitrary viewpoints, smaller people,
clutter, occluders, a moving camera, dim and tinted light, blur, noise and compression.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

from lib.run.fields import Params, WorldParams
from lib.run.files import alone_in, read_json, whole_folder, write_json
from lib.run.params import ROOT
from lib.world.actions import ACTIONS, Array, Rng, perform, postures, skeleton, telling_frame

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
}  # wall or sky, ground
OVERSAMPLING = 2  # drawn at this scale and averaged down, because Pillow does not anti-alias lines
MARGIN = 0.25  # of the backdrop above the frame, in frame heights
BOX_FACE = [(-0.1, -0.07), (0.1, -0.07), (0.1, 0.07), (-0.1, 0.07), (-0.1, -0.07)]  # y, z relative to the centre


def _look(still: bool, difficulty: float, rng: Rng) -> dict[str, float]:
    """Camera, light and sensor of one clip. difficulty: 0 for the easiest videos, 1 for the hardest."""
    d = 0.0 if still else difficulty
    return {
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
    }


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
        else:  # houses
            y = horizon - rng.uniform(0.25, 0.65)
            box(x, y, 0.42, horizon - y, wall * rng.uniform(0.6, 0.95))
    for _ in range(clutter):
        width, height = rng.uniform(0.05, 0.2, 2)
        box(rng.uniform(0.4, 1.5), horizon + rng.uniform(-0.35, 0.08), width, height, rng.uniform(30, 230, 3))
    return image


def _object(action: str, joints: dict[str, Array], progress: Array, frame: int) -> list[Array]:
    """The action's object in one frame, as polylines 'p 3' in world coordinates."""
    kind, hands = ACTIONS[action][2], (joints["hand_l"] + joints["hand_r"]) / 2
    if kind == "chair":  # stands where the person sits, which may be before or after the clip
        x, z = joints["pelvis"][:, 0].min() if np.ptp(joints["pelvis"][:, 0]) > 0.1 else -0.22, 0.22
        legs = [[(x - 0.1, y, 0), (x - 0.1, y, z), (x + 0.13, y, z), (x + 0.13, y, 0)] for y in (-0.11, 0.11)]
        back = [(x - 0.1, -0.11, z), (x - 0.13, -0.11, z + 0.28), (x - 0.13, 0.11, z + 0.28), (x - 0.1, 0.11, z)]
        return [np.array(line, dtype=float) for line in (*legs, back, [(x + 0.13, -0.11, z), (x + 0.13, 0.11, z)])]
    if kind == "box":  # in the hands before it is put down or after it is picked up, else on the floor
        down = int(np.abs(progress - 0.5).argmin())
        in_hands = progress[frame] > 0.5 if action == "pick up" else progress[frame] < 0.5
        x, y, z = hands[frame] if in_hands else (hands[down][0], hands[down][1], 0.07)
        face = np.array([(x, y + dy, max(z, 0.07) + dz) for dy, dz in BOX_FACE])
        return [face, face + (0.1, 0, 0)]
    if kind == "rope":  # an arc from hand to hand that turns around the body once per cycle
        angle, along = 2 * np.pi * progress[frame] + np.pi, np.linspace(0, 1, 9)[:, None]
        middle = joints["pelvis"][frame] + 0.62 * np.array([np.sin(angle), 0, np.cos(angle)])
        line = (1 - along) * joints["hand_l"][frame] + along * joints["hand_r"][frame]
        line = line + 4 * along * (1 - along) * (middle - hands[frame])
        return [np.maximum(line, [-np.inf, -np.inf, 0.0])]
    return []


def _facts(action: str, yaw: float, rng: Rng) -> dict:
    """What a caption may mention, except the postures."""
    _, _, object_name, usual_scene = ACTIONS[action]
    scene = usual_scene if rng.random() < 0.4 else list(SCENES)[rng.integers(len(SCENES))]
    shirt, trousers = (list(colours)[rng.integers(len(colours))] for colours in (COLOURS, TROUSERS))
    view = "front" if abs(yaw) < 35 else "side" if abs(yaw) < 125 else "back"
    return dict(action=action, shirt=shirt, scene=scene, object=object_name, trousers=trousers, view=view)


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


def render(
    action: str, rng: Rng, *, size: int, num_frames: int, fps: float, still: bool, difficulty: float
) -> tuple[Array, dict]:
    """Renders one person performing an action for `num_frames`; a still is a single frame of such a clip.

    size: height and width in pixels. difficulty: 0..1, how far videos deviate from stills (unused for stills).
    Returns frames 't h w c' uint8 and the facts that a caption may mention (postures are those of the first frame).
    """
    look = _look(still, difficulty, rng)
    pose, progress = perform(action, np.arange(num_frames) / fps, rng, speed=look["tempo"])
    joints = skeleton(pose, {"limb": rng.uniform(0.9, 1.1), "broad": rng.uniform(0.85, 1.2)})
    frames = [telling_frame(pose, rng)] if still else list(range(num_frames))
    facts = _facts(action, look["yaw"], rng) | {"postures": postures(joints, frames[0])}

    shift = np.cumsum(rng.normal(0, look["shake"], (num_frames, 2)), axis=0)
    shift[:, 0] += look["pan"] * np.linspace(-0.5, 0.5, num_frames)
    shift = np.clip(shift, -0.2, 0.2)  # of the camera, in frame widths
    canvas, floor = size * OVERSAMPLING, 0.5 + look["height"] / 2 + look["shift_y"]
    unit, feet = look["height"] * canvas, ([0.5 + look["shift_x"], floor] - shift) * canvas
    yaw, pitch = np.radians(look["yaw"]), np.radians(look["pitch"])
    camera = Camera(yaw, pitch, unit, joints["pelvis"][frames].mean(axis=0), feet)
    backdrop = _backdrop(canvas, floor - rng.uniform(0.06, 0.2), facts["scene"], look["clutter"], rng)
    occluders = []  # x, width, y, colour
    for _ in range(look["occluders"]):
        occluders.append((*rng.uniform((0.1, 0.06, 0), (0.9, 0.14, 0.6)), rng.uniform(20, 200, 3)))

    shirt, trousers = np.array(COLOURS[facts["shirt"]]), np.array(TROUSERS[facts["trousers"]])
    skin, hair = (np.array(colours[rng.integers(len(colours))]) for colours in (SKINS, HAIRS))
    limbs = _limbs(shirt, trousers, skin if rng.random() < 0.5 else shirt * 0.85)
    thickness, object_colour = rng.uniform(0.85, 1.25), rng.uniform(40, 170, 3)
    line_width = (0.02 if facts["object"] == "rope" else 0.035) * unit

    pictures = []
    for frame in frames:
        left, top = (0.5 + shift[frame, 0]) * canvas, (MARGIN + shift[frame, 1]) * canvas
        image = backdrop.transform((canvas, canvas), Image.Transform.AFFINE, (1, 0, left, 0, 1, top))
        draw = ImageDraw.Draw(image)
        at = {name: camera.project(joint[frame], frame) for name, joint in joints.items()}
        strokes = [
            (at[a][2] + at[b][2], [at[a], at[b]], colour, w * thickness * unit, False) for a, b, colour, w in limbs
        ]
        torso = [at[name] for name in ("shoulder_l", "shoulder_r", "hip_r", "hip_l", "shoulder_l")]
        strokes.append((at["neck"][2] + at["pelvis"][2], torso, shirt, 0.09 * thickness * unit, True))
        for line in (camera.project(line, frame) for line in _object(action, joints, progress, frame)):
            strokes.append((2 * line[:, 2].mean(), line, object_colour, line_width, False))
        strokes.append((2 * at["head"][2], [], hair, 0.0, False))
        for _, points, *style in sorted(strokes, key=lambda stroke: stroke[0]):  # nearest last
            if len(points):
                _draw_stroke(draw, points, *style)
            else:
                _draw_head(draw, *at["head"][:2], 0.068 * unit, yaw, skin, hair)
        for x, width, y, colour in occluders:  # closer than the person, so they move faster
            x = x - shift[frame, 0] * 1.3
            draw.rectangle([x * canvas, y * canvas, (x + width) * canvas, canvas], fill=_colour(colour))
        pictures.append(image.filter(ImageFilter.BoxBlur(look["blur"])).reduce(OVERSAMPLING))
    return _develop(np.stack([np.asarray(picture) for picture in pictures]), look, rng), facts


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


def _write_video(path: Path, frames: Array, fps: int, crf: int) -> None:
    """Writes frames 't h w c' as H.264 in MP4, byte for byte reproducibly."""
    with av.open(str(path), "w") as container:
        # one thread and the fastest preset: x264's code for slower presets is not deterministic on frames this small
        options = {"crf": str(crf), "preset": "ultrafast", "bf": "2", "threads": "1"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def _render_file(task: tuple[Path, str, int, int, Params]) -> None:
    path, action, part, index, p = task
    rng = np.random.default_rng([p.world_seed, 1 + part, index])
    frame_settings = {"size": p.world_size, "num_frames": p.world_frames, "fps": p.world_fps}
    frames, _ = render(action, rng, **frame_settings, still=False, difficulty=p.world_difficulty)
    _write_video(path, frames, p.world_fps, crf=20 + round(rng.uniform(0, 16 * p.world_difficulty)))


def build(params: Params) -> dict:
    """Renders train, validation and test under `params.data_embedded`, one folder per class, unless they exist.

    Classes are balanced. Returns the record in `world.json`: the hash of the parameters and the counts. Raises
    FileExistsError if the folder holds other files, or a world with other parameters.
    """
    root = ROOT / params.data_embedded
    counts = {"train": params.world_train, "validation": params.world_validation, "test": params.world_test}
    record = {"params_hash": params.stage_hash(WorldParams), **counts}
    with alone_in(root.parent):
        if not root.exists() or not any(root.iterdir()):
            with whole_folder(root) as partial:
                _render_parts(partial, counts, params)
                write_json(partial / "world.json", record)
            return record
    if not (root / "world.json").is_file():
        raise FileExistsError(f"{root} holds files other than a rendered world: choose another `data_embedded`")
    if (existing := read_json(root / "world.json")) != record:
        raise FileExistsError(
            f"{root} holds a world with other parameters (hash {existing.get('params_hash')}): end `data_embedded` "
            "in {world} to keep worlds side by side"
        )
    return record


def _render_parts(folder: Path, counts: dict[str, int], params: Params) -> None:
    labels, tasks = list(ACTIONS), []
    for part, (name, count) in enumerate(counts.items()):
        for label in labels:
            (folder / name / label).mkdir(parents=True)
        for i in range(count):
            label = labels[i % len(labels)]
            tasks.append((folder / name / label / f"{i:05d}.mp4", label, part, i, params))
    with ProcessPoolExecutor(params.workers or os.cpu_count()) as pool:
        list(tqdm(pool.map(_render_file, tasks, chunksize=16), total=len(tasks), desc="rendering", unit="video"))
