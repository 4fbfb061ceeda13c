"""What a notebook begins with: its parameters are checked, and errors of this repository end in their message.

    check_parameters(globals(), shots=AtLeast2)

papermill only warns of a parameter that a notebook does not have, and hands on any value for those that it has.
"""

import ast
import linecache
import os
import sys
import traceback
from functools import partialmethod
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError, create_model
from tqdm import tqdm

from lib.run.params import ROOT, ParamsError, explain
from lib.run.values import Amount, Choices, Count, Share

AtLeast2 = Annotated[int, Field(ge=2)]
FileName = Annotated[str, Field(pattern=r"^[\w-]+$")]  # without a folder or a suffix
Files = str | list[str]  # a folder, or a list of files

# A type as the parameters cell writes it: what it stands for, and how papermill is told such a value.
TYPES = {
    "str": (str, "-r {} text"),
    "int": (Count, "-p {} 3"),
    "float": (Amount, "-p {} 0.5"),
    "list[str]": (list[str], "-y '{}: [punch, wave]'"),
    "list[int]": (Choices, "-y '{}: [8, 16]'"),
    "list[float]": (Annotated[list[Share], Field(min_length=1)], "-y '{}: [0.1, 0.2]'"),
    "dict": (dict[str, Any], "-y '{}: {{epochs: 3}}'"),
}


def check_parameters(namespace: dict[str, Any], **ranges: Any) -> None:
    """Checks the values of a notebook's parameters, and that none came which it does not have; `~` becomes the home folder.

    What the cells of a notebook have defined is the `namespace` (`globals()`), with their texts in `In`: the parameters are
    the names of the last cell of typed assignments; papermill's cell after it gives some of them other values. An `int` or
    `float` is not negative; `ranges` says what else a parameter must be (a type, as pydantic takes it).
    Raises ParamsError with a line for every problem.
    """
    if "get_ipython" in namespace:
        namespace["get_ipython"]().set_custom_exc((Exception,), _show_error)
        # Progress bars as text, on stdout: notebooks show stderr on red.
        tqdm.__init__ = partialmethod(tqdm.__init__, file=sys.stdout)
    cells = [_assigned(source) for source in namespace["In"]]
    typed = next((cell for cell in reversed(cells) if any(cell.values())), None)
    if typed is None:
        raise ParamsError("no parameters: run the cell of the parameters first")
    injected = next((source for source in reversed(namespace["In"]) if source.startswith("# Parameters\n")), "")
    kinds = {name: TYPES[kind] for name, kind in typed.items() if kind}
    given = {name: namespace[name] for name in {**typed, **_assigned(injected)} if name in namespace}
    for name, value in given.items():
        namespace[name] = given[name] = _at_home(value)
    model = create_model(
        "Parameters",
        __config__=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False),
        **{name: (ranges.get(name, kind), ...) for name, (kind, _) in kinds.items()},
    )
    try:
        model.model_validate(given)
    except ValidationError as error:
        raise ParamsError("\n".join(_explain(problem, kinds) for problem in error.errors())) from None


def writable_folder(place: str) -> Path:
    """A folder, absolute or relative to the repository, made where it is not there: before any work whose results go there.

    Raises OSError, naming it, if it cannot be written to.
    """
    folder = ROOT / place
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{folder}: no folder can be made there ({error.strerror}): choose another") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OSError(f"{folder}: nothing can be written there: choose another folder")
    return folder


def _at_home(value: Any) -> Any:
    if isinstance(value, list):
        return [_at_home(entry) for entry in value]
    return os.path.expanduser(value) if isinstance(value, str) else value


def _assigned(source: str) -> dict[str, str]:
    """The names that a cell of nothing but assignments gives a value, each with its type as written ("": none)."""
    try:
        statements = ast.parse(source).body
    except SyntaxError:
        return {}
    names = {}
    for statement in statements:
        if isinstance(statement, ast.AnnAssign):
            names[ast.unparse(statement.target)] = ast.unparse(statement.annotation)
        elif isinstance(statement, ast.Assign):
            names |= {ast.unparse(target): "" for target in statement.targets}
        else:
            return {}
    return names


def _explain(problem: dict[str, Any], kinds: dict[str, tuple[Any, str]]) -> str:
    name, entry = problem["loc"][0], next((part for part in problem["loc"] if isinstance(part, int)), None)
    text = f"{name}: {'' if entry is None else f'entry {entry + 1}: '}{explain(problem, kinds)}"
    return text + (
        f"; for papermill: {kinds[name][1].format(name)}"
        if name in kinds
        else f"; this notebook has {', '.join(kinds)}"
    )


def _show_error(
    shell: Any, kind: type[Exception], error: Exception, trace: TracebackType, tb_offset: int | None = None
) -> None:
    """An error that a `raise` of this repository made says all itself; any other is shown with all that led to it."""
    frames = [
        (frame.f_globals["__name__"], Path(frame.f_code.co_filename), line) for frame, line in traceback.walk_tb(trace)
    ]
    module, path, line = frames[-1]
    if module.split(".")[0] in ("__main__", "lib") and linecache.getline(str(path), line).lstrip().startswith("raise "):
        way = [f"{path.name}:{line}" for module, path, line in frames if module.startswith("lib.")]
        shown = [f"{kind.__name__}: {error}", *([f"({', '.join(way)})"] if way else [])]
        error._render_traceback_ = lambda: shown
    shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
