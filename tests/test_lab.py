"""`make lab`: what is run in a notebook is kept and shown again, and its file stays as it is committed."""

import asyncio
import shutil

import nbformat
import pytest
from nbformat.v4 import new_output

from lib.run.params import ROOT
from workflow.lab import NotebooksAndOutputs

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture
def manager(tmp_path):
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))
    return NotebooksAndOutputs(root_dir=str(tmp_path))


def run(manager, path):
    """Opens a notebook, gives every code cell what a run leaves in JupyterLab, and saves it."""
    notebook = asyncio.run(manager.get(path))["content"]
    notebook.metadata.language_info = {"name": "python", "version": "3.13.1", "pygments_lexer": "ipython3"}
    notebook.metadata.kernelspec.display_name = "Python 3 (ipykernel)"
    for number, cell in enumerate(cell for cell in notebook.cells if cell.cell_type == "code"):
        cell.outputs, cell.execution_count = [new_output("stream", name="stdout", text=f"output {number}")], number + 1
        cell.metadata.update(trusted=True, execution={"iopub.execute_input": "2026-01-01T00:00:00Z"})
    asyncio.run(manager.save({"type": "notebook", "format": "json", "content": notebook}, path))


def texts(notebook):
    return [output.text for cell in notebook.cells for output in cell.get("outputs", [])]


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_that_was_run_is_saved_as_it_was(manager, tmp_path, source):
    run(manager, f"notebooks/{source.name}")
    assert (tmp_path / "notebooks" / source.name).read_bytes() == source.read_bytes()
    kept = nbformat.read(tmp_path / "outputs" / "notebooks" / source.name, as_version=4)
    assert texts(kept)[:2] == ["output 0", "output 1"]


def test_outputs_come_back_to_the_cells_that_made_them_and_changes_are_saved(manager, tmp_path):
    run(manager, "notebooks/02_adapt.ipynb")
    file = tmp_path / "notebooks" / "02_adapt.ipynb"
    file.write_text(file.read_text().replace("seed: int = 0", "seed: int = 7"))
    notebook = asyncio.run(manager.get("notebooks/02_adapt.ipynb"))["content"]
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == [None, *range(2, len(counts) + 1)]  # the changed cell has lost its output
    assert texts(notebook) == [f"output {number}" for number in range(1, len(counts))]
    asyncio.run(manager.save({"type": "notebook", "format": "json", "content": notebook}, "notebooks/02_adapt.ipynb"))
    assert "seed: int = 7" in file.read_text() and "output" not in file.read_text().replace("outputs", "")


def test_other_notebooks_and_files_are_saved_as_ever(manager, tmp_path):
    shutil.copy(NOTEBOOKS[0], tmp_path / "mine.ipynb")
    run(manager, "mine.ipynb")
    assert texts(nbformat.read(tmp_path / "mine.ipynb", as_version=4))[0] == "output 0"
    asyncio.run(manager.save({"type": "file", "format": "text", "content": "words"}, "notes.txt"))
    assert (tmp_path / "notes.txt").read_text() == "words" and not (tmp_path / "outputs").exists()
