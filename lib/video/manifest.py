"""The manifest of a data set: what a full decode of every file showed, in a CSV file.

A row holds frames, fps, size, codec, spacing of key frames and error for people, and the index with which `decode`
jumps to the wanted frames of a sound file. A row is valid while the file's size and modification time are unchanged,
and a manifest while the decoding code is.
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

KEPT_EVERY = 1000  # files: a check that was killed repeats at most this many
FILE = ["path", "bytes", "modified_ns"]  # path: relative to the data set's folder
RESULT = {"frames": 0, "fps": 0, "width": 0, "height": 0, "codec": "", "key_spacing": 0, "error": "", "index": ""}
COLUMNS = [*FILE, *RESULT]


class Inspection(NamedTuple):
    """What a full decode of a file shows."""

    index: VideoIndex
    frames: int  # that decode
    width: int
    height: int
    codec: str
    key_spacing: float  # packets between key frames, on average
    error: str  # why it cannot be decoded as a whole, or empty


def inspect(path: str | Path) -> Inspection:
    """Decodes a whole file and, if it is sound, compares its frames with those that jumps give.

    Raises VideoError if its packets cannot be read, or if no frame decodes.
    """
    path = Path(path)
    index, stamps, sums, damaged, error = count_packets(path), [], [], [], ""
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
                    damaged.append(number)
                is_regular &= (frame.width, frame.height) == (width, height)
        except av.FFmpegError as problem:
            error = f"decoding fails after {len(stamps)} frames: {problem.strerror}"
    if not stamps:
        raise VideoError(path, error or "no frame can be decoded")
    if damaged and not error:
        error = f"frames are damaged: {len(damaged)}, the first is {damaged[0]}"
    if not error:
        index = index._replace(num_frames=len(stamps))
        if is_regular and len(packets) == len(stamps) and None not in [*stamps, *keys]:
            index = _with_keys(path, index, stamps, keys, sums)
    return Inspection(index, len(stamps), width, height, codec, len(packets) / max(len(keys), 1), error)


def _with_keys(path: Path, index: VideoIndex, stamps: list[int], keys: list[int], sums: list[int]) -> VideoIndex:
    """The index with start, step and key frames, if stamps are evenly spaced and jumps give the same frames."""
    index = index._replace(start=stamps[0], step=max(1.0, (stamps[-1] - stamps[0]) / max(len(stamps) - 1, 1)))
    if [index.number(stamp) for stamp in stamps] != list(range(len(stamps))):
        return index
    jumping = index._replace(keys=tuple(map(index.number, keys)))
    return jumping if _jumps_are_exact(path, jumping, sums) else index


def _jumps_are_exact(path: Path, index: VideoIndex, sums: list[int]) -> bool:
    """Whether jumping to any frame gives the same picture.

    Four passes: even and odd frames apart, so that each is read while its neighbours are left out, and frames behind
    every other key frame apart, so that every key frame is sought.
    """
    numbers = np.arange(len(sums))
    parts = np.searchsorted(index.keys, numbers, side="right") % 2 * 2 + numbers % 2
    try:
        for part in np.unique(parts):
            with open_video(path, index.stream) as video:
                frames = jumped_frames(*video, numbers[parts == part], index, seek_over=0)
                jumped = {number: _checksum(frame) for number, frame in frames}
            if any(jumped.get(number) != sums[number] for number in numbers[parts == part].tolist()):
                return False
    except VideoError:
        return False
    return list(index.keys) == sorted(index.keys)


def _checksum(frame: av.VideoFrame) -> int:
    return zlib.crc32(np.ascontiguousarray(frame.to_ndarray(format="rgb24")))


def path_of(folder: Path, dataset: str, root: Path, *, code: str) -> Path:
    """The manifest in `folder` of the data set at `root`. Its name depends on the root, on PyAV and on `code`, the hash
    of this module and what it imports."""
    place = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:8]
    version = hashlib.sha256(f"{av.__version__} {code}".encode()).hexdigest()[:8]
    return folder / f"{dataset}-{place}-{version}.csv"


def of_other_code(path: Path) -> list[Path]:
    """The manifests of the same data set that other code has made."""
    return sorted({*path.parent.glob(path.stem.rpartition("-")[0] + "*.csv")} - {path})


def entry(path: Path, name: str) -> dict[str, Any]:
    """The row of one file, decoded as a whole. A file that cannot be decoded has an error and no index."""
    try:
        inspection = inspect(path)
    except VideoError as error:
        return _row(path, name, error=error.reason)
    index, key_spacing = inspection.index, round(inspection.key_spacing, 1)
    values = {column: getattr(inspection, column) for column in ("frames", "width", "height", "codec", "error")}
    text = "" if inspection.error else json.dumps(index)
    return _row(path, name, **values, fps=round(index.fps, 3), key_spacing=key_spacing, index=text)


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
    """A row of `COLUMNS` for each file, in the given order; `workers` processes decode.

    Valid rows of `previous` are taken over. A file that kills its process has that as its error. The rows so far are
    written to `unfinished` every `KEPT_EVERY` files. Raises OSError if every process dies.
    """
    names = [os.path.relpath(path, root) for path in paths]
    rows = {} if previous is None else {row["path"]: row for _, row in _valid_rows(previous, root)}
    rows = {name: rows[name] for name in names if name in rows}
    todo = {name: path for name, path in zip(names, paths) if name not in rows}
    with tqdm(total=len(todo), desc=f"checking {root.name}", unit="clip") as progress:

        def decode_all(files: dict[str, Path], workers: int) -> None:
            for row in _entries(files, workers):
                rows[row["path"]] = row
                progress.update()
                if unfinished and len(rows) % KEPT_EVERY == 0:
                    write(pd.DataFrame(rows.values(), columns=COLUMNS), unfinished)

        while todo:
            decode_all(todo, workers)
            todo = {name: path for name, path in todo.items() if name not in rows}
            if todo:  # a process died, and with it the pool: try the next file alone
                _insist_on_processes()
                name = next(iter(todo))
                path = todo.pop(name)
                decode_all({name: path}, 1)
                rows.setdefault(name, _row(path, name, error="decoding kills the process"))
    return pd.DataFrame([rows[name] for name in names], columns=COLUMNS)


def _entries(files: dict[str, Path], workers: int) -> Iterator[dict[str, Any]]:
    """The rows of all files, or of those that were done when a process died."""
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("forkserver")) as pool:
        jobs = []
        with suppress(BrokenProcessPool):  # a process may die before the last of many files is submitted
            for name, path in files.items():
                jobs.append(pool.submit(entry, path, name))
        for job in as_completed(jobs):
            with suppress(BrokenProcessPool):
                yield job.result()


def _insist_on_processes() -> None:
    """Raises OSError if a process dies that does nothing: then no file is to blame."""
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
            pool.submit(os.getpid).result()
    except BrokenProcessPool:
        raise OSError(
            "decoding processes end as soon as they are started; what they print stands above. Look for free memory, "
            '`ulimit -u` and /dev/shm; a script that checks data needs `if __name__ == "__main__":` around '
            "what it does"
        ) from None


def write(table: pd.DataFrame, path: Path) -> None:
    """Writes the manifest. Names that are not UTF-8 keep their bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    table.to_csv(partial, index=False, errors="surrogateescape")
    os.replace(partial, path)


