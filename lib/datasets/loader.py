"""Batches from decoding processes: they arrive, or an error says what failed at which file.

Processes pickle their batches themselves, so that a batch that cannot be handed over (no room in /dev/shm, too many
open files) raises. Torch would do it in a thread, which drops such a batch, and the run would wait forever.
"""

import errno
import pickle
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import RawArray, active_children
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from textwrap import shorten
from typing import Any, NamedTuple

from torch.utils.data import DataLoader, Dataset, get_worker_info
from torch.utils.data._utils.pin_memory import pin_memory

from lib.datasets.samples import Batch, EvaluationViews, Sample, SampleKey, TrainingViews, Uncut, collate

POLL = 1  # seconds between two looks at the decoding processes while no batch arrives


class DecodingError(RuntimeError):
    """The decoding processes stopped delivering: the message names cause, files, and the parameter to change."""


@contextmanager
def batches_of(
    samples: TrainingViews | EvaluationViews,
    *,
    workers: int,
    loader_timeout: int,
    stop: Callable[[], bool] = lambda: False,
    **loading: Any,
) -> Iterator[Iterator[Batch]]:
    """The batches of `samples`, made by `workers` decoding processes, which end with the context.

    stop: called before every batch and while waiting for one; once true, the batches end. loading: arguments of torch's
    DataLoader (`batch_sampler` or `batch_size`, `pin_memory`). Raises DecodingError if a process dies or cannot hand
    over its batch, or after `loader_timeout` seconds without a batch in which no process began another video.
    """
    others, tracked = active_children(), _Tracked(samples, workers)
    loading |= {"num_workers": workers, "timeout": POLL if workers else 0, "worker_init_fn": _ignore_sigterm}
    try:
        parcels = iter(DataLoader(tracked, collate_fn=_pack, **loading))
    except OSError as error:
        _end([process for process in active_children() if process not in others])
        raise DecodingError(f"{workers} decoding processes cannot be started: {_cause(error)}") from error
    processes = getattr(parcels, "_workers", [])
    batches = _unpacked(parcels, tracked, loader_timeout, stop)
    try:
        yield batches
    except RuntimeError as error:  # torch's handler of SIGCHLD raises it, wherever the run happens to be
        codes = [process.exitcode for process in processes]
        if "DataLoader worker (pid" in str(error) and any(codes):
            raise DecodingError(_why_dead(tracked, codes)) from error
        raise
    finally:
        _end(processes)
        batches.close()
        del parcels, processes  # also where an error's traceback holds this frame


class _Tracked(Dataset):
    """Samples, with the number that each decoding process has begun and the one that it is decoding."""

    def __init__(self, samples: TrainingViews | EvaluationViews, workers: int):
        self.samples = samples
        self.begun = RawArray("q", max(1, workers))
        self.current = RawArray("q", max(1, workers))  # index + 1; 0: none

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: SampleKey | int) -> Sample:
        if (process := get_worker_info()) is None:
            return self.samples[key]
        self.begun[process.id] += 1
        self.current[process.id] = 1 + (key.index if isinstance(key, SampleKey) else key)
        sample = self.samples[key]
        self.current[process.id] = 0
        return sample

    def files(self, processes: list[int]) -> str:
        """What these decoding processes are decoding."""
        indices = [self.current[process] - 1 for process in processes if self.current[process]]
        return ", ".join(str(self.samples.path(index)) for index in indices) or "no file"


class Parcel(NamedTuple):
    """A batch on its way from a decoding process: its pickle, with tensors in shared memory; or why there is none."""

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
        """Called by torch, in a thread that an error would end."""
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


def _unpacked(parcels: Iterator, tracked: _Tracked, timeout: int, stop: Callable[[], bool]) -> Iterator[Batch]:
    begun, waited = 0, 0
    while not stop():
        try:
            parcel = next(parcels)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader timed out" not in str(error):
                raise
            # polls are counted, not the clock: a suspended run has not waited
            waited = waited + POLL if sum(tracked.begun) == begun else 0
            begun = sum(tracked.begun)
            if waited < timeout:
                continue
            raise DecodingError(
                f"no batch came for {timeout} s, in which no decoding process began another video; they are at: "
                f"{tracked.files(list(range(len(tracked.current))))}. If storage is slow or videos are long, raise "
                "loader_timeout; `make check-data` finds corrupt files; workers: 0 decodes without processes"
            ) from None
        waited = 0
        yield parcel.open() if isinstance(parcel, Parcel) else parcel


def _cause(error: BaseException) -> str:
    """Why processes cannot share a batch, and what to do, from what torch or the system says."""
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
        f"/dev/shm, the memory that processes share, has {space.free:,} of {space.total:,} bytes free, and each worker "
        "has two batches there: enlarge it (`docker run --shm-size=8g`, `mount -o remount,size=8g /dev/shm`) or lower "
        "workers (0: no shared memory)"
    )


def _why_dead(tracked: _Tracked, codes: list[int | None]) -> str:
    process, code = next((process, code) for process, code in enumerate(codes) if code)
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    cause = ""
    if code == -signal.SIGKILL:
        cause = "The system does that when memory runs out: lower workers, or batch_size and eval_batch_size. "
    elif code == -signal.SIGBUS:
        cause = f"The usual cause is too little shared memory: {_shared_memory()}. "
    return (
        f"a decoding process {how}; it was at: {tracked.files([process])}. {cause}`make check-data` finds files that "
        "kill the process which decodes them"
    )


def _ignore_sigterm(worker: int) -> None:
    """A decoding process ends with its run, which finishes its step first."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _end(processes: list[BaseProcess]) -> None:
    """Kills decoding processes: they ignore SIGTERM, and one that hangs would keep the run alive."""
    if not processes:
        return
    handler = signal.getsignal(signal.SIGCHLD)
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler takes them for failures
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    with suppress(ValueError):
        signal.signal(signal.SIGCHLD, handler)
