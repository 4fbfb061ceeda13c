"""Vocabularies: actions with class names and descriptions; read, checked, merged, altered.

A vocabulary is a file `params/concepts/<name>.yaml` of `label: {class_name: text, descriptions: [text, ...]}`, written
after `GUIDELINE.md` beside it. `merge.yaml` says which labels of different vocabularies are the same action.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from transformers import PreTrainedTokenizerBase

from lib.run.params import FOLDER, no_such_file

WORDS = (8, 25)  # of a description; GUIDELINE.md
MERGE = FOLDER / "concepts" / "merge.yaml"
TOKENS = 77  # of CLIP's text tower, its two special tokens included
DESCRIPTION = "{description}"  # in a prompt template
PAIRS = "confusable_pairs"  # key of a vocabulary file: pairs of labels that are hard to tell apart
UNSEEN = set(  # what no picture shows
    "sound sounds noise noisy loud loudly hear heard hears silently aloud want wants wanting hope hopes hoping intends "
    "decides feels feeling enjoys happily".split()
)


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
    """A label as words: "ApplyEyeMakeup" -> "apply eye makeup", "phone/camera" -> "phone or camera"."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", label)
    words = re.sub(r"/e?s\b", "", words).replace("/", " or ")
    return " ".join(re.sub(r"[_()\[\]]", " ", words).lower().split())


# ---- files ----------------------------------------------------------------------------------------------------------


class _File:
    """A YAML file as nodes, which keep lines and repeated keys, and its problems."""

    def __init__(self, path: str | Path):
        self.path, self.problems = Path(path), []
        self.seen: dict[tuple[str, str], int] = {}  # (kind, text) -> line
        try:
            self.root = yaml.compose(self.path.read_bytes(), Loader=yaml.CSafeLoader)
        except FileNotFoundError:
            raise ConceptError(path, [no_such_file(self.path).removeprefix(f"{path}: ")]) from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConceptError(path, [str(error)]) from error
        if self.root is None:
            raise ConceptError(path, ["line 1: the file is empty"])

    def problem(self, node: yaml.Node, text: str) -> None:
        self.problems.append(f"line {node.start_mark.line + 1}: {text}")

    def check(self) -> None:
        """Raises ConceptError, which lists all problems, if there are any."""
        if self.problems:
            raise ConceptError(self.path, self.problems)

    def mapping(self, node: yaml.Node, subject: str = "the file") -> list[tuple[yaml.Node, yaml.Node]]:
        if isinstance(node, yaml.MappingNode):
            return node.value
        self.problem(node, f"{subject} must be a mapping of keys to values")
        return []

    def sequence(self, node: yaml.Node, subject: str) -> list[yaml.Node]:
        if isinstance(node, yaml.SequenceNode):
            return node.value
        self.problem(node, f"{subject} must be a list")
        return []

    def text(self, node: yaml.Node, kind: str, *, unique: bool = True) -> str:
        """A node's text; a problem if it is none, is empty, or (`unique`) repeats one of the same kind."""
        if not isinstance(node, yaml.ScalarNode):
            self.problem(node, f"the {kind} must be a text, not a list or mapping")
            return ""
        text = " ".join(node.value.split())
        key = kind, text.casefold()
        if not text:
            self.problem(node, f"the {kind} is empty")
        elif node.tag != "tag:yaml.org,2002:str":
            tag = node.tag.rsplit(":", 1)[-1]
            self.problem(node, f"the {kind} {text} is no text to YAML but a value ({tag}): quote it")
        elif unique and key in self.seen:
            self.problem(node, f"the {kind} {text!r} stands already in line {self.seen[key]}")
        else:
            self.seen[key] = node.start_mark.line + 1
        return text


def read_vocabulary(path: str | Path, *, num_descriptions: int) -> list[Concept]:
    """Reads a YAML file of `label: {class_name: text, descriptions: [text, ...]}`, in the order of the file.

    num_descriptions: the minimum of every label. Raises `ConceptError`, which lists every problem with its line: a text
    that is empty or that YAML reads as another type (an unquoted yes, 1, null), a label or text used twice (in any case
    or spacing), a missing or unknown key, too few descriptions.
    """
    file, concepts = _File(path), []
    for label_node, entry in file.mapping(file.root):
        if label_node.value == PAIRS:
            continue
        label, fields = file.text(label_node, "label"), {}
        for key, value in file.mapping(entry, f"label {label!r}"):
            if key.value not in ("class_name", "descriptions"):
                renamed = " (it is called 'class_name' now)" if key.value == "spoken" else ""
                file.problem(key, f"label {label!r} has an unknown key {key.value!r}{renamed}")
            elif key.value in fields:
                file.problem(key, f"label {label!r} has {key.value!r} twice")
            else:
                fields[key.value] = value
        for name in ("class_name", "descriptions"):
            if name not in fields:
                file.problem(label_node, f"label {label!r} has no {name!r}")
        if len(fields) < 2:
            continue
        class_name = file.text(fields["class_name"], "class_name")
        items = file.sequence(fields["descriptions"], f"descriptions of {label!r}")
        descriptions = tuple(file.text(item, "description") for item in items)
        if len(descriptions) < num_descriptions:
            count = f"{len(descriptions)} descriptions of {num_descriptions}"
            file.problem(fields["descriptions"], f"label {label!r} has {count}")
        concepts.append(Concept(label, class_name, descriptions))
    labels = {concept.label for concept in concepts}
    for pair in read_confusable_pairs(path):
        if not labels.issuperset(pair):
            file.problems.append(f"{PAIRS}: {pair} is no pair of labels")
    if not concepts and not file.problems:
        file.problem(file.root, "no labels")
    file.check()
    return concepts


