"""Reads checkpoints of image CLIPs, and reports missing, mismatched and damaged files.

A checkpoint is a folder, or a hub id, with `config.json`, weights and tokenizer. No code in it is executed: weights are
read from `model.safetensors`, or from `pytorch_model.bin` as tensors only.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from typing import Any

import torch
from einops import rearrange
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.utils import cached_file

from lib.run.params import ROOT
from lib.run.tensors import listed, not_finite

CONTEXT, VOCABULARY = 77, 49408  # tokens of a text, and of CLIP's byte-pair encoding
POINTER = b"version https://git-lfs"  # the first bytes of a file that Git LFS has not fetched
FETCH = "copy it from where it comes from (`hf download <hub id> --local-dir <folder>`; in a clone `git lfs pull`)"
OUR_NAMES = {
    "position_embedding.weight": "position_embedding",
    "embeddings.": "",
    "pre_layrnorm": "pre_norm",
    "post_layernorm": "final_norm",
    "encoder.layers": "blocks",
    "layer_norm": "norm",
    "mlp.": "",
    "self_attn.out_proj": "attention.out",
}
# an image processor's: pixels in 0..1, normalised
USUAL = dict(do_normalize=True, do_rescale=True, rescale_factor=1 / 255)


def checkpoint_name(clip: str) -> str:
    """The parameter `clip` as transformers takes it: a folder of this repository if there is one, else a hub id."""
    return str(ROOT / clip) if (ROOT / clip).exists() else clip


def model_type(name_or_path: str) -> str | None:
    """The `model_type` of a `config.json`: "clip", "video_clip", ... Raises ValueError if none can be read."""
    folder = Path(name_or_path)
    if folder.is_file():
        raise ValueError(f"{folder} is a file: give the folder that holds it, with config.json and tokenizer")
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise ValueError(f"{folder}: no folder or hub id with a readable config.json: {FETCH}")
        return _settings(folder / "config.json").get("model_type")
    # transformers raises errors of many types for a checkpoint that it cannot read
    try:
        return PreTrainedConfig.get_config_dict(name_or_path)[0].get("model_type")
    except Exception as error:
        raise ValueError(
            f"{name_or_path}: no folder or hub id with a readable config.json ({shorten(str(error), 200)})"
        ) from error


def load_whole(load: Callable, name_or_path: str, *, expected: str, **kwargs: Any) -> PreTrainedModel:
    """Calls `load` (a `from_pretrained`) for a checkpoint with every weight.

    Raises ValueError, naming the checkpoint, for another `model_type`, files that cannot be read as tensors only,
    missing or unexpected weights (positions that older CLIPs hold are accepted), and weights that do not fit its
    config.json or are not finite.
    """
    if (actual := model_type(name_or_path)) != expected:
        raise ValueError(f"{name_or_path}: not a {expected!r} checkpoint, its config.json has model_type {actual!r}")
    unreadable = f"{name_or_path}: not a {expected!r} checkpoint that can be read"
    files = _weight_files(Path(name_or_path), unreadable) if Path(name_or_path).is_dir() else {}
    # mismatched sizes are in the report, and an error below
    options = dict(output_loading_info=True, weights_only=True, ignore_mismatched_sizes=True)
    try:
        model, report = load(name_or_path, **options, **kwargs)
    except UnpicklingError as error:  # whose own message advises to disable the protection
        raise ValueError(
            f"{name_or_path}: its pytorch_model.bin holds more than tensors and is not read; if you trust it, convert "
            "it elsewhere: `safetensors.torch.save_file(state_dict, 'model.safetensors')`"
        ) from error
    except Exception as error:  # of many types, as above
        names = "".join(f"{name}, " for name in sorted(set(files.values())))
        reason = shorten(str(error.__cause__ or error), 200)
        raise ValueError(f"{unreadable} ({names}config.json): {reason}. If a file is damaged: {FETCH}") from error
    for verb, keys in (("lacks", report["missing_keys"]), ("has unknown", report["unexpected_keys"])):
        if keys:
            names = ", ".join(sorted(keys)[:5]) + (", ..." if len(keys) > 5 else "")
            raise ValueError(f"{name_or_path}: not a {expected!r} checkpoint, it {verb} {len(keys)} weights: {names}")
    if mismatched := report["mismatched_keys"]:
        shapes = {name: f"{tuple(stored)}, by config.json {tuple(size)}" for name, stored, size in sorted(mismatched)}
        raise ValueError(
            f"{name_or_path}: the sizes in config.json (projection_dim, hidden_size, ...) do not fit the weights: "
            f"{listed(shapes)}; correct config.json, or {FETCH}"
        )
    if broken := not_finite(model.state_dict()):
        places = ", ".join(sorted({files.get(name) or files.get("") or "its weights" for name in broken}))
        raise ValueError(
            f"{name_or_path}: {places}: weights are not finite (NaN or infinite): {listed(broken)}. If the download is "
            f"damaged: {FETCH}; if training in float16 diverged: use an earlier state"
        )
    return model


def _weight_files(folder: Path, unreadable: str) -> dict[str, str]:
    """The files that transformers reads weights from, by the name of the weight; "": all weights.

    Raises ValueError, beginning with `unreadable`, for a file that is absent, truncated, or a pointer of Git LFS.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        if os.path.lexists(folder / name):
            files = {"": name}
        elif (index := folder / f"{name}.index.json").exists():
            files = _settings(index).get("weight_map")
            if not isinstance(files, dict) or not files:
                raise ValueError(f"{unreadable}: {index.name} has no weight_map: {FETCH}")
        else:
            continue
        for file in sorted(set(files.values())):
            _insist_on_file(folder / file)
            if name == "model.safetensors":
                try:
                    safe_open(folder / file, "pt")
                except (SafetensorError, OSError) as error:
                    size = f"{(folder / file).stat().st_size:,} bytes"
                    raise ValueError(
                        f"{unreadable}: {file} ({size}) is cut short or damaged ({error}): {FETCH}"
                    ) from error
        return files
    present = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
    raise ValueError(f"{unreadable}: it has no model.safetensors and no pytorch_model.bin, only {present}: {FETCH}")


