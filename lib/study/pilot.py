"""A pilot (suite `pilot`): a short pass over a few clips says go, change this or stop, and what the whole run costs.

It is judged on training clips that no row has seen (`held_out_videos`). No test clip is read, so what is chosen here
may be tested there.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jinja2 import StrictUndefined, Template

from lib.datasets.parts import Parts, manifest_of, probe_part, read_parts, test_parts, training_videos
from lib.datasets.preflight import length_of
from lib.gradients import schedule_area
from lib.run.fields import Params
from lib.run.files import read_lines
from lib.run.params import layers, lists_of, load, place_of, read_yaml
from lib.study.results import Difference, Record, answers_of, collect, paired_bootstrap
from lib.study.suites import Run, state_of

OVERLAY = "pilot"  # the profile that is put on top of another
GO, CHANGE, STOP = "go", "change this", "stop"
RESOLUTION = 1.0  # points; MAXI, the label-free peer, gains 8 on UCF-101 in a whole run
AGREEMENT = 50.0  # percent of the stills; in the embedded study, no row that gained agreed with CLIP on fewer than 54
GUESSING = 2.0  # standard deviations above chance that the image CLIP must reach
# In a short pass higher rates are further on, as the profile's will be in a whole run: no reason to raise them there.
FASTER = {"rates_quadruple"}
STILLS = "zero_shot_still"


class Row(NamedTuple):
    """A trained row on the held-out clips: its top-1 minus that of another, in points, and the signs in training."""

    zero_shot: Difference  # minus the image CLIP
    stills: Difference  # the same on the middle frames
    over_reference: Difference | None  # zero-shot minus the reference's; None if that failed
    agreement: float  # with the image CLIP on the middle frames, in percent
    signs: tuple[str, ...] = ()  # of collapse or of CLIP being lost


class Verdict(NamedTuple):
    decision: str
    reason: str
    row: str = ""  # what the whole run should be; empty: nothing yet


# The verdict ----------------------------------------------------------------------------------------------------------


def interval(difference: Difference) -> str:
    return f"{difference.mean:+.1f} [{difference.low:+.1f}, {difference.high:+.1f}]"


def problems(row: Row) -> list[str]:
    """Why a row does harm. An interval counts only if it excludes zero."""
    lines = list(row.signs)
    if row.zero_shot.high < 0:
        lines.append(f"zero-shot falls, {interval(row.zero_shot)}")
    if row.stills.high < 0:
        lines.append(f"accuracy on stills falls, {interval(row.stills)}: CLIP is being lost")
    if row.agreement < AGREEMENT:
        lines.append(f"it agrees with the image CLIP on {row.agreement:.0f} % of the stills: CLIP is being lost")
    return lines


def verdict(
    rows: Mapping[str, Row], *, reference: str, clips: int, above_chance: float = np.inf, failed: Mapping[str, str] = {}
) -> Verdict:
    """What to do with the whole run, which is `reference` unless another row is better.

    rows: the finished ones; clips: held out; above_chance: the image CLIP's accuracy in standard deviations; failed:
    the state of the others.
    """
    if above_chance < GUESSING:
        advice = "check the labels of the folders (make check-data), class names, prompts and the checkpoint."
        return Verdict(STOP, f"The image CLIP cannot be told from guessing on these clips: {advice}")
    harm = {name: lines for name, row in rows.items() if (lines := problems(row))}
    harm |= {name: [state] for name, state in failed.items()}
    harmful = " ".join(f"{name}: {'; '.join(lines)}." for name, lines in harm.items())
    sound = {name: row for name, row in rows.items() if name not in harm}
    gains = {name: row for name, row in sound.items() if row.zero_shot.low > 0}
    if not sound:
        return Verdict(STOP, f"Every row does harm. {harmful} {_remedy(rows)}")
    if not gains:
        return Verdict(CHANGE, f"{_undecided(sound, clips)} {harmful}".strip())
    candidates = {name: row for name, row in gains.items() if name not in FASTER}
    if reference in gains:
        candidates = {name: row for name, row in candidates.items() if row.over_reference.low > 0}
    elif reference not in sound:
        candidates = gains
    if not candidates:
        return Verdict(GO, f"{_go(reference, gains, sound)} {harmful}".strip(), reference)
    best = max(candidates, key=lambda name: candidates[name].zero_shot.mean)
    if reference in gains:
        text = f"{_gain(best, gains)}, and {interval(gains[best].over_reference)} over {reference}."
    elif reference in sound:
        of_reference = interval(sound[reference].zero_shot)
        text = f"{_gain(best, gains)}. The interval of {reference} includes zero: {of_reference}."
    else:
        text = f"{_gain(best, gains)}. {reference} does harm."
    edge = " It has the lowest rates; still lower ones may be better." * (best == "rates_quarter")
    return Verdict(CHANGE, f"{text}{edge} {harmful}".strip(), best)


def _go(reference: str, gains: Mapping[str, Row], sound: Mapping[str, Row]) -> str:
    """Why the profile should run as it is; rows in FASTER only look ahead."""
    ahead = [_gain(name, gains) for name in gains if name in FASTER]
    if reference not in gains:
        short = f"{reference} has not moved far enough in this pass to tell: {interval(sound[reference].zero_shot)}"
        return f"{short}. But {ahead[0]}; a whole run moves further."
    text = f"{_gain(reference, gains)}. No row is better beyond doubt"
    faster = ", but for higher rates, which are further on in a short pass: no reason to raise them"
    return text + faster * bool(ahead) + "."


def _gain(name: str, rows: Mapping[str, Row]) -> str:
    row = rows[name]
    kept = f"stills {interval(row.stills)}, agreement {row.agreement:.0f} %"
    return f"{name} gains {interval(row.zero_shot)} points of zero-shot over the image CLIP and keeps it ({kept})"


def _remedy(rows: Mapping[str, Row]) -> str:
    if any("collapse_" in sign for row in rows.values() for sign in row.signs):
        return "Do what the signs of collapse say, and repeat the pilot."
    return (
        "Repeat the pilot with a tenth of the rates. If that does harm too, the concepts do not fit the videos "
        "(concepts, prompts), or their frequencies do not fit the prior (uniform_prior_weight)."
    )


def _undecided(sound: Mapping[str, Row], clips: int) -> str:
    """No gain beyond doubt: more held-out clips if the intervals are wide, else more training."""
    best = max(sound, key=lambda name: sound[name].zero_shot.mean)
    gain = sound[best].zero_shot
    text = f"Nothing can be chosen: the interval of the best row, {best}, includes zero: {interval(gain)}."
    if (half := (gain.high - gain.low) / 2) > RESOLUTION:
        needed = int(np.ceil(clips * (half / max(gain.mean, RESOLUTION)) ** 2 / 100)) * 100
        remedy = f"about {needed} would do: raise held_out_videos (at most a fifth of the clips), or use more videos"
        return f"{text} It is within the noise: {clips} held-out clips give ± {half:.1f} points; {remedy}."
    remedy = "raise max_train_videos, or the rates of the pilot, to cover more of the run's schedule"
    return f"{text} Within ± {RESOLUTION:g} point nothing has changed yet: {remedy}."


# The measurements -----------------------------------------------------------------------------------------------------


class Measured(NamedTuple):
    rows: dict[str, Row]
    top1: dict[str, tuple[float, float]]  # zero-shot and stills, in percent, with the image CLIP's
    failed: dict[str, str]  # row -> state and log
    clips: int
    above_chance: float

    def context(self) -> dict[str, Any]:
        """What `verdict` takes beside the rows."""
        return {name: getattr(self, name) for name in ("failed", "clips", "above_chance")}


def measure(runs: list[Run], reference: str) -> Measured:
    """The rows on the held-out clips. Raises ValueError if the image CLIP's run is not done."""
    states = {run.ablation: ", see ".join(filter(None, state_of(run))) for run in runs}
    records = {run.ablation: Record.read(run.folder) for run in runs if states[run.ablation] == "done"}
    if "image_clip" not in records:
        raise ValueError(f"a pilot needs the image CLIP to compare with: {states['image_clip']}")
    dataset, resamples = runs[0].params.dataset, runs[0].params.bootstrap_resamples
    values = collect(runs).values
    agreement = values[values["metric"] == "agreement"].groupby("run")["value"].mean()
    answers = {
        (name, protocol): answers_of(record.correct, dataset, protocol)
        for name, record in records.items()
        for protocol in ("zero_shot", STILLS)
    }

    def minus(name: str, other: str, protocol: str) -> Difference:
        (a, clips), (b, _) = answers[name, protocol], answers[other, protocol]
        return paired_bootstrap([(a, b, clips)], resamples=resamples, seed=0)

    rows = {}
    for name in (run.ablation for run in runs if run.params.epochs and run.ablation in records):
        over_clip = [minus(name, "image_clip", protocol) for protocol in ("zero_shot", STILLS)]
        over_reference = minus(name, reference, "zero_shot") if reference in records else None
        signs = tuple(records[name].adapted["collapse_warnings"])
        rows[name] = Row(*over_clip, over_reference, float(agreement[name]), signs)
    top1 = {name: tuple(100 * answers[name, p][0].mean() for p in ("zero_shot", STILLS)) for name in records}
    right, chance = (
        answers["image_clip", "zero_shot"][0],
        1 / len(records["image_clip"].metrics["datasets"][dataset]["classes"]),
    )
    above_chance = (right.mean() - chance) / np.sqrt(chance * (1 - chance) / len(right))
    failed = {name: state for name, state in states.items() if name not in records}
    return Measured(rows, top1, failed, len(right), float(above_chance))


