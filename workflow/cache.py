"""Files that can be computed again without an adaptation: rendered worlds, features, checkpoints of finished runs.

    python -m workflow.cache

lists them with their sizes; with FREE=1 in the environment it removes them.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from lib.run.files import is_taken, read_json
from lib.run.params import ROOT


def cached() -> Iterator[tuple[str, Path]]:
    """Kind and path. Manifests stay: reading every file of a data set again takes hours."""
    for record in sorted((ROOT / "data").rglob("world.json")):
        if is_of_world(record):
            yield "rendered world", record.parent
    for run in sorted(path.parent for path in (ROOT / "outputs").glob("*/runs/*/*/adapt.json")):
        yield from (("features", path) for path in [run / "features"] if path.is_dir())
        yield from (("checkpoint of a finished run", path) for path in sorted(run.glob("checkpoint-*.pt*")))


def is_of_world(record: Path) -> bool:
    """Whether a file is the record of a rendered world, and not a file of that name in a data set."""
    try:
        content = read_json(record)
    except ValueError:
        return False
    return isinstance(content, dict) and "params_hash" in content


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def main() -> int:
    found = {path: (kind, size_of(path)) for kind, path in cached()}
    for path, (kind, size) in found.items():
        print(f"{size / 1e6:9.1f} MB  {kind}: {path.relative_to(ROOT)}")
    print(f"{sum(size for _, size in found.values()) / 1e6:9.1f} MB  in all")
    if not os.environ.get("FREE"):
        print("make clean-cache FREE=1 removes it; what is needed again is computed again")
        return 0
    locks = [
        *(ROOT / "outputs").glob("*/.lock"),
        *(ROOT / "outputs").glob("*/runs/*/*/.lock"),
    ]  # of suites, and of runs
    busy = [lock.parent for lock in locks if is_taken(lock.parent)]
    if busy:
        print(f"nothing was removed: {busy[0].relative_to(ROOT)} is at work", file=sys.stderr)
        return 1
    for path in found:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    print("removed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
