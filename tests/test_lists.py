"""Data sets as they lie on disks: official lists with empty files in their places, and the layouts of the wild."""

import csv
import hashlib
import shutil
from collections import Counter

import layouts
import pytest

from lib.lists import Video, data_hash, list_folder, report, spoken_name
from lib.official import OFFICIAL, ListError, list_charades, list_hmdb51, list_kinetics400, list_ucf101, list_videos
from lib.params import FOLDER
from lib.vocabulary import read_vocabulary


def make_files(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


@pytest.mark.parametrize("label, spoken", [
    ("ApplyEyeMakeup", "apply eye makeup"), ("YoYo", "yo yo"), ("TaiChi", "tai chi"), ("brush_hair", "brush hair"),
    ("HandStandPushups", "hand stand pushups"), ("watching TV", "watching tv"), ("TVRemote", "tv remote"),
    ("massaging person's head", "massaging person's head"),
    ("Holding a phone/camera", "holding a phone or camera"), ("Opening bag/s", "opening bag"),
    ("hurling (sport)", "hurling sport"), ("skiing (not slalom or crosscountry)", "skiing not slalom or crosscountry"),
])
def test_spoken_names_are_words(label, spoken):
    assert spoken_name(label) == spoken


def test_videos_are_told_apart_by_their_names_and_sizes(tmp_path):
    videos = [Video(make_files(tmp_path, f"{name}.mp4") / f"{name}.mp4", name) for name in "ab"]
    first = data_hash(videos)
    assert first == data_hash(videos[::-1] + videos) != data_hash(videos[:1])
    videos[1].path.write_bytes(b"made anew")
    assert data_hash(videos) != first


def test_the_spoken_names_of_all_552_labels_are_those_of_the_vocabularies():
    for name, count in (("ucf101", 101), ("hmdb51", 51), ("kinetics400", 400)):
        labels = layouts.class_names(name)
        concepts = read_vocabulary(FOLDER / "concepts" / f"{name}.yaml", num_descriptions=4)
        assert [c.label for c in concepts] == labels and len(labels) == count
        assert [spoken_name(label) for label in labels] == [c.spoken for c in concepts]
        assert len({spoken_name(label) for label in labels}) == count


@pytest.fixture(scope="module")
def ucf101_lists(tmp_path_factory):
    """The official lists: what is written anew has the SHA-256 of the seven official files."""
    lists = layouts.ucf101_lists(tmp_path_factory.mktemp("lists") / "ucfTrainTestlist")
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in lists.iterdir()} == {
        "classInd.txt": "f3d6f248df6f115c",
        "trainlist01.txt": "9f9325becd69c66c", "trainlist02.txt": "93881acb699b4968", "trainlist03.txt": "ec22f33679c2f5bd",
        "testlist01.txt": "f48d372656c0ed3c", "testlist02.txt": "883cea8503474b6c", "testlist03.txt": "9ae27379f869f5be"}
    return lists


@pytest.fixture(scope="module")
def whole_ucf101(ucf101_lists, tmp_path_factory):
    """The 13,320 names of UCF-101 as empty files, laid out as its releases are."""
    root = tmp_path_factory.mktemp("ucf") / "UCF-101"
    for part in ("trainlist01.txt", "testlist01.txt"):
        make_files(root, *(line.split()[0] for line in (ucf101_lists / part).read_text().splitlines()))
    (root / "HandStandPushups").rename(root / "HandstandPushups")
    return root


@pytest.fixture(scope="module")
def five_classes(whole_ucf101, tmp_path_factory):
    """Five of its classes, as .mp4."""
    root = tmp_path_factory.mktemp("five")
    for name in ("BodyWeightSquats", "BoxingPunchingBag", "JugglingBalls", "JumpingJack", "Lunges"):
        make_files(root, *(f"{name}/{path.stem}.mp4" for path in (whole_ucf101 / name).iterdir()))
    return root


@pytest.mark.parametrize("split, train, test", [(1, 9537, 3783), (2, 9586, 3734), (3, 9624, 3696)])
def test_derived_ucf101_lists_are_the_official_ones(ucf101_lists, whole_ucf101, split, train, test):
    lists = ucf101_lists
    for part, size in ((f"train-{split}", train), (f"test-{split}", test)):
        derived = list_ucf101(whole_ucf101)[part]
        assert derived == list_ucf101(whole_ucf101, lists=lists)[part]
        official = (lists / f"{part[:-2]}list0{split}.txt").read_text().splitlines()
        assert [f"{video.name}.avi" for video in derived.videos] == [line.split()[0] for line in official]
        assert len(derived) == size
        assert (derived.absent_classes, derived.missing, derived.extra) == ([], [], [])
        assert derived.classes == layouts.class_names("ucf101")
        assert all(derived.classes[video.label] == video.name.split("/")[0] for video in derived.videos)


