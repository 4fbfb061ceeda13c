"""What one training step minimises: the losses combined for LSS, for its baselines, for the ceiling.

An objective takes the outputs of teacher (global views) and student (all views, globals first) and returns a `Result`.
Its state between steps (queues, centres, SVT's head) is in its state_dict, and so in every checkpoint.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.backbone import VideoCLIP, VideoCLIPOutput
from lib.concepts import ConceptSpace, random_space
from lib.losses import (
    Centring,
    FairnessPrior,
    FeatureHead,
    SinkhornBalance,
    UniformPrior,
    best_match,
    concept_alignment,
    pairwise_cross_entropy,
    self_training,
    video_weights,
)
from lib.run.fields import Params

RESERVED = {"step", "epoch", "loss", "videos", "seconds", "warnings"}  # keys of the log that a term must not take


class Result(NamedTuple):
    """`loss` is minimised; `terms` are logged; the collapse diagnostics look at `teacher` and `student`."""

    loss: Tensor
    terms: dict[str, Tensor]
    teacher: Tensor  # probabilities 'g b k'
    student: Tensor  # logits 'v b k'


class Objective(nn.Module):
    """Base class of objectives, also of your own (notebooks/04_your_experiment).

    Parameters are trained together with the student, at the rate of new weights. Every process calls `forward` with the
    outputs of the whole batch, so it may compare videos. num_outputs: k, if that is not the number of concepts.
    """

    num_outputs: int | None = None

    def forward(self, teacher: list[VideoCLIPOutput], student: list[VideoCLIPOutput], labels: Tensor) -> Result:
        """teacher: g views, student: v views, each of 'b' videos; labels 'b', which only `LabelObjective` reads."""
        raise NotImplementedError

    def averaged(self) -> Iterable[tuple[nn.Module, nn.Module]]:
        """Pairs (teacher's module, student's module) of which the first is the moving average of the second."""
        return ()


def space_logits(
    space: ConceptSpace, views: list[VideoCLIPOutput], temperature: float, *, normalised: bool = False
) -> Tensor:
    """The views' logits in a concept space, 'v b k'. normalised: the cosines of a view have length one."""
    if not normalised:
        return torch.stack([space.logits(view.embedding, temperature) for view in views])
    return F.normalize(torch.stack([space.logits(view.embedding, 1.0) for view in views]), dim=-1) / temperature


class ConceptObjective(Objective):
    """LSS: distillation within each concept space, alignment across the two, and the uniform distribution prior.

    target_normalisation: "sinkhorn" (over `queue_size` videos) or "centring" keeps the teacher from collapsing; or
    "none". prior_target: "uniform", or "teacher": the frequencies of concepts that a weaker Sinkhorn balance
    (`sinkhorn_strength` below 1) leaves to the teacher.
    """

    def __init__(
        self,
        spaces: dict[str, ConceptSpace],
        *,
        student_temperature: float,
        teacher_temperature: float,
        distillation_weight: float,
        alignment_weight: float,
        alignment_targets: str,
        video_weights: str,
        uniform_prior_weight: float,
        prior_target: str,
        prior_divergence: str,
        normalise_logits: bool,
        target_normalisation: str,
        global_views: int,
        sinkhorn_iterations: int,
        sinkhorn_strength: float,
        queue_size: int,
        centre_momentum: float,
    ):
        super().__init__()
        self.spaces = nn.ModuleDict(spaces)
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature
        self.distillation_weight, self.alignment_weight = distillation_weight, alignment_weight
        self.uniform_prior_weight, self.prior_target = uniform_prior_weight, prior_target
        self.alignment_targets, self.normalise_logits = alignment_targets, normalise_logits
        self.video_weights = video_weights
        prior = {"forward": UniformPrior, "reverse": FairnessPrior}[prior_divergence]
        self.normalisations, self.uniform_priors = nn.ModuleDict(), nn.ModuleDict()
        for name, space in spaces.items():
            k = len(space.labels)
            if target_normalisation == "sinkhorn":
                self.normalisations[name] = SinkhornBalance(
                    k,
                    global_views=global_views,
                    n_iterations=sinkhorn_iterations,
                    queue_size=queue_size,
                    strength=sinkhorn_strength,
                )
            elif target_normalisation == "centring":
                self.normalisations[name] = Centring(k, momentum=centre_momentum)
            if uniform_prior_weight > 0:
                self.uniform_priors[name] = prior(k, queue_size=queue_size)

    def forward(self, teacher: list[VideoCLIPOutput], student: list[VideoCLIPOutput], labels: Tensor) -> Result:
        targets = probabilities = {name: self._targets(name, teacher) for name in self.spaces}
        aligned = {name: best_match(p) for name, p in targets.items()} if self.alignment_targets == "best" else targets
        if self.video_weights != "uniform":  # the losses are linear in the targets
            weights = video_weights(list(targets.values()), self.video_weights)[:, None]
            targets, aligned = ({name: weights * p for name, p in each.items()} for each in (targets, aligned))
        logits = {name: self._logits(name, student, self.student_temperature) for name in self.spaces}
        terms = {f"distillation_{name}": pairwise_cross_entropy(targets[name], logits[name]) for name in targets}
        loss = self.distillation_weight * sum(terms.values())
        if self.alignment_weight > 0:
            terms["alignment"] = concept_alignment(
                teacher_category=aligned["category"],
                student_category=logits["category"],
                teacher_description=aligned["description"],
                student_description=logits["description"],
            )
            loss = loss + self.alignment_weight * terms["alignment"]
        for name, uniform_prior in self.uniform_priors.items():
            target = self.normalisations[name].marginal if self.prior_target == "teacher" else None
            terms[f"prior_{name}"] = uniform_prior(logits[name], target)
            loss = loss + self.uniform_prior_weight * terms[f"prior_{name}"]
        first = next(iter(targets))
        return Result(loss, terms, probabilities[first], logits[first])

    def _logits(self, name: str, views: list[VideoCLIPOutput], temperature: float) -> Tensor:
        return space_logits(self.spaces[name], views, temperature, normalised=self.normalise_logits)

    @torch.no_grad()
    def _targets(self, name: str, teacher: list[VideoCLIPOutput]) -> Tensor:
        """The teacher's probabilities in one space, normalised, 'g b k'."""
        logits = self._logits(name, teacher, self.teacher_temperature)
        if name in self.normalisations:
            return self.normalisations[name](logits, self.teacher_temperature)
        return logits.softmax(-1)


