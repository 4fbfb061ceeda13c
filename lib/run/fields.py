"""The parameters: names, types, and what must fit together. Their values, units and sources are in `params/base.yaml`.

The classes follow the stages: videos and embedded CLIP depend on the scene, an adaptation on both, an evaluation on it.
A new parameter that leaves finished runs valid declares its neutral value: `blur: Annotated[Amount, Neutral(0.0)]`.
With that value it is no part of the hash. Keep such a declaration.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from lib.run.scene import ClipParams, SceneParams, WorldParams
from lib.run.values import (
    RENDERED,
    WITH_SPLITS,
    Above0,
    Amount,
    Choices,
    Count,
    DataSet,
    EvalViews,
    Names,
    Neutral,
    Once,
    Positive,
    Range,
    Share,
    Spaces,
    Split,
    ViewName,
    still,
)


class AdaptParams(WorldParams, ClipParams):
    dataset: DataSet
    data_embedded: str
    data_rendered: str
    data_folder: str
    data_ucf101: str
    data_hmdb51: str
    data_kinetics400: str
    data_kinetics600: str
    data_ssv2: str
    data_charades: str
    lists_ucf101: str
    lists_hmdb51: str
    lists_kinetics400: str
    lists_kinetics600: str
    lists_ssv2: str
    lists_charades: str
    split: Split
    train_videos: Count
    max_train_videos: Annotated[Count, Neutral(0)]
    held_out_videos: Annotated[Count, Neutral(0)]
    imbalance: Annotated[float, Field(ge=1)]
    seed: Count

    short_side: Positive
    num_frames: Positive
    frame_stride: Positive
    source_fps: Positive
    global_views: Annotated[int, Field(ge=2)]
    global_num_frames: Choices
    global_shift: Count
    global_scale: Range
    image_size: Positive
    local_views: Count
    local_num_frames: Choices
    local_span: Annotated[float, Field(gt=0, le=1)]
    local_image_size: Positive
    local_scale: Range
    num_frames_draw: Annotated[Literal["stratified", "independent"], Neutral("independent")]
    flip_probability: Share
    jitter_probability: Share
    brightness: Share
    contrast: Share
    saturation: Share
    gray_probability: Share

    temporal: Literal["none", "divided", "divided_copied", "joint"]
    temporal_positions: Positive
    trained: Literal["all", "temporal", "last_blocks"]
    trained_last_blocks: Positive

    concepts: Names
    class_vocabularies: Names
    concept_labels: Literal["vocabulary", "dataset"]
    concept_names: Annotated[list[str], Once]
    num_concepts: Count
    concept_seed: Count
    concept_texts: Literal["written", "shuffled", "random_words"]
    concept_spaces: Spaces
    concept_directions: Literal["text", "random"]
    train_concepts: bool
    prompts: str
    num_descriptions: Positive
    description_axes: Literal["mean", "each"]

    objective: Literal["concept", "feature", "label", "must"]
    distillation_weight: Amount
    alignment_weight: Amount
    student_temperature: Above0
    teacher_temperature: Above0
    target_normalisation: Literal["none", "sinkhorn", "centring"]
    uniform_prior_weight: Amount
    alignment_targets: Annotated[Literal["soft", "best"], Neutral("soft")]
    video_weights: Annotated[Literal["uniform", "confidence", "agreement"], Neutral("uniform")]
    normalise_logits: Annotated[bool, Neutral(False)]
    prior_divergence: Annotated[Literal["forward", "reverse"], Neutral("forward")]
    prior_target: Annotated[Literal["uniform", "teacher"], Neutral("uniform")]
    sinkhorn_strength: Annotated[Share, Neutral(1.0)]
    must_threshold: Annotated[Share, Neutral(0.5)]
    must_fairness_weight: Annotated[Amount, Neutral(1.0)]
    queue_size: Count
    sinkhorn_iterations: Positive
    centre_momentum: Share
    head_hidden: Positive
    head_bottleneck: Positive
    head_prototypes: Positive
    head_student_temperature: Above0
    head_teacher_temperature: Above0

    epochs: Count
    warmup_epochs: Amount
    batch_size: Positive
    learning_rate: Amount
    temporal_learning_rate: Amount
    layer_decay: Annotated[float, Field(gt=0, le=1), Neutral(1.0)]
    learning_rate_scale: Annotated[Amount, Neutral(1.0)]
    feature_learning_rate_scale: Amount
    final_learning_rate: Amount
    weight_decay: Amount
    final_weight_decay: Amount
    max_gradient_norm: Above0
    teacher_momentum: Share
    final_teacher_momentum: Share
    train_precision: Literal["float32", "bfloat16"]
    threads: Positive

    @model_validator(mode="after")
    def _consistent(self) -> "AdaptParams":
        if self.alignment_weight > 0 and self.objective == "concept" and len(self.concept_spaces) < 2:
            raise ValueError("alignment_weight needs both concept_spaces; set it to 0 or give both")
        if self.temporal == "none" and self.trained == "temporal":
            raise ValueError("trained: temporal needs temporal weights, but temporal is none")
        if self.objective == "feature" and (self.target_normalisation, self.uniform_prior_weight) != ("centring", 0):
            raise ValueError("objective: feature: set target_normalisation: centring and uniform_prior_weight: 0.0")
        if self.prior_target == "teacher" and self.target_normalisation != "sinkhorn":
            raise ValueError("prior_target: teacher takes the frequencies from target_normalisation: sinkhorn")
        if self.concept_labels == "dataset" and (unread := set(self.concepts) - set(self.class_vocabularies)):
            raise ValueError(f"concept_labels: dataset looks into class_vocabularies, which lack {sorted(unread)}")
        if self.epochs and self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs, {self.warmup_epochs:g}, is above epochs, {self.epochs}: lower it")
        if self.epochs and 0 < self.train_videos < self.batch_size:
            raise ValueError(f"train_videos: {self.train_videos} make no batch of {self.batch_size}; lower batch_size")
        if self.dataset == "charades" and (self.objective == "label" or self.imbalance > 1):
            setting = "objective: label" if self.objective == "label" else f"imbalance: {self.imbalance:g}"
            raise ValueError(f"{setting} needs one label a clip, and those of charades have several")
        return self


class EvaluateParams(AdaptParams):
    evaluate_model: Literal["student", "teacher"]
    evaluate_on: Annotated[list[DataSet], Field(min_length=1), Once]
    evaluate_parts: Annotated[list[Literal["validation", "test", "held_out"]], Field(min_length=1), Once]
    evaluate_splits: Annotated[list[Split], Field(min_length=1), Once]
    zero_shot_protocols: Annotated[list[Literal["split", "full", "half"]], Field(min_length=1), Once]
    zero_shot_prompts: str
    zero_shot_views: EvalViews
    still_views: Annotated[list[Annotated[ViewName, AfterValidator(still)]], Once]
    probe_on: Annotated[list[DataSet], Once]
    probe_views: EvalViews
    probe_shots: Annotated[list[Positive], Once]
    probe_shot_draws: Positive
    probe_one_shot_c: Annotated[Amount, Neutral(0.0)]
    probe_seed: Count
    average_views: Literal["features", "probabilities"]
    eval_precision: Literal["float32", "bfloat16"]
    interpolate: Annotated[list[Share], Field(min_length=1), Once, Neutral([1.0])]
    score_spaces: Spaces
    balance_predictions: bool
    balance_temperature: Above0
    probe_feature: Literal["features", "embedding"]
    probe_normalise: Literal["raw", "standardise", "l2"]
    probe_c: Annotated[list[Above0], Field(min_length=1), Once]
    probe_refinements: Count
    probe_held_out: Annotated[float, Field(gt=0, lt=1)]
    probe_max_iter: Positive
    probe_tolerance: Above0
    attentive_epochs: Annotated[Count, Neutral(0)]
    attentive_learning_rates: Annotated[
        list[Above0], Field(min_length=1), Once, Neutral([1e-4, 3e-4, 1e-3, 3e-3, 5e-3])
    ]
    attentive_batch_size: Annotated[Positive, Neutral(256)]
    attentive_weight_decay: Annotated[Amount, Neutral(0.01)]
    knn_k: Annotated[Choices, Once]
    bootstrap_resamples: Positive

    @property
    def rendered(self) -> bool:
        """Whether a data set of the run is rendered by the workflow."""
        return not {self.dataset, *self.evaluate_on}.isdisjoint(RENDERED)

    @property
    def label_vocabularies(self) -> list[str]:
        """`class_vocabularies`, then those of the data sets that have one of their own."""
        own = [name for name in (self.dataset, *self.evaluate_on) if name in ("kinetics600", "ssv2")]
        return list(dict.fromkeys([*self.class_vocabularies, *own]))

    @model_validator(mode="after")
    def _can_be_evaluated(self) -> "EvaluateParams":
        if other := set(self.probe_on) - set(self.evaluate_on):
            raise ValueError(f"probe_on: {sorted(other)} must stand in evaluate_on too")
        if "charades" in self.probe_on:
            raise ValueError("probe_on: the probe of multi-label Charades is not part of this project")
        if "charades" in self.evaluate_on and self.score_spaces != ["category"]:
            raise ValueError("evaluate_on: no descriptions of classes of charades; set score_spaces to [category]")
        only_split = sorted(set(self.evaluate_on) - {*WITH_SPLITS, "charades"})
        if only_split and "split" not in self.zero_shot_protocols:
            raise ValueError(f"zero_shot_protocols: {only_split} would have no zero-shot; add split")
        if "held_out" in self.evaluate_parts and (len(self.evaluate_parts) > 1 or not self.held_out_videos):
            raise ValueError("evaluate_parts: held_out stands alone, and held_out_videos says how many clips it has")
        if 1.0 not in self.interpolate:
            raise ValueError("interpolate needs 1.0, the adapted weights, which probes and tables use: add it")
        if self.balance_predictions and self.average_views != "features":
            raise ValueError("balance_predictions takes cosines: it needs average_views: features")
        return self


class Params(EvaluateParams):
    """Every parameter. The last ones say how the work is done; they change results only by rounding."""

    allow_missing: bool
    max_bad_videos: Count
    min_steps: Count
    manifests: str
    device: str
    devices: Positive
    micro_batch: Count | Literal["auto"]
    activation_checkpointing: bool
    compile: bool
    cuda_graphs: bool
    workers: Count
    loader_timeout: Positive
    views_on_device: bool
    checkpoint_every: Positive
    eval_batch_size: Positive
    collapse_window: Positive
    collapse_teacher_entropy: Share
    collapse_batch_entropy: Share
    collapse_feature_spread: Share
    collapse_concepts_used: Share
    drift_teacher_entropy: Share
    drift_clips: Count
    drift_every: Positive
    drift_agreement: Share

    @model_validator(mode="after")
    def _passes_fit(self) -> "Params":
        if self.batch_size % self.devices:
            raise ValueError(
                f"batch_size, {self.batch_size}, is over all devices: make it a multiple of {self.devices}"
            )
        if self.micro_batch != "auto" and self.micro_batch * self.devices > self.batch_size:
            micro_batches = f"{self.micro_batch} videos on each of {self.devices} devices"
            raise ValueError(f"micro_batch: {micro_batches} exceed batch_size, {self.batch_size}")
        if self.micro_batch == "auto" and self.activation_checkpointing:
            raise ValueError("micro_batch: auto cannot measure activation_checkpointing; set a number of videos")
        if self.cuda_graphs and not (self.compile and self.num_frames_draw == "stratified"):
            raise ValueError("cuda_graphs needs compile: true and num_frames_draw: stratified")
        return self

    def stage_hash(self, stage: type[SceneParams]) -> str:
        return stage_hash(dict(self), stage)

    def places(self, stage: type[SceneParams]) -> dict[str, str]:
        """The parameters that say where a stage's real data sets lie, and its CLIP outside of this repository."""
        names = [f"{kind}_{dataset}" for kind in ("data", "lists") for dataset in sorted(_datasets(dict(self), stage))]
        names += ["clip"] * Path(self.clip).is_absolute()
        return {name: getattr(self, name) for name in names if name != "data_embedded" and hasattr(self, name)}

    def made(self, record: Mapping[str, Any], stage: type[SceneParams]) -> bool:
        """Whether these parameters and places made a record. Moved data keep the hash: see `checkpoints.take_up`."""
        recorded, places = record.get("params", {}), self.places(stage)
        same_places = all(recorded.get(name, place) == place for name, place in places.items())
        return same_places and record.get("params_hash") == self.stage_hash(stage)


