"""The gradient of one training step, of a batch that need not fit into a forward pass or into one process.

Distillation is a mean over videos, but the priors look at the whole batch. So the loss is never cut: the student's
outputs of all videos (small) are put together, every process computes the loss of all and its gradient by these
outputs, and passes its own rows back through its own views, micro-batch by micro-batch (a gradient cache: Gao et al.,
"Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", RepL4NLP 2021). Exact for every objective,
since CLIP has no layer that looks at the batch or draws at random. The price of micro-batches is a second forward pass.
"""

import torch
from einops import rearrange
from torch import Tensor, nn

from lib.backbone import VideoCLIP, VideoCLIPOutput
from lib.objectives import Result
from lib.run import distributed
from lib.run.fields import Params

WIDER = 8  # a pass without gradient remembers less than a tenth of one with: it takes so many times the videos


def forward_views(model: nn.Module, views: list[Tensor], *, precision: str) -> list[VideoCLIPOutput]:
    """Each view 'b c t h w', on the model's device, through the model; views of one shape share a pass. Returns a float32
    output per view, in order. precision: float32 or bfloat16, of the model's arithmetic; its weights stay what they are."""
    outputs: dict[int, VideoCLIPOutput] = {}
    for shape in dict.fromkeys(view.shape for view in views):
        members = [i for i, view in enumerate(views) if view.shape == shape]
        pixels = rearrange([views[i] for i in members], "v b c t h w -> (v b) c t h w")
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            together = model(pixels)
        for i, features, embedding in zip(
            members, together.features.float().chunk(len(members)), together.embedding.float().chunk(len(members))
        ):
            outputs[i] = VideoCLIPOutput(features, embedding)
    return [outputs[i] for i in range(len(views))]


def backward(
    params: Params,
    student: VideoCLIP,
    teacher: VideoCLIP,
    objective: nn.Module,
    views: list[Tensor],
    labels: Tensor,
    counts: list[int],
) -> tuple[Result, Tensor]:
    """Adds the gradient of the loss of the whole batch to the student's and the objective's parameters.

    Args:
        views: of this process's videos, 'b c t h w' each, globals first; [] if it has none.
        labels: 'n', of the videos of all processes.
        counts: how many videos each process has; n in all.
    Returns:
        what the objective said, and the teacher's features '(g n) w'; both the same on every process.
    """
    precision = params.train_precision
    share = counts[distributed.rank()]
    micro = params.micro_batch or max(share, 1)
    views = [view.to(labels.device, non_blocking=True) for view in views]  # once: they are looked at up to three times
    parts, wide = _cut(views, micro), _cut(views, WIDER * micro)
    with torch.no_grad():
        outputs = [forward_views(teacher, part[: params.global_views], precision=precision) for part in wide]
        teacher_views = _of_all(outputs, params.global_views, teacher, counts)
    alone = len(parts) == 1  # a single part's graph is kept: there is no second forward pass
    with torch.set_grad_enabled(alone):
        outputs = [forward_views(student, part, precision=precision) for part in (parts if alone else wide)]
    student_views = _of_all(outputs, params.global_views + params.local_views, student, counts)
    for tensor in (tensor for view in student_views for tensor in view):
        tensor.requires_grad_()

    result = objective(teacher_views, student_views, labels)
    result.loss.backward()

    first = sum(counts[: distributed.rank()])
    for number, part in enumerate(parts):
        output = outputs[0] if alone else forward_views(student, part, precision=precision)
        rows = slice(first + number * micro, first + number * micro + len(part[0]))
        pairs = [
            (tensor, whole.grad[rows])
            for own, of_all in zip(output, student_views)
            for tensor, whole in zip(own, of_all)
            if whole.grad is not None
        ]
        torch.autograd.backward(*zip(*pairs))
    own = [p for p in objective.parameters() if p.grad is not None]
    for p in own:  # every process has the whole of these already; the sum makes them alike to the bit
        p.grad /= distributed.processes()
    distributed.sum_gradients([*student.visual.parameters(), *own])
    return result, torch.cat([view.features for view in teacher_views])


def _cut(views: list[Tensor], size: int) -> list[list[Tensor]]:
    """The views of `size` videos after `size` videos; the last part may have fewer."""
    share = len(views[0]) if views else 0
    return [[view[first : first + size] for view in views] for first in range(0, share, size)]


def _of_all(
    parts: list[list[VideoCLIPOutput]], num_views: int, model: VideoCLIP, counts: list[int]
) -> list[VideoCLIPOutput]:
    """The outputs of all processes' videos, view by view, from those of this process's micro-batches; no gradient."""
    sizes = [model.config.vision_config.hidden_size, model.config.projection_dim]
    rows = [torch.stack([torch.cat(view, dim=-1) for view in part], dim=1) for part in parts]  # 'b v (w d)'
    own = torch.cat(rows) if rows else torch.zeros(0, num_views, sum(sizes), device=model.device)
    every = distributed.gather_rows(own, counts)
    return [VideoCLIPOutput(*(tensor.clone() for tensor in view.split(sizes, dim=-1))) for view in every.unbind(1)]
