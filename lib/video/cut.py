"""Cuts the training views of a whole batch by batched operations, for GPUs (`views_on_device`).

Crop and flip choose pixels; the antialiased resize is a product with two matrices per view, one for its rows and one
for its columns; jitter (without hue), grey and normalisation are affine maps of the colours.
"""

from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from lib.video.views import CLIP_MEAN, CLIP_STD, LUMA, Augmentation

CHUNK = 16  # videos
JITTER = 3  # operations


class Uncut(NamedTuple):
    """A decoded training video whose views are cut later, on the device."""

    pixels: Tensor  # 't h w c' uint8
    rows: list[np.ndarray]  # for each view, the rows of its frames in `pixels`
    augmentations: list[Augmentation]  # of each view


def cut_views(videos: list[Uncut], device: torch.device) -> list[Tensor]:
    """The views of a batch, 'b c t h w' each, globals first; equal to those of `training_views` up to rounding.

    A view has the same number of frames in all videos. `CHUNK` videos are cut at a time. Memory peaks at the views, the
    decoded frames of a chunk and, for every frame of its views of one size, 15 bytes per pixel of the largest crop, h
    w, plus 4 size h + 16 size w bytes; then at twice the views. 64 videos of 256 x 455 and SVT's views take 2.7 GiB.
    """
    if not videos:  # of several processes, one may have none that can be decoded
        return []
    sizes = [augmentation.image_size for augmentation in videos[0].augmentations]
    chunks = []
    for first in range(0, len(videos), CHUNK):
        chunk, views = videos[first : first + CHUNK], {}
        pixels = torch.cat([video.pixels.to(device, non_blocking=True).flatten(0, 2) for video in chunk])  # n c
        for size in set(sizes):
            numbers = [number for number, other in enumerate(sizes) if other == size]
            views |= zip(numbers, _cut_one_size(chunk, pixels, numbers, size))
        chunks.append([views[number] for number in range(len(sizes))])
    return [torch.cat(parts) for parts in zip(*chunks)]


def _cut_one_size(videos: list[Uncut], pixels: Tensor, numbers: list[int], size: int) -> tuple[Tensor, ...]:
    """The views with these numbers, 'b c t h w' each. pixels: those of all frames of all videos, 'n c'."""
    frames, crops, colours, first = [], [], [], 0
    for video in videos:
        num_frames, height, width, _ = video.pixels.shape
        frames.append(first + height * width * np.concatenate([video.rows[number] for number in numbers]))
        first += num_frames * height * width
        augmentations = [video.augmentations[number] for number in numbers]
        crops.append([(*augmentation.crop, augmentation.flip, width) for augmentation in augmentations])
        colours.append([_colour_weights(augmentation) for augmentation in augmentations])
    crops, colours, frames = torch.tensor(crops), torch.tensor(colours), torch.from_numpy(np.stack(frames))
    largest = crops[..., 2:4].amax((0, 1)).tolist()
    lengths = [len(videos[0].rows[number]) for number in numbers]
    view_of_frame = torch.arange(len(numbers)).repeat_interleave(torch.tensor(lengths)).to(pixels.device)  # t
    crops, colours, frames = (table.to(pixels.device) for table in (crops, colours, frames))
    view = _resized_crops(pixels, frames, crops, largest, view_of_frame, size)
    view = _coloured(view, colours, view_of_frame)
    view = rearrange(view, "(b t) c (y x) -> b c t y x", b=len(videos), y=size)
    return view.split(lengths, dim=2)


def _resized_crops(
    pixels: Tensor, frames: Tensor, crops: Tensor, largest: list[int], view_of_frame: Tensor, size: int
) -> Tensor:
    """The frames of all views, 'f c (y x)' in 0..1, f = b t.

    pixels: 'n c'. frames: the first pixel of each, 'b t'. crops: top, left, height, width, flip and width of the video,
    'b v 6'. largest: height and width to which crops are padded.
    """
    top, left, height, width, flip, video_width = crops[..., None].unbind(-2)  # b v 1
    y = torch.arange(largest[0], device=pixels.device).minimum(height - 1)  # b v h
    x = torch.arange(largest[1], device=pixels.device).minimum(width - 1)  # b v w
    y = (top + y) * video_width
    x = left + torch.where(flip > 0, width - 1 - x, x)
    crop = (frames[..., None, None] + y[:, view_of_frame, :, None] + x[:, view_of_frame, None]).flatten()  # b t h w
    crop = rearrange(pixels.index_select(0, crop), "(f h w) c -> f h c w", h=largest[0], w=largest[1])
    rows = _resize_matrices(height, largest[0], size)[:, view_of_frame].flatten(0, 1) / 255  # f y h
    columns = _resize_matrices(width, largest[1], size)[:, view_of_frame].flatten(0, 1)  # f x w
    crop = torch.bmm(rows, crop.to(torch.float32, memory_format=torch.contiguous_format).flatten(2))  # f y (c w)
    crop = torch.bmm(rearrange(crop, "f y (c w) -> f (y c) w", c=3), columns.mT)
    return rearrange(crop, "f (y c) x -> f c (y x)", c=3)


def _resize_matrices(length: Tensor, largest: int, size: int) -> Tensor:
    """Weights 'b v size largest' of torch's antialiased bilinear resize of `length` pixels, 'b v 1', to `size`."""
    scale = (length / size)[..., None]
    source = torch.arange(largest, device=length.device) + 0.5
    centre = (torch.arange(size, device=length.device) + 0.5)[:, None] * scale
    weights = (1 - (source - centre).abs() / scale.clamp(min=1)).clamp(min=0)
    weights = weights * (source < length[..., None])
    return weights / weights.sum(-1, keepdim=True)


def _colour_weights(augmentation: Augmentation) -> list[list[float]]:
    """For each operation of the jitter and for grey, the weights of a pixel, of its grey, and of the view's mean
    grey."""
    weights = []
    for operation, factor in [*augmentation.jitter, *[("none", 1.0)] * (JITTER - len(augmentation.jitter))]:
        rest = 1 - factor
        weights.append([factor, rest * (operation == "saturation"), rest * (operation == "contrast")])
    return [*weights, [1.0 - augmentation.gray, float(augmentation.gray), 0.0]]


def _coloured(view: Tensor, weights: Tensor, view_of_frame: Tensor) -> Tensor:
    """Jitter, grey and normalisation of all frames 'f c (y x)'; weights: `_colour_weights` of the views, 'b v 4 3'."""
    luma, mean, std = (torch.tensor(values, device=view.device) for values in (LUMA, CLIP_MEAN, CLIP_STD))
    pixel, gray, mean_gray = weights[..., None, None].unbind(3)  # b v 4 1 1
    maps = pixel * torch.eye(3, device=view.device) + gray * luma  # b v 4 c c
    average = (view_of_frame[:, None] == torch.arange(weights.shape[1], device=view.device)).float()
    average = average / average.sum(0)  # t v
    for stage in range(JITTER):
        means = (view.mean(-1) @ luma).view(len(weights), -1) @ average  # b v: of a view, not of a frame
        shift = (mean_gray[:, :, stage, 0] * means[..., None])[:, view_of_frame].flatten(0, 1)[..., None]  # f 1 1
        view = torch.baddbmm(shift, maps[:, view_of_frame, stage].flatten(0, 1), view).clamp_(0, 1)
    maps = maps[:, view_of_frame, JITTER].flatten(0, 1) / std[:, None]
    return torch.baddbmm(-(mean / std)[:, None], maps, view)
