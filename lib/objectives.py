"""What one training step minimises: the losses put together for LSS, for the baseline without language, for
the ceiling.

Each objective takes the outputs of teacher (global views) and student (all views, globals first) and returns the loss,
its terms, and the two distributions that the collapse diagnostics look at. What an objective remembers between steps
(balancing, centring, running means, SVT's head) is in its state_dict, and so in every checkpoint.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.backbone import VideoCLIPOutput
from lib.concepts import ConceptSpace
from lib.losses import (
    Centring,
    FeatureHead,
    SinkhornBalance,
    UniformPrior,
    concept_alignment,
    concept_distillation,
    feature_distillation,
)
from lib.run.fields import Params


class Result(NamedTuple):
    loss: Tensor
    terms: dict[str, Tensor]
    teacher: Tensor  # probabilities 'g b k'
    student: Tensor  # logits 'v b k'


def _teacher_prior(params: Params, num_concepts: int) -> nn.Module | None:
    """What keeps the teacher's distributions from collapsing: Sinkhorn balancing, centring, or nothing."""
    if params.target_normalisation == "sinkhorn":
        return SinkhornBalance(
            num_concepts, global_views=params.global_views, rounds=params.sinkhorn_iterations, memory=params.queue_size
        )
    if params.target_normalisation == "centring":
        return Centring(num_concepts, momentum=params.centre_momentum)
    return None


def _logits(space: ConceptSpace, embeddings: list[Tensor], temperature: float) -> Tensor:
    return torch.stack([space.logits(view, temperature) for view in embeddings])


class ConceptObjective(nn.Module):
    """LSS: distillation within each concept space, alignment across the two, and the uniform distribution prior."""

    def __init__(self, params: Params, spaces: dict[str, ConceptSpace]):
        super().__init__()
        self.params, self.spaces = params, nn.ModuleDict(spaces)
        sizes = {name: len(space.labels) for name, space in spaces.items()}
        self.teacher_priors = nn.ModuleDict(
            {name: prior for name, k in sizes.items() if (prior := _teacher_prior(params, k))}
        )
        self.penalties = nn.ModuleDict(
            {
                name: UniformPrior(k, memory=params.queue_size)
                for name, k in sizes.items()
                if params.uniform_prior_weight > 0
            }
        )

    def forward(self, teacher: list[VideoCLIPOutput], student: list[VideoCLIPOutput], labels: Tensor) -> Result:
        """teacher: g views, student: v views, each of 'b' videos. Labels are not looked at."""
        p = self.params
        p_t, p_s = {}, {}
        for name, space in self.spaces.items():
            with torch.no_grad():
                logits = _logits(space, [view.embedding for view in teacher], p.teacher_temperature)
                prior = self.teacher_priors[name] if name in self.teacher_priors else None
                p_t[name] = prior(logits, p.teacher_temperature) if prior else logits.softmax(-1)
            p_s[name] = _logits(space, [view.embedding for view in student], p.student_temperature)
        terms = {f"distillation_{name}": concept_distillation(p_t[name], p_s[name]) for name in p_t}
        loss = p.distillation_weight * sum(terms.values())
        if p.alignment_weight > 0:
            terms["alignment"] = concept_alignment(
                teacher_category=p_t["category"],
                student_category=p_s["category"],
                teacher_description=p_t["description"],
                student_description=p_s["description"],
            )
            loss = loss + p.alignment_weight * terms["alignment"]
        for name, penalty in self.penalties.items():
            terms[f"prior_{name}"] = penalty(p_s[name])
            loss = loss + p.uniform_prior_weight * terms[f"prior_{name}"]
        first = next(iter(p_t))
        return Result(loss, terms, p_t[first], p_s[first])


class FeatureObjective(nn.Module):
    """Self-distillation of features with SVT's head: the baseline without language."""

    def __init__(self, params: Params, width: int):
        super().__init__()
        self.params = params
        shape = {
            "hidden": params.head_hidden,
            "bottleneck": params.head_bottleneck,
            "prototypes": params.head_prototypes,
        }
        self.head = FeatureHead(width, **shape, generator=torch.Generator().manual_seed(params.seed))
        self.teacher_head = FeatureHead(
            width, **shape, generator=torch.Generator().manual_seed(params.seed)
        ).requires_grad_(False)
        self.centring = Centring(params.head_prototypes, momentum=params.centre_momentum)

    def forward(self, teacher: list[VideoCLIPOutput], student: list[VideoCLIPOutput], labels: Tensor) -> Result:
        """teacher: g views, student: v views, each of 'b' videos. Labels are not looked at."""
        p = self.params
        with torch.no_grad():
            cosines = torch.stack([self.teacher_head(view.features) for view in teacher])
            p_t = self.centring(cosines / p.head_teacher_temperature, p.head_teacher_temperature)
        p_s = torch.stack([self.head(view.features) for view in student]) / p.head_student_temperature
        loss = feature_distillation(p_t, p_s)
        return Result(loss, {"distillation_feature": loss}, p_t, p_s)


class LabelObjective(nn.Module):
    """Supervised: cross-entropy of every student view in the category space against the true label. The ceiling."""

    def __init__(self, params: Params, space: ConceptSpace):
        super().__init__()
        self.params, self.space = params, space

    def forward(self, teacher: list[VideoCLIPOutput], student: list[VideoCLIPOutput], labels: Tensor) -> Result:
        """teacher: g views, student: v views, each of 'b' videos; labels 'b', rows of the category space."""
        p_t = _logits(self.space, [view.embedding for view in teacher], self.params.teacher_temperature).softmax(-1)
        p_s = _logits(self.space, [view.embedding for view in student], self.params.student_temperature)
        loss = F.cross_entropy(p_s.flatten(0, 1), labels.repeat(len(student)))
        return Result(loss, {"cross_entropy": loss}, p_t, p_s)
