"""Adaptation: an image CLIP becomes a video model by self-distillation in concept spaces. One flat loop.

A student sees all views of a video, its exponential moving average, the teacher, the global ones; the objective
compares what they say (`lib/objectives.py`). Only the visual tower learns: the text tower, hence the concept spaces, is
CLIP's own to the end. What a step does follows from the parameters and its number alone, so a run that was killed goes
on from its last checkpoint: on the CPU to the very same weights, on CUDA up to the order in which its kernels add.
"""

import argparse
import copy
import json
import math
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib.backbone import VideoCLIP, is_temporal
from lib.concepts import ConceptSpace, concept_spaces, random_space
from lib.datasets.lists import VideoList, data_hash
from lib.datasets.loader import batches_of
from lib.datasets.parts import training_videos
from lib.datasets.preflight import check_model, check_run, length_of, warnings_of
from lib.datasets.samples import BatchPlan, TrainingViews, cut_views, view_settings
from lib.gradients import backward
from lib.language.vocabulary import Concept, class_concepts, read_concepts
from lib.losses import collapse_diagnostics
from lib.objectives import ConceptObjective, FeatureObjective, LabelObjective
from lib.run import distributed
from lib.run.checkpoints import check_space, load_checkpoint, save_checkpoint, save_model, take_up
from lib.run.clip_files import checkpoint_name, load_tokenizer
from lib.run.devices import memory_gb
from lib.run.fields import AdaptParams, Params
from lib.run.files import alone_in, run_folder, write_json
from lib.run.params import load
from lib.run.records import continued, model_card, provenance, sources_of
from lib.run.tensors import listed, not_finite
from lib.run.watch import Watch

COMPILED_GRAPHS = 64  # at most, of a block; past torch's own limit of 8 blocks would silently run as they are
INTERRUPTED = 75  # exit code after SIGTERM: EX_TEMPFAIL of sysexits.h, "try again"


class AdaptationError(RuntimeError):
    """The adaptation cannot go on; the message says at which step, why, and what to try."""


class Interrupted(RuntimeError):
    """The adaptation was told to stop (SIGTERM) and left a checkpoint to go on from."""


def make_objective(params: Params, model: VideoCLIP, spaces: dict[str, ConceptSpace]) -> nn.Module:
    """The objective that `params.objective` names, in the spaces that `params.concept_spaces` names."""
    if params.objective == "feature":
        return FeatureObjective(params, model.config.vision_config.hidden_size)
    if params.concept_directions == "random":  # one draw for both spaces: they stay index-matched
        if len({space.vectors.shape for space in spaces.values()}) > 1:
            raise ValueError("concept_directions: random needs spaces of one shape: set description_axes to mean")
        spaces = {name: random_space(space, seed=params.seed) for name, space in spaces.items()}
    if params.objective == "label":
        return LabelObjective(params, spaces["category"])
    chosen = {name: spaces[name] for name in params.concept_spaces}
    for space in chosen.values() if params.train_concepts else ():
        space.let_learn()
    return ConceptObjective(params, chosen)


