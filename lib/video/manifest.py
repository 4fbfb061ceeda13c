"""The manifest of a data set: what every file of it is, found by decoding each one once, in a CSV file.

A row holds what a person wants to know (frames, fps, size, codec, spacing of key frames, error) and what `video.decode`
needs to jump to the wanted frames of a sound file. An entry speaks of a file as long as its size and time of
modification are what they were, and a manifest as long as the code that counts and decodes is: other code has another.
"""

import ast
import hashlib
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import pandas as pd
from tqdm import tqdm

from lib.video.container import VideoError, VideoIndex
from lib.video.inspection import inspect

KEPT_EVERY = 1000  # files: so many are checked again after a kill
# path: relative to the data set's folder; key_spacing: packets between key frames, on average; index: of `VideoIndex`
COLUMNS = ["path", "bytes", "modified_ns", "frames", "fps", "width", "height", "codec", "key_spacing", "error", "index"]


def path_of(folder: Path, dataset: str, root: Path) -> Path:
    """The manifest in `folder` of the data set at `root`. Its name depends on the root and on the decoding code."""
    place = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:8]
    return folder / f"{dataset}-{place}-{_code()}.csv"


def of_other_code(path: Path) -> list[Path]:
    """The manifests of the same data set that other code has made."""
    return sorted({*path.parent.glob(path.stem.rpartition("-")[0] + "*.csv")} - {path})


def _code() -> str:
    """Eight hex digits over PyAV's version and the code that entries depend on, comments and layout aside."""
    modules = ("packets", "container", "decode", "inspection")
    sources = [Path(__file__).with_name(f"{module}.py").read_bytes() for module in modules]
    trees = "\n".join(ast.dump(ast.parse(source)) for source in sources)
    return hashlib.sha256(f"{av.__version__} {trees}".encode()).hexdigest()[:8]


def entry(path: Path, name: str) -> dict[str, Any]:
    """One file, decoded as a whole. What cannot be decoded has its reason as `error`, and no index."""
    stat = path.stat()
    row = dict.fromkeys(COLUMNS, 0) | {
        "path": name,
        "bytes": stat.st_size,
        "modified_ns": stat.st_mtime_ns,
        "codec": "",
        "error": "",
        "index": "",
    }
    try:
        found = inspect(path)
    except VideoError as error:
        return row | {"error": error.reason}
    return row | {
        "frames": found.frames,
        "fps": round(found.index.fps, 3),
        "width": found.width,
        "height": found.height,
        "codec": found.codec,
        "key_spacing": round(found.key_spacing, 1),
        "error": found.error,
        "index": "" if found.error else json.dumps(found.index),
    }


def check(
    paths: Sequence[Path],
    *,
    root: Path,
    workers: int,
    known: pd.DataFrame | None = None,
    unfinished: Path | None = None,
) -> pd.DataFrame:
    """A row of `COLUMNS` for each file, in the order given; `workers` processes decode.

    Entries of `known` whose file has not changed are taken over. A file that kills its process is an entry with that as
    its error. Every `KEPT_EVERY` files, the entries so far are written to `unfinished`: the `known` of another try.
    Raises OSError if processes die whatever they do.
    """
    names = [os.path.relpath(path, root) for path in paths]
    rows = {} if known is None else {row["path"]: row for row in known.to_dict("records")}
    rows = {name: rows[name] for path, name in zip(paths, names) if name in rows and _unchanged(rows[name], path)}

    def keep() -> None:
        if unfinished and len(rows) % KEPT_EVERY == 0:
            write(pd.DataFrame(rows.values(), columns=COLUMNS), unfinished)

    todo = [(path, name) for path, name in zip(paths, names) if name not in rows]
    with tqdm(total=len(todo), desc=f"checking {root.name}", unit="clip") as progress:
        while todo:
            _in_parallel(todo, workers, progress, rows, keep)
            todo = [(path, name) for path, name in todo if name not in rows]
            if todo:  # a process died, and all that were under way with it: find out which file it was
                _insist_on_processes()
                path, name = todo.pop(0)
                _in_parallel([(path, name)], 1, progress, rows, keep)
                rows.setdefault(
                    name,
                    dict.fromkeys(COLUMNS, 0)
                    | {
                        "path": name,
                        "bytes": path.stat().st_size,
                        "modified_ns": path.stat().st_mtime_ns,
                        "codec": "",
                        "index": "",
                        "error": "decoding kills the process",
                    },
                )
    return pd.DataFrame([rows[name] for name in names], columns=COLUMNS)


def _in_parallel(
    todo: list[tuple[Path, str]],
    workers: int,
    progress: tqdm,
    rows: dict[str, dict[str, Any]],
    keep: Callable[[], None],
) -> None:
    """Adds to `rows` the entries of all files, or of those that were done when a process died; `keep` after each."""
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("forkserver")) as pool:
        jobs = []
        with suppress(BrokenProcessPool):  # a process may die before the last file of many is handed in
            for path, name in todo:
                jobs.append(pool.submit(entry, path, name))
        for job in as_completed(jobs):
            try:
                rows[job.result()["path"]] = job.result()
            except BrokenProcessPool:
                continue
            progress.update()
            keep()


def _insist_on_processes() -> None:
    """Raises OSError if a process dies that does nothing: no file is to blame then."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
        try:
            pool.submit(os.getpid).result()
        except BrokenProcessPool:
            raise OSError(
                "decoding processes end as soon as they are started; what they print stands above. Look for free memory, "
                '`ulimit -u` and /dev/shm; a script that checks data needs `if __name__ == "__main__":` around '
                "what it does"
            ) from None


def write(table: pd.DataFrame, path: Path) -> None:
    """Writes the manifest under a temporary name and renames it. Names that are no UTF-8 stay the bytes that they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    table.to_csv(partial, index=False, errors="surrogateescape")
    os.replace(partial, path)


def read(path: Path) -> pd.DataFrame:
    """What `write` wrote; no entries, and a word on stderr, if the file has other columns than today's."""
    text = {"error": str, "index": str, "codec": str, "path": str}
    table = pd.read_csv(path, keep_default_na=False, dtype=text, encoding_errors="surrogateescape")
    if list(table.columns) != COLUMNS:
        print(f"{path}: the manifest of another version, not used; make check-data makes it anew", file=sys.stderr)
        return pd.DataFrame(columns=COLUMNS)
    return table


def indices(table: pd.DataFrame, root: Path) -> dict[Path, VideoIndex]:
    """The index of every sound file that has not changed since."""
    found = {}
    for row in table.to_dict("records"):
        path = root / row["path"]
        if row["index"] and path.exists() and _unchanged(row, path):
            *numbers, keys = json.loads(row["index"])
            found[path] = VideoIndex(*numbers, tuple(keys))
    return found


def errors(table: pd.DataFrame, root: Path) -> dict[Path, str]:
    """Why a file cannot be decoded, of every broken one that has not changed since."""
    return {
        path: row["error"]
        for row in table.to_dict("records")
        if row["error"] and (path := root / row["path"]).exists() and _unchanged(row, path)
    }


def _unchanged(row: dict[str, Any], path: Path) -> bool:
    stat = path.stat()
    return (row["bytes"], row["modified_ns"]) == (stat.st_size, stat.st_mtime_ns)