def test_subset_of_ucf101_has_the_official_clips_of_its_classes(five_classes):
    found = list_ucf101(five_classes)
    parts = [found["train-1"], found["test-1"]]
    assert parts[0].classes == ["BodyWeightSquats", "BoxingPunchingBag", "JugglingBalls", "JumpingJack", "Lunges"]
    assert Counter(v.label for part in parts for v in part.videos) == {0: 112, 1: 163, 2: 121, 3: 123, 4: 127}
    for part in parts:
        assert len(part.absent_classes) == 96 and part.missing == part.extra == []
        assert all(video.path.is_file() and video.path.stem == video.name.split("/")[1] for video in part.videos)
    assert {video.name[-7:-4] for video in parts[1].videos} == {f"g{group:02d}" for group in range(1, 8)}


def test_what_is_missing_or_too_much_in_a_ucf101_folder_is_reported(tmp_path):
    root = make_files(
        tmp_path, "YoYo/v_YoYo_g01_c01.webm", "YoYo/v_YoYo_g01_c02.mp4", "YoYo/v_YoYo_g08_c01.mkv", "YoYo/notes.txt",
        "YoYo/v_YoYo_g01_c99.avi", "Juggling/a.avi", "README", "WritingOnBoard/x.txt",
    )
    test = list_ucf101(root)["test-1"]
    assert [(v.path.name, v.label) for v in test.videos] == [("v_YoYo_g01_c01.webm", 1), ("v_YoYo_g01_c02.mp4", 1)]
    assert test.classes == ["WritingOnBoard", "YoYo"]
    assert test.extra == ["Juggling/", "README", "WritingOnBoard/x.txt", "YoYo/notes.txt", "YoYo/v_YoYo_g01_c99.avi"]
    assert "YoYo/v_YoYo_g01_c03" in test.missing and "WritingOnBoard/v_WritingOnBoard_g07_c01" in test.missing
    assert [v.name for v in list_ucf101(root)["train-1"].videos] == ["YoYo/v_YoYo_g08_c01"]


def test_two_files_for_one_clip_are_refused(tmp_path):
    root = make_files(tmp_path, "YoYo/v_YoYo_g01_c01.avi", "YoYo/v_YoYo_g01_c01.mp4")
    with pytest.raises(ValueError, match=r"v_YoYo_g01_c01.avi and v_YoYo_g01_c01.mp4"):
        list_ucf101(root)
    with pytest.raises(ValueError, match="YoYo/v_YoYo_g01_c01"):
        list_folder(root)


def test_absent_or_empty_folders_are_errors_that_say_what_was_expected(tmp_path):
    for lister in (list_folder, list_ucf101):
        with pytest.raises(FileNotFoundError, match="nowhere is no folder; expected"):
            lister(tmp_path / "nowhere")
        with pytest.raises(FileNotFoundError, match=str(tmp_path)):
            lister(tmp_path)
    (tmp_path / "YoYo").mkdir()
    with pytest.raises(FileNotFoundError, match="expected YoYo/v_YoYo_g01_c01"):
        list_ucf101(tmp_path)
    with pytest.raises(FileNotFoundError, match="expected <class>/<video>"):
        list_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="ucfTrainTestlist"):
        list_ucf101(tmp_path, lists=tmp_path / "lists")


def test_folder_per_class_gives_labels_and_reports_the_rest(tmp_path):
    root = make_files(tmp_path, "run/b.mp4", "run/a.AVI", "jump/a.webm", "run/a.txt", "stray.mp4", "empty/.hidden")
    videos = list_folder(root)
    assert [(v.name, v.label) for v in videos.videos] == [("jump/a", 0), ("run/a", 1), ("run/b", 1)]
    assert videos.classes == ["jump", "run"] and videos.extra == ["empty/", "run/a.txt", "stray.mp4"]


def test_unlabelled_folder_may_be_flat(tmp_path):
    root = make_files(tmp_path, "a.mp4", "sub/a.mp4", "notes.txt")
    videos = list_folder(root, labelled=False)
    assert [(v.name, v.label) for v in videos.videos] == [("a", None), ("sub/a", None)]
    assert videos.classes == [] and videos.extra == ["notes.txt"]


