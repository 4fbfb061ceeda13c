"""The embedded CLIP: contrastive pre-training on stills of the embedded world with noisy, web-like captions.

It replaces OpenAI's checkpoint without network access: an ordinary Hugging Face `CLIPModel` with a `CLIPTokenizer`,
trained as in "Learning Transferable Visual Models From Natural Language Supervision" (ICML 2021). Captions describe
attributes of the picture, mostly correctly; the action is often missing and sometimes wrong, and some actions are rare.
The model never sees a video.
"""

import json
import math
import time
from collections.abc import Callable
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

from lib.run.checkpoints import save_model
from lib.run.fields import ClipParams, Params
from lib.run.params import ROOT
from lib.run.records import provenance
from lib.video.views import CLIP_MEAN, CLIP_STD
from lib.world.definition import World, read_world
from lib.world.render import COLOURS, TROUSERS, render
from lib.world.skeleton import POSTURES

CONTEXT = 77  # CLIP's

PERSONS = ["a person", "someone", "a man", "a woman", "photo of someone", ""]
OPENINGS = ["a photo of a person", "a picture of a person", *PERSONS]


def caption(facts: dict, world: World, params: ClipParams, rng: np.random.Generator) -> str:
    """A web-like caption of a still from the facts that `render` returns."""
    synonyms = world.scenes | world.objects | world.postures

    def mention(value: str, choices: list[str]) -> list[str]:
        if rng.random() >= params.clip_attribute_named:
            return []
        value = str(rng.choice(choices)) if rng.random() < params.clip_attribute_wrong else value
        words = [value, *synonyms.get(value, [])]
        return [words[rng.integers(len(words))] if len(words) > 1 else value]

    words = [OPENINGS[rng.integers(len(OPENINGS))]]
    if rng.random() < params.clip_action_named:
        wrong = rng.random() < params.clip_action_wrong
        phrases = world.actions[str(rng.choice(list(world.actions))) if wrong else facts["action"]].phrases
        words.append(phrases[rng.integers(len(phrases))])
    words += [f"in a {colour} shirt" for colour in mention(facts["shirt"], list(COLOURS))]
    words += [f"and {colour} trousers" for colour in mention(facts["trousers"], list(TROUSERS))]
    words += [f"in the {place}" for place in mention(facts["scene"], list(world.scenes))]
    if facts["object"]:
        words += [f"with a {name}" for name in mention(facts["object"], list(world.objects))]
    words += [f"seen from the {view}" for view in mention(facts["view"], ["front", "side", "back"])]
    postures = [mentioned for posture in facts["postures"] for mentioned in mention(posture, POSTURES)]
    return " ".join(filter(None, [*words, ", ".join(postures)]))


def _still(index: int, params: Params, part: int) -> tuple[np.ndarray, dict, str]:
    rng, world = np.random.default_rng([params.world_seed, 100 + part, index]), read_world(params.world)
    action = index % len(world.actions)
    if part == 0:
        weight = (1.0 + np.arange(len(world.actions))) ** -params.clip_action_skew
        order = np.random.default_rng([params.world_seed, 99]).permutation(len(world.actions))  # which actions are rare
        action = order[rng.choice(len(weight), p=weight / weight.sum())]
    video = {"size": params.world_size, "num_frames": params.world_frames, "fps": params.world_fps}
    frames, facts = render(world, list(world.actions)[action], rng, **video, still=True)
    return frames[0], facts, caption(facts, world, params, rng)


def stills(params: Params, *, held_out: bool) -> tuple[Tensor, list[dict], list[str]]:
    """Renders stills: pictures 'b c h w' uint8, facts and captions. Classes are balanced only in the held-out part."""
    count = params.clip_held_out_stills if held_out else params.clip_stills
    task = partial(_still, params=params, part=int(held_out))
    with ProcessPoolExecutor(params.workers or None) as pool:
        rendered = tqdm(pool.map(task, range(count), chunksize=64), total=count, desc="stills", unit="still")
        pictures, facts, captions = zip(*rendered)
    return rearrange(torch.from_numpy(np.stack(pictures)), "b h w c -> b c h w"), list(facts), list(captions)


def train_tokenizer(texts: list[str], size: int) -> CLIPTokenizer:
    """Learns a CLIP byte-pair encoding with `size` tokens, which can encode any text.

    The vocabulary has the order of OpenAI's: bytes, bytes at the end of a word, merges, start and end of text.
    """
    learned = CLIPTokenizer().train_new_from_iterator(texts, vocab_size=size, show_progress=False)
    merges = [tuple(pair) for pair in json.loads(learned.backend_tokenizer.to_str())["model"]["merges"]]
    bytes_ = sorted(ByteLevel.alphabet())
    tokens = bytes_ + [b + "</w>" for b in bytes_]
    merges = merges[: max(size - len(tokens) - 2, 0)]
    tokens = dict.fromkeys(tokens + ["".join(pair) for pair in merges] + ["<|startoftext|>", "<|endoftext|>"])
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=merges, model_max_length=CONTEXT)


