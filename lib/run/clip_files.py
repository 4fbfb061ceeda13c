"""Image CLIPs as files: reads a checkpoint, and names what is wrong with it.

A checkpoint is a folder, or a hub id, with `config.json`, weights and tokenizer. Nothing in it can run: weights are
read from `model.safetensors`, or from `pytorch_model.bin` as tensors alone.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.utils import cached_file

from lib.run.params import ROOT
from lib.run.tensors import listed, not_finite

CONTEXT, VOCABULARY = 77, 49408  # tokens of a text, and of CLIP's byte-pair encoding
POINTER = b"version https://git-lfs"  # how the stand-in of a file begins that Git LFS has not fetched
FETCH = "copy it from where it comes from (`hf download <hub id> --local-dir <folder>`; in a clone `git lfs pull`)"
USUAL = {
    "do_normalize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
}  # of an image processor: pixels in 0..1, normalised


def checkpoint_name(clip: str) -> str:
    """The parameter `clip` as transformers takes it: a folder of this repository if there is one, else a hub id."""
    return str(ROOT / clip) if (ROOT / clip).exists() else clip


def model_type(name_or_path: str) -> str | None:
    """What a checkpoint is by its `config.json`: "clip", "video_clip", ... Raises ValueError if none can be read."""
    folder = Path(name_or_path)
    if folder.is_file():
        raise ValueError(
            f"{folder} is a file: give the folder that holds it, with config.json and the tokenizer beside it"
        )
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise ValueError(f"{folder}: no folder or hub id with a readable config.json: {FETCH}")
        return _settings(folder / "config.json").get("model_type")
    # Transformers raises errors of many types for what it cannot reach; each one means that there is no such checkpoint.
    try:
        return PreTrainedConfig.get_config_dict(name_or_path)[0].get("model_type")
    except Exception as error:
        raise ValueError(
            f"{name_or_path}: no folder or hub id with a readable config.json ({shorten(str(error), 200)})"
        ) from error


def load_whole(load: Callable, name_or_path: str, *, expected: str, **kwargs: Any) -> PreTrainedModel:
    """Calls `load` (a `from_pretrained`) for a checkpoint with every weight.

    Raises ValueError, naming the checkpoint and what was found, if it is of another type, cannot be read as tensors
    alone, lacks weights or has some left over (transformers itself drops the positions that older CLIPs hold), or if
    weights do not fit its config.json or are not finite.
    """
    if (found := model_type(name_or_path)) != expected:
        raise ValueError(f"{name_or_path}: not a {expected!r} checkpoint, its config.json has model_type {found!r}")
    unreadable = f"{name_or_path}: not a {expected!r} checkpoint that can be read"
    files = _weight_files(Path(name_or_path), unreadable) if Path(name_or_path).is_dir() else {}
    try:
        # weights of other shapes are not ignored: the report has them, and is looked at below
        model, report = load(
            name_or_path, output_loading_info=True, weights_only=True, ignore_mismatched_sizes=True, **kwargs
        )
    except UnpicklingError as error:  # whose own message advises to switch the protection off
        raise ValueError(
            f"{name_or_path}: its pytorch_model.bin holds more than tensors and is not read; whoever trusts "
            "it converts it elsewhere: `safetensors.torch.save_file(state_dict, 'model.safetensors')`"
        ) from error
    except Exception as error:  # of many types, as above
        names = "".join(f"{name}, " for name in sorted(set(files.values())))
        raise ValueError(
            f"{unreadable} ({names}config.json): {shorten(str(error.__cause__ or error), 200)}. If a file is "
            f"damaged: {FETCH}"
        ) from error
    for what, keys in (("lacks", report["missing_keys"]), ("has unknown", report["unexpected_keys"])):
        if keys:
            names = ", ".join(sorted(keys)[:5]) + (", ..." if len(keys) > 5 else "")
            raise ValueError(f"{name_or_path}: not a {expected!r} checkpoint, it {what} {len(keys)} weights: {names}")
    if report["mismatched_keys"]:
        shapes = {
            name: f"{tuple(stored)}, by config.json {tuple(wanted)}"
            for name, stored, wanted in sorted(report["mismatched_keys"])
        }
        raise ValueError(
            f"{name_or_path}: the sizes in config.json (projection_dim, hidden_size, ...) do not fit the weights: "
            f"{listed(shapes)}; mend config.json, or {FETCH}"
        )
    if bad := not_finite(model.state_dict()):
        where = ", ".join(sorted({files.get(name) or files.get("") or "its weights" for name in bad}))
        raise ValueError(
            f"{name_or_path}: {where}: weights are not finite (NaN or infinite): {listed(bad)}. A damaged download: "
            f"{FETCH}; or trained too far in float16: take an earlier state"
        )
    return model


def _weight_files(folder: Path, unreadable: str) -> dict[str, str]:
    """The files that transformers reads weights from, by the name of the weight; "": all weights.

    Raises ValueError, which begins with `unreadable`, for one that is absent, cut short, or a pointer of Git LFS.
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
                    with safe_open(folder / file, "pt"):
                        pass
                except (SafetensorError, OSError) as error:
                    raise ValueError(
                        f"{unreadable}: {file} ({(folder / file).stat().st_size:,} bytes) is cut short or damaged "
                        f"({error}): {FETCH}"
                    ) from error
        return files
    there = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
    raise ValueError(f"{unreadable}: it has no model.safetensors and no pytorch_model.bin, only {there}: {FETCH}")


