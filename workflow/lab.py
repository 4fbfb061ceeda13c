"""`make lab`: JupyterLab on this repository, whose notebooks stay as they are committed, whatever is run in them.

What a notebook of `notebooks/` shows when it is run is saved in `outputs/notebooks/<name>.ipynb`, and put back when the
notebook is opened again; the file itself keeps source and parameters alone. All other files are saved as ever.

    python -m workflow.lab [notebook] [options of jupyter lab]
"""

import copy
import os
import sys
from pathlib import Path
from typing import Any

import nbformat
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from jupyterlab.labapp import LabApp
from nbformat import NotebookNode

from lib.run.files import write_text
from lib.run.params import ROOT

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


class NotebooksAndOutputs(AsyncLargeFileManager):
    """Files of the repository, in which notebooks and what they show lie apart."""

    async def save(self, model: dict[str, Any], path: str = "") -> dict[str, Any]:
        if model.get("type") == "notebook" and (shown := self._shown(path)):
            notebook = nbformat.from_dict(model["content"])
            write_text(shown, nbformat.writes(notebook))
            model = model | {"content": _bare(notebook)}
        return await super().save(model, path)

    async def get(self, path: str, content: bool = True, **options: Any) -> dict[str, Any]:
        model = await super().get(path, content=content, **options)
        if content and model["type"] == "notebook" and (shown := self._shown(path)) and shown.exists():
            _put_back(model["content"], nbformat.read(shown, as_version=4))
        return model

    def _shown(self, path: str) -> Path | None:
        """Where the outputs of a notebook of `notebooks/` lie; None of any other."""
        folder, _, name = path.strip("/").rpartition("/")
        return (
            Path(self.root_dir) / "outputs" / "notebooks" / name
            if folder in ("notebooks", "notebooks/checks")
            else None
        )


def _bare(notebook: NotebookNode) -> NotebookNode:
    """A notebook as it is committed: without outputs, counts, times, and what names a machine's kernel."""
    bare = copy.deepcopy(notebook)
    bare.metadata = nbformat.from_dict(METADATA)
    for cell in bare.cells:
        cell.metadata = nbformat.from_dict({"tags": cell.metadata.tags} if cell.metadata.get("tags") else {})
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return bare


def _put_back(notebook: NotebookNode, earlier: NotebookNode) -> None:
    """The outputs of an earlier run, in every cell whose source is still the one that was run."""
    outputs = {cell.id: cell for cell in earlier.cells if cell.cell_type == "code"}
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.id in outputs and outputs[cell.id].source == cell.source:
            cell.outputs, cell.execution_count = outputs[cell.id].outputs, outputs[cell.id].execution_count


def main(arguments: list[str]) -> None:
    """Starts JupyterLab, on the tour unless the first argument names another notebook."""
    os.environ["JUPYTER_PREFER_ENV_PATH"] = (
        "1"  # the kernel python3 is this environment's, not one that the user has elsewhere
    )
    options = [f"--ServerApp.root_dir={ROOT}", "--ServerApp.contents_manager_class=workflow.lab.NotebooksAndOutputs"]
    options += ["--allow-root"] * (hasattr(os, "geteuid") and os.geteuid() == 0)  # as in most containers
    opened = [] if arguments and not arguments[0].startswith("-") else [str(ROOT / "notebooks" / "00_tour.ipynb")]
    LabApp.launch_instance([*opened, *arguments, *options])


if __name__ == "__main__":
    main(sys.argv[1:])
