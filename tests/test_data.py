from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from conftest import svt_settings
from lib.data import (
    BatchPlan,
    EvaluationViews,
    SampleKey,
    TrainingViews,
    Video,
    VideoList,
    collate,
    list_folder,
    list_ucf101,
    long_tailed,
    spoken_name,
)

SMALL = svt_settings(
    image_size=32, global_num_frames=(2, 4), local_views=2, local_num_frames=(1, 2), local_image_size=16
)


def make_files(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def labelled(counts, name="class{label}/clip{number}"):
    videos = [
        Video(Path("x"), name.format(label=label, number=number), label)
        for label, count in enumerate(counts) for number in range(count)
    ]
    return VideoList(videos, [f"class{label}" for label in range(len(counts))])


@pytest.mark.parametrize("label, spoken", [
    ("ApplyEyeMakeup", "apply eye makeup"), ("YoYo", "yo yo"), ("TaiChi", "tai chi"), ("brush_hair", "brush hair"),
    ("HandStandPushups", "hand stand pushups"), ("watching TV", "watching tv"), ("TVRemote", "tv remote"),
    ("massaging person's head", "massaging person's head"),
])
def test_spoken_names_are_words(label, spoken):
    assert spoken_name(label) == spoken


def test_every_official_ucf101_class_has_a_spoken_name_of_its_own(shared_data):
    labels = (shared_data / "labels" / "ucf101.txt").read_text().split()
    assert len({spoken_name(label) for label in labels}) == 101


@pytest.fixture(scope="module")
def whole_ucf101(shared_data, tmp_path_factory):
    """The 13,320 names of UCF-101 as empty files, laid out as its releases are."""
    root = tmp_path_factory.mktemp("ucf") / "UCF-101"
    lists = shared_data / "splits" / "ucfTrainTestlist"
    for part in ("trainlist01.txt", "testlist01.txt"):
        make_files(root, *(line.split()[0] for line in (lists / part).read_text().splitlines()))
    (root / "HandStandPushups").rename(root / "HandstandPushups")
    return root


@pytest.mark.parametrize("split, train, test", [(1, 9537, 3783), (2, 9586, 3734), (3, 9624, 3696)])
def test_derived_ucf101_lists_are_the_official_ones(shared_data, whole_ucf101, split, train, test):
    lists = shared_data / "splits" / "ucfTrainTestlist"
    for part, size in (("train", train), ("test", test)):
        derived = list_ucf101(whole_ucf101, split=split, part=part)
        assert derived == list_ucf101(whole_ucf101, split=split, part=part, lists=lists)
        official = (lists / f"{part}list0{split}.txt").read_text().splitlines()
        assert [f"{video.name}.avi" for video in derived.videos] == [line.split()[0] for line in official]
        assert len(derived) == size
        assert (derived.absent_classes, derived.missing, derived.extra) == ([], [], [])
        assert derived.classes == (shared_data / "labels" / "ucf101.txt").read_text().split()
        assert all(derived.classes[video.label] == video.name.split("/")[0] for video in derived.videos)


def test_subset_of_ucf101_has_the_official_clips_of_its_classes(shared_data):
    parts = [list_ucf101(shared_data / "ucf101-5", split=1, part=part) for part in ("train", "test")]
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
    test = list_ucf101(root, split=1, part="test")
    assert [(v.path.name, v.label) for v in test.videos] == [("v_YoYo_g01_c01.webm", 1), ("v_YoYo_g01_c02.mp4", 1)]
    assert test.classes == ["WritingOnBoard", "YoYo"]
    assert test.extra == ["Juggling/", "README", "WritingOnBoard/x.txt", "YoYo/notes.txt", "YoYo/v_YoYo_g01_c99.avi"]
    assert "YoYo/v_YoYo_g01_c03" in test.missing and "WritingOnBoard/v_WritingOnBoard_g07_c01" in test.missing
    assert [v.name for v in list_ucf101(root, split=1, part="train").videos] == ["YoYo/v_YoYo_g08_c01"]


def test_two_files_for_one_clip_are_refused(tmp_path):
    root = make_files(tmp_path, "YoYo/v_YoYo_g01_c01.avi", "YoYo/v_YoYo_g01_c01.mp4")
    with pytest.raises(ValueError, match=r"v_YoYo_g01_c01.avi and v_YoYo_g01_c01.mp4"):
        list_ucf101(root, split=1, part="test")
    with pytest.raises(ValueError, match="YoYo/v_YoYo_g01_c01"):
        list_folder(root)


def test_absent_or_empty_folders_are_errors_that_say_what_was_expected(tmp_path):
    for lister in (list_folder, lambda root: list_ucf101(root, split=1, part="test")):
        with pytest.raises(FileNotFoundError, match="nowhere is no folder; expected"):
            lister(tmp_path / "nowhere")
        with pytest.raises(FileNotFoundError, match=str(tmp_path)):
            lister(tmp_path)
    (tmp_path / "YoYo").mkdir()
    with pytest.raises(FileNotFoundError, match="expected YoYo/v_YoYo_g01_c01"):
        list_ucf101(tmp_path, split=1, part="test")
    with pytest.raises(FileNotFoundError, match="expected <class>/<video>"):
        list_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="ucfTrainTestlist"):
        list_ucf101(tmp_path, split=1, part="test", lists=tmp_path / "lists")
    with pytest.raises(ValueError, match="splits 1, 2, 3"):
        list_ucf101(tmp_path, split=4, part="test")


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


