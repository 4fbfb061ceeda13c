"""Attention maps: where the last block of an adapted model looks, within the frames of a clip and over time.

The weights are computed again from what went into the two attentions of the block, as softmax(q k^T / sqrt(w)) and the
mean over heads: the fused kernel of `lib/backbone.py` does not give them out.
"""

from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from lib.backbone import Attention, VideoCLIP


class Maps(NamedTuple):
    """Attention weights of one clip, t frames of h x w patches, in the last block.

    space 't h w': of each frame's class token to the patches of its frame (the rest of 1 goes to itself);
    patches 't s h w': of a patch in frame t to the patch at the same place in frame s; class_token 't s': the same of
    the class tokens.
    """

    space: np.ndarray
    patches: np.ndarray
    class_token: np.ndarray


@torch.no_grad()
def attention_weights(attention: Attention, x: Tensor) -> Tensor:
    """Tokens 'b n w' -> how much token i looks at token j, the mean over heads, 'b i j'; rows sum to 1."""
    q, k, _ = (
        rearrange(part, "b n (heads w) -> b heads n w", heads=attention.heads)
        for part in attention.qkv(x).chunk(3, dim=-1)
    )
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1).mean(dim=1)


@torch.no_grad()
def last_block(model: VideoCLIP, clip: Tensor) -> Maps:
    """The attention of one clip, 'c t h w' as `model` takes it. Raises ValueError if temporal attention is not divided."""
    block, inputs = model.visual.blocks[-1], {}
    if not block.divided:
        raise ValueError(
            f"attention over time needs divided temporal attention, the model has {model.config.temporal!r}"
        )
    hooks = [
        getattr(block, name).register_forward_pre_hook(lambda _, given, name=name: inputs.update({name: given[0]}))
        for name in ("attention", "temporal_attention")
    ]
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
