from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import svt_settings
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from lib.video.views import (
    CLIP_MEAN,
    CLIP_STD,
    LUMA,
    draw_augmentations,
    draw_num_frames,
    evaluation_indices,
    evaluation_views,
    training_indices,
    training_views,
)

PLAIN = svt_settings(
    global_views=1,
    local_views=0,
    image_size=32,
    global_scale=(1.0, 1.0),
    flip_probability=0,
    jitter_probability=0,
    gray_probability=0,
)


def colours(view):
    """Undoes the normalisation: '... c t h w' in 0..1."""
    return view * torch.tensor(CLIP_STD).view(3, 1, 1, 1) + torch.tensor(CLIP_MEAN).view(3, 1, 1, 1)


def cut(pixels, rows, settings, seed=0):
    augmentations = draw_augmentations(settings, *pixels.shape[1:3], np.random.default_rng(seed))
    return training_views(pixels, rows, augmentations)


def one_view(settings, frames, seed=0):
    return colours(cut(torch.from_numpy(frames), [np.arange(len(frames))], settings, seed)[0])


def plain_frames(rgb, count=2, size=32):
    return np.broadcast_to(np.array(rgb, np.uint8), (count, size, size, 3)).copy()


def indices(seed=0, settings=svt_settings(), **options):
    generator = np.random.default_rng(seed)
    num_frames = draw_num_frames(settings, generator)
    return training_indices(settings, num_frames=num_frames, generator=generator, **options)


def test_globals_cover_the_clip_but_for_the_shift_and_locals_an_eighth_of_it():
    starts = set()
    for seed in range(200):
        first, second, *local = indices(seed, num_source_frames=300, fps=30.0)
        start = first[0]  # of a clip of 8 x 32 = 256 frames
        assert 0 <= start <= 300 - 256
        assert first[-1] == start + 250 and (second[0], second[-1]) == (start + 5, start + 255)
        assert len(local) == 8
        for window in local:
            assert start <= window[0] and window[-1] == window[0] + 31 <= start + 255
        starts.add(start)
    assert min(starts) < 5 and max(starts) > 39


def test_clip_has_the_same_duration_at_another_frame_rate():
    first, second, *local = indices(num_source_frames=1000, fps=15.0)
    assert first[-1] - first[0] == 128 - 2 - 1 and second[0] - first[0] == 2
    assert all(window[-1] - window[0] == 15 for window in local)


def test_short_video_is_the_clip():
    first, second, *local = indices(num_source_frames=100, fps=30.0)
    assert (first[0], first[-1], second[0], second[-1]) == (0, 94, 5, 99)
    assert all(window[-1] - window[0] == 11 for window in local)


def test_video_of_one_frame_repeats_it():
    assert all(set(view) == {0} for view in indices(num_source_frames=1, fps=30.0))


def test_frames_are_spread_evenly_over_their_span():
    settings = replace(PLAIN, num_frames=11, frame_stride=1, global_shift=0)
    options = dict(num_source_frames=11, fps=30.0, generator=np.random.default_rng(0))
    assert training_indices(settings, num_frames=(4,), **options)[0].tolist() == [0, 3, 7, 10]
    assert training_indices(settings, num_frames=(1,), **options)[0].tolist() == [5]
    assert training_indices(settings, num_frames=(11,), **options)[0].tolist() == list(range(11))


def test_number_of_frames_is_drawn_from_the_choices_of_every_view():
    settings = svt_settings(local_views=3)
    drawn = np.array([draw_num_frames(settings, np.random.default_rng(seed)) for seed in range(200)])
    assert drawn.shape == (200, 5)
    assert all(set(column) == {8, 16} for column in drawn.T[:2])
    assert all(set(column) == {2, 4, 8, 16} for column in drawn.T[2:])


def test_stratified_numbers_of_frames_are_a_fixed_multiset_with_uniform_marginals():
    settings = svt_settings(num_frames_draw="stratified")
    drawn = np.array([draw_num_frames(settings, np.random.default_rng(seed)) for seed in range(2000)])
    assert (np.sort(drawn[:, :2]) == [8, 16]).all()
    assert (np.sort(drawn[:, 2:]) == [2, 2, 4, 4, 8, 8, 16, 16]).all()
    assert len({tuple(row) for row in drawn}) > 1000
    for column, choices in zip(drawn.T, [(8, 16)] * 2 + [(2, 4, 8, 16)] * 8):
        shares = [(column == choice).mean() for choice in choices]
        assert shares == pytest.approx([1 / len(choices)] * len(choices), abs=0.05)


