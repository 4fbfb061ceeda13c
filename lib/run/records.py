"""What made a number (code, parameters, data, versions, hardware), and a model's card."""

import os
import platform
import re
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelCardData, try_to_load_from_cache

from lib.run.code import code_hash, commit
from lib.run.devices import usable_device
from lib.run.distributed import say
from lib.run.fields import AdaptParams, ClipParams, EvaluateParams, Params, SceneParams
from lib.run.files import file_hash
from lib.run.params import FOLDER, ROOT

MODULES = {
    EvaluateParams: "evaluation.evaluate",
    AdaptParams: "train",
    ClipParams: "world.pretrain",
}  # else: world.build
METHODS = {
    "concept": "self-distillation in language-based action concept spaces (LSS)",
    "feature": "self-distillation of features with SVT's head, without language",
    "must": "self-training with pseudo-labels and a fairness prior (MUST, without its masked-image loss)",
    "label": "supervised training with the true labels",
}


def sources_of(params: Params, videos: str) -> dict[str, str]:
    """Hashes of what an adaptation uses besides its parameters: concepts, prompts, CLIP, videos (`data_hash`).

    A CLIP of the hub has its revision instead.
    """
    names = dict.fromkeys(["merge", *params.concepts, *params.class_vocabularies])
    files = [FOLDER / "concepts" / f"{name}.yaml" for name in names]
    files += [FOLDER / "prompts" / f"{params.prompts}.yaml"]
    files += [FOLDER / "worlds" / f"{params.world}.yaml"] * (params.rendered and params.world != "embedded")
    clip = ROOT / params.clip
    files += sorted([*clip.glob("*.safetensors"), *clip.glob("*.bin")])
    hashes = {f"{path.parent.name}/{path.name}": file_hash(path) for path in files}
    cached = None if clip.is_dir() else try_to_load_from_cache(params.clip, "config.json")
    if isinstance(cached, str):  # .../snapshots/<revision>/config.json
        hashes["revision"] = Path(cached).parent.name
    return hashes | {"videos": videos}


def provenance(params: Params, stage: type[SceneParams]) -> dict[str, str]:
    """Commit and hash of the code, parameters' hash, versions, hardware, start (UTC)."""
    device = usable_device(params.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    module = next((name for kind, name in MODULES.items() if issubclass(stage, kind)), "world.build")
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
    name = re.search(r"^model name\s*: (.*)$", cpuinfo.read_text() if cpuinfo.exists() else "", re.MULTILINE)
    return name[1].strip() if name else platform.processor() or platform.machine()


def continued(made: dict[str, Any], state: dict[str, Any] | None = None) -> dict[str, Any]:
    """All code that made a run: `made_by`, a line per change of the code with its first step, and the union of each.

    made: today's `provenance`; state: the checkpoint that the run resumes from.
    """
    lines = state.get("made_by", [{"step": 0, "commit": "unknown", "code": "unknown"}]) if state else []
    code = {name: made[name] for name in ("commit", "code")}
    if not lines or code != {name: lines[-1][name] for name in code}:
        if lines:
            last = lines[-1]
            say(f"begun at commit {last['commit']} (code {last['code']}), resumed at {made['commit']} ({made['code']})")
        lines = [*lines, {"step": state["step"] if state else 0, **code}]
    return {"made_by": lines} | {name: " ".join(dict.fromkeys(line[name] for line in lines)) for name in code}


def model_card(record: dict[str, Any], role: str) -> str:
    """The hub's model card (`model_card.md`) of the student or teacher. record: `adapt.json`."""
    params = record["params"]
    clip = Path(params["clip"])
    on_hub = not (ROOT / clip).is_dir() and not clip.is_absolute()
    data = ModelCardData(
        library_name="lss",
        pipeline_tag="video-classification",
        tags=["video", "clip", "zero-shot"],
        base_model=params["clip"] if on_hub else None,
    )
    method = METHODS[params["objective"]] if record["steps"] else "nothing: it is the image CLIP, its frames averaged"
    base = clip.name if clip.is_absolute() else params["clip"]  # no path of one machine
    texts = {"record": record, "params": params, "role": role, "method": method, "base": base}
    return ModelCard.from_template(data, template_path=Path(__file__).with_name("model_card.md"), **texts).content
