"""The losses that adapt a student to videos: equations on probabilities and logits, no model in sight.

"Language-based Action Concept Spaces Improve Video Self-Supervised Learning" (LSS, NeurIPS 2023, arXiv 2307.10922)
names concept distillation, concept alignment and a uniform distribution prior. Its formulae could not be had: the ones
below are this repository's. What comes from elsewhere (DINO, SwAV, SVT) says so.

Shapes: `g` global views, `v` student views, `b` videos of the batch, `k` concepts (or prototypes).
Teacher probabilities are 'g b k'. Student logits are 'v b k', already divided by the student temperature. The first `g`
student views are the teacher's views; a view is never compared with itself. The batch is whole, however many processes
made its outputs (`lib/gradients.py`). Every module here keeps its history in its `state_dict`.
"""

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

# Distillation --------------------------------------------------------------------------------------------------------


def own_view(num_teacher_views: int, num_student_views: int, device: torch.device | None = None) -> Tensor:
    """Which pairs (teacher view g, student view v) are one view compared with itself: 'g v' bool, true for v == g.

    The others are the pairs of the losses: 18 for 2 teacher and 10 student views. Raises ValueError if the student
    misses a teacher view, or if there is no pair.
    """
    if num_student_views < max(num_teacher_views, 2):
        raise ValueError(
            f"{num_student_views} student views for {num_teacher_views} teacher views: the student must see every "
            "teacher view, and at least two views in all; raise global_views or local_views"
        )
    return torch.eye(num_teacher_views, num_student_views, dtype=torch.bool, device=device)


def mean_over_pairs(values: Tensor) -> Tensor:
    """Mean over videos and view pairs of values '... g v', without those of a view and itself."""
    own = own_view(*values.shape[-2:], device=values.device)
    num_pairs = own.numel() - min(own.shape)
    return values.masked_fill(own, 0.0).sum() / (num_pairs * values[..., 0, 0].numel())


def pairwise_cross_entropy(teacher: Tensor, student: Tensor) -> Tensor:
    """Distillation: the mean over videos and view pairs of H(stopgrad p_t(g), p_s(v)), in nats (DINO, ICCV 2021).

    Concept distillation if k are the concepts of a space; SVT's loss if they are a FeatureHead's prototypes.
    teacher: probabilities 'g b k'; student: logits 'v b k'. Returns a scalar. No gradient reaches the teacher.
    """
    if teacher.shape[1:] != student.shape[1:]:
        shapes = f"teacher {tuple(teacher.shape)} and student {tuple(student.shape)}"
        raise ValueError(f"{shapes} differ in the number of videos or concepts: expected 'g b k' and 'v b k'")
    # All pairs of a video by one matrix product: as elementwise products, those of 65536 prototypes would need
    # gigabytes.
    pairs = torch.einsum("g b k, v b k -> b g v", teacher.detach(), F.log_softmax(student, dim=-1))
    return -mean_over_pairs(pairs)


def concept_alignment(
    *, teacher_category: Tensor, student_category: Tensor, teacher_description: Tensor, student_description: Tensor
) -> Tensor:
    """Concept alignment across the spaces: 1/2 [H(p_t^category, p_s^description) + H(p_t^description, p_s^category)].

    Concept k of one space is concept k of the other. Teachers: probabilities 'g b k'; students: logits 'v b k'. Returns
    a scalar, in nats, over the same pairs as the distillation.
    """
    return 0.5 * (
        pairwise_cross_entropy(teacher_category, student_description)
        + pairwise_cross_entropy(teacher_description, student_category)
    )


def video_weights(teachers: Sequence[Tensor], by: str) -> Tensor:
    """How much each video counts, 'b', mean one (zero if none does). teachers: probabilities 'g b k' of each space.

    by "confidence": the largest probability of the mean over views and spaces. "agreement": one if all views have the
    same first concept in all spaces, else zero. Neither is the paper's: a weak CLIP's targets are often wrong.
    """
    views = torch.cat(list(teachers))
    if by == "confidence":
        weights = views.mean(0).amax(-1)
    else:
        first = views.argmax(-1)
        weights = (first == first[:1]).all(0).to(views.dtype)
    return weights / weights.mean().clamp_min(torch.finfo(views.dtype).tiny)


def best_match(teacher: Tensor) -> Tensor:
    """The first concept alone: probabilities 'g b k' -> one-hot 'g b k' (HLSS's alignment takes the best text)."""
    return F.one_hot(teacher.argmax(dim=-1), teacher.shape[-1]).to(teacher.dtype)


def self_training(teacher: Tensor, student: Tensor, *, threshold: float) -> tuple[Tensor, Tensor]:
    """MUST's self-training (ICLR 2023): cross-entropy with the teacher's first concept, where it is confident.

    teacher: probabilities 'g b k'; student: logits 'v b k'. Returns the mean over the pairs of views whose teacher's
    probability is above `threshold` (0 if there are none), in nats, and the share of those teacher views.
    """
    confident = (teacher.detach().amax(dim=-1) > threshold).to(teacher.dtype)
    targets = best_match(teacher) * confident.unsqueeze(-1)
    share = confident.mean()
    return pairwise_cross_entropy(targets, student) / share.clamp_min(1 / confident.numel()), share