def test_stratified_draw_of_a_remainder_is_without_replacement():
    settings = svt_settings(num_frames_draw="stratified", global_views=3, local_views=6)
    drawn = np.array([draw_num_frames(settings, np.random.default_rng(seed)) for seed in range(2000)])
    for views, choices in ((drawn[:, :3], (8, 16)), (drawn[:, 3:], (2, 4, 8, 16))):
        counts = np.stack([(views == choice).sum(1) for choice in choices])
        assert set(counts.ravel()) == {1, 2} and (counts.sum(0) == views.shape[1]).all()
        for column in views.T:
            shares = [(column == choice).mean() for choice in choices]
            assert shares == pytest.approx([1 / len(choices)] * len(choices), abs=0.05)
    none = svt_settings(num_frames_draw="stratified", local_views=0)
    assert sorted(draw_num_frames(none, np.random.default_rng(0))) == [8, 16]


def test_views_are_cut_where_the_pictures_are():
    """On torch's device without data, which refuses operations between it and the CPU."""
    settings = svt_settings(image_size=40, local_image_size=24, local_views=1, jitter_probability=1, gray_probability=1)
    pixels = torch.empty(9, 48, 64, 3, dtype=torch.uint8, device="meta")
    views = cut(pixels, [np.arange(4), np.arange(4), np.arange(2)], settings)
    assert all(view.device.type == "meta" for view in views)
    assert [tuple(view.shape) for view in views] == [(3, 4, 40, 40), (3, 4, 40, 40), (3, 2, 24, 24)]


def test_views_have_their_sizes_and_frames():
    settings = svt_settings(image_size=40, local_image_size=24, local_views=2)
    frames = np.random.default_rng(0).integers(0, 256, (9, 48, 64, 3), dtype=np.uint8)
    rows = [np.arange(8), np.arange(9), np.array([3, 3]), np.array([8])]
    views = cut(torch.from_numpy(frames), rows, settings)
    assert [tuple(v.shape) for v in views] == [(3, 8, 40, 40), (3, 9, 40, 40), (3, 2, 24, 24), (3, 1, 24, 24)]
    assert all(view.dtype == torch.float32 and view.is_contiguous() for view in views)
    again = cut(torch.from_numpy(frames), rows, settings)
    assert all(torch.equal(a, b) for a, b in zip(views, again))
    assert not torch.equal(views[0], cut(torch.from_numpy(frames), rows, settings, seed=1)[0])


