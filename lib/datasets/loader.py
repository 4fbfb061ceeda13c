"""Batches from decoding processes. Every failure is an error that names its cause and the file.

Workers pickle their batches themselves, so that a batch that cannot be handed over (no space in /dev/shm, too many open
files) raises an error. Torch pickles in a background thread, which would drop the batch and leave the run waiting.
"""

import errno
import os
import pickle
import resource
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import RawArray, active_children, parent_process
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from textwrap import shorten
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torch.utils.data._utils.pin_memory import pin_memory

from lib.datasets.lists import Video
from lib.datasets.samples import Batch, EvaluationViews, Sample, SampleKey, TrainingViews, collate
from lib.video.cut import Uncut
from lib.video.views import EvalView

POLL = 1  # seconds between checks of the workers while no batch arrives


class DecodingError(RuntimeError):
    """The workers stopped delivering batches: the message names cause, files, and the parameter to change."""


@contextmanager
def batches_of(
    samples: TrainingViews | EvaluationViews,
    *,
    workers: int,
    loader_timeout: int,
    stop: Callable[[], bool] = lambda: False,
    **loading: Any,
) -> Iterator[Iterator[Batch]]:
    """The batches of `samples` from `workers` decoding processes, which end with the context.

    stop: called before every batch and while waiting for one; the batches end once it returns True. loading: arguments
    of torch's DataLoader (`batch_sampler` or `batch_size`, `pin_memory`). Raises DecodingError if a worker dies, cannot
    hand over its batch, or if for `loader_timeout` seconds no batch arrives and no worker starts another video.
    """
    other_processes, tracked = active_children(), _Tracked(samples, workers)
    loading |= {"num_workers": workers, "timeout": POLL if workers else 0, "worker_init_fn": _start_worker}
    try:
        parcels = iter(DataLoader(tracked, collate_fn=_pack, **loading))
    except OSError as error:
        _kill([process for process in active_children() if process not in other_processes])
        raise DecodingError(f"{workers} decoding processes cannot be started: {_cause(error)}") from error
    processes = getattr(parcels, "_workers", [])
    batches = _unpack(parcels, tracked, loader_timeout, stop)
    try:
        yield batches
    except RuntimeError as error:  # raised by torch's handler of SIGCHLD, wherever the main process is
        exit_codes = [process.exitcode for process in processes]
        if "DataLoader worker (pid" in str(error) and any(exit_codes):
            raise DecodingError(_cause_of_death(tracked, exit_codes)) from error
        raise
    finally:
        _kill(processes)
        batches.close()
        del parcels, processes  # also if an error's traceback keeps this frame alive


def middle_frames(
    videos: Sequence[Video], *, image_size: int, batch_size: int, workers: int, loader_timeout: int
) -> tuple[list[Tensor], list[str]]:
    """The middle frame of each video, in batches of 'b c 1 h w', and the names of those that cannot be decoded."""
    samples = EvaluationViews(videos, [EvalView.parse(f"1x1x1@{image_size}")])
    loading = batches_of(samples, workers=workers, loader_timeout=loader_timeout, batch_size=batch_size)
    with torch.random.fork_rng(devices=[]), loading as batches:  # torch's DataLoader draws a seed
        batches = list(batches)
    failed = [videos[i].name for batch in batches for i, _ in batch.errors]
    return [view[:, 0] for batch in batches for view in batch.views], failed


class _Tracked(Dataset):
    """Samples that count, for each worker, the videos that it has started, and keep the one that it is decoding."""

    def __init__(self, samples: TrainingViews | EvaluationViews, workers: int):
        self.samples = samples
        self.started = RawArray("q", max(1, workers))
        self.current = RawArray("q", max(1, workers))  # index + 1; 0: none

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: SampleKey | int) -> Sample:
        if (worker := get_worker_info()) is None:
            return self.samples[key]
        self.started[worker.id] += 1
        self.current[worker.id] = 1 + (key.index if isinstance(key, SampleKey) else key)
        sample = self.samples[key]
        self.current[worker.id] = 0
        return sample

    def files(self, workers: range) -> str:
        """The files that these workers are decoding."""
        indices = [self.current[worker] - 1 for worker in workers if self.current[worker]]
        return ", ".join(str(self.samples.path(index)) for index in indices) or "no file"


