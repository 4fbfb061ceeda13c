"""Tests the decoder against a plain one: every frame of `decode` must be the frame that libav outputs at that place.

`compare` checks one file, `damaged` corrupts one, and `fuzz` does both many times in a separate process, in which a
crash or a hang is an outcome. Used by notebook 94_zoo and the tests.
"""

import ctypes
import os
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pandas as pd
import psutil
from av.video.reformatter import Interpolation
from tqdm import tqdm

from lib.video.container import VideoError, VideoIndex, decoder_of, main_stream, video_packets
from lib.video.decode import SCALING, decode
from lib.video.manifest import inspect

PATTERNS = {
    "last": lambda n, fps: [n - 1],
    "middle": lambda n, fps: [n // 2],
    "all": lambda n, fps: range(n),
    "eight": lambda n, fps: np.linspace(0, n - 1, 8).round().astype(int),
    "window": lambda n, fps: range(n // 3, 2 * n // 3 + 1),
}


def plain_decode(path: Path) -> list[int]:
    """A checksum of every frame in RGB, in output order, from the first key frame (if any) up to the first error.

    Frames are not kept: in damaged files, decoders output the memory of earlier frames.
    """
    sums, size = [], None
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = main_stream(path, container)
            decoder = decoder_of(stream)
            packets = list(video_packets(container, stream))
            packets = packets[next((number for number, packet in enumerate(packets) if packet.is_keyframe), 0) :]
            if decoder.name == "h264":  # frames shown before the first one refer to earlier frames
                first_pts = packets[0].pts
                later = (n for n, packet in enumerate(packets) if n and packet.pts > first_pts)
                end = next(later, len(packets))
                packets[1:end] = [packet for packet in packets[1:end] if packet.pts >= first_pts]
            for packet in [*packets, None]:
                for frame in decoder.decode(packet):
                    size = size or (round(frame.width * float(stream.sample_aspect_ratio or 1)), frame.height)
                    scaling = SCALING if (frame.width, frame.height) != size else Interpolation.BICUBIC
                    pixels = frame.to_ndarray(format="rgb24", width=size[0], height=size[1], interpolation=scaling)
                    sums.append(zlib.crc32(pixels.tobytes()))
    except (VideoError, av.FFmpegError, OSError, IndexError, ValueError, TypeError):
        pass
    return sums


def compare(path: Path, patterns: Sequence[str], *, reference: Sequence[int], index: VideoIndex | None = None) -> str:
    """Compares `decode` with the checksums of `plain_decode`: "exact", "error: <reason>" or "differs: <where>".

    Rotated frames count as equal, as the reference is not rotated.
    """
    outcome = ""
    for name in patterns:
        try:
            frames = decode(path, PATTERNS[name], index=index)
        except VideoError as error:
            outcome = outcome or f"error: {error.reason}"
            continue
        for number, pixels in zip(frames.indices.tolist(), frames.pixels):
            rotated = [np.rot90(mirrored, turns) for mirrored in (pixels, pixels[:, ::-1]) for turns in range(4)]
            if number >= len(reference) or reference[number] not in [zlib.crc32(view.tobytes()) for view in rotated]:
                return f"differs: frame {number} of {len(reference)} ({name})"
    return outcome or "exact"


def compare_with_index(path: Path, patterns: Sequence[str], *, reference: Sequence[int]) -> str:
    """`compare` with and without the index of `inspect`, which must make no difference."""
    plain = compare(path, patterns, reference=reference)
    try:
        indexed = compare(path, patterns, reference=reference, index=inspect(path).index)
    except VideoError:
        return plain
    is_same = plain == indexed or plain.startswith("differs")
    return plain if is_same else f"differs: {indexed} with the index, {plain} without"


def damaged(content: bytes, generator: np.random.Generator) -> bytes:
    """A file with up to twenty bytes changed, a stretch of bytes removed, or the end cut off."""
    data, kind = bytearray(content), generator.choice(["flip", "flip", "remove", "cut"])
    if kind == "flip":
        for position in generator.integers(len(data), size=generator.integers(1, 21)):
            data[position] ^= int(generator.integers(1, 256))
    elif kind == "remove":
        position = int(generator.integers(len(data)))
        del data[position : position + int(generator.integers(1, 2000))]
    else:
        del data[int(generator.integers(len(data))) :]
    return bytes(data)


class Outcome(NamedTuple):
    result: str  # "exact", "error", "differs", "crashed", "timed out"
    detail: str
    seconds: float
    megabytes: float  # memory that the process uses afterwards


def attempt(source: Path, seed: int) -> Outcome:
    """Damages a copy of a file and compares what is decoded from it."""
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / source.name
        path.write_bytes(damaged(source.read_bytes(), np.random.default_rng(seed)))
        try:
            detail = compare_with_index(path, ["middle", "eight", "window"], reference=plain_decode(path))
        except Exception as error:  # anything but VideoError is a defect that must be counted
            detail = f"crashed: {error!r}"
    if sys.platform == "linux":  # return the pages that glibc keeps, so that growth means a leak
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    megabytes = psutil.Process().memory_info().rss / 2**20
    return Outcome(detail.split(":")[0], detail, time.time() - started, megabytes)


def fuzz(sources: Sequence[Path], *, count: int, seed: int, limit: float) -> pd.DataFrame:
    """Source, seed and `Outcome` of `count` damaged files, made from the sources in turn. limit: seconds per file."""
    rows, pool = [], None
    for number in tqdm(range(count), desc="damaged files", unit="file"):
        source = sources[number % len(sources)]
        if pool is None:
            pool = ProcessPoolExecutor(1)
            worker = psutil.Process(pool.submit(os.getpid).result())
        try:
            outcome = pool.submit(attempt, source, seed + number).result(timeout=limit)
        except (BrokenProcessPool, TimeoutError) as error:
            is_hung = isinstance(error, TimeoutError)
            outcome = Outcome("timed out" if is_hung else "crashed", "", limit if is_hung else np.nan, np.nan)
            if is_hung:  # the program would wait for it at exit
                worker.kill()
            pool.shutdown()
            pool = None
        rows.append({"source": source.name, "seed": seed + number} | outcome._asdict())
    if pool:
        pool.shutdown()
    return pd.DataFrame(rows)
