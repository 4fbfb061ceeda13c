"""Several processes that act as one: each looks at its share of a batch, all see the whole.

torchrun starts the processes and restarts them all if one dies (`launch`, or by hand on several machines). What one
process alone calls here costs nothing and changes nothing.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lib.run.devices import usable_device
from lib.run.params import ROOT

RESTARTS = 3  # of all processes, after one of them died; each goes on from the last checkpoint
# Without it torchrun gives restarted processes the store of those before, and gloo waits forever for their addresses.
OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def start(device: str) -> torch.device:
    """Joins the processes that torchrun started, if it did; returns this process's device.

    `cuda` stands for the one of this process's rank on its machine. Gloo carries what lies on the CPU, NCCL the rest.
    Raises ValueError if this machine has no such device.
    """
    if not dist.is_torchelastic_launched():
        return usable_device(device)
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    own = usable_device(device)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    dist.init_process_group()
    return own


def stop() -> None:
    """Leaves the other processes, when all are done."""
    if dist.is_initialized():
        dist.destroy_process_group()


def processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def say(text: str) -> None:
    """Prints once, whatever the number of processes."""
    if rank() == 0:
        print(text, flush=True)


def gather_objects(value: Any) -> list:
    """A small value of every process, in the order of the ranks."""
    values = [value] * processes()
    if processes() > 1:
        dist.all_gather_object(values, value)
    return values


def gather_rows(rows: Tensor, counts: list[int]) -> Tensor:
    """'n ...' of every process, n = `counts` of its rank -> '(p n) ...' in the order of the ranks, without gradient."""
    if processes() == 1:
        return rows.detach()
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts)])


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Every gradient becomes the sum over the processes; one that a process lacks counts as zero there."""
    if processes() == 1:
        return
    parameters = list(parameters)
    found = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int, device=parameters[0].device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    summed = [p for p, anywhere in zip(parameters, found.tolist()) if anywhere]
    # In one piece: hundreds of small messages would each wait for the slowest process.
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in summed])
    dist.all_reduce(flat)
    for p, gradient in zip(summed, flat.split([p.numel() for p in summed])):
        p.grad = gradient.view_as(p)


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Within it, SIGTERM ends nothing: it is noted in the list that this yields."""
    requests = []
    before = signal.signal(signal.SIGTERM, lambda number, _: requests.append(number))
    try:
        yield requests
    finally:
        signal.signal(signal.SIGTERM, before)


def launch(module: str, *arguments: str, count: int) -> None:
    """Runs `python -m module arguments` in `count` processes of this machine.

    What they print appears here as they print it, so a notebook's cell shows their progress. SIGTERM is passed on.
    Raises RuntimeError if they failed more often than torchrun starts them again.
    """
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={count}",
        f"--max-restarts={RESTARTS}",
        "-m",
        module,
        *arguments,
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT, env=os.environ | OWN_STORE
    ) as process:
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            while text := process.stdout.read1(4096):
                print(text.decode(errors="replace"), end="", flush=True)
        finally:
            signal.signal(signal.SIGTERM, before)
    if process.returncode:
        raise RuntimeError(
            f"{count} processes of {module}: torchrun's exit code is {process.returncode}, the reason is above"
        )
