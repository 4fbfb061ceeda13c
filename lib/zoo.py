"""Awkward and damaged videos, and whether `video.decode` gives of them what a plain decoder gives, or an error."""

import itertools
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pandas as pd
from av.stream import Disposition
from tqdm import tqdm

from lib.manifest import guarded_map, index_of, inspect
from lib.params import FOLDER, read_yaml
from lib.video import SCALING, Frames, VideoError, VideoIndex, decode, upright
from lib.views import ViewSettings, draw_num_frames, training_indices

SECONDS = 60  # a file may take


def one_frame(num_frames: int, fps: float) -> np.ndarray:
    return np.array([num_frames // 2])


def eight_frames(num_frames: int, fps: float) -> np.ndarray:
    """Evenly over the whole video, the first and the last frame among them."""
    return np.linspace(0, num_frames - 1, 8).round().astype(int)


def ten_views(num_frames: int, fps: float) -> np.ndarray:
    """A training sample with the settings of params/base.yaml, always the same one."""
    base, generator = read_yaml(FOLDER / "base.yaml"), np.random.default_rng(0)
    values = {name: base[name] for name in ViewSettings.__dataclass_fields__}
    settings = ViewSettings(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})
    counts = draw_num_frames(settings, generator)
    return np.concatenate(training_indices(settings, num_source_frames=num_frames, fps=fps, num_frames=counts,
                                           generator=generator))


def all_frames(num_frames: int, fps: float) -> np.ndarray:
    return np.arange(num_frames)


PATTERNS = (one_frame, eight_frames, ten_views, all_frames)


def plain_decode(path: Path, wanted: set[int], *, keep: bool = False) -> dict[int, np.ndarray]:
    """Decodes every frame from the first key frame on, and converts those with the indices `wanted`, 'h w c' uint8 RGB.

    Frames are counted as the decoder puts them out, up to where it ends or fails, and converted by libav's defaults;
    scaled if pixels aren't square or the size is another than the first frame's. keep: the decoder gets no memory of
    earlier frames to use again.
    """
    found, number, size, kept = {}, 0, None, []
    try:
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            stream = next(s for s in container.streams.video if not s.disposition & Disposition.attached_pic)
            decoder = stream.codec_context
            if decoder.codec.name == "vp8":  # libav's own fills what is damaged with what was in memory
                decoder = av.CodecContext.create("libvpx", "r")
            decoder.thread_count = 1
            packets = (packet for packet in container.demux(stream) if packet.size)
            for packet in itertools.chain(itertools.dropwhile(lambda p: not p.is_keyframe, packets), [None]):
                for frame in decoder.decode(packet):
                    size = size or (round(frame.width * float(stream.sample_aspect_ratio or 1)), frame.height)
                    scale = {"width": size[0], "height": size[1], "interpolation": SCALING}
                    if number in wanted:
                        plain = size == (frame.width, frame.height)
                        found[number] = upright(frame.to_ndarray(format="rgb24", **{} if plain else scale), frame)
                    number += 1
                    if keep:
                        kept.append(frame)
    except (av.FFmpegError, OSError, ValueError, MemoryError, StopIteration, AttributeError):
        pass  # what came before is what there is
    return found


def compare(path: str | Path, patterns: tuple = PATTERNS) -> dict[str, Any]:
    """Decodes by each pattern, with and without the index of `manifest.inspect`, and compares with a plain decoder.

    Returns codec, frames, key_frame_spacing (mean, packets), how ("seek": from several key frames, "skip": unwanted
    frames are left out, "linear") and result: "exact", "error: ..." if some or all patterns raise VideoError and the
    others are exact, "undefined: ..." if a plain decoder does not agree with itself (it didn't notice that a part of
    a damaged frame is missing, and shows what was in its memory before), "differs: ..." otherwise.
    """
    path, errors, differs, undefined = Path(path), [], [], []
    row = inspect(path)
    index = index_of(row, path)
    found = {pattern.__name__: (_attempt(path, pattern, None), _attempt(path, pattern, index)) for pattern in patterns}
    wanted = set().union(*(own.indices.tolist() for own, _ in found.values() if isinstance(own, Frames)))
    plain = plain_decode(path, wanted)
    for name, (own, indexed) in found.items():
        if isinstance(own, VideoError) or isinstance(indexed, VideoError):
            errors.append(str(own.reason if isinstance(own, VideoError) else indexed.reason))
            if str(own) != str(indexed):
                differs.append(f"{name}: the index changes the result, one of them is {errors[-1]}")
            continue
        if any(not np.array_equal(a, b) for a, b in zip(own, indexed)):
            differs.append(f"{name}: the index changes the result")
        numbers = own.indices.tolist()
        unlike = [i for i, picture in zip(numbers, own.pixels) if not np.array_equal(picture, plain.get(i))]
        again = plain_decode(path, set(unlike), keep=True) if unlike else {}
        undefined += [i for i in unlike if i in plain and i in again and not np.array_equal(plain[i], again[i])]
        if set(unlike) - set(undefined):
            differs.append(f"{name}: frames {unlike} are not those of a plain decoder")
    how = "linear"
    if index and index.shortcuts:
        how = "seek" if len(index.shortcuts.key_packets) > 1 else "skip"
    result = "exact"
    if differs:
        result = f"differs: {'; '.join(differs)}"
    elif undefined:
        result = f"undefined: frames {sorted(set(undefined))}"
    elif errors:
        result = f"error: {'; '.join(dict.fromkeys(errors))}"
    return {"codec": row["codec"], "frames": row["frames"], "key_frame_spacing": row["mean_key_distance"], "how": how,
            "result": result}


def _attempt(path: Path, pattern, index: VideoIndex | None) -> Frames | VideoError:
    try:
        return decode(path, pattern, index=index)
    except VideoError as error:
        return error


def write_damaged(folder: Path, zoo: Path) -> list[Path]:
    """Damages files of the zoo in known ways; returns the new files."""
    source = (zoo / "torchcodec" / "nasa_13013.mp4").read_bytes()
    made = {
        "before_moov.mp4": source[: source.index(b"moov") - 4],
        "middle.mp4": source[: len(source) // 2],
        "empty.mp4": b"",
        "zeros.mp4": bytes(len(source)),
        "text.mp4": b"this is no video\n" * 4000,
        "garbage.mp4": np.random.default_rng(0).bytes(100_000),
    }
    for name in ("ucf101-originals/v_JumpingJack_g04_c01.avi", "decord/flipping_a_pancake.mkv",
                 "torchcodec/testsrc2_vp8.webm", "torchcodec/sine_stereo_mp2.mpg", "torchcodec/animated.gif"):
        data = (zoo / name).read_bytes()
        made["middle" + Path(name).suffix] = data[: len(data) // 2]
    for name in ("torchcodec/nasa_13013.mp4", "torchcodec/testsrc2_mpeg4.avi", "torchcodec/testsrc2_vp9.webm"):
        for kind in ("flipped", "removed"):
            made[kind + "_" + Path(name).name] = damage((zoo / name).read_bytes(), kind, np.random.default_rng(0))
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in made.items():
        (folder / name).write_bytes(data)
    parts = []
    for number, size in enumerate(((64, 48), (96, 80))):
        part = folder / f"part{number}.h264"
        with av.open(str(part), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height = size
            for level in range(12):
                picture = np.full((size[1], size[0], 3), 20 + 15 * level, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
        parts.append(part.read_bytes())
        part.unlink()
    (folder / "size_changes.h264").write_bytes(b"".join(parts))
    return sorted(folder.iterdir())


def damage(data: bytes, kind: str, generator: np.random.Generator) -> bytes:
    """`data` with 1 to 32 bytes changed ("flipped") or 1 to 4 stretches of up to 64 bytes missing ("removed")."""
    changed = bytearray(data)
    if kind == "flipped":
        for position in generator.integers(len(changed), size=2 ** generator.integers(6)):
            changed[position] ^= int(generator.integers(1, 256))
    else:
        for _ in range(generator.integers(1, 5)):
            position = int(generator.integers(len(changed)))
            del changed[position : position + int(generator.integers(1, 65))]
    return bytes(changed)


class Fuzz(NamedTuple):
    """One damaged file: everything that determines it."""

    source: Path
    seed: int
    number: int


def fuzz_one(task: Fuzz) -> dict[str, Any]:
    """Damages a copy of the source, and compares. Returns result, seconds and the memory (MiB) of the process."""
    generator = np.random.default_rng([task.seed, task.number])
    data = damage(task.source.read_bytes(), ("flipped", "removed")[task.number % 2], generator)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"damaged{task.source.suffix}"
        path.write_bytes(data)
        begin = time.perf_counter()
        result = compare(path, (one_frame, eight_frames))["result"]
        seconds = time.perf_counter() - begin
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {"result": result, "seconds": seconds, "process": os.getpid(), "mib": pages * resource.getpagesize() / 2**20,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def fuzz(sources: list[Path], *, files: int, seed: int, workers: int = 1) -> pd.DataFrame:
    """Damages and compares `files` copies of the sources, in turn; a row per source with what came of its copies.

    Columns: files, exact, error (VideoError), undefined, differing, crashed, timed_out (numbers of files), max_seconds (of a file),
    peak_mib (most memory of a process so far), growth_mib (memory of a process, last third of its files over the first).
    """
    tasks = [Fuzz(sources[number % len(sources)], seed, number) for number in range(files)]
    tasks.sort(key=lambda task: sources.index(task.source))
    records = []
    for task, answer, failure in tqdm(guarded_map(fuzz_one, tasks, workers=workers, seconds=SECONDS), total=files,
                                      unit=" files", desc="damaged files"):
        outcome = "crashed" if failure.startswith("ends") else "timed_out" if failure else {
            "exact": "exact", "error": "error", "undefined": "undefined", "differs": "differing"}[answer["result"].split(":")[0]]
        if outcome in ("differing", "crashed", "timed_out"):
            tqdm.write(f"{task}: {failure or answer['result']}")
        records.append({"source": task.source.name, "outcome": outcome} | (answer or {}))
    table = pd.DataFrame(records)
    rows = []
    for source, part in table.groupby("source", sort=False):
        thirds = [(own["mib"].iloc[-len(own) // 3:].median() - own["mib"].iloc[: len(own) // 3 + 1].median())
                  for _, own in part.dropna(subset="mib").groupby("process")]
        counts = {name: int((part["outcome"] == name).sum())
                  for name in ("exact", "error", "undefined", "differing", "crashed", "timed_out")}
        rows.append({"source": source, "files": len(part)} | counts | {
            "max_seconds": round(part["seconds"].max(), 2), "peak_mib": round(part["peak_mib"].max()),
            "growth_mib": round(max(thirds, default=0.0), 1)})
    return pd.DataFrame(rows)
