"""Weight interpolation in tables and figures: accuracy against what is kept of CLIP on stills."""

from collections.abc import Sequence

import pandas as pd

from lib.run.files import read_json
from lib.study.results import dataset_name
from lib.study.suites import Run, state_of

COLUMNS = ["run", "world_seed", "seed", "alpha", "zero-shot", "stills", "agreement on stills", "chosen"]
MEASURES = {
    "zero_shot": {"top1": "zero-shot"},
    "zero_shot_still": {"top1": "stills", "agreement": "agreement on stills"},
}


def protocols_at(alphas: Sequence[float], protocol: str) -> dict[str, str]:
    """The keys under which a protocol is recorded at each alpha, and their titles; the adapted weights come last."""
    keys = {f"{protocol}@{alpha:g}": f"{alpha:g}" for alpha in sorted(alphas) if alpha < 1}
    return keys | {protocol: "1"}


def interpolated(runs: Sequence[Run]) -> list[float]:
    """The alphas of the trained runs; empty if none is interpolated."""
    alphas = {alpha for run in runs for alpha in run.params.interpolate if run.params.epochs}
    return sorted(alphas) if alphas - {1.0} else []


def records(runs: Sequence[Run]) -> list[tuple[Run, dict[str, dict]]]:
    """The finished interpolated runs, with what `metrics.json` says of the choice of alpha on each data set."""
    done = [run for run in runs if interpolated([run]) and state_of(run)[0] == "done"]
    datasets = [read_json(run.folder / "metrics.json")["datasets"] for run in done]
    return [(run, {name: data["interpolation"] for name, data in of.items()}) for run, of in zip(done, datasets)]


def chosen(runs: Sequence[Run]) -> list[str]:
    """A note per run and data set: which alphas were chosen without labels, on which part."""
    choices: dict[tuple[str, str, str], list[str]] = {}
    for run, of_datasets in records(runs):
        for dataset, record in of_datasets.items():
            if record["chosen"] is not None:
                choices.setdefault((run.ablation, dataset, record["part"]), []).append(f"{record['chosen']:g}")
    return [
        f"chosen without labels, {dataset}/{part}: {run} {', '.join(alphas)}"
        for (run, dataset, part), alphas in choices.items()
    ]


def points(runs: Sequence[Run], values: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """A row per finished interpolated run and alpha, in `COLUMNS`: accuracies and agreement in percent.

    chosen: whether this alpha was chosen without labels. values: of `results.collect`. Agreement is NaN without a run
    of the image CLIP.
    """
    rows = []
    for run, of_datasets in records(runs):
        name = dataset_name(dataset, run.world_seed, None)
        of_run = values[(values["run"] == run.ablation) & (values["world_seed"] == run.world_seed)]
        of_run = of_run[(of_run["seed"] == run.seed) & (of_run["dataset"].str.split(" ").str[0] == name)]
        means = of_run.groupby(["protocol", "metric"])["value"].mean()
        for alpha in sorted(run.params.interpolate):
            row = {"run": run.ablation, "world_seed": run.world_seed, "seed": run.seed, "alpha": alpha}
            suffix = "" if alpha == 1 else f"@{alpha:g}"
            for protocol, metrics in MEASURES.items():
                row |= {title: means.get((protocol + suffix, metric)) for metric, title in metrics.items()}
            rows.append(row | {"chosen": alpha == of_datasets[dataset]["chosen"]})
    return pd.DataFrame(rows, columns=COLUMNS)