def _insist_on_file(path: Path) -> None:
    if not path.is_file():
        what = (
            f"a link to {os.readlink(path)}, which is not there" if path.is_symlink() else "absent"
        )  # the hub's cache has links
        raise ValueError(f"{path.parent}: {path.name} is {what}: {FETCH}")
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise ValueError(
                f"{path.parent}: {path.name} is a pointer of Git LFS, not the file itself: run `git lfs pull` in that "
                "folder, or `hf download <hub id> --local-dir <folder>`"
            )


def _settings(path: Path) -> dict[str, Any]:
    """A JSON file of a checkpoint. Raises ValueError, naming folder, file and remedy, if it holds no mapping."""
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

    Raises ValueError, naming folder, file and remedy, if files are absent or damaged (transformers would make a tokenizer
    of no words), or if it is the tokenizer of another text tower.
    """
    folder = Path(name_or_path)
    if folder.is_dir():
        whole = ["tokenizer.json"] if os.path.lexists(folder / "tokenizer.json") else ["vocab.json", "merges.txt"]
        if absent := [name for name in whole if not (folder / name).exists()]:
            raise ValueError(
                f"{folder}: the tokenizer's files are absent ({', '.join(absent)}): fetch tokenizer.json, or vocab.json and "
                "merges.txt, from where the weights come from"
            )
        for name in [*whole, *(name for name in ("tokenizer_config.json",) if (folder / name).exists())]:
            _settings(folder / name) if name.endswith(".json") else _insist_on_file(folder / name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    except Exception as error:  # of many types, as above
        raise ValueError(
            f"{name_or_path}: the tokenizer's files (tokenizer.json, tokenizer_config.json) cannot be read "
            f"({shorten(f'{type(error).__name__}: {error}', 200)}): {FETCH}"
        ) from error
    # A text tower may have rows to spare, if it looks for the tokenizer's own end of text; 2 stands for the last token.
    ends = text.eos_token_id == tokenizer.eos_token_id
    if len(tokenizer) > text.vocab_size or len(tokenizer) < text.vocab_size and not ends:
        raise ValueError(
            f"{name_or_path}: its tokenizer has {len(tokenizer):,} tokens, its text tower {text.vocab_size:,} (vocab_size in "
            "config.json): fetch tokenizer.json, or vocab.json and merges.txt, of this very checkpoint"
        )
    return tokenizer


def normalisation(name_or_path: str) -> dict[str, tuple[float, ...]]:
    """`image_mean` and `image_std` of a checkpoint's image processor, in its newer or older file; {} without one.

    Raises ValueError, naming the file, if it is cut short, or if pictures cannot be normalised as it says.
    """
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (own := Path(name_or_path) / name).is_symlink():
            _insist_on_file(own)
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
                f"{name_or_path}: {name}: {'; '.join(problems)}. Mend image_mean and image_std there: of red, green and "
                f"blue, with which its pictures in 0..1 were normalised (OpenAI's: {OPENAI_CLIP_MEAN}, {OPENAI_CLIP_STD}; "
                f"not at all: 0, 0, 0 and 1, 1, 1), and leave out {', '.join(USUAL)}"
            )
        return {"image_mean": tuple(map(float, mean)), "image_std": tuple(map(float, std))}
    return {}


def is_rgb(values: Any, low: float, high: float) -> bool:
    """Whether these are three numbers within limits."""
    return (
        isinstance(values, list | tuple)
        and len(values) == 3
        and all(
            isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high for value in values
        )
    )
