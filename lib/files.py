"""Where the files of a run lie, and files that are either whole or absent."""

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

from lib.params import ROOT, overrides_hash


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
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{folder}: another process is at work here; waiting for it to end", flush=True)
            fcntl.lockf(lock, fcntl.LOCK_EX)
        except OSError as error:
            print(f"{folder}: no lock can be had on this file system ({error.strerror}): see that no other process is at work here", flush=True)
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
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty folder of a temporary name to fill, which takes the place of `folder` when that is done."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def read_json(path: Path) -> Any:
    """A JSON file. Raises ValueError, naming it, if it is cut short or no JSON."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not whole ({error}): remove it, and it is made again") from None


def append_line(path: Path, content: dict[str, Any]) -> None:
    """Adds one line to a JSON-lines log."""
    with path.open("a") as file:
        file.write(json.dumps(content) + "\n")


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