def read_confusable_pairs(path: str | Path) -> list[tuple[str, str]]:
    """The pairs of labels under the key `confusable_pairs` of a vocabulary file; none without that key."""
    file, pairs = _File(path), []
    for key, value in file.mapping(file.root):
        for item in file.sequence(value, PAIRS) if key.value == PAIRS else []:
            labels = tuple(file.text(label, "label", unique=False) for label in file.sequence(item, "a pair"))
            if len(set(labels)) != 2 or len(labels) != 2:
                file.problem(item, f"{PAIRS} must be pairs of two labels")
            pairs.append(labels)
    file.check()
    return pairs


def read_prompts(path: str | Path) -> list[str]:
    """Reads a YAML file of `templates: [text, ...]`, each with '{}' exactly once, where the class name goes.

    A template may contain '{description}' too (`prompt_texts`). Raises `ConceptError`, which lists every problem with
    its line.
    """
    file, templates = _File(path), []
    entries = file.mapping(file.root)
    if not file.problems and [key.value for key, _ in entries] != ["templates"]:
        file.problems.append(f"the one key must be 'templates', not {[key.value for key, _ in entries]}")
    for _, value in entries:
        for item in file.sequence(value, "templates"):
            templates.append(file.text(item, "template"))
            if templates[-1].count("{}") != 1:
                file.problem(item, f"template {templates[-1]!r} must contain '{{}}' exactly once")
            elif other := set(re.findall(r"{\w+}", templates[-1])) - {DESCRIPTION}:
                file.problem(item, f"template {templates[-1]!r} has {sorted(other)}; known is {DESCRIPTION}")
    if not templates and not file.problems:
        file.problem(file.root, "no templates")
    file.check()
    return templates


def prompt_texts(concept: Concept, templates: Sequence[str], *, num_descriptions: int) -> list[str]:
    """The class name in every template; one with '{description}' gives a text for each of the first descriptions.

    Raises ValueError for a template that needs descriptions where there are too few.
    """
    texts = []
    for template in templates:
        text = template.replace("{}", concept.class_name)
        if DESCRIPTION not in template:
            texts.append(text)
            continue
        descriptions = concept.descriptions[:num_descriptions]
        if not descriptions or len(descriptions) < num_descriptions:
            count = f"{len(descriptions)} descriptions of {num_descriptions or 1}"
            raise ValueError(f"{concept.label}: the prompt {template!r} needs descriptions; here are {count}")
        texts += [text.replace(DESCRIPTION, description) for description in descriptions]
    return texts


def read_merge(path: Path = MERGE) -> dict[tuple[str, str], str]:
    """(vocabulary, label) -> the action that both it and labels of other vocabularies are.

    Raises `ConceptError` if an entry is no mapping of vocabularies to labels, or a label stands in two of them.
    """
    file, actions = _File(path), {}
    for action, entry in file.mapping(file.root):
        for vocabulary, node in file.mapping(entry, f"action {action.value!r}"):
            label = file.text(node, "label", unique=False)
            if (vocabulary.value, label) in actions:
                other = actions[vocabulary.value, label]
                file.problem(node, f"{label!r} of {vocabulary.value} is {other!r} already")
            actions[vocabulary.value, label] = action.value
    file.check()
    return actions


# ---- the guideline --------------------------------------------------------------------------------------------------


def guideline_problems(concepts: Sequence[Concept], tokenizer: PreTrainedTokenizerBase | None = None) -> list[str]:
    """Violations of those rules of GUIDELINE.md that a program can check, one line each.

    Four descriptions, each one sentence of 8 to 25 words and at most 77 of the tokenizer's tokens (if one is given),
    with five words or more beyond the label and none for what cannot be seen; no two begin with the same three words.
    """
    problems, openings = [], {}
    for concept in concepts:
        if len(concept.descriptions) != 4:
            problems.append(f"{concept.label}: {len(concept.descriptions)} descriptions instead of 4")
        name = set(words_of(concept.class_name))
        for text in concept.descriptions:
            words, where = words_of(text), f"{concept.label}: {text!r}"
            if not WORDS[0] <= len(text.split()) <= WORDS[1]:
                problems.append(f"{where} has {len(text.split())} words, not {WORDS[0]} to {WORDS[1]}")
            if not re.fullmatch(r"[A-Z0-9][^.!?]*\.", text) or not text.isprintable():
                problems.append(f"{where} is not one sentence from capital to full stop")
            if sum(word not in name for word in words) < 5:
                problems.append(f"{where} says little beyond the label")
            if unseen := sorted(UNSEEN & set(words)):
                problems.append(f"{where} speaks of what cannot be seen: {', '.join(unseen)}")
            if tokenizer and (length := len(tokenizer(text)["input_ids"])) > TOKENS:
                problems.append(f"{where} is {length} tokens long, of at most {TOKENS}")
            opening = " ".join(words[:3])
            if opening in openings:
                problems.append(f"{where} begins as one of {openings[opening]} does: {opening!r}")
            openings.setdefault(opening, concept.label)
    return problems


def words_of(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:['-][^\W_]+)*", text.casefold())
