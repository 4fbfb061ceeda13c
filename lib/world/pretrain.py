"""The embedded CLIP: contrastive pre-training on stills of the embedded world with noisy, web-like captions.

It plays the part of OpenAI's checkpoint where no hub is reachable: an ordinary Hugging Face `CLIPModel` with a
`CLIPTokenizer`, trained as "Learning Transferable Visual Models From Natural Language Supervision" (ICML 2021)
describes. Captions name attributes of the picture, mostly right; the action is often missing and sometimes wrong, and
some actions are rarer than others. It never sees a video.
"""

import json
import math
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import torch
from einops import rearrange
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from lib.run.fields import ClipParams, Params
from lib.run.params import ROOT
from lib.run.records import provenance, save_model
from lib.video.views import CLIP_MEAN, CLIP_STD
from lib.world.actions import ACTIONS, POSTURES
from lib.world.render import COLOURS, SCENES, TROUSERS, render

CONTEXT = 77  # CLIP's

# how people write of an action; the first is the class name
PHRASES = {
    "sit down": ["sitting down", "sitting down on a chair", "taking a seat"],
    "stand up": ["standing up", "standing up from a chair", "getting up from a seat"],
    "raise arms": ["raising both arms", "lifting the arms", "raising the hands"],
    "lower arms": ["lowering both arms", "bringing the arms down", "lowering the hands"],
    "pick up": ["picking up a box", "picking something up from the floor", "lifting a box"],
    "put down": ["putting down a box", "putting something down on the floor", "setting down a box"],
    "walk": ["walking", "walking along", "going for a walk"],
    "run": ["running", "running fast", "jogging"],
    "jumping jack": ["doing jumping jacks", "jumping with arms and legs apart", "doing star jumps"],
    "squat": ["doing squats", "squatting", "doing a deep squat"],
    "wave": ["waving a hand", "waving", "waving hello"],
    "clap": ["clapping hands", "clapping", "applauding"],
    "punch": ["punching", "boxing", "throwing punches"],
    "kick": ["kicking", "kicking with one leg", "doing a high kick"],
    "push up": ["doing push ups", "doing press ups", "pushing up from the floor"],
    "jump rope": ["jumping rope", "skipping rope", "jumping over a rope"],
}
OPENINGS = [
    "a photo of a person",
    "a picture of a person",
    "a person",
    "someone",
    "a man",
    "a woman",
    "photo of someone",
    "",
]


def caption(facts: dict, params: ClipParams, rng: np.random.Generator) -> str:
    """One web-like caption of a still from its facts (`world.render`): attributes mostly right, the action
    often absent."""

    def named(right: str, all_: list[str]) -> list[str]:
        if rng.random() >= params.clip_attribute_named:
            return []
        return [str(rng.choice(all_))] if rng.random() < params.clip_attribute_wrong else [right]

    words = [OPENINGS[rng.integers(len(OPENINGS))]]
    if rng.random() < params.clip_action_named:
        wrong = rng.random() < params.clip_action_wrong
        action = str(rng.choice(list(PHRASES))) if wrong else facts["action"]
        words.append(PHRASES[action][rng.integers(len(PHRASES[action]))])
    words += [f"in a {colour} shirt" for colour in named(facts["shirt"], list(COLOURS))]
    words += [f"and {colour} trousers" for colour in named(facts["trousers"], list(TROUSERS))]
    words += [f"in the {place}" for place in named(facts["scene"], list(SCENES))]
    if facts["object"]:
        words += [f"with a {thing}" for thing in named(facts["object"], ["chair", "box", "rope"])]
    words += [f"seen from the {view}" for view in named(facts["view"], ["front", "side", "back"])]
    posture = [word for right in facts["postures"] for word in named(right, POSTURES)]
    return " ".join(filter(None, [" ".join(filter(None, words)), ", ".join(posture)]))


def _still(index: int, params: Params, part: int) -> tuple[np.ndarray, dict, str]:
    rng = np.random.default_rng([params.world_seed, 100 + part, index])
    weight = (1.0 + np.arange(len(ACTIONS))) ** -params.clip_action_skew
    order = np.random.default_rng([params.world_seed, 99]).permutation(len(ACTIONS))  # which actions are rare
    drawn = order[rng.choice(len(ACTIONS), p=weight / weight.sum())] if part == 0 else index % len(ACTIONS)
    frames, facts = render(
        list(ACTIONS)[drawn],
        rng,
        size=params.world_size,
        num_frames=params.world_frames,
        fps=params.world_fps,
        still=True,
        difficulty=0.0,
    )
    return frames[0], facts, caption(facts, params, rng)


