"""The space-time backbone: an image CLIP that looks at videos.

The image encoder is CLIP's vision transformer, applied to every frame. What is added is temporal attention, in one of
four forms (`temporal`):

- `divided`: in every block, before the spatial attention, attention over the `t` tokens at one spatial position (the
  class token included) with a LayerNorm of its own and a residual, as in TimeSformer (ICML 2021). Its output projection
  starts at zero, so that the untrained video model is the image CLIP averaged over the frames.
- `divided_copied`: the same, but the branch starts as a copy of the block's spatial attention.
- `joint`: the spatial attention runs over all tokens of all frames at once.
- `none`: frames do not see each other.

Tensors are named by einops axes: b videos, c channels, t frames, n tokens of a frame (class token first), w features.
"""

from typing import Any, Literal, NamedTuple

import torch
from einops import rearrange
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, CLIPConfig, CLIPModel, CLIPTextModel, PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN

from lib.run.clip_files import is_rgb, load_whole, normalisation
from lib.video.views import CLIP_MEAN, CLIP_STD

Temporal = Literal["none", "divided", "divided_copied", "joint"]


@strict
class VideoCLIPConfig(CLIPConfig):
    """A `CLIPConfig` (with its `vision_config`, `text_config` and `projection_dim`) and what is added to it.

    temporal: the form of temporal attention, see the head of this module.
    temporal_positions: rows of the temporal position embedding; other frame counts are interpolated from them.
    image_mean, image_std: with which the image CLIP's own pictures were normalised, RGB in 0..1.
    """

    model_type = "video_clip"

    temporal: Temporal = "divided"
    temporal_positions: int = 16
    image_mean: tuple[float, float, float] | list[float] = CLIP_MEAN
    image_std: tuple[float, float, float] | list[float] = CLIP_STD

    def validate_architecture(self):
        """Called by the strict base class: refuses what the model could not be built from."""
        if self.temporal_positions < 1:
            raise ValueError(f"temporal_positions must be at least 1, not {self.temporal_positions}")
        if not is_rgb(self.image_mean, 0, 1) or not is_rgb(self.image_std, 1e-6, 1e6):
            raise ValueError(
                f"image_mean and image_std must be three numbers in 0..1 and above 0, not {self.image_mean}, {self.image_std}"
            )
        for name in ("image_size", "patch_size"):
            value = getattr(self.vision_config, name)
            if not isinstance(value, int):
                raise ValueError(f"vision_config.{name} must be one number (square images and patches), not {value!r}")


AutoConfig.register("video_clip", VideoCLIPConfig)  # so that AutoTokenizer knows a saved run


class VideoCLIPOutput(NamedTuple):
    """features 'b w': before the projection, for probes; embedding 'b d': in CLIP's joint space, not normalised."""

    features: Tensor
    embedding: Tensor


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection and torch's fused kernel; 'b n w -> b n w'.

    Queries are computed only for every `stride`-th token; the output has one row per query. CLIP trains without dropout.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, stride: int = 1) -> Tensor:
        # Cut along the last axis: along an axis of its own for the three, their gradient would be copied twice.
        q, k, v = (
            rearrange(part, "b n (heads w) -> b heads n w", heads=self.heads) for part in self.qkv(x).chunk(3, dim=-1)
        )
        x = F.scaled_dot_product_attention(q[:, :, ::stride], k, v)
        return self.out(rearrange(x, "b heads n w -> b n (heads w)"))


def quick_gelu(x: Tensor) -> Tensor:
    """CLIP's x sigmoid(1.702 x), by torch's fused x sigmoid(x): less is computed, and remembered for the gradient."""
    return F.silu(1.702 * x).mul_(1 / 1.702)