def _insist_on_file(path: Path) -> None:
    if not path.is_file():
        # the hub's cache has links
        state = f"a link to {os.readlink(path)}, which is not there" if path.is_symlink() else "absent"
        raise ValueError(f"{path.parent}: {path.name} is {state}: {FETCH}")
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise ValueError(f"{path.parent}: {path.name} is a pointer of Git LFS, not the file itself: {FETCH}")


def _settings(path: Path) -> dict[str, Any]:
    """A JSON file of a checkpoint. Raises ValueError if it holds no mapping."""
    _insist_on_file(path)
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path.parent}: {path.name} is no JSON or cut short ({error}): {FETCH}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.parent}: {path.name} holds a {type(content).__name__}, not a mapping: {FETCH}")
    return content


def load_tokenizer(name_or_path: str | Path, text: PreTrainedConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint whose text tower has the configuration `text`.

    Raises ValueError for absent or damaged files (transformers would create a tokenizer without words), and for the
    tokenizer of another text tower.
    """
    folder = Path(name_or_path)
    if folder.is_dir():
        names = ["tokenizer.json"] if os.path.lexists(folder / "tokenizer.json") else ["vocab.json", "merges.txt"]
        if absent := [name for name in names if not (folder / name).exists()]:
            raise ValueError(
                f"{folder}: the tokenizer's files are absent ({', '.join(absent)}): copy tokenizer.json, or vocab.json "
                "and merges.txt, from the source of the weights"
            )
        names += ["tokenizer_config.json"] * (folder / "tokenizer_config.json").exists()
        for name in names:
            _settings(folder / name) if name.endswith(".json") else _insist_on_file(folder / name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    except Exception as error:  # of many types, as above
        reason = shorten(f"{type(error).__name__}: {error}", 200)
        raise ValueError(
            f"{name_or_path}: the tokenizer's files (tokenizer.json, tokenizer_config.json) cannot be read ({reason}): "
            f"{FETCH}"
        ) from error
    # A text tower may have spare rows if it looks for the tokenizer's end of text (2 stands for the last token).
    same_end = text.eos_token_id == tokenizer.eos_token_id
    if len(tokenizer) > text.vocab_size or len(tokenizer) < text.vocab_size and not same_end:
        raise ValueError(
            f"{name_or_path}: its tokenizer has {len(tokenizer):,} tokens, its text tower {text.vocab_size:,} "
            "(vocab_size in config.json): copy tokenizer.json, or vocab.json and merges.txt, of this checkpoint"
        )
    return tokenizer


def normalisation(name_or_path: str) -> dict[str, tuple[float, ...]]:
    """`image_mean` and `image_std` of a checkpoint's image processor, in its newer or older file; {} without one.

    Raises ValueError, naming the file, if it is truncated or has an unsupported normalisation.
    """
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (local := Path(name_or_path) / name).is_symlink():
            _insist_on_file(local)
        path = cached_file(name_or_path, name, _raise_exceptions_for_missing_entries=False)
        settings = _settings(Path(path)) if path else {}
        nested = settings.get("image_processor")
        settings = nested if isinstance(nested, dict) else settings
        problems = [f"{key} is {settings[key]!r}" for key, usual in USUAL.items() if settings.get(key, usual) != usual]
        if not problems and "image_mean" not in settings and "image_std" not in settings:
            continue
        mean, std = settings.get("image_mean"), settings.get("image_std")
        problems += [f"image_mean is {mean!r}, not three numbers in 0..1"] * (not is_rgb(mean, 0, 1))
        problems += [f"image_std is {std!r}, not three numbers above 0"] * (not is_rgb(std, 1e-6, 1e6))
        if problems:
            raise ValueError(
                f"{name_or_path}: {name}: {'; '.join(problems)}. Correct image_mean and image_std (of red, green and "
                f"blue in 0..1; OpenAI's: {OPENAI_CLIP_MEAN}, {OPENAI_CLIP_STD}; none: 0, 0, 0 and 1, 1, 1), and "
                f"remove {', '.join(USUAL)}"
            )
        return {"image_mean": tuple(map(float, mean)), "image_std": tuple(map(float, std))}
    return {}


def is_rgb(values: Any, low: float, high: float) -> bool:
    """Whether these are three numbers within limits."""
    if not isinstance(values, list | tuple) or len(values) != 3:
        return False
    return all(type(value) in (int, float) and low <= value <= high for value in values)


def visual_weights(clip: CLIPModel) -> dict[str, Tensor]:
    """The weights of CLIP's image encoder and visual projection under the names of `lib/backbone.py`."""
    weights = {"projection.weight": clip.visual_projection.weight}
    for name, weight in clip.vision_model.state_dict().items():
        for theirs, ours in OUR_NAMES.items():
            name = name.replace(theirs, ours)
        weights[name] = weight
    patches = weights["patch_embedding.weight"]  # of a convolution, which is a product with flattened patches
    weights["patch_embedding.weight"] = rearrange(patches, "w c p q -> w (c p q)")
    for layer in range(clip.config.vision_config.num_hidden_layers):
        for kind in ("weight", "bias"):
            parts = [weights.pop(f"blocks.{layer}.self_attn.{part}_proj.{kind}") for part in "qkv"]
            weights[f"blocks.{layer}.attention.qkv.{kind}"] = torch.cat(parts)
    return weights
