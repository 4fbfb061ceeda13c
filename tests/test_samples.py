import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import svt_settings
from torch.utils.data import DataLoader

from lib.datasets.lists import Video, VideoList, list_folder
from lib.datasets.official import list_videos
from lib.datasets.parts import DataError, list_dataset, long_tailed, manifest_of
from lib.datasets.samples import BatchPlan, EvaluationViews, SampleKey, TrainingViews, collate
from lib.run.params import FOLDER, ROOT, lists_of, load, place_of, read_yaml
from lib.video import manifest
from lib.video.cut import cut_views
from lib.video.views import CLIP_STD, EvalView

SMALL = svt_settings(
    image_size=32, global_num_frames=(2, 4), local_views=2, local_num_frames=(1, 2), local_image_size=16
)


def labelled(counts, name="class{label}/clip{number}"):
    videos = [
        Video(Path("x"), name.format(label=label, number=number), label)
        for label, count in enumerate(counts)
        for number in range(count)
    ]
    return VideoList(videos, [f"class{label}" for label in range(len(counts))])


def test_long_tailed_subset_has_exponential_class_sizes():
    sizes = Counter(v.label for v in long_tailed(labelled([100, 100, 100]), imbalance=4, seed=0).videos)
    assert sorted(sizes.values()) == [25, 50, 100]
    orders = {
        tuple(Counter(v.label for v in long_tailed(labelled([9] * 3), imbalance=9, seed=s).videos).most_common())
        for s in range(20)
    }
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


@pytest.mark.parametrize("draw", ["independent", "stratified"])
def test_plan_that_starts_later_equals_the_whole_one(draw):
    settings = replace(SMALL, num_frames_draw=draw)
    whole = list(BatchPlan(23, settings, batch_size=5, num_steps=12, seed=0))
    assert len({sum(batch[0].num_frames) for batch in whole}) == 1 or draw == "independent"
    for first_step in (3, 4, 9, 12):
        resumed = BatchPlan(23, settings, batch_size=5, num_steps=12, seed=0, first_step=first_step)
        assert list(resumed) == whole[first_step:]


def test_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="batch_size must lie in 1..3"):
        BatchPlan(3, SMALL, batch_size=4, num_steps=1, seed=0)


def test_processes_share_every_batch_out_and_see_every_video_once_an_epoch():
    whole = list(BatchPlan(24, SMALL, batch_size=8, num_steps=6, seed=0))
    shares = [
        list(BatchPlan(24, SMALL, batch_size=8, num_steps=6, seed=0, rank=rank, processes=4)) for rank in range(4)
    ]
    assert [[key for share in step for key in share] for step in zip(*shares)] == whole
    assert sorted(key.index for step in whole[:3] for key in step) == list(range(24))
    with pytest.raises(ValueError, match="multiple of the number of processes, 3"):
        BatchPlan(24, SMALL, batch_size=8, num_steps=6, seed=0, processes=3)


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


def test_views_cut_where_the_model_is_are_those_that_decoding_processes_cut(small_videos):
    plan = BatchPlan(len(small_videos), SMALL, batch_size=3, num_steps=2, seed=7)
    cut, uncut = (
        [
            *DataLoader(
                TrainingViews(small_videos, SMALL, seed=7, cut=now),
                batch_sampler=plan,
                collate_fn=collate,
                num_workers=workers,
            )
        ]
        for now, workers in ((True, 0), (False, 1))
    )
    for first, second in zip(cut, uncut, strict=True):
        assert torch.equal(first.indices, second.indices) and len(first.errors) == len(second.errors)
        views = cut_views(second.views, torch.device("cpu"))
        for view, again in zip(first.views, views, strict=True):
            assert torch.allclose(view, again, rtol=0, atol=0.01 / 255 / max(CLIP_STD))


def test_sample_differs_by_epoch_and_seed_only(small_videos):
    key = SampleKey(epoch=0, index=1, num_frames=(2, 2, 1, 1))
    first = TrainingViews(small_videos, SMALL, seed=0)
    assert torch.equal(first[key].views[0], TrainingViews(small_videos, SMALL, seed=0)[key].views[0])
    assert not torch.equal(first[key].views[0], first[key._replace(epoch=1)].views[0])
    assert not torch.equal(first[key].views[0], TrainingViews(small_videos, SMALL, seed=1)[key].views[0])


