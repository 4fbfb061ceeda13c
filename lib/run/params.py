"""Flat parameters, read from YAML and checked before any compute.

`params/base.yaml` holds every parameter with its unit and source. A profile changes data and sizes, an ablation what a
row of a table is about, overrides a single run. Later layers win; all must fit `Params`.
"""

import difflib
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from lib.run.fields import EvaluateParams, Params, WorldParams
from lib.run.values import RENDERED

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "params"


# former name -> today's; `python -m workflow.migrate` renames them in records
RENAMED = {
    "prior": "target_normalisation",  # its "penalty" is uniform_prior_weight above 0
    "prior_weight": "uniform_prior_weight",
    "prior_memory": "queue_size",
    "sinkhorn_rounds": "sinkhorn_iterations",
    "clip_gradient": "max_gradient_norm",
    "bootstrap_rounds": "bootstrap_resamples",
    "flip": "flip_probability",
}


class ParamsError(ValueError):
    """A parameter is unknown, missing, or has a value that it cannot have."""


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds one mapping. Raises ParamsError naming the file (and line) otherwise."""
    try:
        node = (loader := yaml.CSafeLoader(path.read_bytes())).get_single_node()
        content = loader.construct_document(node) if node else None
    except FileNotFoundError:
        raise ParamsError(no_such_file(path)) from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise ParamsError(f"{path}: expected a mapping of parameter names to values, found {type(content).__name__}")
    keys = [key.value for key, _ in node.value]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ParamsError(f"{path}: {', '.join(twice)}: given more than once; keep one")
    return content


def no_such_file(path: Path) -> str:
    """The message for an absent YAML file, with the nearest name or all that exist."""
    names = sorted(file.stem for file in path.parent.glob("*.yaml"))
    near = difflib.get_close_matches(path.stem, names, n=1)
    return f"{path}: no such file; " + (f"did you mean {near[0]!r}?" if near else f"there are: {names}")


def layers(profile: str, ablation: str | None = None) -> list[Path]:
    """The files that are merged, the first one first."""
    files = [FOLDER / "base.yaml", *(FOLDER / "profiles" / f"{name}.yaml" for name in profile.split("+"))]
    return files + ([FOLDER / "ablations" / f"{ablation.partition('@')[0]}.yaml"] if ablation else [])


def load(*, profile: str, ablation: str | None = None, **overrides: Any) -> Params:
    """Merges base, profile, ablation and overrides, and checks the result.

    Args:
        profile: name of a file under `params/profiles/`, or several: "paper+mine" is `paper` with the changes of
        `mine`. ablation: name of a file under `params/ablations/`; None for the profile as it stands; "lss@epoch4": of
        the CLIP beside the profile's whose name ends in "-epoch4". overrides: single parameters of this run.
    Raises:
        ParamsError: naming file, key and reason of every problem, and for an unknown key the nearest valid one.
    """
    merged, origin = {}, {}
    for source, content in [
        *((str(p.relative_to(ROOT)), read_yaml(p)) for p in layers(profile, ablation)),
        ("overrides", overrides),
    ]:
        merged |= content
        origin |= dict.fromkeys(content, source)
    merged |= {
        key: os.path.expanduser(value)
        for key, value in merged.items()  # ~/videos
        if isinstance(value, str) and key.startswith(("data_", "lists_", "clip", "manifests"))
    }
    if ablation and "@" in ablation:
        merged["clip"] = f"{merged['clip']}-{ablation.partition('@')[2]}"
    if merged.get("evaluate_on") == ["{dataset}"]:
        merged["evaluate_on"] = [merged["dataset"]]
    try:
        params = Params.model_validate(merged)
    except ValidationError as error:
        raise ParamsError("\n".join(_explain(problem, origin) for problem in error.errors())) from None
    # the two paths that depend on other parameters
    world = {
        "{world_seed}": str(params.world_seed),
        "{world}": f"{params.world_seed}-{params.stage_hash(WorldParams)[:6]}",
    }
    places = {key: getattr(params, key) for key in ("clip", "data_embedded", "data_rendered")}
    for key, (name, value) in itertools.product(places, world.items()):
        places[key] = places[key].replace(name, value)
    return params.model_copy(update=places)


def absent_files(params: Params) -> list[str]:
    """A message for each vocabulary and prompt file that parameters name and that does not exist."""
    files = {
        "concepts": ("concepts", params.concepts),
        "class_vocabularies": ("concepts", params.class_vocabularies),
        "prompts": ("prompts", [params.prompts]),
        "zero_shot_prompts": ("prompts", [params.zero_shot_prompts]),
    }
    return [
        f"{key}: {no_such_file(path)}"
        for key, (folder, names) in files.items()
        for name in names
        if not (path := FOLDER / folder / f"{name}.yaml").exists()
    ]


def place_of(params: Params, dataset: str) -> Path:
    """The folder of a data set."""
    if dataset.startswith("rendered_"):
        return ROOT / params.data_rendered / dataset
    return ROOT / getattr(params, f"data_{dataset}")


def world_folder(params: Params) -> Path:
    """The folder of the rendered data sets, with their `world.json`."""
    return ROOT / (params.data_embedded if params.world == "embedded" else params.data_rendered)


def is_made_here(clip: str) -> bool:
    """Whether the workflow pre-trains this CLIP; what is saved beside it, as `0-epoch4`, exists or is an error."""
    return re.fullmatch(r"outputs/(embedded|rendered)/clip/([\w-]+-)?\d+", clip) is not None


def lists_of(params: Params, dataset: str) -> Path | None:
    """The folder of a data set's lists; None for shipped ones, or those beside the videos."""
    place = getattr(params, f"lists_{dataset}", "")
    return ROOT / place if place else None


