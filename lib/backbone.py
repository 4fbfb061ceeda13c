"""The space-time backbone: an image CLIP that looks at videos.

The image encoder is CLIP's vision transformer, applied to every frame. What is added is temporal attention, in one of
four forms (`temporal`):

- `divided`: in every block, before the spatial attention, attention over the `t` tokens at one spatial position (the
  class token included) with a LayerNorm of its own and a residual, as in TimeSformer (ICML 2021). Its output projection
  starts at zero, so that the untrained video model is the image CLIP averaged over the frames.
- `divided_copied`: the same, but the branch starts as a copy of the block's spatial attention.
- `joint`: the spatial attention runs over all tokens of all frames at once.
- `none`: frames do not see each other.

Views of one picture size run in one packed pass, whatever their lengths: their frames are one sequence, and only the
temporal attention knows where a clip ends. Weights before the final norm may be bfloat16; what follows is float32.

Tensors are named by einops axes: b videos, c channels, t frames, f frames of all clips, n tokens of a frame (class
token first), w features, r rows.
"""

import copy
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Literal, NamedTuple

import torch
from einops import rearrange, reduce, repeat
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, CLIPConfig, CLIPModel, CLIPTextModel, PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN

from lib.run.clip_files import is_rgb, load_whole, normalisation, visual_weights
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
                "image_mean and image_std must be three numbers in 0..1 and above 0, "
                f"not {self.image_mean}, {self.image_std}"
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


class Packing(NamedTuple):
    """How the frames of several clips lie one after another.

    clips: runs of (number of clips, frames of each). by_time '(f n)': the rows sorted by clip, position, then frame;
    by_frame: the order back.
    """

    clips: tuple[tuple[int, int], ...]
    by_time: Tensor
    by_frame: Tensor

    @classmethod
    def of(cls, clips: tuple[tuple[int, int], ...], tokens: int, device: torch.device) -> "Packing":
        by_time, by_frame, first = [], [], 0
        for b, t in clips:
            rows = torch.arange(first, first + b * t * tokens, device=device)
            by_time.append(rearrange(rows, "(b t n) -> (b n t)", b=b, t=t))
            by_frame.append(rearrange(rows, "(b n t) -> (b t n)", b=b, t=t))
            first += b * t * tokens
        return cls(clips, torch.cat(by_time), torch.cat(by_frame))


