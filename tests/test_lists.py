"""Data sets as they lie on disks: official lists with empty files in their places, and the layouts of the wild."""

import csv
import hashlib
import json
import os
import shutil
import subprocess
from collections import Counter
from functools import partial

import layouts
import pytest

from lib.datasets.check import report
from lib.datasets.folders import VIDEO_SUFFIXES, walk
from lib.datasets.lists import ListError, Video, data_hash, list_folder, recogniser
from lib.datasets.official import OFFICIAL, list_videos
from lib.datasets.parts import defects
from lib.language.vocabulary import read_vocabulary, readable_name
from lib.run.params import FOLDER

list_ucf101, list_hmdb51 = partial(list_videos, "ucf101"), partial(list_videos, "hmdb51")
list_kinetics400, list_charades = partial(list_videos, "kinetics400"), partial(list_videos, "charades")


list_kinetics600, list_ssv2 = partial(list_videos, "kinetics600"), partial(list_videos, "ssv2")


def make_files(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


@pytest.mark.parametrize(
    "label, name",
    [
        ("ApplyEyeMakeup", "apply eye makeup"),
        ("YoYo", "yo yo"),
        ("TaiChi", "tai chi"),
        ("brush_hair", "brush hair"),
        ("HandStandPushups", "hand stand pushups"),
        ("watching TV", "watching tv"),
        ("TVRemote", "tv remote"),
        ("massaging person's head", "massaging person's head"),
        ("Holding a phone/camera", "holding a phone or camera"),
        ("Opening bag/s", "opening bag"),
        ("hurling (sport)", "hurling sport"),
        ("skiing (not slalom or crosscountry)", "skiing not slalom or crosscountry"),
    ],
)
def test_readable_names_are_words(label, name):
    assert readable_name(label) == name


def test_videos_are_told_apart_by_their_names_and_sizes(tmp_path):
    videos = [Video(make_files(tmp_path, f"{name}.mp4") / f"{name}.mp4", name) for name in "ab"]
    first = data_hash(videos)
    assert first == data_hash(videos[::-1] + videos) != data_hash(videos[:1])
    videos[1].path.write_bytes(b"made anew")
    assert data_hash(videos) != first


def test_the_readable_names_of_all_552_labels_are_those_of_the_vocabularies():
    for name, count in (("ucf101", 101), ("hmdb51", 51), ("kinetics400", 400)):
        labels = layouts.class_names(name)
        concepts = read_vocabulary(FOLDER / "concepts" / f"{name}.yaml", num_descriptions=4)
        assert [c.label for c in concepts] == labels and len(labels) == count
        assert [readable_name(label) for label in labels] == [c.class_name for c in concepts]
        assert len({readable_name(label) for label in labels}) == count


@pytest.fixture(scope="module")
def ucf101_lists(tmp_path_factory):
    """The official lists: what is written anew has the SHA-256 of the seven official files."""
    lists = layouts.ucf101_lists(tmp_path_factory.mktemp("lists") / "ucfTrainTestlist")
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in lists.iterdir()} == {
        "classInd.txt": "f3d6f248df6f115c",
        "trainlist01.txt": "9f9325becd69c66c",
        "trainlist02.txt": "93881acb699b4968",
        "trainlist03.txt": "ec22f33679c2f5bd",
        "testlist01.txt": "f48d372656c0ed3c",
        "testlist02.txt": "883cea8503474b6c",
        "testlist03.txt": "9ae27379f869f5be",
    }
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
        tmp_path,
        "YoYo/v_YoYo_g01_c01.webm",
        "YoYo/v_YoYo_g01_c02.mp4",
        "YoYo/v_YoYo_g08_c01.mkv",
        "YoYo/notes.txt",
        "YoYo/v_YoYo_g01_c99.avi",
        "Juggling/a.avi",
        "README",
        "WritingOnBoard/x.txt",
    )
    test = list_ucf101(root)["test-1"]
    assert [(v.path.name, v.label) for v in test.videos] == [("v_YoYo_g01_c01.webm", 1), ("v_YoYo_g01_c02.mp4", 1)]
    assert test.classes == ["WritingOnBoard", "YoYo"]
    assert test.extra == ["Juggling/", "README", "WritingOnBoard/", "YoYo/notes.txt", "YoYo/v_YoYo_g01_c99.avi"]
    assert test.left_out == ["Juggling/: 1 video, in none of the class folders of ucf101 (did you mean JugglingBalls?)"]
    assert "YoYo/v_YoYo_g01_c03" in test.missing and "WritingOnBoard/v_WritingOnBoard_g07_c01" in test.missing
    assert [v.name for v in list_ucf101(root)["train-1"].videos] == ["YoYo/v_YoYo_g08_c01"]


@pytest.mark.parametrize("lister", [lambda root: list_ucf101(root)["test-1"], list_folder])
def test_of_two_files_for_one_clip_the_first_suffix_is_taken_and_the_other_named(tmp_path, lister):
    found = lister(
        make_files(tmp_path, "YoYo/v_YoYo_g01_c01.mp4", "YoYo/v_YoYo_g01_c01.AVI", "YoYo/v_YoYo_g01_c01.mkv")
    )
    assert [video.path.name for video in found.videos] == ["v_YoYo_g01_c01.AVI"]
    assert found.left_out == [
        f"YoYo/v_YoYo_g01_c01.{suffix}: another file of the same clip; YoYo/v_YoYo_g01_c01.AVI is used, remove one"
        for suffix in ("mkv", "mp4")
    ]


def test_absent_or_empty_folders_are_errors_that_say_what_was_expected(tmp_path):
    for lister in (list_folder, list_ucf101):
        with pytest.raises(FileNotFoundError, match="nowhere is no folder; expected"):
            lister(tmp_path / "nowhere")
        with pytest.raises(FileNotFoundError, match=str(tmp_path)):
            lister(tmp_path)
    (tmp_path / "YoYo").mkdir()
    with pytest.raises(
        FileNotFoundError, match="no videos of ucf101; there are: .*expected .*ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01"
    ):
        list_ucf101(tmp_path)
    with pytest.raises(FileNotFoundError, match="expected <class>/<video>"):
        list_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="lists is no folder; expected the lists of ucf101"):
        list_ucf101(tmp_path, lists=tmp_path / "lists")


