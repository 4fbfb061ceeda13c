"""Attention maps: the weights are those that the model's own attention uses."""

import pytest
import torch
from torch.nn import functional as F

from lib.backbone import VideoCLIP
from lib.study.attention import attention_weights, last_block


@pytest.fixture(scope="module")
def model(tiny):
    model = VideoCLIP.from_image_clip(tiny().clip, temporal="divided_copied", seed=1)
    with torch.no_grad():
        model.visual.temporal_position_embedding.mul_(50)
    return model


def test_weights_are_those_of_torchs_multi_head_attention(model):
    attention, x = model.visual.blocks[0].attention, torch.randn(2, 5, 24)
    _, expected = F.multi_head_attention_forward(
        *[x.transpose(0, 1)] * 3,
        24,
        attention.heads,
        attention.qkv.weight,
        attention.qkv.bias,
        None,
        None,
        False,
        0.0,
        attention.out.weight,
        attention.out.bias,
        training=False,
    )
    torch.testing.assert_close(attention_weights(attention, x), expected)


def test_maps_have_a_place_for_every_patch_and_frame(model):
    maps = last_block(model, torch.randn(3, 4, 24, 16))
    h, w = 24 // model.visual.patch, 16 // model.visual.patch
    assert maps.space.shape == (4, h, w) and maps.patches.shape == (4, 4, h, w) and maps.class_token.shape == (4, 4)
    assert (maps.space.sum(axis=(1, 2)) < 1).all() and maps.patches.sum(axis=1) == pytest.approx(1)
    assert maps.class_token.sum(axis=1) == pytest.approx(1)


def test_a_frame_of_its_own_changes_only_its_own_map_within_frames_when_nothing_crosses_time(tiny):
    model = VideoCLIP.from_image_clip(tiny().clip, temporal="divided", seed=1)  # its output projections are zero
    clip = torch.randn(3, 4, 24, 24)
    other = clip.clone()
    other[:, 2] += torch.randn(3, 24, 24)
    before, after = (last_block(model, c).space for c in (clip, other))
    assert [bool(abs(before[t] - after[t]).max() > 1e-6) for t in range(4)] == [False, False, True, False]


def test_a_model_without_divided_attention_is_refused(tiny):
    with pytest.raises(ValueError, match="the model has 'none'"):
        last_block(VideoCLIP.from_image_clip(tiny().clip, temporal="none"), torch.zeros(3, 2, 24, 24))
