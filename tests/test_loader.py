"""Decoding processes that deliver, and every way in which they fail: errors name the file and the parameter."""

import multiprocessing
import os
import resource
import signal
from pathlib import Path

import pytest
import torch

from lib.datasets.lists import Video
from lib.datasets.loader import DecodingError, _start_worker, batches_of
from lib.datasets.samples import EvaluationViews, Sample
from lib.video.views import EvalView

VIDEOS = [Video(Path(f"/videos/clip{number}.mp4"), f"clip{number}") for number in range(6)]


class Views(EvaluationViews):
    """Videos of one colour each, without files; the process that makes the third of them has an accident first."""

    def __init__(self, accident=lambda: None):
        super().__init__(VIDEOS, [EvalView(2, 1, 1, 32)])
        self.accident = accident

    def __getitem__(self, index):
        if index == 2:
            self.accident()
        return Sample(index, [torch.full((1, 3, 2, 32, 32), float(index))], None)


def end_by(number):
    return lambda: os.kill(os.getpid(), number)


def allow(limit, most):
    return lambda: resource.setrlimit(limit, (most, resource.getrlimit(limit)[1]))


def settings(**changes):
    return {"workers": 2, "loader_timeout": 1} | changes


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_come_whole_and_in_order(workers):
    with batches_of(Views(), **settings(workers=workers), batch_size=2) as batches:
        for number, batch in enumerate(batches):
            assert batch.indices.tolist() == [2 * number, 2 * number + 1]
            assert batch.views[0][:, 0, 0, 0, 0, 0].tolist() == batch.indices.tolist()
    assert number == 2 and not multiprocessing.active_children()


@pytest.mark.parametrize(
    "accident, message",
    [
        (
            end_by(signal.SIGKILL),
            r"ended by SIGKILL; it was at: /videos/clip2\.mp4\. .*memory.*lower workers.*make check-data",
        ),
        (
            end_by(signal.SIGSEGV),
            r"ended by SIGSEGV; it was at: /videos/clip2\.mp4\. `make check-data` finds files that kill",
        ),
        (
            end_by(signal.SIGBUS),
            r"ended by SIGBUS; it was at: /videos/clip2\.mp4\. .*/dev/shm.* bytes free.*--shm-size",
        ),
        (lambda: os._exit(3), r"ended with exit code 3; it was at: /videos/clip2\.mp4\."),
        (
            signal.pause,
            r"no batch arrived for 1 s.* at: /videos/clip2\.mp4.*raise loader_timeout.*check-data.*workers: 0",
        ),
        (
            allow(resource.RLIMIT_FSIZE, 1000),
            r"hand over its batch of 49,152 bytes: /dev/shm.* bytes free.*--shm-size.*lower workers",
        ),
        (
            allow(resource.RLIMIT_NOFILE, 4),
            r"hand over its batch of 49,152 bytes: too many open files, 4 at most.*ulimit -n",
        ),
    ],
)
def test_a_process_that_delivers_no_more_is_an_error_with_file_cause_and_parameter(accident, message):
    with pytest.raises(DecodingError, match=f"(?s){message}"):
        with batches_of(Views(accident), **settings(), batch_size=2) as batches:
            list(batches)
    assert not multiprocessing.active_children()


def test_a_run_that_waits_hears_that_it_is_to_stop():
    answers = iter([False, False, True])  # before the first batch, before the second, and while that is awaited
    with batches_of(
        Views(signal.pause), **settings(workers=1, loader_timeout=60), batch_size=2, stop=lambda: next(answers)
    ) as batches:
        assert [batch.indices.tolist() for batch in batches] == [[0, 1]]


def test_processes_that_hang_end_with_the_run_that_fails():
    with pytest.raises(ZeroDivisionError):
        with batches_of(Views(signal.pause), **settings(), batch_size=2) as batches:
            next(batches)
            1 / 0
    assert not multiprocessing.active_children()


def test_a_worker_whose_run_was_killed_while_it_started_ends():
    """torch compares its parent with the one that it finds at its start: by then that is whoever adopted it."""
    worker_is_alive, worker_end = os.pipe()

    def worker():
        while os.getppid() == multiprocessing.parent_process().pid:
            os.sched_yield()  # until the run is dead
        _start_worker(0)
        os.write(worker_end, b"still there")

    def run():
        multiprocessing.get_context("fork").Process(target=worker).start()
        os.kill(os.getpid(), signal.SIGKILL)

    killed = multiprocessing.get_context("fork").Process(target=run)
    killed.start()
    os.close(worker_end)
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert os.read(worker_is_alive, 100) == b""  # its end is closed: it is gone, without a word