def test_evaluation_batches_hold_every_decodable_video_and_list_the_others(small_videos):
    dataset = EvaluationViews(small_videos.videos, [EvalView(4, 2, 3, 24), EvalView(2, 1, 1, 16)])
    batches = list(DataLoader(dataset, batch_size=3, collate_fn=collate))
    assert [tuple(batch.views[0].shape) for batch in batches] == [(3, 6, 3, 4, 24, 24), (2, 6, 3, 4, 24, 24)]
    assert batches[0].views[1].shape == (3, 1, 3, 2, 16, 16)
    assert [batch.indices.tolist() for batch in batches] == [[0, 1, 2], [3, 4]]
    assert [(i, e.reason) for i, e in batches[1].errors] == [(5, "Invalid data found when processing input")]


def test_batch_of_which_nothing_decodes_has_no_views(small_videos):
    batch = collate([EvaluationViews(small_videos.videos, [EvalView(4, 1, 1, 24)])[5]])
    assert batch.views == [] and len(batch.indices) == 0 and len(batch.errors) == 1


def test_real_clips_go_through_training_and_evaluation(laid_out):
    videos = list_videos("ucf101", laid_out("ucf101"))["all"]
    assert len(videos) == 23
    sample = TrainingViews(videos, SMALL, seed=0)[SampleKey(0, 0, (4, 2, 2, 1))]
    assert [tuple(v.shape) for v in sample.views] == [(3, 4, 32, 32), (3, 2, 32, 32), (3, 2, 16, 16), (3, 1, 16, 16)]
    evaluation = EvaluationViews(videos.videos, [EvalView(8, 1, 1, 64)])
    for index in range(len(videos)):
        assert evaluation[index].views[0].shape == (1, 3, 8, 64, 64)


@pytest.fixture
def own_folder(small_videos, tmp_path):
    """Parameters of a folder of one's own, with a video that is none."""
    for part in ("train", "test"):
        shutil.copytree(small_videos.videos[0].path.parent, tmp_path / "mine" / part / "noise")
    for path in (tmp_path / "mine" / "test" / "noise").iterdir():
        path.write_bytes(path.read_bytes() + b"\0\0\0\x08free")  # else a file would be in two parts
    return load(
        profile="embedded",
        dataset="folder",
        evaluate_on=["folder"],
        probe_on=[],
        manifests=str(tmp_path / "m"),
        data_folder=str(tmp_path / "mine"),
        allow_missing=True,
    )


def test_a_manifest_is_used_until_a_file_changes_and_knows_what_is_broken(own_folder):
    paths = [v.path for videos in list_dataset(own_folder, "folder").values() for v in videos.videos]
    table = manifest.check(paths, root=Path(own_folder.data_folder), workers=2)
    manifest.write(table, manifest_of(own_folder, "folder"))
    assert [row.error for row in table.itertuples() if row.path.endswith("5.mp4")] == [
        "Invalid data found when processing input"
    ] * 2
    known = list_dataset(own_folder, "folder")["train"].videos
    assert [video.index is not None for video in known] == [True] * 5 + [False]
    os.utime(known[2].path, ns=(1, 1))
    assert [v.index is not None for v in list_dataset(own_folder, "folder")["train"].videos] == [
        True,
        True,
        False,
        True,
        True,
        False,
    ]
    again = manifest.check(paths, root=Path(own_folder.data_folder), workers=1, previous=table)
    assert (again["modified_ns"] == table["modified_ns"]).sum() == 11 and again["frames"].tolist() == table[
        "frames"
    ].tolist()
    with pytest.raises(DataError, match=r"2 of 12 listed clips cannot be decoded: noise/5") as caught:
        list_dataset(own_folder.model_copy(update={"allow_missing": False}), "folder")
    assert "allow_missing: true" in str(caught.value)


def test_a_file_that_was_mended_since_is_not_broken(own_folder, small_videos):
    params = own_folder.model_copy(update={"allow_missing": False})
    paths = [v.path for videos in list_dataset(own_folder, "folder").values() for v in videos.videos]
    manifest.write(manifest.check(paths, root=Path(params.data_folder), workers=1), manifest_of(params, "folder"))
    with pytest.raises(DataError, match="2 of 12"):
        list_dataset(params, "folder")
    for path in paths:
        if path.name == "5.mp4":
            path.write_bytes(small_videos.videos[0].path.read_bytes() + f"\0\0\0\x0dfree{path.parts[-3]:5}".encode())
    assert len(list_dataset(params, "folder")["train"]) == 6


