import pytest

from lib.params import FOLDER, load
from lib.vocabulary import (
    Concept,
    ConceptError,
    class_concepts,
    file_hash,
    guideline_problems,
    read_concepts,
    read_merge,
    read_prompts,
    read_vocabulary,
)

VOCABULARY = """\
JumpRope:
  spoken: jump rope
  descriptions: [feet leave the floor, a rope swings]
Lunges:
  spoken: lunges
  descriptions:
    - one knee bends
    - >-
      the back leg
      is straight
"""


def test_a_vocabulary_is_read_in_its_order(tmp_path):
    path = tmp_path / "vocabulary.yaml"
    path.write_text(VOCABULARY)
    assert read_vocabulary(path, num_descriptions=2) == [
        Concept("JumpRope", "jump rope", ("feet leave the floor", "a rope swings")),
        Concept("Lunges", "lunges", ("one knee bends", "the back leg is straight")),
    ]


def test_every_problem_of_a_vocabulary_is_listed_with_its_line(tmp_path):
    path = tmp_path / "vocabulary.yaml"
    path.write_text(
        "A:\n"
        "  spoken: yes\n"
        "  descriptions: [one, two]\n"
        "B:\n"
        "  spoken: ''\n"
        "  descriptions: [three, Three]\n"
        "A:\n"
        "  spoken: a\n"
        "  descriptions: [one, 5]\n"
        "C:\n"
        "  spoken: c\n"
        "  descriptions: [four]\n"
        "  extra: x\n"
        "D: {spoken: d}\n"
        "E: text\n"
        "no:\n"
        "  spoken: [f]\n"
        "  spoken: f\n"
        "  descriptions: six\n"
    )
    with pytest.raises(ConceptError) as caught:
        read_vocabulary(path, num_descriptions=2)
    assert str(path) in str(caught.value)
    assert caught.value.problems == [
        "line 2: the spoken yes is no text to YAML but a value (bool): quote it",
        "line 5: the spoken is empty",
        "line 6: the description 'Three' stands already in line 6",
        "line 7: the label 'A' stands already in line 1",
        "line 9: the description 'one' stands already in line 3",
        "line 9: the description 5 is no text to YAML but a value (int): quote it",
        "line 13: label 'C' has an unknown key 'extra'",
        "line 12: label 'C' has 1 descriptions of 2",
        "line 14: label 'D' has no 'descriptions'",
        "line 15: label 'E' must be a mapping of keys to values",
        "line 15: label 'E' has no 'spoken'",
        "line 15: label 'E' has no 'descriptions'",
        "line 16: the label no is no text to YAML but a value (bool): quote it",
        "line 18: label 'no' has 'spoken' twice",
        "line 17: the spoken must be a text, not a list or mapping",
        "line 19: descriptions of 'no' must be a list",
        "line 19: label 'no' has 0 descriptions of 2",
    ]


@pytest.mark.parametrize("content", ["", "# nothing\n", "{}", "- A\n- B\n", "A: [", "? [a, b]\n: c\n"])
@pytest.mark.parametrize("read", [lambda path: read_vocabulary(path, num_descriptions=1), read_prompts])
def test_a_file_of_another_form_is_refused_by_name(tmp_path, content, read):
    path = tmp_path / "file.yaml"
    path.write_text(content)
    with pytest.raises(ConceptError, match="file.yaml"):
        read(path)


def test_an_absent_file_is_refused_by_name(tmp_path):
    with pytest.raises(ConceptError, match="absent.yaml"):
        read_vocabulary(tmp_path / "absent.yaml", num_descriptions=1)


def test_prompts_are_read_in_their_order(tmp_path):
    path = tmp_path / "prompts.yaml"
    path.write_text("templates:\n- a photo of {}.\n- '{}'\n")
    assert read_prompts(path) == ["a photo of {}.", "{}"]


def test_every_problem_of_a_prompt_file_is_listed_with_its_line(tmp_path):
    path = tmp_path / "prompts.yaml"
    path.write_text("templates:\n- a photo\n- '{} and {}'\n- a {}\n- A  {}\n- {}\n")
    with pytest.raises(ConceptError) as caught:
        read_prompts(path)
    assert caught.value.problems == [
        "line 2: template 'a photo' must contain '{}' exactly once",
        "line 3: template '{} and {}' must contain '{}' exactly once",
        "line 5: the template 'A {}' stands already in line 4",
        "line 6: the template must be a text, not a list or mapping",
        "line 6: template '' must contain '{}' exactly once",
    ]


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert file_hash(path) == "ba7816bf8f01"  # the SHA-256 standard's own example


@pytest.mark.parametrize("name, count", [("kinetics400", 400), ("ucf101", 101), ("hmdb51", 51), ("embedded", 16)])
def test_every_shipped_vocabulary_is_whole_and_keeps_to_the_guideline(name, count):
    concepts = read_vocabulary(FOLDER / "concepts" / f"{name}.yaml", num_descriptions=4)
    assert len(concepts) == count and {len(concept.descriptions) for concept in concepts} == {4}
    words = [len(text.split()) for concept in concepts for text in concept.descriptions]
    assert 8 <= min(words) and max(words) <= 25


@pytest.mark.parametrize("name", ["kinetics400", "ucf101", "hmdb51"])
def test_vocabularies_have_the_labels_of_their_data_set_in_its_order(shared_data, name):
    labels = (shared_data / "labels" / f"{name}.txt").read_text().splitlines()
    concepts = read_vocabulary(FOLDER / "concepts" / f"{name}.yaml", num_descriptions=4)
    assert [concept.label for concept in concepts] == [label for label in labels if label]
