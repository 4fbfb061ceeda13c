"""Devices of a machine, each lent to one run at a time.

`python -m lib.run.devices COUNT COMMAND...` waits until COUNT devices are free and becomes the command, which sees no other
devices (CUDA_VISIBLE_DEVICES). A device is held by the lock on its file under `outputs/.gpus/` for as long as the
command's process lives: the system releases it however that ends, also by a kill.
"""

import fcntl
import os
import resource
import socket
import sys
import time
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from lib.run.params import ROOT

if TYPE_CHECKING:
    import torch

FOLDER = ROOT / "outputs" / ".gpus"


class DeviceError(RuntimeError):
    """More devices are asked for than there are; the message says how many, and where."""


def visible() -> list[str]:
    """The devices of this machine, as CUDA_VISIBLE_DEVICES names them: those that it allows, or all."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [name for name in dict.fromkeys(map(str.strip, allowed.split(","))) if name not in ("", "-1")]
    import torch  # it takes seconds, which a run on the CPU need not wait for

    return [str(index) for index in range(torch.cuda.device_count())]


def usable_device(name: str) -> "torch.device":
    """The parameter `device` as torch takes it. Raises ValueError if this machine has none of that name: what it has, and
    what to set."""
    import torch

    try:
        device = torch.device(name)
        if device.type != "cpu":
            torch.zeros(1, device=device).item()  # what is absent, or only pretends to compute, fails in many ways
    except Exception as error:
        count = torch.cuda.device_count()
        here = [
            "cpu",
            *(f"cuda:{index}" for index in range(count)),
            *(["mps"] if torch.backends.mps.is_available() else []),
        ]
        hint = (
            ""
            if count
            else f"; torch {torch.__version__} "
            + (
                "sees no CUDA device: nvidia-smi, CUDA_VISIBLE_DEVICES"
                if torch.version.cuda
                else "is a build without CUDA"
            )
        )
        raise ValueError(
            f"device: {name!r} cannot be used on {socket.gethostname()}, which has {', '.join(here)}{hint}. "
            f"Set device to one of these ({shorten(str(error), 120)})"
        ) from None
    return device


def memory_gb(device: "torch.device") -> float:
    """The most memory so far: that tensors took on an accelerator; on the CPU, that the process took."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def take(count: int, place: Path) -> list[str]:
    """Waits until `count` of the visible devices are free, and holds them as long as this process, or what it becomes,
    lives. Their locks are files in `place`.

    Raises DeviceError if there are not so many.
    """
    names = visible()
    if count > len(names):
        raise DeviceError(
            f"{count} device(s) asked for, but {socket.gethostname()} shows {len(names)} "
            f"({', '.join(names) or 'none'}): lower `devices`, or set `device: cpu`; "
            "CUDA_VISIBLE_DEVICES, where it is set, says which are shown"
        )
    place.mkdir(parents=True, exist_ok=True)
    held = {}
    with (place / "queue").open("w") as queue:  # one after the other, else two that need two devices may each hold one
        fcntl.flock(queue, fcntl.LOCK_EX)
        while True:
            for name in names:
                if len(held) < count and name not in held and (lock := _lock(place / name.replace("/", "-"))):
                    held[name] = lock
            if len(held) == count:
                break
            time.sleep(0.5)
    for lock in held.values():
        os.set_inheritable(lock, True)
    return list(held)


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
        # a job of Slurm sees only devices that are its own, whatever their numbers: it competes with nobody else
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
