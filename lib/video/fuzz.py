"""Proof of the decoder: every frame that `video.decode` gives is the one that a plain decoder puts out at that place.

`compare` checks one file, `damaged` spoils one, and `fuzz` does both for as many as it is told, in a process of its own,
where a crash or a hang is an outcome and not the end. Used by notebook 94_zoo and the tests.
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

from lib.video.container import VideoError, VideoIndex, decoder_of, film_of, video_packets
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
    """A checksum of every frame, converted to RGB, in the order in which a decoder puts them out, from the first key
    frame on if there is one; up to the first error.

    No frame is kept: where a file is damaged, decoders show what was in the memory of earlier frames.
    """
    sums, size = [], None
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = film_of(path, container)
            decoder = decoder_of(stream)
            packets = list(video_packets(container, stream))
            packets = packets[next((number for number, packet in enumerate(packets) if packet.is_keyframe), 0) :]
            if decoder.name == "h264":  # what is shown before the first one refers to something in front of it
                behind = next(
                    (n for n, packet in enumerate(packets) if n and packet.pts > packets[0].pts), len(packets)
                )
                packets[1:behind] = [packet for packet in packets[1:behind] if packet.pts >= packets[0].pts]
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
    """What `decode` makes of a file, against `plain_decode`: "exact", "error: <reason>" (the one VideoError), or
    "differs: <where>". Turned pictures count as the same: the reference does not turn them."""
    outcome = ""
    for name in patterns:
        try:
            frames = decode(path, PATTERNS[name], index=index)
        except VideoError as error:
            outcome = outcome or f"error: {error.reason}"
            continue
        for number, pixels in zip(frames.indices.tolist(), frames.pixels):
            turned = (np.rot90(mirrored, turns) for mirrored in (pixels, pixels[:, ::-1]) for turns in range(4))
            if number >= len(reference) or reference[number] not in (zlib.crc32(way.tobytes()) for way in turned):
                return f"differs: frame {number} of {len(reference)} ({name})"
    return outcome or "exact"


def compare_with_index(path: Path, patterns: Sequence[str], *, reference: Sequence[int]) -> str:
    """`compare` without an index and with the one of `inspect`, which must not make a difference."""
    plain = compare(path, patterns, reference=reference)
    try:
        index = inspect(path).index
    except VideoError:
        return plain
    indexed = compare(path, patterns, reference=reference, index=index)
    return (
        plain if plain == indexed or plain.startswith("differs") else f"differs: with the index {indexed}, else {plain}"
    )


def damaged(content: bytes, generator: np.random.Generator) -> bytes:
    """A file with up to twenty bytes flipped, or with a stretch of bytes taken out, or cut off."""
    data, kind = bytearray(content), generator.choice(["flip", "flip", "remove", "cut"])
    if kind == "flip":
        for place in generator.integers(len(data), size=generator.integers(1, 21)):
            data[place] ^= int(generator.integers(1, 256))
    elif kind == "remove":
        place = int(generator.integers(len(data)))
        del data[place : place + int(generator.integers(1, 2000))]
    else:
        del data[int(generator.integers(len(data))) :]
    return bytes(data)


class Outcome(NamedTuple):
    result: str  # "exact", "error", "differs", "crashed", "timed out"
    detail: str
    seconds: float
    megabytes: float  # of memory that the process has afterwards, without what is free


def attempt(source: Path, seed: int) -> Outcome:
    """Spoils a file and compares what is decoded of it."""
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / source.name
        path.write_bytes(damaged(source.read_bytes(), np.random.default_rng(seed)))
        try:
            detail = compare_with_index(path, ["middle", "eight", "window"], reference=plain_decode(path))
        except Exception as error:  # anything but VideoError is a defect, and is to be counted
            detail = f"crashed: {error!r}"
    if sys.platform == "linux":  # glibc keeps pages that are free: a process that grows because of these leaks nothing
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    megabytes = psutil.Process().memory_info().rss / 2**20
    return Outcome(detail.split(":")[0], detail, time.time() - started, megabytes)


def fuzz(sources: Sequence[Path], *, count: int, seed: int, limit: float) -> pd.DataFrame:
    """`count` spoilt files made of the sources in turn: source, seed and `Outcome` of each. limit: seconds for a file."""
    rows, pool = [], None
    for number in tqdm(range(count), desc="spoilt files", unit="file"):
        source = sources[number % len(sources)]
        if pool is None:
            pool = ProcessPoolExecutor(1)
            worker = psutil.Process(pool.submit(os.getpid).result())
        try:
            outcome = pool.submit(attempt, source, seed + number).result(timeout=limit)
        except (BrokenProcessPool, TimeoutError) as error:
            hung = isinstance(error, TimeoutError)
            outcome = Outcome("timed out" if hung else "crashed", "", limit if hung else float("nan"), float("nan"))
            if hung:  # else the program would wait for it at its end
                worker.kill()
            pool.shutdown()
            pool = None
        rows.append({"source": source.name, "seed": seed + number} | outcome._asdict())
    if pool:
        pool.shutdown()
    return pd.DataFrame(rows)