class Parcel(NamedTuple):
    """A batch in transit from a worker: its pickle, with tensors in shared memory, or the reason that there is none."""

    content: bytes
    error: str

    def open(self) -> Batch:
        if self.error:
            raise DecodingError(self.error)
        try:
            return pickle.loads(self.content)
        except (OSError, RuntimeError, EOFError) as error:
            raise DecodingError(f"a batch cannot be received from its decoding process: {_cause(error)}") from error

    def pin_memory(self) -> "Batch | Parcel":
        """Called by torch in a thread that an exception would end."""
        try:
            return pin_memory(self.open())
        except DecodingError as error:
            return Parcel(b"", str(error))


def _pack(samples: list[Sample]) -> Batch | Parcel:
    batch = collate(samples)
    if get_worker_info() is None:
        return batch
    try:
        return Parcel(bytes(ForkingPickler.dumps(batch)), "")
    except (OSError, RuntimeError) as error:
        size = sum((view.pixels if isinstance(view, Uncut) else view).nbytes for view in batch.views)
        return Parcel(b"", f"a decoding process cannot hand over its batch of {size:,} bytes: {_cause(error)}")


def _unpack(parcels: Iterator, tracked: _Tracked, timeout: int, stop: Callable[[], bool]) -> Iterator[Batch]:
    started, waited = 0, 0
    while not stop():
        try:
            parcel = next(parcels)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader timed out" not in str(error):
                raise
            # count polls instead of reading the clock: a suspended run has not waited
            waited = waited + POLL if sum(tracked.started) == started else 0
            started = sum(tracked.started)
            if waited < timeout:
                continue
            raise DecodingError(
                f"no batch arrived for {timeout} s, in which no decoding process started another video; they are at: "
                f"{tracked.files(range(len(tracked.current)))}. If storage is slow or videos are long, raise "
                "loader_timeout; `make check-data` finds corrupt files; workers: 0 decodes without processes"
            ) from None
        waited = 0
        yield parcel.open() if isinstance(parcel, Parcel) else parcel


def _cause(error: BaseException) -> str:
    """Why processes cannot exchange a batch, and the remedy."""
    text, number = str(error), getattr(error, "errno", None)
    if number == errno.EMFILE or "Too many open files" in text or "ancdata" in text:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return f"too many open files, {soft} at most: `ulimit -n {hard}`, or lower workers"
    if number == errno.ENOSPC or any(hint in text for hint in ("/dev/shm", "No space left", "/torch_")):
        return f"{_shared_memory()} ({shorten(text, 100)})"
    return f"{text}: lower workers (0: no processes){', or raise ulimit -u' * (number == errno.EAGAIN)}"


def _shared_memory() -> str:
    try:
        space = shutil.disk_usage("/dev/shm")
    except OSError as error:
        return f"there is no shared memory ({error}): set workers to 0"
    return (
        f"/dev/shm, the memory shared by processes, has {space.free:,} of {space.total:,} bytes free, and each worker "
        "keeps two batches there: enlarge it (`docker run --shm-size=8g`, `mount -o remount,size=8g /dev/shm`) "
        "or lower workers (0: no shared memory)"
    )


def _cause_of_death(tracked: _Tracked, exit_codes: list[int | None]) -> str:
    worker, code = next((worker, code) for worker, code in enumerate(exit_codes) if code)
    end = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    hints = {
        -signal.SIGKILL: "The system does that when memory runs out: lower workers, batch_size or eval_batch_size. ",
        -signal.SIGBUS: f"The usual cause is too little shared memory: {_shared_memory()}. ",
    }
    return (
        f"a decoding process {end}; it was at: {tracked.files(range(worker, worker + 1))}. {hints.get(code, '')}"
        "`make check-data` finds files that kill the process which decodes them"
    )


def _start_worker(worker: int) -> None:
    """Workers end with their run, which finishes its step first: they ignore SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.getppid() != parent_process().pid:
        os._exit(1)  # the run was killed meanwhile: torch would take the process that adopted this one for the run


def _kill(processes: list[BaseProcess]) -> None:
    """Kills workers: they ignore SIGTERM, and one that hangs would keep the run alive."""
    if not processes:
        return
    handler = signal.getsignal(signal.SIGCHLD)
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would report them as failures
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    with suppress(ValueError):
        signal.signal(signal.SIGCHLD, handler)
