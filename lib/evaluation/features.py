"""Features of every clip of a data set: one decoding pass and one forward pass serve all splits and protocols."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from einops import rearrange, reduce
from safetensors.numpy import load_file, save_file
from torch.nn import functional as F
from tqdm import tqdm

from lib.backbone import VideoCLIP
from lib.datasets.lists import Video, VideoList
from lib.datasets.loader import batches_of
from lib.datasets.samples import EvaluationViews
from lib.run.code import code_hash, commit
from lib.run.fields import Params
from lib.run.files import file_hash, read_json, whole_file, write_json
from lib.video.views import EvalView


class FeatureError(ValueError):
    """Features that are not finite, of a clip that was decoded: NaN stands for undecodable clips alone."""


class Features:
    """What `extract` found. A clip that cannot be decoded has a row of NaN, and its reason in `failed`, by path; raises
    FeatureError if any other row is not finite."""

    def __init__(self, paths: Sequence[str], arrays: dict[str, np.ndarray], failed: dict[str, str]):
        self.rows = {path: row for row, path in enumerate(paths)}
        self.arrays, self.failed = arrays, failed
        decoded = [row for path, row in self.rows.items() if path not in failed]
        for name, array in arrays.items():
            insist_on_finite(array[decoded], name, [paths[row] for row in decoded])

    def of(self, videos: VideoList, kind: str, views: Sequence[str], *, average: bool) -> np.ndarray:
        """The `kind` ("features" before the projection, "embedding" after it, L2-normalised) of a list's clips.

        Returns 'n v w' with all views of all entries of `views`; with `average` their mean, 'n 1 w'.
        """
        rows = [self.rows[str(video.path)] for video in videos.videos]
        every = np.concatenate([self.arrays[f"{view}/{kind}"][rows] for view in views], axis=1)
        return reduce(every, "n v w -> n 1 w", "mean") if average else every

    def failures(self, videos: VideoList) -> list[list[str]]:
        """Name and reason of every clip of a list that cannot be decoded."""
        return [[video.name, self.failed[str(video.path)]] for video in videos.videos if str(video.path) in self.failed]


def insist_on_finite(rows: np.ndarray, name: str, paths: Sequence[str]) -> None:
    """Raises FeatureError, with the first clip, if rows 'n v w' of the decoded clips `paths` are not finite."""
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=(1, 2)))
    if len(bad):
        raise FeatureError(
            f"{name} of {paths[bad[0]]} (and of {len(bad) - 1} more of {len(paths)} clips that were decoded) are not "
            "finite (NaN or infinite): set eval_precision to float32; if that is how it is, the weights are too "
            "large to compute with: take an earlier state of the model"
        )


@torch.inference_mode()
def extract(
    model: VideoCLIP,
    videos: Sequence[Video],
    view_names: Sequence[str],
    *,
    batch_size: int,
    precision: str,
    workers: int,
    loader_timeout: int,
    title: str,
) -> Features:
    """Decodes every video once and runs all its views through the model.

    view_names: as `EvalView.parse` reads them; precision: float32 or bfloat16; loader_timeout: seconds.
    """
    names = list(dict.fromkeys(view_names))
    views = [EvalView.parse(name) for name in names]
    sizes = {"features": model.config.vision_config.hidden_size, "embedding": model.config.projection_dim}
    arrays = {
        f"{name}/{kind}": np.full((len(videos), view.clips * view.crops, size), np.nan, np.float32)
        for name, view in zip(names, views)
        for kind, size in sizes.items()
    }
    failed, device = {}, model.device
    loading = batches_of(
        EvaluationViews(videos, views), workers=workers, loader_timeout=loader_timeout, batch_size=batch_size
    )
    with loading as batches, tqdm(total=len(videos), desc=f"features of {title}", unit="clip") as progress:
        for batch in batches:
            failed |= {str(videos[i].path): error.reason for i, error in batch.errors}
            for name, clips in zip(names, batch.views):
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                    output = model(rearrange(clips.to(device), "b v c t h w -> (b v) c t h w"))
                for kind, rows in (
                    ("features", output.features.float()),
                    ("embedding", F.normalize(output.embedding.float(), dim=-1)),
                ):
                    found = rearrange(rows, "(b v) w -> b v w", v=clips.shape[1]).cpu().numpy()
                    insist_on_finite(found, f"{name}/{kind}", [str(videos[i].path) for i in batch.indices])
                    arrays[f"{name}/{kind}"][batch.indices] = found
            progress.update(len(batch.indices) + len(batch.errors))
    return Features([str(video.path) for video in videos], arrays, failed)


def cached_features(params: Params, folder: Path, dataset: str, lists: Iterable[VideoList]) -> Features:
    """The features of all clips of some lists of a data set, or those found before by the same model, views and code in the
    same files.

    They lie under `folder/features`, those of other views beside them; a file that was changed since (its size or time)
    makes them anew. Those of other weights or other code go as new ones come.
    """
    videos = list({video.path: video for videos in lists for video in videos.videos}.values())
    paths = [str(video.path) for video in videos]
    files = [[path, (stat := Path(path).stat()).st_size, stat.st_mtime_ns] for path in paths]
    weights = " ".join(file_hash(path) for path in sorted((folder / params.evaluate_model).glob("*.safetensors")))
    made_by = {
        "weights": weights,
        "code": code_hash("evaluation.features"),
        "manifest": code_hash("video.manifest"),  # says which files are opened and how many frames they have
        "torch": torch.__version__,
        "av": version("av"),
    }
    settings = made_by | {
        "views": sorted({*params.zero_shot_views, *params.still_views, *params.probe_views}),
        "precision": params.eval_precision,
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    record = folder / "features" / f"{dataset}-{digest}.json"
    path = record.with_suffix(".safetensors")
    if record.exists() and (known := read_json(record))["files"] == files:
        return Features(paths, load_file(path), known["failed"])
    model = VideoCLIP.from_pretrained(str(folder / params.evaluate_model)).to(params.device).eval()
    found = extract(
        model,
        videos,
        [*params.zero_shot_views, *params.still_views, *params.probe_views],
        batch_size=params.eval_batch_size,
        precision=params.eval_precision,
        workers=params.workers,
        loader_timeout=params.loader_timeout,
        title=dataset,
    )
    record.parent.mkdir(exist_ok=True)
    for other in record.parent.glob(f"{dataset}-*.json"):
        if other == record or not made_by.items() <= read_json(other)["settings"].items():
            other.unlink()  # the record goes first and comes last: with it, the features are whole
            other.with_suffix(".safetensors").unlink(missing_ok=True)
    with whole_file(path, size=sum(array.nbytes for array in found.arrays.values())) as partial:
        save_file(found.arrays, partial)
    write_json(record, {"settings": settings, "commit": commit(), "files": files, "failed": found.failed})
    return found
