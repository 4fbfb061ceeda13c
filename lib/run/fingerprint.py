"""A hash of an objective of one's own, which no parameter describes."""

import hashlib
import inspect
from collections.abc import Callable, Iterator

import torch
from torch import nn

PLAIN = (int, float, str, tuple, list, dict)


def fingerprint(objective: nn.Module) -> str:
    """Twelve hex digits over an objective of your own: they tell its run from others in the same folder.

    Over the source and plain attributes of its classes, the functions and plain values of their module that methods
    refer to, its own plain attributes and its initial state. Raises TypeError for anything but an instance of a Module,
    OSError if a class has no source: define it in a file or cell.
    """
    if not isinstance(objective, nn.Module):
        kind = "a class; call it" if isinstance(objective, type) else f"a {type(objective).__name__}"
        raise TypeError(
            f"objective must be an instance of a torch.nn.Module, such as lib.objectives.Objective, not {kind}"
        )
    digest, seen = hashlib.sha256(), set()
    for name, module in objective.named_modules():
        for cls in type(module).__mro__:
            if cls.__module__.partition(".")[0] not in ("torch", "builtins"):
                constants = {
                    key: value for key, value in vars(cls).items() if key[0] != "_" and isinstance(value, PLAIN)
                }
                digest.update(f"{cls.__qualname__} {sorted(constants.items())}".encode())
                for method in filter(inspect.isfunction, vars(cls).values()):
                    digest.update("".join(_sources(method, seen)).encode())
        plain = {key: value for key, value in vars(module).items() if key[0] != "_" and isinstance(value, PLAIN)}
        digest.update(f"{name} {sorted(plain.items())}".encode())
    for name, tensor in objective.state_dict().items():
        digest.update(name.encode() + tensor.cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def _sources(function: Callable, seen: set[Callable]) -> Iterator[str]:
    """The source of a function, and of the functions and plain values of its module that it refers to."""
    seen.add(function)
    yield inspect.getsource(function)
    variables = inspect.getclosurevars(function)
    for name, value in sorted((variables.nonlocals | variables.globals).items()):
        if isinstance(value, PLAIN):
            yield f"{name} = {value!r}"
        elif inspect.isfunction(value) and value.__module__ == function.__module__ and value not in seen:
            yield from _sources(value, seen)
