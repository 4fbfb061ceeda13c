"""Writes the rendered data sets as H.264 files: `embedded`, or the three benchmarks of `params/worlds/rendered.yaml`.

The benchmarks lie on disk as their models do: `rendered_k` in parts with a folder per class, as Kinetics; `rendered_u`
and `rendered_h` with a folder per class and three official splits by film, as lists in the form of UCF-101's
and HMDB-51's.
"""

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

from lib.run.fields import Params, WorldParams
from lib.run.files import alone_in, read_json, sha256, whole_folder, write_json, write_text
from lib.run.params import FOLDER, world_folder
from lib.world.definition import Action, DataSetOf, World, read_world
from lib.world.render import render
from lib.world.skeleton import Array

NO_ACTION = Action(movement="stand still", place="room", phrases=["standing still"])
Task = tuple[Path, Callable[[], tuple[Array, int]]]  # where a video goes, and what makes its frames and its crf


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


def _render_file(task: Task, fps: int) -> None:
    path, make = task
    frames, crf = make()
    _write_video(path, frames, fps, crf)


def build_world(params: Params) -> dict:
    """Renders the data sets of a world into its folder, unless they exist.

    Returns the record in `world.json`: the hash of the parameters and the counts of videos. Raises FileExistsError if
    the folder holds other files, or a world with other parameters.
    """
    root, world = world_folder(params), read_world(params.world)
    tasks = _benchmarks(world, params) if world.sets else _parts(world, params)
    counts = {part: len(each) for part, each in tasks.items()}
    record = {"params_hash": params.stage_hash(WorldParams), **counts}
    if world.sets:
        record["definition"] = sha256(FOLDER / "worlds" / f"{params.world}.yaml")
    with alone_in(root.parent):
        if not root.exists() or not any(root.iterdir()):
            with whole_folder(root) as partial_root:
                _render_all(partial_root, [task for each in tasks.values() for task in each], params)
                for name, files in (_lists(tasks) if world.sets else {}).items():
                    write_text(partial_root / name, files)
                write_json(partial_root / "world.json", record)
            return record
    if not (root / "world.json").is_file():
        raise FileExistsError(f"{root} holds files other than a rendered world: choose another `{_key(params)}`")
    if (existing := read_json(root / "world.json")) != record:
        raise FileExistsError(
            f"{root} holds a world with other parameters (hash {existing.get('params_hash')}): end `{_key(params)}` "
            "in {world} to keep worlds side by side"
        )
    return record


def _key(params: Params) -> str:
    return "data_embedded" if params.world == "embedded" else "data_rendered"


def _render_all(root: Path, tasks: list[Task], params: Params) -> None:
    tasks = [(root / path, make) for path, make in tasks]
    for folder in {path.parent for path, _ in tasks}:
        folder.mkdir(parents=True)
    with ProcessPoolExecutor(params.workers or os.cpu_count()) as pool:
        files = pool.map(partial(_render_file, fps=params.world_fps), tasks, chunksize=16)
        list(tqdm(files, total=len(tasks), desc="rendering", unit="video"))


def _frames(params: Params) -> dict[str, int]:
    return {"size": params.world_size, "num_frames": params.world_frames, "fps": params.world_fps}


# ---- one data set, balanced, in three parts --------------------------------------------------------------------------


def _parts(world: World, params: Params) -> dict[str, list[Task]]:
    counts = {"train": params.world_train, "validation": params.world_validation, "test": params.world_test}
    labels, tasks = list(world.actions), {}
    for number, (part, count) in enumerate(counts.items()):
        tasks[part] = []
        for i in range(count):
            label = labels[i % len(labels)]
            path = Path(part, label, f"{i:05d}.mp4")
            tasks[part].append((path, partial(_video, label, [params.world_seed, 1 + number, i], params)))
    return tasks


