"""One training step: the gradient of a batch, which weights it trains, their optimiser and schedules, the teacher.

Views of one size run in one packed pass. The batch need fit neither into one pass nor into one process: distillation
is a mean over videos, but the priors look at the whole batch, so the loss is never cut. Every process gathers the
student's outputs of all videos (they are small), computes the loss and its gradient by these outputs, and
backpropagates its own rows through its own views, micro-batch by micro-batch (a gradient cache: Gao et al., "Scaling
Deep Contrastive Learning Batch Size under Memory Limited Setup", RepL4NLP 2021). This is exact for every objective,
since CLIP has neither batch statistics nor random layers. The price of micro-batches is a second forward pass.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lib.backbone import VideoCLIP, VideoCLIPOutput, VideoTransformer, in_precision, is_temporal
from lib.objectives import Result, check_result
from lib.run import distributed
from lib.run.clip_files import checkpoint_name
from lib.run.fields import Params

MEMORY_SHARE = 0.8  # of the free memory that `micro_batch: auto` gives to activations; the rest is for temporaries
COMPILED_GRAPHS = 64  # at most, of a block; past torch's own limit of 8, blocks would silently run uncompiled


def forward_views(visual: nn.Module, views: list[Tensor]) -> list[VideoCLIPOutput]:
    """Each view 'b c t h w', on the model's device, through the model: one packed pass per picture size.

    Returns a float32 output per view, in order.
    """
    outputs: dict[int, VideoCLIPOutput] = {}
    for size in dict.fromkeys(view.shape[-2:] for view in views):
        members = [i for i, view in enumerate(views) if view.shape[-2:] == size]
        outputs.update(zip(members, visual([views[i] for i in members])))
    return [outputs[i] for i in range(len(views))]


class Passes:
    """The forward and backward passes of student and teacher.

    With "bfloat16", they run on copies of the weights that are refreshed once a step: autocast would cast every weight
    in every pass. The weights themselves, their gradients and the optimiser stay float32.
    """

    def __init__(
        self,
        student: VideoCLIP,
        teacher: VideoCLIP,
        objective: nn.Module,
        *,
        global_views: int,
        local_views: int,
        micro_batch: int = 0,
        precision: str = "float32",
        activation_checkpointing: bool = False,
        compiled: bool = False,
        static_shapes: bool = False,
        cuda_graphs: bool = False,
    ):
        """micro_batch: videos in a pass with gradient; 0: all of a process at once.

        compiled: the blocks, by torch.compile; static_shapes: a graph per shape, for `num_frames_draw: stratified`;
        cuda_graphs: replay them as CUDA graphs, which needs static shapes.
        """
        self.student, self.teacher = in_precision(student.visual, precision), in_precision(teacher.visual, precision)
        self.weights = {"student": student.visual, "teacher": teacher.visual}
        self.objective, self.micro_batch = objective, micro_batch
        self.global_views, self.num_views = global_views, global_views + local_views
        self.sizes = [student.config.vision_config.hidden_size, student.config.projection_dim]
        self.student.activation_checkpointing = activation_checkpointing
        self.cuda_graphs = cuda_graphs
        if compiled:
            # graphs differ with and without gradient, for all tokens and for the class token, and with static shapes
            torch._dynamo.config.recompile_limit = COMPILED_GRAPHS
            for block in [*self.student.blocks, *self.teacher.blocks]:
                block.compile(dynamic=not static_shapes, mode="reduce-overhead" if cuda_graphs else None)

    @torch.no_grad()
    def refresh(self) -> None:
        """Copies the float32 weights into the working copies."""
        for name, weights in self.weights.items():
            if (working := getattr(self, name)) is not weights:
                for copied, p in zip(working.parameters(), weights.parameters()):
                    copied.copy_(p)

    def backward(self, views: list[Tensor], labels: Tensor, counts: list[int]) -> tuple[Result, Tensor]:
        """Adds the gradient of the loss of the whole batch to the student's and the objective's parameters.

        Args:
            views: of this process's videos, 'b c t h w' each, globals first; [] if it has none.
            labels: 'n', of the videos of all processes.
            counts: how many videos each process has; n in all.
        Returns:
            the objective's result, and the teacher's features '(g n) w'; both the same on every process.
        """
        if self.cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()
        self.refresh()
        share = counts[distributed.rank()]
        micro = self.micro_batch or max(share, 1)
        views = [view.to(labels.device, non_blocking=True) for view in views]  # once: they are read up to three times
        # Without gradient, a pass holds the activations of one block, not of all: it takes as many times the videos.
        parts, wide = _split(views, micro), _split(views, micro * len(self.student.blocks))
        with torch.no_grad():
            outputs = [forward_views(self.teacher, part[: self.global_views]) for part in wide]
        teacher_views = self._gather(outputs, self.global_views, labels.device, counts)
        alone = len(parts) == 1  # the graph of a single part is kept: there is no second forward pass
        with torch.set_grad_enabled(alone):
            outputs = [forward_views(self.student, part) for part in (parts if alone else wide)]
        student_views = self._gather(outputs, self.num_views, labels.device, counts)
        for tensor in (tensor for view in student_views for tensor in view):
            tensor.requires_grad_()

        result = self.objective(teacher_views, student_views, labels)
        check_result(self.objective, result, (self.global_views, self.num_views, len(labels)))
        result.loss.backward()

        first = sum(counts[: distributed.rank()])
        for number, part in enumerate(parts):
            output = outputs[0] if alone else forward_views(self.student, part)
            rows = slice(first + number * micro, first + number * micro + len(part[0]))
            pairs = [
                (tensor, whole.grad[rows])
                for view, gathered in zip(output, student_views)
                for tensor, whole in zip(view, gathered)
                if whole.grad is not None
            ]
            torch.autograd.backward(*zip(*pairs))
            self._collect()
        trained = [p for p in self.objective.parameters() if p.grad is not None]
        for p in trained:  # every process has the whole of these already; the sum makes them equal to the bit
            p.grad /= distributed.processes()
        distributed.sum_gradients([*self.weights["student"].parameters(), *trained])
        return result, torch.cat([view.features for view in teacher_views])

    def _collect(self) -> None:
        """Moves the gradients of the working copy to the float32 weights."""
        weights = self.weights["student"]
        if self.student is weights:
            return
        for p, working in zip(weights.parameters(), self.student.parameters()):
            if working.grad is not None:
                p.grad = working.grad.float() if p.grad is None else p.grad.add_(working.grad)
                working.grad = None

    def _gather(
        self, parts: list[list[VideoCLIPOutput]], num_views: int, device: torch.device, counts: list[int]
    ) -> list[VideoCLIPOutput]:
        """Outputs of all processes' videos, view by view, from those of this process's parts; without gradient."""
        rows = [torch.stack([torch.cat(view, dim=-1) for view in part], dim=1) for part in parts]  # 'b v (w d)'
        local = torch.cat(rows) if rows else torch.zeros(0, num_views, sum(self.sizes), device=device)
        gathered = distributed.gather_rows(local, counts)
        return [VideoCLIPOutput(*(x.clone() for x in view.split(self.sizes, dim=-1))) for view in gathered.unbind(1)]


def pass_settings(params: Params) -> dict[str, Any]:
    """The settings of `Passes` that parameters name."""
    names = ("global_views", "local_views", "micro_batch", "activation_checkpointing", "cuda_graphs")
    static_shapes = params.num_frames_draw == "stratified"
    renamed = {"precision": params.train_precision, "compiled": params.compile, "static_shapes": static_shapes}
    return {name: getattr(params, name) for name in names} | renamed


def activation_bytes(visual: VideoTransformer, shapes: list[tuple[int, ...]]) -> int:
    """Bytes per video that a pass with gradient keeps for its backward pass; shapes: 'c t h w' of a video's views."""
    totals, device = [], next(visual.parameters()).device
    for videos in (1, 2):  # the difference of two passes leaves out the weights
        sizes: dict[int, int] = {}

        def count(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with saved_tensors_hooks(count, lambda tensor: tensor):
            outputs = forward_views(visual, [torch.zeros(videos, *shape, device=device) for shape in shapes])
        totals.append(sum(sizes.values()))
        del outputs  # the graph, which keeps the storages, and so their addresses, apart until here
    return totals[1] - totals[0]


def fitting_micro_batch(share: int, video_bytes: int, free_bytes: int) -> int:
    """Videos in a pass with gradient: the share of a process in the fewest equal parts that fit into free memory."""
    largest = max(1, int(MEMORY_SHARE * free_bytes / video_bytes))
    return math.ceil(share / math.ceil(share / largest))


def _split(views: list[Tensor], size: int) -> list[list[Tensor]]:
    """The views in parts of `size` videos; the last part may have fewer."""
    return [list(part) for part in zip(*(view.split(size) for view in views))]


# Start, trained weights, optimiser, schedules -------------------------------------------------------------------------


def start_model(params: Params) -> VideoCLIP:
    """The model that an adaptation starts from: the image CLIP with new temporal weights."""
    settings = {name: getattr(params, name) for name in ("temporal", "temporal_positions", "seed")}
    return VideoCLIP.from_image_clip(checkpoint_name(params.clip), **settings)


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


def schedule_area(
    num_videos: int, *, batch_size: int, epochs: int, warmup_epochs: float, peak: float, last: float = 0.0
) -> float:
    """Sum of the learning rate over all steps: with AdamW, about as far as a weight can move."""
    batches = num_videos // batch_size
    schedule = {"steps": epochs * batches, "warmup": round(warmup_epochs * batches), "peak": peak, "last": last}
    return sum(learning_rate(step, **schedule) for step in range(schedule["steps"]))


def blocks_above(name: str, num_blocks: int) -> int:
    """How many blocks lie above a weight of CLIP's visual tower: 0 for the last block, all for the embeddings."""
    if name.startswith("blocks."):
        return num_blocks - 1 - int(name.split(".")[1])
    return num_blocks if "embedding" in name or name.startswith("pre_norm") else 0


def make_optimizer(params: Params, student: nn.Module, objective: nn.Module) -> torch.optim.AdamW:
    """AdamW with groups for CLIP's and for new weights, each with and without decay (biases, norms, positions).

    With `layer_decay` below 1, CLIP's weights have groups for each block, whose rates fall from the last to the first
    (BEiT, ICLR 2022); new weights keep their own rate.
    """
    named = [(name, p) for module in (student, objective) for name, p in module.named_parameters() if p.requires_grad]
    new = {id(p) for p in objective.parameters()}
    new |= {id(p) for name, p in student.named_parameters() if is_temporal(name)}
    scale = params.learning_rate_scale
    scale *= params.feature_learning_rate_scale if params.objective == "feature" else 1.0
    groups = {}
    for name, p in named:
        decayed = p.ndim >= 2 and "position" not in name
        layered = params.layer_decay < 1 and id(p) not in new
        above = blocks_above(name, len(student.blocks)) if layered else 0
        groups.setdefault((id(p) in new, above, decayed), []).append(p)
    return torch.optim.AdamW(
        [
            {
                "params": members,
                "peak": scale * (params.temporal_learning_rate if is_new else params.learning_rate),
                "layer_scale": params.layer_decay**above,
                "decayed": decayed,
            }
            for (is_new, above, decayed), members in sorted(groups.items(), key=lambda group: group[0])
        ],
        lr=0.0,
        fused=True,
    )


def set_schedules(params: Params, optimizer: torch.optim.Optimizer, step: int, steps: int, warmup: int) -> float:
    """Sets the learning rates and weight decays of a step; returns the teacher's momentum."""
    for group in optimizer.param_groups:
        rate = learning_rate(step, steps=steps, warmup=warmup, peak=group["peak"], last=params.final_learning_rate)
        group["lr"] = rate * group.get("layer_scale", 1.0)  # checkpoints of earlier versions lack it
        decay = cosine(step, steps, params.weight_decay, params.final_weight_decay)
        group["weight_decay"] = decay if group["decayed"] else 0.0
    return cosine(step, steps, params.teacher_momentum, params.final_teacher_momentum)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Teacher <- momentum x teacher + (1 - momentum) x student, in place."""
    get_ema_multi_avg_fn(momentum)(list(teacher.parameters()), list(student.parameters()), None)
