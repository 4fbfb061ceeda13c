"""What a run can resume from and what it leaves: training checkpoints, and models with their tokenizer and card."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lib.run.distributed import say
from lib.run.fields import AdaptParams, Params, stage_hash
from lib.run.files import read_json, sha256, whole_file, whole_folder, write_json, write_text
from lib.run.tensors import listed, not_finite, num_bytes


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, the newest first."""
    return sorted(folder.glob("checkpoint-*.pt"), reverse=True)


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Writes `folder/checkpoint-<state["step"]>.pt` and its SHA-256 (for `sha256sum -c`); keeps it and the one before.

    Checkpoints of later steps are removed: the run has left them. Raises DiskError; the others stay then.
    """
    path = folder / f"checkpoint-{state['step']:08d}.pt"
    with whole_file(path, size=num_bytes(state)) as partial:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        write_text(_checksum(path), f"{sha256(partial)}  {path.name}\n")
    kept = [other for other in checkpoints(folder) if other <= path][:2]
    for other in set(checkpoints(folder)) - set(kept):
        other.unlink()
        _checksum(other).unlink(missing_ok=True)


def _checksum(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def load_checkpoint(
    folder: Path, params: Params, sources: dict[str, str], device: torch.device
) -> dict[str, Any] | None:
    """The newest whole checkpoint made with these parameters and sources, or None; says why others are not used.

    Nothing in a file is executed. Raises ValueError if its numbers are not finite.
    """
    params_hash = params.stage_hash(AdaptParams)
    for path in checkpoints(folder):
        recorded = _checksum(path).read_text()[:64] if _checksum(path).exists() else "no checksum"
        if (digest := sha256(path)) != recorded:
            say(f"{path} is not whole (its SHA-256 is {digest[:12]}, not {recorded[:12]}): trying the one before")
            continue
        state = torch.load(path, map_location=device, weights_only=True)
        if params_hash not in (state["params_hash"], _current_hash(state)):
            say(f"{path} was made with other parameters: it is not used")
        elif state.get("sources") != sources:
            say(f"{path} was made with another CLIP, concepts, prompts, list of videos or objective: it is not used")
        elif broken := not_finite(state):
            raise ValueError(
                f"{path} holds numbers that are not finite: {listed(broken)}. The run had diverged: lower "
                "learning_rate, or remove this file to resume from the one before"
            )
        else:
            return state
    return None


def _current_hash(record: dict[str, Any]) -> str | None:
    """The hash, by today's rules, of a record's parameters; None if it lacks one that counts."""
    try:
        return stage_hash(record["params"], AdaptParams)
    except KeyError:
        return None


def check_space(folder: Path, model: torch.nn.Module, trained: torch.nn.Module) -> None:
    """Warns if the disk is too small for a run.

    It needs three checkpoints (student, teacher and AdamW's two means of the trained part) and two models.
    """
    needed = 3 * 4 * num_bytes(trained.state_dict()) + 2 * num_bytes(model.state_dict())
    free = shutil.disk_usage(folder).free + sum(path.stat().st_size for path in checkpoints(folder))
    if free < needed:
        say(f"warning: the disk of {folder} has {free:,} bytes for this run, which needs about {needed:,}: make room")


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    card: str | None = None,
    **records: dict[str, Any],
) -> None:
    """Writes a Hugging Face checkpoint with its tokenizer, `<name>.json` records and model card. Raises DiskError."""
    with whole_folder(folder, size=num_bytes(model.state_dict())) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        for name, content in records.items():
            write_json(partial / f"{name}.json", content)
        if card is not None:
            (partial / "README.md").write_text(card)


def take_up(folder: Path, params: Params, sources: dict[str, str]) -> dict[str, Any] | None:
    """The record of the finished student and teacher in `folder`, if these parameters and sources made them.

    It becomes `adapt.json` again, so that nothing is repeated because that file was lost or the videos have moved.
    """
    paths = [folder / role / "adapt.json" for role in ("student", "teacher")]
    if not all(path.exists() and any(path.parent.glob("*.safetensors")) for path in paths):
        return None
    record, other = map(read_json, paths)
    params_hash = params.stage_hash(AdaptParams)
    if record != other or _current_hash(record) != params_hash or record.get("sources") != sources:
        return None
    record |= {"params": params.model_dump(), "params_hash": params_hash}
    write_json(folder / "adapt.json", record)
    say(f"finished at commit {record['commit']} with these parameters and videos: used as it is ({folder})")
    return record
