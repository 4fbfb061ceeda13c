"""Batches from decoding processes, for training and evaluation: they arrive, or an error says what failed at which file.

A process packs its batch itself, so that what cannot be handed over (no room in /dev/shm, too many open files) fails where
that is seen. Torch would hand it over in a thread of that process, which drops such a batch, and the run waits for ever.
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

GLANCE = 1  # seconds between two looks at the decoding processes while no batch arrives
SHM = "/dev/shm"


class DecodingError(RuntimeError):
    """The decoding processes deliver no more: the message says why, at which files they are, which parameter to change."""


@contextmanager
def batches_of(
    samples: TrainingViews | EvaluationViews,
    *,
    workers: int,
    loader_timeout: int,
    stop: Callable[[], bool] = lambda: False,
    **loading: Any,
) -> Iterator[Iterator[Batch]]:
    """The batches of `samples`, made by `workers` decoding processes, which end with it.

    stop: asked before every batch and while one is awaited; once it is true, no batch comes any more. loading: of torch's
    DataLoader: `batch_sampler` or `batch_size`, `pin_memory`.
    Raises DecodingError if a process dies or cannot hand over its batch, or if `loader_timeout` seconds pass in which no
    batch comes and no process begins another video.
    """
    others = active_children()
    try:
        noted = _Noted(samples, workers)
        parcels = iter(
            DataLoader(
                noted,
                collate_fn=_packed,
                num_workers=workers,
                worker_init_fn=_outlive_sigterm,
                timeout=GLANCE if workers else 0,
                **loading,
            )
        )
        processes = getattr(parcels, "_workers", [])
    except OSError as error:
        _end([process for process in active_children() if process not in others])
        raise DecodingError(f"{workers} decoding processes cannot be started: {_cause(error)}") from error
    batches = _opened(parcels, noted, loader_timeout, stop)
    try:
        yield batches
    except RuntimeError as error:  # torch's handler of SIGCHLD raises it, wherever the run happens to be
        codes = [process.exitcode for process in processes]
        if "DataLoader worker (pid" in str(error) and any(codes):
            raise DecodingError(_why_dead(noted, codes)) from error
        raise
    finally:
        _end(processes)
        batches.close()
        del parcels, processes  # also where an error's traceback holds this frame


class _Noted(Dataset):
    """The samples of another data set; of each decoding process it knows how many it has begun, and which one it is at."""

    def __init__(self, samples: TrainingViews | EvaluationViews, workers: int):
        self.samples = samples
        self.begun, self.at = (
            RawArray("q", max(1, workers)),
            RawArray("q", max(1, workers)),
        )  # at: index + 1; 0: at none

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: SampleKey | int) -> Sample:
        if (process := get_worker_info()) is None:
            return self.samples[key]
        self.begun[process.id] += 1
        self.at[process.id] = 1 + (key.index if isinstance(key, SampleKey) else key)
        sample = self.samples[key]
        self.at[process.id] = 0
        return sample

    def files(self, processes: list[int]) -> str:
        """What these decoding processes are at."""
        found = [str(self.samples.path(self.at[process] - 1)) for process in processes if self.at[process]]
        return ", ".join(found) or "no file"


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
            raise DecodingError(f"a batch cannot be taken over from its decoding process: {_cause(error)}") from error

    def pin_memory(self) -> "Batch | Parcel":
        """Called by torch, in a thread that an error would end."""
        try:
            return pin_memory(self.open())
        except DecodingError as error:
            return Parcel(b"", str(error))


def _packed(samples: list[Sample]) -> Batch | Parcel:
    batch = collate(samples)
    if get_worker_info() is None:
        return batch
    try:
        return Parcel(bytes(ForkingPickler.dumps(batch)), "")
    except (OSError, RuntimeError) as error:
        tensors = [view.pixels if isinstance(view, Uncut) else view for view in batch.views]
        return Parcel(
            b"",
            f"a decoding process cannot hand over its batch of {sum(t.nbytes for t in tensors):,} bytes: {_cause(error)}",
        )


def _opened(
    parcels: Iterator[Batch | Parcel], noted: _Noted, timeout: int, stop: Callable[[], bool]
) -> Iterator[Batch]:
    begun, waited = 0, 0
    while not stop():
        try:
            parcel = next(parcels)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader timed out" not in str(error):
                raise
            headway = sum(noted.begun) - begun
            # glances, not the clock: a run that was suspended has not waited
            begun, waited = begun + headway, 0 if headway else waited + GLANCE
            if waited >= timeout:
                raise DecodingError(
                    f"no batch came for {timeout} s, in which no decoding process began another video; they are at: "
                    f"{noted.files(list(range(len(noted.at))))}. If the storage is slow or the films are long, raise loader_timeout; "
                    "`make check-data` finds files that cannot be decoded; workers: 0 decodes without processes"
                ) from None
            continue
        waited = 0
        yield parcel.open() if isinstance(parcel, Parcel) else parcel


def _cause(error: BaseException) -> str:
    """Why processes cannot share a batch, and what to do, from what torch or the system says."""
    text, number = str(error), getattr(error, "errno", None)
    if number == errno.EMFILE or "Too many open files" in text or "ancdata" in text:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return (
            f"too many open files, {soft} at most: raise that (`ulimit -n {hard}`), or lower workers (0: no decoding "
            "processes), or set views_on_device: false"
        )
    if (
        number == errno.ENOSPC or SHM in text or "No space left" in text or "/torch_" in text
    ):  # torch's files in shared memory
        return f"{_shared_memory()} ({shorten(text, 100)})"
    if number == errno.EAGAIN:
        return f"{text}: more processes are not allowed here (`ulimit -u`, or the limit of a container): lower workers"
    return f"{text}: lower workers; 0 decodes without processes"


def _shared_memory() -> str:
    try:
        space = shutil.disk_usage(SHM)
    except OSError as error:
        return f"there is no shared memory ({error}): set workers to 0"
    return (
        f"{SHM}, the memory that processes share, has {space.free:,} of {space.total:,} bytes free, and each of the workers "
        f"keeps two batches there: enlarge it (`docker run --shm-size=8g`, `mount -o remount,size=8g {SHM}`) or lower "
        "workers (0: no decoding processes, no shared memory)"
    )


def _why_dead(noted: _Noted, codes: list[int | None]) -> str:
    process, code = next((process, code) for process, code in enumerate(codes) if code)
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    cause = {
        -signal.SIGKILL: "The system does that where memory runs out (`dmesg`): lower workers, or batch_size and eval_batch_size. ",
        -signal.SIGBUS: f"That is what too little shared memory looks like: {_shared_memory()}. ",
    }.get(code, "")
    return (
        f"a decoding process {how}; it was at: {noted.files([process])}. {cause}`make check-data` finds files that kill "
        "the process which decodes them, and names them"
    )


def _outlive_sigterm(worker: int) -> None:
    """A decoding process ends with the one that it works for, which finishes its step first."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _end(workers: list[BaseProcess]) -> None:
    """Ends decoding processes at once: they are deaf to SIGTERM, and one that hangs would keep the run alive."""
    if not workers:
        return
    before = signal.getsignal(signal.SIGCHLD)
    with suppress(ValueError):  # of another thread than the first
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler takes them for failures
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()
    with suppress(ValueError):
        signal.signal(signal.SIGCHLD, before)
