"""Weight interpolation: zero-shot between the weights before and after the adaptation (WiSE-FT, CVPR 2022).

The visual tower gets (1 - alpha) x the weights that the run started from + alpha x the adapted ones; Open-VCLIP patches
its models so. The start is the image CLIP with the run's first temporal weights, which CLIP does not have. With
`temporal: divided` their output projection starts at zero, so alpha 0 computes exactly what the image CLIP computes.

Alpha is chosen without labels, on clips that no result is reported on.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from lib.backbone import VideoCLIP
from lib.datasets.parts import Parts, probe_part, test_parts
from lib.evaluation.features import Features
from lib.evaluation.protocols import EvaluationSet, EvaluationSettings, Record, Scorer, zero_shot
from lib.gradients import start_model
from lib.run.fields import Params
from lib.run.records import sources_of

CHOICE_CLIPS = 1000  # at most, that alpha is chosen on


def start_of_run(params: Params, adapted: VideoCLIP, sources: dict[str, str]) -> VideoCLIP:
    """The model as the adaptation found it. sources: those of `adapt.json`.

    Raises ValueError if the CLIP is another one than that of the adaptation, or has weights of another shape.
    """
    start = start_model(params)
    shapes, own = ({name: tuple(w.shape) for name, w in m.visual.state_dict().items()} for m in (start, adapted))
    if differing := sorted(name for name in shapes | own if shapes.get(name) != own.get(name)):
        name = differing[0]
        raise ValueError(
            f"interpolate: {params.clip} and the adapted model differ in shape: {name} is {shapes.get(name)} and "
            f"{own.get(name)}, and {len(differing) - 1} more: restore the CLIP, or set interpolate: [1.0]"
        )
    now = sources_of(params, "")
    weights = [name for name in now if name == "revision" or name.endswith((".safetensors", ".bin"))]
    if changed := [name for name in weights if now[name] != sources.get(name)]:
        raise ValueError(f"interpolate: {changed[0]} has changed since the adaptation: restore it, or adapt again")
    return start


def unlabelled(params: Params, dataset: str, parts: Parts) -> Parts:
    """The part that alpha is chosen on, by name: up to `CHOICE_CLIPS` evenly spaced clips.

    They are of the validation part, or of the training part where there is none. Empty if the data set has only parts
    that are reported on: no alpha is chosen.
    """
    tests = test_parts(params, dataset)
    names = [name for name in ("validation", probe_part(tests[0])) if name in parts and name not in tests]
    step = {name: -(-len(parts[name]) // CHOICE_CLIPS) for name in names[:1]}
    return {name: replace(parts[name], videos=parts[name].videos[::step]) for name, step in step.items()}


def interpolate(
    params: Params,
    record: Record,
    data: EvaluationSet,
    choice: Parts,
    scorers: dict[str, Scorer],
    features_at: Callable[..., Features],
) -> dict[str, Any]:
    """Measures zero-shot at each alpha below 1. Returns the chosen alpha, its part, and the agreement of each.

    features_at(alpha=): the features of scored clips and of those of `choice`.
    """
    settings, probabilities = EvaluationSettings.of(params), {}
    for alpha in sorted(params.interpolate):
        at_alpha = data
        if alpha != 1:
            at_alpha = replace(data, alpha=alpha, features=features_at(alpha=alpha))
            zero_shot(settings, record, at_alpha, scorers[params.average_views])
        for videos in choice.values():
            embedding = at_alpha.features.of(videos, "embedding", params.zero_shot_views, average=True)
            decoded = at_alpha.features.decoded(videos)
            probabilities[alpha] = scorers["probabilities"](videos.classes)(embedding[decoded, 0])
    agreement = agreements(probabilities)
    chosen = max(agreement, key=agreement.get, default=None)
    return {"chosen": chosen, "part": next(iter(choice), ""), "agreement": {f"{a:g}": v for a, v in agreement.items()}}


def agreements(probabilities: dict[float, np.ndarray]) -> dict[float, float]:
    """How often the first class of each alpha is that of the mean over all alphas; of equal ones the lowest is chosen.

    probabilities: alpha -> 'n c'. Labels are not used. Measures that count confidence choose models that have learned
    to be confident, right or wrong; this one stays near the middle, which WiSE-FT recommends (LOG.md).
    """
    consensus = sum(probabilities.values()).argmax(axis=1) if probabilities else None
    return {alpha: float(np.mean(own.argmax(axis=1) == consensus)) for alpha, own in probabilities.items()}