class FeatureObjective(Objective):
    """Self-distillation of features 'b w' with SVT's head: the baseline without language."""

    def __init__(
        self,
        width: int,
        *,
        hidden: int,
        bottleneck: int,
        prototypes: int,
        student_temperature: float,
        teacher_temperature: float,
        centre_momentum: float,
        seed: int,
    ):
        super().__init__()
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature
        self.head, self.teacher_head = (
            FeatureHead(
                width,
                hidden=hidden,
                bottleneck=bottleneck,
                prototypes=prototypes,
                generator=torch.Generator().manual_seed(seed),
            )
            for _ in range(2)
        )
        self.teacher_head.requires_grad_(False)
        self.num_outputs = prototypes
        self.centring = Centring(prototypes, momentum=centre_momentum)

    def forward(self, teacher: list[VideoCLIPOutput], student: list[VideoCLIPOutput], labels: Tensor) -> Result:
        with torch.no_grad():
            cosines = torch.stack([self.teacher_head(view.features) for view in teacher])
            targets = self.centring(cosines / self.teacher_temperature, self.teacher_temperature)
        logits = torch.stack([self.head(view.features) for view in student]) / self.student_temperature
        loss = pairwise_cross_entropy(targets, logits)
        return Result(loss, {"distillation_feature": loss}, targets, logits)

    def averaged(self) -> Iterable[tuple[nn.Module, nn.Module]]:
        return [(self.teacher_head, self.head)]


class SelfTrainingObjective(Objective):
    """MUST (Masked Unsupervised Self-Training, ICLR 2023) in the category space: self-training and fairness.

    Not MUST's: there are no masked-image and global-local losses, since the backbone reconstructs no pixels; the
    classifier (the space) is frozen; the teacher's view is augmented like the student's, not more weakly. The
    temperature is CLIP's own, for both.
    """

    def __init__(
        self, space: ConceptSpace, *, temperature: float, threshold: float, fairness_weight: float, queue_size: int
    ):
        super().__init__()
        self.space = space
        self.temperature, self.threshold, self.fairness_weight = temperature, threshold, fairness_weight
        self.fairness = FairnessPrior(len(space.labels), queue_size=queue_size)

    def forward(self, teacher: list[VideoCLIPOutput], student: list[VideoCLIPOutput], labels: Tensor) -> Result:
        targets = space_logits(self.space, teacher, self.temperature).softmax(-1)
        logits = space_logits(self.space, student, self.temperature)
        loss, confident = self_training(targets, logits, threshold=self.threshold)
        terms = {"self_training": loss, "fairness": self.fairness(logits), "confident": confident}
        return Result(loss + self.fairness_weight * terms["fairness"], terms, targets, logits)


