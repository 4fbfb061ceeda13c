"""What is kept of CLIP on stills, watched in training: how often teacher and image CLIP have the same first concept.

The stills are the middle frames of some training clips, decoded once. The image CLIP sees them once and is not kept.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lib.backbone import VideoCLIP, VideoTransformer
from lib.concepts import ConceptSpace
from lib.datasets.lists import Video
from lib.datasets.loader import batches_of
from lib.datasets.samples import EvaluationViews
from lib.run import distributed
from lib.run.clip_files import checkpoint_name
from lib.run.fields import Params
from lib.video.views import EvalView


class Stills:
    """Pictures in batches of 'b c 1 h w', and the image CLIP's first concept of each in the category space."""

    def __init__(self, batches: list[Tensor], space: ConceptSpace, image_clip: VideoTransformer):
        self.batches, self.space = batches, space
        self.expected = self._first_concepts(image_clip)

    def agreement(self, visual: VideoTransformer) -> float:
        """The share of the stills whose first concept is the image CLIP's."""
        return (self._first_concepts(visual) == self.expected).double().mean().item()

    @torch.no_grad()
    @torch.compiler.set_stance("force_eager")  # else blocks that training compiles are compiled for one frame too
    def _first_concepts(self, visual: VideoTransformer) -> Tensor:
        outputs = [visual([batch.to(self.space.vectors.device)])[0] for batch in self.batches]
        return torch.cat([self.space.logits(output.embedding, 1.0).argmax(dim=-1) for output in outputs])


def stills_of(params: Params, videos: Sequence[Video], space: ConceptSpace) -> Stills | None:
    """Stills of `drift_clips` clips at even distances in the list; None, with a message, if none can be decoded.

    Draws nothing from the run's random numbers.
    """
    count = min(params.drift_clips, len(videos))
    chosen = [videos[i * len(videos) // count] for i in range(count)]
    samples = EvaluationViews(chosen, [EvalView.parse(f"1x1x1@{params.image_size}")])
    loading = dict(workers=params.workers, loader_timeout=params.loader_timeout, batch_size=params.eval_batch_size)
    with torch.random.fork_rng(devices=[]), batches_of(samples, **loading) as batches:
        batches = list(batches)
    if failed := [chosen[i].name for batch in batches for i, _ in batch.errors]:
        distributed.say(f"agreement on stills is watched without {len(failed)} of {count} clips: {', '.join(failed)}")
    pictures = [view[:, 0] for batch in batches for view in batch.views]
    if not pictures:
        return None
    image_clip = VideoCLIP.from_image_clip(checkpoint_name(params.clip), temporal="none").visual
    return Stills(pictures, space, image_clip.to(space.vectors.device))
