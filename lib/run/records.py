"""What a run keeps: checkpoints to go on from, its models with their cards, and the record of what made them."""

import os
import platform
import shutil
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCardData, try_to_load_from_cache

from lib.run.code import code_hash, commit
from lib.run.devices import usable_device
from lib.run.distributed import say
from lib.run.fields import AdaptParams, ClipParams, EvaluateParams, Params, SceneParams, stage_hash
from lib.run.files import file_hash, read_json, sha256, whole_file, whole_folder, write_json, write_text
from lib.run.params import FOLDER, ROOT
from lib.run.tensors import listed, not_finite, num_bytes

MODULES = {
    EvaluateParams: "evaluation.evaluate",
    AdaptParams: "train",
    ClipParams: "world.pretrain",
}  # that compute a stage; of the others: world


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, the newest first."""
    return sorted(folder.glob("checkpoint-*.pt"), reverse=True)


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Writes `folder/checkpoint-<state["step"]>.pt`; it and the one before stay, all others go.

    It gets its name when it is whole and on the disk, and before that a file beside it gets its SHA-256 (`sha256sum -c`
    reads it). Checkpoints of later steps are none of this run's: whatever made them, the run has left it.
    Raises DiskError if there is no room; those that are there stay.
    """
    path = folder / f"checkpoint-{state['step']:08d}.pt"
    with whole_file(path, size=num_bytes(state)) as partial:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        write_text(_checksum(path), f"{sha256(partial)}  {path.name}\n")
    earlier = [other for other in checkpoints(folder) if other <= path]
    for other in set(checkpoints(folder)) - set(earlier[:2]):
        other.unlink()
        _checksum(other).unlink(missing_ok=True)


def look_for_room(folder: Path, model: Any, trained: Any) -> None:
    """Warns before a run that its disk seems too small for three checkpoints (of the trained part as student, teacher, and the
    optimiser's two means), one of them under way, and two models."""
    needed = 3 * 4 * num_bytes(trained.state_dict()) + 2 * num_bytes(model.state_dict())
    free = shutil.disk_usage(folder).free + sum(path.stat().st_size for path in checkpoints(folder))
    if free < needed:
        say(
            f"warning: the disk of {folder} has {free:,} bytes for this run, which needs about {needed:,}: make room, or it will stop "
            "at a checkpoint"
        )


def load_checkpoint(
    folder: Path, params: Params, sources: dict[str, str], device: torch.device
) -> dict[str, Any] | None:
    """The newest checkpoint that is whole and was made with these parameters and sources; of every other it says why not.

    None if there is none. Nothing in a file is executed. Raises ValueError if its numbers are not finite.
    """
    params_hash = params.stage_hash(AdaptParams)
    for path in checkpoints(folder):
        noted = _checksum(path).read_text().split() if _checksum(path).exists() else []
        known = noted[0] if noted else "no checksum"
        if (found := sha256(path)) != known:
            say(f"{path} is not whole (its SHA-256 is {found[:12]}, not {known[:12]}): looking for the one before")
            continue
        state = torch.load(path, map_location=device, weights_only=True)
        same_params = params_hash in (state["params_hash"], _hash_of(state))
        if same_params and state.get("sources") == sources:
            if bad := not_finite(state):
                raise ValueError(
                    f"{path} holds numbers that are not finite: {listed(bad)}. The run had diverged before it was "
                    "written: lower learning_rate, or remove this file, and the one before it is taken"
                )
            return state
        what = "another CLIP, concepts, prompts or list of videos" if same_params else "other parameters"
        say(f"{path} was made with {what}: it is not used")
    return None


def _hash_of(state: dict[str, Any]) -> str:
    """The hash, by today's rules, of the parameters that a checkpoint or record holds; "" if one that counts is missing."""
    try:
        return stage_hash(state["params"], AdaptParams)
    except KeyError:
        return ""


