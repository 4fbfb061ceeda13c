"""CLIPs with random weights, in the sizes and files of the hub's checkpoints: for tests and dry runs."""

import gzip
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from lib.run.clip_files import CONTEXT, VOCABULARY
from lib.run.files import whole_folder, write_json


class Architecture(NamedTuple):
    """The sizes in which the hub's CLIPs differ. Heads are 64 wide, MLPs four times the width of their tower."""

    patch: int
    width: int
    layers: int
    text_width: int
    projection: int
    activation: str = "quick_gelu"
    mean: tuple[float, ...] = tuple(OPENAI_CLIP_MEAN)
    std: tuple[float, ...] = tuple(OPENAI_CLIP_STD)


# LAION's were trained by open_clip, with the exact GELU; its ViT-L/14 of LAION-2B takes pixels in -1..1.
HUB = {
    "openai/clip-vit-base-patch32": Architecture(32, 768, 12, 512, 512),
    "openai/clip-vit-base-patch16": Architecture(16, 768, 12, 512, 512),
    "openai/clip-vit-large-patch14": Architecture(14, 1024, 24, 768, 768),
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": Architecture(32, 768, 12, 512, 512, "gelu"),
    "laion/CLIP-ViT-B-16-laion2B-s34B-b88K": Architecture(16, 768, 12, 512, 512, "gelu"),
    "laion/CLIP-ViT-L-14-laion2B-s32B-b82K": Architecture(14, 1024, 24, 768, 768, "gelu", (0.5,) * 3, (0.5,) * 3),
}

# Fields without a meaning for CLIP that transformers wrote into both towers' configurations in 2022.
GENERATION = dict(do_sample=False, early_stopping=False, max_length=20, num_beams=1, temperature=1.0, top_k=50)
CLASSIFICATION = dict(id2label={"0": "LABEL_0", "1": "LABEL_1"}, label2id={"LABEL_0": 0, "LABEL_1": 1})
MODEL = dict(architectures=None, dropout=0.0, is_decoder=False, add_cross_attention=False, tie_word_embeddings=True)
OUTPUT = dict(return_dict=True, torch_dtype=None, use_bfloat16=False, transformers_version="4.16.0.dev0")
TOWER = GENERATION | CLASSIFICATION | MODEL | OUTPUT | dict(prefix=None, pruned_heads={}, tokenizer_class=None)


def hub_config(architecture: Architecture) -> dict[str, Any]:
    """`config.json` as the hub has it: of 2022, with token ids (0, 2) that CLIP's tokenizer does not have."""
    a = architecture

    def tower(kind: str, width: int, layers: int, bos: int | None, eos: int | None, pad: int | None) -> dict[str, Any]:
        sizes = dict(hidden_size=width, intermediate_size=4 * width, num_attention_heads=width // 64)
        sizes |= dict(num_hidden_layers=layers, projection_dim=a.projection, layer_norm_eps=1e-05)
        training = dict(hidden_act=a.activation, attention_dropout=0.0, initializer_factor=1.0, initializer_range=0.02)
        tokens = dict(bos_token_id=bos, eos_token_id=eos, pad_token_id=pad)
        return TOWER | sizes | training | tokens | {"model_type": f"clip_{kind}_model"}

    text = tower("text", a.text_width, 12, 0, 2, 1) | dict(vocab_size=VOCABULARY, max_position_embeddings=CONTEXT)
    vision = tower("vision", a.width, a.layers, None, None, None)
    vision |= dict(image_size=224, patch_size=a.patch, num_channels=3)
    towers = dict(text_config=text, text_config_dict=None, vision_config=vision, vision_config_dict=None)
    both = dict(projection_dim=a.projection, initializer_factor=1.0, logit_scale_init_value=2.6592)
    form = dict(architectures=["CLIPModel"], model_type="clip", torch_dtype="float32", transformers_version=None)
    return form | both | towers


def clip_tokenizer(bpe: str | Path) -> CLIPTokenizer:
    """CLIP's tokenizer from OpenAI's `bpe_simple_vocab_16e6.txt.gz`.

    Ids: 256 bytes, 256 bytes that end a word, 48,894 merges, start and end of text.
    """
    with gzip.open(bpe, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : VOCABULARY - 512 - 2 + 1]]  # the first line is a title
    bytes_ = sorted(ByteLevel.alphabet())
    tokens = [*bytes_, *(b + "</w>" for b in bytes_), *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=merges, model_max_length=CONTEXT)


def random_clip(architecture: Architecture, folder: str | Path, *, bpe: str | Path, seed: int = 0) -> None:
    """Writes a checkpoint of a `HUB` architecture with random weights."""
    config = hub_config(architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(CLIPConfig.from_dict(config))
    pixels = dict(image_mean=architecture.mean, image_std=architecture.std)
    with whole_folder(Path(folder)) as partial:
        model.save_pretrained(partial)
        clip_tokenizer(bpe).save_pretrained(partial)
        write_json(partial / "config.json", config)  # the hub's, in place of today's
        write_json(partial / "preprocessor_config.json", {"image_processor_type": "CLIPImageProcessor"} | pixels)