def test_folder_per_class_gives_labels_and_reports_the_rest(tmp_path):
    root = make_files(tmp_path, "run/b.mp4", "run/a.AVI", "jump/a.webm", "run/a.txt", "stray.mp4", "empty/.hidden")
    videos = list_folder(root)
    assert [(v.name, v.label) for v in videos.videos] == [("jump/a", 0), ("run/a", 1), ("run/b", 1)]
    assert videos.classes == ["jump", "run"] and videos.extra == ["empty/", "run/a.txt", "stray.mp4"]
    assert videos.left_out == ["empty/: contains no video", "stray.mp4: not in a class folder; move it into one"]


def test_videos_beside_class_folders_are_taken_without_a_label_where_that_is_asked_for(tmp_path):
    videos = list_folder(make_files(tmp_path, "a.mp4", "sub/a.mp4", "notes.txt"), loose=True)
    assert [(v.name, v.label) for v in videos.videos] == [("a", None), ("sub/a", 0)]
    assert (videos.classes, videos.extra, videos.left_out) == (["sub"], ["notes.txt"], [])
    assert list_folder(make_files(tmp_path / "flat", "b.MOV"), loose=True).classes == []


def test_what_a_subset_of_ucf101_lacks_is_put_into_words(five_classes):
    found = list_videos("ucf101", five_classes)
    assert report(found, OFFICIAL["ucf101"])[0] == "train-1: 453 of 453 listed clips found (officially 9537)"
    heading, names = defects(found).popitem()
    assert heading == (
        "96 of 101 classes have no clip (there are: BodyWeightSquats, BoxingPunchingBag, JugglingBalls, JumpingJack, "
        "Lunges)"
    )
    assert names[:2] == ["ApplyEyeMakeup", "ApplyLipstick"] and len(names) == 96
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
    root, lists = (
        tmp_path_factory.mktemp("hmdb51"),
        layouts.hmdb51_lists(tmp_path_factory.mktemp("lists") / "testTrainMulti_7030_splits"),
    )
    text = "".join(f"{path.name} {path.read_text()}" for path in sorted(lists.iterdir()))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "43c5d7086ce668c2"  # what the official files say
    for path in lists.glob("*_test_split1.txt"):
        make_files(
            root,
            *(f"{path.stem.removesuffix('_test_split1')}/{line.split()[0]}" for line in path.read_text().splitlines()),
        )
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
    listed = [
        row["clip"] for row in csv.DictReader((FOLDER / "splits" / "hmdb51.csv").open()) if row["class"] == "wave"
    ]
    strange = next(name for name in listed if not name.replace("_", "").isalnum())
    make_files(
        tmp_path,
        f"wave/{strange.replace('#', '_').replace('-', '_').replace('!', '_')}.avi",
        "wave/Other_wave_u_nm_np1_fr_bad_1.avi",
    )
    found = list_hmdb51(tmp_path)
    assert sorted(video.name for video in found["all"].videos) == sorted(
        [f"wave/{strange}", "wave/Other_wave_u_nm_np1_fr_bad_1"]
    )
    assert len(found["all"].absent_classes) == 50 and odd not in found["all"].missing


HEAD = "label,youtube_id,time_start,time_end,split\n"
KINETICS = ["playing guitar", "passing American football (in game)", "massaging person's head"]


@pytest.mark.parametrize(
    "train, validation", [("train", "val"), ("videos_train", "videos_val"), ("train_256", "val_256")]
)
def test_kinetics_as_a_folder_per_class_in_any_spelling(tmp_path, train, validation):
    make_files(
        tmp_path,
        f"{train}/playing_guitar/a.mp4",
        f"{train}/passing American football (in game)/b.mkv",
        f"{validation}/massaging_person's_head/c.mp4",
        f"{validation}/not a class/d.mp4",
    )
    found = list_kinetics400(tmp_path)
    assert len(found["train"].classes) == 400
    assert [(v.name, found["train"].classes[v.label]) for v in found["train"].videos] == [
        (f"{KINETICS[1]}/b", KINETICS[1]),
        (f"{KINETICS[0]}/a", KINETICS[0]),
    ]
    assert [v.name for v in found["validation"].videos] == [f"{KINETICS[2]}/c"]
    assert found["validation"].extra == [f"{validation}/not a class/"]
    assert found["validation"].left_out == [
        f"{validation}/not a class/: 1 video, in no folder of one of the 400 classes, and there is no list"
    ]
    assert len(found["train"].absent_classes) == 398 and KINETICS[2] in found["train"].absent_classes


@pytest.mark.parametrize("flat", [True, False])
def test_kinetics_by_deepminds_csv(tmp_path, flat):
    folder = "val" if flat else "val/some folder"
    make_files(
        tmp_path, f"{folder}/-abcdefghi__000010_000020.mp4", f"{folder}/AbCdEfGhIjK.mp4", f"{folder}/unlisted000.mp4"
    )
    rows = [
        "label,youtube_id,time_start,time_end,split",
        "playing guitar,-abcdefghi_,10,20,val",
        "massaging person's head,AbCdEfGhIjK,0,10,val",
        "playing guitar,goneisgone0,5,15,val",
    ]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "val.csv").write_text("\n".join(rows))
    found = list_kinetics400(tmp_path)["validation"]
    assert [(v.name, v.path.name) for v in found.videos] == [
        ("playing guitar/-abcdefghi_", "-abcdefghi__000010_000020.mp4"),
        ("massaging person's head/AbCdEfGhIjK", "AbCdEfGhIjK.mp4"),
    ]
    assert found.missing == ["playing guitar/goneisgone0"] and len(found.extra) == 1
    (tmp_path / "annotations" / "val.csv").write_text("\n".join([*rows, "juggling swords,AbCdEfGhIjK,0,10,val"]))
    with pytest.raises(ListError, match=r"val.csv, line 5: 'juggling swords' is none of Kinetics-400's"):
        list_kinetics400(tmp_path)


