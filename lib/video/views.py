"""Space-time views of a video: random global and local crops for training, fixed crops for evaluation.

The training recipe is SVT's (Self-supervised Video Transformer, CVPR 2022), as in its released code. `*_indices` select
the frames of each view before decoding, `*_views` cut the views from the decoded frames.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of OpenAI CLIP's training images, RGB in 0..1
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
CROP_ASPECTS = (3 / 4, 4 / 3)  # width / height of random crops before they are resized to a square, as in DINO and SVT
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True, kw_only=True)
class ViewSettings:
    """Sampling and augmentation of the training views; `params/base.yaml` holds SVT's values.

    All views lie in one randomly placed clip of `num_frames` x `frame_stride` frames at `source_fps`, or in the whole
    video if that is shorter. Each view draws its number of frames and spreads them evenly over its time span.
    """

    num_frames: int
    frame_stride: int  # frames
    source_fps: float  # frames per second; videos with another rate are sampled over the same duration
    global_views: int
    global_num_frames: tuple[int, ...]
    global_shift: int  # frames at source_fps between the starts of the first and the last global view
    global_scale: tuple[float, float]  # fraction of the frame area
    image_size: int  # pixels
    local_views: int
    local_num_frames: tuple[int, ...]
    local_span: float  # fraction of the clip duration
    local_scale: tuple[float, float]  # fraction of the frame area
    local_image_size: int  # pixels
    num_frames_draw: str  # stratified | independent, of the views of a batch
    flip_probability: float
    jitter_probability: float
    brightness: float  # factors are drawn from 1 +- this value
    contrast: float
    saturation: float
    gray_probability: float

    def __post_init__(self):
        if self.global_views < 1 or self.local_views < 0:
            raise ValueError(f"views: need at least one global view, got {self.global_views} + {self.local_views}")
        if min(*self.global_num_frames, *(self.local_num_frames if self.local_views else ()), 1) < 1:
            raise ValueError("views: every number of frames must be at least 1")
        for name in ("global_scale", "local_scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise ValueError(f"views: {name} must be two fractions 0 < low <= high <= 1, got {(low, high)}")
        if not 0 < self.local_span <= 1:
            raise ValueError(f"views: local_span must lie in (0, 1], got {self.local_span}")
        if self.num_frames_draw not in ("stratified", "independent"):
            raise ValueError(f"views: num_frames_draw is stratified or independent, got {self.num_frames_draw}")


class EvalView(NamedTuple):
    """An evaluation view in the field's notation, "16x3x1@224": frames x clips x crops @ pixels."""

    num_frames: int  # per clip
    clips: int  # temporal clips per video
    crops: int  # 1: centre crop, 3: along the long side
    image_size: int  # pixels

    @classmethod
    def parse(cls, text: str) -> "EvalView":
        return cls(*map(int, re.split("[x@]", text)))


class Augmentation(NamedTuple):
    """The random choices of one training view, drawn before any pixel is touched."""

    crop: tuple[int, int, int, int]  # top, left, height, width in pixels
    image_size: int  # of the view, pixels
    flip: bool
    jitter: list[tuple[str, float]]  # operation and factor, in the order of application
    gray: bool


def draw_num_frames(settings: ViewSettings, generator: np.random.Generator) -> tuple[int, ...]:
    """Number of frames of every view, globals first; drawn once per batch so that views can be stacked.

    independent: one draw per view, as in SVT. stratified: every choice is used equally often, in random order (a
    remainder is drawn without replacement). Each view has the same distribution, and steps have equally many tokens.
    """
    groups = [(settings.global_num_frames, settings.global_views), (settings.local_num_frames, settings.local_views)]
    if settings.num_frames_draw == "independent":
        drawn = [generator.choice(choices) for choices, views in groups for _ in range(views)]
    else:
        drawn = [num_frames for choices, views in groups for num_frames in _stratified(choices, views, generator)]
    return tuple(int(num_frames) for num_frames in drawn)


def _stratified(choices: tuple[int, ...], views: int, generator: np.random.Generator) -> np.ndarray:
    repeats, remainder = divmod(views, len(choices))
    drawn = np.concatenate([np.tile(choices, repeats), generator.choice(choices, remainder, replace=False)])
    return generator.permutation(drawn)


def training_indices(
    settings: ViewSettings,
    *,
    num_source_frames: int,
    fps: float,
    num_frames: tuple[int, ...],
    generator: np.random.Generator,
) -> list[np.ndarray]:
    """Frame indices of every view: arrays 't' with the lengths `num_frames`, globals first.

    In a clip of L frames, the global views cover 0..L-shift to shift..L; local views cover random windows of
    L x local_span frames. Short videos repeat frames.
    """
    seconds = settings.num_frames * settings.frame_stride / settings.source_fps
    length = int(np.clip(round(seconds * fps), 1, num_source_frames))
    start = int(generator.integers(num_source_frames - length + 1))
    shift = min(round(settings.global_shift / settings.source_fps * fps), length - 1)
    local_length = max(1, round(settings.local_span * length))
    windows = [(start + round(offset), length - shift) for offset in np.linspace(0, shift, settings.global_views)]
    for _ in range(settings.local_views):
        windows.append((start + int(generator.integers(length - local_length + 1)), local_length))
    return [_spread(first, span, t) for (first, span), t in zip(windows, num_frames, strict=True)]


