"""Descriptions for labels of one's own, written by a language model after the guideline, and checked like ours.

The paper had GPT-3 write them; here any causal language model of Hugging Face does. Its text is believed in nothing:
what it writes is parsed, checked by `vocabulary.guideline_problems`, and only what has no problem becomes a vocabulary.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import yaml
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from lib.language.vocabulary import Concept, ConceptError, guideline_problems, read_vocabulary, readable_name
from lib.run.devices import usable_device
from lib.run.files import append_line, read_lines, write_lines, write_text
from lib.run.params import FOLDER, ROOT

Writer = Callable[[list[str], int], list[str]]  # prompts of a batch, seed -> what is written after each
EXAMPLES = ("BabyCrawling", "Archery")  # of the vocabulary ucf101, in the prompt


def prompt_for(class_name: str, others: Sequence[str]) -> str:
    """The guideline, two labels of ours as examples, and the label; `others` are those that it may be taken for."""
    examples = {c.label: c for c in read_vocabulary(FOLDER / "concepts" / "ucf101.yaml", num_descriptions=4)}
    shown = "\n\n".join(
        f"Action: {examples[name].class_name}\n"
        + "\n".join(f"{number}. {text}" for number, text in enumerate(examples[name].descriptions, start=1))
        for name in EXAMPLES
    )
    rules = (FOLDER / "concepts" / "GUIDELINE.md").read_text(encoding="utf-8")
    near = f"Other actions of the vocabulary: {', '.join(others)}.\n" if others else ""
    return (
        f"{rules}\nWrite the four descriptions of an action, numbered 1 to 4, one a line, and nothing else.\n{near}\n"
        f"{shown}\n\nAction: {class_name}\n"
    )


def parse_descriptions(text: str) -> tuple[str, ...]:
    """The numbered lines 1, 2, 3, 4 of a model's text, in this order, up to the first that is missing."""
    found: list[str] = []
    for line in text.splitlines():
        match = re.match(r"\s*(\d+)[.):]\s*(.+?)\s*$", line)
        if match and int(match[1]) == len(found) + 1 <= 4:
            found.append(match[2])
    return tuple(found)