class Reorder(torch.autograd.Function):
    """Rows 'r w' in another order. The gradient is gathered by the inverse; that of indexing would be scattered."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient.index_select(0, ctx.saved_tensors[0]), None, None


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection and torch's fused kernel, within sequences of rows.

    Queries are computed only for every `stride`-th token; the output has one row per query. There is no dropout.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, sequences: Sequence[tuple[int, int]], stride: int = 1) -> Tensor:
        """Rows 'r w' -> '(r / stride) w'. sequences: runs of (count, tokens of each), in the order of rows."""
        # Cut along the last axis: along an axis of its own for the three, their gradient would be copied twice.
        runs = [self.qkv(x).chunk(3, dim=-1)]
        if len(sequences) > 1:
            runs = zip(*(part.split([s * n for s, n in sequences]) for part in runs[0]))
        outputs = []
        for parts, (s, _) in zip(runs, sequences):
            q, k, v = (rearrange(part, "(s n) (heads w) -> s heads n w", s=s, heads=self.heads) for part in parts)
            y = F.scaled_dot_product_attention(q[:, :, ::stride], k, v)
            outputs.append(rearrange(y, "s heads n w -> (s n) (heads w)"))
        return self.out(torch.cat(outputs) if len(outputs) > 1 else outputs[0])


def quick_gelu(x: Tensor) -> Tensor:
    """CLIP's x sigmoid(1.702 x), by torch's fused x sigmoid(x): less is computed, and remembered for the gradient."""
    return F.silu(1.702 * x).mul_(1 / 1.702)


class Block(nn.Module):
    """One pre-norm transformer block over the tokens of packed clips, 'f n w -> f n w'.

    With `class_only`, for the last block, only the class tokens are computed: 'f 1 w'.
    """

    def __init__(self, config: VideoCLIPConfig):
        super().__init__()
        vision = config.vision_config
        self.divided = config.temporal in ("divided", "divided_copied")
        self.joint = config.temporal == "joint"
        if self.divided:
            self.temporal_norm = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)
            self.temporal_attention = Attention(vision)
        self.norm1 = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)
        self.attention = Attention(vision)
        self.norm2 = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)
        self.fc1 = nn.Linear(vision.hidden_size, vision.intermediate_size)
        self.activation = quick_gelu if vision.hidden_act == "quick_gelu" else ACT2FN[vision.hidden_act]
        self.fc2 = nn.Linear(vision.intermediate_size, vision.hidden_size)

    def forward(self, x: Tensor, packing: Packing, positions: Tensor | None, class_only: bool = False) -> Tensor:
        """positions: the temporal ones of every frame, 'f 1 w'; None without temporal attention."""
        f, n, _ = x.shape
        if self.divided:
            # After the norm, so that the positions keep their weight however large the residual stream has grown.
            y = (self.temporal_norm(x) + positions).flatten(0, 1)
            y = Reorder.apply(y, packing.by_time, packing.by_frame)
            y = self.temporal_attention(y, [(b * n, t) for b, t in packing.clips])
            x = x + rearrange(Reorder.apply(y, packing.by_frame, packing.by_time), "(f n) w -> f n w", n=n)
        sequences = [(b, t * n) for b, t in packing.clips] if self.joint else [(f, n)]
        y = self.attention(self.norm1(x).flatten(0, 1), sequences, stride=n if class_only else 1)
        x = x[:, :1] if class_only else x
        x = x + rearrange(y, "(f n) w -> f n w", f=f)
        return x + self.fc2(self.activation(self.fc1(self.norm2(x))))


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

    def forward(self, views: Sequence[Tensor]) -> list[VideoCLIPOutput]:
        """Views 'b c t h w' of one size, of any b and t; h and w multiples of the patch -> an output each, float32.

        Pixels are normalised with OpenAI's mean and standard deviation (`lib/video/views.py`), whatever the image CLIP.
        """
        self._check(views)
        # Clips of one length lie together: the temporal attention then runs once per length.
        order = sorted(range(len(views)), key=lambda i: views[i].shape[2])
        runs = groupby(order, key=lambda i: views[i].shape[2])
        clips = tuple((sum(len(views[i]) for i in members), t) for t, members in runs)
        patches = torch.cat(
            [rearrange(views[i], "b c t (h p) (w q) -> (b t) (h w) (c p q)", p=self.patch, q=self.patch) for i in order]
        )
        x = self._embed(patches, views[0].shape[-2] // self.patch)
        positions = None
        if self.temporal != "none":
            positions = [repeat(self._temporal_positions(t), "t w -> (b t) 1 w", b=b) for b, t in clips]
            positions = torch.cat(positions).to(x.dtype)
        x = self.pre_norm(x + positions if self.temporal == "joint" else x)
        packing = Packing.of(clips, x.shape[1], x.device)
        for block in self.blocks:
            arguments = (x, packing, positions, block is self.blocks[-1])
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, *arguments, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(*arguments)
        features = self.final_norm(x[:, 0].float())
        lengths = [b * t for b, t in clips]
        means = [reduce(rows, "(b t) w -> b w", "mean", t=t) for rows, (_, t) in zip(features.split(lengths), clips)]
        features = torch.cat(means)
        parts = [part.split([len(views[i]) for i in order]) for part in (features, self.projection(features))]
        outputs = dict(zip(order, map(VideoCLIPOutput, *parts)))
        return [outputs[i] for i in range(len(views))]

    def _check(self, views: Sequence[Tensor]) -> None:
        """Raises ValueError for views that cannot run in one pass."""
        for view in views:
            if view.ndim != 5 or view.shape[1] != self.channels or not view.is_floating_point():
                raise ValueError(
                    f"videos must be floating point 'b c t h w' with c = {self.channels},"
                    f" not {view.dtype} of shape {tuple(view.shape)}"
                )
        if len(sizes := {tuple(view.shape[-2:]) for view in views}) > 1:
            raise ValueError(f"views of one pass must have one size in pixels, not {sorted(sizes)}")
        height, width = sizes.pop()
        if height % self.patch or width % self.patch:
            raise ValueError(f"frames of {height} x {width} pixels: both must be multiples of the patch, {self.patch}")

    def _embed(self, patches: Tensor, rows: int) -> Tensor:
        """Patches 'f (h w) (c p q)' in `rows` rows of a frame -> tokens 'f n w', with their spatial positions."""
        if (self.image_mean, self.image_std) != (CLIP_MEAN, CLIP_STD):
            mean, std, own_mean, own_std = (
                repeat(patches.new_tensor(values), "c -> (c p)", p=self.patch**2)
                for values in (CLIP_MEAN, CLIP_STD, self.image_mean, self.image_std)
            )
            patches = (patches * std + mean - own_mean) / own_std
        x = self.patch_embedding(patches.to(self.patch_embedding.weight.dtype))
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1).to(x.dtype), x], dim=1)
        return x + self._spatial_positions(rows, patches.shape[1] // rows).to(x.dtype)

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
        lacking, unknown = model.visual.load_state_dict(visual_weights(clip), strict=False)
        assert not unknown and all(map(is_temporal, lacking)), (lacking, unknown)
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
        return self.visual([videos])[0]

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Token ids 'b n' -> text embeddings 'b d' in CLIP's joint space, not normalised."""
        pooled = self.text_model(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        return self.text_projection(pooled)


def is_temporal(parameter_name: str) -> bool:
    """Whether a parameter of `VideoCLIP` is one that its image CLIP does not have (for the optimiser's groups)."""
    return "temporal_" in parameter_name


def in_precision(visual: VideoTransformer, precision: str) -> VideoTransformer:
    """The model itself for "float32"; for "bfloat16" a copy with bfloat16 weights before its final norm.

    Norms and softmax compute in float32 inside their kernels, and everything after the last block is float32.
    """
    if precision == "float32":
        return visual
    working = copy.deepcopy(visual)
    for part in (working.patch_embedding, working.pre_norm, working.blocks):
        part.to(torch.bfloat16)
    return working
