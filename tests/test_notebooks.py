"""Notebooks: what a reader may rely on in each, and that they run from anywhere."""

import ast
import re
from pathlib import Path

import nbformat
import papermill
import pytest

from lib.params import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = ["profile", "ablation", "world_seed", "seed", "suite", "difficulties", "overrides",
         "checkpoints", "bpe", "configurations", "frames", "batch_sizes", "repeats", "output", "zoo",
         "count", "limit", "originals", "spacings", "clips", "width", "classes", "videos", "configuration", "groups",
         "threads", "variants", "steps", "warm",  # of measurements
         "clip", "number", "epochs", "labels", "model", "prompts", "num_frames", "shots", "same_source", "workers",
         "only", "vocabulary", "language_model", "revision", "temperature", "max_new_tokens", "attempts", "batch_size",
         "device", "sentence_model", "vocabularies", "peak", "utilisation", "scaling", "published"]
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells_of(path: Path) -> list[nbformat.NotebookNode]:
    return nbformat.read(path, as_version=4).cells


def parameters_of(path: Path) -> list[str]:
    (cell,) = [cell for cell in cells_of(path) if "parameters" in cell.metadata.get("tags", [])]
    return cell.source.splitlines()


@each_notebook
def test_a_notebook_opens_with_title_claim_and_time(path):
    first = cells_of(path)[0]
    assert first.cell_type == "markdown" and re.match(r"# \w", first.source)
    assert "**Claim.**" in first.source and re.search(r"[Tt]akes .*(minute|hour)", first.source)


@each_notebook
def test_prose_comes_before_code(path):
    cells = cells_of(path)
    for before, cell in zip(cells, cells[1:]):
        assert "markdown" in (before.cell_type, cell.cell_type), cell.source


@each_notebook
def test_parameters_are_typed_and_commented(path):
    for line in parameters_of(path):
        (statement,) = ast.parse(line).body
        assert isinstance(statement, ast.AnnAssign) and statement.target.id in NAMES
        assert re.search(r"  # \w", line), line


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if any(line.startswith("profile:") for line in parameters_of(path))],
                         ids=lambda path: path.stem)
def test_every_notebook_that_takes_a_profile_checks_all_its_overrides(path):
    # papermill only warns of parameters that a notebook does not have
    code = "\n".join(cell.source for cell in cells_of(path) if cell.cell_type == "code")
    assert "overrides: dict" in code and ("**overrides)" in code or "profile, overrides)" in code)


@each_notebook
def test_the_kernel_is_the_common_one_and_cell_ids_are_fixed(path):
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata.kernelspec.name == "python3"
    assert [cell.id for cell in notebook.cells] == [
        f"{path.stem.split('_')[0]}-{i:02d}" for i in range(len(notebook.cells))
    ]


def test_a_notebook_runs_from_any_folder_and_refuses_unknown_parameters(tmp_path):
    message = "overrides: epoch: unknown parameter; the nearest valid name is 'epochs'"
    with pytest.raises(papermill.PapermillExecutionError, match=message):
        papermill.execute_notebook(
            ROOT / "notebooks" / "02_adapt.ipynb",
            tmp_path / "out.ipynb",
            {"overrides": {"epoch": 3}},
            kernel_name="python3",
            cwd=tmp_path,
            progress_bar=False,
        )
