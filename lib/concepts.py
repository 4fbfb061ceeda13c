"""Concept spaces: actions, and descriptions of actions, as directions given by CLIP's text tower.

A vocabulary names the actions, how each is spoken, and descriptions of it. Its texts become two frozen matrices `U`:
the category space (one row per label, from prompt templates) and the description space (from the descriptions, in the
same order of labels). A video's L2-normalised embedding z is projected as
p(z; temperature) = softmax(U z / temperature).

Tensors are named by einops axes: b videos, k labels, m rows of a label, d CLIP's joint space, n texts.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
import yaml
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from lib.backbone import VideoCLIP


class ConceptError(ValueError):
    """A vocabulary, prompt file or text that cannot be used; the message lists every problem found."""

    def __init__(self, subject: str | Path, problems: Sequence[str]):
        self.problems = list(problems)
        super().__init__(f"{subject}: {len(self.problems)} problem(s)\n" + "\n".join(f"  {p}" for p in self.problems))


@dataclass(frozen=True)
class Concept:
    """One action: its label in the data, the words put into a prompt, and descriptions of it."""

    label: str
    spoken: str
    descriptions: tuple[str, ...]


# ---- files --------------------------------------------------------------------------------------------------------


def read_vocabulary(path: str | Path, *, num_descriptions: int) -> list[Concept]:
    """Reads a YAML file of `label: {spoken: text, descriptions: [text, ...]}`, in the order of the file.

    num_descriptions: how many descriptions every label must have at least. Raises `ConceptError`, which lists every
    problem with its line: a text that is empty or that YAML takes for something else (an unquoted yes, 1, null), a
    label or text used twice (in any case or spacing), a key that is missing or unknown, too few descriptions.
    """
    path, problems, concepts, seen = Path(path), [], [], {}
    for label_node, entry in _mapping(_compose(path), "the file", problems):
        label = _text(label_node, "label", problems, seen)
        fields = dict.fromkeys(("spoken", "descriptions"))
        for key, value in _mapping(entry, f"label {label!r}", problems):
            name = str(key.value)
            if name not in fields:
                problems.append(f"line {_line(key)}: label {label!r} has an unknown key {name!r}")
            elif fields[name] is not None:
                problems.append(f"line {_line(key)}: label {label!r} has {name!r} twice")
            else:
                fields[name] = value
        missing = [name for name, value in fields.items() if value is None]
        problems.extend(f"line {_line(label_node)}: label {label!r} has no {name!r}" for name in missing)
        if missing:
            continue
        spoken = _text(fields["spoken"], "spoken", problems, seen)
        items = _sequence(fields["descriptions"], f"descriptions of {label!r}", problems)
        descriptions = tuple(_text(item, "description", problems, seen) for item in items)
        if len(descriptions) < num_descriptions:
            line = _line(fields["descriptions"])
            problems.append(f"line {line}: label {label!r} has {len(descriptions)} descriptions of {num_descriptions}")
        concepts.append(Concept(label, spoken, descriptions))
    if not concepts and not problems:
        problems.append("line 1: no labels")
    if problems:
        raise ConceptError(path, problems)
    return concepts


def read_prompts(path: str | Path) -> list[str]:
    """Reads a YAML file of `templates: [text, ...]`, each with '{}' exactly once, where the spoken action goes.

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


def file_hash(path: str | Path) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of a file, to stand beside the results made with it."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]


# The files are read as YAML's own nodes: these keep lines and repeated keys, which loading into a dict loses silently.


def _compose(path: Path) -> yaml.Node:
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
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


# ---- texts to directions -------------------------------------------------------------------------------------------


@torch.no_grad()
def encode_texts(
    model: VideoCLIP, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, batch_size: int = 256
) -> Tensor:
    """L2-normalised text embeddings 'n d', float32, on the model's device.

    Raises `ConceptError`, which lists every text that the model would not read whole and as written: longer than its
    text tower (special tokens counted), with words the tokenizer does not know, or with tokens foreign to the model.
    """
    config = model.config.text_config
    limit = min(config.max_position_embeddings, tokenizer.model_max_length)
    token_ids = tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
    problems = []
    for text, ids in zip(texts, token_ids, strict=True):
        # CLIP pools at the first end-of-text token; by convention (Hugging Face's), 2 stands for the highest id.
        end = max(ids) if config.eos_token_id == 2 else config.eos_token_id
        if len(ids) > limit:
            problems.append(f"{text!r} is {len(ids)} tokens long, of at most {limit}")
        elif max(ids) >= config.vocab_size:
            problems.append(f"{text!r} has token {max(ids)} of a model with {config.vocab_size}: wrong tokenizer")
        elif tokenizer.unk_token_id in ids[1:-1]:
            problems.append(f"{text!r} has words that the tokenizer does not know")
        elif end not in ids or ids.index(end) != len(ids) - 1:
            problems.append(f"{text!r} does not end in the model's end-of-text token {end}: wrong tokenizer")
    if problems:
        raise ConceptError("texts for the text tower", problems)

    embeddings = []
    for start in range(0, len(token_ids), batch_size):
        batch = tokenizer.pad({"input_ids": token_ids[start : start + batch_size]}, return_tensors="pt")
        embedding = model.encode_text(batch["input_ids"].to(model.device), batch["attention_mask"].to(model.device))
        embeddings.append(F.normalize(embedding.float(), dim=-1))
    return torch.cat(embeddings)