def _video(label: str, seed: list[int], params: Params) -> tuple[Array, int]:
    rng, difficulty = np.random.default_rng(seed), params.world_difficulty
    world, settings = read_world(params.world), _frames(params) | {"difficulty": difficulty}
    frames, _ = render(world, label, rng, **settings, still=False)
    return frames, 20 + round(rng.uniform(0, 16 * difficulty))


# ---- three benchmarks ------------------------------------------------------------------------------------------------


def _benchmarks(world: World, params: Params) -> dict[str, list[Task]]:
    """The videos of every data set and part: "rendered_k/train", ..., "rendered_u", "rendered_h"."""
    tasks = {}
    for number, (name, data) in enumerate(world.sets.items()):
        seed = [params.world_seed, 10 + number]
        if data.groups:
            tasks[name] = _films(world, name, data, params, seed)
            continue
        for part, count in (
            ("train", params.world_train),
            ("validation", params.world_validation),
            ("test", params.world_test),
        ):
            draw = np.random.default_rng([*seed, len(tasks)])
            labels = list(world.classes(name))
            tasks[f"{name}/{part}"] = []
            for i, label in enumerate(itertools.islice(itertools.cycle(labels), count)):
                action = NO_ACTION if part == "train" and draw.random() < data.distractors else None
                clip = [*seed, len(tasks), i]
                make = partial(_clip, world.classes(name)[label], data.crew, clip, None, action, params)
                tasks[f"{name}/{part}"].append((Path(name, part, label, f"{i:05d}.mp4"), make))
    return tasks


def _films(world: World, name: str, data: DataSetOf, params: Params, seed: list[int]) -> list[Task]:
    """`world_clips_per_film` clips of each of a class's films, named as in UCF-101 or HMDB-51."""
    tasks = []
    for number, (label, action) in enumerate(world.classes(name).items()):
        for film in range(1, data.groups + 1):
            for clip in range(1, params.world_clips_per_film + 1):
                stem = (
                    f"v_{label}_g{film:02d}_c{clip:02d}" if name == "rendered_u" else f"film{film:02d}_{label}_{clip}"
                )
                place = [*seed, number, film]
                make = partial(_clip, action, data.crew, [*place, clip], place, None, params)
                tasks.append((Path(name, label, f"{stem}.mp4"), make))
    return tasks


def _clip(
    action: str, crew: str, clip: list[int], film: list[int] | None, shown: Action | None, params: Params
) -> tuple[Array, int]:
    rng, film_rng = np.random.default_rng(clip), np.random.default_rng(film) if film else None
    world = read_world(params.world)
    settings = _frames(params) | {"crew": world.crews[crew], "film": film_rng, "action": shown}
    frames, _ = render(world, action, rng, **settings, still=False)
    return frames, 20 + round(rng.uniform(0, 8))


def _lists(tasks: dict[str, list[Task]]) -> dict[str, str]:
    """The official lists of `rendered_u` and `rendered_h`: the test part of split s holds the films 7s-6 to 7s, as in
    UCF-101."""
    files: dict[str, list[str]] = {}
    for name in ("rendered_u", "rendered_h"):
        classes = sorted({path.parent.name for path, _ in tasks.get(name, [])})
        if name == "rendered_u":
            files["rendered_u/lists/classInd.txt"] = [f"{i} {label}" for i, label in enumerate(classes, start=1)]
        for split in (1, 2, 3):
            for path, _ in tasks.get(name, []):
                label, stem = path.parent.name, path.stem
                film = int(stem.rsplit("_g", 1)[1][:2] if name == "rendered_u" else stem[4:6])
                is_test = 7 * split - 6 <= film <= 7 * split
                if name == "rendered_u":
                    line = f"{label}/{path.name}" + ("" if is_test else f" {classes.index(label) + 1}")
                    file = f"{'test' if is_test else 'train'}list{split:02d}.txt"
                else:
                    line, file = f"{path.name} {2 if is_test else 1}", f"{label}_test_split{split}.txt"
                files.setdefault(f"{name}/lists/{file}", []).append(line)
    return {name: "\n".join(lines) + "\n" for name, lines in files.items()}
