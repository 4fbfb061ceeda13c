"""The generator of descriptions: a scripted writer for what is done with texts, a real (random) model for the
writing."""

import json

import nbformat
import papermill
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from lib.language.generate import (
    check_request,
    generate_vocabulary,
    language_model,
    parse_descriptions,
    prompt_for,
    write_vocabulary,
)
from lib.language.vocabulary import ConceptError, read_vocabulary
from lib.run.params import ROOT, load

LABELS = ["PettingCat", "petting dog", "feeding_birds"]
SETTINGS = {"writer": "scripted", "seed": 0, "attempts": 2, "batch_size": 2}


def answer(name: str) -> str:
    rest = "while the other hand lies still on the knee beside it."
    return (
        f"Here they are:\n1. For {name}, one palm strokes forward and back {rest}\n"
        f"2. With {name}, the fur bends {rest}\n"
        f"3) In {name}, a sofa stands in a room {rest}\n4: As {name} goes on, ears turn {rest}\n\nAction: more"
    )


def class_name_in(prompt: str) -> str:
    return prompt.rsplit("Action: ", 1)[1].strip()


@pytest.fixture
def script():
    """A writer that gives good answers, and the calls that it got."""
    calls = []

    def write(prompts, seed):
        calls.append(([class_name_in(prompt) for prompt in prompts], seed))
        return [answer(class_name_in(prompt)) for prompt in prompts]

    return write, calls


def test_a_prompt_has_the_guideline_examples_and_the_labels_it_may_be_taken_for():
    prompt = prompt_for("petting cat", ["petting dog", "feeding birds"])
    assert "Present tense, 8 to 25 words" in prompt and "Action: archery\n1. Standing sideways" in prompt
    assert "Other actions of the vocabulary: petting dog, feeding birds." in prompt
    assert prompt.endswith("Action: petting cat\n")


def test_numbered_lines_are_read_in_their_order_up_to_the_first_that_is_missing():
    assert parse_descriptions("Sure!\n1. One.\n 2) Two. \n3: Three.\n4. Four.\n5. Five.") == (
        "One.",
        "Two.",
        "Three.",
        "Four.",
    )
    assert parse_descriptions("1. One.\n3. Three.") == ("One.",)
    assert parse_descriptions("One. Two.") == ()


def test_a_good_writers_vocabulary_has_no_problems_and_can_be_read_back(script, tmp_path):
    write, calls = script
    concepts, problems = generate_vocabulary(LABELS, write, cache=tmp_path / "c.jsonl", **SETTINGS)
    assert problems == [] and [c.label for c in concepts] == LABELS
    assert [names for names, _ in calls] == [["petting cat", "petting dog"], ["feeding birds"]]
    path = tmp_path / "mine.yaml"
    write_vocabulary(path, concepts, origin="written by a script")
    assert read_vocabulary(path, num_descriptions=4) == concepts
    assert path.read_text().startswith("# written by a script\n")


def test_only_labels_with_problems_are_written_again_with_another_seed(tmp_path):
    calls = []

    def write(prompts, seed):
        calls.append(([class_name_in(prompt) for prompt in prompts], seed))
        first = len(calls) == 1
        return ["no list" if first and class_name_in(p) == "petting dog" else answer(class_name_in(p)) for p in prompts]

    concepts, problems = generate_vocabulary(LABELS, write, cache=tmp_path / "c.jsonl", **SETTINGS)
    assert problems == [] and calls[-1][0] == ["petting dog"] and len({seed for _, seed in calls}) == len(calls)


def test_what_stays_bad_is_reported_and_kept_apart(tmp_path):
    def write(prompts, seed):
        return ["1. Nonsense" for _ in prompts]

    concepts, problems = generate_vocabulary(LABELS, write, cache=tmp_path / "c.jsonl", **SETTINGS)
    for label in LABELS:
        assert f"{label}: 1 descriptions instead of 4" in problems
        assert any(problem.startswith(f"{label}: 'Nonsense' has 1 words") for problem in problems)


def test_an_interrupted_call_goes_on_and_a_repeated_one_writes_nothing(script, tmp_path):
    write, calls = script
    whole = generate_vocabulary(LABELS, write, cache=tmp_path / "whole.jsonl", **SETTINGS)

    def killed(prompts, seed):
        if "feeding birds" in prompts[0].rsplit("Action: ", 1)[1]:
            raise KeyboardInterrupt
        return write(prompts, seed)

    cache = tmp_path / "c.jsonl"
    with pytest.raises(KeyboardInterrupt):
        generate_vocabulary(LABELS, killed, cache=cache, **SETTINGS)
    before = len(calls)
    assert generate_vocabulary(LABELS, write, cache=cache, **SETTINGS) == whole
    assert [names for names, _ in calls[before:]] == [["feeding birds"]]
    assert generate_vocabulary(LABELS, write, cache=cache, **SETTINGS) == whole and len(calls) == before + 1
    assert len({json.loads(line)["key"] for line in cache.read_text().splitlines()}) == 3
    generate_vocabulary(LABELS, write, cache=cache, **SETTINGS | {"writer": "another"})
    assert len(calls) == before + 3


@pytest.mark.parametrize(
    "labels, problem",
    [
        (["wave"], "a vocabulary needs two labels or more"),
        (["wave", ""], "label '' is empty"),
        (["PushUps", "push_ups"], "label 'push_ups' stands there twice"),
    ],
)
def test_labels_that_are_empty_or_named_alike_are_refused(script, tmp_path, labels, problem):
    with pytest.raises(ConceptError, match=problem):
        generate_vocabulary(labels, script[0], cache=tmp_path / "c.jsonl", **SETTINGS)
    with pytest.raises(ConceptError, match=problem):
        check_request(tmp_path / "mine.yaml", labels, "a model")


