"""Devices of a machine, each lent to one run at a time.

`python -m lib.run.devices COUNT COMMAND...` waits until COUNT devices are free and becomes the command, which sees no
others (CUDA_VISIBLE_DEVICES). A lock on a file under `outputs/.gpus/` holds each device until the command ends.
"""

import fcntl
import gc
import os
import resource
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from lib.run.params import ROOT

if TYPE_CHECKING:
    import torch  # imported where it is used: it takes seconds, which a run on the CPU need not wait for

FOLDER = ROOT / "outputs" / ".gpus"


class DeviceError(RuntimeError):
    """More devices are requested than this machine has."""


def visible() -> list[str]:
    """The devices that CUDA_VISIBLE_DEVICES names, or all of this machine."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [name for name in dict.fromkeys(map(str.strip, allowed.split(","))) if name not in ("", "-1")]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def usable_device(name: str) -> "torch.device":
    """The parameter `device` for torch. Raises ValueError, with the devices there are, if it cannot be used here."""
    import torch

    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # absent devices and "meta" fail in many ways
    except Exception as error:
        devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        devices += ["mps"] * torch.backends.mps.is_available()
        build = "" if torch.version.cuda else f" (torch {torch.__version__} is a build without CUDA)"
        raise ValueError(
            f"device: {name!r} cannot be used on {socket.gethostname()}, which has {', '.join(devices)}{build}. "
            f"Set device to one of these ({shorten(str(error), 120)})"
        ) from None
    return device


def memory_gb(device: "torch.device") -> float:
    """Peak memory: of tensors on an accelerator, of the process on the CPU."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def check_count(count: int) -> list[str]:
    """The visible devices. Raises DeviceError if they are fewer than `count`."""
    names = visible()
    if count > len(names):
        raise DeviceError(
            f"{count} device(s) requested, but {socket.gethostname()} shows {len(names)} "
            f"({', '.join(names) or 'none'}): lower `devices`, set `device: cpu`, or change CUDA_VISIBLE_DEVICES"
        )
    return names


def take(count: int, place: Path) -> list[str]:
    """Waits until `count` visible devices are free, and locks their files in `place`."""
    names = check_count(count)
    place.mkdir(parents=True, exist_ok=True)
    locks = {}
    with (place / "queue").open("w") as queue:  # one at a time: two that need two devices could hold one each
        fcntl.flock(queue, fcntl.LOCK_EX)
        while len(locks) < count:
            for name in names:
                if len(locks) < count and name not in locks and (lock := _lock(place / name.replace("/", "-"))):
                    locks[name] = lock
            if len(locks) < count:
                time.sleep(0.5)
    for lock in locks.values():
        os.set_inheritable(lock, True)  # by hand: filelock closes its file when this process becomes the command
    return list(locks)


def _lock(path: Path) -> int | None:
    """The open, locked file, or None if another process holds it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def main(count: int, *command: str) -> None:
    if count:
        # a Slurm job sees only its own devices, whatever their numbers, and competes with no other
        place = FOLDER / f"{socket.gethostname()}-{os.environ.get('SLURM_JOB_ID', 'machine')}"
        try:
            names = take(count, place)
        except DeviceError as error:
            sys.exit(str(error))
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names)
        print(f"devices: {', '.join(names)} of {socket.gethostname()}", flush=True)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])


@contextmanager
def rare_collections() -> Iterator[None]:
    """Leaves garbage collection to the caller; what exists now, models and libraries, is not looked at any more."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
