"""The concepts of a run: those of its vocabularies, each action once, chosen and altered as its parameters say."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lib.language.vocabulary import Concept, read_merge, read_vocabulary, words_of
from lib.run.fields import Params
from lib.run.params import FOLDER


def _vocabulary(params: Params, name: str) -> list[Concept]:
    """The concepts of one file, each with its action."""
    merge = read_merge()
    concepts = read_vocabulary(FOLDER / "concepts" / f"{name}.yaml", num_descriptions=params.num_descriptions)
    return [replace(c, action=merge.get((name, c.label), c.class_name.casefold())) for c in concepts]


def class_concepts(params: Params, classes: Sequence[str]) -> list[Concept]:
    """The concepts of a data set's classes, in their order, from the first of `label_vocabularies` that has them all.

    Raises ValueError if none has them all, `ConceptError` for an invalid file.
    """
    lacking = {}
    for name in params.label_vocabularies:
        by_label = {concept.label: concept for concept in _vocabulary(params, name)}
        lacking[name] = [label for label in classes if label not in by_label]
        if not lacking[name]:
            return [by_label[label] for label in classes]
    nearest = min(lacking, key=lambda name: len(lacking[name]))
    raise ValueError(
        f"no vocabulary of {params.label_vocabularies} has all of the data set's classes; {FOLDER}/concepts/"
        f"{nearest}.yaml lacks {lacking[nearest]}: add them or choose another (`class_vocabularies`)"
    )


def seen_classes(params: Params, concepts: Sequence[Concept]) -> set[str]:
    """The labels of those concepts whose actions the data set has that a run adapts to, by its vocabulary; of others
    the run may know the name, but has seen no videos. Empty if that data set has no vocabulary of its own."""
    if not (FOLDER / "concepts" / f"{params.dataset}.yaml").exists():
        return set()
    actions = {concept.action for concept in _vocabulary(params, params.dataset)}
    return {concept.label for concept in concepts if concept.action in actions}


def read_concepts(params: Params, classes: Sequence[str]) -> list[Concept]:
    """The concepts that a run adapts in.

    Those of all its vocabularies, each action once, or of the data set's classes alone (`concept_labels`). Of these the
    ones named (`concept_names`), a random choice (`num_concepts`), with other texts (`concept_texts`). Raises
    ValueError for unknown names or too large a number, `ConceptError` for an invalid file.
    """
    if params.concept_labels == "dataset":
        concepts = class_concepts(params, classes)
    else:
        by_action: dict[str, Concept] = {}
        for name in params.concepts:
            for concept in _vocabulary(params, name):
                by_action.setdefault(concept.action, concept)
        concepts = list(by_action.values())
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
        labels = [concept.label for concept in concepts]
        raise ValueError(f"a softmax needs two concepts or more, not {labels}: change concepts or num_concepts")
    alter = {"shuffled": shuffled, "random_words": random_words}.get(params.concept_texts)
    return alter(concepts, generator) if alter else concepts


def shuffled(concepts: Sequence[Concept], generator: np.random.Generator) -> list[Concept]:
    """A control: every label with the descriptions of another one (a random cycle through all)."""
    order = generator.permutation(len(concepts)).tolist()
    other = dict(zip(order, order[-1:] + order[:-1]))
    return [replace(concept, descriptions=concepts[other[i]].descriptions) for i, concept in enumerate(concepts)]


def random_words(concepts: Sequence[Concept], generator: np.random.Generator) -> list[Concept]:
    """A control: names and descriptions of as many words as before, each drawn from those of the whole vocabulary."""
    names = [word for concept in concepts for word in concept.class_name.split()]
    others = [word for concept in concepts for text in concept.descriptions for word in words_of(text)]

    def draw(words: list[str], text: str) -> str:
        return " ".join(generator.choice(words, size=len(text.split())).tolist())

    altered = []
    for concept in concepts:
        name = draw(names, concept.class_name)
        texts = tuple(draw(others, text) for text in concept.descriptions)
        altered.append(replace(concept, class_name=name, descriptions=texts))
    return altered
