"""The embedded world: rendered people who act, written as H.264 files; the default data when there is no data set.

`render` paints one performance of an action (`lib/world/actions.py`) as frames. Two looks exist: *stills*, as people put
pictures on the web (a sharp, well lit, centred person, seen from the front or the side), from which the embedded CLIP
learns (`lib/world/pretrain.py`), and *videos*, whose shift away from that look grows with one number, `world_difficulty`:
any viewpoint, smaller and off-centre people, clutter, occluders, a moving camera, dim and tinted light, blur, noise,
compression. `build` writes the three parts of the world to disk, the same bytes for the same parameters.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

from lib.run.fields import Params, WorldParams
from lib.run.files import alone_in, read_json, whole_folder, write_json
from lib.run.params import ROOT
from lib.world.actions import ACTIONS, perform, postures, skeleton

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
OVERSAMPLING = 2  # painted larger and averaged down: Pillow's lines are not anti-aliased
MARGIN = 0.25  # of the backdrop above the picture, in picture heights
PARTS = ("train", "validation", "test")


def _look(still: bool, difficulty: float, rng: np.random.Generator) -> dict[str, float]:
    """The camera and the light of one clip. `difficulty` is 0 for the gentlest video, 1 for the hardest."""
    d = 0.0 if still else difficulty
    return {
        "yaw": rng.uniform(-1, 1) * (75 if still else 75 + 105 * d),  # degrees; 0: the person faces the camera
        "pitch": rng.uniform(0, 6 + 20 * d),
        "height": rng.uniform(0.80 - 0.35 * d, 0.94 - 0.22 * d),  # of the person, in picture heights
        "shift_x": rng.uniform(-1, 1) * (0.04 + 0.16 * d),
        "shift_y": rng.uniform(-1, 1) * (0.02 + 0.06 * d),
        "pan": rng.normal(0, 0.10 * d),  # picture widths over the clip
        "shake": 0.012 * d,
        "gain": rng.uniform(0.85 - 0.45 * d, 1.1),
        "tint": 0.05 + 0.25 * d,
        "haze": rng.uniform(0, 0.35 * d),
        "blur": rng.uniform(0, 0.3 + 2.0 * d),  # pixels of the painted picture
        "ghost": rng.uniform(0, 0.55 * d),  # share of the previous frame left in a frame
        "noise": rng.uniform(0, 3 + 11 * d),
        "clutter": rng.poisson(0.3 + 4 * d),
        "occluders": int(rng.random() < 0.65 * d),
        "vignette": rng.uniform(0, 0.5 * d),
        "tempo": float(np.exp(rng.normal(0, 0.15 + 0.15 * d))),
    }


def _colour(rgb: np.ndarray) -> tuple[int, ...]:
    return tuple(int(c) for c in np.clip(rgb, 0, 255))


def _backdrop(size: int, horizon: float, scene: str, clutter: int, rng: np.random.Generator) -> Image.Image:
    """The place, larger than the picture so that the camera may move. `horizon` in picture heights from the top."""
    image = Image.new("RGB", (2 * size, round(1.5 * size)))
    draw = ImageDraw.Draw(image)
    wall, ground = (np.array(colour) + rng.normal(0, 14, 3) for colour in SCENES[scene])
    horizon += MARGIN

    def box(x: float, y: float, width: float, height: float, colour: np.ndarray) -> None:
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
            draw.ellipse(
                [(x - 0.1) * size, (y - 0.25) * size, (x + 0.15) * size, (y + 0.05) * size], fill=(60, 120, 55)
            )
        else:  # houses
            y = horizon - rng.uniform(0.25, 0.65)
            box(x, y, 0.42, horizon - y, wall * rng.uniform(0.6, 0.95))
    for _ in range(clutter):
        width, height = rng.uniform(0.05, 0.2, 2)
        box(rng.uniform(0.4, 1.5), horizon + rng.uniform(-0.35, 0.08), width, height, rng.uniform(30, 230, 3))
    return image


def _object(
    thing: str, action: str, joints: dict[str, np.ndarray], progress: np.ndarray, frame: int
) -> list[np.ndarray]:
    """The action's object in one frame, as polylines 'p 3' in the world."""
    hands = (joints["hand_l"] + joints["hand_r"]) / 2
    if thing == "chair":  # stands where the person is seated: lowest over the clip, or where the movement leads
        x, z = joints["pelvis"][:, 0].min() if np.ptp(joints["pelvis"][:, 0]) > 0.1 else -0.22, 0.22
        legs = [[(x - 0.1, y, 0), (x - 0.1, y, z), (x + 0.13, y, z), (x + 0.13, y, 0)] for y in (-0.11, 0.11)]
        back = [(x - 0.1, -0.11, z), (x - 0.13, -0.11, z + 0.28), (x - 0.13, 0.11, z + 0.28), (x - 0.1, 0.11, z)]
        return [np.array(line, dtype=float) for line in (*legs, back, [(x + 0.13, -0.11, z), (x + 0.13, 0.11, z)])]
    if thing == "box":
        # in the hands before it is put down and after it is picked up, else where the hands touch the floor
        down = int(np.abs(progress - 0.5).argmin())
        held = progress[frame] > 0.5 if action == "pick up" else progress[frame] < 0.5
        x, y, z = hands[frame] if held else (hands[down][0], hands[down][1], 0.07)
        z = max(z, 0.07)
        face = [
            (x, y - 0.1, z - 0.07),
            (x, y + 0.1, z - 0.07),
            (x, y + 0.1, z + 0.07),
            (x, y - 0.1, z + 0.07),
            (x, y - 0.1, z - 0.07),
        ]
        return [np.array(face, dtype=float), np.array([(px + 0.1, py, pz) for px, py, pz in face])]
    if thing == "rope":  # an arc from hand to hand that goes round the body once a cycle
        angle, along = 2 * np.pi * progress[frame] + np.pi, np.linspace(0, 1, 9)[:, None]
        middle = joints["pelvis"][frame] + 0.62 * np.array([np.sin(angle), 0, np.cos(angle)])
        line = (1 - along) * joints["hand_l"][frame] + along * joints["hand_r"][frame]
        line = line + 4 * along * (1 - along) * (middle - hands[frame])
        return [np.maximum(line, [-np.inf, -np.inf, 0.0])]
    return []


