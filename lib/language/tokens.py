"""Texts as CLIP's text tower reads them."""

from collections.abc import Sequence

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from lib.language.vocabulary import ConceptError


def token_ids(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> list[list[int]]:
    """The tokens of texts, special ones included. config: of the text tower.

    Raises `ConceptError`, which lists every text that the model would not read whole and as written: longer than its
    text tower (special tokens counted), with words the tokenizer does not know, or with tokens foreign to the model.
    """
    limit = min(config.max_position_embeddings, tokenizer.model_max_length)
    tokens, problems = tokenizer(list(texts), truncation=False, verbose=False)["input_ids"], []
    for text, ids in zip(texts, tokens, strict=True):
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
    return tokens