class ConceptSpace(nn.Module):
    """Frozen unit directions `vectors` '(k m) d', m = `rows_per_label` consecutive rows for each of the k `labels`."""

    vectors: Tensor

    def __init__(self, labels: Sequence[str], vectors: Tensor):
        super().__init__()
        if not labels or len(vectors) % len(labels):
            raise ValueError(f"{len(vectors)} directions cannot be shared out evenly among {len(labels)} labels")
        self.labels = tuple(labels)
        self.rows_per_label = len(vectors) // len(labels)
        self.register_buffer("vectors", vectors.detach().clone())

    def logits(self, embedding: Tensor, temperature: float) -> Tensor:
        """Embeddings 'b d' (of any length) -> logits 'b k' in float32, whose softmax is p(z; temperature).

        With several rows per label: logit_k = log sum_m exp(u_km . z / temperature). Its softmax over k is the softmax
        over all k m axes, summed within each label.
        """
        with torch.autocast(embedding.device.type, enabled=False):  # low temperatures magnify bfloat16's rounding
            scores = F.normalize(embedding.float(), dim=-1) @ self.vectors.T / temperature
        return rearrange(scores, "b (k m) -> b k m", m=self.rows_per_label).logsumexp(dim=-1)

    def directions(self) -> Tensor:
        """One unit direction per label 'k d': the rows themselves, or the normalised mean of a label's rows."""
        return F.normalize(reduce(self.vectors, "(k m) d -> k d", "mean", m=self.rows_per_label), dim=-1)


def category_space(
    model: VideoCLIP, tokenizer: PreTrainedTokenizerBase, concepts: Sequence[Concept], templates: Sequence[str]
) -> ConceptSpace:
    """Row k = L2(mean over templates of L2(text(template with spoken_k))): CLIP's prompt ensemble, 'k d'."""
    texts = [template.replace("{}", concept.spoken) for concept in concepts for template in templates]
    each = encode_texts(model, tokenizer, texts)
    rows = reduce(each, "(k m) d -> k d", "mean", m=len(templates))
    return ConceptSpace([concept.label for concept in concepts], F.normalize(rows, dim=-1))


def description_space(
    model: VideoCLIP,
    tokenizer: PreTrainedTokenizerBase,
    concepts: Sequence[Concept],
    *,
    num_descriptions: int,
    axes: str = "mean",
) -> ConceptSpace:
    """The first m = num_descriptions descriptions of every concept, in the order of `category_space`.

    axes "mean": row k = L2(mean over m of L2(text)), 'k d'; "each": every description its own row, '(k m) d'.
    """
    if axes not in ("mean", "each"):
        raise ValueError(f"axes must be 'mean' or 'each', not {axes!r}")
    few = [concept.label for concept in concepts if len(concept.descriptions) < num_descriptions]
    if few or num_descriptions < 1:
        raise ValueError(f"{num_descriptions} descriptions per label were asked for; too few of: {', '.join(few)}")
    texts = [text for concept in concepts for text in concept.descriptions[:num_descriptions]]
    rows = encode_texts(model, tokenizer, texts)
    if axes == "mean":
        rows = F.normalize(reduce(rows, "(k m) d -> k d", "mean", m=num_descriptions), dim=-1)
    return ConceptSpace([concept.label for concept in concepts], rows)


def random_space(like: ConceptSpace, *, seed: int) -> ConceptSpace:
    """The control: labels and shape of a space, but unit directions drawn evenly over the sphere."""
    drawn = torch.randn(like.vectors.shape, generator=torch.Generator().manual_seed(seed))
    return ConceptSpace(like.labels, F.normalize(drawn, dim=-1).to(like.vectors.device))


# ---- looking into spaces -------------------------------------------------------------------------------------------


def similarity(rows: ConceptSpace, columns: ConceptSpace) -> pd.DataFrame:
    """Cosines between the labels' directions of two spaces (or of one with itself), 'k k'."""
    cosines = rows.directions() @ columns.directions().T
    return pd.DataFrame(cosines.cpu().numpy(), index=list(rows.labels), columns=list(columns.labels))


def nearest_concepts(cosines: pd.DataFrame, *, count: int) -> pd.DataFrame:
    """For every row of a `similarity` table its `count` nearest other labels: label, rank (from 1), nearest, cosine."""
    found = []
    for label, row in cosines.iterrows():
        others = row.drop(label, errors="ignore").sort_values(ascending=False, kind="stable").head(count)
        found += [(label, rank, other, cosine) for rank, (other, cosine) in enumerate(others.items(), start=1)]
    return pd.DataFrame(found, columns=["label", "rank", "nearest", "cosine"])


def effective_rank(space: ConceptSpace) -> float:
    """How many directions a space really has: exp of the entropy of its normalised singular values.

    Roy and Vetterli, EUSIPCO 2007; of the labels' directions with their mean removed, since what all rows share adds
    the same to every logit and cancels in the softmax. Between 1 and k - 1.
    """
    directions = space.directions().double()
    values = torch.linalg.svdvals(directions - directions.mean(dim=0))
    share = values / values.sum()
    return torch.special.entr(share).sum().exp().item()
