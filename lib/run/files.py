"""Where the files of a run lie, and files that are either whole or absent."""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lib.run.params import ROOT, overrides_hash

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no space on the disk, of the user's quota, or for so large a file
CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM}


class DiskError(OSError):
    """A file cannot be written: the message says where, why, how much it needs, and how to go on."""


def results_folder(profile: str, overrides: Mapping[str, Any] = {}) -> Path:
    """Where all results of a profile lie: `outputs/<profile>`, and those of videos from another place (overrides of
    `data_*`) in a folder of their own beside it."""
    places = {key: str((ROOT / value).resolve()) for key, value in overrides.items() if key.startswith("data_")}
    names = [re.sub(r"[^0-9A-Za-z]+", "-", Path(place).name).strip("-")[:24] for place in places.values()]
    return ROOT / "outputs" / "-".join(filter(None, [profile, *names, overrides_hash(places)]))


def run_folder(profile: str, ablation: str, world_seed: int, seed: int, overrides: Mapping[str, Any] = {}) -> Path:
    """Where everything of one run lies. Overrides that change what is computed make it another run than the ablation's
    own, in a folder of its own: `<ablation>-<six digits>`."""
    changed = overrides_hash({key: value for key, value in overrides.items() if not key.startswith("data_")})
    name = "-".join(filter(None, [ablation, changed]))
    return results_folder(profile, overrides) / "runs" / name / f"world{world_seed}-seed{seed}"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Makes a folder, and keeps other processes that ask for it out of it; waits first if one is in it.

    A workflow that was killed leaves its jobs running, and the same command, called again, would write where they write.
    The lock ends with its process, however that ends, and is not handed on to processes that it starts.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    with lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{folder}: another process is at work here; waiting for it to end", flush=True)
            fcntl.lockf(lock, fcntl.LOCK_EX)
        except OSError as error:
            print(
                f"{folder}: no lock can be had on this file system ({error.strerror}): see that no other process is at work here",
                flush=True,
            )
        yield


def is_taken(folder: Path) -> bool:
    """Whether another process is in `alone_in` of a folder."""
    with (folder / ".lock").open("r+") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def write_json(path: Path, content: Any) -> None:
    """Writes JSON so that no reader ever sees half of it."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text (UTF-8) under a temporary name and renames it."""
    content = text.encode()
    with whole_file(path, size=len(content)) as partial:
        partial.write_bytes(content)


@contextmanager
def writing(path: Path, *, size: int | None = None) -> Iterator[None]:
    """Within it, a full disk and a folder that may not be written to are a DiskError, whatever a library made of them.

    path: what is written; size: the bytes that it needs, where that is known.
    """
    try:
        yield
    except Exception as error:
        number, folder = _disk_error(error), next(parent for parent in (path, *path.parents) if parent.is_dir())
        if number in FULL:
            needed = "" if size is None else f" needs {size:,} bytes, and"
            raise DiskError(
                f"the disk of {folder} is full ({os.strerror(number)}): {path.name}{needed} has "
                f"{shutil.disk_usage(folder).free:,} bytes free. Make room there; the same command then goes on from "
                "the last file that is whole"
            ) from error
        if number in CLOSED:
            raise DiskError(
                f"{folder}: {path.name} cannot be written there ({os.strerror(number)}): "
                "make the folder one that this user may write to, or choose another"
            ) from error
        raise


def _disk_error(error: BaseException | None) -> int | None:
    """The number of the system's error behind an exception: torch hides it in the chain, Rust's libraries in the text."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL | CLOSED:
            return error.errno
        if found := re.search(r"\(os error (\d+)\)", str(error)):
            return int(found[1])
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def whole_file(path: Path, *, size: int | None = None) -> Iterator[Path]:
    """A temporary name to write to, which becomes `path` when that is done, and is gone if it fails (DiskError)."""
    partial = path.with_name(path.name + ".partial")
    with writing(path, size=size):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


@contextmanager
def whole_folder(folder: Path, *, size: int | None = None) -> Iterator[Path]:
    """An empty folder of a temporary name to fill, which takes the place of `folder` when that is done, and is gone if
    it fails (DiskError)."""
    partial = folder.with_name(folder.name + ".partial")
    with writing(folder, size=size):
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            yield partial
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def read_json(path: Path) -> Any:
    """A JSON file. Raises ValueError, naming it, if it is cut short or no JSON."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not whole ({error}): remove it, and it is made again") from None


def append_line(path: Path, content: dict[str, Any]) -> None:
    """Adds one line to a JSON-lines log."""
    line = json.dumps(content) + "\n"
    with writing(path, size=len(line)), path.open("a") as file:
        file.write(line)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """A JSON-lines log. A last line that a kill cut short is left out: its step is made again."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """Replaces a JSON-lines log as a whole."""
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def file_hash(path: Path) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of a file, to stand beside the results made with it."""
    return sha256(path)[:12]


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