def test_kinetics_by_lines_of_path_and_number(tmp_path):
    make_files(tmp_path, "train/x/one.mp4", "train/two three.mp4")
    path = tmp_path / "kinetics400_train_list_videos.txt"
    path.write_text("x/one.mp4 232\ntwo three.mp4 0\ngone.mp4 399\n")
    found = list_kinetics400(tmp_path)["train"]
    assert [(v.name, v.label) for v in found.videos] == [
        (f"{found.classes[232]}/one", 232),
        (f"{found.classes[0]}/two three", 0),
    ]
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
    with pytest.raises(ListError, match="train.csv, line 1: no column youtube_id among .'path', 'label'"):
        list_kinetics400(tmp_path)
    make_files(tmp_path, "mine/k400.csv")
    with pytest.raises(
        ListError, match="mine: no list of the part train: expected train.csv or .* there are: .'k400.csv'"
    ):
        list_kinetics400(tmp_path, lists=tmp_path / "mine")


@pytest.mark.parametrize("form", ["csv", "list", "folders"])
def test_kinetics600_has_three_splits_with_classes_of_their_own_in_every_layout(laid_out, form):
    found = list_kinetics600(laid_out("kinetics600", form))
    assert {part: len(videos) for part, videos in found.items()} == {"test-1": 16, "test-2": 17, "test-3": 16}
    for split in (1, 2, 3):
        videos = found[f"test-{split}"]
        classes = [name for name, splits in layouts.KINETICS600.items() if split in splits]
        assert sorted({videos.classes[video.label] for video in videos.videos}) == classes
        assert len(videos.classes) == 160 and len(videos.absent_classes) == 157 and not videos.left_out
        assert len(videos) + len(videos.missing) == OFFICIAL["kinetics600"][f"test-{split}"]
        assert videos.extra == ["val/Yoga/" if form == "list" else "val/yoga/"]
    (clip,) = [video for video in found["test-2"].videos if "0RfClG7Ebf4" in video.name]
    assert clip.name == "waving hand/0RfClG7Ebf4_000001_000011"