def _model(params: ClipParams, tokenizer: CLIPTokenizer) -> CLIPModel:
    heads, projection = params.clip_heads, params.clip_projection

    def tower(width: int, layers: int, **rest: int) -> dict[str, int]:
        sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
        return {**sizes, "num_attention_heads": heads, "projection_dim": projection, **rest}

    end = tokenizer.eos_token_id
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": end, "pad_token_id": end}
    context = {"vocab_size": len(tokenizer), "max_position_embeddings": CONTEXT}
    picture = {"image_size": params.clip_image_size, "patch_size": params.clip_patch_size}
    vision = tower(params.clip_width, params.clip_layers, **picture)
    text = tower(params.clip_text_width, params.clip_text_layers, **context, **ids)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=projection))


def _augment(pictures: Tensor, size: int, scale: list[float], rng: np.random.Generator) -> Tensor:
    """Random crops of a share `scale` of the area, and flips: 'b c h w' uint8 -> 'b c size size', normalised."""
    b = len(pictures)
    side = np.sqrt(rng.uniform(*scale, b))
    theta = np.zeros((b, 2, 3), np.float32)
    theta[:, 0, 0], theta[:, 1, 1] = side * rng.choice([-1, 1], b), side
    theta[:, :, 2] = rng.uniform(-1, 1, (b, 2)) * (1 - side)[:, None]
    grid = F.affine_grid(torch.from_numpy(theta), [b, 3, size, size], align_corners=False)
    return normalise(F.grid_sample(pictures.float() / 255, grid, padding_mode="border", align_corners=False))