class Block(nn.Module):
    """One pre-norm transformer block over the tokens of a video, 'b t n w -> b t n w'.

    With `class_only` the last block: only the class tokens are computed, 'b t 1 w', as nobody looks at the others.
    """

    def __init__(self, config: VideoCLIPConfig):
        super().__init__()
        vision = config.vision_config
        self.divided = config.temporal in ("divided", "divided_copied")
        self.tokens = "b (t n) w" if config.temporal == "joint" else "(b t) n w"  # what attends to one another
        if self.divided:
            self.temporal_norm = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)
            self.temporal_attention = Attention(vision)
        self.norm1 = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)
        self.attention = Attention(vision)
        self.norm2 = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)
        self.fc1 = nn.Linear(vision.hidden_size, vision.intermediate_size)
        self.activation = quick_gelu if vision.hidden_act == "quick_gelu" else ACT2FN[vision.hidden_act]
        self.fc2 = nn.Linear(vision.intermediate_size, vision.hidden_size)

    def forward(self, x: Tensor, temporal_positions: Tensor | None, class_only: bool = False) -> Tensor:
        b, t, n = x.shape[:3]
        if self.divided:
            # After the norm, so that the positions keep their weight however large the residual stream has grown.
            y = self.temporal_norm(x) + rearrange(temporal_positions, "t w -> t 1 w")
            # A strided input would make of the projection one product per position, each with a copy of the weights.
            y = rearrange(y, "b t n w -> (b n) t w").contiguous()
            x = x + rearrange(self.temporal_attention(y), "(b n) t w -> b t n w", b=b)
        y = self.attention(rearrange(self.norm1(x), f"b t n w -> {self.tokens}"), stride=n if class_only else 1)
        x = x[:, :, :1] if class_only else x
        x = x + rearrange(y, f"{self.tokens} -> b t n w", b=b, t=t)
        return x + self.fc2(self.activation(self.fc1(self.norm2(x))))

    def copy_from_clip(self, layer: nn.Module) -> None:
        """Takes over the weights of one `CLIPEncoderLayer`."""
        self.norm1.load_state_dict(layer.layer_norm1.state_dict())
        self.norm2.load_state_dict(layer.layer_norm2.state_dict())
        self.fc1.load_state_dict(layer.mlp.fc1.state_dict())
        self.fc2.load_state_dict(layer.mlp.fc2.state_dict())
        projections = (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)
        self.attention.qkv.weight.copy_(torch.cat([projection.weight for projection in projections]))
        self.attention.qkv.bias.copy_(torch.cat([projection.bias for projection in projections]))
        self.attention.out.load_state_dict(layer.self_attn.out_proj.state_dict())