def stills(params: Params, *, held_out: bool) -> tuple[Tensor, list[dict], list[str]]:
    """Renders stills with captions; the held-out ones are as frequent in every class.

    Returns:
        pictures 'b c h w' uint8, their facts, their captions.
    """
    count = params.clip_held_out_stills if held_out else params.clip_stills
    with ProcessPoolExecutor(params.workers or None) as pool:
        made = list(
            tqdm(
                pool.map(partial(_still, params=params, part=int(held_out)), range(count), chunksize=64),
                total=count,
                desc="stills",
                unit="still",
            )
        )
    pictures, facts, captions = zip(*made)
    return rearrange(torch.from_numpy(np.stack(pictures)), "b h w c -> b c h w"), list(facts), list(captions)


def train_tokenizer(texts: list[str], size: int) -> CLIPTokenizer:
    """A CLIP byte-pair encoding of `size` tokens learned from texts, laid out as OpenAI's: bytes, bytes that end a
    word, merges, start and end of text. Any text can be encoded."""
    learned = CLIPTokenizer().train_new_from_iterator(texts, vocab_size=size, show_progress=False)
    merges = [tuple(pair) for pair in json.loads(learned.backend_tokenizer.to_str())["model"]["merges"]]
    bytes_ = sorted(ByteLevel.alphabet())
    tokens = bytes_ + [b + "</w>" for b in bytes_]
    merges = merges[: max(size - len(tokens) - 2, 0)]
    tokens = dict.fromkeys(tokens + ["".join(pair) for pair in merges] + ["<|startoftext|>", "<|endoftext|>"])
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=merges, model_max_length=CONTEXT)


def _model(params: ClipParams, tokenizer: CLIPTokenizer) -> CLIPModel:
    tower = {"num_attention_heads": params.clip_heads, "projection_dim": params.clip_projection}
    vision = {
        "hidden_size": params.clip_width,
        "intermediate_size": 4 * params.clip_width,
        "num_hidden_layers": params.clip_layers,
        "image_size": params.clip_image_size,
        "patch_size": params.clip_patch_size,
        **tower,
    }
    text = {
        "hidden_size": params.clip_text_width,
        "intermediate_size": 4 * params.clip_text_width,
        "num_hidden_layers": params.clip_text_layers,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": CONTEXT,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
        **tower,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=params.clip_projection))