def test_what_a_subset_of_ucf101_lacks_is_put_into_words(five_classes):
    found = list_videos("ucf101", five_classes)
    lines = report(found, OFFICIAL["ucf101"])
    assert lines[0] == "train-1: 511 of 511 listed clips found (officially 9537)" or "officially 9537" in lines[0]
    assert lines[-1].startswith("96 classes without a folder: ApplyEyeMakeup, ApplyLipstick, Archery, and 93 more")
    assert len(found["all"]) == 646


def test_lists_of_another_version_are_refused_with_line_and_way_out(ucf101_lists, whole_ucf101, tmp_path):
    lists = shutil.copytree(ucf101_lists, tmp_path / "lists")
    text = (lists / "testlist02.txt").read_text()
    (lists / "testlist02.txt").write_text("\n".join(text.splitlines()[:-7]))
    with pytest.raises(ListError, match=r"test-2.*3727, not 3734.*lists_ucf101"):
        list_ucf101(whole_ucf101, lists=lists)
    (lists / "testlist02.txt").write_text("Skating/v_Skating_g01_c01.avi\n" + text)
    with pytest.raises(ListError, match=r"testlist02.txt, line 1: 'Skating/"):
        list_ucf101(whole_ucf101, lists=lists)


@pytest.fixture(scope="module")
def whole_hmdb51(tmp_path_factory):
    """The 6,371 names of HMDB-51's splits as empty files, and its official lists."""
    root, lists = tmp_path_factory.mktemp("hmdb51"), layouts.hmdb51_lists(tmp_path_factory.mktemp("lists") / "testTrainMulti_7030_splits")
    text = "".join(f"{path.name} {path.read_text()}" for path in sorted(lists.iterdir()))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "43c5d7086ce668c2"  # what the official files say
    for path in lists.glob("*_test_split1.txt"):
        make_files(root, *(f"{path.stem.removesuffix('_test_split1')}/{line.split()[0]}" for line in path.read_text().splitlines()))
    return root, lists


def test_the_shipped_list_of_hmdb51_is_the_official_one(whole_hmdb51):
    root, lists = whole_hmdb51
    shipped = list_hmdb51(root)
    assert shipped == list_hmdb51(root, lists=lists)
    for split in (1, 2, 3):
        assert (len(shipped[f"train-{split}"]), len(shipped[f"test-{split}"])) == (3570, 1530)
        assert {Counter(v.label for v in shipped[f"{part}-{split}"].videos)[7] for part in ("train",)} == {70}
    assert shipped["test-1"].classes == layouts.class_names("hmdb51")
    assert all(v.name.split("/")[0] == shipped["all"].classes[v.label] for v in shipped["all"].videos)
    assert not shipped["all"].missing and not shipped["all"].extra


def test_names_of_hmdb51_are_found_without_their_odd_signs_and_unlisted_clips_count_in_the_whole_set(tmp_path):
    odd = "kick_ball/#14_Fußball_kick_ball_f_cm_np1_ba_bad_0"
    listed = [row["clip"] for row in csv.DictReader((FOLDER / "splits" / "hmdb51.csv").open()) if row["class"] == "wave"]
    strange = next(name for name in listed if not name.replace("_", "").isalnum())
    make_files(tmp_path, f"wave/{strange.replace('#', '_').replace('-', '_').replace('!', '_')}.avi", "wave/Other_wave_u_nm_np1_fr_bad_1.avi")
    found = list_hmdb51(tmp_path)
    assert sorted(video.name for video in found["all"].videos) == sorted([f"wave/{strange}", "wave/Other_wave_u_nm_np1_fr_bad_1"])
    assert len(found["all"].absent_classes) == 50 and odd not in found["all"].missing


KINETICS = ["playing guitar", "passing American football (in game)", "massaging person's head"]


@pytest.mark.parametrize("train, validation", [("train", "val"), ("videos_train", "videos_val"), ("train_256", "val_256")])
def test_kinetics_as_a_folder_per_class_in_any_spelling(tmp_path, train, validation):
    make_files(tmp_path, f"{train}/playing_guitar/a.mp4", f"{train}/passing American football (in game)/b.mkv",
               f"{validation}/massaging_person's_head/c.mp4", f"{validation}/not a class/d.mp4")
    found = list_kinetics400(tmp_path)
    assert len(found["train"].classes) == 400
    assert [(v.name, found["train"].classes[v.label]) for v in found["train"].videos] == [
        (f"{KINETICS[1]}/b", KINETICS[1]), (f"{KINETICS[0]}/a", KINETICS[0])]
    assert [v.name for v in found["validation"].videos] == [f"{KINETICS[2]}/c"]
    assert found["validation"].extra == [f"{validation}/not a class/d.mp4"]