def test_the_splits_of_kinetics600_are_those_of_the_protocol(shared_data, tmp_path):
    with (shared_data / "splits" / "kinetics600_zero_shot.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    make_files(tmp_path, *{f"val/{row['clip']}.mp4" for row in rows})
    found = list_kinetics600(tmp_path)
    for split in "123":
        videos = found[f"test-{split}"]
        names = {f"{row['label']}/{row['clip']}" for row in rows if row["split"] == split}
        assert {video.name for video in videos.videos} == names and not videos.missing and not videos.absent_classes
        assert all(video.name.startswith(f"{videos.classes[video.label]}/") for video in videos.videos)


def test_clips_of_kinetics600_are_found_by_id_and_time_and_others_are_named(tmp_path):
    make_files(
        tmp_path,
        "val/Acting_in_Play/L9GxK3fD-1w_56_66.mkv",  # other spellings of folder and time
        "val/some folder/x7IRJ7cUJYk.mp4",  # no class, no time
        "val/acting in play/23-Ar-CI1tE_000001_000011.mp4",  # other seconds of a listed clip
        "val/hall/23-Ar-CI1tE_000002_000012.mp4",  # perhaps a clip of another class
        "validation/x.mp4",
    )
    (tmp_path / "annotations").mkdir()
    row = "acting in PLAY,L9GxK3fD-1w,56,66,validate\nnew class,23-Ar-CI1tE,2,12,validate\n"
    (tmp_path / "annotations" / "val.csv").write_text(HEAD + row)
    found = list_kinetics600(tmp_path)["test-1"]
    assert [video.name for video in found.videos] == [
        "acting in play/L9GxK3fD-1w_000056_000066",
        "acting in play/x7IRJ7cUJYk_000038_000048",
    ]
    assert "acting in play/23-Ar-CI1tE_000098_000108" in found.missing and len(found.missing) == 7274
    assert found.left_out == [
        "validation/: a second folder of the part; val/ is used",
        "val/acting in play/23-Ar-CI1tE_000001_000011.mp4: the list has 23-Ar-CI1tE_000098_000108; give it the name of "
        "its clip",
    ]
    make_files(tmp_path, "val/acting in play/L9GxK3fD-1w.mp4")
    assert any("another file of the same clip" in line for line in list_kinetics600(tmp_path)["test-1"].left_out)


@pytest.mark.parametrize(
    "name, content, message",
    [
        (
            "val.csv",
            HEAD + "juggling,L9GxK3fD-1w,56,66,val\n",
            "val.csv, line 2: L9GxK3fD-1w_000056_000066 is juggling here, but .*kinetics600.csv says acting in play",
        ),
        ("val.csv", HEAD + "acting in play,L9GxK3fD-1w,soon,66,val\n", "line 2: time_start and time_end are not num"),
        ("val.csv", "label,youtube_id\nyoga,L9GxK3fD-1w\n", "no column time_start, time_end among"),
        ("val/waving hand/L9GxK3fD-1w.mp4", "", "L9GxK3fD-1w_000056_000066 is acting in play here, but the folder of"),
        ("lists/kinetics600.csv", "class,clips\nyoga,x\n", "line 1: no column splits among"),
        ("lists/kinetics600.csv", "class,splits,clips\na,11,x\n", "line 2: expected a new class and its marks"),
        ("lists/kinetics600.csv", "class,splits,clips\na,111,x\n", "line 2: 'x' is not a YouTube id and a second"),
        ("lists/kinetics600.csv", "class,splits,clips\na,111,\na,111,\n", "line 3: expected a new class"),
        (
            "lists/kinetics600.csv",
            "class,splits,clips\na,111,L9GxK3fD-1w@5\nb,111,L9GxK3fD-1w@5\n",
            "line 3, b: duplicate clip: L9GxK3fD-1w_000005_000015 is b here and a in .*line 2",
        ),
    ],
)
def test_kinetics600_refuses_sources_that_contradict_each_other(tmp_path, name, content, message):
    make_files(tmp_path, "val/L9GxK3fD-1w_000056_000066.mp4", name)
    (tmp_path / name).write_text(content)
    with pytest.raises(ListError, match=message):
        list_kinetics600(tmp_path, lists=tmp_path / "lists" if name.startswith("lists") else None)


def test_ssv2_has_numbered_files_and_templates_with_brackets(laid_out):
    found = list_ssv2(laid_out("ssv2"))
    assert {part: len(videos) for part, videos in found.items()} == {"validation": 8, "train": 15}
    validation = found["validation"]
    assert validation.classes == layouts.class_names("ssv2") and len(validation.absent_classes) == 170
    assert [(video.name, validation.classes[video.label]) for video in validation.videos] == [
        (str(number + 1), list(layouts.SSV2)[number % 4]) for number in range(15, 23)
    ]
    assert not validation.missing and not validation.extra and not validation.left_out


def ssv2_entry(number, template="Closing [something]", **changes):
    return {"id": str(number), "label": "closing a box", "template": template, "placeholders": ["a box"]} | changes


def test_numbered_files_of_ssv2_that_are_missing_or_in_no_list_are_named(tmp_path):
    make_files(tmp_path, "videos/3.webm", "videos/04.webm", "videos/7.mp4", "videos/7.webm", "9.webm")
    (tmp_path / "train.json").write_text(json.dumps([ssv2_entry(100), ssv2_entry(101)]))
    listed = [ssv2_entry(3, "closing something"), ssv2_entry(4), ssv2_entry(7, id=7, template="Opening [Something]")]
    (tmp_path / "Validation.json").write_text(json.dumps(listed))
    found = list_ssv2(tmp_path)
    assert list(found) == ["validation"]  # no file of train is there
    validation = found["validation"]
    assert [(video.name, video.path.name) for video in validation.videos] == [("3", "3.webm"), ("7", "7.mp4")]
    assert validation.missing == ["4"] and validation.extra == ["9.webm", "videos/04.webm", "videos/7.webm"]
    assert validation.left_out == ["videos/7.webm: another file of the same clip; videos/7.mp4 is used, remove one"]
    make_files(tmp_path, "videos/100.webm")
    assert list_ssv2(tmp_path)["train"].missing == ["101"]


@pytest.mark.parametrize(
    "content, message",
    [
        ("[{", "validation.json: invalid json: Expecting .* line 1 column"),
        ("[" * 100_000, "validation.json: invalid json: "),
        ("", "validation.json: invalid json: "),
        ("[]", "validation.json: expected a list of objects with id and template"),
        ('{"1": "a"}', "validation.json: expected a list of objects with id and template"),
        ('["1"]', "entry 1: expected an object with id and template, not '1'"),
        (json.dumps([ssv2_entry(1), {"id": "2"}]), "entry 2: expected an object with id and template, not {'id': '2'}"),
        (json.dumps([ssv2_entry(1, template=None)]), "entry 1: expected an object with id and template"),
        (json.dumps([ssv2_entry("1.webm")]), "entry 1: the id '1.webm' is not a number"),
        (
            json.dumps([ssv2_entry(1, "Closin [something]")]),
            r"entry 1: 'Closin \[something\]' is none of the 174 templates \(did you mean Closing something\?\)",
        ),
        (
            json.dumps([ssv2_entry(1), ssv2_entry(1, "Opening [something]")]),
            "entry 2: duplicate clip: 1 is validation, Opening something here and validation, Closing something in",
        ),
    ],
)
def test_lists_of_ssv2_that_cannot_be_read_are_refused_by_file_and_entry(tmp_path, content, message):
    make_files(tmp_path, "1.webm")
    (tmp_path / "validation.json").write_text(content)
    with pytest.raises(ListError, match=message):
        list_ssv2(tmp_path)


def test_without_or_with_two_lists_of_ssv2_the_folder_is_refused(tmp_path):
    make_files(tmp_path, "1.webm", "labels/train.json")
    (tmp_path / "labels" / "train.json").write_text(json.dumps([ssv2_entry(1)]))
    with pytest.raises(ListError, match="no list something-something-v2-validation.json .* there are: .'1.webm'"):
        list_ssv2(tmp_path)
    make_files(tmp_path, "labels/validation.json", "something-something-v2-validation.json")
    with pytest.raises(ListError, match="two lists of the part validation, .* keep one, or set lists_ssv2"):
        list_ssv2(tmp_path)


def test_every_template_of_the_validation_list_of_ssv2_is_recognised(shared_data, tmp_path):
    with (shared_data / "splits" / "ssv2_validation.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    bracketed = [ssv2_entry(row["clip"], row["label"].replace("something", "[something]")) for row in rows]
    make_files(tmp_path, "1.webm", *(f"{row['clip']}.webm" for row in rows[:9]))
    (tmp_path / "validation.json").write_text(json.dumps(bracketed))
    videos = list_ssv2(tmp_path)["validation"]
    assert len(videos) + len(videos.missing) == OFFICIAL["ssv2"]["validation"] and len(videos) == 9
    assert {video.name: videos.classes[video.label] for video in videos.videos} == {
        row["clip"]: row["label"] for row in rows[:9]
    }


def test_charades_has_several_classes_a_clip_or_none(tmp_path):
    make_files(tmp_path, "Charades_v1_480/A.mp4", "Charades_v1_480/B.mp4", "Charades_v1_480/X.mp4")
    (tmp_path / "Charades_v1_classes.txt").write_text("c000 Holding some clothes\nc001 Putting clothes somewhere\n")
    (tmp_path / "Charades_v1_train.csv").write_text(
        'id,scene,actions,length\nA,Bed,"c001 0.00 9.1;c000 1.0 2.0;c001 3 4",30\n'
    )
    (tmp_path / "Charades_v1_test.csv").write_text("id,scene,actions,length\nB,Bed,,30\nC,Bed,c000 1 2,9\n")
    found = list_charades(tmp_path)
    assert [(v.name, v.labels) for part in found.values() for v in part.videos] == [("A", (0, 1)), ("B", ())]
    assert found["test"].missing == ["C"] and found["test"].extra == ["Charades_v1_480/X.mp4"]
    assert found["train"].classes == ["Holding some clothes", "Putting clothes somewhere"]
    (tmp_path / "Charades_v1_test.csv").write_text("id,scene,actions,length\nB,Bed,c002 1 2,30\n")
    with pytest.raises(ListError, match="Charades_v1_test.csv, line 2: .'c002'. is not in Charades_v1_classes.txt"):
        list_charades(tmp_path)
    (tmp_path / "Charades_v1_test.csv").write_text("id,scene,actions,length\nA,Bed,,30\n")
    with pytest.raises(
        ListError,
        match="Charades_v1_test.csv, line 2: duplicate clip: A is test, no action here and train, c001 .* in "
        ".*Charades_v1_train.csv, line 2; keep one",
    ):
        list_charades(tmp_path)
    (tmp_path / "Charades_v1_test.csv").write_text("id,scene,actions,length\nB,Bed,,30\n")
    make_files(tmp_path, "Charades_v1/A.mp4")
    found = list_charades(tmp_path)
    assert [video.path.parent.name for video in found["train"].videos] == ["Charades_v1"]
    assert found["train"].left_out == [
        "Charades_v1_480/A.mp4: another file of the same clip; Charades_v1/A.mp4 is used, remove one"
    ]


# ---- one walk -------------------------------------------------------------------------------------------------------


def test_the_walk_follows_links_ends_in_circles_and_passes_over_what_systems_leave(tmp_path):
    root = make_files(
        tmp_path / "root",
        "run/a.mp4",
        "run/._a.mp4",
        "run/.DS_Store",
        "run/Thumbs.db",
        "__MACOSX/run/b.mp4",
        "run/Icon\r",
    )
    make_files(tmp_path, "elsewhere/clip.mkv", "elsewhere/deep/c.mov")
    (root / "walk").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(tmp_path / "elsewhere")
    (root / "run" / "linked.avi").symlink_to(tmp_path / "elsewhere" / "clip.mkv")
    (root / "run" / "circle").symlink_to(root)
    (root / "run" / "self.mp4").symlink_to("self.mp4")
    (root / "run" / "gone.mp4").symlink_to("/nowhere/gone.mp4")
    (root / "run" / "notes.txt").symlink_to("/nowhere/notes.txt")
    found = walk(root)
    assert [str(path.relative_to(root)) for path in found.videos] == [
        "again/clip.mkv",
        "again/deep/c.mov",
        "run/a.mp4",
        "run/linked.avi",
        "walk/clip.mkv",
        "walk/deep/c.mov",
    ]
    assert [path.name for path in found.others] == ["Thumbs.db"]
    assert {path.name: why for path, why in found.unreadable.items()} == {
        "circle": "a link to a folder that contains it",
        "gone.mp4": "a broken link to '/nowhere/gone.mp4'",
        "self.mp4": "a broken link to 'self.mp4'",
    }
    assert "run/gone.mp4: a broken link to '/nowhere/gone.mp4'" in list_folder(root).left_out


@pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
def test_suffixes_of_videos_are_known_in_any_capitals(tmp_path, suffix):
    names = [f"run/{number}{spelt}" for number, spelt in enumerate((suffix, suffix.upper(), suffix.title()))]
    assert len(list_folder(make_files(tmp_path, *names))) == 3


def test_the_suffixes_of_cameras_discs_and_telephones_are_among_them():
    assert set(".mts .m2ts .m2v .vob .3gp .3g2 .ogv .mpe .asf .f4v .divx .y4m .mjpeg".split()) <= set(VIDEO_SUFFIXES)


@pytest.mark.parametrize(
    "name, content, left_out",
    [
        ("clip.dav", b"", True),
        ("clip", b"\0\0\1\xba", True),
        ("clip.mp4.part", b"\0\0\0\x18ftyp", True),
        ("notes.txt", b"", False),
        ("README", b"", False),
        ("rules.cfg", b"a text", False),
        ("thumb.JPG", b"\xff\xd8\0", False),
        ("clip.srt", b"", False),
        ("IMG_0001.HEIC", b"\0\0\0$ftypheic", False),
        ("VTS_01_0.IFO", b"DVDVIDEO-VTS\0", False),
        ("MOV001.MOI", b"V6\0", False),
    ],
)
def test_a_file_of_unknown_suffix_is_left_out_by_name_if_it_may_be_a_video(tmp_path, name, content, left_out):
    make_files(tmp_path, "run/a.mp4", f"run/{name}")
    (tmp_path / "run" / name).write_bytes(content)
    assert list_folder(tmp_path).left_out == [f"run/{name}: its suffix is not a known video suffix"] * left_out
    assert list_folder(tmp_path).extra == [f"run/{name}"]


@pytest.mark.parametrize("name", [b"caf\xe9.mp4", b"two\nlines.mp4", b"caf\xe9/a.mp4"])
def test_a_name_that_cannot_be_written_down_is_refused_with_the_command_that_renames_it(tmp_path, name):
    path = os.fsencode(tmp_path) + b"/run/" + name
    os.makedirs(os.path.dirname(path))
    open(path, "wb").close()
    for reader in (list_folder, list_ucf101, lambda root: walk(root / "run")):
        with pytest.raises(ValueError, match="the name is not UTF-8 or has control characters. Rename it:") as caught:
            reader(tmp_path)
    str(caught.value).encode()  # it can be printed
    command = next(line for line in str(caught.value).splitlines() if line.startswith("  python3 -c "))
    subprocess.run(command, shell=True, check=True)
    assert len(walk(tmp_path).videos) == 1


# ---- spelling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "folder, label",
    [
        ("massaging_persons_head", "massaging person's head"),
        ("Massaging Person\u2019s Head", "massaging person's head"),
        ("hurling_(sport)", "hurling (sport)"),
        ("hurling sport", "hurling (sport)"),
        ("Tai-Chi", "tai chi"),
        ("taichi", "tai chi"),
        ("z\u00famba", "zumba"),
        ("zu\u0301mba", "zumba"),
        ("zumbaa", None),
        ("", None),
    ],
)
def test_a_class_is_recognised_in_any_spelling_where_one_fits(folder, label):
    assert recogniser(["tai chi", "hurling (sport)", "massaging person's head", "zumba"])(folder) == label


def test_a_spelling_that_fits_several_classes_is_none_of_them():
    known = recogniser(["C", "C++", "Run", "run", "\u8dd1\u6b65", "\u8d70"])
    assert [known(name) for name in ("C", "C++", "c#", "run", "RUN", "\u8dd1\u6b65")] == [
        "C",
        "C++",
        None,
        "run",
        None,
        "\u8dd1\u6b65",
    ]


def test_two_folders_of_one_class_are_read_together(tmp_path):
    found = list_kinetics400(make_files(tmp_path, "TRAIN/tai chi/a.mp4", "TRAIN/tai_chi/b.mp4", "Val/Tai Chi/c.mp4"))
    assert [video.name for video in found["train"].videos] == ["tai chi/a", "tai chi/b"]
    assert [video.name for video in found["validation"].videos] == ["tai chi/c"]
    found = list_ucf101(make_files(tmp_path, "YoYo/v_YoYo_g01_c01.avi", "yo yo/v_YoYo_g01_c02.avi"))["test-1"]
    assert [video.name for video in found.videos] == ["YoYo/v_YoYo_g01_c01", "YoYo/v_YoYo_g01_c02"]


def test_the_parts_of_ones_own_folder_have_the_classes_of_all(tmp_path):
    make_files(
        tmp_path, "Train/push up/a.mp4", "Train/run/b.mp4", "val/Push_Up/c.mp4", "test/run/d.mp4", "test/walk/e.mp4"
    )
    found = list_videos("folder", tmp_path)
    assert [(part, v.name, v.label) for part, videos in found.items() for v in videos.videos] == [
        ("train", "push up/a", 0),
        ("train", "run/b", 1),
        ("validation", "push up/c", 0),
        ("test", "run/d", 1),
        ("test", "walk/e", 2),
    ]
    assert {part: videos.absent_classes for part, videos in found.items()} == {
        "train": ["walk"],
        "validation": ["run", "walk"],
        "test": ["push up"],
    }
    make_files(tmp_path, "validation/run/f.mp4")
    with pytest.raises(ListError, match="two folders of the part validation, val and validation; keep one"):
        list_videos("folder", tmp_path)


def test_clips_beside_the_parts_of_ones_own_folder_are_left_out_by_name(tmp_path):
    make_files(
        tmp_path,
        "train/run/a.mp4",
        "real/run/b.mp4",
        "walk/c.mp4",
        "walk/d.MOV",
        "e.avi",
        "notes.txt",
        "@eaDir/f.mp4",
        "UCF-101/TaiChi/g.avi",
    )
    (tmp_path / "test").symlink_to("real")
    why = "outside the folders of the parts (train, test); move them into a class of one"
    assert list_videos("folder", tmp_path)["train"].left_out == [f"e.avi: {why}", f"walk/: 2 videos, {why}"]


# ---- contradictions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "files, lists, message",
    [
        (
            "train/abseiling/aaaaaaaaaaa.mp4",
            {"kinetics400_train_list_videos.txt": "abseiling/aaaaaaaaaaa.mp4 1\n"},
            r"train_list_videos.txt, line 1 \(class number 1, counted from 0\): aaaaaaaaaaa is air drumming here, but "
            r"the folder of .*train/abseiling/"
            "aaaaaaaaaaa.mp4 says abseiling",
        ),
        (
            "train/zumba/part2/aaaaaaaaaaa.mp4",
            {"train.csv": HEAD + "abseiling,aaaaaaaaaaa,1,11,train\n"},
            "train.csv, line 2: aaaaaaaaaaa is abseiling here, but the folder of .* says zumba",
        ),
        (
            "train/aaaaaaaaaaa_000001_000011.mp4",
            {"train.csv": HEAD + "zumba,bbbbbbbbbbb,1,2,train\n\nabseiling,aaaaaaaaaaa,2,12,train\n"},
            r"train.csv, line 4: aaaaaaaaaaa is at seconds \(2, 12\) here, but "
            r"the name of .*_000001_000011.mp4 says 000001_000011",
        ),
        (
            "train/aaaaaaaaaaa.mp4",
            {"train.csv": HEAD + "abseiling,aaaaaaaaaaa,1,11,val\n"},
            "line 2: aaaaaaaaaaa is in the list of the part train here, but its column split says val",
        ),
        (
            "train/aaaaaaaaaaa.mp4",
            {"train.csv": HEAD + "abseiling,aaaaaaaaaaa,soon,11,train\n"},
            "line 2: time_start and time_end are not numbers",
        ),
        (
            "train/aaaaaaaaaaa.mp4",
            {"train.csv": HEAD + "abseiling,aaaaaaaaaaa,1,11,train\n" * 2},
            "train.csv, line 3: duplicate clip: aaaaaaaaaaa is train, abseiling here and "
            "train, abseiling in .*train.csv, line 2",
        ),
        (
            "train/x.mp4",
            {"kinetics400_train_list_videos.txt": "x.mp4 0\nx.mp4 399\n"},
            r"line 2 \(class number 399, .*\): duplicate clip: x.mp4 is train, zumba here "
            r"and train, abseiling in .*line 1 \(class number 0, .*\); keep one",
        ),
        (
            "train/aaaaaaaaaaa.mp4 val/aaaaaaaaaaa.mp4",
            {
                "train.csv": HEAD + "abseiling,aaaaaaaaaaa,1,11,train\n",
                "val.csv": HEAD + "abseiling,aaaaaaaaaaa,1,11,val\n",
            },
            "val.csv, line 2: duplicate clip: aaaaaaaaaaa is validation, abseiling here and train, ",
        ),
        (
            "train/zumba/aaaaaaaaaaa.mp4 val/zumba/aaaaaaaaaaa.mp4",
            {},
            "val/zumba/aaaaaaaaaaa.mp4: duplicate clip: .* validation, zumba",
        ),
        (
            "train/zumba/aaaaaaaaaaa.mp4 train/yoga/aaaaaaaaaaa.mp4",
            {},
            "zumba/aaaaaaaaaaa.mp4: duplicate clip: .* train, zumba here and "
            "train, yoga in .*/train/yoga/aaaaaaaaaaa.mp4",
        ),
        (
            "train/a.mp4",
            {"train.csv": HEAD, "annotations/train.csv": HEAD},
            "two lists of the part train, .* keep one, or set lists_kinetics400",
        ),
    ],
)
def test_kinetics_refuses_sources_that_contradict_each_other(tmp_path, files, lists, message):
    make_files(tmp_path, *files.split(), "annotations/none")
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ListError, match=message):
        list_kinetics400(tmp_path)


