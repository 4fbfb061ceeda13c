"""Image CLIPs of the hub's sizes, files and texts: what a user with OpenAI's or LAION's weights relies on.

No hub is needed: the weights are random, everything else is as there. ViT-L/14 is measured in 93_checkpoints.
"""

import html
import json
import re
from functools import cache

import numpy as np
import pytest
import regex
import torch
from conftest import small_hub_config
from einops import rearrange
from tokenizers.pre_tokenizers import ByteLevel
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, CLIPTokenizer

from lib.backbone import VideoCLIP, in_precision
from lib.concepts import ConceptSpace, category_space, encode_texts
from lib.gradients import activation_bytes, forward_views
from lib.language.vocabulary import prompt_texts, read_prompts, read_vocabulary
from lib.run.clip_files import CONTEXT, normalisation
from lib.run.files import read_lines
from lib.run.params import FOLDER, ROOT, load
from lib.run.random_clip import HUB, clip_tokenizer, hub_config, random_clip
from lib.train import adapt
from lib.video.views import CLIP_MEAN, CLIP_STD
from lib.world.definition import read_world
from lib.world.pretrain import normalise
from lib.world.render import render

LAION_B32, LAION_L14 = (HUB[f"laion/CLIP-ViT-{name}"] for name in ("B-32-laion2B-s34B-b79K", "L-14-laion2B-s32B-b82K"))
WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE)  # OpenAI's
LABELS = {"kinetics400": 400, "ucf101": 101, "hmdb51": 51}


@pytest.fixture(scope="module")
def tokenizer(clip_bpe) -> CLIPTokenizer:
    return clip_tokenizer(clip_bpe)


def small(architecture) -> dict:
    return small_hub_config(architecture, image_size=32, patch_size=8)


def write(folder, config) -> CLIPModel:
    """A checkpoint with random weights and this very `config.json`."""
    torch.manual_seed(0)
    clip = CLIPModel(CLIPConfig.from_dict(config)).eval()
    clip.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    return clip


def random_videos(*, num_frames: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, 3, num_frames, size, size, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def assert_mean_of_frames(model: VideoCLIP, clip: CLIPModel, videos: torch.Tensor, pixels: torch.Tensor | None = None):
    """The embedding of videos is within 1e-5 of its norm from the mean of image CLIP's, whose frames differ by far
    more (so that a wrong frame would show)."""
    frames = rearrange(videos if pixels is None else pixels, "b c t h w -> (b t) c h w")
    each = clip.get_image_features(frames, interpolate_pos_encoding=True).pooler_output
    mean = each.mean(dim=0)
    assert len(frames) == 1 or (each - mean).norm(dim=1).min() > 0.02 * mean.norm()
    assert (model(videos).embedding[0] - mean).norm() < 1e-5 * mean.norm()


# ---- the hub's sizes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("openai/clip-vit-base-patch32", 151_277_313),
        ("openai/clip-vit-base-patch16", 149_620_737),
        ("openai/clip-vit-large-patch14", 427_616_513),
    ],
)
def test_a_model_of_the_hub_has_openais_number_of_weights(name, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in CLIPModel(CLIPConfig.from_dict(hub_config(HUB[name]))).parameters()) == parameters


