import json

import pytest
import torch
from einops import rearrange
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, CLIPConfig, CLIPModel
from transformers.activations import ACT2FN

from lib.backbone import Packing, VideoCLIP, VideoCLIPConfig, is_temporal, quick_gelu

EVERY_TEMPORAL = ["none", "divided", "divided_copied", "joint"]


def make_clip(folder, *, hidden_act="quick_gelu", heads=4, patch_size=8, image_size=32, layer_norm_eps=1e-5):
    """A small image CLIP whose every weight, biases and norms included, is drawn at random."""
    config = CLIPConfig(
        text_config={
            "vocab_size": 50,
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 12,
            "hidden_act": hidden_act,
            "bos_token_id": 48,
            "eos_token_id": 49,
            "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 160,
            "num_hidden_layers": 3,
            "num_attention_heads": heads,
            "image_size": image_size,
            "patch_size": patch_size,
            "hidden_act": hidden_act,
            "layer_norm_eps": layer_norm_eps,
        },
        projection_dim=24,
    )
    clip = CLIPModel(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in clip.named_parameters():
            if "norm" in name or "layrnorm" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
            elif name != "logit_scale":
                parameter.normal_(std=0.15, generator=generator)
    clip.save_pretrained(folder)
    return clip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    return folder, make_clip(folder)


def random_videos(*, num_frames, height=32, width=32, seed=1):
    return torch.randn(2, 3, num_frames, height, width, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def mean_frame_embedding(clip, videos):
    frames = rearrange(videos, "b c t h w -> (b t) c h w")
    embeddings = clip.get_image_features(frames, interpolate_pos_encoding=True).pooler_output
    return rearrange(embeddings, "(b t) d -> b t d", b=len(videos)).mean(dim=1)


def perturb_temporal(model):
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_temporal(name):
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)


@pytest.mark.parametrize("temporal", ["none", "divided"])
@pytest.mark.parametrize("num_frames", [1, 2, 5, 8, 16])
@pytest.mark.parametrize("size", [(32, 32), (48, 48), (16, 16), (24, 40)])
def test_before_training_a_video_is_the_mean_of_its_frames_in_image_clip(checkpoint, temporal, num_frames, size):
    folder, clip = checkpoint
    model = VideoCLIP.from_image_clip(folder, temporal=temporal, temporal_positions=8)
    videos = random_videos(num_frames=num_frames, height=size[0], width=size[1])
    expected = mean_frame_embedding(clip, videos)
    assert expected.std() > 0.1
    with torch.no_grad():
        torch.testing.assert_close(model(videos).embedding, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("temporal", ["none", "divided", "joint"])
def test_one_frame_is_image_clip_itself(checkpoint, temporal):
    folder, clip = checkpoint
    model = VideoCLIP.from_image_clip(folder, temporal=temporal)
    video = random_videos(num_frames=1)
    with torch.no_grad():
        expected = clip.get_image_features(video[:, :, 0]).pooler_output
        torch.testing.assert_close(model(video).embedding, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_act": "gelu"},
        {"heads": 2},
        {"patch_size": 4, "image_size": 16},
        {"patch_size": 16, "image_size": 64},
        {"layer_norm_eps": 0.1},
    ],
)
def test_every_setting_of_a_clip_configuration_is_respected(tmp_path, settings):
    clip = make_clip(tmp_path, **settings)
    model = VideoCLIP.from_image_clip(tmp_path)
    videos = random_videos(num_frames=3, height=64, width=64)
    ids = torch.tensor([[48, 3, 7, 49]])
    with torch.no_grad():
        torch.testing.assert_close(model(videos).embedding, mean_frame_embedding(clip, videos), atol=1e-5, rtol=0)
        expected = clip.get_text_features(ids).pooler_output
        torch.testing.assert_close(model.encode_text(ids), expected, atol=1e-6, rtol=0)


def test_the_embedding_is_the_projection_of_the_features_and_shapes_follow_the_configuration(checkpoint):
    model = VideoCLIP.from_image_clip(checkpoint[0])
    output = model(random_videos(num_frames=4))
    assert output.features.shape == (2, model.config.vision_config.hidden_size) == (2, 64)
    assert output.embedding.shape == (2, model.config.projection_dim) == (2, 24)
    torch.testing.assert_close(output.features @ model.visual.projection.weight.T, output.embedding)


def test_texts_are_encoded_as_by_clip_whatever_the_padding(checkpoint):
    folder, clip = checkpoint
    model = VideoCLIP.from_image_clip(folder)
    ids = torch.tensor([[48, 5, 9, 49, 0, 0], [48, 11, 4, 30, 2, 49]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    with torch.no_grad():
        expected = clip.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
        torch.testing.assert_close(model.encode_text(ids, mask), expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(model.encode_text(ids[:1, :4]), expected[:1], atol=1e-5, rtol=0)
        assert torch.equal(model.logit_scale, clip.logit_scale)


@pytest.mark.parametrize("temporal", ["divided", "divided_copied"])
def test_temporal_attention_runs_over_the_frames_at_one_position(checkpoint, temporal):
    """The block's branch against torch's own multi-head attention, one spatial position after the other."""
    model = VideoCLIP.from_image_clip(checkpoint[0], temporal=temporal)
    perturb_temporal(model)
    block = model.visual.blocks[1]
    x = torch.randn(2, 5, 17, 64, generator=torch.Generator().manual_seed(3))
    positions = torch.randn(5, 64, generator=torch.Generator().manual_seed(4))
    reference = nn.MultiheadAttention(64, 4, batch_first=True)
    reference.in_proj_weight = block.temporal_attention.qkv.weight
    reference.in_proj_bias = block.temporal_attention.qkv.bias
    reference.out_proj = block.temporal_attention.out
    after = x.clone()
    with torch.no_grad():
        for n in range(x.shape[2]):
            tokens = block.temporal_norm(x[:, :, n]) + positions
            after[:, :, n] += reference(tokens, tokens, tokens)[0]
        frames, after = (rearrange(tokens, "b t n w -> (b t) n w") for tokens in (x, after))
        packing = Packing.of(((2, 5),), 17, x.device)
        block.divided = False  # what is left is the spatial part
        expected = block(after, packing, None)
        block.divided = True
        found = block(frames, packing, positions.repeat(2, 1)[:, None])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("temporal", EVERY_TEMPORAL)
def test_the_last_block_computes_the_class_tokens_as_if_it_computed_all(checkpoint, temporal):
    model = VideoCLIP.from_image_clip(checkpoint[0], temporal=temporal)
    perturb_temporal(model)
    x = torch.randn(10, 17, 64, generator=torch.Generator().manual_seed(3))
    positions = torch.randn(10, 1, 64, generator=torch.Generator().manual_seed(4))
    packing = Packing.of(((2, 2), (2, 3)), 17, x.device)
    with torch.no_grad():
        every, only = (model.visual.blocks[-1](x, packing, positions, class_only) for class_only in (False, True))
    assert only.shape == (10, 1, 64)
    torch.testing.assert_close(only, every[:, :1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("temporal", EVERY_TEMPORAL)
def test_a_packed_pass_is_view_by_view_what_each_view_is_alone(checkpoint, temporal):
    model = VideoCLIP.from_image_clip(checkpoint[0], temporal=temporal)
    perturb_temporal(model)
    draw = torch.Generator().manual_seed(5)
    views = [torch.randn(b, 3, t, 32, 32, generator=draw) for b, t in ((2, 4), (3, 1), (1, 7), (2, 1), (2, 4))]

    def outputs_and_gradients(passes):
        model.zero_grad()
        outputs = [output for views in passes for output in model.visual(views)]
        sum(x.square().sum() for output in outputs for x in output).backward()
        return outputs, {name: p.grad for name, p in model.visual.named_parameters()}

    packed, gradients = outputs_and_gradients([views])
    alone, expected = outputs_and_gradients([[view] for view in views])
    for found, output in zip(packed, alone, strict=True):
        torch.testing.assert_close(found, output, atol=1e-5, rtol=1e-5)
    for name, gradient in expected.items():
        assert (gradients[name] - gradient).norm() <= 1e-4 * gradient.norm(), name


def test_views_of_two_sizes_are_no_packed_pass(checkpoint):
    model = VideoCLIP.from_image_clip(checkpoint[0])
    with pytest.raises(ValueError, match=r"one size in pixels, not \[\(16, 16\), \(32, 32\)\]"):
        model.visual([torch.zeros(1, 3, 1, 32, 32), torch.zeros(1, 3, 1, 16, 16)])


def test_quick_gelu_and_its_gradient_are_those_of_transformers():
    x, same = (torch.linspace(-9, 9, 1001, dtype=torch.float64, requires_grad=True) for _ in range(2))
    ours, theirs = quick_gelu(x), ACT2FN["quick_gelu"](same)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    ours.sum().backward()
    theirs.sum().backward()
    torch.testing.assert_close(x.grad, same.grad, atol=1e-12, rtol=0)


def test_every_projection_is_one_product(checkpoint):
    """One per spatial position, each with a copy of the weights, made bfloat16 ten times slower."""
    model = VideoCLIP.from_image_clip(checkpoint[0])
    for count in (1, 2):
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            model(random_videos(num_frames=4)[:count])
        assert set(counter.get_flop_counts()["Global"]) <= {
            torch.ops.aten.mm,
            torch.ops.aten.addmm,
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,
        }


def test_copied_temporal_attention_starts_as_the_spatial_one(checkpoint):
    folder, clip = checkpoint
    model = VideoCLIP.from_image_clip(folder, temporal="divided_copied")
    for block, layer in zip(model.visual.blocks, clip.vision_model.encoder.layers, strict=True):
        spatial = layer.self_attn
        expected = torch.cat([spatial.q_proj.weight, spatial.k_proj.weight, spatial.v_proj.weight])
        assert torch.equal(block.temporal_attention.qkv.weight, expected)
        assert torch.equal(block.temporal_attention.out.weight, spatial.out_proj.weight)
        assert torch.equal(block.temporal_norm.weight, layer.layer_norm1.weight)
    assert not torch.equal(model.visual.blocks[0].attention.qkv.weight, model.visual.blocks[1].attention.qkv.weight)


def test_joint_attention_lets_frames_see_each_other(checkpoint):
    folder, clip = checkpoint
    model = VideoCLIP.from_image_clip(folder, temporal="joint")
    videos = random_videos(num_frames=4)
    with torch.no_grad():
        assert (model(videos).embedding - mean_frame_embedding(clip, videos)).abs().max() > 1e-2


@pytest.mark.parametrize("temporal", ["divided", "divided_copied", "joint"])
def test_the_order_of_frames_matters_once_the_temporal_weights_have_moved(checkpoint, temporal):
    model = VideoCLIP.from_image_clip(checkpoint[0], temporal=temporal)
    perturb_temporal(model)
    videos = random_videos(num_frames=8)
    with torch.no_grad():
        assert (model(videos).embedding - model(videos.flip(2)).embedding).abs().max() > 1e-2


def test_without_temporal_attention_the_order_of_frames_never_matters(checkpoint):
    model = VideoCLIP.from_image_clip(checkpoint[0], temporal="none")
    assert not any(is_temporal(name) for name, _ in model.named_parameters())
    videos = random_videos(num_frames=8)
    with torch.no_grad():
        torch.testing.assert_close(model(videos).embedding, model(videos.flip(2)).embedding, atol=1e-5, rtol=0)


def test_at_the_first_step_the_gradient_reaches_the_temporal_output_projection(checkpoint):
    model = VideoCLIP.from_image_clip(checkpoint[0], temporal="divided")
    model(random_videos(num_frames=4)).embedding.square().sum().backward()
    for block in model.visual.blocks:
        assert block.temporal_attention.out.weight.grad.abs().max() > 0
        assert block.attention.qkv.weight.grad.abs().max() > 0
    assert model.visual.temporal_position_embedding.grad.abs().max() == 0  # nothing passes a projection of zero yet


def test_temporal_parameters_are_those_that_image_clip_lacks(checkpoint):
    folder, _ = checkpoint
    plain = {name for name, _ in VideoCLIP.from_image_clip(folder, temporal="none").named_parameters()}
    for temporal in ("divided", "divided_copied", "joint"):
        names = {name for name, _ in VideoCLIP.from_image_clip(folder, temporal=temporal).named_parameters()}
        assert names - plain == {name for name in names if is_temporal(name)}
        assert plain <= names


def test_temporal_positions_are_interpolated_between_their_rows(checkpoint):
    model = VideoCLIP.from_image_clip(checkpoint[0], temporal_positions=4)
    rows = model.visual.temporal_position_embedding
    with torch.no_grad():
        rows.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0])[:, None].expand(4, 64))
        assert model.visual._temporal_positions(4) is rows
        assert model.visual._temporal_positions(2)[:, 0].tolist() == [0.5, 2.5]
        assert model.visual._temporal_positions(1)[:, 0].tolist() == [1.5]
        assert model.visual._temporal_positions(8)[:, 0].tolist() == [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]


def test_the_seed_alone_decides_what_is_drawn(checkpoint):
    folder, _ = checkpoint
    state = torch.random.get_rng_state()
    first, again, other = (VideoCLIP.from_image_clip(folder, seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    differing = {name for name in first if not torch.equal(first[name], other[name])}
    assert "visual.temporal_position_embedding" in differing and all(map(is_temporal, differing))


@pytest.mark.parametrize("temporal", EVERY_TEMPORAL)
def test_saving_and_loading_returns_every_bit(checkpoint, tmp_path, temporal):
    model = VideoCLIP.from_image_clip(checkpoint[0], temporal=temporal, temporal_positions=6)
    perturb_temporal(model)
    model.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
    loaded = VideoCLIP.from_pretrained(tmp_path)
    assert (loaded.config.temporal, loaded.config.temporal_positions) == (temporal, 6)
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    videos, ids = random_videos(num_frames=5), torch.tensor([[48, 5, 49]])
    with torch.no_grad():  # the same weights elsewhere in memory: some processors' kernels go by its alignment
        torch.testing.assert_close(model(videos).embedding, loaded(videos).embedding, rtol=0, atol=1e-5)
        torch.testing.assert_close(model.encode_text(ids), loaded.encode_text(ids), rtol=0, atol=1e-5)


def test_a_model_saved_without_temporal_weights_is_not_loaded_as_one_with_them(checkpoint, tmp_path):
    VideoCLIP.from_image_clip(checkpoint[0], temporal="none").save_pretrained(tmp_path)
    config = VideoCLIPConfig.from_pretrained(tmp_path)
    config.temporal = "divided"
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks 19 weights: visual\.blocks\.0\.temporal_attention"):
        VideoCLIP.from_pretrained(tmp_path)


def test_a_model_saved_with_temporal_weights_is_not_loaded_as_one_without_them(checkpoint, tmp_path):
    VideoCLIP.from_image_clip(checkpoint[0], temporal="divided").save_pretrained(tmp_path)
    config = VideoCLIPConfig.from_pretrained(tmp_path)
    config.temporal = "none"
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has unknown 19 weights"):
        VideoCLIP.from_pretrained(tmp_path)


def test_a_folder_that_is_absent_or_empty_is_named(tmp_path):
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ValueError, match=str(folder)):
            VideoCLIP.from_image_clip(folder)


def test_a_checkpoint_of_another_model_is_named_with_what_it_is(checkpoint, tmp_path):
    BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match=r"bert: not a 'clip' checkpoint, its config\.json has model_type 'bert'"):
        VideoCLIP.from_image_clip(tmp_path / "bert")
    VideoCLIP.from_image_clip(checkpoint[0]).save_pretrained(tmp_path / "adapted")
    with pytest.raises(ValueError, match="model_type 'video_clip'"):
        VideoCLIP.from_image_clip(tmp_path / "adapted")
    with pytest.raises(ValueError, match="not a 'video_clip' checkpoint.*model_type 'clip'"):
        VideoCLIP.from_pretrained(checkpoint[0])


def test_a_checkpoint_without_weights_with_some_of_them_or_with_garbage_is_refused(tmp_path):
    clip = make_clip(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(range(256)) * 8)
    with pytest.raises(ValueError, match=f"{tmp_path}: not a 'clip' checkpoint that can be read"):
        VideoCLIP.from_image_clip(tmp_path)
    weights.unlink()
    with pytest.raises(ValueError, match=f"{tmp_path}: not a 'clip' checkpoint that can be read"):
        VideoCLIP.from_image_clip(tmp_path)
    some = {name: value for name, value in clip.state_dict().items() if not name.startswith("text_projection")}
    clip.save_pretrained(tmp_path, state_dict=some)
    with pytest.raises(ValueError, match=r"lacks 1 weights: text_projection\.weight"):
        VideoCLIP.from_image_clip(tmp_path)


def test_a_checkpoint_whose_weights_do_not_fit_its_configuration_is_refused(tmp_path):
    make_clip(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["projection_dim"] = 20
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=str(tmp_path)):
        VideoCLIP.from_image_clip(tmp_path)


@pytest.mark.parametrize("settings", [{"temporal": "devided"}, {"temporal_positions": 0}, {"temporal_positions": 2.5}])
def test_a_configuration_that_makes_no_model_is_refused(checkpoint, settings):
    with pytest.raises(Exception, match="temporal"):
        VideoCLIP.from_image_clip(checkpoint[0], **settings)


@pytest.mark.parametrize(
    "videos",
    [
        torch.zeros(2, 3, 32, 32),
        torch.zeros(2, 4, 3, 32, 32),
        torch.zeros(2, 3, 4, 32, 32, dtype=torch.uint8),
        torch.zeros(2, 3, 4, 32, 36),
    ],
)
def test_videos_of_the_wrong_layout_type_or_size_are_refused(checkpoint, videos):
    with pytest.raises(ValueError, match="videos must be floating point|multiples of the patch"):
        VideoCLIP.from_image_clip(checkpoint[0])(videos)