def cost(run: Run, profile: str, overrides: Mapping[str, Any] = {}) -> dict[str, Any]:
    """What the whole run of a finished row of the pilot takes on this machine, from its own seconds and memory.

    profile: the whole run's. The evaluation is without the fitting of probes, and without data sets that are absent.
    """
    whole = load(profile=profile, ablation=run.ablation, **overrides)
    adapted, metrics, _ = Record.read(run.folder)
    log = pd.DataFrame(read_lines(run.folder / "log.jsonl"))
    videos = len(training_videos(whole, _parts_of(whole, whole.dataset)))
    steps, seconds = length_of(whole, videos).steps, float(log["seconds"].median())
    here = [name for name in whole.evaluate_on if place_of(whole, name).is_dir()]
    clips = sum(_evaluated_clips(whole, name) for name in here)
    seconds_per_clip = metrics["seconds"] / metrics["datasets"][run.params.dataset]["counts"]["found"]
    return {
        "steps": steps,
        "seconds_per_step": seconds,
        "waiting": float(log["data_wait"].median()) / seconds,
        "hours": steps * seconds / 3600,
        "evaluation_hours": seconds_per_clip * clips / 3600,
        "absent": [name for name in whole.evaluate_on if name not in here],
        "memory_gb": max(adapted["memory_gb"], metrics["memory_gb"]),
        "hardware": adapted["hardware"],
        "area_share": _area(run.params, adapted["videos"]) / _area(whole, videos),
    }


