"""`make` as a user calls it: values as they were typed, two calls at once, publishing, freeing what can be made
again."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from test_workflow import TINY, Copy, make_up

from lib.run import params
from lib.run.files import alone_in

ROOT = Path(__file__).resolve().parents[1]


def clone(folder: Path) -> Copy:
    """A copy of the repository whose `make` uses the environment of the tests."""
    copy = Copy(folder)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, copy.folder)
        os.utime(copy.folder / name, (0, 0))
    environment = copy.folder / ".venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "installed").touch()
    python = environment / "bin" / "python"  # a link would take the environment's name for its place
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return copy


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Copy:
    return clone(tmp_path_factory.mktemp("make"))


def start(copy: Copy, *words: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        ["make", *words],
        cwd=copy.folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "CORES")}
        | {"PYTHONPATH": str(copy.folder)}
        | environment,
    )


def make(copy: Copy, *words: str, **environment: str) -> tuple[int, str]:
    """Exit status and what it printed, both outputs together."""
    with start(copy, *words, **environment) as process:
        said, _ = process.communicate()
    return process.returncode, said


def test_a_folder_of_any_name_reaches_the_program_as_it_was_typed(copy):
    for number, name in enumerate(["it's $HOME #1", '{a} [b]: "c"', "ü 視頻 & (x); | < >", "007"]):
        place = f"{copy.folder}/{name}"
        status, said = make(
            copy,
            "check-data",
            "PROFILE=ucf101",
            *([f"DATA={place}"] if number % 2 else []),
            **({} if number % 2 else {"DATA": place}),
        )
        assert status == 2 and f"ucf101: {place} is no folder\n" in said
        status, said = make(copy, "reproduce", "PROFILE=ucf101", f"DATA={place}")
        assert status == 2 and f"ucf101: {place} is no folder\n" in said


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ["reproduce", "DATA=/my/clips"],
            "DATA=/my/clips: profile 'embedded' renders its videos and reads no others. Name a profile",
        ),
        (["status", "DATA=/my/clips"], "DATA=/my/clips: profile 'embedded' renders its videos"),
        (["reproduce", "profile=paper"], "profile=: there is no such setting; did you mean PROFILE=?"),
        (["status", "DATA=/my clips", "SUITES=paper"], "SUITES=: there is no such setting; did you mean SUITE=?"),
        (["reproduce", "CORES=many"], "CORES=many: expected a number of 1 or more"),
        (["reproduce", "PROFILE=papper"], "papper.yaml: no such file; did you mean 'paper'?"),
        (["status", "SUITE=objectivs"], "objectivs.yaml: no such file; did you mean 'objectives'?"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once_and_nothing_is_written(copy, words, message):
    status, said = make(copy, *words)
    assert status == 2 and message in said and "Traceback" not in said
    assert not (copy.folder / "outputs").exists()


def test_status_is_that_of_the_suite_that_is_meant(copy):
    assert make(copy, "status") == (
        0,
        "profile embedded, suite reproduce: 3 runs: 0 done, 0 failed, 0 not finished, 3 not run\n",
    )
    assert make(copy, "status", "SUITE=embedded")[1].startswith("profile embedded, suite embedded: 104 runs: ")
    # what is meant for others gets through, and a value is no name
    assert make(copy, "status", "CUDA_VISIBLE_DEVICES=0", "TITLE=a b suites=c")[0] == 0


def test_a_second_call_says_that_another_is_at_work_and_waits(copy):
    place = copy.folder / "outputs/tiny"
    with alone_in(place):
        with start(copy, "reproduce", "PROFILE=tiny", "SUITE=tiny") as second:
            assert second.stdout.readline() == f"{place}: another process is at work here; waiting for it to end\n"
            assert second.poll() is None
            os.kill(second.pid, signal.SIGTERM)
    assert not (place / "runs").exists()
    shutil.rmtree(copy.folder / "outputs")


@pytest.mark.parametrize("at_start", [signal.SIG_DFL, signal.SIG_IGN], ids=["terminal", "background"])
def test_a_call_that_is_told_to_stop_ends_its_jobs_and_makes_no_tables(copy, at_start):
    """Also as a script's background job, which ignores Ctrl-C."""
    log = copy.folder / "outputs/tiny/worlds/0/10_embedded_clip.log"
    before = signal.signal(signal.SIGINT, at_start)
    process = start(copy, "reproduce", "PROFILE=tiny", "SUITE=tiny")
    signal.signal(signal.SIGINT, before)
    with process:
        while not (log.exists() and log.stat().st_size):
            with contextlib.suppress(subprocess.TimeoutExpired):
                pytest.fail(f"ended before anything was begun: {process.wait(timeout=0.1)}")
        jobs = psutil.Process(process.pid).children(recursive=True)
        process.terminate()  # make, which tells its command
        said, _ = process.communicate()
    assert len(jobs) > 3 and not psutil.wait_procs(jobs, timeout=30)[1]
    assert process.returncode != 0 and "the tables are made from the others" not in said and "Top-1" not in said
    assert not (copy.folder / "outputs/tiny/partial").exists() and not [*copy.folder.glob("outputs/**/*.failed")]
    shutil.rmtree(copy.folder / "outputs")