def elsewhere(profile: str, folder: str) -> dict[str, str]:
    """The override for `make ... DATA=folder`, another place of the data set that a profile adapts to; "": none.

    Raises ParamsError for a profile of rendered videos.
    """
    if not folder:
        return {}
    params = load(profile=profile)
    if params.dataset in RENDERED:
        raise ParamsError(
            f"DATA={folder}: profile {profile!r} renders its videos and reads no others. Name a profile that reads "
            "them: PROFILE=ucf101 for classes of UCF-101, or one with `dataset: folder` (README, your own videos)"
        )
    same = (ROOT / folder).resolve() == place_of(params, params.dataset).resolve()
    return {} if same else {f"data_{params.dataset}": folder}


def overrides_hash(overrides: dict[str, Any]) -> str:
    """Six hex digits over the overrides that change results; "" without any. `device`, `workers` ... do not count."""
    chosen = {name: value for name, value in overrides.items() if name in EvaluateParams.model_fields}
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:6] if chosen else ""


def _explain(problem: dict[str, Any], origin: dict[str, str]) -> str:
    if not problem["loc"]:
        return "parameters do not fit together: " + problem["msg"].removeprefix("Value error, ")
    key = str(problem["loc"][0])
    where = f"{origin.get(key, 'params/base.yaml')}: {key}"
    return f"{where}: {explain(problem, Params.model_fields)}"


def explain(problem: dict[str, Any], names: Iterable[str]) -> str:
    """The message for one of pydantic's errors; `names` are the valid parameters."""
    if problem["type"] == "extra_forbidden":
        name = str(problem["loc"][0])
        if name in RENAMED:
            return f"renamed; now {RENAMED[name]!r}"
        near = difflib.get_close_matches(name, names, n=1)
        return "unknown parameter" + (f"; the nearest valid name is {near[0]!r}" if near else "")
    if problem["type"] == "missing":
        return "missing"
    is_text = isinstance(problem["input"], str) and "float" in problem["type"]
    return (
        f"{problem['msg'].removeprefix('Value error, ')}, got {problem['input']!r}"
        + " (YAML reads 3e-5 as text: write 3.0e-5)" * is_text
    )
