"""Vocabularies: actions with class names and descriptions; read, checked, merged, altered.

A vocabulary is a file `params/concepts/<name>.yaml` of `label: {class_name: text, descriptions: [text, ...]}`, written
after `GUIDELINE.md` beside it. `merge.yaml` says which labels of different vocabularies are the same action.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml
from transformers import PreTrainedTokenizerBase

from lib.run.fields import Params
from lib.run.params import FOLDER, no_such_file

WORDS = (8, 25)  # of a description; GUIDELINE.md
MERGE = FOLDER / "concepts" / "merge.yaml"
TOKENS = 77  # of CLIP's text tower, its two special tokens included
PAIRS = "confusable_pairs"  # key of a vocabulary file: pairs of labels that are hard to tell apart
# what no picture shows
UNSEEN = {
    "sound",
    "sounds",
    "noise",
    "noisy",
    "loud",
    "loudly",
    "hear",
    "heard",
    "hears",
    "silently",
    "aloud",
    "want",
    "wants",
    "wanting",
    "hope",
    "hopes",
    "hoping",
    "intends",
    "decides",
    "feels",
    "feeling",
    "enjoys",
    "happily",
}


class ConceptError(ValueError):
    """A vocabulary, prompt file or text that cannot be used; the message lists every problem found."""

    def __init__(self, subject: str | Path, problems: Sequence[str]):
        self.problems = list(problems)
        super().__init__(f"{subject}: {len(self.problems)} problem(s)\n" + "\n".join(f"  {p}" for p in self.problems))


@dataclass(frozen=True)
class Concept:
    """One action: its label in the data, the words put into a prompt, and descriptions of it."""

    label: str
    class_name: str
    descriptions: tuple[str, ...]
    action: str = ""  # what it is called across vocabularies (`merge.yaml`, else its class name)


def readable_name(label: str) -> str:
    """A label as words: "ApplyEyeMakeup" -> "apply eye makeup", "hurling (sport)" -> "hurling sport", "Holding a
    phone/camera" -> "holding a phone or camera"."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", label)
    words = re.sub(r"/e?s\b", "", words).replace("/", " or ")
    return " ".join(re.sub(r"[_()\[\]]", " ", words).lower().split())


# ---- files --------------------------------------------------------------------------------------------------------


def read_vocabulary(path: str | Path, *, num_descriptions: int) -> list[Concept]:
    """Reads a YAML file of `label: {class_name: text, descriptions: [text, ...]}`, in the order of the file.

    num_descriptions: how many descriptions every label must have at least. Raises `ConceptError`, which lists every
    problem with its line: a text that is empty or that YAML takes for something else (an unquoted yes, 1, null), a
    label or text used twice (in any case or spacing), a key that is missing or unknown, too few descriptions.
    """
    path, problems, concepts, seen = Path(path), [], [], {}
    for label_node, entry in _mapping(_compose(path), "the file", problems):
        if label_node.value == PAIRS:
            continue
        label = _text(label_node, "label", problems, seen)
        fields = dict.fromkeys(("class_name", "descriptions"))
        for key, value in _mapping(entry, f"label {label!r}", problems):
            name = str(key.value)
            if name not in fields:
                renamed = " (it is called 'class_name' now)" if name == "spoken" else ""
                problems.append(f"line {_line(key)}: label {label!r} has an unknown key {name!r}{renamed}")
            elif fields[name] is not None:
                problems.append(f"line {_line(key)}: label {label!r} has {name!r} twice")
            else:
                fields[name] = value
        missing = [name for name, value in fields.items() if value is None]
        problems.extend(f"line {_line(label_node)}: label {label!r} has no {name!r}" for name in missing)
        if missing:
            continue
        class_name = _text(fields["class_name"], "class_name", problems, seen)
        items = _sequence(fields["descriptions"], f"descriptions of {label!r}", problems)
        descriptions = tuple(_text(item, "description", problems, seen) for item in items)
        if len(descriptions) < num_descriptions:
            line = _line(fields["descriptions"])
            problems.append(f"line {line}: label {label!r} has {len(descriptions)} descriptions of {num_descriptions}")
        concepts.append(Concept(label, class_name, descriptions))
    labels = {concept.label for concept in concepts}
    problems.extend(f"{PAIRS}: {pair} is no pair of labels" for pair in read_confusable_pairs(path) if {*pair} - labels)
    if not concepts and not problems:
        problems.append("line 1: no labels")
    if problems:
        raise ConceptError(path, problems)
    return concepts


def read_confusable_pairs(path: str | Path) -> list[tuple[str, str]]:
    """The pairs of labels under the key `confusable_pairs` of a vocabulary file; none without that key."""
    problems, pairs = [], []
    for key, value in _mapping(_compose(Path(path)), "the file", problems):
        for item in _sequence(value, PAIRS, problems) if key.value == PAIRS else []:
            labels = [_text(label, "label", problems, {}) for label in _sequence(item, "a pair", problems)]
            if len(set(labels)) != 2 or len(labels) != 2:
                problems.append(f"line {_line(item)}: {PAIRS} must be pairs of two labels")
            pairs.append(tuple(labels))
    if problems:
        raise ConceptError(path, problems)
    return pairs


