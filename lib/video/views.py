"""Space-time views of a video: the global and local crops of training, and the fixed ones of evaluation.

Training follows SVT's recipe (Self-supervised Video Transformer, CVPR 2022, as in its released code). Decoding and
cropping are apart: `*_indices` say which frames a view needs, `*_views` make tensors of the decoded frames.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the pictures that OpenAI's CLIP was trained on, RGB in 0..1
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
CROP_ASPECTS = (3 / 4, 4 / 3)  # width : height of random crops before they are resized to a square, as in DINO and SVT
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True, kw_only=True)
class ViewSettings:
    """What the training views of a video are; `params/base.yaml` has SVT's values.

    All views lie in one clip of `num_frames` x `frame_stride` frames of a `source_fps` video, placed at random (the
    whole video where that is shorter). A view's number of frames is drawn from its `*_num_frames`; they are spread
    evenly over the view's span.
    """

    num_frames: int
    frame_stride: int  # frames
    source_fps: float  # frames per second; at another rate the clip has the same duration
    global_views: int
    global_num_frames: tuple[int, ...]
    global_shift: int  # frames at source_fps by which the first global view starts before the last one
    global_scale: tuple[float, float]  # of the picture's area
    image_size: int  # pixels
    local_views: int
    local_num_frames: tuple[int, ...]
    local_span: float  # of the clip's duration
    local_scale: tuple[float, float]  # of the picture's area
    local_image_size: int  # pixels
    flip_probability: float
    jitter_probability: float
    brightness: float  # factors in 1 +- this
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


class EvalView(NamedTuple):
    """What one evaluation view is, as the field writes it: "16x3x1@224" (checked by `params.EvalViews`)."""

    num_frames: int  # of a clip
    clips: int  # temporal clips of a video
    crops: int  # 1: the centre, 3: along the long side
    image_size: int  # pixels

    @classmethod
    def parse(cls, text: str) -> "EvalView":
        return cls(*map(int, re.split("[x@]", text)))


def draw_num_frames(settings: ViewSettings, generator: np.random.Generator) -> tuple[int, ...]:
    """A number of frames for every view, globals first. Drawn once per batch, so that the batch can be stacked."""
    choices = [settings.global_num_frames] * settings.global_views + [settings.local_num_frames] * settings.local_views
    return tuple(int(generator.choice(options)) for options in choices)


def training_indices(
    settings: ViewSettings,
    *,
    num_source_frames: int,
    fps: float,
    num_frames: tuple[int, ...],
    generator: np.random.Generator,
) -> list[np.ndarray]:
    """The frames of every view: arrays 't' with the lengths `num_frames`, globals first.

    Of a clip of L frames, the globals cover 0..L-shift and shift..L (more than two: evenly in between), the locals
    random windows of L x local_span. Short videos repeat frames.
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


def training_views(
    pixels: Tensor, rows: list[np.ndarray], settings: ViewSettings, generator: np.random.Generator
) -> list[Tensor]:
    """Cuts and augments the views, each on its own and alike over its frames.

    pixels: decoded frames 't h w c' uint8, on any device. rows: per view its frames' rows in `pixels`, globals first.
    Returns float tensors 'c t h w' on that device, normalised with CLIP's mean and standard deviation.
    """
    views = []
    for number, chosen in enumerate(rows):
        is_global = number < settings.global_views
        scale = settings.global_scale if is_global else settings.local_scale
        size = settings.image_size if is_global else settings.local_image_size
        top, left, height, width = _random_crop(*pixels.shape[1:3], scale, generator)
        crop = pixels[:, top : top + height, left : left + width][torch.from_numpy(chosen).to(pixels.device)]
        view = _resize(rearrange(crop, "t h w c -> t c h w").float().div_(255), (size, size))
        if generator.random() < settings.flip_probability:
            view = view.flip(-1)
        if generator.random() < settings.jitter_probability:
            view = _jitter(view, settings, generator)
        if generator.random() < settings.gray_probability:
            view = _gray(view).expand_as(view)
        views.append(_normalise(view))
    return views


def evaluation_indices(num_source_frames: int, *, num_frames: int, clips: int = 1) -> np.ndarray:
    """The frames of the evaluation clips, 'v t': nothing is random.

    The video is cut into `num_frames` equal segments and a clip takes one frame of each: of one clip the middle one,
    of several clips those at even distances within the segment, so that every clip spans the whole video.
    """
    phase = (np.arange(clips)[:, None] + 0.5) / clips
    return ((np.arange(num_frames) + phase) / num_frames * num_source_frames).astype(int)


def evaluation_views(frames: np.ndarray, rows: np.ndarray, *, crops: int, image_size: int) -> Tensor:
    """Square crops over the whole short side: the centre (`crops` = 1) or start, centre, end of the long side (3).

    frames: decoded 't h w c' uint8, resized here if their short side isn't `image_size`. rows: 'v t', per clip its
    frames' rows in `frames`. Returns a normalised float tensor 'v c t h w' with clips x crops views, crops innermost.
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
    clips = torch.stack(squares)[:, :, torch.from_numpy(np.asarray(rows))]  # crops c v t h w
    return rearrange(clips, "crop c v t h w -> (v crop) c t h w").contiguous()


def _spread(first: int, span: int, num_frames: int) -> np.ndarray:
    """`num_frames` indices at even distances over first..first + span - 1, both ends included; one: the middle."""
    if num_frames == 1:
        return np.array([first + (span - 1) // 2])
    return first + np.linspace(0, span - 1, num_frames).round().astype(int)


def _random_crop(
    height: int, width: int, scale: tuple[float, float], generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """Top, left, height, width of a box of random area and aspect ("Inception crop": ten tries, then the centre)."""
    for _ in range(10):
        area = height * width * generator.uniform(*scale)
        aspect = np.exp(generator.uniform(*np.log(CROP_ASPECTS)))
        h, w = round(np.sqrt(area / aspect)), round(np.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            return int(generator.integers(height - h + 1)), int(generator.integers(width - w + 1)), h, w
    h, w = min(height, round(width / CROP_ASPECTS[0])), min(width, round(height * CROP_ASPECTS[1]))
    return (height - h) // 2, (width - w) // 2, h, w


def _resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)


def _jitter(view: Tensor, settings: ViewSettings, generator: np.random.Generator) -> Tensor:
    """Brightness, contrast and saturation by random factors in random order; the result stays within 0..1."""
    for name in generator.permutation(["brightness", "contrast", "saturation"]):
        amount = getattr(settings, name)
        factor = float(generator.uniform(max(0.0, 1 - amount), 1 + amount))
        if name == "brightness":
            view = view * factor
        elif name == "contrast":  # against the mean of the whole view: a mean per frame would flicker
            view = torch.lerp(_gray(view).mean(), view, factor)
        else:
            view = torch.lerp(_gray(view).expand_as(view), view, factor)
        view = view.clamp(0, 1)
    return view


def _gray(view: Tensor) -> Tensor:
    return torch.einsum("tchw,c->thw", view, torch.tensor(LUMA, device=view.device)).unsqueeze(1)


def _normalise(pixels: Tensor) -> Tensor:
    """'t c h w' in 0..1 to CLIP's range, as 'c t h w'."""
    mean, std = (
        rearrange(torch.tensor(values, device=pixels.device), "c -> c 1 1") for values in (CLIP_MEAN, CLIP_STD)
    )
    pixels = (pixels - mean) / std
    return rearrange(pixels, "t c h w -> c t h w").contiguous()