def test_without_augmentation_a_view_is_the_normalised_picture():
    assert (list(CLIP_MEAN), list(CLIP_STD)) == (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
    frames = plain_frames((10, 128, 250))
    view = cut(torch.from_numpy(frames), [np.array([1, 0])], PLAIN)[0]
    expected = (torch.tensor([10, 128, 250]) / 255 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
    assert torch.allclose(view, expected.view(3, 1, 1, 1).expand(3, 2, 32, 32), atol=1e-5)


def test_augmentation_is_the_same_for_all_frames_of_a_view_and_differs_between_views():
    settings = svt_settings(image_size=32, local_views=0)
    picture = np.random.default_rng(0).integers(0, 256, (1, 48, 48, 3), dtype=np.uint8)
    views = cut(torch.from_numpy(picture), [np.zeros(8, int)] * 2, settings)
    for view in views:
        assert torch.equal(view, view[:, :1].expand_as(view))
    assert not torch.allclose(views[0], views[1], atol=0.1)


def test_crops_have_the_area_and_aspect_asked_for():
    ramp = np.arange(0, 240, 2, dtype=np.uint8)  # 120 pixels; red tells the column, green the row
    picture = np.stack([*np.meshgrid(ramp, ramp), np.zeros((120, 120), np.uint8)], axis=-1)[None]
    settings = replace(PLAIN, global_scale=(0.1, 0.3), image_size=64)
    corners = set()
    for seed in range(100):
        red, green = one_view(settings, picture, seed)[:2, 0] * 255 / 2
        width, height = (red.max() - red.min() + 1).item(), (green.max() - green.min() + 1).item()
        assert 0.08 < width * height / 120**2 < 0.32
        assert 0.7 < width / height < 1.43
        corners.add((red.min().item() > 40, green.min().item() > 40))
    assert len(corners) == 4


def test_crop_that_never_fits_is_the_centre():
    picture = np.zeros((1, 20, 200, 3), np.uint8)
    picture[:, :, 86:113] = 255  # the middle, 20 x 4/3 wide
    assert one_view(PLAIN, picture).min() > 0.9


def test_flip_mirrors_the_columns():
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    assert torch.equal(one_view(replace(PLAIN, flip_probability=1), frames), one_view(PLAIN, frames).flip(-1))


def test_gray_is_the_luma_of_the_picture():
    view = one_view(replace(PLAIN, gray_probability=1), plain_frames((200, 100, 50)))
    assert torch.allclose(view, torch.tensor((200 * 0.299 + 100 * 0.587 + 50 * 0.114) / 255), atol=1e-4)


def test_brightness_scales_and_clips():
    settings = replace(PLAIN, jitter_probability=1, brightness=0.4, contrast=0, saturation=0)
    factors = []
    for seed in range(100):
        red, green, _ = one_view(settings, plain_frames((50, 200, 0)), seed)[:, 0, 0, 0].tolist()
        factors.append(red * 255 / 50)
        assert green == pytest.approx(min(1, factors[-1] * 200 / 255), abs=1e-4)
    assert 0.6 <= min(factors) < 0.65 and 1.35 < max(factors) <= 1.4


def test_contrast_moves_all_pixels_from_the_mean_of_the_view():
    settings = replace(PLAIN, jitter_probability=1, brightness=0, contrast=0.4, saturation=0)
    frames = np.concatenate([plain_frames((100,) * 3, 1), plain_frames((140,) * 3, 1)])  # mean 120
    for seed in range(20):
        dark, bright = (one_view(settings, frames, seed)[0, :, 0, 0] * 255).tolist()
        assert dark + bright == pytest.approx(240, abs=1e-2) and 0.6 * 40 <= bright - dark <= 1.4 * 40


def test_saturation_keeps_the_luma():
    settings = replace(PLAIN, jitter_probability=1, brightness=0, contrast=0, saturation=0.2)
    for seed in range(20):
        pixel = one_view(settings, plain_frames((150, 100, 120)), seed)[:, 0, 0, 0] * 255
        assert (pixel @ torch.tensor(LUMA)).item() == pytest.approx(150 * 0.299 + 100 * 0.587 + 120 * 0.114, abs=1e-2)
        assert 0.8 * 50 <= (pixel[0] - pixel[1]).item() <= 1.2 * 50


def test_evaluation_takes_the_middle_of_equal_segments():
    assert evaluation_indices(16, num_frames=4).tolist() == [[2, 6, 10, 14]]
    assert evaluation_indices(16, num_frames=4, clips=2).tolist() == [[1, 5, 9, 13], [3, 7, 11, 15]]
    assert evaluation_indices(3, num_frames=6).tolist() == [[0, 0, 1, 1, 2, 2]]
    assert evaluation_indices(1, num_frames=8, clips=3).tolist() == [[0] * 8] * 3


@pytest.mark.parametrize("wide", [True, False])
def test_evaluation_crops_lie_along_the_long_side(wide):
    ramp = np.broadcast_to(np.arange(60, dtype=np.uint8)[:, None] * 4, (60, 20))
    picture = ramp.T if wide else ramp
    frames = np.broadcast_to(picture[None, :, :, None], (3, *picture.shape, 3)).copy()
    rows = np.array([[0, 1], [1, 2]])
    three = colours(evaluation_views(frames, rows, crops=3, image_size=20))
    one = colours(evaluation_views(frames, rows, crops=1, image_size=20))
    assert three.shape == (6, 3, 2, 20, 20) and one.shape == (2, 3, 2, 20, 20)
    assert [round(view[0, 0, 0, 0].item() * 255 / 4) for view in three] == [0, 20, 40, 0, 20, 40]
    assert torch.equal(one, three[[1, 4]])


def test_evaluation_keeps_the_order_of_clips_and_frames():
    frames = np.concatenate([plain_frames((level,) * 3, 1) for level in (0, 50, 100, 150)])
    views = evaluation_views(frames, np.array([[0, 3], [1, 2]]), crops=1, image_size=32)
    levels = (views[:, 0, :, 0, 0] * CLIP_STD[0] + CLIP_MEAN[0]) * 255
    assert torch.allclose(levels, torch.tensor([[0.0, 150], [50, 100]]), atol=1e-3)


def test_evaluation_resizes_frames_of_another_size():
    frames = plain_frames((128,) * 3, size=48)
    assert evaluation_views(frames, np.array([[0, 1]]), crops=1, image_size=20).shape == (1, 3, 2, 20, 20)


@pytest.mark.parametrize(
    "wrong",
    [
        {"global_views": 0},
        {"global_scale": (0.5, 1.5)},
        {"local_scale": (0.4, 0.1)},
        {"local_span": 0.0},
        {"local_num_frames": (0, 2)},
        {"num_frames_draw": "sorted"},
    ],
)
def test_settings_that_make_no_views_are_refused(wrong):
    with pytest.raises(ValueError, match="views"):
        svt_settings(**wrong)
