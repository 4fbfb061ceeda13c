"""What a training step gives to the device: its operations, FLOPs, kernels, and how busy they keep a GPU.

On a GPU each operation is a kernel, or several, to launch. Their number depends on the structure of the step, not on
the size of its tensors. So they are counted on a step of thin tensors, two videos, narrow layers and small pictures,
but all its blocks, views and numbers of frames.
"""

import copy
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from lib.backbone import VideoCLIP, VideoCLIPConfig
from lib.concepts import ConceptSpace
from lib.datasets.samples import view_settings
from lib.gradients import Passes, forward_views, let_learn, make_optimizer, pass_settings, start_model, update_teacher
from lib.objectives import make_objective
from lib.run.fields import Params
from lib.run.random_clip import HUB, hub_config
from lib.train import largest_micro_batch
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


class Operations(TorchDispatchMode):
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

    Counted are refresh, forward and backward passes, losses, clipping of gradients, optimiser and teacher; not
    decoding, cutting of views and the log. micro_batches: passes with gradient that a step is cut into.
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
        views = _views(params, max(micro_batches, 2), global_size=2 * patch, local_size=patch, seed=seed)
        step, _ = _training_step(params, student, views)
    for operations in (Operations(), Operations()):  # the first step also makes the optimiser's state
        with operations:
            step()
    table = pd.DataFrame(operations.counts.items(), columns=["operation", "count"])
    table.insert(0, "kind", table["operation"].map(_kind))
    return table.sort_values(["count", "operation"], ascending=[False, True], ignore_index=True)


def _views(params: Params, videos: int, *, global_size: int, local_size: int, seed: int = 0) -> list[Tensor]:
    """Random views of a batch, 'b c t h w' each, of sizes in pixels."""
    frames = draw_num_frames(view_settings(params), np.random.default_rng(seed))
    sizes = [global_size] * params.global_views + [local_size] * params.local_views
    return [torch.randn(videos, 3, t, size, size) for t, size in zip(frames, sizes)]


def _training_step(params: Params, student: VideoCLIP, views: list[Tensor]) -> tuple[Callable[[], None], Passes]:
    """A step on these views, but for decoding, cutting and the log, and its passes; both concept spaces have two."""
    device, videos = views[0].device, len(views[0])
    teacher = copy.deepcopy(student).requires_grad_(False)
    space = ConceptSpace(["first", "second"], torch.eye(2, student.config.projection_dim))
    spaces = {name: copy.deepcopy(space) for name in params.concept_spaces}
    objective = make_objective(params, student, spaces).to(device)
    let_learn(params, student)
    passes = Passes(student, teacher, objective, **pass_settings(params))
    optimizer = make_optimizer(params, student.visual, objective)
    trained = [p for group in optimizer.param_groups for p in group["params"]]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        passes.backward(views, torch.zeros(videos, dtype=torch.long, device=device), [videos])
        nn.utils.clip_grad_norm_(trained, params.max_gradient_norm)
        optimizer.step()
        update_teacher(teacher.visual, student.visual, params.teacher_momentum)

    return step, passes


def matrix_rate(device: str) -> float:
    """FLOP/s of one large bfloat16 matrix product: what the device can do at best."""
    size = 512 if device == "cpu" else 8192
    matrix = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    return 2 * size**3 / Timer("matrix @ matrix", globals={"matrix": matrix}).blocked_autorange(min_run_time=1).median


def video_flops(params: Params) -> int:
    """FLOPs that a step needs for a video: the student's passes and the teacher's, no pass for a second time."""
    visual = start_model(params).visual.to("meta")
    views = _views(params, 1, global_size=params.image_size, local_size=params.local_image_size)
    views = [view.to("meta") for view in views]
    with FlopCounterMode(display=False) as counter:
        with torch.no_grad():
            forward_views(visual, views[: params.global_views])
        torch.stack([output.embedding for output in forward_views(visual, views)]).sum().backward()
    return counter.get_total_flops()


def profile_step(params: Params, repeats: int = 3) -> tuple[pd.DataFrame, dict[str, float]]:
    """The kernels of a step on `params.device`, views there already, and what they make of its time.

    Returns columns kernel, count, ms, share (of the step's time), the longest first; and micro_batch, seconds of a
    step, and busy: the share of them in which a kernel runs (on a CPU, an operation).
    """
    device = torch.device(params.device)
    on_gpu = device.type == "cuda"
    student = start_model(params).to(device)
    views = _views(params, params.batch_size, global_size=params.image_size, local_size=params.local_image_size)
    step, passes = _training_step(params, student, [view.to(device) for view in views])
    if params.micro_batch == "auto":
        passes.micro_batch = largest_micro_batch(params, passes, device)

    def seconds(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            step()
        if on_gpu:
            torch.cuda.synchronize(device)
        return (time.perf_counter() - began) / count

    seconds(2)  # kernels are chosen
    whole = seconds(repeats)
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]) as profiled:
        seconds(1)
    kind = torch.autograd.DeviceType.CUDA if on_gpu else torch.autograd.DeviceType.CPU
    events = [e for e in profiled.key_averages() if e.device_type == kind and not e.is_user_annotation]
    rows = [(e.key, e.count, (e.self_device_time_total if on_gpu else e.self_cpu_time_total) / 1000) for e in events]
    kernels = pd.DataFrame(rows, columns=["kernel", "count", "ms"]).sort_values("ms", ascending=False)
    kernels["share"] = kernels["ms"] / (1000 * whole)
    measures = {
        "micro_batch": passes.micro_batch or params.batch_size,
        "seconds": whole,
        "busy": kernels["share"].sum(),
    }
    return kernels.reset_index(drop=True), measures


def _kind(operation: str) -> str:
    for kind, names in KINDS.items():
        if operation in names or any(name.startswith("_") and operation.startswith(name) for name in names):
            return kind
    return "other"
