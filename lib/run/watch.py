"""What a run says while it trains: JSON lines, TensorBoard, a progress bar, and a warning when it is about to collapse.

Self-distillation can fall into two traps (DINO, ICCV 2021, section 5.3): the teacher says nothing of any video, its
distributions being uniform, or the same of all, one concept taking everything. A lower teacher temperature works
against the first, balancing and centring (here: the priors) against the second.
"""

import math
import shutil
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from lib.run import distributed
from lib.run.fields import Params
from lib.run.files import append_line, read_lines, write_lines, writing

CURES = {
    "collapse_teacher_entropy": "the teacher says nothing, its distributions are nearly uniform. Lower teacher_temperature (DINO's code: try "
    "less if the loss does not fall; above 0.07, for its head, training is unstable)",
    "collapse_batch_entropy": "few concepts take all videos. Raise uniform_prior_weight, or set target_normalisation (DINO, section 5.3: "
    "centring keeps one dimension from dominating)",
    "collapse_feature_spread": "the features of all videos are alike. Lower teacher_temperature and the learning rates, raise uniform_prior_weight "
    "(SimSiam, figure 2: the spread of a collapsed model is 0, of a healthy one near 1)",
    "collapse_concepts_used": "few concepts come first for any video. Raise uniform_prior_weight, or set target_normalisation (SwAV, "
    "NeurIPS 2020: equal use keeps the trivial solution away)",
}


def signs(params: Params, lines: Sequence[dict[str, Any]], num_concepts: int) -> dict[str, str]:
    """Which limits the mean over some steps of the log crosses: parameter of the limit -> a sentence with the cure.

    Signs that compare videos with one another need batches of two or more.
    """

    def mean(share: Callable[[dict[str, Any]], float]) -> float:
        return sum(map(share, lines)) / len(lines)

    def most(line: dict[str, Any]) -> int:  # concepts that a batch can show
        return min(num_concepts, line["videos"])

    values = {"collapse_teacher_entropy": mean(lambda line: line["teacher_entropy"] / math.log(num_concepts))}
    if min(line["videos"] for line in lines) > 1:
        values |= {
            "collapse_batch_entropy": mean(lambda line: line["batch_entropy"] / math.log(most(line))),
            "collapse_feature_spread": mean(lambda line: line["feature_spread"]),
            "collapse_concepts_used": mean(lambda line: line["concepts_used"] / most(line)),
        }
    found = {}
    for name, value in values.items():
        limit = getattr(params, name)
        if value > limit if name == "collapse_teacher_entropy" else value < limit:
            found[name] = f"{name} is {value:.2f}, the limit {limit}: {CURES[name]}"
    return found


class Watch:
    """The log of a run: `log.jsonl`, TensorBoard's files beside it, the progress bar. Of several processes, the first
    one keeps it, and of the log from before only the steps up to `first_step`.

    `warnings` has every sign of collapse, each once when it appears (and again only after it was gone).
    """

    def __init__(self, params: Params, folder: Path, *, steps: int, first_step: int, num_concepts: int):
        self.params, self.log, self.num_concepts, self.events = (
            params,
            folder / "log.jsonl",
            num_concepts,
            folder / "tensorboard",
        )
        self.warnings, self.ongoing, self.recent = [], set(), deque(maxlen=params.collapse_window)
        self.keeps = distributed.rank() == 0
        self.bar = tqdm(
            total=steps,
            initial=first_step,
            desc=f"adapting {folder.parent.name}",
            unit="clip",
            unit_scale=params.batch_size,
            disable=not self.keeps,
        )
        if self.keeps:
            before = [line for line in read_lines(self.log) if line["step"] < first_step]
            write_lines(self.log, before)
            # Anew from the log: TensorBoard reads the files of one run in the order of their names, second and process
            # number, which need not be the order in which a killed run and its next start wrote them.
            shutil.rmtree(self.events, ignore_errors=True)
            with writing(self.events):
                self.board = SummaryWriter(self.events)
            for line in before:
                self._show(line)
                self._judge(line)

    def step(self, line: dict[str, Any]) -> None:
        """Takes what is known of a step: `step`, `loss`, `seconds`, `data_wait`, the collapse diagnostics, and more."""
        if not self.keeps:
            return
        self._show(line)
        if warnings := self._judge(line):
            line = line | {"warnings": warnings}
            self.bar.write("\n".join(f"warning: {text}" for text in warnings), file=sys.stderr)
        append_line(self.log, line)
        self.bar.set_postfix(
            loss=f"{line['loss']:.3f}",
            data_wait=f"{line['data_wait'] / line['seconds']:.0%}",
            memory=f"{line['memory_gb']:.1f}GB",
            refresh=False,
        )
        self.bar.update()

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()
        if self.keeps:
            # of a run that has failed, its own error is what counts
            with suppress(OSError) if error[0] else writing(self.events):
                self.board.close()

    def _show(self, line: dict[str, Any]) -> None:
        with writing(self.events):
            for name, value in line.items():
                if name != "warnings":
                    self.board.add_scalar(name, value, line["step"])

    def _judge(self, line: dict[str, Any]) -> list[str]:
        """The signs of collapse that are new with this step."""
        self.recent.append(line)
        found = signs(self.params, self.recent, self.num_concepts) if len(self.recent) == self.recent.maxlen else {}
        new = [f"step {line['step']}: {text}" for name, text in found.items() if name not in self.ongoing]
        self.ongoing = set(found)
        self.warnings += new
        return new
