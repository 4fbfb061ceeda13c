"""Files that are whole or absent, and where a run has its own."""

import errno
import os
import re
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from lib.run.files import (
    DiskError,
    alone_in,
    append_line,
    file_hash,
    read_json,
    read_lines,
    results_folder,
    run_folder,
    whole_file,
    whole_folder,
    write_json,
    write_text,
    writing,
)
from lib.run.params import ROOT


def test_a_file_is_whole_or_absent(tmp_path):
    write_json(tmp_path / "deep" / "record.json", {"a": 1})
    assert read_json(tmp_path / "deep" / "record.json") == {"a": 1}
    try:
        write_json(tmp_path / "deep" / "record.json", {"a": object()})
    except TypeError:
        pass
    assert read_json(tmp_path / "deep" / "record.json") == {"a": 1}
    assert not list(tmp_path.glob("*.partial"))


def test_a_record_that_is_cut_short_is_named(tmp_path):
    (tmp_path / "metrics.json").write_text('{"metrics": [')
    with pytest.raises(ValueError, match=r"metrics.json is not whole .*remove it"):
        read_json(tmp_path / "metrics.json")


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert file_hash(tmp_path / "file") == "ba7816bf8f01"  # the SHA-256 standard's own example


def test_a_log_line_that_a_kill_cut_short_is_left_out(tmp_path):
    log = tmp_path / "log.jsonl"
    assert read_lines(log) == []
    append_line(log, {"step": 0})
    append_line(log, {"step": 1})
    with log.open("a") as file:
        file.write('{"step": 2, "lo')
    assert read_lines(log) == [{"step": 0}, {"step": 1}]


@pytest.fixture
def small_disk():
    """Files of this process end at 10,000 bytes, as they do where a disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(bytes(20_000)),
        lambda path: torch.save({"a": torch.zeros(5000)}, path.open("wb")),
        lambda path: torch.save({str(i): torch.zeros(500) for i in range(10)}, path.open("wb")),
        lambda path: save_file({"a": np.zeros(5000, np.float32)}, path),
    ],
)
def test_where_there_is_no_room_the_error_says_where_and_how_much_and_nothing_stays(tmp_path, small_disk, write):
    words = (
        rf"the disk of {tmp_path} is full \(File too large\): "
        r"features needs 20,000 bytes, and has [\d,]+ bytes free\. Make room"
    )
    with pytest.raises(DiskError, match=words), whole_file(tmp_path / "features", size=20_000) as partial:
        write(partial)
    with (
        pytest.raises(DiskError, match=rf"the disk of {tmp_path} is full .*: model has"),
        whole_folder(tmp_path / "model") as partial,
    ):
        write(partial / "weights")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_records_and_logs_as_they_were(tmp_path):
    """Writing to /dev/full fails as writing to a full disk does."""
    write_text(tmp_path / "record.json", "old")
    os.symlink("/dev/full", tmp_path / "record.json.partial")
    with pytest.raises(
        DiskError, match=rf"the disk of {tmp_path} is full \(No space left on device\): record.json needs 3 bytes"
    ):
        write_text(tmp_path / "record.json", "new")
    assert (tmp_path / "record.json").read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    os.symlink("/dev/full", tmp_path / "log.jsonl")
    with pytest.raises(DiskError, match="log.jsonl needs 12 bytes"):
        append_line(tmp_path / "log.jsonl", {"step": 1})


@pytest.mark.parametrize(
    "number, words",
    [
        (errno.EDQUOT, "is full .Disk quota exceeded."),
        (errno.EROFS, "cannot be written there .Read-only file system.: make"),
        (
            errno.EACCES,
            "cannot be written there .Permission denied.: make the folder one that this user may write to, or choose",
        ),
    ],
)
def test_a_quota_and_a_folder_that_may_not_be_written_to_are_named(tmp_path, number, words):
    with pytest.raises(DiskError, match=f"{tmp_path}.*{words}"), writing(tmp_path / "new" / "file"):
        raise OSError(number, os.strerror(number), "elsewhere")


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"), writing(tmp_path / "file"):
        (tmp_path / "absent").read_text()


def test_runs_have_folders_of_their_own():
    folders = {run_folder("embedded", run, w, s) for run in ("lss", "no_language") for w in (0, 1) for s in (0, 1)}
    assert len(folders) == 8


def test_a_run_with_overrides_has_a_folder_of_its_own_unless_they_change_nothing_that_is_computed():
    own = run_folder("ucf101", "lss", 0, 0)
    assert run_folder("ucf101", "lss", 0, 0, {"workers": 4, "device": "cuda"}) == own
    others = [run_folder("ucf101", "lss", 0, 0, {"epochs": epochs}) for epochs in (1, 2)]
    assert len({own, *others}) == 3
    assert all(
        re.fullmatch(r"outputs/ucf101/runs/lss-[0-9a-f]{6}/world0-seed0", str(other.relative_to(ROOT)))
        for other in others
    )


def test_results_of_videos_from_another_place_lie_beside_those_of_the_profile():
    here, there = (
        run_folder("ucf101", "lss", 0, 0, {"data_ucf101": place}) for place in ("/a/My clips", "/b/My clips")
    )
    assert here != there and re.fullmatch(
        r"outputs/ucf101-My-clips-[0-9a-f]{6}/runs/lss/world0-seed0", str(here.relative_to(ROOT))
    )
    assert results_folder("ucf101", {"data_ucf101": "data/../data/x"}) == results_folder(
        "ucf101", {"data_ucf101": "data/x/"}
    )


def test_two_processes_are_never_at_work_in_one_folder(tmp_path):
    code = (
        "import sys; from pathlib import Path; from lib.run.files import alone_in\n"
        "with alone_in(Path(sys.argv[1])): print('in', flush=True)"
    )
    with alone_in(tmp_path / "run"):
        other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
        assert (
            other.stdout.readline() == f"{tmp_path / 'run'}: another process is at work here; waiting for it to end\n"
        )
    assert other.communicate()[0] == "in\n" and other.returncode == 0