def test_the_file_whose_time_range_is_the_rows_is_taken(tmp_path):
    make_files(tmp_path, *(f"train/aaaaaaaaaaa_{start:06d}_{start + 10:06d}.mp4" for start in (1, 2, 3)))
    (tmp_path / "train.csv").write_text(HEAD + "abseiling,aaaaaaaaaaa,2.0,12.0,train\n")
    found = list_kinetics400(tmp_path)["train"]
    assert [video.path.name for video in found.videos] == ["aaaaaaaaaaa_000002_000012.mp4"]
    assert len(found.extra) == 2 and found.left_out == []


@pytest.mark.parametrize("where, other", [("test/run/x.mp4", "test, run"), ("train/walk/x.avi", "train, walk")])
def test_one_file_in_two_parts_or_classes_of_ones_own_folder_is_refused(tmp_path, where, other):
    make_files(tmp_path, "train/run/a.mp4", "train/walk/b.mp4", "test/run/c.mp4", "test/walk/d.mp4", where)
    for number, path in enumerate(sorted(tmp_path.rglob("*.mp4"))):
        path.write_bytes(bytes([number]) * 70_000)
    (tmp_path / where).write_bytes((tmp_path / "train/run/a.mp4").read_bytes())
    with pytest.raises(
        ListError, match=f"duplicate clip: the same file is {other} here and train, run in .*train/run/a.mp4"
    ):
        list_videos("folder", tmp_path)


