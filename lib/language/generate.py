"""Descriptions of labels, written by a language model after the guideline.

The paper used GPT-3; here any causal language model of Hugging Face writes them. Its text is parsed and checked by
`vocabulary.guideline_problems`; only descriptions without problems become a vocabulary.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import yaml
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from lib.language.vocabulary import Concept, ConceptError, guideline_problems, read_vocabulary, readable_name
from lib.run.devices import usable_device
from lib.run.files import append_line, read_lines, write_lines, write_text
from lib.run.params import FOLDER, ROOT

Writer = Callable[[list[str], int], list[str]]  # a batch of prompts, seed -> the text that follows each
EXAMPLES = ("BabyCrawling", "Archery")  # of the vocabulary ucf101, in the prompt


def prompt_for(class_name: str, others: Sequence[str]) -> str:
    """The guideline, two examples, and the class name; `others` are the class names that it may be confused with."""
    concepts = read_vocabulary(FOLDER / "concepts" / "ucf101.yaml", num_descriptions=4)
    by_label = {concept.label: concept for concept in concepts}
    examples = ""
    for concept in map(by_label.get, EXAMPLES):
        lines = [f"{number}. {text}\n" for number, text in enumerate(concept.descriptions, start=1)]
        examples += f"Action: {concept.class_name}\n{''.join(lines)}\n"
    rules = (FOLDER / "concepts" / "GUIDELINE.md").read_text(encoding="utf-8")
    near = f"Other actions of the vocabulary: {', '.join(others)}.\n" if others else ""
    task = "Write the four descriptions of an action, numbered 1 to 4, one a line, and nothing else."
    return f"{rules}\n{task}\n{near}\n{examples}Action: {class_name}\n"


def parse_descriptions(text: str) -> tuple[str, ...]:
    """The numbered lines 1, 2, 3, 4 of a model's text, in this order, up to the first that is missing."""
    descriptions: list[str] = []
    for line in text.splitlines():
        match = re.match(r"\s*(\d+)[.):]\s*(.+?)\s*$", line)
        if match and int(match[1]) == len(descriptions) + 1 <= 4:
            descriptions.append(match[2])
    return tuple(descriptions)


def language_model(name: str, *, revision: str, device: str, temperature: float, max_new_tokens: int) -> Writer:
    """A causal language model of the hub (`name`, `revision`) or of a folder, in safetensors, as a writer.

    Sampled at `temperature` with the batch's seed; 0 is greedy. A chat template, if there is one, is applied. A folder
    is absolute, or relative to this repository. Raises ValueError if the model or the device cannot be used.
    """
    name_or_path, torch_device = str(ROOT / name) if (ROOT / name).is_dir() else name, usable_device(device)
    try:  # transformers raises errors of many types for a model that it cannot read
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, revision=revision, padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(name_or_path, revision=revision, use_safetensors=True)
    except Exception as error:
        raise ValueError(
            f"language_model: {name!r} is neither a folder ({ROOT / name}) nor a hub id with a causal language model "
            f"in safetensors and its tokenizer: {str(error).splitlines()[0]}"
        ) from error
    model = model.to(torch_device).eval()
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    sampling |= {"max_new_tokens": max_new_tokens, "pad_token_id": tokenizer.pad_token_id}
    context = getattr(model.config, "max_position_embeddings", None)

    @torch.no_grad()
    def write(prompts: list[str], seed: int) -> list[str]:
        set_seed(seed)
        if tokenizer.chat_template:
            chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
            prompts = tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
        batch = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=not tokenizer.chat_template)
        length = batch["input_ids"].shape[1]
        if context and length + max_new_tokens > context:
            raise ValueError(
                f"{name} reads {context} tokens, the prompt has {length} and the answer up to {max_new_tokens}: choose "
                "a model with a longer context"
            )
        tokens = model.generate(**batch.to(torch_device), **sampling)
        return tokenizer.batch_decode(tokens[:, length:], skip_special_tokens=True)

    return write


