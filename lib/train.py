"""Adaptation: an image CLIP becomes a video model by self-distillation in concept spaces. One flat loop.

A student sees all views of a video, its exponential moving average, the teacher, the global ones; the objective
compares what they say (`lib/objectives.py`). Only the visual tower learns: the text tower, hence the concept spaces, is
CLIP's own to the end. What a step does follows from the parameters and its number alone, so a run that was killed goes
on from its last checkpoint to the very same weights.
"""

import copy
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lib.backbone import VideoCLIP, VideoCLIPOutput, is_temporal
from lib.concepts import (Concept, ConceptSpace, category_space, description_space, random_space, read_prompts,
                          read_vocabulary)
from lib.data import BatchPlan, TrainingViews, collate, list_dataset, long_tailed, train_part
from lib.lists import VideoList
from lib.losses import collapse_diagnostics
from lib.objectives import ConceptObjective, FeatureObjective, LabelObjective
from lib.params import FOLDER, ROOT, AdaptParams, Params
from lib.runs import append_line, model_card, provenance, read_lines, save_checkpoint, save_model, write_json
from lib.views import ViewSettings


class AdaptationError(RuntimeError):
    """The adaptation cannot go on; the message says at which step, why, and what to try."""


def checkpoint_name(clip: str) -> str:
    """The parameter `clip` as transformers takes it: a folder of this repository if there is one, else a hub id."""
    return str(ROOT / clip) if (ROOT / clip).is_dir() else clip


def read_concepts(params: Params, classes: list[str] | None = None) -> list[Concept]:
    """The concepts of all files of `params.concepts`; of those that are spoken alike, the first.

    Given a data set's classes: their concepts alone, in the order of the classes, from the first file that has them
    all. Raises ValueError if no file has, ConceptError if a file is no good.
    """
    files = {name: read_vocabulary(FOLDER / "concepts" / f"{name}.yaml", num_descriptions=params.num_descriptions)
             for name in params.concepts}
    if classes is None:
        every = {}
        for concept in (concept for concepts in files.values() for concept in concepts):
            every.setdefault(concept.spoken.casefold(), concept)
        return list(every.values())
    lacking = {}
    for name, concepts in files.items():
        by_label = {concept.label: concept for concept in concepts}
        lacking[name] = [label for label in classes if label not in by_label]
        if not lacking[name]:
            return [by_label[label] for label in classes]
    nearest = min(lacking, key=lambda name: len(lacking[name]))
    raise ValueError(f"no vocabulary of {params.concepts} has all of the data set's classes; {FOLDER}/concepts/"
                     f"{nearest}.yaml lacks {lacking[nearest]}: add them or choose another (`concepts`)")


def concept_spaces(params: Params, model: VideoCLIP, tokenizer: PreTrainedTokenizerBase, concepts: list[Concept], *,
                   prompts: str, names: Sequence[str] = ("category", "description")) -> dict[str, ConceptSpace]:
    """The text features of concepts (in the templates of the file `prompts`) and of their descriptions, by the name of
    the space."""
    spaces = {}
    if "category" in names:
        templates = read_prompts(FOLDER / "prompts" / f"{prompts}.yaml")
        spaces["category"] = category_space(model, tokenizer, concepts, templates)
    if "description" in names:
        spaces["description"] = description_space(model, tokenizer, concepts, num_descriptions=params.num_descriptions,
                                                  axes=params.description_axes)
    return {name: spaces[name] for name in names}


def make_objective(params: Params, model: VideoCLIP, spaces: dict[str, ConceptSpace]) -> nn.Module:
    """The objective that `params.objective` names, in the spaces that `params.concept_spaces` names."""
    if params.objective == "feature":
        return FeatureObjective(params, model.config.vision_config.hidden_size)
    if params.concept_directions == "random":  # one draw for both spaces: they stay index-matched
        spaces = {name: random_space(space, seed=params.seed) for name, space in spaces.items()}
    if params.objective == "label":
        return LabelObjective(params, spaces["category"])
    return ConceptObjective(params, {name: spaces[name] for name in params.concept_spaces})


def cosine(step: int, steps: int, first: float, last: float) -> float:
    """Half a cosine from `first` at step 0 to `last` at the last step."""
    return last + 0.5 * (first - last) * (1 + math.cos(math.pi * min(step / max(steps - 1, 1), 1.0)))


