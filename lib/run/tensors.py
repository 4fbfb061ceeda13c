"""Tensors in nested states, as checkpoints hold them: their size, and those that are not finite."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor


def named_tensors(state: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of nested mappings and lists with its path: "student/blocks.0.fc1.weight"."""
    if isinstance(state, Tensor):
        yield name, state
    elif isinstance(state, dict | list | tuple):
        for key, value in state.items() if isinstance(state, dict) else enumerate(state):
            yield from named_tensors(value, f"{name}/{key}" if name else str(key))


def num_bytes(state: Any) -> int:
    """Bytes of all tensors, about the size of their file."""
    return sum(tensor.nbytes for _, tensor in named_tensors(state))


def not_finite(state: Any) -> dict[str, str]:
    """The tensors with NaN or infinite numbers: name -> "1 of 36,864"."""
    broken = {}
    for name, tensor in named_tensors(state):
        count = int((~tensor.isfinite()).sum()) if tensor.is_floating_point() else 0
        if count:
            broken[name] = f"{count:,} of {tensor.numel():,}"
    return broken


def listed(names: dict[str, str]) -> str:
    """The first five names, each with its text in brackets."""
    shown = ", ".join(f"{name} ({text})" for name, text in list(names.items())[:5])
    return shown + (f", and {len(names) - 5} more" if len(names) > 5 else "")
