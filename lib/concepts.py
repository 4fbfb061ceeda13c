"""Concept spaces: actions, and descriptions of actions, as directions given by CLIP's text tower.

The texts of a vocabulary become two frozen matrices `U`: the category space (one row per label, from prompt templates)
and the description space (from the descriptions, in the same order of labels). A video's L2-normalised embedding z is
projected as p(z; temperature) = softmax(U z / temperature).

Tensors are named by einops axes: b videos, k labels, m rows of a label, d CLIP's joint space, n texts.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from lib.backbone import VideoCLIP, VideoTransformer
from lib.datasets.lists import Video
from lib.datasets.loader import middle_frames
from lib.language.tokens import token_ids
from lib.language.vocabulary import Concept, ConceptError, prompt_texts, read_prompts
from lib.run.clip_files import checkpoint_name
from lib.run.fields import Params
from lib.run.params import FOLDER

# ---- texts to directions -------------------------------------------------------------------------------------------


@torch.no_grad()
def encode_texts(
    model: VideoCLIP, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, batch_size: int = 256
) -> Tensor:
    """L2-normalised text embeddings 'n d', float32, on the model's device. Raises `ConceptError`, as `token_ids`."""
    ids, embeddings = token_ids(texts, tokenizer, model.config.text_config), []
    for start in tqdm(
        range(0, len(ids), batch_size), desc="texts", unit="batch", leave=False, disable=len(ids) <= batch_size
    ):
        batch = tokenizer.pad({"input_ids": ids[start : start + batch_size]}, return_tensors="pt")
        embedding = model.encode_text(batch["input_ids"].to(model.device), batch["attention_mask"].to(model.device))
        embeddings.append(F.normalize(embedding.float(), dim=-1))
    every = torch.cat(embeddings)
    if bad := (~every.isfinite().all(dim=-1)).nonzero().flatten().tolist():
        raise ConceptError(
            "texts for the text tower",
            [f"{texts[i]!r} has an embedding that is not finite: damaged weights" for i in bad],
        )
    return every


class ConceptSpace(nn.Module):
    """Unit directions `vectors`, frozen, '(k m) d', m = `rows_per_label` consecutive rows per label."""

    vectors: Tensor

    def __init__(self, labels: Sequence[str], vectors: Tensor):
        super().__init__()
        if not labels or len(vectors) % len(labels):
            raise ValueError(f"{len(vectors)} directions cannot be shared out evenly among {len(labels)} labels")
        self.labels = tuple(labels)
        self.rows_per_label = len(vectors) // len(labels)
        self.register_buffer("vectors", vectors.detach().clone())

    def let_learn(self) -> None:
        """Makes the directions weights that are trained; their lengths then mean nothing."""
        vectors = self.vectors
        del self.vectors
        self.vectors = nn.Parameter(vectors)

    def _unit(self) -> Tensor:
        return F.normalize(self.vectors, dim=-1) if isinstance(self.vectors, nn.Parameter) else self.vectors

    def logits(self, embedding: Tensor, temperature: float) -> Tensor:
        """Embeddings 'b d' (of any length) -> logits 'b k' in float32, whose softmax is p(z; temperature).

        With several rows per label: logit_k = log sum_m exp(u_km . z / temperature). Its softmax over k is the softmax
        over all k m axes, summed within each label.
        """
        with torch.autocast(embedding.device.type, enabled=False):  # low temperatures magnify bfloat16's rounding
            scores = F.normalize(embedding.float(), dim=-1) @ self._unit().T / temperature
        return rearrange(scores, "b (k m) -> b k m", m=self.rows_per_label).logsumexp(dim=-1)

    def directions(self) -> Tensor:
        """One unit direction per label 'k d': the rows themselves, or the normalised mean of a label's rows."""
        return F.normalize(reduce(self._unit(), "(k m) d -> k d", "mean", m=self.rows_per_label), dim=-1)


def category_space(
    model: VideoCLIP,
    tokenizer: PreTrainedTokenizerBase,
    concepts: Sequence[Concept],
    templates: Sequence[str],
    *,
    num_descriptions: int = 0,
) -> ConceptSpace:
    """Row k = L2(mean over templates of L2(text(template with class_name_k))): CLIP's prompt ensemble, 'k d'.

    num_descriptions: of templates with {description}, each of which stands for so many texts.
    """
    texts = [
        text for concept in concepts for text in prompt_texts(concept, templates, num_descriptions=num_descriptions)
    ]
    each = encode_texts(model, tokenizer, texts)
    rows = reduce(each, "(k m) d -> k d", "mean", k=len(concepts))
    return ConceptSpace([concept.label for concept in concepts], F.normalize(rows, dim=-1))


def description_space(
    model: VideoCLIP,
    tokenizer: PreTrainedTokenizerBase,
    concepts: Sequence[Concept],
    *,
    num_descriptions: int,
    axes: str = "mean",
) -> ConceptSpace:
    """The first m = num_descriptions descriptions of every concept, in the order of `category_space`.

    axes "mean": row k = L2(mean over m of L2(text)), 'k d'; "each": every description its own row, '(k m) d'.
    """
    if axes not in ("mean", "each"):
        raise ValueError(f"axes must be 'mean' or 'each', not {axes!r}")
    few = [concept.label for concept in concepts if len(concept.descriptions) < num_descriptions]
    if few or num_descriptions < 1:
        raise ValueError(f"{num_descriptions} descriptions per label were asked for; too few of: {', '.join(few)}")
    texts = [text for concept in concepts for text in concept.descriptions[:num_descriptions]]
    rows = encode_texts(model, tokenizer, texts)
    if axes == "mean":
        rows = F.normalize(reduce(rows, "(k m) d -> k d", "mean", m=num_descriptions), dim=-1)
    return ConceptSpace([concept.label for concept in concepts], rows)