def read_prompts(path: str | Path) -> list[str]:
    """Reads a YAML file of `templates: [text, ...]`, each with '{}' exactly once, where the class name goes.

    Raises `ConceptError`, which lists every problem with its line.
    """
    path, problems, seen, templates = Path(path), [], {}, []
    entries = _mapping(_compose(path), "the file", problems)
    if not problems and [key.value for key, _ in entries] != ["templates"]:
        problems.append(f"the one key must be 'templates', not {[key.value for key, _ in entries]}")
    for _, value in entries:
        for item in _sequence(value, "templates", problems):
            templates.append(_text(item, "template", problems, seen))
            if templates[-1].count("{}") != 1:
                problems.append(f"line {_line(item)}: template {templates[-1]!r} must contain '{{}}' exactly once")
    if not templates and not problems:
        problems.append("line 1: no templates")
    if problems:
        raise ConceptError(path, problems)
    return templates


# The files are read as YAML's own nodes: these keep lines and repeated keys, which loading into a dict loses silently.


def _compose(path: Path) -> yaml.Node:
    try:
        node = yaml.compose(path.read_bytes(), Loader=yaml.CSafeLoader)
    except FileNotFoundError:
        raise ConceptError(path, [no_such_file(path).removeprefix(f"{path}: ")]) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConceptError(path, [str(error)]) from error
    if node is None:
        raise ConceptError(path, ["line 1: the file is empty"])
    return node


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _mapping(node: yaml.Node, what: str, problems: list[str]) -> list[tuple[yaml.Node, yaml.Node]]:
    if not isinstance(node, yaml.MappingNode):
        problems.append(f"line {_line(node)}: {what} must be a mapping of keys to values")
        return []
    return node.value


def _sequence(node: yaml.Node, what: str, problems: list[str]) -> list[yaml.Node]:
    if not isinstance(node, yaml.SequenceNode):
        problems.append(f"line {_line(node)}: {what} must be a list")
        return []
    return node.value


def _text(node: yaml.Node, kind: str, problems: list[str], seen: dict[tuple[str, str], int]) -> str:
    """A node's text; notes a problem if it is none, is empty or was `seen` before as the same kind of text."""
    if not isinstance(node, yaml.ScalarNode):
        problems.append(f"line {_line(node)}: the {kind} must be a text, not a list or mapping")
        return ""
    text = " ".join(node.value.split())
    if not text:
        problems.append(f"line {_line(node)}: the {kind} is empty")
    elif node.tag != "tag:yaml.org,2002:str":
        as_what = node.tag.rsplit(":", 1)[-1]
        problems.append(f"line {_line(node)}: the {kind} {text} is no text to YAML but a value ({as_what}): quote it")
    elif (kind, text.casefold()) in seen:
        problems.append(f"line {_line(node)}: the {kind} {text!r} stands already in line {seen[kind, text.casefold()]}")
    else:
        seen[kind, text.casefold()] = _line(node)
    return text


# ---- the guideline --------------------------------------------------------------------------------------------------


