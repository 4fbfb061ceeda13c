"""The log of a run (JSON lines, TensorBoard, a progress bar), and warnings before it collapses.

Self-distillation collapses in two ways (DINO, ICCV 2021, section 5.3): the teacher's distributions become uniform, or
the same for all videos. A lower teacher temperature works against the first, centring or a prior against the second.
Signs of the contrary, CLIP being lost, are a teacher much surer than at the start, and one that seldom agrees with the
image CLIP on stills (`lib.concepts.Stills`).
"""

import math
import shutil
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from lib.run import distributed
from lib.run.fields import Params
from lib.run.files import append_line, read_lines, write_lines, writing

BALANCE = "Raise uniform_prior_weight, or set target_normalisation: sinkhorn or centring"
CURES = {
    "collapse_teacher_entropy": "the teacher's distributions are nearly uniform. Lower teacher_temperature (in DINO's "
    "code: if the loss does not fall; above 0.07 its head is unstable)",
    "collapse_batch_entropy": f"few concepts take all videos. {BALANCE} (DINO, section 5.3)",
    "collapse_feature_spread": "the features of all videos are alike. Lower teacher_temperature and the learning "
    "rates, raise uniform_prior_weight (SimSiam, figure 2: the spread is near 1 in a healthy model, 0 in a collapsed)",
    "collapse_concepts_used": f"few concepts rank first for any video. {BALANCE} (SwAV, NeurIPS 2020)",
}

KEEP = "Lower learning_rate or epochs, raise teacher_momentum, or set trained: temporal"
SURE = (
    "the teacher has become much surer than CLIP was, which in the embedded study went with losing CLIP. Watch or "
    f"measure agreement on stills (drift_clips, still_views); if it fell: {KEEP}"
)


def collapse_values(line: dict[str, Any], num_concepts: int) -> dict[str, float]:
    """Of a step of the log, the value that each limit is about; those that compare videos need two or more of them."""
    values = {"collapse_teacher_entropy": line["teacher_entropy"] / math.log(num_concepts)}
    if line["videos"] > 1:
        shown = min(num_concepts, line["videos"])  # concepts that a batch can show
        values["collapse_batch_entropy"] = line["batch_entropy"] / math.log(shown)
        values["collapse_feature_spread"] = line["feature_spread"]
        values["collapse_concepts_used"] = line["concepts_used"] / shown
    return values


def signs(limits: dict[str, float], lines: Sequence[dict[str, Any]], num_concepts: int) -> dict[str, str]:
    """The limits that the mean over some steps of the log crosses: name of the limit -> a sentence with the cure."""
    steps = [collapse_values(line, num_concepts) for line in lines]
    crossed = {}
    for name, limit in limits.items():
        if all(name in values for values in steps):
            mean = sum(values[name] for values in steps) / len(steps)
            if mean > limit if name == "collapse_teacher_entropy" else mean < limit:
                crossed[name] = f"{name} is {mean:.2f}, the limit {limit}: {CURES[name]}"
    return crossed


class Watch:
    """Writes `log.jsonl` and TensorBoard's files in `folder`; of several processes, the first one does.

    Of an earlier log the steps before `first_step` stay. `warnings` has each sign of collapse when it appears.
    """

    def __init__(self, params: Params, folder: Path, *, steps: int, first_step: int, num_concepts: int):
        self.log, self.events, self.num_concepts = folder / "log.jsonl", folder / "tensorboard", num_concepts
        self.limits = {name: getattr(params, name) for name in CURES}
        self.warnings, self.ongoing, self.recent = [], set(), deque(maxlen=params.collapse_window)
        self.start_entropies = []  # the teacher's, in nats, of the first window
        # the baseline without language gives CLIP's concepts up, and its head's entropy says nothing of them
        limits = params.drift_teacher_entropy, params.drift_agreement
        self.entropy_limit, self.agreement_limit = (0.0, 0.0) if params.objective == "feature" else limits
        self.still_agreement = 1.0
        self.writes = distributed.rank() == 0
        description = dict(desc=f"adapting {folder.parent.name}", unit="clip", unit_scale=params.batch_size)
        self.bar = tqdm(total=steps, initial=first_step, disable=not self.writes, **description)
        if self.writes:
            lines = [line for line in read_lines(self.log) if line["step"] < first_step]
            write_lines(self.log, lines)
            # Rewritten from the log: TensorBoard reads a run's files in the order of second and process number, which
            # need not be the order in which a killed run and its next start wrote them.
            shutil.rmtree(self.events, ignore_errors=True)
            with writing(self.events):
                self.board = SummaryWriter(self.events)
            for line in lines:
                self._show(line)
                self._judge(line)

    def step(self, line: dict[str, Any]) -> None:
        """line: `step`, `loss`, `seconds`, `data_wait`, `memory_gb`, the collapse diagnostics, and more."""
        if not self.writes:
            return
        self._show(line)
        if warnings := self._judge(line):
            line = line | {"warnings": warnings}
            self.bar.write("\n".join(f"warning: {text}" for text in warnings), file=sys.stderr)
        append_line(self.log, line)
        wait, memory = f"{line['data_wait'] / line['seconds']:.0%}", f"{line['memory_gb']:.1f}GB"
        self.bar.set_postfix(loss=f"{line['loss']:.3f}", data_wait=wait, memory=memory, refresh=False)
        self.bar.update()

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()
        if self.writes:
            with suppress(OSError) if error[0] else writing(self.events):  # a failed run's own error is what counts
                self.board.close()

    def _show(self, line: dict[str, Any]) -> None:
        with writing(self.events):
            for name, value in line.items():
                if name != "warnings":
                    self.board.add_scalar(name, value, line["step"])

    def _judge(self, line: dict[str, Any]) -> list[str]:
        """The signs of collapse that are new with this step."""
        self.recent.append(line)
        full = len(self.recent) == self.recent.maxlen
        crossed = signs(self.limits, self.recent, self.num_concepts) if full else {}
        if len(self.start_entropies) < self.recent.maxlen:
            self.start_entropies.append(line["teacher_entropy"])
        start, now = sum(self.start_entropies), sum(step["teacher_entropy"] for step in self.recent)
        if full and now < self.entropy_limit * start:
            ratio = f"the teacher's entropy is {now / start:.2f} of that of the first steps"
            crossed["drift_teacher_entropy"] = f"{ratio}, the limit {self.entropy_limit}: {SURE}"
        self.still_agreement = line.get("still_agreement", self.still_agreement)  # not of every step
        if self.still_agreement < self.agreement_limit:
            share = f"teacher and image CLIP agree on {self.still_agreement:.0%} of the stills"
            crossed["drift_agreement"] = f"{share}, the limit {self.agreement_limit}: CLIP is being lost. {KEEP}"
        new = [f"step {line['step']}: {text}" for name, text in crossed.items() if name not in self.ongoing]
        self.ongoing = set(crossed)
        self.warnings += new
        return new