@pytest.mark.parametrize(
    "name, layers, frames",
    [("openai/clip-vit-base-patch32", 2, (1, 8, 16)), ("openai/clip-vit-base-patch16", 12, (8,))],
)
def test_a_checkpoint_of_the_hub_becomes_a_video_model_equal_to_it(clip_bpe, tmp_path, name, layers, frames):
    random_clip(HUB[name]._replace(layers=layers), tmp_path / "clip", bpe=clip_bpe)
    clip, model = CLIPModel.from_pretrained(tmp_path / "clip"), VideoCLIP.from_image_clip(tmp_path / "clip")
    for num_frames in frames:
        assert_mean_of_frames(model, clip, random_videos(num_frames=num_frames, size=224))
    assert_mean_of_frames(model, clip, random_videos(num_frames=8, size=96))  # local views: positions interpolated
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "clip")
    batch = tokenizer(["a photo of a cat", "a dog"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = F.normalize(clip.get_text_features(**batch).pooler_output, dim=-1)
    torch.testing.assert_close(
        encode_texts(model, tokenizer, ["a photo of a cat", "a dog"]), expected, atol=1e-5, rtol=0
    )


def test_clip_b32_adapts_the_checkpoint_that_it_names_and_costs_what_it_estimates(clip_bpe, laid_out, tmp_path):
    """OpenAI's shapes with random weights: a step on two videos, the bytes and operations of one."""
    text = (FOLDER / "profiles/clip_b32.yaml").read_text()
    random_clip(HUB[load(profile="clip_b32").clip], tmp_path / "clip", bpe=clip_bpe)
    places = {"clip": str(tmp_path / "clip"), "data_ucf101": str(laid_out("ucf101")), "evaluate_on": ["ucf101"]}
    machine = {"device": "cpu", "workers": 0, "train_precision": "float32", "allow_missing": True}
    small = {"batch_size": 2, "train_videos": 2, "epochs": 1, "warmup_epochs": 0, "num_concepts": 4, "prompts": "bare"}
    params = load(profile="clip_b32", probe_on=[], **places, **machine, **small)
    assert adapt(params, tmp_path / "run")["steps"] == 1
    (line,) = read_lines(tmp_path / "run/log.jsonl")
    assert line["learning_rate"] == params.learning_rate and line["videos"] == 2

    model = VideoCLIP.from_pretrained(str(tmp_path / "run/student"))
    shapes = [(3, 8, 224, 224)] * 2
    gigabytes = activation_bytes(in_precision(model.visual, "bfloat16"), shapes) / 1e9
    assert f"{gigabytes:.2f} GB for each" in text
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        forward_views(model.visual, [torch.zeros(1, *shape) for shape in shapes])
    passes = 5  # the teacher's, the student's without gradient, then with it: three times a forward pass
    operations = passes * counter.get_total_flops()
    assert f"{operations / 1e9:.0f} GFLOP a video" in text
    speed, hours = float(re.search(r"at (\d+) TFLOP/s", text)[1]), float(re.search(r"(\d+) hour \(", text)[1])
    epochs = load(profile="clip_b32").epochs
    assert epochs * 9_537 * operations / (speed * 1e12) / 3600 == pytest.approx(hours, rel=0.1)


@pytest.mark.parametrize(
    "name, heads, text_heads, projection",
    [
        ("openai/clip-vit-base-patch32", 12, 8, 512),
        ("openai/clip-vit-base-patch16", 12, 8, 512),
        ("openai/clip-vit-large-patch14", 16, 12, 768),
    ],
)
def test_the_configurations_are_those_of_the_hub(name, heads, text_heads, projection):
    config = CLIPConfig.from_dict(hub_config(HUB[name]))
    assert config.vision_config.num_attention_heads == heads
    assert config.text_config.num_attention_heads == text_heads
    assert config.projection_dim == config.text_config.projection_dim == projection
    assert (config.text_config.eos_token_id, config.text_config.vocab_size) == (2, 49408)


def test_frames_that_a_patch_of_14_does_not_divide_are_refused(tmp_path):
    config = small(HUB["openai/clip-vit-large-patch14"])
    config["vision_config"].update(image_size=56, patch_size=14)
    clip = write(tmp_path, config)
    model = VideoCLIP.from_image_clip(tmp_path)
    with pytest.raises(ValueError, match="96 x 96 pixels: both must be multiples of the patch, 14"):
        model(random_videos(num_frames=2, size=96))
    assert_mean_of_frames(model, clip, random_videos(num_frames=2, size=98))


# ---- the hub's files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "text_config_dict": {
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_attention_heads": 2,
                "num_hidden_layers": 2,
                "hidden_act": "gelu",
            }
        },  # older files: these values win
        {"text_config": {"eos_token_id": 49407, "bos_token_id": 49406}},  # files written since 2023
    ],
)
def test_laions_files_are_read_as_transformers_reads_them(tokenizer, tmp_path, changes):
    config = small(LAION_B32)
    config |= {key: (config[key] or {}) | value for key, value in changes.items()}
    clip = write(tmp_path, config)
    model = VideoCLIP.from_image_clip(tmp_path)
    assert model.config.vision_config.hidden_act == model.config.text_config.hidden_act == "gelu"
    assert_mean_of_frames(model, clip, random_videos(num_frames=8, size=32))
    texts = ["a photo of a cat", "a longer text, about a dog"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = F.normalize(clip.get_text_features(**batch).pooler_output, dim=-1)
    torch.testing.assert_close(encode_texts(model, tokenizer, texts), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("file, nested", [("preprocessor_config.json", False), ("processor_config.json", True)])
def test_a_checkpoint_trained_on_otherwise_normalised_pictures_sees_them_so(tmp_path, file, nested):
    clip = write(tmp_path, small(LAION_L14))
    pixels = {"image_mean": LAION_L14.mean, "image_std": LAION_L14.std}
    (tmp_path / file).write_text(json.dumps({"image_processor": pixels} if nested else pixels))
    assert normalisation(tmp_path) == {"image_mean": (0.5,) * 3, "image_std": (0.5,) * 3}
    colours = torch.rand(1, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    VideoCLIP.from_image_clip(tmp_path).save_pretrained(tmp_path / "adapted")
    assert_mean_of_frames(
        VideoCLIP.from_pretrained(tmp_path / "adapted"), clip, (colours - mean) / std, 2 * colours - 1
    )


def test_a_pytorch_model_bin_is_read_as_tensors(tmp_path):
    clip = write(tmp_path, small(LAION_B32))
    weights = clip.state_dict() | {"text_model.embeddings.position_ids": torch.arange(CONTEXT)[None]}  # as in 2022
    torch.save(weights, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    assert_mean_of_frames(VideoCLIP.from_image_clip(tmp_path), clip, random_videos(num_frames=2, size=32))


class Trap:
    """Its unpickling leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pytorch_model_bin_that_would_run_code_is_refused(tmp_path):
    clip = write(tmp_path, small(LAION_B32))
    torch.save(clip.state_dict() | {"trap": Trap(tmp_path / "sprung")}, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"pytorch_model\.bin holds more than tensors and is not read.*save_file"):
        VideoCLIP.from_image_clip(tmp_path)
    assert not (tmp_path / "sprung").exists()


# ---- texts ---------------------------------------------------------------------------------------------------------


def texts_of(vocabulary: str) -> list[str]:
    """Every text that a run may give to the tokenizer: labels in every template, descriptions."""
    concepts = read_vocabulary(FOLDER / "concepts" / f"{vocabulary}.yaml", num_descriptions=4)
    assert len(concepts) == LABELS[vocabulary]
    templates = [t for path in sorted((FOLDER / "prompts").glob("*.yaml")) for t in read_prompts(path)]
    texts = [text for c in concepts for text in prompt_texts(c, templates, num_descriptions=4)]
    return texts + [text for c in concepts for text in c.descriptions]


def words(text: str) -> list[str]:
    """What CLIP makes of a text before the bytes: lower case, entities read, punctuation apart, blanks gone."""
    return WORDS.findall(html.unescape(html.unescape(text)).lower())


def reference_tokens(ranks: dict, ids: dict):
    """text -> ids by the algorithm of OpenAI's `SimpleTokenizer`: split, bytes, merge the best-ranked pair first."""
    bytes_ = dict(zip([*range(33, 127), *range(161, 173), *range(174, 256)], sorted(ByteLevel.alphabet())[:188]))
    bytes_ |= dict(zip([b for b in range(256) if b not in bytes_], map(chr, range(256, 512))))

    @cache
    def merged(word: str) -> list[int]:
        parts = [bytes_[b] for b in word.encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            rank, i = min((ranks.get(pair, len(ranks)), i) for i, pair in enumerate(zip(parts, parts[1:])))
            if rank == len(ranks):
                break
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        return [ids[part] for part in parts]

    return lambda text: [49406, *(i for word in words(text) for i in merged(word)), 49407]


def test_the_tokenizer_gives_the_published_ids(openai_bpe):
    tokenizer = clip_tokenizer(openai_bpe)
    for text, ids in (
        ("a photo of a cat", [320, 1125, 539, 320, 2368]),
        ("a diagram", [320, 22697]),
        ("a dog", [320, 1929]),
    ):
        assert tokenizer(text)["input_ids"] == [49406, *ids, 49407]


@pytest.mark.parametrize("vocabulary", LABELS)
def test_every_text_of_the_paper_is_read_whole_and_as_by_openai(tokenizer, vocabulary):
    texts = texts_of(vocabulary)
    state = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    reference = reference_tokens({tuple(pair): i for i, pair in enumerate(state["merges"])}, state["vocab"])
    for text, ids in zip(texts, tokenizer(texts)["input_ids"], strict=True):
        assert len(ids) <= CONTEXT, text
        assert ids == reference(text)
        assert not {49406, 49407} & set(ids[1:-1]), text  # the second is also what stands for an unknown word
        # CLIP forgets whether a blank stood before punctuation and 's: "head's" is "head 's" once decoded.
        assert tokenizer.decode(ids[1:-1]).split() == words(text)


def test_the_prompts_are_openais():
    """data/prompts.md of openai/CLIP: 28 templates of Kinetics700 and 48 of UCF101, in its order."""
    kinds, verbs = (
        ("photo", "video", "example", "demonstration"),
        ("", "using ", "doing ", "during ", "performing ", "practicing "),
    )
    kinetics = [f"a {kind} of {what}{{}}." for kind in kinds for what in ("", *(f"a person {v}" for v in verbs))]
    ucf101 = [f"a {kind} of {who} person {verb}{{}}." for verb in verbs for who in ("a", "the") for kind in kinds]
    assert read_prompts(FOLDER / "prompts" / "clip_kinetics.yaml") == kinetics and len(kinetics) == 28
    assert read_prompts(FOLDER / "prompts" / "clip_ucf101.yaml") == ucf101 and len(ucf101) == 48


# ---- bfloat16 ------------------------------------------------------------------------------------------------------


def test_in_bfloat16_embeddings_turn_by_less_than_a_thousandth_and_predictions_stay():
    """The embedded CLIP, whose weights are trained, on rendered videos: a bfloat16 copy against float32."""
    folder = ROOT / "outputs" / "embedded" / "clip" / "0"
    model, tokenizer = VideoCLIP.from_image_clip(folder), AutoTokenizer.from_pretrained(folder)
    rng, world = np.random.default_rng(0), read_world("embedded")
    videos = [
        render(world, action, rng, size=64, num_frames=24, fps=12, still=False, difficulty=0.2)[0][::4]
        for action in world.actions
        for _ in range(4)
    ]
    frames = rearrange(torch.from_numpy(np.stack(videos)), "b t h w c -> (b t) c h w").float() / 255
    frames = normalise(F.interpolate(frames, size=(48, 48), mode="bilinear", antialias=True))
    pixels = rearrange(frames, "(b t) c h w -> b c t h w", b=len(videos))
    concepts = read_vocabulary(FOLDER / "concepts" / "embedded.yaml", num_descriptions=4)
    space: ConceptSpace = category_space(model, tokenizer, concepts, read_prompts(FOLDER / "prompts" / "photo.yaml"))
    with torch.no_grad():
        exact = model(pixels).embedding
        (output,) = in_precision(model.visual, "bfloat16")([pixels])
    rounded = output.embedding
    assert rounded.dtype == torch.float32
    assert F.cosine_similarity(rounded, exact).min() > 0.999
    agreement = (space.logits(rounded, 0.01).argmax(dim=1) == space.logits(exact, 0.01).argmax(dim=1)).float().mean()
    assert agreement > 0.95
    assert space.logits(exact, 0.01).argmax(dim=1).unique().numel() > 8  # not one answer for all
    assert not torch.equal(rounded, exact)
