"""The manifest of a data set: the result of fully decoding every file, as a CSV file.

Each row holds frames, fps, size, codec, key frame spacing and error, and for sound files the index that lets `decode`
skip to the selected frames. A row is valid while the file's size and modification time are unchanged, a manifest while
the decoding code is.
"""

import hashlib
import json
import multiprocessing
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pandas as pd
from tqdm import tqdm

from lib.video.container import VideoError, VideoIndex, count_packets, decoded_frames, open_video, video_packets
from lib.video.decode import jumped_frames

SAVE_EVERY = 1000  # files that an interrupted check repeats at most
FILE = ["path", "bytes", "modified_ns"]  # path: relative to the data set's folder
RESULT = {"frames": 0, "fps": 0, "width": 0, "height": 0, "codec": "", "key_spacing": 0, "error": "", "index": ""}
COLUMNS = [*FILE, *RESULT]


class Inspection(NamedTuple):
    """The result of fully decoding a file."""

    index: VideoIndex
    frames: int  # that can be decoded
    width: int
    height: int
    codec: str
    key_spacing: float  # packets per key frame, on average
    error: str  # why not all of it can be decoded, or ""


def inspect(path: str | Path) -> Inspection:
    """Decodes a whole file and, if it is sound, compares its frames with those found by seeking.

    Raises VideoError if its packets cannot be read, or if no frame can be decoded.
    """
    path = Path(path)
    index, stamps, sums, corrupt, error = count_packets(path), [], [], [], ""
    with open_video(path, index.stream) as (container, stream, _):
        packets = list(video_packets(container, stream))
        keys = [packet.pts for packet in packets if packet.is_keyframe]
        width, height, codec = stream.width, stream.height, stream.codec_context.codec.name
        is_regular = not any(packet.is_discard or packet.is_corrupt for packet in packets)
    with open_video(path, index.stream) as video:
        try:
            for number, frame in enumerate(decoded_frames(*video, index.first_packet)):
                stamps.append(frame.pts)
                sums.append(_checksum(frame))
                if frame.is_corrupt:
                    corrupt.append(number)
                is_regular &= (frame.width, frame.height) == (width, height)
        except av.FFmpegError as problem:
            error = f"decoding fails after {len(stamps)} frames: {problem.strerror}"
    if not stamps:
        raise VideoError(path, error or "no frame can be decoded")
    if corrupt and not error:
        error = f"frames are damaged: {len(corrupt)}, the first is {corrupt[0]}"
    if not error:
        index = index._replace(num_frames=len(stamps))
        if is_regular and len(packets) == len(stamps) and None not in [*stamps, *keys]:
            index = _with_keys(path, index, stamps, keys, sums)
    return Inspection(index, len(stamps), width, height, codec, len(packets) / max(len(keys), 1), error)


def _with_keys(path: Path, index: VideoIndex, stamps: list[int], keys: list[int], sums: list[int]) -> VideoIndex:
    """Adds start, step and key frames if time stamps are evenly spaced and seeking gives the same frames."""
    index = index._replace(start=stamps[0], step=max(1.0, (stamps[-1] - stamps[0]) / max(len(stamps) - 1, 1)))
    if [index.number(stamp) for stamp in stamps] != list(range(len(stamps))):
        return index
    seekable = index._replace(keys=tuple(map(index.number, keys)))
    return seekable if _seeking_is_exact(path, seekable, sums) else index


def _seeking_is_exact(path: Path, index: VideoIndex, sums: list[int]) -> bool:
    """Whether seeking to any frame gives the same pixels.

    Four passes: even and odd frames separately, so that the neighbours of each frame are skipped, and the frames after
    every other key frame separately, so that every key frame is sought.
    """
    numbers = np.arange(len(sums))
    passes = np.searchsorted(index.keys, numbers, side="right") % 2 * 2 + numbers % 2
    try:
        for current in np.unique(passes):
            with open_video(path, index.stream) as video:
                frames = jumped_frames(*video, numbers[passes == current], index, seek_over=0)
                sought = {number: _checksum(frame) for number, frame in frames}
            if any(sought.get(number) != sums[number] for number in numbers[passes == current].tolist()):
                return False
    except VideoError:
        return False
    return list(index.keys) == sorted(index.keys)


def _checksum(frame: av.VideoFrame) -> int:
    return zlib.crc32(np.ascontiguousarray(frame.to_ndarray(format="rgb24")))


def path_of(folder: Path, dataset: str, root: Path, *, code: str) -> Path:
    """The path in `folder` of the manifest of the data set at `root`. code: hash of this module and its imports."""
    place = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:8]
    version = hashlib.sha256(f"{av.__version__} {code}".encode()).hexdigest()[:8]
    return folder / f"{dataset}-{place}-{version}.csv"