class VideoTransformer(nn.Module):
    """CLIP's vision transformer with temporal attention and CLIP's visual projection."""

    activation_checkpointing = False  # True: blocks are computed again on the way back, instead of being remembered

    def __init__(self, config: VideoCLIPConfig):
        super().__init__()
        vision = config.vision_config
        self.temporal = config.temporal
        self.channels, self.patch = vision.num_channels, vision.patch_size
        self.image_mean, self.image_std = tuple(config.image_mean), tuple(config.image_std)
        self.grid = vision.image_size // vision.patch_size  # patches along each side of CLIP's own images
        self.patch_embedding = nn.Linear(vision.num_channels * vision.patch_size**2, vision.hidden_size, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(vision.hidden_size))
        self.position_embedding = nn.Parameter(torch.zeros(1 + self.grid**2, vision.hidden_size))
        if config.temporal != "none":
            self.temporal_position_embedding = nn.Parameter(torch.zeros(config.temporal_positions, vision.hidden_size))
        self.pre_norm = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)
        self.blocks = nn.ModuleList(Block(config) for _ in range(vision.num_hidden_layers))
        self.final_norm = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)
        self.projection = nn.Linear(vision.hidden_size, config.projection_dim, bias=False)

    def forward(self, videos: Tensor) -> VideoCLIPOutput:
        """'b c t h w' -> features 'b w', embedding 'b d'. Any t; h and w multiples of the patch.

        Pixels are normalised with OpenAI's mean and standard deviation (`lib/video/views.py`), whatever the image CLIP.
        """
        if videos.ndim != 5 or videos.shape[1] != self.channels or not videos.is_floating_point():
            raise ValueError(
                f"videos must be floating point 'b c t h w' with c = {self.channels},"
                f" not {videos.dtype} of shape {tuple(videos.shape)}"
            )
        b, _, t, height, width = videos.shape
        if height % self.patch or width % self.patch:
            raise ValueError(f"frames of {height} x {width} pixels: both must be multiples of the patch, {self.patch}")

        if (self.image_mean, self.image_std) != (CLIP_MEAN, CLIP_STD):
            mean, std, own_mean, own_std = (
                rearrange(videos.new_tensor(values), "c -> c 1 1 1")
                for values in (CLIP_MEAN, CLIP_STD, self.image_mean, self.image_std)
            )
            videos = (videos * std + mean - own_mean) / own_std
        patches = rearrange(videos, "b c t (h p) (w q) -> b t (h w) (c p q)", p=self.patch, q=self.patch)
        x = self.patch_embedding(patches.to(self.patch_embedding.weight.dtype))
        x = torch.cat([self.class_embedding.expand(b, t, 1, -1).to(x.dtype), x], dim=2)
        x = x + self._spatial_positions(height // self.patch, width // self.patch)
        temporal_positions = None if self.temporal == "none" else self._temporal_positions(t)
        if self.temporal == "joint":
            x = x + rearrange(temporal_positions, "t w -> t 1 w")
        x = self.pre_norm(x)
        for block in self.blocks:
            class_only = block is self.blocks[-1]
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, temporal_positions, class_only, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, temporal_positions, class_only)
        features = self.final_norm(x[:, :, 0]).mean(dim=1)
        return VideoCLIPOutput(features, self.projection(features))

    def _spatial_positions(self, rows: int, columns: int) -> Tensor:
        """'n w': CLIP's position embedding, its grid bicubically resized as Hugging Face's CLIP does."""
        if (rows, columns) == (self.grid, self.grid):
            return self.position_embedding
        first, grid = self.position_embedding[:1], self.position_embedding[1:]
        grid = rearrange(grid, "(h w) c -> 1 c h w", h=self.grid)
        grid = F.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([first, rearrange(grid, "1 c h w -> (h w) c")])

    def _temporal_positions(self, num_frames: int) -> Tensor:
        """'t w': the temporal position embedding; frames are taken as the middles of equal parts of the clip."""
        if num_frames == len(self.temporal_position_embedding):
            return self.temporal_position_embedding
        positions = rearrange(self.temporal_position_embedding, "t w -> 1 w t")
        positions = F.interpolate(positions, size=num_frames, mode="linear", align_corners=False)
        return rearrange(positions, "1 w t -> t w")

    def copy_from_clip(self, clip: CLIPModel) -> None:
        """Takes over the weights of CLIP's image encoder and visual projection."""
        embeddings = clip.vision_model.embeddings
        self.patch_embedding.weight.copy_(rearrange(embeddings.patch_embedding.weight, "w c p q -> w (c p q)"))
        self.class_embedding.copy_(embeddings.class_embedding)
        self.position_embedding.copy_(embeddings.position_embedding.weight)
        self.pre_norm.load_state_dict(clip.vision_model.pre_layrnorm.state_dict())
        for block, layer in zip(self.blocks, clip.vision_model.encoder.layers, strict=True):
            block.copy_from_clip(layer)
        self.final_norm.load_state_dict(clip.vision_model.post_layernorm.state_dict())
        self.projection.load_state_dict(clip.visual_projection.state_dict())

    def start_temporal(self, generator: torch.Generator) -> None:
        """Gives the temporal parameters, which no image CLIP has, the values that training starts from."""
        if self.temporal == "joint":
            # There the positions are added to the tokens themselves: zero keeps one frame at what CLIP makes of it.
            self.temporal_position_embedding.zero_()
        elif self.temporal != "none":
            self.temporal_position_embedding.normal_(std=0.02, generator=generator)
        for block in self.blocks:
            if self.temporal == "divided_copied":
                block.temporal_norm.load_state_dict(block.norm1.state_dict())
                block.temporal_attention.load_state_dict(block.attention.state_dict())
            elif self.temporal == "divided":
                attention = block.temporal_attention
                nn.init.xavier_uniform_(attention.qkv.weight, generator=generator)
                for parameter in (attention.qkv.bias, attention.out.weight, attention.out.bias):
                    parameter.zero_()