def draw_augmentations(
    settings: ViewSettings, height: int, width: int, generator: np.random.Generator
) -> list[Augmentation]:
    """Draws the augmentation of every view, globals first, of frames with this height and width."""
    augmentations = []
    for number in range(settings.global_views + settings.local_views):
        is_global = number < settings.global_views
        crop = _random_crop(height, width, settings.global_scale if is_global else settings.local_scale, generator)
        flip = generator.random() < settings.flip_probability
        jitter = []
        if generator.random() < settings.jitter_probability:
            for operation in generator.permutation(["brightness", "contrast", "saturation"]):
                strength = getattr(settings, operation)
                jitter.append((operation, float(generator.uniform(max(0.0, 1 - strength), 1 + strength))))
        gray = generator.random() < settings.gray_probability
        image_size = settings.image_size if is_global else settings.local_image_size
        augmentations.append(Augmentation(crop, image_size, flip, jitter, gray))
    return augmentations


def _random_crop(
    height: int, width: int, scale: tuple[float, float], generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """Random area and aspect ratio ("Inception crop"); the centre if none of ten draws fits."""
    for _ in range(10):
        area = height * width * generator.uniform(*scale)
        aspect = np.exp(generator.uniform(*np.log(CROP_ASPECTS)))
        h, w = round(np.sqrt(area / aspect)), round(np.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            return int(generator.integers(height - h + 1)), int(generator.integers(width - w + 1)), h, w
    h, w = min(height, round(width / CROP_ASPECTS[0])), min(width, round(height * CROP_ASPECTS[1]))
    return (height - h) // 2, (width - w) // 2, h, w


def training_views(pixels: Tensor, rows: list[np.ndarray], augmentations: list[Augmentation]) -> list[Tensor]:
    """Cuts the views of one video; all frames of a view are augmented alike.

    pixels: decoded frames 't h w c' uint8, on any device. rows: for each view, the rows of its frames in `pixels`.
    Returns normalised float tensors 'c t h w' on the same device.
    """
    views = []
    for view_rows, (crop, image_size, flip, jitter, gray) in zip(rows, augmentations, strict=True):
        top, left, height, width = crop
        view = pixels[:, top : top + height, left : left + width][torch.from_numpy(view_rows).to(pixels.device)]
        view = _resize(rearrange(view, "t h w c -> t c h w").float().div_(255), (image_size, image_size))
        if flip:
            view = view.flip(-1)
        for operation, factor in jitter:
            view = _jitter(view, operation, factor)
        if gray:
            view = _gray(view).expand_as(view)
        views.append(_normalise(view))
    return views


def _jitter(view: Tensor, operation: str, factor: float) -> Tensor:
    if operation == "brightness":
        view = view * factor
    elif operation == "contrast":  # relative to the mean of the whole view: a mean per frame would flicker
        view = torch.lerp(_gray(view).mean(), view, factor)
    else:  # saturation
        view = torch.lerp(_gray(view).expand_as(view), view, factor)
    return view.clamp(0, 1)


def evaluation_indices(num_source_frames: int, *, num_frames: int, clips: int = 1) -> np.ndarray:
    """Frame indices of the evaluation clips, 'v t'. Deterministic; every clip spans the whole video.

    The video is divided into `num_frames` equal segments, and each clip takes one frame per segment: a single clip the
    middle frame, several clips evenly spaced ones.
    """
    phase = (np.arange(clips)[:, None] + 0.5) / clips
    return ((np.arange(num_frames) + phase) / num_frames * num_source_frames).astype(int)


def evaluation_views(frames: np.ndarray, rows: np.ndarray, *, crops: int, image_size: int) -> Tensor:
    """Square crops of the full short side: the centre (1 crop), or start, centre and end of the long side (3 crops).

    frames: decoded 't h w c' uint8, resized if the short side differs from `image_size`. rows: 'v t', for each clip the
    rows of its frames in `frames`. Returns a normalised float tensor 'v c t h w', v = clips x crops, crops innermost.
    """
    if crops not in (1, 3):
        raise ValueError(f"evaluation takes 1 or 3 crops, got {crops}")
    pixels = rearrange(torch.from_numpy(frames), "t h w c -> t c h w").float().div_(255)
    height, width = pixels.shape[-2:]
    if min(height, width) != image_size:
        scale = image_size / min(height, width)
        pixels = _resize(pixels, (round(height * scale), round(width * scale)))
    pixels = _normalise(pixels)
    spare_height, spare_width = pixels.shape[-2] - image_size, pixels.shape[-1] - image_size
    squares = []
    for position in (0.5,) if crops == 1 else (0.0, 0.5, 1.0):
        top, left = int(spare_height * position), int(spare_width * position)
        squares.append(pixels[:, :, top : top + image_size, left : left + image_size])
    views = torch.stack(squares)[:, :, torch.from_numpy(np.asarray(rows))]  # crops c v t h w
    return rearrange(views, "crop c v t h w -> (v crop) c t h w").contiguous()


def _spread(first: int, span: int, num_frames: int) -> np.ndarray:
    """`num_frames` evenly spaced indices from first to first + span - 1; a single one lies in the middle."""
    if num_frames == 1:
        return np.array([first + (span - 1) // 2])
    return first + np.linspace(0, span - 1, num_frames).round().astype(int)


def _resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)


def _gray(view: Tensor) -> Tensor:
    return torch.einsum("tchw,c->thw", view, torch.tensor(LUMA, device=view.device)).unsqueeze(1)


def _normalise(pixels: Tensor) -> Tensor:
    """'t c h w' in 0..1 -> 'c t h w' with CLIP's mean and standard deviation removed."""
    mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return rearrange((pixels - mean) / std, "t c h w -> c t h w").contiguous()