def _augment(pictures: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    """Random crops of 70-100 % of the area and flips: 'b c h w' uint8 to 'b c size size', normalised."""
    b = len(pictures)
    side = np.sqrt(rng.uniform(0.7, 1.0, b))
    theta = np.zeros((b, 2, 3), np.float32)
    theta[:, 0, 0], theta[:, 1, 1] = side * rng.choice([-1, 1], b), side
    theta[:, :, 2] = rng.uniform(-1, 1, (b, 2)) * (1 - side)[:, None]
    grid = F.affine_grid(torch.from_numpy(theta), [b, 3, size, size], align_corners=False)
    return normalise(F.grid_sample(pictures.float() / 255, grid, padding_mode="border", align_corners=False))


def normalise(pictures: Tensor) -> Tensor:
    """'b c h w' in 0..1 to CLIP's mean and standard deviation."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return (pictures - mean) / std


def _optimizers(params: ClipParams, named: list[tuple[str, torch.nn.Parameter]], steps: int) -> tuple[list, list]:
    """Muon for the matrices of the transformers' layers, AdamW for the rest; linear warm-up, then half a cosine to 0.

    Plain AdamW needed several times the steps to see poses with so small a transformer (LOG.md has the comparison).
    """
    matrices = [p for name, p in named if p.ndim == 2 and ".layers." in name]
    others = [p for name, p in named if not (p.ndim == 2 and ".layers." in name)]
    optimizers = [
        torch.optim.Muon(
            matrices,
            lr=params.clip_muon_learning_rate,
            weight_decay=params.clip_weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(others, lr=params.clip_learning_rate, weight_decay=0.0, betas=(0.9, 0.98), fused=True),
    ]
    warmup = max(params.clip_warmup * steps, 1)
    schedulers = [
        torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * min(step / steps, 1))))
        )
        for optimizer in optimizers
    ]
    return optimizers, schedulers


def pretrain(params: Params) -> dict:
    """Trains the embedded CLIP and saves model, tokenizer and record (`record.json`) under `params.clip`.

    Returns:
        the record: parameters, steps, provenance, and the accuracy on held-out stills (`name_stills`).
    Raises:
        FileExistsError: `params.clip` is a folder with something else in it.
    """
    started, made, target = time.time(), provenance(params, ClipParams), ROOT / params.clip
    if target.is_dir() and any(target.iterdir()) and not (target / "record.json").is_file():
        raise FileExistsError(f"{target} holds something else than an embedded CLIP: choose another `clip`")
    torch.set_num_threads(params.threads)
    torch.manual_seed(params.world_seed)  # Hugging Face initialises from the global generator
    rng = np.random.default_rng([params.world_seed, 98])
    pictures, _, captions = stills(params, held_out=False)
    tokenizer = train_tokenizer(captions, params.clip_vocabulary)
    tokens = tokenizer(captions, padding=True, return_tensors="pt")
    model = _model(params, tokenizer).train()
    words = torch.nn.Linear(params.clip_projection, len(tokenizer))  # picture -> tokens of its caption; thrown away
    bags = torch.zeros(len(captions), len(tokenizer), dtype=torch.bool).scatter_(1, tokens["input_ids"], True)
    torch.nn.init.constant_(words.bias, -4.0)  # most tokens are absent
    batches = params.clip_stills // params.clip_batch_size
    steps = params.clip_epochs * batches
    optimizers, schedulers = _optimizers(params, [*model.named_parameters(), *words.named_parameters()], steps)
    progress = tqdm(total=steps, desc="pre-training CLIP", unit="step")
    for _ in range(params.clip_epochs):
        for chosen in torch.from_numpy(rng.permutation(params.clip_stills))[: batches * params.clip_batch_size].view(
            batches, -1
        ):
            mask = tokens["attention_mask"][chosen]
            length = int(mask.sum(1).max())
            output = model(
                pixel_values=_augment(pictures[chosen], params.clip_image_size, rng),
                attention_mask=mask[:, :length],
                input_ids=tokens["input_ids"][chosen][:, :length],
                return_loss=True,
            )
            absent_or_not = (
                F.binary_cross_entropy_with_logits(
                    words(output.vision_model_output.pooler_output), bags[chosen].float(), reduction="none"
                )
                .sum(1)
                .mean()
            )
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            (output.loss + params.clip_words_weight * absent_or_not).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for stepped in (*optimizers, *schedulers):
                stepped.step()
            with torch.no_grad():
                model.logit_scale.clamp_(max=math.log(100))
            progress.update()
            progress.set_postfix(
                contrastive=f"{output.loss.item():.3f}", words=f"{absent_or_not.item():.2f}", refresh=False
            )
    progress.close()
    record = {
        "params": {name: getattr(params, name) for name in ClipParams.model_fields},
        "steps": steps,
        "parameters": model.num_parameters(),
        "stills": name_stills(model.eval(), tokenizer, params),
        "command": f"papermill notebooks/10_embedded_clip.ipynb out.ipynb -k python3 -p world_seed {params.world_seed}",
        "seconds": round(time.time() - started),
        **made,
    }
    save_model(model, tokenizer, target, record=record)
    return record


@torch.no_grad()
def name_stills(model: CLIPModel, tokenizer: CLIPTokenizer, params: Params) -> dict:
    """Zero-shot accuracy on held-out stills, in percent.

    A still cannot show the direction of a movement, so `up_to_direction` counts the other one of the two directions as
    right (sit down / stand up, raise / lower arms, pick up / put down).
    """
    pictures, facts, _ = stills(params, held_out=True)
    labels, size = list(ACTIONS), params.clip_image_size
    texts = tokenizer(
        [f"a photo of a person {PHRASES[label][0]}." for label in labels], padding=True, return_tensors="pt"
    )
    text = F.normalize(model.get_text_features(**texts).pooler_output, dim=-1)
    scores = torch.cat(
        [
            F.normalize(
                model.get_image_features(
                    normalise(
                        F.interpolate(
                            batch.float() / 255, size=(size, size), mode="bilinear", antialias=True, align_corners=False
                        )
                    )
                ).pooler_output,
                dim=-1,
            )
            @ text.T
            for batch in pictures.split(256)
        ]
    )
    truth = torch.tensor([labels.index(fact["action"]) for fact in facts])
    predicted = scores.argmax(1)
    undirected = torch.tensor([i - i % 2 if i < 6 else i for i in range(len(labels))])  # the first three pairs
    share = torch.bincount(predicted, minlength=len(labels)) / len(predicted)
    return {
        "top1": 100 * (predicted == truth).float().mean().item(),
        "up_to_direction": 100 * (undirected[predicted] == undirected[truth]).float().mean().item(),
        "per_class": {
            label: 100 * (predicted[truth == i] == i).float().mean().item() for i, label in enumerate(labels)
        },
        "share_predicted": dict(zip(labels, (100 * share).tolist())),
    }
