"""Where the files of a run are, and files that are either whole or absent."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lib.run.params import ROOT, overrides_hash

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no space on the disk, in the user's quota, for so large a file
CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM}


class DiskError(OSError):
    """A file cannot be written; the message says where, why, and what to do."""


def results_folder(profile: str, overrides: Mapping[str, Any] = {}) -> Path:
    """`outputs/<profile>`, or a folder beside it for videos from another place (overrides `data_*`)."""
    places = {key: str((ROOT / value).resolve()) for key, value in overrides.items() if key.startswith("data_")}
    names = [re.sub(r"[^0-9A-Za-z]+", "-", Path(place).name).strip("-")[:24] for place in places.values()]
    return ROOT / "outputs" / "-".join(filter(None, [profile, *names, overrides_hash(places)]))


def run_folder(profile: str, ablation: str, world_seed: int, seed: int, overrides: Mapping[str, Any] = {}) -> Path:
    """The folder of one run. Overrides that change what is computed are part of its name: `<ablation>-<six digits>`."""
    changed = overrides_hash({key: value for key, value in overrides.items() if not key.startswith("data_")})
    name = "-".join(filter(None, [ablation, changed]))
    return results_folder(profile, overrides) / "runs" / name / f"world{world_seed}-seed{seed}"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Creates a folder and holds its lock; waits while another process holds it, as jobs of a killed workflow do.

    The lock ends with this process, however that ends; processes that it starts do not inherit it.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".lock").touch()
    lock = _lock(folder)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"{folder}: another process is at work here; waiting for it to end", flush=True)
        lock.acquire()
    except OSError as error:
        print(f"{folder}: no locks on this file system ({error.strerror}): start no second process here", flush=True)
    try:
        yield
    finally:
        lock.release()


def is_taken(folder: Path) -> bool:
    """Whether a process is in `alone_in` of a folder."""
    try:
        with _lock(folder).acquire(blocking=False):
            return False
    except Timeout:
        return True


def _lock(folder: Path) -> FileLock:
    return FileLock(folder / ".lock", fallback_to_soft=False)  # a soft lock would outlive a killed process


def write_json(path: Path, content: Any) -> None:
    """Writes JSON under a temporary name and renames it."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text under a temporary name and renames it."""
    content = text.encode()
    with whole_file(path, size=len(content)) as partial:
        partial.write_bytes(content)


@contextmanager
def writing(path: Path, *, size: int | None = None) -> Iterator[None]:
    """Turns a full disk and a missing permission into a DiskError, whatever a library made of them.

    size: the bytes that `path` needs, if known.
    """
    try:
        yield
    except Exception as error:
        number, folder = _disk_error(error), next(parent for parent in (path, *path.parents) if parent.is_dir())
        if number in FULL:
            needed = "" if size is None else f" needs {size:,} bytes, and"
            raise DiskError(
                f"the disk of {folder} is full ({os.strerror(number)}): {path.name}{needed} has "
                f"{shutil.disk_usage(folder).free:,} bytes free. Make room and repeat the command: it resumes"
            ) from error
        if number in CLOSED:
            raise DiskError(
                f"{folder}: {path.name} cannot be written there ({os.strerror(number)}): make the folder one that "
                "this user may write to, or choose another"
            ) from error
        raise


def _disk_error(error: BaseException | None) -> int | None:
    """The system's error number behind an exception: torch hides it in the chain, Rust's libraries in the text."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL | CLOSED:
            return error.errno
        if match := re.search(r"\(os error (\d+)\)", str(error)):
            return int(match[1])
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def whole_file(path: Path, *, size: int | None = None) -> Iterator[Path]:
    """A temporary name to write to, renamed to `path` at the end and removed after an error (DiskError)."""
    partial = path.with_name(path.name + ".partial")
    with writing(path, size=size):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path, *, size: int | None = None) -> Iterator[Path]:
    """An empty temporary folder to fill; it replaces `folder` at the end and is removed after an error (DiskError)."""
    partial = folder.with_name(folder.name + ".partial")
    with writing(folder, size=size):
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            yield partial
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def read_json(path: Path) -> Any:
    """Raises ValueError, naming the file, if it is no JSON or cut short."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not whole ({error}): remove it, and it is made again") from None


def append_line(path: Path, content: dict[str, Any]) -> None:
    """Adds a line to a JSON-lines log."""
    line = json.dumps(content) + "\n"
    with writing(path, size=len(line)), path.open("a") as file:
        file.write(line)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """A JSON-lines log, without a last line that a kill cut short."""
    lines = path.read_text().split("\n") if path.exists() else [""]
    return [json.loads(line) for line in lines[:-1]]


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """Replaces a JSON-lines log."""
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def file_hash(path: Path) -> str:
    """The first 12 hexadecimal digits of a file's SHA-256."""
    return sha256(path)[:12]


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