@pytest.mark.parametrize("flat", [True, False])
def test_kinetics_by_deepminds_csv(tmp_path, flat):
    folder = "val" if flat else "val/playing guitar"
    make_files(tmp_path, f"{folder}/-abcdefghi_000010_000020.mp4", f"{folder}/AbCdEfGhIjK.mp4", f"{folder}/unlisted000.mp4")
    rows = ["label,youtube_id,time_start,time_end,split", "playing guitar,-abcdefghi_,10,20,val",
            "massaging person's head,AbCdEfGhIjK,0,10,val", "playing guitar,goneisgone0,5,15,val"]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "val.csv").write_text("\n".join(rows))
    found = list_kinetics400(tmp_path)["validation"]
    assert [(v.name, v.path.name) for v in found.videos] == [
        ("playing guitar/-abcdefghi_", "-abcdefghi_000010_000020.mp4"), ("massaging person's head/AbCdEfGhIjK", "AbCdEfGhIjK.mp4")]
    assert found.missing == ["playing guitar/goneisgone0"] and len(found.extra) == 1
    (tmp_path / "annotations" / "val.csv").write_text("\n".join([*rows, "juggling swords,AbCdEfGhIjK,0,10,val"]))
    with pytest.raises(ListError, match=r"val.csv, line 5: 'juggling swords' is none of Kinetics-400's"):
        list_kinetics400(tmp_path)


def test_kinetics_by_lines_of_path_and_number(tmp_path):
    make_files(tmp_path, "train/x/one.mp4", "train/two three.mp4")
    path = tmp_path / "kinetics400_train_list_videos.txt"
    path.write_text("x/one.mp4 232\ntwo three.mp4 0\ngone.mp4 399\n")
    found = list_kinetics400(tmp_path)["train"]
    assert [(v.name, v.label) for v in found.videos] == [(f"{found.classes[232]}/one", 232), (f"{found.classes[0]}/two three", 0)]
    assert found.missing == ["zumba/gone"]
    path.write_text("x/one.mp4 400\n")
    with pytest.raises(ListError, match="line 1"):
        list_kinetics400(tmp_path)


def test_kinetics_takes_the_csv_before_other_lists_and_no_other_than_those_it_is_given(tmp_path):
    make_files(tmp_path, "train/zumba/abcdefghijk.mp4")
    (tmp_path / "kinetics400_train_list_videos.txt").write_text("gone.mp4 0\n")
    (tmp_path / "train.csv").write_text("label,youtube_id\nzumba,abcdefghijk\n")
    assert [video.name for video in list_kinetics400(tmp_path)["train"].videos] == ["zumba/abcdefghijk"]
    (tmp_path / "train.csv").write_text("path,label\nabcdefghijk.mp4,zumba\n")
    with pytest.raises(ListError, match="train.csv: it has no column youtube_id; its first line is .'path', 'label'"):
        list_kinetics400(tmp_path)
    make_files(tmp_path, "mine/k400.csv")
    with pytest.raises(ListError, match="mine: no list of the part train: expected train.csv or .* there are: .'k400.csv'"):
        list_kinetics400(tmp_path, lists=tmp_path / "mine")


def test_charades_has_several_classes_a_clip_or_none(tmp_path):
    make_files(tmp_path, "Charades_v1_480/A.mp4", "Charades_v1_480/B.mp4", "Charades_v1_480/X.mp4")
    (tmp_path / "Charades_v1_classes.txt").write_text("c000 Holding some clothes\nc001 Putting clothes somewhere\n")
    (tmp_path / "Charades_v1_train.csv").write_text('id,scene,actions,length\nA,Bed,"c001 0.00 9.1;c000 1.0 2.0;c001 3 4",30\n')
    (tmp_path / "Charades_v1_test.csv").write_text("id,scene,actions,length\nB,Bed,,30\nC,Bed,c000 1 2,9\n")
    found = list_charades(tmp_path)
    assert [(v.name, v.labels) for part in found.values() for v in part.videos] == [("A", (0, 1)), ("B", ())]
    assert found["test"].missing == ["C"] and found["test"].extra == ["Charades_v1_480/X.mp4"]
    assert found["train"].classes == ["Holding some clothes", "Putting clothes somewhere"]
    (tmp_path / "Charades_v1_test.csv").write_text("id,scene,actions,length\nB,Bed,c002 1 2,30\n")
    with pytest.raises(ListError, match="Charades_v1_test.csv, line 2: .'c002'. is in no class"):
        list_charades(tmp_path)
    make_files(tmp_path, "Charades_v1/A.mp4")
    with pytest.raises(ValueError, match="two files of one clip"):
        list_charades(tmp_path)
