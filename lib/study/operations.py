"""How many operations a training step gives to the device: on a GPU each is a kernel, or several, to launch.

The number depends on the structure of the step, not on the size of its tensors. So the step of a profile is run with
thin tensors, two videos, narrow layers and small pictures, but all its blocks, views and numbers of frames.
"""

import copy
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lib.backbone import VideoCLIP, VideoCLIPConfig
from lib.concepts import ConceptSpace
from lib.datasets.samples import view_settings
from lib.gradients import Passes, let_learn, make_optimizer, pass_settings, update_teacher
from lib.objectives import make_objective
from lib.run.fields import Params
from lib.run.random_clip import HUB, hub_config
from lib.video.views import draw_num_frames

KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "linear"),
    "attention": ("_scaled_dot_product",),
    "norms": ("native_layer_norm",),
    "casts and copies": ("_to_copy", "copy_", "clone", "cat", "index_select", "_foreach_copy_"),
    "additions": ("add", "add_", "sum"),
    "optimiser and average": ("_fused_adamw_", "_foreach_lerp_", "_foreach"),
}

WIDTH = 64


class _Operations(TorchDispatchMode):
    """Counts every operation but views, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not function.is_view and function.namespace == "aten":
            self.counts[function._schema.name.removeprefix("aten::")] += 1
        return function(*args, **(kwargs or {}))


def count_operations(params: Params, *, micro_batches: int = 1, seed: int = 0) -> pd.DataFrame:
    """Operations of one step by name and kind, views aside, with the depth and views that `params` names.

    Counted are refresh, forward and backward passes, losses, clipping of gradients, optimiser and teacher; not decoding,
    cutting of views and the log. micro_batches: passes with gradient that a step is cut into.
    Returns columns kind, operation, count. Raises ValueError unless `params.clip` is one of the hub's (`HUB`).
    """
    if params.clip not in HUB:
        raise ValueError(f"clip: operations are counted of a CLIP of the hub, one of {sorted(HUB)}, not {params.clip}")
    config = hub_config(HUB[params.clip])
    patch = config["vision_config"]["patch_size"]
    thin = dict(hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_attention_heads=1)
    vision = config["vision_config"] | thin | {"image_size": 2 * patch}
    text = config["text_config"] | thin | {"num_hidden_layers": 1, "vocab_size": 2, "eos_token_id": 1}
    form = dict(temporal=params.temporal, temporal_positions=params.temporal_positions)
    config = VideoCLIPConfig(vision_config=vision, text_config=text, projection_dim=WIDTH, **form)
    settings = {"micro_batch": 1 if micro_batches > 1 else 0, "compile": False, "cuda_graphs": False}
    params = params.model_copy(update=settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = VideoCLIP(config)
        teacher = copy.deepcopy(student).requires_grad_(False)
        space = ConceptSpace(["first", "second"], torch.eye(2, WIDTH))
        objective = make_objective(params, student, {name: copy.deepcopy(space) for name in params.concept_spaces})
        let_learn(params, student)
        passes = Passes(student, teacher, objective, **pass_settings(params))
        optimizer = make_optimizer(params, student.visual, objective)
        frames = draw_num_frames(view_settings(params), np.random.default_rng(seed))
        sizes = [2 * patch] * params.global_views + [patch] * params.local_views
        videos = max(micro_batches, 2)
        views = [torch.randn(videos, 3, t, size, size) for t, size in zip(frames, sizes)]
    for operations in (_Operations(), _Operations()):  # the first step also makes the optimiser's state
        optimizer.zero_grad(set_to_none=True)
        with operations:
            passes.backward(views, torch.zeros(videos, dtype=torch.long), [videos])
            trained = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(trained, params.max_gradient_norm)
            optimizer.step()
            update_teacher(teacher.visual, student.visual, params.teacher_momentum)
    table = pd.DataFrame(operations.counts.items(), columns=["operation", "count"])
    table.insert(0, "kind", table["operation"].map(_kind))
    return table.sort_values(["count", "operation"], ascending=[False, True], ignore_index=True)


def _kind(operation: str) -> str:
    for kind, names in KINDS.items():
        if operation in names or any(name.startswith("_") and operation.startswith(name) for name in names):
            return kind
    return "other"
