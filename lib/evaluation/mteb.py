"""An adapted model on the video tasks of mteb (MVEB, the Massive Video Embedding Benchmark), by one command:

    python -m lib.evaluation.mteb outputs/paper/runs/lss/world0-seed0/teacher --tasks HMDB51Classification

mteb downloads a task's videos and samples their frames as for every other model; scores are written to `--output`.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from lib.backbone import VideoCLIP
from lib.evaluation.predict import load_model
from lib.run.files import file_hash, read_json
from lib.video.views import evaluation_views

BENCHMARK = "MVEB(text, video, v1)"
TASKS_OF = {"kinetics400": "Kinetics400", "ucf101": "UCF101", "hmdb51": "HMDB51", "ssv2": "SomethingSomethingV2"}


class VideoEncoder:
    """mteb's `EncoderProtocol` for videos, texts (long ones are cut), and both (the sum of their unit embeddings)."""

    def __init__(self, model: VideoCLIP, tokenizer: PreTrainedTokenizerBase, meta: Any, *, num_frames: int):
        self.model, self.tokenizer, self.mteb_model_meta, self.num_frames = model, tokenizer, meta, num_frames

    @torch.inference_mode()
    def encode(self, inputs: Iterable[dict[str, list]], **unused: Any) -> np.ndarray:
        """inputs: a DataLoader of batches with `video`, `text` or both. Returns 'n d', float32."""
        from mteb.models.modality_collators import FramesCollator

        columns, embed = inputs.dataset.features, {"video": self._videos, "text": self._texts}
        names = [name for name in embed if name in columns]
        if not names:
            raise ValueError(f"no videos or texts to encode, only {sorted(columns)}")
        if "video" in names:
            inputs.collate_fn = FramesCollator(num_frames=self.num_frames)
        rows = [sum(F.normalize(embed[name](batch[name]), dim=-1) for name in names) for batch in inputs]
        return torch.cat(rows).float().cpu().numpy()

    def _videos(self, videos: list[Tensor]) -> Tensor:
        """Frames 't c h w' uint8 of each video -> 'b d'; the centre crop, as in this repository's evaluation."""
        size, rows = self.model.config.vision_config.image_size, np.arange(self.num_frames)[None]
        pixels = [rearrange(frames, "t c h w -> t h w c").numpy() for frames in videos]
        views = [evaluation_views(frames, rows, crops=1, image_size=size) for frames in pixels]
        return self.model(torch.cat(views).to(self.model.device)).embedding

    def _texts(self, texts: list[str]) -> Tensor:
        length = min(self.model.config.text_config.max_position_embeddings, self.tokenizer.model_max_length)
        tokens = self.tokenizer(list(texts), truncation=True, max_length=length, padding=True, return_tensors="pt")
        return self.model.encode_text(**tokens.to(self.model.device))

    def similarity(self, first: Any, second: Any) -> Tensor:  # cosines 'n m'
        return F.normalize(torch.as_tensor(first), dim=-1) @ F.normalize(torch.as_tensor(second), dim=-1).T

    def similarity_pairwise(self, first: Any, second: Any) -> Tensor:
        return F.cosine_similarity(torch.as_tensor(first), torch.as_tensor(second), dim=-1)


def load_encoder(folder: Path, *, name: str, num_frames: int, device: str) -> VideoEncoder:
    """The model in `folder` (a run's teacher or student) with what mteb records of it.

    Tasks on the data set that the run adapted to are marked as trained on. Raises ImportError without mteb.
    """
    try:
        import mteb
        import torchcodec  # noqa: F401 (decodes mteb's videos)
    except ImportError as error:
        raise ImportError(f"{error}: install the extra: pip install -c constraints.txt -e '.[mteb]'") from error
    model, tokenizer = load_model(folder, device=device)
    record = folder.parent / "adapt.json"
    params = read_json(record)["params"] if record.exists() else {}
    prefix = TASKS_OF.get(params["dataset"]) if params.get("epochs") else None
    names = [task.metadata.name for task in mteb.get_tasks(modalities=["video"])] if prefix else []
    described = {
        "name": name,
        "revision": file_hash(folder / "model.safetensors")[:12],
        "loader_kwargs": {"num_frames": num_frames},
        "languages": ["eng-Latn"],
        "n_parameters": model.num_parameters(),
        "embed_dim": model.config.projection_dim,
        "framework": ["PyTorch"],
        "similarity_fn_name": mteb.models.model_meta.ScoringFunction.COSINE,
        "training_datasets": {task for task in names if task.startswith(prefix)} if params else None,
        "adapted_from": params.get("clip"),
        "modalities": ["text", "video"],
    }
    meta = mteb.models.ModelMeta.create_empty(overwrites=described)
    return VideoEncoder(model, tokenizer, meta, num_frames=num_frames)


def main(arguments: list[str] | None = None) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description="Scores an adapted model on video tasks of mteb.")
    parser.add_argument("folder", type=Path, help="a run's teacher or student")
    parser.add_argument("--tasks", nargs="*", help=f"names of mteb's tasks; without it, those of {BENCHMARK}")
    parser.add_argument("--name", default="local/lss", help="organisation/model, as it is to be listed")
    parser.add_argument("--num-frames", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=16, help="videos")
    parser.add_argument("--output", type=Path, default=Path("outputs/mteb"), help="folder of the scores")
    given = parser.parse_args(arguments)
    encoder = load_encoder(given.folder, name=given.name, num_frames=given.num_frames, device=device)
    import mteb

    tasks = mteb.get_tasks(tasks=given.tasks) if given.tasks else mteb.get_benchmark(BENCHMARK).tasks
    batches, cache = {"batch_size": given.batch_size}, mteb.ResultCache(given.output)
    result = mteb.evaluate(encoder, tasks, encode_kwargs=batches, cache=cache)
    print(*(f"{scores.task_name}: {scores.get_score():.4f}" for scores in result.task_results), sep="\n")


if __name__ == "__main__":
    main()