def test_what_a_finished_suite_wrote_is_published_and_nothing_of_an_unfinished_one(copy):
    copy.write(
        "params/suites/tiny.yaml", {"folder": "of_tiny", "rows": ["lss"], "reference": "lss", "replicas": [[0, 0]]}
    )
    status, said = make(copy, "publish", "PROFILE=tiny", "SUITE=tiny")
    assert (
        status == 2
        and said.startswith("nothing was published: 1 runs: 0 done")
        and not (copy.folder / "outputs/published").exists()
    )
    make_up(copy, ["lss"], [])
    made = copy.folder / "outputs/tiny/of_tiny"
    for name in (
        "tables/objectives.csv",
        "figures/accuracies.png",
        "records/lss/world0-seed0/adapt.json",
        "report.html",
    ):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(name)
    status, said = make(copy, "publish", "PROFILE=tiny", "SUITE=tiny")
    assert (status, said) == (0, "published: outputs/published/tiny/of_tiny; `git status` shows what is new\n")
    published = copy.folder / "outputs/published/tiny/of_tiny"
    assert {str(path.relative_to(published)) for path in published.rglob("*") if path.is_file()} == {
        "tables/objectives.csv",
        "figures/accuracies.png",
        "records/lss/world0-seed0/adapt.json",
        "report.html",
    }
    shutil.rmtree(copy.folder / "outputs")


def test_what_can_be_made_again_is_listed_and_goes_when_asked(copy):
    world = copy.folder / params.load(profile="embedded", **TINY).data_embedded
    run = copy.folder / "outputs/tiny/runs/lss/world0-seed0"
    make_up(copy, ["lss"], [])
    own = [copy.folder / f"data/{name}/walk/0.mp4" for name in ("mine", "map", "globe")]
    for path in (
        world / "train/walk/0.mp4",
        run / "features/embedded.safetensors",
        run / "checkpoint-00000003.pt",
        run / "teacher/model.safetensors",
        *own,
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(10**6))
    for path, text in zip(own[1:], ('{"type": "FeatureCollection"}', "no JSON"), strict=True):  # of somebody's data
        (path.parents[1] / "world.json").write_text(text)
    status, said = make(copy, "clean-cache")
    assert (
        status == 0
        and "1.0 MB  rendered world: " in said
        and "1.0 MB  features: " in said
        and "  3.0 MB  in all" in said
    )
    assert (world / "train/walk/0.mp4").exists()
    for place in (run, copy.folder / "outputs/tiny"):  # a run by hand; a suite, also between its runs
        with alone_in(place):
            status, said = make(copy, "clean-cache", "FREE=1")
            assert (
                status != 0
                and f"nothing was removed: {place.relative_to(copy.folder)} is at work" in said
                and world.exists()
            )
    assert make(copy, "clean-cache", "FREE=1")[0] == 0
    assert not world.exists() and not (run / "features").exists() and not (run / "checkpoint-00000003.pt").exists()
    assert (run / "teacher/model.safetensors").exists() and all(path.exists() for path in own)
    assert json.loads((run / "adapt.json").read_text())


def test_an_environment_is_not_made_where_python_cannot_have_one(tmp_path):
    folder = tmp_path / "a:b"
    (folder / "workflow").mkdir(parents=True)
    shutil.copy(ROOT / "workflow/environment.py", folder / "workflow")
    done = subprocess.run(
        [sys.executable, "-m", "workflow.environment"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ""},
    )
    assert (
        done.returncode == 1
        and done.stderr
        == f"{folder}: Python has no environments in a folder with a : in its path: move this repository\n"
    )