def test_a_part_that_is_asked_for_and_not_there_is_an_error_before_anything_is_made(own_folder):
    with pytest.raises(DataError, match="folder: .* has no part validation, only train, test: add it, or change"):
        list_dataset(own_folder.model_copy(update={"evaluate_parts": ["validation"]}), "folder")


def test_views_are_the_same_with_a_manifest_and_without(own_folder):
    plain = list_dataset(own_folder, "folder")["train"]
    table = manifest.check([v.path for v in plain.videos], root=Path(own_folder.data_folder), workers=1)
    manifest.write(table, manifest_of(own_folder, "folder"))
    known = list_dataset(own_folder, "folder")["train"]
    key = SampleKey(0, 1, (4, 2, 1, 2))
    for first, second in zip(
        TrainingViews(plain, SMALL, seed=0)[key].views, TrainingViews(known, SMALL, seed=0)[key].views
    ):
        assert torch.equal(first, second)


def kinetics(root, **changes):
    for part in ("train", "val"):
        for name in read_yaml(FOLDER / "concepts" / "kinetics400.yaml"):
            (root / part / name.replace(" ", "_").replace("'", "")).mkdir(parents=True)
            (root / part / name.replace(" ", "_").replace("'", "") / f"{part}.mp4").touch()
    return load(
        profile="paper",
        dataset="kinetics400",
        data_kinetics400=str(root),
        evaluate_on=["kinetics400"],
        probe_on=[],
        **changes,
    )


@pytest.mark.parametrize(
    "slip, message",
    [
        (lambda root: ((root / "val" / "yoga").rename(root / "val" / "Yo-Ga"), (root / "val" / "hall").mkdir()), ""),
        (
            lambda root: (root / "train" / "zumba" / "train.mp4").unlink(),
            r"1 of 400 classes have no clip in train: zumba\n",
        ),
        (
            lambda root: (root / "train" / "zumba").rename(root / "train" / "zumbaa"),
            r"1 of 400 classes have no clip in train: zumba\n.*train/zumbaa/: 1 video, .* \(did you mean zumba\?\)",
        ),
        (
            lambda root: shutil.copytree(root / "train" / "zumba", root / "train" / "zumba" / "x"),
            "train/zumba/x/: 1 video, in no folder",
        ),
        (lambda root: (root / "train_256").mkdir(), "train_256/: a second folder of the part train; train/ is used"),
    ],
)
def test_kinetics_without_a_list_is_whole_with_a_clip_of_all_400_classes_in_each_part(tmp_path, slip, message):
    params = kinetics(tmp_path / "k400", manifests=str(tmp_path / "m"))
    slip(tmp_path / "k400")
    if message:
        with pytest.raises(DataError, match="(?s)kinetics400 is incomplete.*" + message):
            list_dataset(params, "kinetics400")
    else:
        assert {part: len(found) for part, found in list_dataset(params, "kinetics400").items()} == {
            "train": 400,
            "validation": 400,
        }
    assert len(list_dataset(params.model_copy(update={"allow_missing": True}), "kinetics400")["validation"]) == 400


def test_a_part_that_probes_learn_from_is_asked_for_before_anything_is_made(tmp_path):
    params = kinetics(tmp_path / "k400", manifests=str(tmp_path / "m"), allow_missing=True)
    shutil.rmtree(tmp_path / "k400" / "train")
    params = params.model_copy(update={"dataset": "folder"})
    assert list(list_dataset(params, "kinetics400")) == ["validation"]
    with pytest.raises(DataError, match="has no part train, only validation: .* or probe_on"):
        list_dataset(params.model_copy(update={"probe_on": ["kinetics400"]}), "kinetics400")


def test_folders_of_data_and_lists_may_begin_with_the_home_folder_and_lists_are_relative_to_the_repository(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    params = load(
        profile="paper", data_ucf101="~/UCF", lists_ucf101="~/lists", lists_hmdb51="data/lists", clip="~/clip"
    )
    assert (str(place_of(params, "ucf101")), str(lists_of(params, "ucf101"))) == (
        "/home/someone/UCF",
        "/home/someone/lists",
    )
    assert (
        lists_of(params, "hmdb51") == ROOT / "data/lists"
        and lists_of(params, "kinetics400") is lists_of(params, "folder") is None
    )
    assert params.clip == "/home/someone/clip"