def normalise(pictures: Tensor) -> Tensor:
    """Normalises 'b c h w' in 0..1 with CLIP's mean and standard deviation."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return (pictures - mean) / std


def _optimizers(params: ClipParams, named: list[tuple[str, torch.nn.Parameter]], steps: int) -> tuple[list, list]:
    """Muon for the matrices of the transformer layers, AdamW for the rest; linear warm-up, then a cosine to 0.

    With AdamW alone, so small a transformer needs several times the steps to distinguish poses (see LOG.md).
    """
    matrices, others = [], []
    for name, parameter in named:
        (matrices if parameter.ndim == 2 and ".layers." in name else others).append(parameter)
    muon = {"lr": params.clip_muon_learning_rate, "weight_decay": params.clip_weight_decay}
    adamw = {"lr": params.clip_learning_rate, "weight_decay": 0.0, "betas": (0.9, 0.98), "fused": True}
    optimizers = [
        torch.optim.Muon(matrices, **muon, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, **adamw),
    ]
    warmup = max(params.clip_warmup * steps, 1)

    def factor(step: int) -> float:
        return min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * min(step / steps, 1))))

    return optimizers, [torch.optim.lr_scheduler.LambdaLR(optimizer, factor) for optimizer in optimizers]


def pretrain(params: Params) -> dict:
    """Trains the embedded CLIP, saves model, tokenizer and `record.json` under `params.clip`, and returns the record.

    Raises FileExistsError if `params.clip` is a folder with other files.
    """
    started, origin, target = time.time(), provenance(params, ClipParams), ROOT / params.clip
    if target.is_dir() and any(target.iterdir()) and not (target / "record.json").is_file():
        raise FileExistsError(f"{target} holds files other than an embedded CLIP: choose another `clip`")
    torch.set_num_threads(params.threads)
    torch.manual_seed(params.world_seed)  # Hugging Face initialises from the global generator
    pictures, _, captions = stills(params, held_out=False)
    tokenizer = train_tokenizer(captions, params.clip_vocabulary)
    tokens = tokenizer(captions, padding=True, return_tensors="pt")
    model = _model(params, tokenizer).train()
    keep = partial(_keep, model, tokenizer, params, origin)
    steps = _train(model, pictures, tokens["input_ids"], tokens["attention_mask"], params, keep)
    record = {
        "params": {name: getattr(params, name) for name in ClipParams.model_fields},
        "steps": steps,
        "parameters": model.num_parameters(),
        "stills": name_stills(model.eval(), tokenizer, params),
        "command": "papermill notebooks/10_embedded_clip.ipynb out.ipynb -k python3 "
        f"-p profile {params.world} -p world_seed {params.world_seed}",
        "seconds": round(time.time() - started),
        **origin,
    }
    save_model(model, tokenizer, target, record=record)
    return record


def _keep(model: CLIPModel, tokenizer: CLIPTokenizer, params: Params, origin: dict, epoch: int) -> None:
    """Saves the unfinished CLIP beside `params.clip`."""
    record = {"params": {name: getattr(params, name) for name in ClipParams.model_fields}, "epoch": epoch, **origin}
    target = ROOT / f"{params.clip}-epoch{epoch}"
    save_model(model.eval(), tokenizer, target, record=record | {"stills": name_stills(model, tokenizer, params)})
    model.train()


def _train(
    model: CLIPModel, pictures: Tensor, ids: Tensor, masks: Tensor, params: Params, keep: Callable[[int], None]
) -> int:
    """Minimises CLIP's contrastive loss plus a bag-of-words loss; returns the number of steps.

    pictures: 'b c h w' uint8; ids, masks: 'b l', the tokens of their captions. keep: called after the epochs of
    `clip_keep_epochs`.
    """
    rng = np.random.default_rng([params.world_seed, 98])
    vocabulary = model.config.text_config.vocab_size
    words = torch.nn.Linear(
        params.clip_projection, vocabulary
    )  # predicts the tokens of the caption; discarded after training
    torch.nn.init.constant_(words.bias, -4.0)  # most tokens are absent
    bags = torch.zeros(len(ids), vocabulary, dtype=torch.bool).scatter_(1, ids, True)
    batches = params.clip_stills // params.clip_batch_size
    steps = params.clip_epochs * batches
    optimizers, schedulers = _optimizers(params, [*model.named_parameters(), *words.named_parameters()], steps)
    progress = tqdm(total=steps, desc="pre-training CLIP", unit="step")
    for epoch in range(1, params.clip_epochs + 1):
        order = torch.from_numpy(rng.permutation(params.clip_stills))[: batches * params.clip_batch_size]
        for batch in order.split(params.clip_batch_size):
            length = int(masks[batch].sum(1).max())
            text = {"input_ids": ids[batch, :length], "attention_mask": masks[batch, :length]}
            views = _augment(pictures[batch], params.clip_image_size, params.clip_crop_scale, rng)
            output = model(pixel_values=views, **text, return_loss=True)
            logits = words(output.vision_model_output.pooler_output)
            word_losses = F.binary_cross_entropy_with_logits(logits, bags[batch].float(), reduction="none")
            word_loss = word_losses.sum(1).mean()

            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            (output.loss + params.clip_words_weight * word_loss).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for stepper in (*optimizers, *schedulers):
                stepper.step()
            with torch.no_grad():
                model.logit_scale.clamp_(max=math.log(100))
            progress.update()
            losses = {"contrastive": f"{output.loss.item():.3f}", "words": f"{word_loss.item():.2f}"}
            progress.set_postfix(losses, refresh=False)
        if epoch in params.clip_keep_epochs:
            keep(epoch)
    progress.close()
    return steps


@torch.no_grad()
def name_stills(model: CLIPModel, tokenizer: CLIPTokenizer, params: Params) -> dict:
    """Zero-shot accuracy on held-out stills and the frequency of predictions, in percent.

    A still cannot show the direction of a movement, so `up_to_direction` accepts both (sit down / stand up, ...).
    """
    pictures, facts, _ = stills(params, held_out=True)
    actions, size = read_world(params.world).actions, params.clip_image_size
    labels, sentences = list(actions), [f"a photo of a person {each.phrases[0]}." for each in actions.values()]
    texts = tokenizer(sentences, padding=True, return_tensors="pt")
    text = F.normalize(model.get_text_features(**texts).pooler_output, dim=-1)
    predicted = []
    for batch in pictures.split(256):
        resized = F.interpolate(batch.float() / 255, (size, size), mode="bilinear", antialias=True, align_corners=False)
        images = F.normalize(model.get_image_features(normalise(resized)).pooler_output, dim=-1)
        predicted.append((images @ text.T).argmax(1))
    predicted, truth = torch.cat(predicted), torch.tensor([labels.index(fact["action"]) for fact in facts])
    undirected = torch.tensor([i - i % 2 if i < 6 else i for i in range(len(labels))])  # the first three pairs

    def percent(hits: Tensor) -> float:
        return 100 * hits.float().mean().item()

    return {
        "top1": percent(predicted == truth),
        "up_to_direction": percent(undirected[predicted] == undirected[truth]),
        "per_class": {label: percent(predicted[truth == i] == i) for i, label in enumerate(labels)},
        "share_predicted": {label: percent(predicted == i) for i, label in enumerate(labels)},
    }