def render(
    action: str, rng: np.random.Generator, *, size: int, num_frames: int, fps: float, still: bool, difficulty: float
) -> tuple[np.ndarray, dict]:
    """Paints one person who performs an action.

    Args:
        action: a key of `ACTIONS`.
        size: height and width in pixels; num_frames, fps: of the performance. A still is one frame of it.
        difficulty: 0..1, how far videos are from stills (unused for a still).
    Returns:
        frames 't h w c' uint8 (t = 1 for a still) and the facts that a caption may name: action, shirt, trousers,
        object, scene, view, postures (of the first frame returned).
    """
    look = _look(still, difficulty, rng)
    pose, progress = perform(action, np.arange(num_frames) / fps, rng, speed=look["tempo"])
    joints = skeleton(pose, {"limb": rng.uniform(0.9, 1.1), "broad": rng.uniform(0.85, 1.2)})
    _, _, thing, favourite = ACTIONS[action]
    shown = list(range(num_frames))
    if still:  # who takes a picture waits for a telling moment: of a few, the one furthest from standing idle
        moments = rng.integers(num_frames // 6, num_frames - num_frames // 6, 3)
        telling = sum(
            np.abs(pose[name]) for name in pose if name.split("_")[0] in ("arm", "open", "hip", "spread", "lean")
        )
        shown = [int(moments[telling[moments].argmax()])]
    scene = favourite if rng.random() < 0.4 else list(SCENES)[rng.integers(len(SCENES))]
    facts = {
        "action": action,
        "shirt": list(COLOURS)[rng.integers(len(COLOURS))],
        "scene": scene,
        "object": thing,
        "trousers": list(TROUSERS)[rng.integers(len(TROUSERS))],
        "postures": postures(joints, shown[0]),
        "view": "front" if abs(look["yaw"]) < 35 else "side" if abs(look["yaw"]) < 125 else "back",
    }

    big, unit = size * OVERSAMPLING, look["height"] * size * OVERSAMPLING  # pixels in the picture, in a body height
    yaw, pitch, floor = np.radians(look["yaw"]), np.radians(look["pitch"]), 0.5 + look["height"] / 2 + look["shift_y"]
    move = np.cumsum(rng.normal(0, look["shake"], (num_frames, 2)), axis=0)  # the camera's, in picture widths
    move[:, 0] += look["pan"] * np.linspace(-0.5, 0.5, num_frames)
    move = np.clip(move, -0.2, 0.2)
    middle = joints["pelvis"][shown].mean(axis=0)  # the camera looks at the middle of the way
    backdrop = _backdrop(big, floor - rng.uniform(0.06, 0.2), scene, look["clutter"], rng)
    occluders = [
        (rng.uniform(0.1, 0.9), rng.uniform(0.06, 0.14), rng.uniform(0, 0.6), _colour(rng.uniform(20, 200, 3)))
        for _ in range(look["occluders"])
    ]

    def project(point: np.ndarray, frame: int) -> np.ndarray:
        """World '... 3' to picture x and y in pixels and nearness to the viewer: a camera far away."""
        x, y, z = point[..., 0] - middle[0], point[..., 1] - middle[1], point[..., 2]
        right, near = x * np.sin(yaw) - y * np.cos(yaw), x * np.cos(yaw) + y * np.sin(yaw)
        across = (0.5 + look["shift_x"] - move[frame, 0]) * big + unit * right
        down = (floor - move[frame, 1]) * big - unit * (z * np.cos(pitch) - near * np.sin(pitch))
        return np.stack([across, down, near * np.cos(pitch) + z * np.sin(pitch)], axis=-1)

    shirt, trousers = np.array(COLOURS[facts["shirt"]]), np.array(TROUSERS[facts["trousers"]])
    skin, hair = np.array(SKINS[rng.integers(len(SKINS))]), np.array(HAIRS[rng.integers(len(HAIRS))])
    sleeve, stout, wood = (
        (skin if rng.random() < 0.5 else shirt * 0.85),
        rng.uniform(0.85, 1.25),
        rng.uniform(40, 170, 3),
    )
    limbs = [
        part
        for s in "lr"
        for part in (
            ("hip_" + s, "knee_" + s, trousers, 0.095),
            ("knee_" + s, "foot_" + s, trousers * 0.9, 0.075),
            ("foot_" + s, "toe_" + s, np.array((45, 35, 35)), 0.06),
            ("shoulder_" + s, "elbow_" + s, shirt * 0.85, 0.07),
            ("elbow_" + s, "hand_" + s, sleeve, 0.055),
        )
    ]

    pictures = []
    for frame in shown:
        left, top = (0.5 + move[frame, 0]) * big, (MARGIN + move[frame, 1]) * big
        image = backdrop.transform((big, big), Image.Transform.AFFINE, (1, 0, left, 0, 1, top))
        draw = ImageDraw.Draw(image)
        at = {name: project(joint[frame], frame) for name, joint in joints.items()}
        strokes = [(at[a][2] + at[b][2], [at[a], at[b]], colour, width * stout * unit) for a, b, colour, width in limbs]
        torso = [at["shoulder_l"], at["shoulder_r"], at["hip_r"], at["hip_l"], at["shoulder_l"]]
        strokes.append((at["neck"][2] + at["pelvis"][2], torso, shirt, 0.09 * stout * unit))
        lines = [project(line, frame) for line in _object(thing, action, joints, progress, frame)]
        strokes += [
            (2 * line[:, 2].mean(), list(line), wood, (0.02 if thing == "rope" else 0.035) * unit) for line in lines
        ]
        strokes.append((2 * at["head"][2], [], hair, 0.0))
        for _, points, colour, width in sorted(strokes, key=lambda stroke: stroke[0]):
            fill, flat = _colour(colour), [(p[0], p[1]) for p in points]
            if not flat:  # the head: hair, and the face where the person looks
                (x, y), r = at["head"][:2], 0.068 * unit
                draw.ellipse([x - r, y - 1.1 * r, x + r, y + 1.1 * r], fill=fill)
                x, y, r = x + 0.5 * r * np.sin(yaw), y + 0.25 * r, r * (0.85 if np.cos(yaw) > -0.5 else 0.0)
                draw.ellipse([x - r, y - r, x + r, y + r], fill=_colour(skin))
                continue
            if points is torso:
                draw.polygon(flat, fill=fill)
            draw.line(flat, fill=fill, width=max(round(width), 1), joint="curve")
            r = width / 2
            for x, y in (flat[0], flat[-1]):  # round ends
                draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)
        for x, width, y, fill in occluders:
            x = x - move[frame, 0] * 1.3
            draw.rectangle([x * big, y * big, (x + width) * big, big], fill=fill)
        pictures.append(image.filter(ImageFilter.BoxBlur(look["blur"])).reduce(OVERSAMPLING))
    return _develop(np.stack([np.asarray(picture) for picture in pictures]), look, rng), facts


