"""What `make check-data` says of real clips, and of what is not there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import deadly
import layouts
import pytest
from conftest import svt_settings

from lib.datasets import check, parts
from lib.datasets.parts import DataError, list_dataset, manifest_of
from lib.datasets.samples import EvaluationViews, SampleKey, TrainingViews, collate
from lib.run.params import ROOT, load
from lib.video import manifest
from lib.video.views import EvalView


@pytest.fixture
def folder(write_video, gray_frames, tmp_path):
    """Parameters of a folder of one's own with four sound videos in each part."""
    names = [
        f"{part}/class/{name}.mp4" for part in ("train", "test") for name in ("a", "b: 50% #1", "caf\u00e9", "killer")
    ]
    for number, name in enumerate(names):
        write_video(tmp_path / "mine" / name, gray_frames(8, width=64 + 2 * number))
    return load(
        profile="embedded",
        dataset="folder",
        evaluate_on=["folder"],
        probe_on=[],
        manifests=str(tmp_path / "m"),
        data_folder=str(tmp_path / "mine"),
        allow_missing=True,
    )


def test_a_file_that_kills_its_process_is_named_and_never_opened_again(folder, monkeypatch):
    root, path = Path(folder.data_folder), manifest_of(folder, "folder")
    videos = [video.path for part in list_dataset(folder, "folder").values() for video in part.videos]
    monkeypatch.setattr(manifest, "entry", deadly.entry)
    manifest.write(manifest.check(videos, root=root, workers=2), path)
    table = manifest.read(path)
    assert table["path"].tolist() == [os.path.relpath(video, root) for video in videos]
    assert [row.error for row in table.itertuples() if "killer" in row.path] == ["decoding kills the process"] * 2
    assert (table["frames"] == 8).sum() == 6 and table["error"].astype(bool).sum() == 2
    parts = list_dataset(folder, "folder")
    settings = svt_settings(image_size=24, local_image_size=16, local_views=1)
    training = TrainingViews(parts["train"], settings, seed=0)
    batch = collate([training[SampleKey(0, index, (4, 4, 2))] for index in range(4)])
    assert [(index, str(error)) for index, error in batch.errors] == [
        (3, f"{root}/train/class/killer.mp4: decoding kills the process")
    ]  # though it would decode in this test
    evaluation = EvaluationViews(parts["test"].videos, [EvalView(2, 1, 1, 24)])
    batch = collate([evaluation[index] for index in range(4)])
    assert batch.indices.tolist() == [0, 1, 2] and batch.errors[0][1].reason == "decoding kills the process"


