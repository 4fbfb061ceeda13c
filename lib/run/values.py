"""The types of parameters (`lib/run/fields.py`), each with its check."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field


@dataclass(frozen=True)
class Neutral:
    """Marks a field: with this value, a run equals one from before the parameter existed."""

    value: Any


def once(values: list) -> list:
    """A list without repetitions."""
    if twice := sorted({value for value in values if values.count(value) > 1}):
        raise ValueError(f"{', '.join(map(str, twice))}: named more than once; keep one")
    return values


def low_high(values: list[float]) -> list[float]:
    """The smallest and the largest share of an image's area that a crop takes."""
    if not 0 < values[0] <= values[1]:
        raise ValueError("two shares of the picture's area, the lower one first and above 0")
    return values


def view(text: str) -> str:
    """An evaluation view in the notation of the field."""
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[13]@[1-9]\d*", text):
        raise ValueError("write frames x clips x crops @ pixels, e.g. 16x1x1@224; crops is 1 or 3, no number is 0")
    return text


def still(text: str) -> str:
    """An evaluation view of the middle frame."""
    if not text.startswith("1x1x"):
        raise ValueError("a still is one frame of one clip: 1x1x1@ and the pixels")
    return text


Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]
Above0 = Annotated[float, Field(gt=0)]
Range = Annotated[list[Share], Field(min_length=2, max_length=2), AfterValidator(low_high)]
Choices = Annotated[list[Positive], Field(min_length=1)]
Once = AfterValidator(once)
Names = Annotated[list[str], Field(min_length=1), Once]
Split = Annotated[int, Field(ge=1, le=3)]
Spaces = Annotated[list[Literal["category", "description"]], Field(min_length=1), Once]
RENDERED = "embedded", "rendered_k", "rendered_u", "rendered_h"  # the workflow makes them
WITH_SPLITS = "ucf101", "hmdb51", "rendered_u", "rendered_h"  # three official ones
DataSet = Literal[*RENDERED, "folder", "ucf101", "hmdb51", "kinetics400", "kinetics600", "ssv2", "charades"]
ViewName = Annotated[str, AfterValidator(view)]  # frames x clips x crops @ pixels
EvalViews = Annotated[list[ViewName], Field(min_length=1), Once]