def of_other_code(path: Path) -> list[Path]:
    """The manifests of the same data set made by other code."""
    return sorted({*path.parent.glob(path.stem.rpartition("-")[0] + "*.csv")} - {path})


def entry(path: Path, name: str) -> dict[str, Any]:
    """The row of one file. If it cannot be decoded as a whole, it has an error and no index."""
    try:
        inspection = inspect(path)
    except VideoError as error:
        return _row(path, name, error=error.reason)
    values = {column: getattr(inspection, column) for column in ("frames", "width", "height", "codec", "error")}
    values |= {"fps": round(inspection.index.fps, 3), "key_spacing": round(inspection.key_spacing, 1)}
    return _row(path, name, **values, index="" if inspection.error else json.dumps(inspection.index))


def _row(path: Path, name: str, **values) -> dict[str, Any]:
    stat = path.stat()
    return {"path": name, "bytes": stat.st_size, "modified_ns": stat.st_mtime_ns} | RESULT | values


def check(
    paths: Sequence[Path],
    *,
    root: Path,
    workers: int,
    previous: pd.DataFrame | None = None,
    unfinished: Path | None = None,
) -> pd.DataFrame:
    """Decodes every file in `workers` processes and returns a row of `COLUMNS` for each, in the given order.

    Valid rows of `previous` are reused. A file that kills its process has that as its error. Intermediate results are
    written to `unfinished` every `SAVE_EVERY` files. Raises OSError if no process can work at all.
    """
    files = {os.path.relpath(path, root): path for path in paths}
    rows = {} if previous is None else {row["path"]: row for _, row in _valid_rows(previous, root)}
    rows = {name: rows[name] for name in files if name in rows}
    todo = {name: path for name, path in files.items() if name not in rows}
    with tqdm(total=len(todo), desc=f"checking {root.name}", unit="clip") as progress:

        def decode_all(batch: dict[str, Path], workers: int) -> None:
            for row in _entries(batch, workers):
                rows[row["path"]] = row
                progress.update()
                if unfinished and len(rows) % SAVE_EVERY == 0:
                    write(pd.DataFrame(rows.values(), columns=COLUMNS), unfinished)

        while todo:
            decode_all(todo, workers)
            todo = {name: path for name, path in todo.items() if name not in rows}
            if todo:  # a process died and took the pool with it: try the next file alone
                _check_processes()
                name = next(iter(todo))
                path = todo.pop(name)
                decode_all({name: path}, 1)
                rows.setdefault(name, _row(path, name, error="decoding kills the process"))
    return pd.DataFrame([rows[name] for name in files], columns=COLUMNS)


def _entries(files: dict[str, Path], workers: int) -> Iterator[dict[str, Any]]:
    """The rows of all files, or of those finished before a process died."""
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("forkserver")) as pool:
        jobs = []
        with suppress(BrokenProcessPool):  # a process may die before the last file is submitted
            for name, path in files.items():
                jobs.append(pool.submit(entry, path, name))
        for job in as_completed(jobs):
            with suppress(BrokenProcessPool):
                yield job.result()


def _check_processes() -> None:
    """Raises OSError if an idle process dies, too: then no file is to blame."""
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
            pool.submit(os.getpid).result()
    except BrokenProcessPool:
        raise OSError(
            "decoding processes end as soon as they are started; see their output above. Check free memory, "
            '`ulimit -u` and /dev/shm; a script that checks data needs `if __name__ == "__main__":`'
        ) from None


def write(table: pd.DataFrame, path: Path) -> None:
    """Writes the manifest under a temporary name and renames it. Names that are not UTF-8 keep their bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    table.to_csv(partial, index=False, errors="surrogateescape")
    os.replace(partial, path)


def read(path: Path) -> pd.DataFrame:
    """Reads a manifest; no rows, and a warning on stderr, if it has the columns of another version."""
    text = {"error": str, "index": str, "codec": str, "path": str}
    table = pd.read_csv(path, keep_default_na=False, dtype=text, encoding_errors="surrogateescape")
    if list(table.columns) != COLUMNS:
        print(f"{path}: ignored, a manifest of another version; make check-data replaces it", file=sys.stderr)
        return pd.DataFrame(columns=COLUMNS)
    return table


def results(table: pd.DataFrame, root: Path) -> dict[Path, tuple[VideoIndex | None, str]]:
    """The index (None if it is broken) and the error of every unchanged file."""
    files = {}
    for path, row in _valid_rows(table, root):
        index = None
        if row["index"]:
            *numbers, keys = json.loads(row["index"])
            index = VideoIndex(*numbers, tuple(keys))
        files[path] = index, row["error"]
    return files


def _valid_rows(table: pd.DataFrame, root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The files that exist and are unchanged, with their rows."""
    for row in table.to_dict("records"):
        path = root / row["path"]
        if path.exists() and (row["bytes"], row["modified_ns"]) == ((stat := path.stat()).st_size, stat.st_mtime_ns):
            yield path, row