def _checksum(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def continued(made: dict[str, Any], state: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a record says of the code that made a run: `made_by`, a line for each that had a part in it (the step from which
    on, `commit`, `code`), and the words of all, in order, as its `commit` and `code`.

    made: today's `provenance`; state: the checkpoint that the run goes on from. Says so if other code made that.
    """
    lines = [{"step": state["step"] if state else 0, "commit": made["commit"], "code": made["code"]}]
    if state:
        before = state.get(
            "made_by", [{"step": 0, "commit": "unknown", "code": "unknown"}]
        )  # checkpoints did not always say
        if (last := before[-1]) | {"step": state["step"]} == lines[0]:
            lines = before
        else:
            say(
                f"made at commit {last['commit']} (code {last['code']}), going on with {made['commit']} (code {made['code']})"
            )
            lines = before + lines
    return {
        "made_by": lines,
        **{name: " ".join(dict.fromkeys(line[name] for line in lines)) for name in ("commit", "code")},
    }


def take_up(folder: Path, params: Params, sources: dict[str, str]) -> dict[str, Any] | None:
    """The record of the student and teacher in a folder, as its `adapt.json`, if both are whole and were made with these
    parameters and sources, at whatever commit; else None. An adaptation is not made again because its record went, or
    because its videos have moved."""
    paths = [folder / role / "adapt.json" for role in ("student", "teacher")]
    record, other = (
        read_json(path) if path.exists() and any(path.parent.glob("*.safetensors")) else {} for path in paths
    )
    now = {"params": params.model_dump(), "params_hash": params.stage_hash(AdaptParams)}
    try:  # by the parameters in it, not by the hash: its rules may have been others then
        if record != other or (stage_hash(record["params"], AdaptParams), record["sources"]) != (
            now["params_hash"],
            sources,
        ):
            return None
    except KeyError:  # no models, or from before there was a parameter that counts
        return None
    record |= now
    write_json(folder / "adapt.json", record)
    say(f"finished at commit {record['commit']} with these parameters and videos: taken up ({folder})")
    return record


def save_model(model: Any, tokenizer: Any, folder: Path, *, card: str | None = None, **records: dict) -> None:
    """A Hugging Face checkpoint with its tokenizer (and `<name>.json` records, and the model card `README.md`), renamed
    into place when it is whole. Raises DiskError if there is no room."""
    with whole_folder(folder, size=num_bytes(model.state_dict())) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        for name, content in records.items():
            write_json(partial / f"{name}.json", content)
        if card is not None:
            (partial / "README.md").write_text(card)


def model_card(record: dict[str, Any], role: str) -> str:
    """The Hub's model card of an adapted checkpoint: YAML front matter, then what made it and how to use it.

    record: what `train.adapt` returns (`adapt.json`); role: student or teacher.
    """
    p = record["params"]
    how = (
        {
            "concept": "self-distillation in language-based action concept spaces (LSS)",
            "feature": "self-distillation of features with SVT's head, without language",
            "label": "supervised training with the true labels",
        }[p["objective"]]
        if record["steps"]
        else "nothing: it is the image CLIP, its frames averaged"
    )
    on_hub = not Path(p["clip"]).is_absolute() and not (ROOT / p["clip"]).is_dir()
    data = ModelCardData(
        library_name="lss",
        pipeline_tag="video-classification",
        tags=["video", "clip", "zero-shot"],
        base_model=p["clip"] if on_hub else None,
    )
    base = Path(p["clip"]).name if Path(p["clip"]).is_absolute() else p["clip"]  # no path of one machine
    labels = p["objective"] == "label" and record["steps"]
    language = (
        ""
        if p["objective"] == "feature"
        else f"""\
| concepts | {record["concepts"]}, of {", ".join(p["concepts"])} |
| temperatures | teacher {p["teacher_temperature"]}, student {p["student_temperature"]} |
| weights | alignment {p["alignment_weight"]}; uniform prior {p["uniform_prior_weight"]} |
| targets | {p["target_normalisation"]} |
"""
    )
    lost = f"{record['missing']} listed ones had no file, {len(record['bad_videos'])} could not be decoded"
    versions = f"torch {record['torch']}, transformers {record['transformers']}"
    return f"""---
{data.to_yaml()}
---

# {base}, adapted to video: the {role}

Made by {how}.

| | |
| --- | --- |
| videos | {record["videos"]} of `{p["dataset"]}`; {lost} |
| labels of the videos | {"used" if labels else "not used"} |
| steps | {record["steps"]} of {p["batch_size"]} videos ({p["epochs"]} epochs), seed {p["seed"]} |
| temporal attention | {p["temporal"]} |
{language}| made with | commit {record["commit"]}, parameters {record["params_hash"]}, {versions} |
| time since it was last started | {record["seconds"]} s on {record["hardware"]} |

Every parameter is in `adapt.json` beside this file. How well the model does is not said here: `03_evaluate` measures
it.

```python
from lib.evaluation.predict import load_model  # in a checkout of this repository

model, tokenizer = load_model("<this folder>")
```

The weights stand under the licence of the checkpoint that they came from; the code is MIT. Paper: Ranasinghe and Ryoo,
*Language-based Action Concept Spaces Improve Video Self-Supervised Learning*, NeurIPS 2023 (arXiv 2307.10922); this
model is not the authors'.
"""


def sources_of(params: Params, videos: str) -> dict[str, str]:
    """Hashes of what an adaptation is made of besides its parameters: concepts, prompts, a CLIP (of the hub its revision), and
    its videos (their `lists.data_hash`)."""
    names = dict.fromkeys(["merge", *params.concepts, *params.class_vocabularies])
    files = [
        *(FOLDER / "concepts" / f"{name}.yaml" for name in names),
        FOLDER / "prompts" / f"{params.prompts}.yaml",
        *sorted([*(ROOT / params.clip).glob("*.safetensors"), *(ROOT / params.clip).glob("*.bin")]),
    ]
    of_hub = None if (ROOT / params.clip).is_dir() else try_to_load_from_cache(params.clip, "config.json")
    revision = (
        {"revision": Path(of_hub).parent.name} if isinstance(of_hub, str) else {}
    )  # .../snapshots/<revision>/config.json
    return {f"{path.parent.name}/{path.name}": file_hash(path) for path in files} | revision | {"videos": videos}


def provenance(params: Params, stage: type[SceneParams]) -> dict[str, str]:
    """What a number needs to be believed: commit and hash of the code, parameters' hash, versions, hardware, when (UTC)."""
    device = usable_device(params.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    module = next((name for kind, name in MODULES.items() if issubclass(stage, kind)), "world.render")
    return {
        "commit": commit(),
        "code": code_hash(module),
        "started": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "params_hash": params.stage_hash(stage),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "av": version("av"),
        "hardware": f"{name}, {os.cpu_count()} cores",
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if cpuinfo.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()