# What keeps the distributions from collapsing -------------------------------------------------------------------------


class Queue(nn.Module):
    """The last `size` rows pushed, oldest first. Rows and fill level are in the state_dict, hence in checkpoints."""

    def __init__(self, size: int, *row_shape: int):
        super().__init__()
        self.register_buffer("rows", torch.zeros(size, *row_shape))
        self.filled = 0  # a number of Python: read from the device, it would make every step wait

    def recent(self) -> Tensor:
        """The rows pushed so far: 'm ...', m at most `size`."""
        return self.rows[len(self.rows) - self.filled :]

    def push(self, rows: Tensor) -> None:
        """Appends 'n ...' and drops the oldest rows."""
        size = len(self.rows)
        self.rows = torch.cat([self.rows, rows.detach().to(self.rows.dtype)])[len(rows) :]
        self.filled = min(self.filled + len(rows), size)

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.filled)

    def set_extra_state(self, state: Tensor) -> None:
        self.filled = int(state)


class UniformPrior(nn.Module):
    """Uniform distribution prior: log k - H(mean of p_s), zero where the student uses all concepts equally often.

    The mean runs over the batch and the `queue_size` videos before it: a small batch alone says little about how often
    a concept is used. The gradient flows through the batch only, at full weight, so the strength of the prior depends
    on neither the size nor the fill level of the queue.
    """

    def __init__(self, num_concepts: int, *, queue_size: int):
        super().__init__()
        self.queue = Queue(queue_size, num_concepts)

    def forward(self, student: Tensor, target: Tensor | None = None) -> Tensor:
        """Student logits 'v b k' -> scalar, in nats. Pushes the videos: call it once per training step.

        target: probabilities 'k' in place of the uniform ones: KL(mean of p_s || target).
        """
        mean = self.mean(student)
        if target is not None:
            return (mean * (mean.log() - target.clamp_min(torch.finfo(mean.dtype).tiny).log())).sum()
        return math.log(mean.numel()) + (mean * mean.log()).sum()

    def mean(self, student: Tensor) -> Tensor:
        """The mean of p_s, 'k', with the gradient of the batch. Pushes the videos."""
        videos = student.softmax(-1).mean(0)
        expected = torch.cat([self.queue.recent(), videos.detach()]).mean(0)
        self.queue.push(videos)
        batch = videos.mean(0)  # the value of `expected` with the gradient of the batch's mean
        mean = batch + (expected - batch).detach()
        return mean.clamp_min(torch.finfo(mean.dtype).tiny)  # a concept that underflows gets no gradient, not NaN


class FairnessPrior(UniformPrior):
    """MUST's fairness regularisation (ICLR 2023): KL(uniform || mean of p_s), zero where all concepts are equally
    frequent.

    The reverse of the uniform distribution prior: a concept that is never used costs without bound. MUST takes the mean
    over 1,024 images, of 512 classes or more a moving average; here the `queue_size` videos before the batch count too.
    """

    def forward(self, student: Tensor, target: Tensor | None = None) -> Tensor:
        """Student logits 'v b k' -> scalar, in nats. Pushes the videos: call it once per training step.

        target: probabilities 'k' in place of the uniform ones: KL(target || mean of p_s).
        """
        mean = self.mean(student)
        if target is not None:
            return -(torch.special.entr(target) + target * mean.log()).sum()
        return -math.log(mean.numel()) - mean.log().mean()


def sinkhorn(logits: Tensor, n_iterations: int, *, strength: float = 1.0) -> Tensor:
    """Sinkhorn-Knopp (Cuturi 2013; SwAV, NeurIPS 2020): logits 'n k' -> probabilities 'n k' that use concepts equally.

    Each iteration scales every concept to the same total over the n samples, then every sample to one. Rows sum to one;
    column sums approach n / k. Runs in log space, so that no temperature overflows.

    strength: below 1, a concept's factor is that power of what would balance it (unbalanced optimal transport, Chizat
    et al. 2018): frequent concepts stay more frequent. 0: the softmax.
    """
    if strength < 1:
        factor = torch.zeros_like(logits[0])  # of each concept, logarithm
        for _ in range(n_iterations):
            factor = -strength * (logits - (logits + factor).logsumexp(dim=1, keepdim=True)).logsumexp(dim=0)
        return (logits + factor).softmax(dim=1)
    for _ in range(n_iterations):
        logits = logits.log_softmax(dim=0)
        logits = logits.log_softmax(dim=1)
    return logits.softmax(dim=1)


