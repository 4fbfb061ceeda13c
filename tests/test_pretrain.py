import numpy as np
import torch
from transformers import AutoTokenizer, CLIPModel

from lib.world.definition import read_world
from lib.world.pretrain import caption, pretrain, stills, train_tokenizer

WORLD = read_world("embedded")
FACTS = {
    "action": "wave",
    "shirt": "red",
    "trousers": "blue",
    "scene": "park",
    "object": "",
    "view": "front",
    "postures": ["back upright", "one hand up"],
}


def captions(params, count=4000):
    return [caption(FACTS, WORLD, params, np.random.default_rng(i)) for i in range(count)]


def test_captions_name_the_action_as_often_and_as_rightly_as_asked(tiny):
    params = tiny(clip_action_named=0.6, clip_action_wrong=0.25)
    texts = captions(params)
    words = [f" {text} ".replace(",", " ") for text in texts]
    named = [
        [label for label, action in WORLD.actions.items() if any(f" {p} " in text for p in action.phrases)]
        for text in words
    ]
    share = sum(bool(labels) for labels in named) / len(texts)
    right = sum("wave" in labels for labels in named) / max(sum(bool(labels) for labels in named), 1)
    assert abs(share - 0.6) < 0.03 and abs(right - (0.75 + 0.25 / len(WORLD.actions))) < 0.03


def test_attributes_are_mostly_right(tiny):
    texts = captions(tiny(clip_attribute_named=0.5, clip_attribute_wrong=0.1))
    shirts = [text.split(" shirt")[0].split()[-1] for text in texts if " shirt" in text]
    assert abs(len(shirts) / len(texts) - 0.5) < 0.03
    assert abs(np.mean([colour == "red" for colour in shirts]) - (0.9 + 0.1 / 8)) < 0.03


def test_the_tokenizer_round_trips_any_text_and_ends_as_clip_expects():
    tokenizer = train_tokenizer(["a photo of a person waving", "a red shirt"] * 3, 600)
    assert len(tokenizer) <= 600
    for text in ("a photo of a person waving", "words never seen, naïve & 12!"):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
        assert tokenizer.eos_token_id not in ids[:-1]  # nothing is unknown
        assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")
    assert tokenizer.eos_token_id != 2  # which would switch Hugging Face's CLIP to its legacy pooling


def test_stills_are_balanced_when_held_out_and_skewed_for_training(tiny):
    params = tiny(workers=1, clip_stills=320, clip_action_skew=1.5)
    counts = {
        held_out: np.unique([f["action"] for f in stills(params, held_out=held_out)[1]], return_counts=True)[1]
        for held_out in (True, False)
    }
    assert set(counts[True]) == {2} and counts[False].max() > 4 * counts[False].min()


def test_the_checkpoint_is_an_ordinary_clip_and_the_same_for_a_seed(tiny, tmp_path):
    params = tiny(workers=1, clip=str(tmp_path / "clip"), clip_epochs=2)
    record = pretrain(params)
    assert 0 <= record["stills"]["top1"] <= record["stills"]["up_to_direction"] <= 100 and record["steps"] == 4
    model, tokenizer = CLIPModel.from_pretrained(tmp_path / "clip"), AutoTokenizer.from_pretrained(tmp_path / "clip")
    texts = tokenizer(["a person waving", "a person"], padding=True, return_tensors="pt")
    out = model(**texts, pixel_values=torch.zeros(1, 3, 24, 24))
    assert out.logits_per_image.shape == (1, 2)
    before = (tmp_path / "clip" / "model.safetensors").read_bytes()
    pretrain(params)
    assert (tmp_path / "clip" / "model.safetensors").read_bytes() == before