def test_a_copy_within_a_class_of_ones_own_folder_is_left_out_by_name(tmp_path):
    make_files(
        tmp_path,
        "train/run/a.mp4",
        "train/run/a (1).mp4",
        "train/run/empty.mp4",
        "train/run/empty2.mp4",
        "test/run/b.mp4",
    )
    for path in tmp_path.glob("train/run/a*"):
        path.write_bytes(b"the same")
    found = list_videos("folder", tmp_path)["train"]
    assert [video.name for video in found.videos] == ["run/a (1)", "run/empty", "run/empty2"]
    assert found.left_out == ["train/run/a.mp4: the same file as train/run/a (1).mp4, which is used; remove one"]


def test_a_listed_clip_in_the_folder_of_another_class_is_refused(tmp_path):
    with pytest.raises(ListError, match="its folder is Archery here, but ucf101's list says YoYo"):
        list_ucf101(make_files(tmp_path, "YoYo/v_YoYo_g01_c01.avi", "Archery/v_YoYo_g01_c02.avi"))
    with pytest.raises(ListError, match="its folder is clap here, but hmdb51's list says brush_hair"):
        list_hmdb51(make_files(tmp_path / "hmdb", "clap/April_09_brush_hair_u_nm_np1_ba_goo_0.avi"))


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("classInd.txt", "1 Archery\nYoYo\n", "classInd.txt, line 2: 'YoYo' is not a new number and a new class"),
        ("classInd.txt", "1 Archery\n1 YoYo\n", "classInd.txt, line 2: '1 YoYo' is not a new number and a new class"),
        (
            "trainlist01.txt",
            "Archery/v_Archery_g08_c01.avi 1\nYoYo/v_YoYo_g08_c01.avi 1\n",
            "trainlist01.txt, line 2: the number of YoYo is 1 here, but classInd.txt says 2",
        ),
        (
            "testlist01.txt",
            "YoYo/v_YoYo_g08_c01.avi\n",
            "testlist01.txt, line 1: duplicate clip: YoYo/v_YoYo_g08_c01 is test here and "
            "train in .*trainlist01.txt, line 2",
        ),
        (
            "testlist01.txt",
            "Archery/v_Archery_g01_c01.avi\nYoYo/v_YoYo_g01_c01.avi\n",
            "not ucf101's official lists; clips listed: {'train-1': '2, not 9537', 'test-1': '2, not 3783'",
        ),  # the form is right
    ],
)
def test_lists_of_ucf101_that_contradict_each_other_are_refused(tmp_path, name, text, message):
    lists = {
        "classInd.txt": "1 Archery\r\n2\tYoYo\n\n",
        "trainlist01.txt": "Archery/v_Archery_g08_c01.avi 1\nYoYo/v_YoYo_g08_c01.avi\t2 \n",
    }
    make_files(tmp_path, "lists/x", "YoYo/v_YoYo_g01_c01.avi")
    for path in ("classInd", *(f"{part}list0{split}" for part in ("train", "test") for split in (1, 2, 3))):
        (tmp_path / "lists" / f"{path}.txt").write_text(lists.get(f"{path}.txt", f"YoYo/v_YoYo_g02_{path[:2]}.avi,2\n"))
    (tmp_path / "lists" / name).write_text(text)
    with pytest.raises(ListError, match=message):
        list_ucf101(tmp_path, lists=tmp_path / "lists")