def read(path: Path) -> pd.DataFrame:
    """What `write` wrote; no rows, and a warning on stderr, if the columns are those of another version."""
    text = {"error": str, "index": str, "codec": str, "path": str}
    table = pd.read_csv(path, keep_default_na=False, dtype=text, encoding_errors="surrogateescape")
    if list(table.columns) != COLUMNS:
        print(f"{path}: the manifest of another version, not used; make check-data makes it anew", file=sys.stderr)
        return pd.DataFrame(columns=COLUMNS)
    return table


def indices(table: pd.DataFrame, root: Path) -> dict[Path, VideoIndex]:
    """The index of every sound file that is unchanged."""
    indices = {}
    for path, row in _valid_rows(table, root):
        if row["index"]:
            *numbers, keys = json.loads(row["index"])
            indices[path] = VideoIndex(*numbers, tuple(keys))
    return indices


def errors(table: pd.DataFrame, root: Path) -> dict[Path, str]:
    """Why a file cannot be decoded, for every broken file that is unchanged."""
    return {path: row["error"] for path, row in _valid_rows(table, root) if row["error"]}


def _valid_rows(table: pd.DataFrame, root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Files that are there and unchanged, with their rows."""
    for row in table.to_dict("records"):
        path = root / row["path"]
        if path.exists() and (row["bytes"], row["modified_ns"]) == ((stat := path.stat()).st_size, stat.st_mtime_ns):
            yield path, row