def test_no_file_is_blamed_where_no_process_can_work(write_video, gray_frames, tmp_path):
    write_video(tmp_path / "a.mp4", gray_frames(4))
    script = tmp_path / "script.py"  # its processes run it again, which ends them
    script.write_text(
        "from pathlib import Path; from lib.video import manifest\n"
        f"print(manifest.check([Path({str(tmp_path / 'a.mp4')!r})], root=Path({str(tmp_path)!r}), workers=1))"
    )
    done = subprocess.run(
        [sys.executable, script], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 1 and "kills the process" not in done.stdout
    assert "end as soon as they are started; see their output above." in done.stderr.splitlines()[-1]


def test_entries_of_other_code_are_not_taken_for_todays(folder, tmp_path, capsys, monkeypatch):
    path = manifest_of(folder, "folder")
    check.check_data(folder, "folder", workers=1)
    assert "read again" not in capsys.readouterr().out
    known = [video.index for video in list_dataset(folder, "folder")["train"].videos]
    assert [index.num_frames for index in known] == [8] * 4
    monkeypatch.setattr(parts, "code_hash", lambda module: f"other {module}")
    assert {video.index for video in list_dataset(folder, "folder")["train"].videos} == {None}
    check.check_data(folder, "folder", workers=1)
    assert f"every file is read again: {path.name} was made by other code" in capsys.readouterr().out
    old = manifest.read(manifest_of(folder, "folder")).drop(columns="key_spacing")
    old.to_csv(manifest_of(folder, "folder"), index=False, errors="surrogateescape")
    assert {video.index for video in list_dataset(folder, "folder")["train"].videos} == {None}
    assert "ignored, a manifest of another version; make check-data replaces it" in capsys.readouterr().err
    check.check_data(folder, "folder", workers=1)
    assert None not in {video.index for video in list_dataset(folder, "folder")["train"].videos}


@pytest.fixture
def two_classes(tmp_path):
    """A few real clips laid out as UCF-101, one of them cut off, one of another data set."""
    for clip, name in zip(
        layouts.clips(),
        ("Lunges/v_Lunges_g01_c01.mp4", "Lunges/v_Lunges_g08_c01.mp4", "JumpingJack/v_JumpingJack_g01_c01.mp4"),
    ):
        (tmp_path / "UCF-101" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "UCF-101" / name).write_bytes(clip.read_bytes())
    cut = tmp_path / "UCF-101" / "Lunges" / "v_Lunges_g08_c01.mp4"
    cut.write_bytes(cut.read_bytes()[:5000])
    (tmp_path / "UCF-101" / "Lunges" / "mine.mp4").write_bytes(b"")
    return tmp_path / "UCF-101"


def test_everything_that_is_missing_too_much_or_broken_is_named_and_the_manifest_is_kept(two_classes, tmp_path, capsys):
    params = load(profile="ucf101", data_ucf101=str(two_classes), manifests=str(tmp_path / "manifests"))
    assert not check.check_data(params, "ucf101", workers=2)
    text = capsys.readouterr().out
    for line in (
        "test-1: 2 of ",
        "(officially 3783)",
        "are in no list: Lunges/mine.mp4",
        "2 of 3 files can be decoded",
        "99 of 101 classes have no clip (there are: JumpingJack, Lunges):\n    ApplyEyeMakeup\n",
        "\n    YoYo\n",
        "247 of 250 listed clips have no file:",
        "    Lunges/v_Lunges_g25_c01\n",
        "Lunges/v_Lunges_g08_c01: ",
        "is incomplete: ",
    ):
        assert line in text
    table = manifest.read(manifest_of(params, "ucf101"))
    assert table["path"].tolist() == [
        "JumpingJack/v_JumpingJack_g01_c01.mp4",
        "Lunges/v_Lunges_g01_c01.mp4",
        "Lunges/v_Lunges_g08_c01.mp4",
    ]
    assert table["codec"].tolist()[:2] == ["h264", "h264"] and table["frames"].tolist()[2] == 0
    assert table["frames"].tolist() == [128, 115, 0]
    assert table["key_spacing"][1] == 115 and table["height"][0] == 224
    check.check_data(params, "ucf101", workers=2)
    assert "2 of 3 files can be decoded" in capsys.readouterr().out  # from the manifest


def test_a_check_that_was_stopped_goes_on_from_the_files_that_it_had_read(two_classes, tmp_path, capsys, monkeypatch):
    params = load(profile="ucf101", data_ucf101=str(two_classes), manifests=str(tmp_path / "manifests"))
    path = manifest_of(params, "ucf101")
    unfinished = path.with_name(path.name + ".unfinished")
    monkeypatch.setattr(manifest, "SAVE_EVERY", 2)
    manifest.check(sorted(two_classes.glob("*/v_*.mp4")), root=two_classes, workers=1, unfinished=unfinished)
    so_far = manifest.read(unfinished)
    assert len(so_far) == 2
    manifest.write(so_far.assign(codec="known"), unfinished)  # to be told apart from what is read now
    check.check_data(params, "ucf101", workers=1)
    assert manifest.read(path)["codec"].tolist().count("known") == 2 and len(manifest.read(path)) == 3
    assert not unfinished.exists()


def test_absent_data_is_an_error_of_the_command_with_the_line_to_edit(capsys, tmp_path):
    assert check.main(["ucf101", "--data", str(tmp_path / "nowhere")]) == 2
    error = capsys.readouterr().err
    assert "nowhere is no folder" in error and "edit:   `data_ucf101` in params/profiles/ucf101.yaml" in error
    assert check.main(["ucf1O1"]) == 2
    assert "did you mean 'ucf101'" in capsys.readouterr().err


def test_the_setting_of_the_last_profile_counts():
    assert check.setting_of("clip", "paper+rehearsal") == "`clip` in params/profiles/rehearsal.yaml"
    assert check.setting_of("imbalance", "paper") == "`imbalance` in params/base.yaml"


def test_a_data_set_that_the_profile_does_not_read_is_an_error(capsys):
    with pytest.raises(SystemExit):
        check.main(["ucf101", "--dataset", "hmdb"])
    assert "--dataset: ucf101 reads ucf101, not hmdb" in capsys.readouterr().err


@pytest.fixture(scope="module")
def sound(tmp_path_factory, write_video, gray_frames):
    """A folder of one's own of 8 videos that decode, of no two the same, and its manifest."""
    folder = tmp_path_factory.mktemp("sound")
    for number, name in enumerate(
        f"{part}/{kind}/{i}.mp4" for part in ("train", "test") for kind in ("run", "walk") for i in (0, 1)
    ):
        write_video(folder / "mine" / name, gray_frames(number + 3))
    assert check.check_data(own(folder), "folder", workers=1)
    return folder


def own(folder, **changes):
    return load(
        profile="embedded",
        dataset="folder",
        evaluate_on=["folder"],
        probe_on=["folder"],
        data_folder=str(folder / "mine"),
        manifests=str(folder / "manifests"),
        **changes,
    )


def add(path, content=b"\0"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "slip, named",
    [
        (lambda root: None, ""),
        (lambda root: add(root / "train/notes.txt"), ""),
        (lambda root: add(root / "train/run/._0.mp4"), ""),
        (lambda root: add(root / "train/clips/a.dav"), "train/clips/: contains no video"),
        (lambda root: add(root / "train/run/a.dav"), "train/run/a.dav: its suffix is not a known video suffix"),
        (lambda root: (root / "test/jump").mkdir(), "test/jump/: contains no video"),
        (lambda root: add(root / "test/jump/day1/a.mp4"), "test/jump/day1/: 1 video, one level too deep; move them up"),
        (lambda root: add(root / "train/a.MTS"), "train/: 1 video, not in a class folder; move it into one"),
        (
            lambda root: (root / "train/run/b.mp4").symlink_to("gone.mp4"),
            "train/run/b.mp4: a broken link to 'gone.mp4'",
        ),
        (lambda root: (root / "train/jump").symlink_to("/gone"), "train/jump: a broken link to '/gone'"),
        (
            lambda root: shutil.copy(root / "test/run/0.mp4", root / "test/run/2.mp4"),
            "test/run/2.mp4: the same file as test/run/0.mp4",
        ),
        (
            lambda root: add(root / "test/run/0.mkv"),
            "test/run/0.mkv: another file of the same clip; test/run/0.mp4 is used",
        ),
        (lambda root: shutil.rmtree(root / "test/run"), "1 of 2 classes have no clip in test: run"),
    ],
)
def test_a_run_stops_exactly_where_check_data_says_not_whole(sound, tmp_path, capsys, slip, named):
    shutil.copytree(sound / "mine", tmp_path / "mine")
    params = own(tmp_path)
    manifest_of(params, "folder").parent.mkdir()
    shutil.copy(manifest_of(own(sound), "folder"), manifest_of(params, "folder"))
    slip(tmp_path / "mine")
    assert check.check_data(params, "folder", workers=1) == (not named)
    text = capsys.readouterr().out
    for part in named.split(": "):
        assert part in text
    if named:
        with pytest.raises(DataError, match="folder is incomplete") as caught:
            list_dataset(params, "folder")
        assert named in str(caught.value) and "allow_missing: true" in str(caught.value)
    found = list_dataset(own(tmp_path, allow_missing=True), "folder")
    assert len(found["train"]) == 4 and found["test"].classes == ["run", "walk"]


def test_what_stops_a_run_whatever_it_allows_stops_the_check_with_the_same_words(tmp_path, sound, capsys):
    shutil.copytree(sound / "mine", tmp_path / "mine")
    shutil.copy(tmp_path / "mine/train/run/0.mp4", tmp_path / "mine/test/run/other.mp4")
    profile = ["ucf101", "--dataset", "ucf101", "--data"]
    assert check.main([*profile, str(tmp_path / "mine")]) == 2
    assert "none of the 101 class folders of ucf101" in capsys.readouterr().err
    params = own(tmp_path, allow_missing=True)
    for read in (lambda: list_dataset(params, "folder"), lambda: check.check_data(params, "folder", workers=1)):
        with pytest.raises(ValueError, match="duplicate clip: the same file is test, run here and train, run in"):
            read()
    shutil.rmtree(tmp_path / "mine/train")
    for read in (lambda: list_dataset(params, "folder"), lambda: check.check_data(params, "folder", workers=1)):
        with pytest.raises(DataError, match="has no part train, only test: add it"):
            read()
