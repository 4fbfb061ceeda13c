from itertools import permutations, product

import layouts
import numpy as np
import pytest
import torch
from conftest import svt_settings

from lib.study.operations import Operations
from lib.video import cut
from lib.video.cut import Uncut, cut_views
from lib.video.decode import decode
from lib.video.views import (
    CLIP_STD,
    Augmentation,
    draw_augmentations,
    draw_num_frames,
    training_indices,
    training_views,
)

CPU = torch.device("cpu")
OPERATIONS = ("brightness", "contrast", "saturation")


def check(videos):
    """`cut_views` equals the stacked `training_views` within a hundredth of a grey level."""
    views = cut_views(videos, CPU)
    expected = [torch.stack(view) for view in zip(*[training_views(*video) for video in videos])]
    for view, reference in zip(views, expected, strict=True):
        assert view.dtype == torch.float32 and view.shape == reference.shape
        difference = (view - reference).abs() * torch.tensor(CLIP_STD).view(3, 1, 1, 1)
        assert difference.max() < 0.01 / 255
    return views


def noise(count, height, width, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return torch.from_numpy(pixels)


def random_videos(settings, shapes, num_frames, seed=0):
    generator, videos = np.random.default_rng(seed), []
    for number, (height, width) in enumerate(shapes):
        rows = [generator.integers(0, 9, t) for t in num_frames]
        augmentations = draw_augmentations(settings, height, width, generator)
        videos.append(Uncut(noise(9, height, width, number), rows, augmentations))
    return videos


@pytest.mark.parametrize("seed", range(3))
def test_views_of_videos_of_different_sizes_and_lengths(seed):
    settings = svt_settings(image_size=56, local_image_size=24)
    shapes = [(64, 113), (64, 85), (85, 64), (23, 31), (48, 48)]
    views = check(random_videos(settings, shapes, (4, 8, 2, 1, 1, 3, 2, 4, 1, 2), seed))
    assert [view.shape[2] for view in views] == [4, 8, 2, 1, 1, 3, 2, 4, 1, 2]


def test_views_without_locals_and_with_locals_of_the_size_of_globals():
    check(random_videos(svt_settings(image_size=40, local_views=0), [(50, 60)], (2, 3)))
    same_size = svt_settings(image_size=40, local_image_size=40, local_views=2)
    views = check(random_videos(same_size, [(50, 60), (60, 50)], (2, 3, 1, 2)))
    assert [tuple(view.shape) for view in views] == [(2, 3, t, 40, 40) for t in (2, 3, 1, 2)]


@pytest.mark.parametrize("size", [1, 7, 32, 33, 97])
@pytest.mark.parametrize("flip", [False, True])
def test_resize_up_and_down_from_odd_crops(size, flip):
    crops = [(0, 0, 33, 47), (3, 5, 1, 1), (32, 46, 1, 1), (1, 0, 32, 7), (10, 11, 5, 36), (0, 14, 33, 33)]
    augmentations = [Augmentation(crop, size, flip, [], False) for crop in crops]
    check([Uncut(noise(2, 33, 47), [np.array([1, 0])] * len(crops), augmentations)])


@pytest.mark.parametrize("order", list(permutations(OPERATIONS)))
def test_all_orders_and_combinations_of_colour_operations(order):
    """Factors that clip at both ends, each operation on and off, with and without grey, in one batch."""
    augmentations = []
    for factors in product((0.0, 0.6, 1.0, 1.9), repeat=3):
        for gray in (False, True):
            augmentations.append(Augmentation((2, 1, 20, 25), 12, gray, list(zip(order, factors)), gray))
    for jitter in ([], [(order[0], 1.5)], [(order[0], 0.5), (order[1], 1.9)]):
        augmentations.append(Augmentation((0, 0, 24, 30), 12, False, jitter, not jitter))
    pixels = torch.cat([noise(1, 24, 30), noise(1, 24, 30) // 8])  # a bright and a dark frame: means are of the view
    rows = [np.array([0, 1, 1]) if number % 2 else np.array([1]) for number in range(len(augmentations))]
    check([Uncut(pixels, rows, augmentations)])


def test_chunks_of_videos_give_the_same_views(monkeypatch):
    videos = random_videos(svt_settings(image_size=32, local_image_size=16), [(40, 50), (50, 40), (33, 65)], (2,) * 10)
    whole = check(videos)
    monkeypatch.setattr(cut, "CHUNK", 2)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-5) for a, b in zip(whole, check(videos), strict=True))


def test_everything_is_on_the_device():
    """Torch's device without data refuses operations between it and the CPU."""
    videos = random_videos(svt_settings(), [(64, 85), (85, 64)], (4, 8, *[2] * 8))
    views = cut_views(videos, torch.device("meta"))
    assert all(view.device.type == "meta" for view in views)
    assert [tuple(view.shape[2:]) for view in views[:3]] == [(4, 224, 224), (8, 224, 224), (2, 96, 96)]


def test_a_process_whose_videos_all_fail_has_no_views():
    assert cut_views([], CPU) == []


def test_real_clips_as_in_the_papers_profile_take_few_operations():
    settings, generator, videos = svt_settings(num_frames_draw="stratified"), np.random.default_rng(0), []
    num_frames = draw_num_frames(settings, generator)

    def select(count, fps):
        options = {"num_source_frames": count, "fps": fps, "num_frames": num_frames, "generator": generator}
        return np.concatenate(training_indices(settings, **options))

    for path in layouts.clips()[:3]:
        frames = decode(path, select, short_side=256)
        rows = np.split(frames.rows, np.cumsum(num_frames)[:-1])
        augmentations = draw_augmentations(settings, *frames.pixels.shape[1:3], generator)
        videos.append(Uncut(torch.from_numpy(frames.pixels), rows, augmentations))
    check(videos)
    with Operations() as one:
        cut_views(videos[:1], CPU)
    with Operations() as three:
        cut_views(videos, CPU)
    assert one.counts.total() == three.counts.total() < 220
