"""Checkpoints that cannot be used: each is one error with the folder, the file and what to do."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPModel

from lib.backbone import VideoCLIP
from lib.evaluation.predict import load_model
from lib.run.clip_files import load_tokenizer, normalisation
from lib.train import adapt

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 598641023\n"


@pytest.fixture
def clip(tiny, tmp_path) -> Path:
    """A folder with a whole image CLIP, to be damaged."""
    return Path(shutil.copytree(tiny().clip, tmp_path / "clip"))


def write(name, content):
    return lambda folder: (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def configure(**changes):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        for key, value in changes.items():
            config[key] = config[key] | value if isinstance(value, dict) else value
        write("config.json", config)(folder)

    return change


def to_bin(change=lambda weights: weights, **how):
    def save(folder):
        torch.save(change(load_file(folder / "model.safetensors")), folder / "pytorch_model.bin", **how)
        (folder / "model.safetensors").unlink()

    return save


def spoil(name, value, dtype=torch.float32):
    def change(folder):
        weights = {key: tensor.to(dtype) for key, tensor in load_file(folder / "model.safetensors").items()}
        weights[name].view(-1)[3:5] = value
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def shard(damage):
    def change(folder):
        CLIPModel.from_pretrained(folder).save_pretrained(folder, max_shard_size="50KB")
        (folder / "model.safetensors").unlink(missing_ok=True)
        damage(sorted(folder.glob("model-*.safetensors"))[1])

    return change


def processor(**settings):
    return write("preprocessor_config.json", {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} | settings)


FC1 = "vision_model.encoder.layers.0.mlp.fc1.weight"
BEYOND = 1e30  # what float16 cannot hold


@pytest.mark.parametrize(
    "damage, message",
    [
        # what a clone without Git LFS leaves
        *(
            (write(name, POINTER), f"{name} is a pointer of Git LFS.*git lfs pull")
            for name in (
                "model.safetensors",
                "config.json",
                "tokenizer.json",
                "tokenizer_config.json",
                "preprocessor_config.json",
            )
        ),
        (
            lambda folder: [remove("model.safetensors")(folder), write("pytorch_model.bin", POINTER)(folder)],
            r"pytorch_model\.bin is a pointer of Git LFS",
        ),
        (shard(lambda path: path.write_text(POINTER)), r"model-00002-of-\d+\.safetensors is a pointer of Git LFS"),
        # files that are absent or cut short
        (
            remove("model.safetensors"),
            r"no model\.safetensors and no pytorch_model\.bin, only .*tokenizer\.json.*copy it",
        ),
        (shard(Path.unlink), r"model-00002-of-\d+\.safetensors is absent: copy it"),
        (remove("tokenizer.json"), r"tokenizer's files are absent \(vocab\.json, merges\.txt\): copy tokenizer\.json"),
        (
            lambda folder: [remove("tokenizer.json")(folder), write("vocab.json", {"a": 0})(folder)],
            r"tokenizer's files are absent \(merges\.txt\)",
        ),
        (write("model.safetensors", ""), r"model\.safetensors \(0 bytes\) is cut short or damaged.*copy it"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9]),
            r"model\.safetensors \([\d,]+ bytes\) is cut short or damaged.*copy it",
        ),
        (
            shard(lambda path: path.write_bytes(path.read_bytes()[:200])),
            r"model-00002-of-\d+\.safetensors \(200 bytes\) is cut short",
        ),
        (
            lambda folder: [shard(lambda path: None)(folder), write("model.safetensors.index.json", {})(folder)],
            "has no weight_map",
        ),
        *(
            (write(name, content), f"{name} {what}.*copy it")
            for name in ("config.json", "tokenizer.json", "preprocessor_config.json")
            for content, what in (('{"model', "is no JSON or cut short"), ("[]", "holds a list, not a mapping"))
        ),
        (write("tokenizer.json", {}), r"tokenizer's files .*cannot be read"),
        # files of something else
        (configure(model_type="siglip"), "not a 'clip' checkpoint, its config.json has model_type 'siglip'"),
        (
            configure(projection_dim=20),
            r"projection_dim.*do not fit the weights: .*projection\.weight \(\(16, \d+\), by config\.json \(20, ",
        ),
        (configure(vision_config={"intermediate_size": 50}), r"do not fit the weights: .*fc1.*\(50, 24\)"),
        (
            configure(vision_config={"num_hidden_layers": 1}),
            r"has unknown \d+ weights: vision_model\.encoder\.layers\.1",
        ),
        (configure(vision_config={"num_hidden_layers": 3}), r"lacks \d+ weights: vision_model\.encoder\.layers\.2"),
        (
            configure(vision_config={"num_attention_heads": 7}),
            r"model\.safetensors, config\.json\): .*multiple of the number of attention heads",
        ),
        (
            configure(vision_config={"image_size": [24, 24]}),
            r"not a 'clip' checkpoint that can be read \(model\.safetensors, config\.json\)",
        ),
        (configure(text_config={"vocab_size": 100}), "do not fit the weights: .*token_embedding"),
        (
            to_bin(lambda weights: [1, 2]),
            r"not a 'clip' checkpoint that can be read \(pytorch_model\.bin, config\.json\)",
        ),
        (to_bin(lambda weights: {"state_dict": weights}), r"lacks \d+ weights"),
        (
            to_bin(lambda weights: weights | {"trap": Path("x")}),
            r"pytorch_model\.bin holds more than tensors.*save_file",
        ),
        # weights that are not finite
        *(
            (spoil(FC1, value, dtype), rf"model\.safetensors: weights are not finite .*{FC1} \(2 of 2,304\).*copy it")
            for value, dtype in (
                (float("nan"), torch.float32),
                (float("inf"), torch.float32),
                (-float("inf"), torch.float32),
                (BEYOND, torch.float16),
            )
        ),
        (spoil("text_model.final_layer_norm.bias", float("nan")), r"text_model\.final_layer_norm\.bias \(2 of 16\)"),
        # pictures that cannot be normalised
        *(
            (
                processor(**{key: value}),
                f"preprocessor_config.json: {key} is .*not three numbers.*Correct image_mean and image_std",
            )
            for key in ("image_mean", "image_std")
            for value in (None, 0.5, [0.5], [0.5, 0.5, "x"], [-1.0, 0.5, 0.5], [float("nan")] * 3)
        ),
        (processor(image_std=[0.0, 0.5, 0.5]), "image_std is .*above 0"),
        (processor(do_normalize=False), "preprocessor_config.json: do_normalize is False"),
        (processor(rescale_factor=1), "rescale_factor is 1"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_one_error_with_folder_file_and_remedy(clip, damage, message):
    damage(clip)
    with pytest.raises(ValueError, match=f"(?s){clip}.*{message}"):
        load_model(clip)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "preprocessor_config.json"])
def test_a_snapshot_of_the_hubs_cache_is_read_and_a_link_to_what_was_not_fetched_is_named(clip, name):
    processor()(clip)
    shutil.copytree(clip, blobs := clip.parent / "blobs")  # there: snapshots/<revision>/<name> -> ../../blobs/<hash>
    for path in clip.iterdir():
        path.unlink()
        path.symlink_to(f"../blobs/{path.name}")
    load_model(clip)
    (blobs / name).unlink()
    with pytest.raises(ValueError, match=rf"(?s){clip}.*{name}"):
        load_model(clip)


def test_a_file_of_weights_is_no_folder(clip):
    with pytest.raises(ValueError, match=r"model\.safetensors is a file: give the folder that holds it"):
        load_model(clip / "model.safetensors")
    remove("config.json")(clip)
    with pytest.raises(FileNotFoundError, match=rf"{clip}: no model, it has no config\.json; give the folder"):
        load_model(clip)
    with pytest.raises(ValueError, match=rf"{clip}: no folder or hub id with a readable config\.json: copy it"):
        VideoCLIP.from_image_clip(str(clip), temporal="none")


@pytest.mark.parametrize(
    "harmless",
    [
        to_bin(),
        to_bin(_use_new_zipfile_serialization=False),
        shard(lambda path: None),
        write("pytorch_model.bin", POINTER),
        remove("tokenizer_config.json"),
        write("preprocessor_config.json", {"do_resize": True}),
    ],
)
def test_a_checkpoint_whose_weights_and_tokenizer_are_whole_is_read(clip, tiny, harmless):
    harmless(clip)
    model, tokenizer = load_model(clip)
    whole = VideoCLIP.from_image_clip(tiny().clip, temporal="none").state_dict()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in model.state_dict().items())
    assert tokenizer("walking")["input_ids"] == AutoTokenizer.from_pretrained(tiny().clip)("walking")["input_ids"]


def test_a_tokenizer_of_another_text_tower_is_refused(clip, tiny):
    text = CLIPModel.from_pretrained(clip).config.text_config
    words = text.vocab_size
    assert len(load_tokenizer(clip, text)) == words
    text.vocab_size = words + 64  # rows to spare
    assert len(load_tokenizer(clip, text)) == words
    text.eos_token_id = 2  # as the hub has it, for "the last token": not this tokenizer's
    with pytest.raises(ValueError, match=f"{clip}: its tokenizer has {words} tokens, its text tower {words + 64}"):
        load_tokenizer(clip, text)
    text.vocab_size = words - 1
    with pytest.raises(ValueError, match="its tokenizer has"):
        load_tokenizer(clip, text)


def test_an_adapted_model_is_read_with_the_same_care(tiny, tmp_path):
    adapt(tiny("image_clip"), tmp_path)
    teacher = tmp_path / "teacher"
    weights = load_file(teacher / "model.safetensors")
    weights["visual.blocks.1.fc2.bias"][0] = float("nan")
    save_file(weights, teacher / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"{teacher}: model\.safetensors: .*visual\.blocks\.1\.fc2\.bias \(1 of 24\)"):
        load_model(teacher)
    configure(image_std=[0.5, 0.5, 0.0])(teacher)
    with pytest.raises(ValueError, match=f"{teacher}.*image_mean and image_std"):
        load_model(teacher)
    write("model.safetensors", POINTER)(teacher)
    with pytest.raises(ValueError, match="pointer of Git LFS"):
        load_model(teacher)


def test_pictures_are_normalised_as_the_file_says(clip):
    assert normalisation(str(clip)) == {}
    processor(do_normalize=True, rescale_factor=0.00392156862745098)(clip)
    assert normalisation(str(clip)) == {"image_mean": (0.5,) * 3, "image_std": (0.5,) * 3}
