"""Attention maps of the last block of an adapted model, within frames and over time.

The fused kernel of `lib/backbone.py` returns no weights: they are computed again from the inputs of the attentions.
"""

from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from lib.backbone import Attention, VideoCLIP


class Maps(NamedTuple):
    """Attention weights of one clip, t frames of h x w patches, in the last block.

    space 't h w': from each frame's class token to the patches of its frame (the rest of 1 goes to itself).
    patches 't s h w': from a patch in frame t to the same patch in frame s; class_token 't s': likewise.
    """

    space: np.ndarray
    patches: np.ndarray
    class_token: np.ndarray


@torch.no_grad()
def attention_weights(attention: Attention, x: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(w)) of tokens 'b n w', the mean over heads: 'b i j'; rows sum to 1."""
    q, k, _ = rearrange(attention.qkv(x), "b n (qkv heads w) -> qkv b heads n w", qkv=3, heads=attention.heads)
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1).mean(dim=1)


def _sequences(rows: Tensor, runs: list[tuple[int, int]]) -> Tensor:
    """The rows that an attention takes, of clips of one length, as sequences 's n w'."""
    ((s, n),) = runs
    return rearrange(rows, "(s n) w -> s n w", s=s, n=n)


@torch.no_grad()
def last_block(model: VideoCLIP, clip: Tensor) -> Maps:
    """The attention of one clip, 'c t h w' as `model` takes it. Raises ValueError without divided attention."""
    block, inputs = model.visual.blocks[-1], {}
    if not block.divided:
        raise ValueError(f"attention over time needs divided attention; the model has {model.config.temporal!r}")
    hooks = []
    for name in ("attention", "temporal_attention"):
        hook = lambda module, arguments, name=name: inputs.update({name: _sequences(*arguments[:2])})  # noqa: E731
        hooks.append(getattr(block, name).register_forward_pre_hook(hook))
    try:
        model(clip[None])
    finally:
        for hook in hooks:
            hook.remove()
    rows = clip.shape[-2] // model.visual.patch
    space = attention_weights(block.attention, inputs["attention"])[:, 0, 1:]
    over_time = attention_weights(block.temporal_attention, inputs["temporal_attention"])
    return Maps(
        rearrange(space, "t (h w) -> t h w", h=rows).cpu().numpy(),
        rearrange(over_time[1:], "(h w) t s -> t s h w", h=rows).cpu().numpy(),
        over_time[0].cpu().numpy(),
    )