def test_lists_of_hmdb51_that_are_not_there_or_say_two_things_are_refused(tmp_path):
    make_files(tmp_path, "lists/readme.txt", "wave/a.avi")
    with pytest.raises(
        ListError, match="lists: no lists of HMDB-51, e.g. brush_hair_test_split1.txt; there are: .'readme.txt'"
    ):
        list_hmdb51(tmp_path, lists=tmp_path / "lists")
    (tmp_path / "lists" / "wave_test_split2.txt").write_text("a b.avi\t1\na b.avi 2\n")
    with pytest.raises(
        ListError, match="wave_test_split2.txt, line 2: duplicate clip: wave/a b is test here and train in"
    ):
        list_hmdb51(tmp_path, lists=tmp_path / "lists")


# ---- encodings and forms of lists -----------------------------------------------------------------------------------

ROWS = HEAD + "abseiling,aaaaaaaaaaa,10,20,train\nzumba,bbbbbbbbbbb,1,2,tr\u00e9\n"


@pytest.mark.parametrize(
    "data, message",
    [
        (ROWS.encode("utf-8-sig"), ""),
        (ROWS.replace("\n", "\r\n").encode(), ""),
        (ROWS.replace("\n", "\r").encode(), ""),
        (ROWS.replace("\n", "\n\n").replace(",", " , ").encode() + b",,,,\n", ""),
        (ROWS.replace("zumba,", '"zumba",').replace("tr\u00e9", '"two\nlines"').encode(), ""),
        (ROWS.encode("utf-16"), "train.csv, line 1: not UTF-8 but perhaps CP1252 or UTF-16; convert it"),
        (ROWS.encode("utf-16-le"), "train.csv, line 1: not UTF-8 but perhaps CP1252 or UTF-16"),
        (ROWS.encode("cp1252"), "train.csv, line 3: not UTF-8 but perhaps CP1252 or UTF-16; convert it"),
        (ROWS.replace(",", ";").encode(), "line 1: no column label, youtube_id among .*;.* separated by commas"),
        (ROWS.replace(",", "\t").encode(), "line 1: no column label, youtube_id among .*\\\\t.* separated by commas"),
        (ROWS.replace(HEAD, "").encode(), r"line 1: no column label, youtube_id among .'abseiling'"),
        (ROWS.replace(",20", "").encode(), "line 2: 4 fields for 5 columns"),
        (ROWS.replace(",1,", ",1,1,").encode(), "line 3: 6 fields"),
        (ROWS.replace("zumba", '"zum\nba"').encode(), "line 4: a line break within a field"),
        (ROWS.replace("tr\u00e9", '"train').encode(), "line 3: invalid csv: unexpected end of data"),
        (HEAD.encode(), "train.csv has no rows"),
        (b"", "train.csv has no rows"),
    ],
)
def test_csvs_are_read_in_utf_8_and_refused_by_file_and_line_otherwise(tmp_path, data, message):
    make_files(tmp_path, "train/abseiling/aaaaaaaaaaa.mp4")
    (tmp_path / "train.csv").write_bytes(data)
    if not message:
        found = list_kinetics400(tmp_path)["train"]
        assert ([video.name for video in found.videos], found.missing) == (
            ["abseiling/aaaaaaaaaaa"],
            ["zumba/bbbbbbbbbbb"],
        )
    else:
        with pytest.raises(ListError, match=message):
            list_kinetics400(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "abseiling/a.mp4\t0",
        "abseiling/a.mp4,0",
        "abseiling/a.mp4 ; 0 ",
        "./abseiling/a.mp4  0",
        "train/abseiling/a.mp4 0",
        "\ufeffAbseiling/a.avi 0\r",
        "\n\nabseiling/a 0",
    ],
)
def test_lines_of_path_and_number_are_read_with_any_separator(tmp_path, line):
    make_files(tmp_path, "train/abseiling/a.mp4")
    (tmp_path / "kinetics400_train_list_videos.txt").write_text(line + "\n", encoding="utf-8")
    found = list_kinetics400(tmp_path)["train"]
    assert [video.name for video in found.videos] == ["abseiling/a"] and not found.missing