class LabelObjective(Objective):
    """Supervised: cross-entropy of every student view in the category space against the true label. The ceiling."""

    def __init__(self, space: ConceptSpace, *, student_temperature: float, teacher_temperature: float):
        super().__init__()
        self.space = space
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature

    def forward(self, teacher: list[VideoCLIPOutput], student: list[VideoCLIPOutput], labels: Tensor) -> Result:
        """labels 'b': rows of the category space."""
        targets = space_logits(self.space, teacher, self.teacher_temperature).softmax(-1)
        logits = space_logits(self.space, student, self.student_temperature)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(student)))
        return Result(loss, {"cross_entropy": loss}, targets, logits)


def make_objective(params: Params, model: VideoCLIP, spaces: dict[str, ConceptSpace]) -> Objective:
    """The objective that `params.objective` names, in the spaces that `params.concept_spaces` names."""
    p = params
    if p.objective == "feature":
        return FeatureObjective(
            model.config.vision_config.hidden_size,
            hidden=p.head_hidden,
            bottleneck=p.head_bottleneck,
            prototypes=p.head_prototypes,
            student_temperature=p.head_student_temperature,
            teacher_temperature=p.head_teacher_temperature,
            centre_momentum=p.centre_momentum,
            seed=p.seed,
        )
    temperatures = dict(student_temperature=p.student_temperature, teacher_temperature=p.teacher_temperature)
    if p.concept_directions == "random":  # one draw for both spaces, so that they stay index-matched
        if len({space.vectors.shape for space in spaces.values()}) > 1:
            raise ValueError("concept_directions: random needs spaces of one shape: set description_axes to mean")
        spaces = {name: random_space(space, seed=p.seed) for name, space in spaces.items()}
    if p.objective == "label":
        return LabelObjective(spaces["category"], **temperatures)
    if p.objective == "must":
        return SelfTrainingObjective(
            spaces["category"],
            temperature=p.teacher_temperature,
            threshold=p.must_threshold,
            fairness_weight=p.must_fairness_weight,
            queue_size=p.queue_size,
        )
    chosen = {name: spaces[name] for name in p.concept_spaces}
    for space in chosen.values() if p.train_concepts else ():
        space.let_learn()
    return ConceptObjective(
        chosen,
        **temperatures,
        distillation_weight=p.distillation_weight,
        alignment_weight=p.alignment_weight,
        alignment_targets=p.alignment_targets,
        video_weights=p.video_weights,
        uniform_prior_weight=p.uniform_prior_weight,
        prior_target=p.prior_target,
        prior_divergence=p.prior_divergence,
        normalise_logits=p.normalise_logits,
        target_normalisation=p.target_normalisation,
        global_views=p.global_views,
        sinkhorn_iterations=p.sinkhorn_iterations,
        sinkhorn_strength=p.sinkhorn_strength,
        queue_size=p.queue_size,
        centre_momentum=p.centre_momentum,
    )


def check_result(objective: nn.Module, result: object, shapes: tuple[int, int, int]) -> None:
    """Raises TypeError or ValueError, with the form expected, if `result` is not what `Objective.forward` returns.

    shapes: numbers of teacher views, student views and videos.
    """
    name, (g, v, b) = type(objective).__name__, shapes
    form = f"{name}.forward must return lib.objectives.Result(loss, terms, teacher 'g b k', student 'v b k')"
    if not isinstance(result, Result):
        raise TypeError(f"{form}; it returned {type(result).__name__}")
    if not isinstance(result.terms, dict) or RESERVED & result.terms.keys():
        raise TypeError(f"{form}; terms is a dict of scalars to log, none of them called {', '.join(sorted(RESERVED))}")
    for term, value in result.terms.items():
        if not isinstance(value, Tensor) or value.ndim:
            raise TypeError(f"{form}; the term {term} must be a scalar tensor (torch.tensor(0.1), values.mean())")
    if result.loss.ndim or not result.loss.requires_grad:
        raise ValueError(f"{form}; the loss must be a scalar that depends on the student's outputs")
    for role, tensor, expected in (("teacher", result.teacher, (g, b)), ("student", result.student, (v, b))):
        if tensor.ndim != 3 or tensor.shape[:2] != expected:
            raise ValueError(f"{form}; {role} has shape {tuple(tensor.shape)}, not {expected} and concepts")
