"""The parameters of rendered videos and of the CLIPs that are pretrained on stills of them (`params/base.yaml`)."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from lib.run.values import Above0, Amount, Count, Neutral, Once, Positive, Range, Share


class SceneParams(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    world: Annotated[str, Neutral("embedded")]
    world_seed: Count
    world_size: Positive
    world_frames: Annotated[int, Field(ge=8)]
    world_fps: Positive


class WorldParams(SceneParams):
    world_difficulty: Share
    world_train: Count
    world_validation: Count
    world_test: Count
    world_clips_per_film: Annotated[Count, Neutral(0)]


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
    clip_crop_scale: Annotated[Range, Neutral([0.7, 1.0])]
    clip_keep_epochs: Annotated[list[Positive], Once, Neutral([])]
