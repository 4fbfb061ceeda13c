"""Several processes that act as one: each processes its share of a batch, all see the whole.

torchrun starts them and restarts them all if one dies. In a single process every function here does nothing.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lib.run.devices import usable_device
from lib.run.params import ROOT

RESTARTS = 3  # of all processes after one died; each resumes from the last checkpoint
# Otherwise restarted processes get the store of those before, and gloo waits forever for their addresses.
OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def start(device: str) -> torch.device:
    """Joins the processes of torchrun, if there are any, and returns this one's device: for `cuda`, that of its rank.

    Gloo carries tensors of the CPU, NCCL the others. Raises ValueError if this machine has no such device.
    """
    if not dist.is_torchelastic_launched():
        return usable_device(device)
    torch_device = usable_device(f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" else device)
    if torch_device.type == "cuda":
        torch.cuda.set_device(torch_device)
    dist.init_process_group()
    return torch_device


def stop() -> None:
    """Leaves the other processes, when all are done."""
    if dist.is_initialized():
        dist.destroy_process_group()


def processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def say(text: str) -> None:
    """Prints in the first process only."""
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
    padded = rows.new_zeros(max(counts), *rows.shape[1:])  # all_gather takes equal shapes
    padded[: len(rows)] = rows.detach()
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts)])


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sums every gradient over the processes; where a process has none, it counts as zero.

    Not DistributedDataParallel: a process may have no video of a batch, or several micro-batches.
    """
    if processes() == 1:
        return
    parameters = list(parameters)
    present = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int, device=parameters[0].device)
    dist.all_reduce(present, dist.ReduceOp.MAX)
    summed = [p for p, anywhere in zip(parameters, present.tolist()) if anywhere]
    # in one piece: hundreds of small messages would each wait for the slowest process
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in summed])
    dist.all_reduce(flat)
    for p, gradient in zip(summed, flat.split([p.numel() for p in summed])):
        p.grad = gradient.view_as(p)


@contextmanager
def on_signals(handler: Callable, *numbers: int) -> Iterator[None]:
    """Handles these signals differently for a while."""
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in previous.items():
            signal.signal(number, former)


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """SIGTERM does not end the process for a while: each one is added to this list."""
    requests = []
    with on_signals(lambda number, _: requests.append(number), signal.SIGTERM):
        yield requests


def launch(module: str, *arguments: str, count: int) -> None:
    """Runs `python -m module arguments` in `count` processes of this machine; SIGTERM and Ctrl-C stop them.

    Their output is printed here as it comes, so that a notebook shows it. Raises RuntimeError if they fail too often.
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command = [*torchrun, f"--max-restarts={RESTARTS}", "-m", module, *arguments]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | OWN_STORE, **pipes) as process:
        with on_signals(lambda *_: process.terminate(), signal.SIGTERM, signal.SIGINT):
            while text := process.stdout.read1(4096):
                print(text.decode(errors="replace"), end="", flush=True)
    if process.returncode:
        raise RuntimeError(f"{count} processes of {module}: torchrun's exit code is {process.returncode}, see above")