def language_model(name: str, *, revision: str, device: str, temperature: float, max_new_tokens: int) -> Writer:
    """A causal language model of the hub (`name`, `revision`) or of a folder, as a writer; safetensors only.

    Sampled at `temperature`, with the batch's seed; temperature 0 takes the likeliest token. A model with a chat
    template is asked in it. A folder is absolute, or relative to this repository. Raises ValueError if it cannot
    be read, or if there is no such device.
    """
    place, there = str(ROOT / name) if (ROOT / name).is_dir() else name, usable_device(device)
    try:  # transformers raises errors of many types, each means that there is no such model
        tokenizer = AutoTokenizer.from_pretrained(place, revision=revision, padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(place, revision=revision, use_safetensors=True)
    except Exception as error:
        raise ValueError(
            f"language_model: {name!r} is neither a folder ({ROOT / name}) nor a hub id with a causal language model in "
            f"safetensors and its tokenizer: {str(error).splitlines()[0]}"
        ) from error
    model = model.to(there).eval()
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}

    @torch.no_grad()
    def write(prompts: list[str], seed: int) -> list[str]:
        set_seed(seed)
        if tokenizer.chat_template:
            prompts = [
                tokenizer.apply_chat_template(
                    [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
                )
                for prompt in prompts
            ]
        batch = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=not tokenizer.chat_template)
        limit = getattr(model.config, "max_position_embeddings", None)
        if limit and batch["input_ids"].shape[1] + max_new_tokens > limit:
            raise ValueError(
                f"{name} reads {limit} tokens, the prompt has {batch['input_ids'].shape[1]} and the answer "
                f"up to {max_new_tokens}: take a model with a longer context"
            )
        written = model.generate(
            **batch.to(there), max_new_tokens=max_new_tokens, pad_token_id=tokenizer.pad_token_id, **sampling
        )
        return tokenizer.batch_decode(written[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)

    return write


def check_request(path: Path, labels: Sequence[str], language_model: str) -> None:
    """Before a language model is loaded: that there is one to write descriptions of `labels`, and that `path`, the vocabulary,
    replaces none that was written by hand.

    Raises ValueError, which says how to write it by hand, FileExistsError, and ConceptError for labels that are fewer than two,
    empty or there twice.
    """
    _class_names(labels)
    if not language_model:
        raise ValueError(
            "labels need a language_model that describes them: the folder or hub id of an instruction-tuned causal language model, "
            f"e.g. Qwen/Qwen2.5-7B-Instruct. Or write {path} by hand, after {path.with_name('GUIDELINE.md')}, with all labels like\n"
            f"  {json.dumps(labels[0])}:\n    class_name: {readable_name(labels[0])}\n    descriptions: [four sentences]\n"
            f'and read it without labels, by overrides = {{"concepts": ["{path.stem}"], "concept_labels": "vocabulary"}}'
        )
    if path.exists() and not path.read_text(encoding="utf-8").startswith("# Written by "):
        raise FileExistsError(
            f"{path} is there, and no language model wrote it: choose another name for the `vocabulary`"
        )


def generate_vocabulary(
    labels: Sequence[str], write: Writer, *, writer: str, seed: int, attempts: int, batch_size: int, cache: Path
) -> tuple[list[Concept], list[str]]:
    """Descriptions of `labels` by `write`: the concepts, and their problems, one line each (none: they can be used).

    Labels with problems are written anew up to `attempts` times, each with another seed. `writer` says who writes
    (model and revision): with prompt, label and seed it is the key under which the answers are kept in `cache`, JSON
    lines, so that an interrupted call goes on and a repeated one writes nothing. A batch's seed is that of its attempt
    and first label, and batches are the same whatever was cached, so the result does not depend on interruptions.

    Raises ConceptError for labels that are fewer than two, empty or there twice.
    """
    names = _class_names(labels)
    prompts = {
        label: prompt_for(name, [other for other in names if other != name]) for label, name in zip(labels, names)
    }
    cache.parent.mkdir(parents=True, exist_ok=True)
    known = read_lines(cache)
    write_lines(cache, known)  # without a line that was cut short, else the next one would be glued to it
    answers = {line["key"]: line["text"] for line in known}
    concepts = {label: Concept(label, name, ()) for label, name in zip(labels, names)}
    todo, problems = list(labels), []
    for attempt in range(attempts):
        keys = {label: _hash(writer, prompts[label], label, seed + attempt) for label in todo}
        with tqdm(total=len(todo), desc=f"descriptions, attempt {attempt + 1}", unit="label") as progress:
            for start in range(0, len(todo), batch_size):
                batch = todo[start : start + batch_size]
                if any(keys[label] not in answers for label in batch):
                    written = write([prompts[label] for label in batch], int(keys[batch[0]][:8], 16))
                    for label, text in zip(batch, written, strict=True):
                        answers[keys[label]] = text
                        append_line(cache, {"key": keys[label], "label": label, "text": text})
                progress.update(len(batch))
        for label in todo:
            descriptions = parse_descriptions(answers[keys[label]])
            concepts[label] = Concept(label, concepts[label].class_name, descriptions)
        problems = guideline_problems(list(concepts.values()))
        todo = [label for label in labels if any(problem.startswith(f"{label}: ") for problem in problems)]
        if not todo:
            break
    return list(concepts.values()), problems


def _class_names(labels: Sequence[str]) -> list[str]:
    names = [readable_name(label) for label in labels]
    problems = [
        f"label {label!r} {'is empty' if not name else 'stands there twice'}"
        for i, (label, name) in enumerate(zip(labels, names))
        if not name or name in names[:i]
    ]
    if problems := problems + ["a vocabulary needs two labels or more"] * (len(labels) < 2):
        raise ConceptError("labels", problems)
    return names


def _hash(*parts: str | int) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def write_vocabulary(path: Path, concepts: Sequence[Concept], *, origin: str) -> None:
    """Writes a vocabulary file with a first line that says where it comes from; renamed into place when it is whole."""
    content = {
        concept.label: {"class_name": concept.class_name, "descriptions": list(concept.descriptions)}
        for concept in concepts
    }
    write_text(path, f"# {origin}\n" + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120))