def _develop(frames: np.ndarray, look: dict[str, float], rng: np.random.Generator) -> np.ndarray:
    """Light, colour and sensor of a clip 't h w c'."""
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


def _write_video(path: Path, frames: np.ndarray, fps: int, crf: int) -> None:
    """Frames 't h w c' as H.264 in MP4, the same bytes every time: one thread, and the preset whose analysis is simple
    (x264's vector code for the slower ones gave different bytes for pictures this small)."""
    with av.open(str(path), "w") as container:
        options = {"crf": str(crf), "preset": "ultrafast", "bf": "2", "threads": "1"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def _render_file(task: tuple[Path, str, int, int, Params]) -> None:
    path, action, part, index, params = task
    rng = np.random.default_rng([params.world_seed, 1 + part, index])
    frames, _ = render(
        action,
        rng,
        size=params.world_size,
        num_frames=params.world_frames,
        fps=params.world_fps,
        still=False,
        difficulty=params.world_difficulty,
    )
    _write_video(path, frames, params.world_fps, crf=20 + round(rng.uniform(0, 16 * params.world_difficulty)))


def build(params: Params) -> dict:
    """Renders the three parts of the world under `params.data_embedded`, one folder a class, unless they are already there.

    Classes are equally frequent in each part. The folder is renamed into place when it is whole.
    Returns:
        the record that lies beside the videos as `world.json`: the parameters' hash and the counts.
    Raises:
        FileExistsError: `params.data_embedded` holds something else: no world, or one of other parameters.
    """
    root = ROOT / params.data_embedded
    record = {
        "params_hash": params.stage_hash(WorldParams),
        "train": params.world_train,
        "validation": params.world_validation,
        "test": params.world_test,
    }
    with alone_in(root.parent):
        if root.exists() and any(root.iterdir()):
            if not (root / "world.json").is_file():
                raise FileExistsError(
                    f"{root} holds something else than a rendered world: choose another `data_embedded`"
                )
            if (found := read_json(root / "world.json")) != record:
                raise FileExistsError(
                    f"{root} holds a world of other parameters (hash {found.get('params_hash')}): let "
                    "`data_embedded` end in {world}, and worlds lie side by side"
                )
            return record
        with whole_folder(root) as partial:
            _render_parts(partial, record, params)
            write_json(partial / "world.json", record)
    return record


def _render_parts(folder: Path, counts: dict, params: Params) -> None:
    labels, tasks = list(ACTIONS), []
    for number, part in enumerate(PARTS):
        for label in labels:
            (folder / part / label).mkdir(parents=True)
        tasks += [
            (folder / part / labels[i % len(labels)] / f"{i:05d}.mp4", labels[i % len(labels)], number, i, params)
            for i in range(counts[part])
        ]
    with ProcessPoolExecutor(params.workers or os.cpu_count()) as pool:
        for _ in tqdm(pool.map(_render_file, tasks, chunksize=16), total=len(tasks), desc="rendering", unit="video"):
            pass
