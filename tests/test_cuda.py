"""What only a GPU can show: that its numbers are the CPU's up to rounding. Skipped where there is none."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_backbone import mean_frame_embedding
from test_distributed import launch, losses
from test_gradients import gradients, setting
from test_train import run_with
from test_views import svt_settings
from transformers import CLIPConfig, CLIPModel

from lib.backbone import VideoCLIP, in_precision
from lib.evaluation.evaluate import evaluate
from lib.gradients import Passes, pass_settings
from lib.train import adapt
from lib.video.cut import Uncut, cut_views
from lib.video.views import CLIP_STD, draw_augmentations, training_views

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: not run here")
CUDA = torch.device("cuda")


def step_of(params, device):
    """The result and the gradients of one step there."""
    student, teacher, objective, views, labels = setting(params)
    passes = Passes(student.to(device), teacher.to(device), objective.to(device), **pass_settings(params))
    result, _ = passes.backward(views, labels.to(device), [5])
    return result, {name: p.cpu() for name, p in gradients(student, objective).items()}


def largest(found, expected):
    """The largest error of a gradient, relative to the norm of its tensor, or of all where that is next to nothing."""
    whole = sum(g.square().sum() for g in expected.values()).sqrt() / len(expected)
    return max(float((found[name] - g).norm() / max(g.norm(), whole)) for name, g in expected.items())


@pytest.mark.parametrize(
    "changes, error", [({}, 1e-3), ({"micro_batch": 2}, 1e-3), ({"train_precision": "bfloat16"}, 0.1)]
)
@pytest.mark.parametrize("ablation", ["lss", "no_language", "supervised"])
def test_a_step_has_the_loss_and_the_gradient_of_the_cpu(tiny, ablation, changes, error):
    expected, wanted = step_of(tiny(ablation), torch.device("cpu"))
    result, found = step_of(tiny(ablation, **changes), CUDA)
    assert result.loss.item() == pytest.approx(expected.loss.item(), rel=error)
    assert found.keys() == wanted.keys() and largest(found, wanted) < error


def test_compiled_and_checkpointed_blocks_have_the_gradient_of_plain_ones(tiny):
    _, plain = step_of(tiny(), CUDA)
    graphs = {"compile": True, "cuda_graphs": True, "num_frames_draw": "stratified"}
    for changes, error in (({"compile": True}, 1e-3), (graphs, 1e-3), ({"activation_checkpointing": True}, 1e-5)):
        _, found = step_of(tiny(**changes), CUDA)
        assert largest(found, plain) < error, changes


@torch.no_grad()
@pytest.mark.parametrize("precision, error", [("float32", 2e-3), ("bfloat16", 3e-2)])
def test_before_training_vit_b_16_on_the_gpu_is_image_clip_on_the_cpu(tmp_path, precision, error):
    sizes = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 16,
    }
    torch.manual_seed(0)
    clip = CLIPModel(CLIPConfig(vision_config=sizes, text_config={"num_hidden_layers": 1}, projection_dim=512)).eval()
    clip.save_pretrained(tmp_path)
    videos = torch.randn(1, 3, 8, 224, 224)
    expected = mean_frame_embedding(clip, videos)
    model = VideoCLIP.from_image_clip(tmp_path).to(CUDA)
    (found,) = in_precision(model.visual, precision)([videos.to(CUDA)])
    assert (found.embedding.cpu() - expected).norm() < error * expected.norm()


def test_views_cut_on_the_gpu_are_those_of_the_cpu():
    settings, generator, videos = svt_settings(), np.random.default_rng(0), []
    for height, width in ((240, 320), (256, 341), (455, 256)):
        pixels = torch.from_numpy(generator.integers(0, 256, (16, height, width, 3), dtype=np.uint8))
        rows = [np.arange(8), np.arange(8, 16), *[np.arange(2)] * 8]
        videos.append(Uncut(pixels, rows, draw_augmentations(settings, height, width, generator)))
    expected = [torch.stack(views) for views in zip(*[training_views(*video) for video in videos])]
    for view, on_gpu in zip(expected, cut_views(videos, CUDA), strict=True):
        torch.testing.assert_close(on_gpu.cpu(), view, rtol=0, atol=1 / 255 / max(CLIP_STD))


def test_a_run_on_the_gpu_makes_the_steps_of_the_cpu_and_is_measured_alike(tiny, tmp_path):
    records = {}
    for device in ("cpu", "cuda"):
        params = tiny(device=device, epochs=1, views_on_device=device == "cuda", workers=1)
        adapt(params, tmp_path / device)
        records[device] = evaluate(params, tmp_path / device)
    assert losses(tmp_path / "cuda") == pytest.approx(losses(tmp_path / "cpu"), rel=1e-3)
    assert "cores" in records["cuda"]["hardware"] and torch.cuda.get_device_name() in records["cuda"]["hardware"]
    features = [load_file(tmp_path / device / "features" / "embedded.safetensors") for device in records]
    for name in features[0]:
        torch.testing.assert_close(features[1][name], features[0][name], rtol=0.02, atol=0.02)


def test_a_killed_run_goes_on_from_its_checkpoint_on_the_gpu(tiny, tmp_path):
    params = tiny(device="cuda", epochs=3, checkpoint_every=2)
    adapt(params, tmp_path / "whole")
    run_with("SIGKILL 6", params, "lss", tmp_path / "killed")
    adapt(params, tmp_path / "killed")
    whole, killed = losses(tmp_path / "whole"), losses(tmp_path / "killed")
    assert len(whole) == 12 and killed == pytest.approx(whole, rel=1e-3)


def test_torchrun_starts_a_process_on_the_gpu_with_nccl(tiny, tmp_path):
    params = tiny(device="cuda", epochs=1)
    adapt(params, tmp_path / "alone")
    launch(params, "lss", tmp_path / "launched")
    assert losses(tmp_path / "launched") == pytest.approx(losses(tmp_path / "alone"), rel=1e-3)