def _parts_of(params: Params, dataset: str) -> Parts:
    return read_parts(dataset, place_of(params, dataset), lists_of(params, dataset), manifest_of(params, dataset))


def _evaluated_clips(params: Params, dataset: str) -> int:
    parts, names = _parts_of(params, dataset), set(test_parts(params, dataset))
    names |= {probe_part(part) for part in names} if dataset in params.probe_on else set()
    names |= {"all"} if {"full", "half"} & set(params.zero_shot_protocols) else set()
    return len({video.path for name in names & parts.keys() for video in parts[name].videos})


def _area(params: Params, videos: int) -> float:
    names = ("batch_size", "epochs", "warmup_epochs")
    schedule = {name: getattr(params, name) for name in names} | {"last": params.final_learning_rate}
    return schedule_area(videos, peak=params.learning_rate * params.learning_rate_scale, **schedule)


# The page -------------------------------------------------------------------------------------------------------------


def whole_profile(profile: str) -> str:
    """The profile of the whole run."""
    return "+".join(name for name in profile.split("+") if name != OVERLAY)


def table(measured: Measured) -> pd.DataFrame:
    """A line per row, as text."""
    lines = []
    for name, (zero_shot, stills) in measured.top1.items():
        line = {"row": name, "zero-shot": f"{zero_shot:.1f}", "stills": f"{stills:.1f}"}
        if row := measured.rows.get(name):
            line |= {"zero-shot - image CLIP": interval(row.zero_shot), "stills - image CLIP": interval(row.stills)}
            if row.over_reference and any(row.over_reference):  # all zero: the reference itself
                line["zero-shot - reference"] = interval(row.over_reference)
            line |= {"agreement on stills": f"{row.agreement:.0f}", "signs": "; ".join(map(_short, row.signs))}
        lines.append(line)
    lines += [{"row": name, "signs": state} for name, state in measured.failed.items()]
    columns = ["row", "zero-shot", "zero-shot - image CLIP", "zero-shot - reference"]
    columns += ["stills", "stills - image CLIP", "agreement on stills", "signs"]
    return pd.DataFrame(lines, columns=columns, dtype=object).fillna("")


def points(measured: Measured) -> pd.DataFrame:
    """What `charts.pilot` draws."""
    lines = []
    for name, top1 in measured.top1.items():
        line = {"row": name} | dict(zip(("zero-shot", "stills"), top1))
        if row := measured.rows.get(name):
            for axis, difference in (("zero-shot", row.zero_shot), ("stills", row.stills)):
                line |= {f"{axis} low": difference.low, f"{axis} high": difference.high}
        lines.append(line)
    return pd.DataFrame(lines)


def _short(sign: str) -> str:
    """A sign without its cure."""
    return ":".join(sign.split(":")[:2])


def lines_to_paste(row: str, profile: str) -> list[str]:
    """The lines of YAML that make a profile's run that of a row; a scale is written out as the rates."""
    values = read_yaml(layers(profile, row)[-1])
    if scale := values.pop("learning_rate_scale", None):
        whole = load(profile=profile)
        values |= {name: scale * getattr(whole, name) for name in ("learning_rate", "temporal_learning_rate")}
    return [f"{name}: {f'{value:.3e}' if isinstance(value, float) else value}" for name, value in values.items()]


def page(profile: str, measured: Measured, decided: Verdict, whole: dict[str, Any], params: Params) -> str:
    """The page, in Markdown, which stands beside `pilot.png`. profile, whole: of the whole run; params: the pilot's."""
    source = Path(__file__).with_name("pilot.md.j2").read_text(encoding="utf-8")
    return Template(source, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).render(
        profile=profile,
        verdict=decided,
        pasted=lines_to_paste(decided.row, profile) if decided.row else [],
        table=table(measured).to_markdown(index=False, tablefmt="github", disable_numparse=True),
        clips=measured.clips,
        cost=whole,
        duration=lambda hours: f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes",
        params=params,
    )
