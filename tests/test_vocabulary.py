import csv
import re

import layouts
import pytest

from lib.language.selection import class_concepts, read_concepts
from lib.language.vocabulary import (
    Concept,
    ConceptError,
    guideline_problems,
    prompt_texts,
    read_confusable_pairs,
    read_merge,
    read_prompts,
    read_vocabulary,
    readable_name,
)
from lib.run.params import FOLDER, load
from lib.run.random_clip import clip_tokenizer
from lib.world.definition import read_world

RENDERED = ["rendered_k", "rendered_u", "rendered_h"]
VOCABULARY = """\
JumpRope:
  class_name: jump rope
  descriptions: [feet leave the floor, a rope swings]
Lunges:
  class_name: lunges
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


def test_pairs_that_are_hard_to_tell_apart_stand_in_the_vocabulary(tmp_path):
    path = tmp_path / "vocabulary.yaml"
    path.write_text(VOCABULARY)
    assert read_confusable_pairs(path) == []
    path.write_text(VOCABULARY + "confusable_pairs: [[JumpRope, Lunges]]\n")
    assert (
        read_confusable_pairs(path) == [("JumpRope", "Lunges")] and len(read_vocabulary(path, num_descriptions=2)) == 2
    )
    path.write_text(VOCABULARY + "confusable_pairs: [[JumpRope, Squats]]\n")
    with pytest.raises(ConceptError, match="Squats.* is no pair of labels"):
        read_vocabulary(path, num_descriptions=2)
    path.write_text(VOCABULARY + "confusable_pairs: [[Lunges, Lunges], Squats]\n")
    with pytest.raises(ConceptError, match="(?s)line 11: .*pairs of two labels.*line 11: a pair must be a list"):
        read_vocabulary(path, num_descriptions=2)


def test_the_former_name_of_a_key_is_refused_with_the_new_one(tmp_path):
    path = tmp_path / "vocabulary.yaml"
    path.write_text(VOCABULARY.replace("class_name", "spoken"))
    with pytest.raises(ConceptError, match="line 2: label 'JumpRope' has an unknown key 'spoken'.*'class_name'"):
        read_vocabulary(path, num_descriptions=2)


def test_every_problem_of_a_vocabulary_is_listed_with_its_line(tmp_path):
    path = tmp_path / "vocabulary.yaml"
    path.write_text(
        "A:\n"
        "  class_name: yes\n"
        "  descriptions: [one, two]\n"
        "B:\n"
        "  class_name: ''\n"
        "  descriptions: [three, Three]\n"
        "A:\n"
        "  class_name: a\n"
        "  descriptions: [one, 5]\n"
        "C:\n"
        "  class_name: c\n"
        "  descriptions: [four]\n"
        "  extra: x\n"
        "D: {class_name: d}\n"
        "E: text\n"
        "no:\n"
        "  class_name: [f]\n"
        "  class_name: f\n"
        "  descriptions: six\n"
    )
    with pytest.raises(ConceptError) as caught:
        read_vocabulary(path, num_descriptions=2)
    assert str(path) in str(caught.value)
    assert caught.value.problems == [
        "line 2: the class_name yes is no text to YAML but a value (bool): quote it",
        "line 5: the class_name is empty",
        "line 6: the description 'Three' stands already in line 6",
        "line 7: the label 'A' stands already in line 1",
        "line 9: the description 'one' stands already in line 3",
        "line 9: the description 5 is no text to YAML but a value (int): quote it",
        "line 13: label 'C' has an unknown key 'extra'",
        "line 12: label 'C' has 1 descriptions of 2",
        "line 14: label 'D' has no 'descriptions'",
        "line 15: label 'E' must be a mapping of keys to values",
        "line 15: label 'E' has no 'class_name'",
        "line 15: label 'E' has no 'descriptions'",
        "line 16: the label no is no text to YAML but a value (bool): quote it",
        "line 18: label 'no' has 'class_name' twice",
        "line 17: the class_name must be a text, not a list or mapping",
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
    path.write_text("templates:\n- a photo\n- '{} and {}'\n- a {}\n- A  {}\n- {}\n- '{}: {descriptions}'\n")
    with pytest.raises(ConceptError) as caught:
        read_prompts(path)
    assert caught.value.problems == [
        "line 2: template 'a photo' must contain '{}' exactly once",
        "line 3: template '{} and {}' must contain '{}' exactly once",
        "line 5: the template 'A {}' stands already in line 4",
        "line 6: the template must be a text, not a list or mapping",
        "line 6: template '' must contain '{}' exactly once",
        "line 7: template '{}: {descriptions}' has ['{descriptions}']; known is {description}",
    ]


def test_a_template_with_a_description_is_a_text_for_each_of_the_first_ones():
    clap = Concept("Clap", "clap", ("Two hands meet.", "Palms are empty.", "Not read."))
    texts = prompt_texts(clap, ["{}", "{}. {description}", "a {}"], num_descriptions=2)
    assert texts == ["clap", "clap. Two hands meet.", "clap. Palms are empty.", "a clap"]
    for concept, count in ((clap, 4), (clap, 0), (Concept("Clap", "clap", ()), 0)):
        with pytest.raises(ValueError, match="Clap: the prompt '{}. {description}' needs descriptions; here are"):
            prompt_texts(concept, ["{}. {description}"], num_descriptions=count)


@pytest.mark.parametrize(
    "name, count",
    [("kinetics400", 400), ("kinetics600", 220), ("ucf101", 101), ("hmdb51", 51), ("ssv2", 174), ("embedded", 16)],
)
def test_every_shipped_vocabulary_is_whole_and_keeps_to_the_guideline(name, count):
    concepts = read_vocabulary(FOLDER / "concepts" / f"{name}.yaml", num_descriptions=4)
    assert len(concepts) == count and {len(concept.descriptions) for concept in concepts} == {4}
    words = [len(text.split()) for concept in concepts for text in concept.descriptions]
    assert 8 <= min(words) and max(words) <= 25


@pytest.mark.parametrize("name", ["kinetics400", "ucf101", "hmdb51", "ssv2"])
def test_vocabularies_have_the_labels_of_their_data_set_in_its_order(name):
    concepts = read_vocabulary(FOLDER / "concepts" / f"{name}.yaml", num_descriptions=4)
    assert [concept.label for concept in concepts] == layouts.class_names(name)


@pytest.mark.parametrize("name, count", [("rendered_k", 40), ("rendered_u", 20), ("rendered_h", 16)])
def test_rendered_vocabularies_have_the_classes_of_their_world_and_names_of_its_captions(name, count):
    concepts = read_vocabulary(FOLDER / "concepts" / f"{name}.yaml", num_descriptions=4)
    world = read_world("rendered")
    classes = world.classes(name)
    assert [concept.label for concept in concepts] == list(classes) and len(concepts) == count
    for concept in concepts:
        assert concept.class_name == readable_name(concept.label)
        phrases = world.actions[classes[concept.label]].phrases
        assert any(stems_match(concept.class_name, phrase) for phrase in phrases)
        pattern = re.compile("|".join(rf"\b{phrase}\b" for phrase in (concept.class_name, *phrases)))
        assert sum(bool(pattern.search(text.casefold())) for text in concept.descriptions) <= 1, concept


def stems_match(name, phrase):
    """Whether a phrase has every word of a name, in any form: "sit" in "sitting down"."""
    return all(any(word.startswith(stem) for word in phrase.split()) for stem in name.split())


def test_rendered_actions_that_only_time_tells_apart_are_pairs():
    pairs = {name: read_confusable_pairs(FOLDER / "concepts" / f"{name}.yaml") for name in RENDERED}
    assert [len(pairs[name]) for name in RENDERED] == [3, 0, 3]
    assert ("sitting down", "standing up") in pairs["rendered_k"] and ("walk", "walk_backwards") in pairs["rendered_h"]


RENAMED_IN_KINETICS600 = {
    "changing wheel (not on bike)",
    "cooking sausages (not on barbeque)",
    "dyeing hair",
    "hugging (not baby)",
    "inflating balloons",
    "making the bed",
    "opening bottle (not wine)",
    "passing american football (not in game)",
    "person collecting garbage",
    "throwing ball (not baseball or American football)",
    "tying necktie",
    "waking up",
}


def test_kinetics600_has_the_220_labels_that_are_new_against_kinetics400():
    former = RENAMED_IN_KINETICS600 | set(layouts.class_names("kinetics400"))
    new = [label for label in layouts.class_names("kinetics600") if label not in former]
    concepts = read_vocabulary(FOLDER / "concepts" / "kinetics600.yaml", num_descriptions=4)
    assert [concept.label for concept in concepts] == new and len(new) == 220


def test_kinetics600_has_every_label_of_the_zero_shot_splits(shared_data):
    with (shared_data / "splits" / "kinetics600_zero_shot.csv").open(encoding="utf-8", newline="") as file:
        labels = {row["label"] for row in csv.DictReader(file)}
    concepts = read_vocabulary(FOLDER / "concepts" / "kinetics600.yaml", num_descriptions=4)
    assert len(labels) == 217 and labels <= {concept.label for concept in concepts}


@pytest.mark.parametrize("name", ["kinetics600", "ssv2"])
def test_class_names_of_the_new_vocabularies_are_the_labels_as_words(name):
    for concept in read_vocabulary(FOLDER / "concepts" / f"{name}.yaml", num_descriptions=4):
        assert concept.class_name == readable_name(concept.label)


def test_reversed_templates_of_something_something_are_pairs_that_share_no_label():
    pairs = read_confusable_pairs(FOLDER / "concepts" / "ssv2.yaml")
    labels = [label for pair in pairs for label in pair]
    assert ("Closing something", "Opening something") in pairs and len(labels) == len(set(labels)) == 28


# ---- the guideline


def good(label="ride", first="Feet turn the pedals"):
    rest = "while both hands hold the bar and the street goes by."
    return Concept(
        label,
        label,
        (f"{first} {rest}", f"Two thin wheels roll {rest}", f"Along a road {rest}", f"Pedals turn here {rest}"),
    )


def test_a_vocabulary_that_keeps_to_the_guideline_has_no_problems():
    assert guideline_problems([good()]) == []


@pytest.mark.parametrize(
    "text, problem",
    [
        ("Feet turn pedals very fast.", "has 5 words, not 8 to 25"),
        ("Feet tread " + "and turn " * 20 + "again and again.", "has 45 words, not 8 to 25"),
        ("slowly feet turn the pedals while both hands hold the bar.", "is not one sentence from capital to full stop"),
        (
            "Slowly feet turn the pedals. Both hands hold the bar there.",
            "is not one sentence from capital to full stop",
        ),
        (
            "Slowly feet turn the pedals \x07 while both hands hold the bar.",
            "is not one sentence from capital to full stop",
        ),
        ("Ride a ride, ride and ride, then ride the ride.", "says little beyond the label"),
        ("Slowly feet turn the pedals while a loud noise comes from behind.", "what cannot be seen: loud, noise"),
        ("Two thin wheels lean still against the wall of a house.", "begins as one of ride does: 'two thin wheels'"),
    ],
)
def test_what_breaks_the_guideline_is_named(text, problem):
    concept = good()
    problems = guideline_problems([Concept("ride", "ride", (*concept.descriptions[:3], text))])
    assert len(problems) == 1 and problem in problems[0] and problems[0].startswith("ride: ")


def test_a_description_longer_than_clips_text_tower_is_named(clip_bpe):
    text = "Feet " + "antidisestablishmentarianism-" * 14 + "like pedals turn round and round on the wheel."
    problems = guideline_problems([Concept("ride", "ride", (*good().descriptions[:3], text))], clip_tokenizer(clip_bpe))
    assert len(problems) == 1 and "tokens long, of at most 77" in problems[0]


def test_too_few_descriptions_are_named():
    assert guideline_problems([Concept("ride", "ride", good().descriptions[:2])]) == [
        "ride: 2 descriptions instead of 4"
    ]


@pytest.mark.parametrize("name", ["kinetics400", "kinetics600", "ucf101", "hmdb51", "ssv2", "unrelated", *RENDERED])
def test_every_shipped_vocabulary_keeps_to_the_guideline(name):
    concepts = read_vocabulary(FOLDER / "concepts" / f"{name}.yaml", num_descriptions=4)
    assert guideline_problems(concepts) == []


@pytest.mark.parametrize("name", ["kinetics600", "ssv2"])
def test_the_new_vocabularies_fit_clips_text_tower(name, openai_bpe):
    concepts = read_vocabulary(FOLDER / "concepts" / f"{name}.yaml", num_descriptions=4)
    assert guideline_problems(concepts, clip_tokenizer(openai_bpe)) == []


# ---- merging, choosing, altering


THREE = ["kinetics400", "ucf101", "hmdb51"]


def test_the_merge_table_names_labels_that_there_are_and_joins_vocabularies():
    files = {
        name: read_vocabulary(FOLDER / "concepts" / f"{name}.yaml", num_descriptions=4) for name in THREE + RENDERED
    }
    known = {(name, concept.label) for name, concepts in files.items() for concept in concepts}
    merge = read_merge()
    assert set(merge) <= known
    of_action = {}
    for (vocabulary, _), action in merge.items():
        of_action.setdefault(action, []).append(vocabulary)
    assert all(len(names) == len(set(names)) >= 2 for names in of_action.values())


def test_a_label_that_is_two_actions_is_refused(tmp_path):
    path = tmp_path / "merge.yaml"
    path.write_text("push: {a: push up, b: PushUps}\npull: {a: push up}\n")
    with pytest.raises(ConceptError, match="line 2: 'push up' of a is 'push' already"):
        read_merge(path)


def test_an_action_of_several_vocabularies_appears_once_as_the_first_has_it():
    merged = read_concepts(load(profile="embedded", concepts=THREE), classes=[])
    assert len(merged) == 472 and len({concept.action for concept in merged}) == 472
    push = [concept for concept in merged if concept.action == "push up"]
    assert [concept.label for concept in push] == ["push up"]
    other_way = read_concepts(load(profile="embedded", concepts=THREE[::-1]), classes=[])
    assert [concept.label for concept in other_way if concept.action == "push up"] == ["pushup"]
    assert len(other_way) == 472
    # equal names merge without an entry
    assert len([concept for concept in merged if concept.class_name.casefold() == "fencing"]) == 1


def test_merged_rendered_vocabularies_are_the_actions_of_their_world():
    merged = read_concepts(load(profile="embedded", concepts=RENDERED), classes=[])
    world = read_world("rendered")
    action_of = {label: action for name in reversed(RENDERED) for label, action in world.classes(name).items()}
    assert [action_of[concept.label] for concept in merged] == list(world.actions) and len(merged) == 56
    assert guideline_problems(merged) == []


def test_concepts_of_the_data_sets_classes_follow_their_order_and_unknown_ones_are_named():
    params = load(profile="embedded", concept_labels="dataset")
    assert [c.label for c in read_concepts(params, ["wave", "clap"])] == ["wave", "clap"]
    assert len(read_concepts(load(profile="embedded"), [])) == 16
    with pytest.raises(ValueError, match=f"{FOLDER}.*'juggle'"):
        class_concepts(params, ["wave", "juggle"])


def test_concepts_are_chosen_by_name_or_by_a_seeded_draw():
    whole = [concept.label for concept in read_concepts(load(profile="embedded"), [])]

    def chosen(**overrides):
        return [concept.label for concept in read_concepts(load(profile="embedded", **overrides), [])]

    assert chosen(concept_names=["clap", "wave"]) == [label for label in whole if label in ("clap", "wave")]
    some = chosen(num_concepts=5)
    assert len(some) == 5 and some == [label for label in whole if label in some] == chosen(num_concepts=5)
    assert chosen(num_concepts=5, concept_seed=1) != some
    with pytest.raises(ValueError, match="num_concepts is 17, but there are only 16"):
        chosen(num_concepts=17)
    with pytest.raises(ValueError, match=r"no concepts \['juggle'\]"):
        chosen(concept_names=["juggle"])


def test_shuffled_descriptions_are_all_those_of_another_label():
    written = read_concepts(load(profile="embedded"), [])
    altered = read_concepts(load(profile="embedded", concept_texts="shuffled"), [])
    assert [c.class_name for c in altered] == [c.class_name for c in written]
    assert sorted(c.descriptions for c in altered) == sorted(c.descriptions for c in written)
    assert all(a.descriptions != w.descriptions for a, w in zip(altered, written))


def test_random_words_keep_the_number_of_words_and_come_from_the_vocabulary():
    written = read_concepts(load(profile="embedded"), [])
    altered = read_concepts(load(profile="embedded", concept_texts="random_words"), [])
    texts = " ".join(text for c in written for text in c.descriptions).casefold()
    for a, w in zip(altered, written, strict=True):
        assert a.label == w.label and len(a.class_name.split()) == len(w.class_name.split())
        assert [len(text.split()) for text in a.descriptions] == [len(text.split()) for text in w.descriptions]
        assert all(word in texts for text in a.descriptions for word in text.split())
    again = read_concepts(load(profile="embedded", concept_texts="random_words"), [])
    assert again == altered
