"""The gradient in micro-batches against the one of the whole graph."""

import copy
import shutil

import pytest
import torch
from torch.nn import functional as F

from lib.backbone import VideoCLIP
from lib.concepts import ConceptSpace
from lib.gradients import Passes, activation_bytes, fitting_micro_batch, forward_views, pass_settings
from lib.objectives import make_objective


def setting(params, videos=5):
    """Student, teacher, objective, views and labels; the two models differ."""
    draw = torch.Generator().manual_seed(0)
    student = VideoCLIP.from_image_clip(params.clip, temporal="divided", temporal_positions=4)
    teacher = copy.deepcopy(student).requires_grad_(False)
    with torch.no_grad():
        for p in student.visual.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=draw))
    student.requires_grad_(False).visual.requires_grad_(True)
    spaces = {
        name: ConceptSpace(
            [f"label {i}" for i in range(6)],
            F.normalize(torch.randn(6, params.clip_projection, generator=draw), dim=-1),
        )
        for name in ("category", "description")
    }
    views = [torch.randn(videos, 3, t, size, size, generator=draw) for t, size in ((3, 24), (3, 24), (2, 16))]
    return student, teacher, make_objective(params, student, spaces), views, torch.arange(videos)


def gradients(*modules):
    return {
        f"{i}.{name}": p.grad
        for i, module in enumerate(modules)
        for name, p in module.named_parameters()
        if p.grad is not None
    }


@pytest.mark.parametrize("micro_batch", [0, 2])
@pytest.mark.parametrize("ablation", ["lss", "no_language", "must", "supervised"])
def test_micro_batches_have_the_gradient_of_the_whole_graph(tiny, ablation, micro_batch):
    params = tiny(ablation, micro_batch=micro_batch, global_views=2, local_views=1)
    student, teacher, objective, views, labels = setting(params)
    reference, reference_objective = copy.deepcopy(student), copy.deepcopy(objective)
    with torch.no_grad():
        teacher_views = forward_views(teacher.visual, views[:2])
    expected = reference_objective(teacher_views, forward_views(reference.visual, views), labels)
    expected.loss.backward()
    result, features = Passes(student, teacher, objective, **pass_settings(params)).backward(views, labels, [5])
    torch.testing.assert_close(result.loss, expected.loss)
    torch.testing.assert_close(features, torch.cat([view.features for view in teacher_views]))
    found, wanted = gradients(student, objective), gradients(reference, reference_objective)
    assert found.keys() == wanted.keys()  # what the loss does not reach has no gradient, hence no weight decay either
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-6)
        assert micro_batch or torch.equal(found[name], wanted[name])


def test_activation_checkpointing_remembers_less_and_changes_no_bit_of_the_gradient(tiny):
    found, remembered = [], []
    for checkpointing in (False, True):
        student, teacher, objective, views, labels = setting(tiny())
        student.visual.activation_checkpointing = checkpointing
        storages = {}

        def note(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            kept = forward_views(student.visual, views)
        remembered.append(sum(storages.values()))
        del kept
        passes = Passes(student, teacher, objective, **pass_settings(tiny(activation_checkpointing=checkpointing)))
        passes.backward(views, labels, [5])
        found.append(gradients(student))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert remembered[1] < 0.5 * remembered[0]


def test_bfloat16_is_the_arithmetic_of_the_backbone_alone(tiny):
    params = tiny(train_precision="bfloat16")
    losses = []
    for precision in ("float32", "bfloat16"):
        student, teacher, objective, views, labels = setting(params)
        passes = Passes(student, teacher, objective, **pass_settings(tiny(train_precision=precision)))
        result, features = passes.backward(views, labels, [5])
        losses.append(result.loss.item())
        assert {tensor.dtype for tensor in [*student.parameters(), *gradients(student).values()]} == {torch.float32}
        assert result.loss.dtype == result.teacher.dtype == features.dtype == torch.float32
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("draw", ["independent", "stratified"])
def test_the_compiled_tower_has_the_same_gradient(tiny, draw):
    found = []
    for changes in ({}, {"compile": True, "num_frames_draw": draw}):
        student, teacher, objective, views, labels = setting(tiny())
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        Passes(student, teacher, objective, **pass_settings(tiny(**changes))).backward(views, labels, [5])
        found.append(gradients(student))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2  # of the last block and of those before it
    for name in found[0]:
        torch.testing.assert_close(found[1][name], found[0][name], rtol=1e-3, atol=1e-4)


def test_the_bytes_of_activations_are_those_that_a_real_pass_keeps(tiny):
    student, _, _, views, _ = setting(tiny())
    kept = []
    for videos in (1, 2, 5):
        storages = {}

        def note(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            outputs = forward_views(student.visual, [view[:videos] for view in views])
        kept.append(sum(storages.values()))
        del outputs
    estimate = activation_bytes(student.visual, [view.shape[1:] for view in views])
    assert estimate == pytest.approx(kept[1] - kept[0], rel=0.02)
    assert 4 * estimate == pytest.approx(kept[2] - kept[0], rel=0.02)


def test_micro_batches_are_equal_parts_that_fit():
    assert fitting_micro_batch(64, video_bytes=10, free_bytes=10_000) == 64
    assert fitting_micro_batch(64, video_bytes=10, free_bytes=790) == 32  # 63 would fit, but leave one video over
    assert fitting_micro_batch(64, video_bytes=10, free_bytes=1) == 1
