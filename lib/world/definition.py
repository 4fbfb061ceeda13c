"""What a world holds (`params/worlds/`): its actions, their words, and the data sets filmed of them."""

from functools import cache
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lib.run.params import FOLDER, ROOT, ParamsError, explain, read_yaml
from lib.world.movements import MOVEMENTS
from lib.world.objects import OBJECTS

Span = Annotated[list[float], Field(min_length=2, max_length=2)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Crew(Strict):
    """How a data set is filmed: values in place of those that its difficulty says."""

    difficulty: Span
    yaw: Span | None = None
    pan: float | None = None
    shake: float | None = None
    gain: Span | None = None
    clutter: Span | None = None
    zoom: Span | None = None
    cut: float = 0.0


class DataSetOf(Strict):
    """A data set of a world. groups: films per class, for those with official splits."""

    crew: str
    distractors: float = 0.0
    groups: int = 0


class Action(Strict):
    movement: str
    place: str
    phrases: Annotated[list[str], Field(min_length=1)]
    object: str = ""
    only: bool = False
    k: str = ""
    u: str = ""
    h: str = ""


class World(Strict):
    scenes: dict[str, list[str]]
    objects: dict[str, list[str]]
    actions: dict[str, Action]
    postures: dict[str, list[str]] = {}
    crews: dict[str, Crew] = {}
    sets: dict[str, DataSetOf] = {}

    @model_validator(mode="after")
    def _known(self) -> "World":
        for name, action in self.actions.items():
            if action.movement not in MOVEMENTS or action.place not in self.scenes:
                raise ValueError(f"{name}: no movement {action.movement!r}, or no scene {action.place!r}")
            if action.object and not (action.object in OBJECTS and action.object in self.objects):
                raise ValueError(f"{name}: no object {action.object!r}")
        if unknown := {each.crew for each in self.sets.values()} - self.crews.keys():
            raise ValueError(f"sets: no crews {sorted(unknown)}")
        return self

    def classes(self, dataset: str) -> dict[str, str]:
        """Class -> action of one of `sets`, in the order of the actions."""
        key = dataset.removeprefix("rendered_")
        return {label: name for name, action in self.actions.items() if (label := getattr(action, key))}


@cache
def read_world(name: str) -> World:
    """A file of `params/worlds/`. Raises ParamsError with file, key and reason."""
    path = FOLDER / "worlds" / f"{name}.yaml"
    content = read_yaml(path)
    try:
        return World.model_validate(content)
    except ValidationError as error:
        where = path.relative_to(ROOT)
        lines = [f"{where}: {'.'.join(map(str, e['loc']))}: {explain(e, World.model_fields)}" for e in error.errors()]
        raise ParamsError("\n".join(lines)) from None
