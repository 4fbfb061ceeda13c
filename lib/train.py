"""Adaptation: an image CLIP becomes a video model by self-distillation in concept spaces. One flat loop.

The student sees all views of a video; the teacher, its exponential moving average, sees the global ones; an objective
(`lib/objectives.py`) compares their outputs. Only the visual tower is trained: the text tower, and hence the concept
spaces, stay CLIP's own. A step depends only on the parameters and its number, so interrupted runs resume from the last
checkpoint: on a CPU the result is bit-identical, on CUDA equal up to the order in which its kernels add.
"""

import argparse
import copy
import gc
import json
import math
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from lib.backbone import VideoCLIP
from lib.concepts import ConceptSpace, Stills, concept_spaces, stills_of
from lib.datasets.lists import VideoList, data_hash
from lib.datasets.loader import batches_of
from lib.datasets.parts import training_videos
from lib.datasets.preflight import check_model, check_run, length_of, warnings_of
from lib.datasets.samples import Batch, BatchPlan, TrainingViews, view_settings
from lib.gradients import (
    Passes,
    activation_bytes,
    fitting_micro_batch,
    let_learn,
    make_optimizer,
    pass_settings,
    set_schedules,
    start_model,
    update_teacher,
)
from lib.language.selection import Concept, class_concepts, read_concepts
from lib.losses import collapse_diagnostics
from lib.objectives import Objective, Result, make_objective
from lib.run import distributed
from lib.run.checkpoints import check_space, load_checkpoint, save_checkpoint, save_model, take_up
from lib.run.clip_files import checkpoint_name, load_tokenizer
from lib.run.devices import memory_gb, rare_collections
from lib.run.fields import AdaptParams, Params
from lib.run.files import alone_in, run_folder, write_json
from lib.run.fingerprint import fingerprint
from lib.run.params import load
from lib.run.records import continued, model_card, provenance, sources_of
from lib.run.tensors import listed, not_finite
from lib.run.watch import Watch
from lib.video.cut import cut_views
from lib.video.views import ViewSettings, draw_num_frames

COLLECT_EVERY = 200  # steps between garbage collections: Python's own, at any allocation, make a GPU wait
INTERRUPTED = 75  # exit code after SIGTERM: EX_TEMPFAIL of sysexits.h, "try again"


class AdaptationError(RuntimeError):
    """The adaptation cannot continue; the message names the step, the reason and what to try."""


class Interrupted(RuntimeError):
    """The adaptation was stopped by SIGTERM and left a checkpoint to resume from."""


def load_spaces(params: Params) -> dict[str, ConceptSpace]:
    """The spaces that `params.concept_spaces` names, for an objective of your own."""
    classes = training_videos(params, check_run(params, adapt=True)[params.dataset]).classes
    model = VideoCLIP.from_image_clip(checkpoint_name(params.clip))
    tokenizer = load_tokenizer(checkpoint_name(params.clip), model.config.text_config)
    concepts = read_concepts(params, classes)
    return concept_spaces(params, model, tokenizer, concepts, prompts=params.prompts, names=params.concept_spaces)


def adapt(params: Params, folder: Path, *, objective: nn.Module | None = None) -> dict:
    """Adapts `params.clip` to the unlabelled training videos and saves student and teacher under `folder`.

    Resumes from the newest checkpoint in `folder` made with the same parameters, or takes up finished models of theirs;
    waits while another process works there. With `epochs: 0` CLIP is saved unchanged. With `devices` above 1, call it
    in as many processes started by torchrun (see `main`).
    Args:
        objective: of your own, instead of the one that `params.objective` names: any module with the signature of
            `Objective.forward`. Its class and attributes are part of what identifies the run.
    Returns:
        the record, also written to `folder/adapt.json`: that file exists only when the models are complete.
    Raises:
        AdaptationError: the loss is not finite, or more than `max_bad_videos` videos cannot be decoded.
        DecodingError: a decoding process died or hangs. DiskError: no space left for a checkpoint.
        Interrupted: SIGTERM; the last finished step is in a checkpoint.
        ValueError, FileNotFoundError, ConceptError: invalid checkpoint, data folder or concept file, or anything that
        the evaluation would refuse (`lib/datasets/preflight.py`); the folder stays as it was.
    """
    torch.set_num_threads(params.threads)
    torch.manual_seed(params.seed)
    device = distributed.start(params.device)
    if distributed.processes() != params.devices:
        raise ValueError(
            f"devices is {params.devices}, but this is one of {distributed.processes()} processes: "
            f"torchrun --nproc-per-node {params.devices} -m lib.train ..."
        )
    view_settings(params)  # refuses views that cannot be cut
    with alone_in(folder) if distributed.rank() == 0 else nullcontext():
        distributed.gather_objects(None)  # the other processes wait for the first
        record = _adapt(params, folder, device, objective)
    distributed.stop()
    return record


