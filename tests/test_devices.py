"""Each device is lent to one process at a time, and free again when that ends, however it does. No device is needed."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lib.run.devices import usable_device

ROOT = Path(__file__).resolve().parents[1]
SAY = [sys.executable, "-c", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); input()"]


@pytest.fixture
def lend(tmp_path):
    """Starts a command that says which devices it sees and waits for a line, in a copy of `lib` with locks of its
    own."""
    shutil.copytree(ROOT / "lib", tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    started = []

    def start(count: int, command: list[str] = SAY, *, shown: str = "0,1,2", **variables) -> subprocess.Popen:
        environment = {name: value for name, value in os.environ.items() if name != "SLURM_JOB_ID"}
        environment |= {"CUDA_VISIBLE_DEVICES": shown, "PYTHONPATH": str(tmp_path), **variables}
        process = subprocess.Popen(
            [sys.executable, "-m", "lib.run.devices", str(count), *command],
            cwd=tmp_path,
            text=True,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def seen(process: subprocess.Popen) -> set[str]:
    """What the command says that it sees; waits until it has its devices."""
    assert process.stdout.readline().startswith("devices: ")
    return set(process.stdout.readline().strip().split(","))


def test_no_two_processes_hold_the_same_device_and_a_killed_one_frees_its_own(lend):
    two, one = lend(2), lend(1)
    held, other = seen(two), seen(one)
    assert len(held) == 2 and len(other) == 1 and held | other == {"0", "1", "2"}
    waiting = lend(2)
    one.communicate("\n")  # ends by itself: one device is free, and two are needed
    two.send_signal(signal.SIGKILL)
    got = seen(waiting)
    assert len(got) == 2
    assert seen(lend(1)) == {"0", "1", "2"} - got


def test_many_that_want_several_all_get_them_and_never_the_same(lend, tmp_path):
    claim = (
        "import os; names = os.environ['CUDA_VISIBLE_DEVICES'].split(','); "
        "[open('held-' + name, 'x') for name in names]; "
        "print(*names); [os.remove('held-' + name) for name in names]"
    )
    processes = [lend(2, [sys.executable, "-c", claim]) for _ in range(5)]
    for process in processes:
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        assert len(set(output.splitlines()[-1].split()) & {"0", "1", "2"}) == 2


def test_a_job_of_slurm_does_not_wait_for_the_devices_of_another(lend):
    assert seen(lend(1, shown="0", SLURM_JOB_ID="7")) == seen(lend(1, shown="0", SLURM_JOB_ID="8")) == {"0"}


@pytest.mark.parametrize("name", ["cuda:64", "gpu", "meta", "", "0"])
def test_a_device_that_this_machine_lacks_is_named_with_what_it_has(name):
    with pytest.raises(
        ValueError, match=f"device: '{name}' cannot be used on .*, which has cpu.* Set device to one of these"
    ):
        usable_device(name)
    assert usable_device("cpu").type == "cpu"


def test_more_devices_than_there_are_is_an_error_that_says_so(lend):
    _, errors = (process := lend(4, shown="0,GPU-abc")).communicate()
    assert process.returncode == 1
    assert errors.startswith("4 device(s) requested, but ") and "shows 2 (0, GPU-abc)" in errors


def test_without_devices_the_command_runs_as_it_is(lend):
    process = lend(
        0, [sys.executable, "-c", "import os; print(os.environ['CUDA_VISIBLE_DEVICES']); raise SystemExit(3)"]
    )
    assert process.communicate()[0].strip() == "0,1,2" and process.returncode == 3


def test_a_name_is_one_device_however_it_is_written(lend):
    first = lend(1, shown=" 7")
    assert seen(first) == {"7"}
    second = lend(1, shown="MIG-GPU-x/1/0, 7")
    assert seen(second) == {"MIG-GPU-x/1/0"}
