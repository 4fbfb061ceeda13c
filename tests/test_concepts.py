import gzip
import math

import pandas as pd
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, CLIPTokenizer

from lib.backbone import VideoCLIP
from lib.concepts import (
    ConceptSpace,
    category_space,
    description_space,
    effective_rank,
    encode_texts,
    nearest_concepts,
    own_against_others,
    random_space,
    similarity,
)
from lib.language.vocabulary import Concept, ConceptError
from lib.run.random_clip import clip_tokenizer

CONCEPTS = [
    Concept("JumpRope", "jump rope", ("feet leave the floor", "a rope swings", "not read")),
    Concept("Lunges", "lunges", ("one knee bends", "the back leg is straight", "nor this")),
    Concept("Typing", "typing", ("fingers press keys", "hands stay low", "nor that")),
]
TEMPLATES = ["a photo of {}.", "{}", "a person doing {} here"]


@pytest.fixture(scope="module")
def model_and_tokenizer(tmp_path_factory):
    """A random CLIP with a tokenizer of single letters, both read back from one checkpoint folder."""
    folder = tmp_path_factory.mktemp("clip")
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[]).save_pretrained(folder)
    text = {
        "vocab_size": len(words),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 40,
        "bos_token_id": 512,
        "eos_token_id": 513,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "image_size": 16,
        "patch_size": 8,
    }
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in clip.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    clip.save_pretrained(folder)
    return VideoCLIP.from_image_clip(folder, temporal="none"), AutoTokenizer.from_pretrained(folder)


def one_text(model_and_tokenizer, text):
    model, tokenizer = model_and_tokenizer
    with torch.no_grad():
        return F.normalize(model.encode_text(tokenizer(text, return_tensors="pt")["input_ids"]), dim=-1)[0]


# ---- texts


def test_texts_become_unit_vectors_that_do_not_depend_on_their_batch(model_and_tokenizer):
    texts = ["a", "a longer text", "the longest of the texts"]
    embeddings = encode_texts(*model_and_tokenizer, texts)
    assert embeddings.dtype == torch.float32 and not embeddings.requires_grad
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(3))
    for text, embedding in zip(texts, embeddings, strict=True):
        torch.testing.assert_close(embedding, one_text(model_and_tokenizer, text), atol=1e-5, rtol=0)
    torch.testing.assert_close(encode_texts(*model_and_tokenizer, texts, batch_size=2), embeddings, atol=1e-5, rtol=0)


def test_a_text_that_just_fits_is_encoded_and_every_longer_one_is_listed(model_and_tokenizer):
    fits, long, longer = "x" * 38, "x" * 39, "y" * 100  # one token a letter, and two special tokens of 40
    assert encode_texts(*model_and_tokenizer, [fits]).shape == (1, 16)
    with pytest.raises(ConceptError) as caught:
        encode_texts(*model_and_tokenizer, [long, fits, longer])
    assert caught.value.problems == [
        f"{long!r} is 41 tokens long, of at most 40",
        f"{longer!r} is 102 tokens long, of at most 40",
    ]


def test_the_length_limit_of_the_tokenizer_counts_as_well(model_and_tokenizer, tmp_path):
    model, tokenizer = model_and_tokenizer
    tokenizer.save_pretrained(tmp_path)
    short = AutoTokenizer.from_pretrained(tmp_path, model_max_length=5)
    with pytest.raises(ConceptError, match="'abcd' is 6 tokens long, of at most 5"):
        encode_texts(model, short, ["abc", "abcd"])


def test_a_tokenizer_of_another_model_is_refused(model_and_tokenizer):
    model, _ = model_and_tokenizer
    special = {"<|startoftext|>": 10, "<|endoftext|>": 11}
    letters = {letter + end: i + 12 for i, (letter, end) in enumerate((c, e) for c in "ab" for e in ("", "</w>"))}
    with pytest.raises(ConceptError, match="'ab' does not end in the model's end-of-text token 513"):
        encode_texts(model, CLIPTokenizer(vocab=special | letters, merges=[]), ["ab"])
    larger = {word: i + 600 for word, i in (special | letters).items()}
    with pytest.raises(ConceptError, match="'ab' has token 6.. of a model with 514: wrong tokenizer"):
        encode_texts(model, CLIPTokenizer(vocab=larger, merges=[]), ["ab"])
    few = {"<|startoftext|>": 512, "<|endoftext|>": 513, "a": 1, "a</w>": 2}
    with pytest.raises(ConceptError, match="'ab a' has words that the tokenizer does not know"):
        encode_texts(model, CLIPTokenizer(vocab=few, merges=[]), ["ab a"])