def let_learn(params: Params, student: VideoCLIP) -> None:
    """The weights that `params.trained` names learn; never the text tower: the concept spaces are CLIP's own."""
    student.requires_grad_(False)
    last = [f"blocks.{i}." for i in range(len(student.visual.blocks))[-params.trained_last_blocks :]]
    for name, weight in student.visual.named_parameters():
        weight.requires_grad_(
            params.trained == "all"
            or is_temporal(name)
            or params.trained == "last_blocks"
            and name.startswith(tuple(last))
        )


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
        id(p) for name, p in student.named_parameters() if is_temporal(name)
    }
    scale = params.feature_learning_rate_scale if params.objective == "feature" else 1.0
    groups = {}
    for name, p in named:
        decayed = p.ndim >= 2 and "position" not in name
        groups.setdefault((id(p) in new, decayed), []).append(p)
    return torch.optim.AdamW(
        [
            {
                "params": members,
                "peak": scale * (params.temporal_learning_rate if is_new else params.learning_rate),
                "decayed": decayed,
            }
            for (is_new, decayed), members in sorted(groups.items(), key=lambda g: g[0])
        ],
        lr=0.0,
        fused=True,
    )


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Teacher <- momentum x teacher + (1 - momentum) x student, in place."""
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - momentum)


def adapt(params: Params, folder: Path) -> dict:
    """Adapts `params.clip` to the unlabelled training videos and saves student and teacher under `folder`.

    Goes on from the newest checkpoint in `folder` that the same parameters made, or takes up the models that they made
    there; waits while another process is at work there. With `epochs: 0` CLIP is saved as it is. With `devices` above 1 it
    must be called in as many processes that torchrun started (see `main`).
    Returns:
        the record, which is also `folder/adapt.json`: that file exists only when the models are whole.
    Raises:
        AdaptationError: the loss is not finite, or more than `max_bad_videos` videos cannot be decoded.
        DecodingError: a decoding process died or delivers nothing. DiskError: there is no room for a checkpoint.
        Interrupted: SIGTERM came; the last finished step is in a checkpoint.
        ValueError, FileNotFoundError, ConceptError: for a checkpoint, data folder or concept file that is no good, or what
        the evaluation would stop with (`lib/datasets/preflight.py`); all that was in the folder is as before.
    """
    torch.set_num_threads(params.threads)
    torch.manual_seed(params.seed)
    device = distributed.start(params.device)
    if distributed.processes() != params.devices:
        raise ValueError(
            f"devices is {params.devices}, but this is one of {distributed.processes()} processes: "
            f"torchrun --nproc-per-node {params.devices} -m lib.train ..."
        )
    view_settings(params)  # views that cannot be cut are told before anything is made
    with alone_in(folder) if distributed.rank() == 0 else nullcontext():
        distributed.gather_objects(None)  # the other processes wait for the first
        record = _adapt(params, folder, device)
    distributed.stop()
    return record


def _adapt(params: Params, folder: Path, device: torch.device) -> dict:
    started = time.time()
    lists = check_run(params, adapt=True)
    videos = training_videos(params, lists[params.dataset])
    length = length_of(params, len(videos))
    distributed.say("\n".join([*(length.warnings or [length.text]), *warnings_of(params, lists)]))
    student = VideoCLIP.from_image_clip(
        checkpoint_name(params.clip),
        temporal=params.temporal,
        temporal_positions=params.temporal_positions,
        seed=params.seed,
    ).to(device)
    tokenizer = load_tokenizer(checkpoint_name(params.clip), student.config.text_config)
    check_model(params, student.config, tokenizer, lists, adapt=True)
    # now: files and commit may change meanwhile, and the hub's CLIP is in the cache
    made = {"sources": sources_of(params, data_hash(videos.videos)), **provenance(params, AdaptParams)}
    if done := distributed.gather_objects(
        take_up(folder, params, made["sources"]) if distributed.rank() == 0 else None
    )[0]:
        return done
    made |= continued(made)
    concepts = read_concepts(params, videos.classes)
    names = params.concept_spaces if params.objective == "concept" else ["category"]
    objective = make_objective(
        params, student, concept_spaces(params, student, tokenizer, concepts, prompts=params.prompts, names=names)
    ).to(device)
    labels = (
        _concept_of_video(params, videos, concepts)
        if params.objective == "label"
        else torch.zeros(len(videos), dtype=torch.long)
    )
    teacher = copy.deepcopy(student).requires_grad_(False)
    let_learn(params, student)
    for name in (
        ("metrics.json", "adapt.json") if distributed.rank() == 0 else ()
    ):  # from here on the models are not whole, nor measured
        (folder / name).unlink(missing_ok=True)
    steps = length.steps
    num_concepts = params.head_prototypes if params.objective == "feature" else len(concepts)
    bad, warnings = (
        _train(params, folder, student, teacher, objective, videos, labels.to(device), steps, num_concepts, made)
        if steps
        else ([], [])
    )
    record = {
        "params": params.model_dump(),
        "videos": len(videos),
        "missing": len(videos.missing),
        "absent_classes": len(videos.absent_classes),
        "left_out": len(videos.left_out),
        "concepts": len(concepts),
        "steps": steps,
        "bad_videos": bad,
        "collapse_warnings": warnings,
        "warnings": length.warnings,
        "seconds": round(time.time() - started, 1),
        "memory_gb": round(memory_gb(device), 3),
        **made,
    }
    with distributed.stop_requests():  # after the last step a run that is told to stop finishes
        if distributed.rank() == 0:
            for name, model in (("student", student), ("teacher", teacher)):
                save_model(model, tokenizer, folder / name, card=model_card(record, name), adapt=record)
            write_json(folder / "adapt.json", record)
    return record


def _train(
    params: Params,
    folder: Path,
    student: VideoCLIP,
    teacher: VideoCLIP,
    objective: nn.Module,
    videos: VideoList,
    labels: Tensor,
    steps: int,
    num_concepts: int,
    made: dict[str, Any],
) -> tuple[list[tuple[str, str]], list[str]]:
    """The loop. Returns name and reason of every training video that cannot be decoded, and the signs of collapse;
    adds to `made` what code made the checkpoint that it goes on from."""
    first_step, bad = 0, {}
    check_space(folder, student, student.visual)
    optimizer = make_optimizer(params, student.visual, objective)
    parts = {"student": student.visual, "teacher": teacher.visual, "objective": objective, "optimizer": optimizer}
    if state := load_checkpoint(folder, params, made["sources"], labels.device):
        made |= continued(made, state)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        torch.set_rng_state(state["random"].cpu())
        first_step, bad = state["step"], dict(state["bad"])
        distributed.say(f"going on from step {first_step} of {steps} ({folder})")
    if len(steps_found := set(distributed.gather_objects(first_step))) > 1:
        raise AdaptationError(
            f"{folder}: the processes would go on from different steps, {sorted(steps_found)}: "
            "it must be the same folder on every machine"
        )
    student.visual.activation_checkpointing = params.activation_checkpointing
    if params.compile:
        # blocks share their graphs: with and without gradient, of the student and the teacher, all tokens or the class's
        torch._dynamo.config.recompile_limit = COMPILED_GRAPHS
        for block in [*student.visual.blocks, *teacher.visual.blocks]:
            block.compile(dynamic=True)  # a graph serves all sizes and numbers of frames, and all blocks but the last

    settings = view_settings(params)
    plan = BatchPlan(
        len(videos),
        settings,
        batch_size=params.batch_size,
        num_steps=steps,
        seed=params.seed,
        first_step=first_step,
        rank=distributed.rank(),
        processes=distributed.processes(),
    )
    samples = TrainingViews(
        videos, settings, seed=params.seed, short_side=params.short_side, cut=not params.views_on_device
    )

    def keep(done: int) -> None:
        """A checkpoint after `done` steps."""
        state = {name: part.state_dict() for name, part in parts.items()}
        if broken := not_finite(state):
            raise AdaptationError(
                f"after {done} of {steps} steps numbers are not finite: {listed(broken)}. Try a lower learning_rate "
                "or a longer warmup_epochs"
            )
        if distributed.rank() == 0:
            save_checkpoint(
                folder,
                {name: made[name] for name in ("params_hash", "sources", "made_by")}
                | {
                    "params": params.model_dump(),
                    "step": done,
                    "random": torch.get_rng_state(),
                    "bad": list(bad.items()),
                    **state,
                },
            )

    epoch_steps = plan.batches_per_epoch
    warmup = round(params.warmup_epochs * epoch_steps)
    with (
        distributed.stop_requests() as stopping,
        Watch(params, folder, steps=steps, first_step=first_step, num_concepts=num_concepts) as watch,
        batches_of(
            samples,
            workers=params.workers,
            loader_timeout=params.loader_timeout,
            stop=lambda: bool(stopping),
            batch_sampler=plan,
            pin_memory=labels.device.type == "cuda",
        ) as batches,
    ):
        for step in range(first_step, steps):
            begun = time.time()
            batch = next(batches, None)  # None: this process was told to stop
            data_wait = time.time() - begun
            shares = distributed.gather_objects(
                batch and (batch.indices.tolist(), [(i, e.reason) for i, e in batch.errors])
            )
            if None in shares:
                if step > first_step and step % params.checkpoint_every:
                    keep(step)
                raise Interrupted(
                    f"SIGTERM: stopped after {step} of {steps} steps; the same command goes on from there"
                )
            indices = [index for own, _ in shares for index in own]
            bad |= {videos.videos[i].name: reason for _, errors in shares for i, reason in errors}
            if len(bad) > params.max_bad_videos:
                lines = "\n".join(f"  {name}: {reason}" for name, reason in sorted(bad.items()))
                raise AdaptationError(
                    f"{len(bad)} training videos cannot be decoded, max_bad_videos is {params.max_bad_videos}:\n{lines}"
                )
            if not indices:
                raise AdaptationError(
                    f"step {step}: no video of the batch can be decoded: "
                    f"{[reason for _, errors in shares for _, reason in errors]}"
                )
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(
                    step, steps=steps, warmup=warmup, peak=group["peak"], last=params.final_learning_rate
                )
                group["weight_decay"] = (
                    cosine(step, steps, params.weight_decay, params.final_weight_decay) if group["decayed"] else 0.0
                )
            momentum = cosine(step, steps, params.teacher_momentum, params.final_teacher_momentum)

            views = cut_views(batch.views, labels.device) if params.views_on_device else batch.views
            optimizer.zero_grad(set_to_none=True)
            result, features = backward(
                params, student, teacher, objective, views, labels[indices], [len(own) for own, _ in shares]
            )
            if not math.isfinite(result.loss.item()):
                raise AdaptationError(
                    f"step {step}: the loss is {result.loss.item()}; its terms: "
                    f"{ {name: term.item() for name, term in result.terms.items()} }. "
                    "Try a lower learning_rate, a longer warmup_epochs, or a higher student_temperature"
                )
            trained = [p for group in optimizer.param_groups for p in group["params"]]
            norm = nn.utils.clip_grad_norm_(trained, params.max_gradient_norm)
            if not math.isfinite(norm.item()):
                raise AdaptationError(
                    f"step {step}: the loss is {result.loss.item()}, but the norm of its gradient is "
                    f"{norm.item()}. Try a lower learning_rate or a longer warmup_epochs"
                )
            optimizer.step()
            update_teacher(teacher.visual, student.visual, momentum)
            if isinstance(objective, FeatureObjective):
                update_teacher(objective.teacher_head, objective.head, momentum)

            watch.step(
                {
                    "step": step,
                    "epoch": step / epoch_steps,
                    "loss": result.loss.item(),
                    **{name: term.item() for name, term in result.terms.items()},
                    **collapse_diagnostics(teacher=result.teacher, student=result.student.detach(), features=features),
                    "videos": len(indices),
                    "gradient_norm": norm.item(),
                    "learning_rate": optimizer.param_groups[0]["lr"],
                    "teacher_momentum": momentum,
                    "memory_gb": round(memory_gb(labels.device), 3),
                    "seconds": round(time.time() - begun, 4),
                    "data_wait": round(data_wait, 4),
                }
            )
            if (step + 1) % params.checkpoint_every == 0 or step + 1 == steps:
                keep(step + 1)
    return sorted(bad.items()), watch.warnings


def _concept_of_video(params: Params, videos: VideoList, concepts: list[Concept]) -> Tensor:
    """For the ceiling: the row of every video's label in the category space, 'n'."""
    row = {concept.action: i for i, concept in enumerate(concepts)}
    of_classes = class_concepts(params, videos.classes)
    if lacking := [concept.label for concept in of_classes if concept.action not in row]:
        raise ValueError(
            f"objective: label needs every class among the concepts, and these are not: {lacking}. "
            "Change concepts, concept_names or num_concepts"
        )
    of_class = [row[concept.action] for concept in of_classes]
    return torch.tensor([of_class[video.label] for video in videos.videos])


def main() -> None:
    """A run's command line, for one process or, under torchrun, for several."""
    parser = argparse.ArgumentParser(description="Adapts a CLIP; of several devices, torchrun starts one process each.")
    parser.add_argument("profile", help="a file under params/profiles")
    parser.add_argument("--ablation", default="lss", help="a file under params/ablations")
    parser.add_argument("--world-seed", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overrides", type=json.loads, default={}, help="single parameters, as a JSON mapping")
    parser.add_argument("--folder", type=Path, help="of the results; without it, the run's own under outputs/")
    given = parser.parse_args()
    given.folder = given.folder or run_folder(
        given.profile, given.ablation, given.world_seed, given.seed, given.overrides
    )
    try:
        adapt(
            load(
                profile=given.profile,
                ablation=given.ablation,
                **{"world_seed": given.world_seed, "seed": given.seed} | given.overrides,
            ),
            given.folder,
        )
    except Interrupted as stopped:
        distributed.say(str(stopped))
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
