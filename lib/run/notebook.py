"""Checks the parameters of a notebook, and shortens the errors of this repository to their message.

    check_parameters(globals(), shots=AtLeast2)

papermill itself only warns of unknown parameters and accepts any value.
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

# A type as the parameters cell writes it: the check, and the option of papermill
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
    """Checks that a notebook's parameters are known and valid; expands `~`.

    namespace: `globals()`, with the source of the executed cells in `In`. The parameters are the last cell of typed
    assignments; papermill's cell after it overrides some. An `int` or `float` is not negative; `ranges` has narrower
    types for pydantic. Raises ParamsError with a line for every problem.
    """
    if "get_ipython" in namespace:
        namespace["get_ipython"]().set_custom_exc((Exception,), _show_error)
        # progress bars as text, on stdout: notebooks show stderr on red
        tqdm.__init__ = partialmethod(tqdm.__init__, file=sys.stdout)
    cells = [_assigned(source) for source in namespace["In"]]
    typed = next((cell for cell in reversed(cells) if any(cell.values())), None)
    if typed is None:
        raise ParamsError("no parameters: run the cell of the parameters first")
    injected = next((source for source in reversed(namespace["In"]) if source.startswith("# Parameters\n")), "")
    types = {name: TYPES[annotation] for name, annotation in typed.items() if annotation}
    values = {name: namespace[name] for name in {**typed, **_assigned(injected)} if name in namespace}
    for name in values:
        namespace[name] = values[name] = _expanded(values[name])
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    fields = {name: (ranges.get(name, check), ...) for name, (check, _) in types.items()}
    try:
        create_model("Parameters", __config__=config, **fields).model_validate(values)
    except ValidationError as error:
        raise ParamsError("\n".join(_explain(problem, types) for problem in error.errors())) from None


def writable_folder(place: str) -> Path:
    """Creates a folder, absolute or relative to the repository. Raises OSError if it cannot be written to."""
    folder = ROOT / place
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{folder}: no folder can be made there ({error.strerror}): choose another") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OSError(f"{folder}: nothing can be written there: choose another folder")
    return folder


def _expanded(value: Any) -> Any:
    if isinstance(value, list):
        return [_expanded(entry) for entry in value]
    return os.path.expanduser(value) if isinstance(value, str) else value


def _assigned(source: str) -> dict[str, str]:
    """The names that a cell of only assignments sets, each with its type as written ("": none)."""
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


def _explain(problem: dict[str, Any], types: dict[str, tuple[Any, str]]) -> str:
    name, *location = problem["loc"]
    entry = next((f"entry {part + 1}: " for part in location if isinstance(part, int)), "")
    hint = f"for papermill: {types[name][1].format(name)}" if name in types else f"this notebook has {', '.join(types)}"
    return f"{name}: {entry}{explain(problem, types)}; {hint}"


def _show_error(
    shell: Any, kind: type[Exception], error: Exception, trace: TracebackType, tb_offset: int | None = None
) -> None:
    """Shows an error raised by this repository as its message, any other with its traceback."""
    frames = [
        (frame.f_globals.get("__name__", ""), Path(frame.f_code.co_filename), n)
        for frame, n in traceback.walk_tb(trace)
    ]
    module, path, line = frames[-1]
    if module.split(".")[0] in ("__main__", "lib") and linecache.getline(str(path), line).lstrip().startswith("raise "):
        calls = [f"{path.name}:{line}" for module, path, line in frames if module.startswith("lib.")]
        text = [f"{kind.__name__}: {error}"] + [f"({', '.join(calls)})"] * bool(calls)
        error._render_traceback_ = lambda: text
    shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