def test_a_tokenizer_of_the_hubs_form_counts_tokens_as_openai_does(clip_bpe, model_and_tokenizer, tmp_path):
    with gzip.open(clip_bpe, "rt", encoding="utf-8") as file:
        merges = [tuple(line.split()) for line in file.read().split("\n")[1 : 49152 - 256 - 2 + 1]]
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(i) for i in visible] + [chr(256 + i) for i in range(256 - len(visible))]
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=merges).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("a photo of a cat")["input_ids"]
    assert ids == clip_tokenizer(clip_bpe)("a photo of a cat")["input_ids"]
    assert [words[i] for i in ids] == [
        "<|startoftext|>",
        "a</w>",
        "photo</w>",
        "of</w>",
        "a</w>",
        "cat</w>",
        "<|endoftext|>",
    ]
    assert (ids[0], ids[1], ids[-1]) == (49406, 320, 49407)  # whatever the merges are
    with pytest.raises(ConceptError, match="has token 49407 of a model with 514: wrong tokenizer"):
        encode_texts(model_and_tokenizer[0], tokenizer, ["a photo of a cat"])
    with pytest.raises(ConceptError, match="is 42 tokens long, of at most 40"):
        encode_texts(model_and_tokenizer[0], tokenizer, [" ".join(["cat"] * 40)])


# ---- spaces


def test_a_category_row_is_the_normalised_mean_of_its_normalised_prompts(model_and_tokenizer):
    space = category_space(*model_and_tokenizer, CONCEPTS, TEMPLATES)
    assert space.labels == ("JumpRope", "Lunges", "Typing") and space.vectors.shape == (3, 16)
    texts = ["a photo of lunges.", "lunges", "a person doing lunges here"]
    expected = F.normalize(sum(one_text(model_and_tokenizer, text) for text in texts) / 3, dim=-1)
    torch.testing.assert_close(space.vectors[1], expected, atol=1e-5, rtol=0)


def test_a_row_of_rephrased_class_names_is_the_mean_over_the_descriptions(model_and_tokenizer):
    """Beside the name alone: neither the category row nor the description row, nor the mean of both."""
    templates = ["{}: {description}"]
    space = category_space(*model_and_tokenizer, CONCEPTS, templates, num_descriptions=2)
    texts = ["lunges: one knee bends", "lunges: the back leg is straight"]
    expected = F.normalize(sum(one_text(model_and_tokenizer, text) for text in texts) / 2, dim=-1)
    torch.testing.assert_close(space.vectors[1], expected, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="JumpRope: the prompt .* needs descriptions"):
        category_space(*model_and_tokenizer, CONCEPTS, templates)


def test_a_description_row_is_the_normalised_mean_of_its_first_descriptions(model_and_tokenizer):
    space = description_space(*model_and_tokenizer, CONCEPTS, num_descriptions=2)
    first, second = (one_text(model_and_tokenizer, text) for text in CONCEPTS[2].descriptions[:2])
    torch.testing.assert_close(space.vectors[2], F.normalize(first + second, dim=-1), atol=1e-5, rtol=0)
    assert space.labels == category_space(*model_and_tokenizer, CONCEPTS, TEMPLATES).labels


def test_descriptions_can_be_axes_of_their_own(model_and_tokenizer):
    space = description_space(*model_and_tokenizer, CONCEPTS, num_descriptions=2, axes="each")
    assert space.vectors.shape == (6, 16) and space.rows_per_label == 2
    expected = one_text(model_and_tokenizer, CONCEPTS[1].descriptions[1])
    torch.testing.assert_close(space.vectors[3], expected, atol=1e-5, rtol=0)


def test_more_descriptions_than_there_are_or_an_unknown_kind_of_axes_are_refused(model_and_tokenizer):
    with pytest.raises(ValueError, match="4 descriptions per label were asked for; too few of: JumpRope, Lunges"):
        description_space(*model_and_tokenizer, CONCEPTS, num_descriptions=4)
    with pytest.raises(ValueError, match="'mean' or 'each', not 'sum'"):
        description_space(*model_and_tokenizer, CONCEPTS, num_descriptions=1, axes="sum")


def test_logits_are_cosines_over_the_temperature():
    space = ConceptSpace(["x", "diagonal"], torch.tensor([[1.0, 0.0], [0.6, 0.8]]))
    logits = space.logits(torch.tensor([[3.0, 4.0], [0.0, -2.0]], dtype=torch.bfloat16), 0.1)
    torch.testing.assert_close(logits, torch.tensor([[6.0, 10.0], [0.0, -8.0]]))


