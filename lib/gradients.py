"""One training step: the gradient of a batch, which weights it trains, their optimiser and schedules, the teacher.

The batch need fit neither into one forward pass nor into one process. Distillation is a mean over videos, but the
priors look at the whole batch. So the loss is never cut: every process gathers the student's outputs of all videos
(they are small), computes the loss and its gradient by these outputs, and backpropagates its own rows through its own
views, micro-batch by micro-batch (a gradient cache: Gao et al., "Scaling Deep Contrastive Learning Batch Size under
Memory Limited Setup", RepL4NLP 2021). This is exact for every objective, since CLIP has neither batch statistics nor
random layers. The price of micro-batches is a second forward pass.
"""

import math
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lib.backbone import VideoCLIP, VideoCLIPOutput, is_temporal
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
    student: VideoCLIP,
    teacher: VideoCLIP,
    objective: nn.Module,
    views: list[Tensor],
    labels: Tensor,
    counts: list[int],
    *,
    global_views: int,
    local_views: int,
    micro_batch: int = 0,
    precision: str = "float32",
) -> tuple[Result, Tensor]:
    """Adds the gradient of the loss of the whole batch to the student's and the objective's parameters.

    Args:
        views: of this process's videos, 'b c t h w' each, globals first; [] if it has none.
        labels: 'n', of the videos of all processes.
        counts: how many videos each process has; n in all.
        micro_batch: videos per forward and backward pass; 0: all at once.
    Returns:
        the objective's result, and the teacher's features '(g n) w'; both the same on every process.
    """
    share = counts[distributed.rank()]
    micro = micro_batch or max(share, 1)
    views = [view.to(labels.device, non_blocking=True) for view in views]  # once: they are looked at up to three times
    parts, wide = _cut(views, micro), _cut(views, WIDER * micro)
    with torch.no_grad():
        outputs = [forward_views(teacher, part[:global_views], precision=precision) for part in wide]
        teacher_views = _of_all(outputs, global_views, teacher, counts)
    alone = len(parts) == 1  # a single part's graph is kept: there is no second forward pass
    with torch.set_grad_enabled(alone):
        outputs = [forward_views(student, part, precision=precision) for part in (parts if alone else wide)]
    student_views = _of_all(outputs, global_views + local_views, student, counts)
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


def step_settings(params: Params) -> dict[str, Any]:
    """The settings of `backward` that parameters name."""
    names = ("global_views", "local_views", "micro_batch")
    return {name: getattr(params, name) for name in names} | {"precision": params.train_precision}


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


# Trained weights, optimiser, schedules --------------------------------------------------------------------------------


def let_learn(params: Params, student: VideoCLIP) -> None:
    """Unfreezes the weights that `params.trained` names; the text tower, and so the concept spaces, stays frozen."""
    student.requires_grad_(False)
    last = tuple(f"blocks.{i}." for i in range(len(student.visual.blocks))[-params.trained_last_blocks :])
    for name, weight in student.visual.named_parameters():
        in_last_blocks = params.trained == "last_blocks" and name.startswith(last)
        weight.requires_grad_(params.trained == "all" or is_temporal(name) or in_last_blocks)


def cosine(step: int, steps: int, first: float, last: float) -> float:
    """Half a cosine from `first` at step 0 to `last` at the last step."""
    return last + 0.5 * (first - last) * (1 + math.cos(math.pi * min(step / max(steps - 1, 1), 1.0)))


def learning_rate(step: int, *, steps: int, warmup: int, peak: float, last: float) -> float:
    """Linear from 0 over the warm-up, then half a cosine to `last`; `last` never exceeds the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return cosine(step - warmup, steps - warmup, peak, min(last, peak))


def make_optimizer(params: Params, student: nn.Module, objective: nn.Module) -> torch.optim.AdamW:
    """AdamW with groups for CLIP's and for new weights, each with and without decay (biases, norms, positions)."""
    named = [(name, p) for module in (student, objective) for name, p in module.named_parameters() if p.requires_grad]
    new = {id(p) for p in objective.parameters()}
    new |= {id(p) for name, p in student.named_parameters() if is_temporal(name)}
    scale = params.feature_learning_rate_scale if params.objective == "feature" else 1.0
    groups = {}
    for name, p in named:
        decayed = p.ndim >= 2 and "position" not in name
        groups.setdefault((id(p) in new, decayed), []).append(p)
    return torch.optim.AdamW(
        [
            {
                "params": members,
                "peak": scale * (params.temporal_learning_rate if is_new else params.learning_rate),
                "decayed": decayed,
            }
            for (is_new, decayed), members in sorted(groups.items(), key=lambda group: group[0])
        ],
        lr=0.0,
        fused=True,
    )


def set_schedules(params: Params, optimizer: torch.optim.Optimizer, step: int, steps: int, warmup: int) -> float:
    """Sets the learning rates and weight decays of a step; returns the teacher's momentum."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(
            step, steps=steps, warmup=warmup, peak=group["peak"], last=params.final_learning_rate
        )
        decay = cosine(step, steps, params.weight_decay, params.final_weight_decay)
        group["weight_decay"] = decay if group["decayed"] else 0.0
    return cosine(step, steps, params.teacher_momentum, params.final_teacher_momentum)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Teacher <- momentum x teacher + (1 - momentum) x student, in place."""
    get_ema_multi_avg_fn(momentum)(list(teacher.parameters()), list(student.parameters()), None)