@dataclass
class Run:
    """An adaptation under way: everything that a step changes, and hence what a checkpoint holds."""

    params: Params
    folder: Path
    student: VideoCLIP
    teacher: VideoCLIP
    objective: nn.Module
    videos: VideoList
    labels: Tensor  # 'n', of all videos
    steps: int
    record: dict[str, Any]  # what made the run
    bad_videos: dict[str, str] = field(default_factory=dict)  # name -> reason
    step: int = 0  # steps finished

    def __post_init__(self) -> None:
        self.optimizer = make_optimizer(self.params, self.student.visual, self.objective)
        self.parts = {
            "student": self.student.visual,
            "teacher": self.teacher.visual,
            "objective": self.objective,
            "optimizer": self.optimizer,
        }

    def resume(self) -> None:
        """Continues from the newest valid checkpoint in the folder, if there is one."""
        if state := load_checkpoint(self.folder, self.params, self.record["sources"], self.labels.device):
            self.record |= continued(self.record, state)
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
            torch.set_rng_state(state["random"].cpu())
            self.step, self.bad_videos = state["step"], dict(state["bad"])
            distributed.say(f"resuming at step {self.step} of {self.steps} ({self.folder})")
        if len(steps := set(distributed.gather_objects(self.step))) > 1:
            raise AdaptationError(
                f"{self.folder}: the processes would resume from different steps, {sorted(steps)}: "
                "it must be the same folder on every machine"
            )

    def save(self) -> None:
        """Writes a checkpoint after `step` steps."""
        state = {name: part.state_dict() for name, part in self.parts.items()}
        if broken := not_finite(state):
            raise AdaptationError(
                f"after {self.step} of {self.steps} steps numbers are not finite: {listed(broken)}. Try a lower "
                "learning_rate or a longer warmup_epochs"
            )
        if distributed.rank() == 0:
            state |= {name: self.record[name] for name in ("params_hash", "sources", "made_by")}
            state |= {"params": self.params.model_dump(), "step": self.step}
            state |= {"random": torch.get_rng_state(), "bad": list(self.bad_videos.items())}
            save_checkpoint(self.folder, state)

    def interrupt(self, first_step: int) -> NoReturn:
        """Stops, with a checkpoint if steps were made since the last one. first_step: where this process started."""
        if self.step > first_step and self.step % self.params.checkpoint_every:
            self.save()
        raise Interrupted(
            f"SIGTERM: stopped after {self.step} of {self.steps} steps; the same command resumes from there"
        )

    def gather(self, batch: Batch | None) -> tuple[list[int], list[int]] | None:
        """Rows of the videos in the batch of all processes, and how many each process has; None if one was stopped."""
        shares = distributed.gather_objects(
            batch and (batch.indices.tolist(), [(i, error.reason) for i, error in batch.errors])
        )
        if None in shares:
            return None
        errors = [error for _, share in shares for error in share]
        self.bad_videos |= {self.videos.videos[i].name: reason for i, reason in errors}
        if len(self.bad_videos) > self.params.max_bad_videos:
            lines = "\n".join(f"  {name}: {reason}" for name, reason in sorted(self.bad_videos.items()))
            raise AdaptationError(
                f"{len(self.bad_videos)} training videos cannot be decoded, max_bad_videos is "
                f"{self.params.max_bad_videos}:\n{lines}"
            )
        indices = [index for rows, _ in shares for index in rows]
        if not indices:
            raise AdaptationError(
                f"step {self.step}: no video of the batch can be decoded: {[reason for _, reason in errors]}"
            )
        return indices, [len(rows) for rows, _ in shares]

    def drop_results(self) -> None:
        """From here on the models in the folder are neither complete nor evaluated."""
        if distributed.rank() == 0:
            for name in ("metrics.json", "adapt.json"):
                (self.folder / name).unlink(missing_ok=True)

    def update(self, result: Result, momentum: float) -> float:
        """Optimiser step on the gradients of `result`, then the teacher's. Returns the norm of the gradient."""
        loss = result.loss.item()
        if not math.isfinite(loss):
            raise AdaptationError(
                f"step {self.step}: the loss is {loss}; its terms: "
                f"{ {name: term.item() for name, term in result.terms.items()} }. "
                "Try a lower learning_rate, a longer warmup_epochs or a higher student_temperature; check the objective"
            )
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(trained, self.params.max_gradient_norm).item()
        if not math.isfinite(norm):
            raise AdaptationError(
                f"step {self.step}: the loss is {loss}, but the norm of its gradient is {norm}. "
                "Try a lower learning_rate or a longer warmup_epochs"
            )
        self.optimizer.step()
        pairs = self.objective.averaged() if isinstance(self.objective, Objective) else ()
        for teacher, student in [(self.teacher.visual, self.student.visual), *pairs]:
            update_teacher(teacher, student, momentum)
        return norm


