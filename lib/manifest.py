"""The check of a data set's videos: what is in every file, what is wrong with it, and how it can be decoded fast.

A file is decoded completely, once plainly and once by the shortcuts that `video.decode` would take. Only if every frame
is sound and both ways agree in every byte, the shortcuts stand in the manifest.
"""

import base64
import itertools
import multiprocessing
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
from tqdm import tqdm

from lib.video import Shortcuts, VideoError, VideoIndex, display_size, linear_frames, open_video, scan, shortcut_frames

FILE_SECONDS = 600  # after which the check of a single file is given up
COLUMNS = {
    "path": "str",  # relative to the data set's root, with forward slashes
    "bytes": "int64",
    "mtime_ns": "int64",  # of the last change
    "frames": "int64",  # that decode, damaged ones included
    "damaged": "int64",  # frames that the decoder marks as damaged
    "packets": "int64",  # what `video.decode` expects before it decodes: VideoIndex.num_frames
    "first_packet": "int64",
    "fps": "float64",
    "width": "int64",  # as coded
    "height": "int64",
    "codec": "str",
    "max_key_distance": "int64",  # packets between key frames at which decoding can begin, or to the end
    "mean_key_distance": "float64",
    "order": "str",  # Shortcuts.packets; "" if nothing is proven
    "key_packets": "str",  # Shortcuts.key_packets and .times, "number:time number:time ..."
    "leave_out": "bool",  # Shortcuts.leave_out
    "error": "str",  # why the file is no decodable video; "" if it is one
}