def test_logits_stay_in_float32_under_autocast():
    space = ConceptSpace(["x", "diagonal"], torch.tensor([[1.0, 0.0], [0.6, 0.8]]))
    embedding = torch.tensor([[0.301, 0.4]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(space.logits(embedding, 0.01), space.logits(embedding, 0.01).float())
        inside = space.logits(embedding, 0.01)
    assert torch.equal(inside, space.logits(embedding, 0.01))


def test_with_several_axes_a_labels_probability_is_the_sum_over_its_axes():
    vectors = F.normalize(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), dim=-1)
    space = ConceptSpace(["a", "b", "c"], vectors)
    z = F.normalize(torch.randn(4, 5, generator=torch.Generator().manual_seed(1)), dim=-1)
    every_axis = (z @ vectors.T / 0.1).softmax(dim=-1)
    expected = torch.stack([every_axis[:, 2 * k] + every_axis[:, 2 * k + 1] for k in range(3)], dim=-1)
    torch.testing.assert_close(space.logits(z, 0.1).softmax(dim=-1), expected)
    by_hand = math.log(math.exp(z[0] @ vectors[2] / 0.1) + math.exp(z[0] @ vectors[3] / 0.1))
    assert space.logits(z, 0.1)[0, 1].item() == pytest.approx(by_hand, rel=1e-5)


def test_a_space_is_frozen_and_part_of_the_state():
    source = torch.eye(3, requires_grad=True)
    space = ConceptSpace(["a", "b", "c"], source)
    embedding = torch.ones(2, 3, requires_grad=True)
    space.logits(embedding, 0.1)[:, 0].sum().backward()
    assert embedding.grad is not None and source.grad is None
    assert list(space.parameters()) == [] and list(space.state_dict()) == ["vectors"]


def test_a_random_space_has_the_shape_of_another_and_depends_on_its_seed_alone():
    like = ConceptSpace(["a", "b"], F.normalize(torch.ones(4, 200), dim=-1))
    space = random_space(like, seed=3)
    assert space.labels == like.labels and space.rows_per_label == 2 and space.vectors.shape == (4, 200)
    torch.testing.assert_close(space.vectors.norm(dim=-1), torch.ones(4))
    assert (space.vectors @ space.vectors.T - torch.eye(4)).abs().max() < 0.3
    assert torch.equal(space.vectors, random_space(like, seed=3).vectors)
    assert not torch.equal(space.vectors, random_space(like, seed=4).vectors)


def test_directions_that_cannot_be_shared_out_among_labels_are_refused():
    with pytest.raises(ValueError, match="3 directions cannot be shared out evenly among 2 labels"):
        ConceptSpace(["a", "b"], torch.eye(3))


# ---- looking into spaces


def test_similarity_and_nearest_concepts_within_and_between_spaces():
    one = ConceptSpace(["a", "b", "c"], torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]))
    two = ConceptSpace(["a", "b", "c"], torch.tensor([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0]]))
    within = similarity(one, one)
    assert within.loc["a", "b"] == pytest.approx(0.8) and within.loc["b", "c"] == pytest.approx(0.6)
    assert similarity(one, two).loc["b", "a"] == pytest.approx(0.6)
    nearest = nearest_concepts(within, count=1)
    rows = [("a", 1, "b", 0.8), ("b", 1, "a", 0.8), ("c", 1, "b", 0.6)]
    expected = pd.DataFrame(rows, columns=["label", "rank", "nearest", "cosine"])
    pd.testing.assert_frame_equal(nearest, expected, check_dtype=False)


def test_similarity_of_labels_with_several_axes_uses_their_mean_direction():
    space = ConceptSpace(["a", "b"], torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]))
    assert similarity(space, space).loc["a", "b"] == pytest.approx(math.sqrt(0.5))


def test_a_label_is_found_if_no_other_action_is_nearer():
    names = ConceptSpace(["a", "b", "c"], torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]))
    texts = ConceptSpace(["a", "b", "c"], torch.tensor([[0.96, 0.28], [1.0, 0.0], [0.6, 0.8]]))
    found = own_against_others(similarity(texts, names), actions=["a", "b", "c"])
    rows = [("a", 0.96, "b", 0.936, True), ("b", 0.8, "a", 1.0, False), ("c", 0.8, "b", 0.96, False)]
    pd.testing.assert_frame_equal(
        found, pd.DataFrame(rows, columns=["label", "own", "nearest", "cosine", "right"]), check_dtype=False, atol=1e-6
    )
    same = own_against_others(similarity(texts, names), actions=["x", "x", "c"])  # b's own is not beaten by its synonym
    assert same["right"].tolist() == [True, True, False] and same["nearest"].tolist() == ["c", "c", "b"]


def test_the_effective_rank_counts_directions_apart_from_what_all_share():
    assert effective_rank(ConceptSpace(list("abcd"), torch.eye(4))) == pytest.approx(3)  # a simplex of three dimensions
    shared = F.normalize(torch.cat([torch.full((4, 1), 5.0), torch.eye(4)], dim=1), dim=-1)
    assert effective_rank(ConceptSpace(list("abcd"), shared)) == pytest.approx(3, abs=1e-4)
    line = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), dim=-1)
    assert effective_rank(ConceptSpace(list("abcd"), line)) == pytest.approx(1)