def _adapt(params: Params, folder: Path, device: torch.device, objective: nn.Module | None) -> dict:
    started = time.time()
    # Everything that can be wrong is checked before any compute.
    lists = check_run(params, adapt=True)
    videos = training_videos(params, lists[params.dataset])
    length = length_of(params, len(videos))
    distributed.say("\n".join([*(length.warnings or [length.text]), *warnings_of(params, lists)]))
    student = start_model(params).to(device)
    tokenizer = load_tokenizer(checkpoint_name(params.clip), student.config.text_config)
    check_model(params, student.config, tokenizer, lists, adapt=True)

    # The record is made now, as files and commit may change during the run. Finished models are taken up.
    record = {"sources": sources_of(params, data_hash(videos.videos)), **provenance(params, AdaptParams)}
    if objective is not None:
        record["sources"]["objective"] = fingerprint(objective)
    finished = take_up(folder, params, record["sources"]) if distributed.rank() == 0 else None
    if finished := distributed.gather_objects(finished)[0]:
        return finished
    record |= continued(record)

    concepts = read_concepts(params, videos.classes)
    labels = torch.zeros(len(videos), dtype=torch.long)
    if params.objective == "label":
        labels = _concept_of_video(params, videos, concepts)
    if objective is None:
        names = params.concept_spaces if params.objective == "concept" else ["category"]
        spaces = concept_spaces(params, student, tokenizer, concepts, prompts=params.prompts, names=names)
        objective = make_objective(params, student, spaces)
    teacher = copy.deepcopy(student).requires_grad_(False)
    let_learn(params, student)

    run = Run(params, folder, student, teacher, objective.to(device), videos, labels.to(device), length.steps, record)
    num_outputs = getattr(objective, "num_outputs", None) or len(concepts)
    watched = params.drift_clips and run.steps and distributed.rank() == 0
    stills = stills_of(params, student, tokenizer, concepts, videos.videos) if watched else None
    collapse_warnings = _train(run, num_outputs, stills) if run.steps else []

    counts = {name: len(getattr(videos, name)) for name in ("missing", "absent_classes", "left_out")}
    record = {
        "params": params.model_dump(),
        "videos": len(videos),
        **counts,
        "concepts": len(concepts),
        "steps": run.steps,
        "bad_videos": sorted(run.bad_videos.items()),
        "collapse_warnings": collapse_warnings,
        "warnings": length.warnings,
        "seconds": round(time.time() - started, 1),
        "memory_gb": round(memory_gb(device), 3),
        **run.record,
    }
    with distributed.stop_requests():  # a stop after the last step does not keep the models from being saved
        run.drop_results()
        if distributed.rank() == 0:
            for name, model in (("student", student), ("teacher", teacher)):
                save_model(model, tokenizer, folder / name, card=model_card(record, name), adapt=record)
            write_json(folder / "adapt.json", record)
    return record