class SinkhornBalance(nn.Module):
    """Teacher probabilities, balanced by Sinkhorn-Knopp over the batch and the `queue_size` videos before it.

    The queue holds logits times temperature (cosines, for a concept space), so it stays valid if the temperature
    changes.
    """

    def __init__(
        self, num_concepts: int, *, global_views: int, n_iterations: int, queue_size: int, strength: float = 1.0
    ):
        super().__init__()
        self.n_iterations, self.strength = n_iterations, strength
        self.queue = Queue(queue_size, global_views, num_concepts)

    @torch.no_grad()
    def forward(self, logits: Tensor, temperature: float) -> Tensor:
        """Teacher logits 'g b k', already divided by `temperature` -> probabilities 'g b k'. Pushes the videos."""
        batch = rearrange(logits, "g b k -> b g k")
        videos = torch.cat([self.queue.recent() / temperature, batch])
        balanced = sinkhorn(rearrange(videos, "n g k -> (n g) k"), self.n_iterations, strength=self.strength)
        self.marginal = balanced.mean(0)  # how often the teacher uses each concept, 'k'
        balanced = rearrange(balanced, "(n g) k -> g n k", g=logits.shape[0])
        self.queue.push(batch * temperature)
        return balanced[:, len(videos) - len(batch) :]


class Centring(nn.Module):
    """DINO's centring (ICCV 2021): teacher probabilities softmax((z - centre) / temperature), z the cosines.

    The centre is a running mean of z, kept before the temperature, so it stays valid if the temperature changes.
    As in the released code, it starts at zero and is updated after the batch has been centred.
    """

    def __init__(self, num_concepts: int, *, momentum: float):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("centre", torch.zeros(num_concepts))

    @torch.no_grad()
    def forward(self, logits: Tensor, temperature: float) -> Tensor:
        """Teacher logits 'g b k', already divided by `temperature` -> probabilities 'g b k'. Updates the centre."""
        probabilities = (logits - self.centre / temperature).softmax(-1)
        batch_centre = (logits * temperature).mean((0, 1))
        self.centre = self.centre.lerp(batch_centre.to(self.centre.dtype), 1 - self.momentum)
        return probabilities


# The baseline without language ---------------------------------------------------------------------------------------


class FeatureHead(nn.Module):
    """DINO's projection head, as SVT uses it: three-layer MLP, L2 normalisation, unit-length prototypes without bias.

    A weight-normalised layer whose norm is fixed at one is a layer with normalised rows, and is written as that here.
    """

    def __init__(self, width: int, *, hidden: int, bottleneck: int, prototypes: int, generator: torch.Generator):
        super().__init__()
        # skip_init: torch's own initialisation would draw from the global random state.
        first, second, third = (
            nn.utils.skip_init(nn.Linear, inputs, outputs)
            for inputs, outputs in ((width, hidden), (hidden, hidden), (hidden, bottleneck))
        )
        self.mlp = nn.Sequential(first, nn.GELU(), second, nn.GELU(), third)
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck))
        for layer in (first, second, third):
            nn.init.trunc_normal_(layer.weight, std=0.02, generator=generator)
            nn.init.zeros_(layer.bias)
        nn.init.trunc_normal_(self.prototypes, std=0.02, generator=generator)

    def forward(self, features: Tensor) -> Tensor:
        """'... w' features -> '... k' cosines with the prototypes (divide by a temperature to get logits)."""
        return F.linear(F.normalize(self.mlp(features), dim=-1), F.normalize(self.prototypes, dim=-1))


# Signs of collapse ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def collapse_diagnostics(*, teacher: Tensor, student: Tensor, features: Tensor) -> dict[str, float]:
    """What a collapse shows in first. teacher: probabilities 'g b k'; student: logits 'v b k'; features: 'n w'.

    teacher_entropy: mean entropy of a teacher distribution, nats (0: one-hot; log k: says nothing).
    batch_entropy: entropy of the mean teacher distribution, nats (0: one concept for all videos; log k: balanced).
    feature_spread: standard deviation of the L2-normalised features over n, root mean square over w, times sqrt(w)
    (0: all features are the same; 1: they point everywhere).
    agreement: share of the loss's pairs in which student and teacher have the same first concept.
    concepts_used: how many concepts come first in some teacher distribution.
    """
    best_teacher, best_student = teacher.argmax(-1), student.argmax(-1)
    same = best_teacher[:, None] == best_student  # 'g v b'
    used = torch.zeros(teacher.shape[-1], device=teacher.device).scatter_(0, best_teacher.flatten(), 1.0)
    values = {
        "teacher_entropy": torch.special.entr(teacher).sum(-1).mean(),
        "batch_entropy": torch.special.entr(teacher.mean((0, 1))).sum(),
        "feature_spread": F.normalize(features, dim=-1).var(0, correction=0).sum().sqrt(),
        "agreement": mean_over_pairs(rearrange(same.float(), "g v b -> b g v")),
    }
    numbers = torch.stack([*values.values(), used.sum()]).tolist()  # at once: the device is waited for a single time
    return dict(zip(values, numbers)) | {"concepts_used": int(numbers[-1])}