def learning_rate(step: int, *, steps: int, warmup: int, peak: float, last: float) -> float:
    """Linear from 0 over the warm-up, then half a cosine to `last`; `last` never exceeds the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return cosine(step - warmup, steps - warmup, peak, min(last, peak))


def make_optimizer(params: Params, student: nn.Module, objective: nn.Module) -> torch.optim.AdamW:
    """AdamW; groups for CLIP's and for new weights, each with and without decay (biases, norms, position
    embeddings)."""
    named = [(name, p) for module in (student, objective) for name, p in module.named_parameters() if p.requires_grad]
    new = {id(p) for p in objective.parameters()} | {
        id(p) for name, p in student.named_parameters() if is_temporal(name)}
    scale = params.feature_learning_rate_scale if params.objective == "feature" else 1.0
    groups = {}
    for name, p in named:
        decayed = p.ndim >= 2 and "position" not in name
        groups.setdefault((id(p) in new, decayed), []).append(p)
    return torch.optim.AdamW([{"params": members,
                               "peak": scale * (params.temporal_learning_rate if is_new else params.learning_rate),
                               "decayed": decayed}
                              for (is_new, decayed), members in sorted(groups.items(), key=lambda g: g[0])],
                             lr=0.0, fused=True)


def forward_views(model: nn.Module, views: list[Tensor]) -> list[VideoCLIPOutput]:
    """Each view 'b c t h w' through the model; views of one shape share a pass. Returns an output per view, in
    order."""
    outputs: dict[int, VideoCLIPOutput] = {}
    for shape in dict.fromkeys(view.shape for view in views):
        members = [i for i, view in enumerate(views) if view.shape == shape]
        together = model(rearrange([views[i] for i in members], "v b c t h w -> (v b) c t h w"))
        for i, features, embedding in zip(members, together.features.chunk(len(members)),
                                          together.embedding.chunk(len(members))):
            outputs[i] = VideoCLIPOutput(features, embedding)
    return [outputs[i] for i in range(len(views))]


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Teacher <- momentum x teacher + (1 - momentum) x student, in place."""
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - momentum)