def stage_hash(values: Mapping[str, Any], stage: type[SceneParams]) -> str:
    """Twelve hex digits over the parameters that a stage (one of the classes above) and the stages before it use.

    values: parameters, such as a record's. Raises KeyError if one that counts is missing.
    """
    excluded = set()
    for name, field in stage.model_fields.items():
        neutral = [mark.value for mark in field.metadata if isinstance(mark, Neutral)]
        if neutral and values.get(name, neutral[0]) == neutral[0]:
            excluded.add(name)
    if issubclass(stage, AdaptParams):
        excluded |= _unused(values, stage)
        clip = Path(values["clip"])
        values = {**values, "clip": clip.name if clip.is_absolute() else values["clip"]}
    counted = {name: values[name] for name in stage.model_fields if name not in excluded}
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:12]


def _datasets(values: Mapping[str, Any], stage: type[SceneParams]) -> set[str]:
    return {values["dataset"], *(values["evaluate_on"] if issubclass(stage, EvaluateParams) else ())}


def _unused(values: Mapping[str, Any], stage: type[SceneParams]) -> set[str]:
    """The parameters that an adaptation or an evaluation does not use, and those that say where data lie.

    Data and the weights of a CLIP are recorded by their content (`records.sources_of`). Of the embedded world,
    parameters determine them before anything is rendered: there they count.
    """
    prefixes = ["data_", "lists_"]
    prefixes += ["local_"] * (values["local_views"] == 0)
    prefixes += ["head_", "feature_learning_rate_scale"] * (values["objective"] != "feature")
    prefixes += ["must_"] * (values["objective"] != "must")
    prefixes += ["centre_momentum"] * (values["target_normalisation"] != "centring")
    prefixes += ["trained_last_blocks"] * (values["trained"] != "last_blocks")
    prefixes += ["attentive_"] * (not values.get("attentive_epochs"))
    prefixes += ["balance_temperature"] * (not values.get("balance_predictions", False))
    unused = {name for name in stage.model_fields if name.startswith(tuple(prefixes))}
    if _datasets(values, stage).isdisjoint(RENDERED):
        unused |= WorldParams.model_fields.keys()
    if values["dataset"] not in RENDERED:
        unused |= ClipParams.model_fields.keys() - SceneParams.model_fields.keys() - {"clip"}
    return unused