class VideoCLIP(PreTrainedModel):
    """An image CLIP adapted to video: `visual` (a `VideoTransformer`) and CLIP's own text tower.

    Made by `VideoCLIP.from_image_clip`; saved and loaded by `save_pretrained` and `from_pretrained` (safetensors).
    """

    config_class = VideoCLIPConfig
    main_input_name = "videos"
    _supports_sdpa = True

    def __init__(self, config: VideoCLIPConfig):
        super().__init__(config)
        self.visual = VideoTransformer(config)
        self.text_model = CLIPTextModel._from_config(config.text_config)
        self.text_projection = nn.Linear(config.text_config.hidden_size, config.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Draws nothing: both ways to a model insist on a checkpoint with every weight (see `load_whole`)."""

    @classmethod
    @torch.no_grad()
    def from_image_clip(
        cls, name_or_path: str, *, temporal: Temporal = "divided", temporal_positions: int = 16, seed: int = 0
    ) -> "VideoCLIP":
        """Builds the video model, in float32 and evaluation mode, from any Hugging Face `CLIPModel` checkpoint.

        name_or_path: a folder with `config.json` and weights, or a hub id. seed: of the temporal parameters that are
        drawn at random. A `model.safetensors` comes first; a `pytorch_model.bin` (all that some hub ids have) is read
        as tensors alone (`weights_only`), so that nothing in it can run. The checkpoint's own normalisation of
        pictures is taken over (LAION's ViT-L/14 differs); without a `preprocessor_config.json` it is OpenAI's.
        Raises ValueError, naming the checkpoint and what was found, if it is no whole CLIP.
        """
        clip = load_whole(CLIPModel.from_pretrained, name_or_path, expected="clip", dtype=torch.float32)
        config = VideoCLIPConfig(
            vision_config=clip.config.vision_config.to_dict(),
            text_config=clip.config.text_config.to_dict(),
            projection_dim=clip.config.projection_dim,
            logit_scale_init_value=clip.config.logit_scale_init_value,
            temporal=temporal,
            temporal_positions=temporal_positions,
            **normalisation(name_or_path),
        )
        with torch.random.fork_rng(devices=[]):  # layers draw weights as they are made; all are replaced below
            model = cls(config)
        model.visual.copy_from_clip(clip)
        model.visual.start_temporal(torch.Generator().manual_seed(seed))
        model.text_model.load_state_dict(clip.text_model.state_dict())
        model.text_projection.load_state_dict(clip.text_projection.state_dict())
        model.logit_scale.copy_(clip.logit_scale)
        return model.eval()

    @classmethod
    def from_pretrained(cls, name_or_path: str, **kwargs: Any) -> "VideoCLIP":
        """Loads what `save_pretrained` wrote. Raises ValueError if a weight is missing, left over or of another shape.

        Keyword arguments are those of `PreTrainedModel.from_pretrained`.
        """
        return load_whole(super().from_pretrained, name_or_path, expected=cls.config_class.model_type, **kwargs)

    def forward(self, videos: Tensor) -> VideoCLIPOutput:
        """'b c t h w' (pixels normalised as OpenAI's) -> features 'b w', embedding 'b d' (not normalised)."""
        return self.visual(videos)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Token ids 'b n' -> text embeddings 'b d' in CLIP's joint space, not normalised."""
        pooled = self.text_model(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        return self.text_projection(pooled)


def is_temporal(parameter_name: str) -> bool:
    """Whether a parameter of `VideoCLIP` is one that its image CLIP does not have (for the optimiser's groups)."""
    return "temporal_" in parameter_name