def guideline_problems(concepts: Sequence[Concept], tokenizer: PreTrainedTokenizerBase | None = None) -> list[str]:
    """What breaks those rules of GUIDELINE.md that can be counted, one line a problem.

    A description is one sentence from capital to full stop, of 8 to 25 words, of at most 77 of the tokenizer's tokens
    (if one is given), with at least five words that are not the label's, without words for what cannot be seen, and
    no two of a vocabulary begin with the same three words.
    """
    problems, openings = [], {}
    for concept in concepts:
        if len(concept.descriptions) != 4:
            problems.append(f"{concept.label}: {len(concept.descriptions)} descriptions instead of 4")
        name = set(_words(concept.class_name))
        for text in concept.descriptions:
            words, what = _words(text), f"{concept.label}: {text!r}"
            if not WORDS[0] <= len(text.split()) <= WORDS[1]:
                problems.append(f"{what} has {len(text.split())} words, not {WORDS[0]} to {WORDS[1]}")
            if not re.fullmatch(r"[A-Z0-9][^.!?]*\.", text) or not text.isprintable():
                problems.append(f"{what} is not one sentence from capital to full stop")
            if sum(word not in name for word in words) < 5:
                problems.append(f"{what} says little beyond the label")
            if unseen := sorted(UNSEEN & set(words)):
                problems.append(f"{what} speaks of what cannot be seen: {', '.join(unseen)}")
            if tokenizer and (length := len(tokenizer(text)["input_ids"])) > TOKENS:
                problems.append(f"{what} is {length} tokens long, of at most {TOKENS}")
            opening = " ".join(words[:3])
            if opening in openings:
                problems.append(f"{what} begins as one of {openings[opening]} does: {opening!r}")
            openings.setdefault(opening, concept.label)
    return problems


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:['-][^\W_]+)*", text.casefold())


# ---- the concepts of a run ------------------------------------------------------------------------------------------


def read_merge(path: Path = MERGE) -> dict[tuple[str, str], str]:
    """(vocabulary, label) -> the action that both it and labels of other vocabularies are.

    Raises `ConceptError` if an entry is no mapping of vocabularies to labels, or a label stands in two of them.
    """
    problems, actions = [], {}
    for action, entry in _mapping(_compose(path), "the file", problems):
        for vocabulary, label in _mapping(entry, f"action {action.value!r}", problems):
            key = (vocabulary.value, _text(label, "label", problems, {}))
            if key in actions:
                problems.append(f"line {_line(label)}: {key[1]!r} of {key[0]} is {actions[key]!r} already")
            actions[key] = action.value
    if problems:
        raise ConceptError(path, problems)
    return actions


def _vocabularies(params: Params, names: Sequence[str]) -> dict[str, list[Concept]]:
    """The files of these names, every concept with its action."""
    merge = read_merge()
    return {
        name: [
            replace(concept, action=merge.get((name, concept.label), concept.class_name.casefold()))
            for concept in read_vocabulary(
                FOLDER / "concepts" / f"{name}.yaml", num_descriptions=params.num_descriptions
            )
        ]
        for name in names
    }


def class_concepts(params: Params, classes: Sequence[str]) -> list[Concept]:
    """The concepts of a data set's classes, in their order, from the first of `class_vocabularies` that has them all.

    Raises ValueError if none has them all, `ConceptError` if a file is no good.
    """
    lacking = {}
    for name, concepts in _vocabularies(params, params.class_vocabularies).items():
        by_label = {concept.label: concept for concept in concepts}
        lacking[name] = [label for label in classes if label not in by_label]
        if not lacking[name]:
            return [by_label[label] for label in classes]
    nearest = min(lacking, key=lambda name: len(lacking[name]))
    raise ValueError(
        f"no vocabulary of {params.class_vocabularies} has all of the data set's classes; {FOLDER}/concepts/"
        f"{nearest}.yaml lacks {lacking[nearest]}: add them or choose another (`class_vocabularies`)"
    )


def read_concepts(params: Params, classes: Sequence[str]) -> list[Concept]:
    """The concepts that a run adapts in: those of all its vocabularies, each action once, as its first vocabulary has
    it; or of the data set's classes alone (`concept_labels`). Of these the ones named (`concept_names`), a random choice
    (`num_concepts`), with other texts (`concept_texts`).

    Raises ValueError for names or a number that there are not, `ConceptError` if a file is no good.
    """
    if params.concept_labels == "dataset":
        concepts = class_concepts(params, classes)
    else:
        every = {}
        for concept in (
            concept for concepts in _vocabularies(params, params.concepts).values() for concept in concepts
        ):
            every.setdefault(concept.action, concept)
        concepts = list(every.values())
    if unknown := set(params.concept_names) - {concept.label for concept in concepts}:
        raise ValueError(f"concept_names: no concepts {sorted(unknown)} in {params.concepts}")
    if params.concept_names:
        concepts = [concept for concept in concepts if concept.label in params.concept_names]
    if params.num_concepts > len(concepts):
        raise ValueError(f"num_concepts is {params.num_concepts}, but there are only {len(concepts)}")
    generator = np.random.default_rng(params.concept_seed)
    if params.num_concepts:
        chosen = np.sort(generator.permutation(len(concepts))[: params.num_concepts])
        concepts = [concepts[i] for i in chosen]
    if len(concepts) < 2:
        raise ValueError(
            f"a softmax needs two concepts or more, there is {[concept.label for concept in concepts]}: change "
            "concepts, concept_names or num_concepts"
        )
    if params.concept_texts == "shuffled":
        return shuffled(concepts, generator)
    return random_words(concepts, generator) if params.concept_texts == "random_words" else concepts


def shuffled(concepts: Sequence[Concept], generator: np.random.Generator) -> list[Concept]:
    """A control: every label with the descriptions of another one (a random cycle through all)."""
    order = generator.permutation(len(concepts))
    other = dict(zip(order.tolist(), np.roll(order, 1).tolist()))
    return [replace(concept, descriptions=concepts[other[i]].descriptions) for i, concept in enumerate(concepts)]


def random_words(concepts: Sequence[Concept], generator: np.random.Generator) -> list[Concept]:
    """A control: names and descriptions of as many words as before, each drawn from those of the whole vocabulary."""
    names = [word for concept in concepts for word in concept.class_name.split()]
    others = [word for concept in concepts for text in concept.descriptions for word in _words(text)]

    def drawn(words: list[str], text: str) -> str:
        return " ".join(generator.choice(words, size=len(text.split())).tolist())

    return [
        replace(
            concept,
            class_name=drawn(names, concept.class_name),
            descriptions=tuple(drawn(others, text) for text in concept.descriptions),
        )
        for concept in concepts
    ]
