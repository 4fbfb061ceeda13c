"""Image CLIPs as files: what is read of a checkpoint, and random ones laid out as those on the hub.

A checkpoint is a folder, or a hub id, with `config.json`, weights and tokenizer. Nothing in it can run: weights are
read from `model.safetensors`, or from `pytorch_model.bin` as tensors alone.
"""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file

from lib.runs import save_model
from lib.views import CLIP_MEAN, CLIP_STD

CONTEXT, VOCABULARY = 77, 49408  # tokens of a text, and of CLIP's byte-pair encoding

# ---- reading -------------------------------------------------------------------------------------------------------


def model_type(name_or_path: str) -> str | None:
    """What a checkpoint is by its `config.json`: "clip", "video_clip", ... Raises ValueError if none can be read."""
    # Transformers raises errors of many types for unreadable files; each one means that there is no such checkpoint.
    try:
        return PreTrainedConfig.get_config_dict(name_or_path)[0].get("model_type")
    except Exception as error:
        raise ValueError(f"{name_or_path}: no folder or hub id with a readable config.json: {error}") from error


def load_whole(load: Callable, name_or_path: str, *, expected: str, **kwargs: Any) -> PreTrainedModel:
    """Calls `load` (a `from_pretrained`) for a checkpoint with every weight.

    Raises ValueError, naming the checkpoint and what was found, if it is of another type, cannot be read as tensors
    alone, lacks weights or has some left over (transformers itself drops the positions that older CLIPs hold).
    """
    if (found := model_type(name_or_path)) != expected:
        raise ValueError(f"{name_or_path}: not a {expected!r} checkpoint, its config.json has model_type {found!r}")
    try:
        model, report = load(name_or_path, output_loading_info=True, weights_only=True, **kwargs)
    except UnpicklingError as error:  # whose own message advises to switch the protection off
        raise ValueError(f"{name_or_path}: its pytorch_model.bin holds more than tensors and is not read; whoever trusts "
                         "it converts it elsewhere: `safetensors.torch.save_file(state_dict, 'model.safetensors')`"
                         ) from error
    except Exception as error:  # of many types, as above
        raise ValueError(f"{name_or_path}: not a {expected!r} checkpoint that can be read: {error}") from error
    for what, keys in (("lacks", report["missing_keys"]), ("has unknown", report["unexpected_keys"])):
        if keys:
            names = ", ".join(sorted(keys)[:5]) + (", ..." if len(keys) > 5 else "")
            raise ValueError(f"{name_or_path}: not a {expected!r} checkpoint, it {what} {len(keys)} weights: {names}")
    return model


def normalisation(name_or_path: str) -> dict[str, tuple[float, ...]]:
    """`image_mean` and `image_std` of a checkpoint's image processor, in its newer or older file; {} without one.

    Raises ValueError, naming the file, if it is cut short.
    """
    for name in ("processor_config.json", "preprocessor_config.json"):
        path = cached_file(name_or_path, name, _raise_exceptions_for_missing_entries=False)
        try:
            settings = json.loads(Path(path).read_text()) if path else {}
            settings = settings.get("image_processor", settings)
            if "image_mean" in settings:
                return {key: tuple(settings[key]) for key in ("image_mean", "image_std")}
        except (ValueError, KeyError) as error:
            raise ValueError(f"{name_or_path}: {name} is cut short or lacks {error}: mend it") from error
    return {}


# ---- random checkpoints of real sizes ------------------------------------------------------------------------------


class Architecture(NamedTuple):
    """The sizes by which the hub's CLIPs differ; heads are 64 wide, a layer's hidden features four times its width."""

    patch: int
    width: int
    layers: int
    text_width: int
    projection: int
    activation: str = "quick_gelu"
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD


# LAION's are trained by open_clip, with the exact GELU; its ViT-L/14 of LAION-2B sees pixels in -1..1.
HUB = {
    "openai/clip-vit-base-patch32": Architecture(32, 768, 12, 512, 512),
    "openai/clip-vit-base-patch16": Architecture(16, 768, 12, 512, 512),
    "openai/clip-vit-large-patch14": Architecture(14, 1024, 24, 768, 768),
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": Architecture(32, 768, 12, 512, 512, "gelu"),
    "laion/CLIP-ViT-B-16-laion2B-s34B-b88K": Architecture(16, 768, 12, 512, 512, "gelu"),
    "laion/CLIP-ViT-L-14-laion2B-s32B-b82K": Architecture(14, 1024, 24, 768, 768, "gelu", (0.5,) * 3, (0.5,) * 3),
}

# Of the fields that transformers wrote into both towers' configurations in 2022, those that mean nothing to a CLIP.
LEFT_OVER = {
    "add_cross_attention": False, "architectures": None, "do_sample": False, "dropout": 0.0, "early_stopping": False,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "is_decoder": False, "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "max_length": 20, "num_beams": 1, "prefix": None, "pruned_heads": {}, "return_dict": True, "temperature": 1.0,
    "tie_word_embeddings": True, "tokenizer_class": None, "top_k": 50, "torch_dtype": None, "use_bfloat16": False,
    "transformers_version": "4.16.0.dev0",
}


def hub_config(architecture: Architecture) -> dict[str, Any]:
    """`config.json` as the hub has it: written in 2022, with token ids (0, 2) that CLIP's tokenizer does not have."""
    a = architecture

    def tower(width: int, layers: int) -> dict[str, Any]:
        return LEFT_OVER | {
            "hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 64,
            "num_hidden_layers": layers, "hidden_act": a.activation, "projection_dim": a.projection,
            "attention_dropout": 0.0, "initializer_factor": 1.0, "initializer_range": 0.02, "layer_norm_eps": 1e-05}

    text = {"model_type": "clip_text_model", "vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT,
            "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    vision = {"model_type": "clip_vision_model", "image_size": 224, "patch_size": a.patch, "num_channels": 3,
              "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    return {"architectures": ["CLIPModel"], "initializer_factor": 1.0, "logit_scale_init_value": 2.6592,
            "model_type": "clip", "projection_dim": a.projection, "text_config": tower(a.text_width, 12) | text,
            "text_config_dict": None, "torch_dtype": "float32", "transformers_version": None,
            "vision_config": tower(a.width, a.layers) | vision, "vision_config_dict": None}


def clip_tokenizer(bpe: str | Path) -> CLIPTokenizer:
    """CLIP's own tokenizer from OpenAI's `bpe_simple_vocab_16e6.txt.gz`: the one of every CLIP on the hub.

    Ids: 256 bytes, 256 bytes that end a word, 48,894 merges, start and end of text.
    """
    with gzip.open(bpe, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : VOCABULARY - 512 - 2 + 1]]  # the first line is a title
    bytes_ = sorted(ByteLevel.alphabet())
    tokens = [*bytes_, *(b + "</w>" for b in bytes_), *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=merges, model_max_length=CONTEXT)


def random_clip(architecture: Architecture, folder: str | Path, *, bpe: str | Path, seed: int = 0) -> None:
    """Writes a checkpoint of a `HUB` architecture with the hub's files and random weights: for tests and dry runs."""
    config = hub_config(architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(CLIPConfig.from_dict(config))
    pixels = {"image_processor_type": "CLIPImageProcessor", "image_mean": architecture.mean,
              "image_std": architecture.std}
    # the record replaces the config.json that this transformers writes by the hub's
    save_model(model, clip_tokenizer(bpe), Path(folder), config=config, preprocessor_config=pixels)