def adapt(params: Params, folder: Path) -> dict:
    """Adapts `params.clip` to the unlabelled training videos and saves student and teacher under `folder`.

    Goes on from `folder/checkpoint.pt` if the same parameters made it. With `epochs: 0` CLIP is saved as it is.
    Returns:
        the record, which is also `folder/adapt.json`: that file exists only when the models are whole.
    Raises:
        AdaptationError: the loss is not finite, or more than `max_bad_videos` videos cannot be decoded.
        ValueError, FileNotFoundError, ConceptError: for a checkpoint, data folder or concept file that is no good.
    """
    torch.set_num_threads(params.threads)
    torch.manual_seed(params.seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapt.json").unlink(missing_ok=True)  # from here on the models are not whole
    started, device = time.time(), torch.device(params.device)
    student = VideoCLIP.from_image_clip(checkpoint_name(params.clip), temporal=params.temporal,
                                        temporal_positions=params.temporal_positions, seed=params.seed).to(device)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_name(params.clip))
    videos = list_dataset(params, params.dataset)[train_part(params)]
    if params.imbalance > 1:
        videos = long_tailed(videos, imbalance=params.imbalance, seed=params.seed)
    if params.epochs and len(videos) < params.batch_size:
        raise ValueError(f"{params.dataset}: {len(videos)} training videos make no batch of {params.batch_size}; "
                         "lower batch_size")
    concepts = read_concepts(params, videos.classes if params.concept_labels == "dataset" else None)
    names = params.concept_spaces if params.objective == "concept" else ["category"]
    objective = make_objective(params, student, concept_spaces(
        params, student, tokenizer, concepts, prompts=params.prompts, names=names)).to(device)
    labels = _concept_of_video(params, videos, concepts) if params.objective == "label" else \
        torch.zeros(len(videos), dtype=torch.long)
    teacher = copy.deepcopy(student).requires_grad_(False)
    student.requires_grad_(False).visual.requires_grad_(True)  # the text tower stays
    steps = params.epochs * (len(videos) // params.batch_size)
    bad = _train(params, folder, student, teacher, objective, videos, labels.to(device), steps) if steps else []
    record = {"params": params.model_dump(), "videos": len(videos), "missing": len(videos.missing),
              "concepts": len(concepts), "steps": steps, "bad_videos": bad,
              "seconds": round(time.time() - started, 1), **provenance(params, AdaptParams)}
    for name, model in (("student", student), ("teacher", teacher)):
        save_model(model, tokenizer, folder / name, card=model_card(record, name), adapt=record)
    write_json(folder / "adapt.json", record)
    return record


def _train(params: Params, folder: Path, student: VideoCLIP, teacher: VideoCLIP, objective: nn.Module,
           videos: VideoList, labels: Tensor, steps: int) -> list[tuple[str, str]]:
    """The loop. Returns name and reason of every training video that could not be decoded."""
    device, stage = torch.device(params.device), params.stage_hash(AdaptParams)
    optimizer = make_optimizer(params, student.visual, objective)
    log, path = folder / "log.jsonl", folder / "checkpoint.pt"
    first_step, bad = 0, {}
    if path.exists():
        state = torch.load(path, map_location=device, weights_only=True)
        if state["params_hash"] == stage:
            for name, part in (("student", student), ("teacher", teacher), ("objective", objective),
                               ("optimizer", optimizer)):
                _restore(part, state[name])
            torch.set_rng_state(state["random"].cpu())
            first_step, bad = state["step"], dict(state["bad"])
            print(f"going on from step {first_step} of {steps} ({path})")
        else:
            print(f"{path} was made with other parameters: starting anew")
    kept = [line for line in read_lines(log) if line["step"] < first_step]
    log.unlink(missing_ok=True)
    for line in kept:
        append_line(log, line)

    settings = ViewSettings.of(params)
    plan = BatchPlan(len(videos), settings, batch_size=params.batch_size, num_steps=steps, seed=params.seed,
                     first_step=first_step)
    loader = DataLoader(TrainingViews(videos, settings, seed=params.seed, short_side=params.short_side),
                        batch_sampler=plan, collate_fn=collate, num_workers=params.workers)
    epoch_steps = plan.batches_per_epoch
    warmup = round(params.warmup_epochs * epoch_steps)
    progress = tqdm(total=steps, initial=first_step, desc=f"adapting {folder.parent.name}", unit="clip",
                    unit_scale=params.batch_size)
    batches = iter(loader)
    for step in range(first_step, steps):
        begun = time.time()
        batch = next(batches)
        data_wait = time.time() - begun
        bad |= {videos.videos[i].name: error.reason for i, error in batch.errors}
        if len(bad) > params.max_bad_videos:
            listed = "\n".join(f"  {name}: {reason}" for name, reason in sorted(bad.items()))
            raise AdaptationError(f"{len(bad)} training videos cannot be decoded, "
                                  f"max_bad_videos is {params.max_bad_videos}:\n{listed}")
        if not batch.views:
            raise AdaptationError(f"step {step}: no video of the batch can be decoded: "
                                  f"{[str(error) for _, error in batch.errors]}")
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps=steps, warmup=warmup, peak=group["peak"],
                                        last=params.final_learning_rate)
            group["weight_decay"] = cosine(
                step, steps, params.weight_decay, params.final_weight_decay) if group["decayed"] else 0.0
        momentum = cosine(step, steps, params.teacher_momentum, params.final_teacher_momentum)

        views = [view.to(device) for view in batch.views]
        with torch.no_grad():
            teacher_views = forward_views(teacher, views[: params.global_views])
        student_views = forward_views(student, views)
        result = objective(teacher_views, student_views, labels[batch.indices.to(device)])
        if not math.isfinite(result.loss.item()):
            raise AdaptationError(f"step {step}: the loss is {result.loss.item()}; its terms: "
                                  f"{ {name: term.item() for name, term in result.terms.items()} }. "
                                  "Try a lower learning_rate, a longer warmup_epochs, or a higher student_temperature")
        optimizer.zero_grad(set_to_none=True)
        result.loss.backward()
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(trained, params.clip_gradient)
        optimizer.step()
        update_teacher(teacher.visual, student.visual, momentum)
        if isinstance(objective, FeatureObjective):
            update_teacher(objective.teacher_head, objective.head, momentum)

        append_line(log, {
            "step": step, "epoch": step / epoch_steps, "loss": result.loss.item(),
            **{name: term.item() for name, term in result.terms.items()},
            **collapse_diagnostics(teacher=result.teacher, student=result.student.detach(),
                                   features=torch.cat([view.features for view in teacher_views])),
            "gradient_norm": norm.item(), "learning_rate": optimizer.param_groups[0]["lr"],
            "teacher_momentum": momentum, "seconds": round(time.time() - begun, 4), "data_wait": round(data_wait, 4)})
        progress.update()
        progress.set_postfix(loss=f"{result.loss.item():.3f}", data_wait=f"{data_wait / (time.time() - begun):.0%}",
                             refresh=False)
        if (step + 1) % params.checkpoint_every == 0 or step + 1 == steps:
            save_checkpoint(path, {"params_hash": stage, "step": step + 1, "student": student.visual.state_dict(),
                                   "teacher": teacher.visual.state_dict(), "objective": objective.state_dict(),
                                   "optimizer": optimizer.state_dict(), "random": torch.get_rng_state(),
                                   "bad": list(bad.items())})
    progress.close()
    return sorted(bad.items())


def _restore(part: nn.Module | torch.optim.Optimizer, state: dict) -> None:
    part.visual.load_state_dict(state) if isinstance(part, VideoCLIP) else part.load_state_dict(state)


def _concept_of_video(params: Params, videos: VideoList, concepts: list[Concept]) -> Tensor:
    """For the ceiling: the row of every video's label in the category space, 'n'."""
    row = {concept.spoken.casefold(): i for i, concept in enumerate(concepts)}
    of_class = [row[concept.spoken.casefold()] for concept in read_concepts(params, videos.classes)]
    return torch.tensor([of_class[video.label] for video in videos.videos])
