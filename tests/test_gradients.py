"""The gradient in micro-batches against the one of the whole graph."""

import copy
import shutil

import pytest
import torch
from torch.nn import functional as F

from lib.backbone import VideoCLIP
from lib.concepts import ConceptSpace
from lib.gradients import backward, forward_views, step_settings
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
@pytest.mark.parametrize("ablation", ["lss", "no_language", "supervised"])
def test_micro_batches_have_the_gradient_of_the_whole_graph(tiny, monkeypatch, ablation, micro_batch):
    monkeypatch.setattr("lib.gradients.WIDER", 2)  # of five videos, in micro-batches of two: four and one
    params = tiny(ablation, micro_batch=micro_batch)
    student, teacher, objective, views, labels = setting(params)
    reference, reference_objective = copy.deepcopy(student), copy.deepcopy(objective)
    with torch.no_grad():
        teacher_views = forward_views(teacher, views[:2], precision="float32")
    expected = reference_objective(teacher_views, forward_views(reference, views, precision="float32"), labels)
    expected.loss.backward()
    result, features = backward(student, teacher, objective, views, labels, [5], **step_settings(params))
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
            kept = forward_views(student, views, precision="float32")
        remembered.append(sum(storages.values()))
        del kept
        backward(student, teacher, objective, views, labels, [5], **step_settings(tiny()))
        found.append(gradients(student))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert remembered[1] < 0.5 * remembered[0]


def test_bfloat16_is_the_arithmetic_of_the_backbone_alone(tiny):
    params = tiny(train_precision="bfloat16")
    losses = []
    for precision in ("float32", "bfloat16"):
        student, teacher, objective, views, labels = setting(params)
        settings = step_settings(tiny(train_precision=precision))
        result, features = backward(student, teacher, objective, views, labels, [5], **settings)
        losses.append(result.loss.item())
        assert {tensor.dtype for tensor in [*student.parameters(), *gradients(student).values()]} == {torch.float32}
        assert result.loss.dtype == result.teacher.dtype == features.dtype == torch.float32
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_the_compiled_tower_has_the_same_gradient_and_no_graph_of_its_own_for_a_shape(tiny):
    student, _, _, views, _ = setting(tiny())
    compiled = copy.deepcopy(student)
    for block in compiled.visual.blocks:
        block.compile(dynamic=True)
    torch._dynamo.utils.counters.clear()
    for model in (student, compiled):
        outputs = forward_views(model, views, precision="float32")
        sum(view.embedding.pow(2).sum() for view in outputs).backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # of the last block and of all before it
    found, expected = gradients(compiled), gradients(student)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-4)