def inspect(path: str | Path) -> dict[str, Any]:
    """A manifest's row on one file, its values by the names in COLUMNS (`path` as given).

    What is wrong with the file stands in `error`; only a file that doesn't exist raises (OSError).
    """
    path = Path(path)
    status = path.stat()
    row = {name: "" if kind == "str" else 0 for name, kind in COLUMNS.items()}
    row |= {"path": path.as_posix(), "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
    try:
        index, packets = scan(path)
        row |= {"packets": index.num_frames, "first_packet": index.first_packet, "fps": index.fps}
        row |= _inspect_frames(path, index, packets)
    except VideoError as error:
        row["error"] = error.reason
    return row


def index_of(row: dict[str, Any] | pd.Series, path: str | Path) -> VideoIndex | None:
    """What `video.decode(path, index=)` takes; None if the file isn't there, has changed, or is no decodable video."""
    if row["error"] or changed(row, path):
        return None
    shortcuts = None
    if row["order"]:
        keys = np.array([pair.split(":") for pair in row["key_packets"].split()], dtype=np.int64)
        shortcuts = Shortcuts(_unpack(row["order"]), keys[:, 0], keys[:, 1], bool(row["leave_out"]))
    return VideoIndex(int(row["packets"]), int(row["first_packet"]), float(row["fps"]), shortcuts)


def changed(row: dict[str, Any] | pd.Series, path: str | Path) -> bool:
    """Whether the file at `path` is missing or has another size or time of change than the one that was checked."""
    try:
        status = os.stat(path)
    except OSError:
        return True
    return (status.st_size, status.st_mtime_ns) != (row["bytes"], row["mtime_ns"])


def check(
    paths: Iterable[str | Path], *, root: str | Path, workers: int = 1, known: pd.DataFrame | None = None
) -> pd.DataFrame:
    """The manifest of the files `paths` below `root`: a row each, in the order given, with COLUMNS.

    Rows of `known` whose files have not changed are taken over. The others are inspected by `workers` processes with a
    decoder thread each; a file that kills or stops its process has that as its `error`. Raises FileNotFoundError if a
    file is missing, ValueError if one lies outside `root`.
    """
    root, rows = Path(root), {}
    names = {Path(path).relative_to(root).as_posix(): Path(path) for path in paths}
    for row in [] if known is None else known.to_dict("records"):
        if row["path"] in names and not changed(row, names[row["path"]]):
            rows[row["path"]] = row
    todo = {path: name for name, path in names.items() if name not in rows}
    for path in todo:
        path.stat()
    answers = guarded_map(inspect, todo, workers=workers, seconds=FILE_SECONDS)
    for path, row, failure in tqdm(answers, total=len(todo), unit=" clips", desc="checking videos"):
        if failure:
            status = path.stat()
            row = {name: "" if kind == "str" else 0 for name, kind in COLUMNS.items()}
            row |= {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "error": failure}
        rows[todo[path]] = row | {"path": todo[path]}
    return pd.DataFrame([rows[name] for name in names], columns=list(COLUMNS)).astype(COLUMNS)


def write(table: pd.DataFrame, path: str | Path) -> None:
    """The manifest as CSV, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    table.to_csv(partial, index=False)
    os.replace(partial, path)


def read(path: str | Path) -> pd.DataFrame:
    """A manifest from its CSV. Raises ValueError if it has other columns than COLUMNS."""
    table = pd.read_csv(path, dtype=COLUMNS, keep_default_na=False)
    if list(table.columns) != list(COLUMNS):
        raise ValueError(f"{path} is no manifest of this version: columns {list(table.columns)}, not {list(COLUMNS)}")
    return table


def guarded_map(
    function: Callable[[Any], Any], items: Iterable[Any], *, workers: int, seconds: float
) -> Iterator[tuple[Any, Any, str]]:
    """Yields (item, function(item), "") as they come, or (item, None, what happened) where the process ended.

    Every worker is a process of its own with a single item at a time, so that it is known which item killed it or
    took longer than `seconds`; it is then replaced. An exception of `function` is raised here.
    """
    context, waiting, running = multiprocessing.get_context("spawn"), iter(items), {}

    def start() -> tuple[Any, Connection]:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(function, theirs), daemon=True)
        process.start()
        theirs.close()
        return process, ours

    idle = [start() for _ in range(workers)]
    try:
        while True:
            for item in itertools.islice(waiting, len(idle)):
                process, pipe = idle.pop()
                pipe.send(item)
                running[pipe] = process, item, time.monotonic() + seconds
            if not running:
                return
            first_deadline = min(deadline for _, _, deadline in running.values())
            ready = wait(list(running), max(0.0, first_deadline - time.monotonic()))
            for pipe in ready or [p for p, (_, _, deadline) in running.items() if deadline <= time.monotonic()]:
                process, item, _ = running.pop(pipe)
                try:
                    if pipe not in ready:
                        raise TimeoutError(f"takes longer than {seconds:g} seconds")
                    result, error = pipe.recv()
                except (EOFError, ConnectionError, TimeoutError) as end:
                    process.kill()
                    process.join()
                    what = str(end) if isinstance(end, TimeoutError) else f"ends its process ({process.exitcode})"
                    idle.append(start())
                    yield item, None, what
                    continue
                idle.append((process, pipe))
                if error:
                    raise error
                yield item, result, ""
    finally:
        for process, _ in idle + [(process, None) for process, _, _ in running.values()]:
            process.kill()
            process.join()


def _serve(function: Callable[[Any], Any], pipe: Connection) -> None:
    while True:
        item = pipe.recv()
        try:
            answer = function(item), None
        except Exception as error:  # handed to the caller, who raises it
            answer = None, error
        pipe.send(answer)


def _inspect_frames(path: Path, index: VideoIndex, kept: list | None) -> dict[str, Any]:
    """What a complete decode adds to a row."""
    order, checksums, looks, damaged, sound, error = [], [], set(), 0, True, ""
    with open_video(path) as video:
        stream = video.stream
        try:
            for _, frame in linear_frames(video, index.first_packet, kept):
                order.append(frame.pts)
                checksums.append(_checksum(frame))
                looks.add(_look(stream, frame))
                damaged += frame.is_corrupt
                sound = sound and not frame.interlaced_frame
        except VideoError as failure:
            error = failure.reason
        if not order:
            error = error or f"none of its {index.num_frames} frames can be decoded"
        found = {"frames": len(order), "damaged": damaged, "codec": stream.codec_context.codec.canonical_name,
                 "width": stream.width, "height": stream.height, "error": error}
    with open_video(path) as (_, container, stream, _):
        packets = [(p.pts, p.dts, p.pos, p.size, p.is_keyframe) for p in container.demux(stream) if p.size]
    keys = [number for number, packet in enumerate(packets) if packet[-1] and number >= index.first_packet]
    distances = np.diff([*keys, len(packets)])
    if keys:
        found |= {"max_key_distance": distances.max(), "mean_key_distance": round(distances.mean(), 2)}
    # of interlaced video a frame may come in two packets, and would need both
    sound = sound or len(order) == len(packets) - index.first_packet
    if error or damaged or not sound or len(looks) > 1 or None in order + checksums or len(set(order)) < len(order):
        return found
    for candidates, leave_out in ((keys, True), (keys, False), (keys[:1], True)):
        shortcuts = _shortcuts(path, packets, np.array(order), candidates)._replace(leave_out=leave_out)
        if (leave_out or len(shortcuts.times) > 1) and _proven(path, shortcuts, checksums):
            pairs = zip(shortcuts.key_packets.tolist(), shortcuts.times.tolist())
            return found | {"order": _pack(shortcuts.packets), "leave_out": leave_out,
                            "key_packets": " ".join(f"{key}:{time_stamp}" for key, time_stamp in pairs)}
    return found


def _shortcuts(path: Path, packets: list[tuple], order: np.ndarray, keys: list[int]) -> Shortcuts:
    """The shortcuts by those of the packets `keys` where a seek arrives and that no earlier frame is shown after."""
    entries = [(keys[0], 0)] if keys else []  # the first is reached without a seek
    with open_video(path) as (_, container, stream, _):
        for key in keys[1:]:
            shown_before = order[: (order < key).sum()]
            if not 0 < len(shown_before) < len(order) or shown_before.max() > key:
                continue
            for time_stamp in set(packets[key][:2]) - {None}:
                container.seek(time_stamp, stream=stream)
                packet = next((p for p in container.demux(stream) if p.size), None)
                if packet and (packet.pts, packet.dts, packet.pos, packet.size, packet.is_keyframe) == packets[key]:
                    entries.append((key, time_stamp))
                    break
    table = np.array(entries, dtype=np.int64).reshape(-1, 2)
    return Shortcuts(order, table[:, 0], table[:, 1], leave_out=True)


def _proven(path: Path, shortcuts: Shortcuts, checksums: list[int]) -> bool:
    """Whether every frame is the same by the shortcuts.

    Frames with even and with odd index are read apart, so that each is read while its neighbours are left out, and so
    are those behind every other key frame, so that every seek is made.
    """
    if not len(shortcuts.key_packets) or shortcuts.packets.min() < shortcuts.key_packets[0]:
        return False
    groups = np.searchsorted(shortcuts.key_packets, shortcuts.packets, side="right")
    classes = groups % 2 * 2 + np.arange(len(groups)) % 2
    try:
        for chosen in np.unique(classes):
            indices = np.flatnonzero(classes == chosen)
            with open_video(path) as video:
                read = {i: _checksum(frame) for i, frame in shortcut_frames(video, shortcuts, indices)}
            if read != {i: checksums[i] for i in indices.tolist()}:
                return False
    except VideoError:
        return False
    return True


def _look(stream: av.VideoStream, frame: av.VideoFrame) -> tuple:
    """What besides its bytes decides which picture a frame becomes."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    return (frame.width, frame.height, frame.format.name, display_size(stream, frame, None), frame.color_range,
            frame.colorspace, matrix and bytes(matrix))


def _checksum(frame: av.VideoFrame) -> int | None:
    """Of the picture as decoded; None for a layout in memory that isn't known here."""
    layout, planes = frame.format, frame.planes
    if len(planes) not in (1, len(layout.components)) or min(plane.line_size for plane in planes) < 0:
        return None
    width = layout.padded_bits_per_pixel // 8 if len(planes) == 1 else (layout.components[0].bits + 7) // 8
    total = frame.is_corrupt
    for plane in planes:
        lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width * width]
        total = zlib.crc32(np.ascontiguousarray(lines), total)
    return total


def _pack(order: np.ndarray) -> str:
    """Integers that rise nearly by one each, as text."""
    return base64.b64encode(zlib.compress(np.diff(order, prepend=0).astype("<i4").tobytes(), 9)).decode()


def _unpack(text: str) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), "<i4").astype(np.int64).cumsum()