def _train(run: Run, num_outputs: int, stills: Stills | None) -> list[str]:
    """The loop. Returns the signs of collapse, and of CLIP being lost."""
    params, device = run.params, run.labels.device
    check_space(run.folder, run.student, run.student.visual)
    run.resume()
    first_step = run.step
    passes = Passes(run.student, run.teacher, run.objective, **pass_settings(params))
    if params.micro_batch == "auto":
        passes.micro_batch = largest_micro_batch(params, passes, device)
    settings = view_settings(params)
    samples, plan = _training_data(run, settings)
    warmup = round(params.warmup_epochs * plan.batches_per_epoch)
    with (
        rare_collections(),
        distributed.stop_requests() as stopping,
        Watch(params, run.folder, steps=run.steps, first_step=first_step, num_concepts=num_outputs) as watch,
        batches_of(
            samples,
            workers=params.workers,
            loader_timeout=params.loader_timeout,
            stop=lambda: bool(stopping),
            batch_sampler=plan,
            pin_memory=device.type == "cuda",
        ) as batches,
    ):
        while run.step < run.steps:
            # data: this process's videos, and which ones the other processes have
            began = time.time()
            batch = next(batches, None)  # None: this process was told to stop
            data_wait = time.time() - began
            gathered = run.gather(batch)
            if gathered is None:
                run.interrupt(first_step)
            indices, counts = gathered

            # forward and backward
            momentum = set_schedules(params, run.optimizer, run.step, run.steps, warmup)
            views = cut_views(batch.views, device) if params.views_on_device else batch.views
            run.optimizer.zero_grad(set_to_none=True)
            result, features = passes.backward(views, run.labels[indices], counts)

            # update of student and teacher
            norm = run.update(result, momentum)
            if run.step == first_step:  # not before: an objective that fails leaves an earlier result as it is
                run.drop_results()

            # log
            line = {"epoch": run.step / plan.batches_per_epoch, "videos": len(indices), "gradient_norm": norm}
            line |= {"learning_rate": run.optimizer.param_groups[0]["lr"], "teacher_momentum": momentum}
            if stills and ((run.step + 1) % params.drift_every == 0 or run.step + 1 == run.steps):
                line["still_agreement"] = stills.agreement(run.teacher.visual)
            line |= {"seconds": round(time.time() - began, 4), "data_wait": round(data_wait, 4)}
            watch.step(_step_values(run, result, features) | line)

            # checkpoint
            run.step += 1
            if run.step % COLLECT_EVERY == 0:
                gc.collect()
            if run.step % params.checkpoint_every == 0 or run.step == run.steps:
                run.save()
    return watch.warnings


def largest_micro_batch(params: Params, passes: Passes, device: torch.device) -> int:
    """What `micro_batch: auto` stands for on this device: the whole share of a process, or what its memory holds."""
    share = params.batch_size // params.devices
    if device.type != "cuda":
        return share
    if params.num_frames_draw == "stratified":  # every step has these frames, in whatever order
        frames = draw_num_frames(view_settings(params), np.random.default_rng(params.seed))
    else:
        frames = [max(params.global_num_frames)] * params.global_views
        frames += [max(params.local_num_frames)] * params.local_views
    sizes = [params.image_size] * params.global_views + [params.local_image_size] * params.local_views
    shapes = [(3, t, size, size) for t, size in zip(frames, sizes)]
    video_bytes = activation_bytes(passes.student, shapes)
    trained = sum(p.numel() for p in passes.student.parameters() if p.requires_grad)
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info(device)[0] - 12 * trained  # float32: gradient, and AdamW's two means
    micro_batch = fitting_micro_batch(share, video_bytes, free)
    gigabytes = micro_batch * video_bytes / 1e9
    distributed.say(f"micro_batch: auto is {micro_batch} of {share} videos, with {gigabytes:.1f} GB of activations")
    return micro_batch


def _training_data(run: Run, settings: ViewSettings) -> tuple[TrainingViews, BatchPlan]:
    """The views of this process's videos, and the order in which the remaining steps need them."""
    params = run.params
    plan = BatchPlan(
        len(run.videos),
        settings,
        batch_size=params.batch_size,
        num_steps=run.steps,
        seed=params.seed,
        first_step=run.step,
        rank=distributed.rank(),
        processes=distributed.processes(),
    )
    cut = not params.views_on_device
    return TrainingViews(run.videos, settings, seed=params.seed, short_side=params.short_side, cut=cut), plan


def _step_values(run: Run, result: Result, features: Tensor) -> dict[str, float]:
    """What the log says of a step's losses and distributions. features: the teacher's, '(g n) w'."""
    return {
        "step": run.step,
        "loss": result.loss.item(),
        **{name: term.item() for name, term in result.terms.items()},
        **collapse_diagnostics(teacher=result.teacher, student=result.student.detach(), features=features),
        "memory_gb": round(memory_gb(run.labels.device), 3),
    }


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
    overrides = {"world_seed": given.world_seed, "seed": given.seed} | given.overrides
    try:
        adapt(load(profile=given.profile, ablation=given.ablation, **overrides), given.folder)
    except Interrupted as stopped:
        distributed.say(str(stopped))
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