def concept_spaces(
    params: Params,
    model: VideoCLIP,
    tokenizer: PreTrainedTokenizerBase,
    concepts: list[Concept],
    *,
    prompts: str,
    names: Sequence[str] = ("category", "description"),
) -> dict[str, ConceptSpace]:
    """The text features of concepts (in the templates of the file `prompts`) and of their descriptions, by the name of
    the space."""
    spaces = {}
    if "category" in names:
        templates = read_prompts(FOLDER / "prompts" / f"{prompts}.yaml")
        spaces["category"] = category_space(
            model, tokenizer, concepts, templates, num_descriptions=params.num_descriptions
        )
    if "description" in names:
        spaces["description"] = description_space(
            model, tokenizer, concepts, num_descriptions=params.num_descriptions, axes=params.description_axes
        )
    return {name: spaces[name] for name in names}


def random_space(like: ConceptSpace, *, seed: int) -> ConceptSpace:
    """The control: labels and shape of a space, but unit directions drawn evenly over the sphere."""
    drawn = torch.randn(like.vectors.shape, generator=torch.Generator().manual_seed(seed))
    return ConceptSpace(like.labels, F.normalize(drawn, dim=-1).to(like.vectors.device))


# ---- what is kept of CLIP --------------------------------------------------------------------------------------------


class Stills:
    """Fixed pictures, in batches of 'b c 1 h w', and the image CLIP's first concept of each in a concept space."""

    def __init__(self, batches: Sequence[Tensor], space: ConceptSpace, image_clip: VideoTransformer):
        self.batches, self.space = batches, space
        self.expected = self._first_concepts(image_clip)

    def agreement(self, visual: VideoTransformer) -> float:
        """The share of the pictures whose first concept is the image CLIP's."""
        return (self._first_concepts(visual) == self.expected).double().mean().item()

    @torch.no_grad()
    @torch.compiler.set_stance("force_eager")  # else blocks that training compiles are compiled for one frame too
    def _first_concepts(self, visual: VideoTransformer) -> Tensor:
        outputs = [visual([batch.to(self.space.vectors.device)])[0] for batch in self.batches]
        return torch.cat([self.space.logits(output.embedding, 1.0).argmax(dim=-1) for output in outputs])


def stills_of(
    params: Params,
    model: VideoCLIP,
    tokenizer: PreTrainedTokenizerBase,
    concepts: list[Concept],
    videos: Sequence[Video],
) -> Stills | None:
    """The middle frames of `drift_clips` of the videos, at even distances in their list, in the category space.

    None, with a message, if none can be decoded. Draws none of the run's random numbers.
    """
    count = min(params.drift_clips, len(videos))
    chosen = [videos[i * len(videos) // count] for i in range(count)]
    loading = {"workers": params.workers, "loader_timeout": params.loader_timeout, "batch_size": params.eval_batch_size}
    pictures, failed = middle_frames(chosen, image_size=params.image_size, **loading)
    if failed:
        print(f"agreement on stills is watched without {len(failed)} of {count} clips: {', '.join(failed)}")
    if not pictures:
        return None
    (space,) = concept_spaces(params, model, tokenizer, concepts, prompts=params.prompts, names=["category"]).values()
    image_clip = VideoCLIP.from_image_clip(checkpoint_name(params.clip), temporal="none").visual
    return Stills(pictures, space, image_clip.to(space.vectors.device))


# ---- looking into spaces -------------------------------------------------------------------------------------------


def similarity(rows: ConceptSpace, columns: ConceptSpace) -> pd.DataFrame:
    """Cosines between the labels' directions of two spaces (or of one with itself), 'k k'."""
    cosines = rows.directions() @ columns.directions().T
    return pd.DataFrame(cosines.cpu().numpy(), index=list(rows.labels), columns=list(columns.labels))


def nearest_concepts(cosines: pd.DataFrame, *, count: int) -> pd.DataFrame:
    """For every row of a `similarity` table its `count` nearest other labels: label, rank (from 1), nearest, cosine."""
    found = []
    for label, row in cosines.iterrows():
        others = row.drop(label, errors="ignore").sort_values(ascending=False, kind="stable").head(count)
        found += [(label, rank, other, cosine) for rank, (other, cosine) in enumerate(others.items(), start=1)]
    return pd.DataFrame(found, columns=["label", "rank", "nearest", "cosine"])


def own_against_others(cosines: pd.DataFrame, *, actions: Sequence[str]) -> pd.DataFrame:
    """For every row of a `similarity` table between two spaces: label, `own` (cosine to its own column), `nearest` (the
    nearest column of another of `actions`), that `cosine`, and `right`: whether its own is the nearer one."""
    found = []
    for label, action, (_, row) in zip(cosines.index, actions, cosines.iterrows(), strict=True):
        others = row[[other != action for other in actions]]
        found.append((label, row[label], others.idxmax(), others.max(), bool(row[label] > others.max())))
    return pd.DataFrame(found, columns=["label", "own", "nearest", "cosine", "right"])


def effective_rank(space: ConceptSpace) -> float:
    """How many directions a space really has: exp of the entropy of its normalised singular values.

    Roy and Vetterli, EUSIPCO 2007; of the labels' directions with their mean removed, since what all rows share adds
    the same to every logit and cancels in the softmax. Between 1 and k - 1.
    """
    directions = space.directions().double()
    values = torch.linalg.svdvals(directions - directions.mean(dim=0))
    share = values / values.sum()
    return torch.special.entr(share).sum().exp().item()
