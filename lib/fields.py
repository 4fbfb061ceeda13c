"""The parameters: names, types, and what must fit together. Their values, units and sources are in `params/base.yaml`.

The classes say what depends on what: videos and embedded CLIP on the scene, an adaptation on both, an evaluation on it.
`Params.stage_hash` therefore changes for a stage exactly when one of its parameters, or of an earlier stage, does.
"""

import hashlib
import json
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]
Above0 = Annotated[float, Field(gt=0)]
Range = Annotated[list[Share], Field(min_length=2, max_length=2)]
Choices = Annotated[list[Positive], Field(min_length=1)]
DataSet = Literal["embedded", "folder", "ucf101", "hmdb51", "kinetics400", "charades"]
ViewName = Annotated[str, Field(pattern=r"^[1-9]\d*x[1-9]\d*x[13]@[1-9]\d*$")]  # frames x clips x crops @ pixels
EvalViews = Annotated[list[ViewName], Field(min_length=1)]


class SceneParams(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    world_seed: Count
    world_size: Positive
    world_frames: Annotated[int, Field(ge=8)]
    world_fps: Positive


class WorldParams(SceneParams):
    world_difficulty: Share
    world_train: Count
    world_validation: Count
    world_test: Count


class ClipParams(SceneParams):
    clip: str
    clip_stills: Positive
    clip_held_out_stills: Positive
    clip_action_named: Share
    clip_action_wrong: Share
    clip_attribute_named: Share
    clip_attribute_wrong: Share
    clip_action_skew: Amount
    clip_image_size: Positive
    clip_patch_size: Positive
    clip_width: Positive
    clip_layers: Positive
    clip_heads: Positive
    clip_text_width: Positive
    clip_text_layers: Positive
    clip_vocabulary: Positive
    clip_projection: Positive
    clip_epochs: Positive
    clip_batch_size: Positive
    clip_muon_learning_rate: Above0
    clip_learning_rate: Above0
    clip_words_weight: Amount
    clip_warmup: Share
    clip_weight_decay: Amount


class AdaptParams(WorldParams, ClipParams):
    dataset: DataSet
    data_embedded: str
    data_folder: str
    data_ucf101: str
    data_hmdb51: str
    data_kinetics400: str
    data_charades: str
    lists_ucf101: str
    lists_hmdb51: str
    lists_kinetics400: str
    lists_charades: str
    split: Annotated[int, Field(ge=1, le=3)]
    train_videos: Count
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
    local_span: Share
    local_image_size: Positive
    local_scale: Range
    flip: Share
    jitter_probability: Share
    brightness: Share
    contrast: Share
    saturation: Share
    gray_probability: Share

    temporal: Literal["none", "divided", "divided_copied", "joint"]
    temporal_positions: Positive
    trained: Literal["all", "temporal", "last_blocks"]
    trained_last_blocks: Positive

    concepts: Annotated[list[str], Field(min_length=1)]
    class_vocabularies: Annotated[list[str], Field(min_length=1)]
    concept_labels: Literal["vocabulary", "dataset"]
    concept_names: list[str]
    num_concepts: Count
    concept_seed: Count
    concept_texts: Literal["written", "shuffled", "random_words"]
    concept_spaces: Annotated[list[Literal["category", "description"]], Field(min_length=1, max_length=2)]
    concept_directions: Literal["text", "random"]
    train_concepts: bool
    prompts: str
    num_descriptions: Positive
    description_axes: Literal["mean", "each"]

    objective: Literal["concept", "feature", "label"]
    distillation_weight: Amount
    alignment_weight: Amount
    student_temperature: Above0
    teacher_temperature: Above0
    prior: list[Literal["penalty", "sinkhorn", "centring"]]
    prior_weight: Amount
    prior_memory: Count
    sinkhorn_rounds: Positive
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
    feature_learning_rate_scale: Amount
    final_learning_rate: Amount
    weight_decay: Amount
    final_weight_decay: Amount
    clip_gradient: Above0
    teacher_momentum: Share
    final_teacher_momentum: Share
    train_precision: Literal["float32", "bfloat16"]
    max_bad_videos: Count
    threads: Positive

    @model_validator(mode="after")
    def _consistent(self) -> "AdaptParams":
        if self.alignment_weight > 0 and self.objective == "concept" and len(set(self.concept_spaces)) < 2:
            raise ValueError("alignment_weight needs both concept_spaces; set it to 0 or give both")
        if self.temporal == "none" and self.trained == "temporal":
            raise ValueError("trained: temporal needs temporal weights, but temporal is none")
        if {"sinkhorn", "centring"} <= set(self.prior):
            raise ValueError("prior: sinkhorn and centring both act on the teacher; choose one")
        if self.objective == "feature" and self.prior != ["centring"]:
            raise ValueError("objective feature uses SVT's head, whose prior is [centring]")
        if self.concept_labels == "dataset" and not set(self.concepts) <= set(self.class_vocabularies):
            raise ValueError(f"concept_labels: dataset looks into class_vocabularies, {self.class_vocabularies}: concepts, "
                             f"{self.concepts}, would not be looked at")
        return self


class EvaluateParams(AdaptParams):
    evaluate_model: Literal["student", "teacher"]
    evaluate_on: Annotated[list[DataSet], Field(min_length=1)]
    evaluate_parts: Annotated[list[Literal["validation", "test"]], Field(min_length=1)]
    evaluate_splits: Annotated[list[Annotated[int, Field(ge=1, le=3)]], Field(min_length=1)]
    zero_shot_protocols: Annotated[list[Literal["split", "full", "half"]], Field(min_length=1)]
    zero_shot_prompts: str
    zero_shot_views: EvalViews
    still_views: list[ViewName]
    probe_on: list[DataSet]
    probe_views: EvalViews
    probe_shots: list[Positive]
    probe_shot_draws: Positive
    probe_seed: Count
    average_views: Literal["features", "probabilities"]
    eval_precision: Literal["float32", "bfloat16"]
    score_spaces: Annotated[list[Literal["category", "description"]], Field(min_length=1, max_length=2)]
    balance_predictions: bool
    balance_temperature: Above0
    probe_feature: Literal["features", "embedding"]
    probe_normalise: Literal["raw", "standardise", "l2"]
    probe_c: Annotated[list[Above0], Field(min_length=1)]
    probe_refinements: Count
    probe_held_out: Annotated[float, Field(gt=0, lt=1)]
    probe_max_iter: Positive
    probe_tolerance: Above0
    knn_k: Choices
    bootstrap_rounds: Positive

    @model_validator(mode="after")
    def _probed_is_evaluated(self) -> "EvaluateParams":
        if other := set(self.probe_on) - set(self.evaluate_on):
            raise ValueError(f"probe_on: {sorted(other)} must stand in evaluate_on too")
        if "charades" in self.probe_on:
            raise ValueError("probe_on: the probe of multi-label Charades is not part of this project")
        if self.balance_predictions and self.average_views != "features":
            raise ValueError("balance_predictions takes cosines: it needs average_views: features")
        return self


class Params(EvaluateParams):
    """Every parameter; the last ones say how the work is done here. They change no result but in how sums are rounded."""

    allow_missing: bool
    manifests: str
    device: str
    devices: Positive
    micro_batch: Count
    activation_checkpointing: bool
    compile: bool
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

    @model_validator(mode="after")
    def _batch_fits_devices(self) -> "Params":
        if self.batch_size % self.devices:
            raise ValueError(f"batch_size, {self.batch_size}, is over all devices: make it a multiple of {self.devices}")
        if self.micro_batch * self.devices > self.batch_size:
            raise ValueError(f"micro_batch: {self.micro_batch} videos on each of {self.devices} devices exceed "
                             f"batch_size, {self.batch_size}")
        return self

    def stage_hash(self, stage: type[SceneParams]) -> str:
        """Twelve hex digits over the parameters of a stage (one of the classes above) and of the stages before it.

        Where the data sets lie that a stage does not use is left out.
        """
        used = {self.dataset} | (set(self.evaluate_on) if issubclass(stage, EvaluateParams) else set())
        places = {f"{kind}_{name}" for kind in ("data", "lists") for name in {*get_args(DataSet)} - used}
        chosen = {name: getattr(self, name) for name in stage.model_fields if name not in places}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:12]