def test_long_tailed_subset_has_exponential_class_sizes():
    sizes = Counter(v.label for v in long_tailed(labelled([100, 100, 100]), imbalance=4, seed=0).videos)
    assert sorted(sizes.values()) == [25, 50, 100]
    orders = {tuple(Counter(v.label for v in long_tailed(labelled([9] * 3), imbalance=9, seed=s).videos).most_common())
              for s in range(20)}
    assert len(orders) > 3
    with pytest.raises(ValueError, match="labelled"):
        long_tailed(VideoList([Video(Path("x"), "x")]), imbalance=4, seed=0)


def test_every_epoch_visits_each_video_once_in_an_order_of_its_own():
    plan = BatchPlan(23, SMALL, batch_size=5, num_steps=12, seed=0)
    batches = list(plan)
    assert (len(batches), len(plan), plan.batches_per_epoch) == (12, 12, 4)
    epochs = [[key.index for batch in batches[e * 4 : e * 4 + 4] for key in batch] for e in range(3)]
    assert all(len(set(epoch)) == 20 for epoch in epochs) and epochs[0] != epochs[1]
    assert [batch[0].epoch for batch in batches] == [0] * 4 + [1] * 4 + [2] * 4
    assert all(len({key.num_frames for key in batch}) == 1 for batch in batches)
    assert len({batch[0].num_frames for batch in batches}) > 3
    assert batches != list(BatchPlan(23, SMALL, batch_size=5, num_steps=12, seed=1))


def test_plan_that_starts_later_goes_on_as_the_whole_one():
    whole = list(BatchPlan(23, SMALL, batch_size=5, num_steps=12, seed=0))
    for first_step in (3, 4, 9, 12):
        resumed = BatchPlan(23, SMALL, batch_size=5, num_steps=12, seed=0, first_step=first_step)
        assert list(resumed) == whole[first_step:]


def test_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="batch_size must lie in 1..3"):
        BatchPlan(3, SMALL, batch_size=4, num_steps=1, seed=0)


@pytest.fixture(scope="module")
def small_videos(tmp_path_factory, write_video):
    root = tmp_path_factory.mktemp("videos")
    generator = np.random.default_rng(0)
    for number in range(5):
        frames = generator.integers(0, 256, (12, 40, 48, 3), dtype=np.uint8)
        write_video(root / "noise" / f"{number}.mp4", frames)
    (root / "noise" / "5.mp4").write_text("no video")
    return list_folder(root)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_batches_are_stacked_by_view_and_follow_from_their_keys(small_videos, num_workers):
    dataset = TrainingViews(small_videos, SMALL, seed=7)
    plan = BatchPlan(len(dataset), SMALL, batch_size=3, num_steps=4, seed=7)
    loader = DataLoader(dataset, batch_sampler=plan, collate_fn=collate, num_workers=num_workers)
    failed = []
    for keys, batch in zip(plan, loader, strict=True):
        failed += [(index, error.path.name) for index, error in batch.errors]
        good = [key for key in keys if key.index != 5]
        assert batch.indices.tolist() == [key.index for key in good]
        for view, t, size in zip(batch.views, keys[0].num_frames, (32, 32, 16, 16), strict=True):
            assert view.shape == (len(good), 3, t, size, size)
        expected = dataset[good[0]].views
        assert all(torch.allclose(view[0], alone, atol=1e-5) for view, alone in zip(batch.views, expected))
    assert failed == [(5, "5.mp4")] * 2  # once an epoch


def test_sample_differs_by_epoch_and_seed_only(small_videos):
    key = SampleKey(epoch=0, index=1, num_frames=(2, 2, 1, 1))
    first = TrainingViews(small_videos, SMALL, seed=0)
    assert torch.equal(first[key].views[0], TrainingViews(small_videos, SMALL, seed=0)[key].views[0])
    assert not torch.equal(first[key].views[0], first[key._replace(epoch=1)].views[0])
    assert not torch.equal(first[key].views[0], TrainingViews(small_videos, SMALL, seed=1)[key].views[0])


def test_evaluation_batches_hold_every_decodable_video_and_list_the_others(small_videos):
    dataset = EvaluationViews(small_videos, num_frames=4, clips=2, crops=3, image_size=24)
    batches = list(DataLoader(dataset, batch_size=3, collate_fn=collate))
    assert [tuple(batch.views[0].shape) for batch in batches] == [(3, 6, 3, 4, 24, 24), (2, 6, 3, 4, 24, 24)]
    assert [batch.indices.tolist() for batch in batches] == [[0, 1, 2], [3, 4]]
    assert [(i, e.reason) for i, e in batches[1].errors] == [(5, "Invalid data found when processing input")]


def test_batch_of_which_nothing_decodes_has_no_views(small_videos):
    batch = collate([EvaluationViews(small_videos, num_frames=4, clips=1, crops=1, image_size=24)[5]])
    assert batch.views == [] and len(batch.indices) == 0 and len(batch.errors) == 1


def test_real_clips_go_through_training_and_evaluation(shared_data):
    videos = list_ucf101(shared_data / "ucf101-5", split=1, part="test")
    sample = TrainingViews(videos, SMALL, seed=0)[SampleKey(0, 0, (4, 2, 2, 1))]
    assert [tuple(v.shape) for v in sample.views] == [(3, 4, 32, 32), (3, 2, 32, 32), (3, 2, 16, 16), (3, 1, 16, 16)]
    evaluation = EvaluationViews(videos, num_frames=8, clips=1, crops=1, image_size=64)
    for index in range(0, len(videos), 20):
        assert evaluation[index].views[0].shape == (1, 3, 8, 64, 64)
