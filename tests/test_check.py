"""What `make check-data` says of real clips, and of what is not there."""

import pytest

from lib import check, manifest
from lib.params import load


@pytest.fixture
def two_classes(shared_data, tmp_path):
    """A few real clips laid out as UCF-101, one of them cut off, one of another data set."""
    for name in ("Lunges/v_Lunges_g01_c01.mp4", "Lunges/v_Lunges_g08_c01.mp4", "JumpingJack/v_JumpingJack_g01_c01.mp4"):
        (tmp_path / "UCF-101" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "UCF-101" / name).write_bytes((shared_data / "ucf101-5" / name).read_bytes())
    cut = tmp_path / "UCF-101" / "Lunges" / "v_Lunges_g08_c01.mp4"
    cut.write_bytes(cut.read_bytes()[:5000])
    (tmp_path / "UCF-101" / "Lunges" / "mine.mp4").write_bytes(b"")
    return tmp_path / "UCF-101"


def test_everything_that_is_missing_too_much_or_broken_is_named_and_the_manifest_is_kept(two_classes, tmp_path, capsys):
    params = load(profile="ucf101", data_ucf101=str(two_classes), manifests=str(tmp_path / "manifests"))
    assert not check.check_data(params, "ucf101", workers=2)
    text = capsys.readouterr().out
    for line in ("test-1: 2 of ", "(officially 3783)", "belong to no list: Lunges/mine.mp4", "2 of 3 files can be decoded",
                 "99 of 101 classes have no clip (there are: JumpingJack, Lunges):\n    ApplyEyeMakeup\n", "\n    YoYo\n",
                 "247 of 250 listed clips have no file:", "    Lunges/v_Lunges_g25_c07\n", "Lunges/v_Lunges_g08_c01: ", "is not whole"):
        assert line in text
    table = manifest.read(manifest.path_of(params, "ucf101"))
    assert table["path"].tolist() == ["JumpingJack/v_JumpingJack_g01_c01.mp4", "Lunges/v_Lunges_g01_c01.mp4",
                                      "Lunges/v_Lunges_g08_c01.mp4"]
    assert table["codec"].tolist()[:2] == ["h264", "h264"] and table["frames"].tolist()[2] == 0
    assert table["key_spacing"][1] == pytest.approx(11.9, abs=0.2) and table["height"][0] == 112
    check.check_data(params, "ucf101", workers=2)
    assert "2 of 3 files can be decoded" in capsys.readouterr().out  # from the manifest


def test_a_check_that_was_stopped_goes_on_from_the_files_that_it_had_read(two_classes, tmp_path, capsys, monkeypatch):
    params = load(profile="ucf101", data_ucf101=str(two_classes), manifests=str(tmp_path / "manifests"))
    path = manifest.path_of(params, "ucf101")
    unfinished = path.with_name(path.name + ".unfinished")
    monkeypatch.setattr(manifest, "KEPT_EVERY", 2)
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
    assert "nowhere is no folder" in error and "params/profiles/ucf101.yaml, line 4: data_ucf101:" in error
    assert check.main(["ucf1O1"]) == 2
    assert "did you mean 'ucf101'" in capsys.readouterr().err


def test_the_line_of_the_last_profile_counts():
    assert check.line_of("clip", "paper+rehearsal").startswith("params/profiles/rehearsal.yaml, line ")
    assert check.line_of("epochs", "paper").startswith("params/base.yaml, line ")


def test_a_data_set_that_the_profile_does_not_read_is_an_error(capsys):
    with pytest.raises(SystemExit):
        check.main(["ucf101", "--dataset", "hmdb"])
    assert "--dataset: ucf101 reads ucf101, not hmdb" in capsys.readouterr().err