def check_request(path: Path, labels: Sequence[str], language_model: str) -> None:
    """Before a language model is loaded: is there one, and can the vocabulary be written to `path`?

    Raises ValueError without a model, FileExistsError for a vocabulary that was written by hand, and ConceptError for
    labels that are fewer than two, empty or repeated.
    """
    _class_names(labels)
    if not language_model:
        raise ValueError(
            "labels need a language_model that describes them: the folder or hub id of an instruction-tuned causal "
            f"language model, e.g. Qwen/Qwen2.5-7B-Instruct. Or write {path} by hand, after "
            f"{path.with_name('GUIDELINE.md')}, with all labels like\n"
            f"  {json.dumps(labels[0])}:\n    class_name: {readable_name(labels[0])}\n"
            "    descriptions: [four sentences]\n"
            f'and read it without labels: overrides = {{"concepts": ["{path.stem}"], "concept_labels": "vocabulary"}}'
        )
    if path.exists() and not path.read_text(encoding="utf-8").startswith("# Written by "):
        raise FileExistsError(
            f"{path} is there, and no language model wrote it: choose another name for the `vocabulary`"
        )


def generate_vocabulary(
    labels: Sequence[str], write: Writer, *, writer: str, seed: int, attempts: int, batch_size: int, cache: Path
) -> tuple[list[Concept], list[str]]:
    """Descriptions of `labels` by `write`: the concepts, and their problems, one line each.

    Labels with problems are written again up to `attempts` times, each with another seed. `writer` names model and
    revision: with prompt, label and seed it is the key of an answer in `cache` (JSON lines), so that interrupted calls
    resume and repeated ones write nothing. Batches and their seeds do not depend on the cache, and so neither does the
    result. Raises ConceptError for labels that are fewer than two, empty or repeated.
    """
    names = _class_names(labels)
    prompts = {label: prompt_for(name, [n for n in names if n != name]) for label, name in zip(labels, names)}
    cache.parent.mkdir(parents=True, exist_ok=True)
    lines = read_lines(cache)
    write_lines(cache, lines)  # without a line that was cut short, else the next one would be appended to it
    answers = {line["key"]: line["text"] for line in lines}
    concepts = {label: Concept(label, name, ()) for label, name in zip(labels, names)}
    todo, problems = list(labels), []
    for attempt in range(attempts):
        keys = {label: _hash(writer, prompts[label], label, seed + attempt) for label in todo}
        batches = [todo[start : start + batch_size] for start in range(0, len(todo), batch_size)]
        for batch in tqdm(batches, desc=f"descriptions, attempt {attempt + 1}", unit="batch"):
            if all(keys[label] in answers for label in batch):
                continue
            texts = write([prompts[label] for label in batch], int(keys[batch[0]][:8], 16))
            for label, text in zip(batch, texts, strict=True):
                answers[keys[label]] = text
                append_line(cache, {"key": keys[label], "label": label, "text": text})
        for label in todo:
            concepts[label] = replace(concepts[label], descriptions=parse_descriptions(answers[keys[label]]))
        problems = guideline_problems(list(concepts.values()))
        todo = [label for label in labels if any(problem.startswith(f"{label}: ") for problem in problems)]
        if not todo:
            break
    return list(concepts.values()), problems


def _class_names(labels: Sequence[str]) -> list[str]:
    names, problems = [readable_name(label) for label in labels], []
    for i, (label, name) in enumerate(zip(labels, names)):
        if not name or name in names[:i]:
            problems.append(f"label {label!r} {'stands there twice' if name else 'is empty'}")
    if len(labels) < 2:
        problems.append("a vocabulary needs two labels or more")
    if problems:
        raise ConceptError("labels", problems)
    return names


def _hash(*parts: str | int) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def write_vocabulary(path: Path, concepts: Sequence[Concept], *, origin: str) -> None:
    """Writes a vocabulary file with its origin in the first line."""
    content = {
        concept.label: {"class_name": concept.class_name, "descriptions": list(concept.descriptions)}
        for concept in concepts
    }
    write_text(path, f"# {origin}\n" + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120))