def test_without_a_language_model_the_error_says_how_to_write_the_file_by_hand(tmp_path):
    path = tmp_path / "mine.yaml"
    with pytest.raises(ValueError) as caught:
        check_request(path, LABELS, "")
    message = str(caught.value)
    assert (
        "instruction-tuned causal language model, e.g. Qwen/Qwen2.5-7B-Instruct" in message
        and f"write {path} by hand" in message
    )
    shown = message[message.index('  "PettingCat"') : message.index("and read it")]
    path.write_text(shown.replace("[four sentences]", "[One., Two., Three., Four.]"))
    assert (
        read_vocabulary(path, num_descriptions=4)[0].class_name == "petting cat"
    )  # the form that it shows can be read
    assert load(profile="embedded", **json.loads(message.rsplit("overrides = ", 1)[1])).concepts == ["mine"]


def test_a_vocabulary_that_was_written_by_hand_is_not_replaced(script, tmp_path):
    path = tmp_path / "mine.yaml"
    concepts, _ = generate_vocabulary(LABELS, script[0], cache=tmp_path / "c.jsonl", **SETTINGS)
    write_vocabulary(path, concepts, origin="Written by a model")
    check_request(path, LABELS, "a model")
    path.write_text("# by me\n" + path.read_text())
    with pytest.raises(
        FileExistsError, match="mine.yaml is there, and no language model wrote it: choose another name"
    ):
        check_request(path, LABELS, "a model")


@pytest.mark.parametrize("name", ["models/of/nobody", "params"])
def test_what_is_no_language_model_is_one_line(name):
    with pytest.raises(
        ValueError, match=f"language_model: '{name}' is neither a folder .*/{name}. nor a hub id with a causal"
    ) as caught:
        language_model(name, revision="main", device="cpu", temperature=0.0, max_new_tokens=10)
    assert len(str(caught.value).splitlines()) == 1


@pytest.fixture(scope="module")
def random_model(tmp_path_factory):
    """A folder with a tiny random GPT-2 of single bytes."""
    folder = tmp_path_factory.mktemp("gpt2")
    letters = sorted(ByteLevel.alphabet())
    backend = Tokenizer(BPE(vocab={letter: i for i, letter in enumerate([*letters, "<end>"])}, merges=[]))
    backend.pre_tokenizer, backend.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>").save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=257, n_positions=8192, n_embd=16, n_layer=1, n_head=2, bos_token_id=256, eos_token_id=256
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return str(folder)


def test_a_random_language_model_writes_nonsense_and_the_check_says_so(random_model, tmp_path):
    options = {"revision": "main", "device": "cpu", "temperature": 1.0, "max_new_tokens": 40}
    write = language_model(random_model, **options)
    settings = SETTINGS | {"attempts": 1}
    concepts, problems = generate_vocabulary(LABELS, write, cache=tmp_path / "a.jsonl", **settings)
    assert all(any(problem.startswith(f"{label}: ") for problem in problems) for label in LABELS)
    again = language_model(random_model, **options)
    assert generate_vocabulary(LABELS, again, cache=tmp_path / "b.jsonl", **settings) == (concepts, problems)
    texts = [
        [json.loads(line)["text"] for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()] for name in "ab"
    ]
    assert texts[0] == texts[1] and len(set(texts[0])) == 3


def test_a_prompt_longer_than_the_models_context_is_an_error(random_model):
    write = language_model(random_model, revision="main", device="cpu", temperature=0.0, max_new_tokens=8000)
    with pytest.raises(ValueError, match="reads 8192 tokens, the prompt has"):
        write(["a prompt " * 100], 0)


def test_the_notebook_makes_a_vocabulary_from_its_parameters_alone(random_model, tmp_path):
    """A random model's nonsense ends in the list of problems; good answers, here taken from the cache of an earlier
    call, in a file and in the pictures of its spaces."""
    own = ROOT / "params" / "concepts" / "of_a_test.yaml"
    cache = ROOT / "outputs" / "concepts" / "of_a_test.jsonl"
    given = {
        "labels": LABELS,
        "vocabulary": "of_a_test",
        "language_model": random_model,
        "max_new_tokens": 20,
        "attempts": 1,
        "batch_size": 2,
    }

    def run():
        papermill.execute_notebook(
            ROOT / "notebooks" / "01_concepts.ipynb",
            tmp_path / "out.ipynb",
            given,
            kernel_name="python3",
            cwd=ROOT,
            progress_bar=False,
        )

    try:
        with pytest.raises(papermill.PapermillExecutionError, match="PettingCat: .* descriptions instead of 4"):
            run()
        assert not own.exists()
        cache.unlink()
        written_by = f"{random_model}@main, temperature 0.7, up to 20 tokens"
        good = lambda prompts, seed: [answer(class_name_in(prompt)) for prompt in prompts]  # noqa: E731
        generate_vocabulary(LABELS, good, cache=cache, **SETTINGS | {"writer": written_by, "attempts": 1})
        run()
        assert [concept.label for concept in read_vocabulary(own, num_descriptions=4)] == LABELS
        cells = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
        shown = "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))
        assert "3 concepts of of_a_test" in shown
        assert sum("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", [])) >= 2
    finally:
        own.unlink(missing_ok=True)
        cache.unlink(missing_ok=True)
        (ROOT / "outputs" / "embedded" / "concepts" / "of_a_test-world0.json").unlink(missing_ok=True)