@pytest.mark.parametrize(
    "reader, broken",
    [
        (list_ucf101, "trainlist01.txt"),
        (list_hmdb51, "wave_test_split1.txt"),
        (list_charades, "Charades_v1_classes.txt"),
        (list_charades, "Charades_v1_train.csv"),
        (list_ssv2, "validation.json"),
        (list_kinetics400, "kinetics400_train_list_videos.txt"),
    ],
)
def test_every_reader_names_file_and_line_of_another_encoding(tmp_path, reader, broken):
    lists = {"classInd.txt": "1 YoYo\n", "Charades_v1_classes.txt": "c000 Holding\n", broken: "c000 caf\u00e9 0\n"}
    make_files(tmp_path, "lists/x", "train/zumba/a.mp4")
    for name, text in lists.items():
        (tmp_path / "lists" / name).write_bytes(("\n\n" * (name == broken) + text).encode("cp1252"))
    with pytest.raises(ListError, match=f"{broken}, line 3: not UTF-8 but perhaps CP1252"):
        reader(tmp_path, lists=tmp_path / "lists")


@pytest.mark.parametrize("dataset", ["ucf101", "hmdb51", "kinetics400", "kinetics600", "ssv2", "charades"])
def test_folders_that_are_files_empty_or_absent_are_named(tmp_path, dataset):
    make_files(tmp_path, "file", "empty/.hidden", "videos/x")
    for place, message in (
        (tmp_path / "file", "file is a file, not a folder; expected"),
        (tmp_path / "none", "none is no folder; expected"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            list_videos(dataset, place)
        make_files(tmp_path, "videos/train/zumba/a.mp4", "videos/train/YoYo/a.mp4")
        with pytest.raises(FileNotFoundError, match=message):
            list_videos(dataset, tmp_path / "videos", lists=place)
    with pytest.raises((FileNotFoundError, ListError), match="there are: "):
        list_videos(dataset, tmp_path / "videos", lists=tmp_path / "empty")


def test_archives_that_were_unpacked_one_level_too_deep_are_named_where_nothing_else_is_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no videos of hmdb51; (?s:.*)wave/wave/: 2 videos, one level too deep"):
        list_hmdb51(make_files(tmp_path / "hmdb", "wave/wave/a.avi", "wave/wave/b.avi"))
    with pytest.raises(
        FileNotFoundError, match="no videos of kinetics400; (?s:.*)train/zumba/zumba2/: 1 video, in no folder of one of"
    ):
        list_kinetics400(make_files(tmp_path / "k400", "train/zumba/zumba2/a.mp4"))
    with pytest.raises(
        FileNotFoundError, match="no videos; expected <class>/<video>(?s:.*)a.mp4: not in a class folder"
    ):
        list_folder(make_files(tmp_path / "mine", "a.mp4"))


def test_a_folder_that_is_named_one_level_too_high_is_told_the_right_one(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="none of the 101 class folders .* there are: .'UCF-101'.; did you mean .*/UCF-101?"
    ):
        list_ucf101(make_files(tmp_path, "UCF-101/YoYo/v_YoYo_g01_c01.avi"))
    with pytest.raises(FileNotFoundError, match="none of the folders train and test, .* there are: .'UCF-101'"):
        list_videos("folder", tmp_path)
