"""Notebooks: what a reader may rely on in each, and that they run from anywhere."""

import ast
import re
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lib.run import notebook, values
from lib.run.params import ROOT, ParamsError
from workflow import gallery

NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*_*.ipynb"))
MAX_LINES = 60  # of code, in a notebook that checks or measures
MAX_DEF = 5
NAMES = [
    "profile",
    "ablation",
    "world_seed",
    "seed",
    "name",
    "suite",
    "place",
    "difficulties",
    "overrides",
    "checkpoints",
    "bpe",
    "configurations",
    "frames",
    "repeats",
    "output",
    "zoo",
    "count",
    "limit",
    "originals",
    "spacings",
    "clips",
    "width",
    "classes",
    "videos",
    "configuration",
    "groups",
    "threads",
    "variants",
    "steps",
    "warm",
    "layers",
    "image_size",  # of measurements
    "clip",
    "number",
    "epochs",
    "labels",
    "model",
    "prompts",
    "num_frames",
    "shots",
    "same_source",
    "workers",
    "only",
    "vocabulary",
    "language_model",
    "revision",
    "temperature",
    "max_new_tokens",
    "attempts",
    "batch_size",
    "device",
    "sentence_model",
    "vocabularies",
]
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells_of(path: Path) -> list[nbformat.NotebookNode]:
    return nbformat.read(path, as_version=4).cells


def code_of(path: Path) -> str:
    """A notebook's code without its magics."""
    sources = [cell.source for cell in cells_of(path) if cell.cell_type == "code"]
    return "\n".join(line for source in sources for line in source.splitlines() if not line.startswith("%"))


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
def test_notebooks_are_thin(path):
    """Logic belongs in lib."""
    functions = [node for node in ast.walk(ast.parse(code_of(path))) if isinstance(node, ast.FunctionDef)]
    assert [f.name for f in functions if f.end_lineno - f.lineno >= MAX_DEF] == []
    lines = [line for line in code_of(path).splitlines() if line.strip() and not line.strip().startswith("#")]
    assert path.parent.name != "checks" or len(lines) <= MAX_LINES


@each_notebook
def test_parameters_are_typed_and_commented(path):
    for line in parameters_of(path):
        (statement,) = ast.parse(line).body
        assert isinstance(statement, ast.AnnAssign) and statement.target.id in NAMES
        assert re.search(r"  # \w", line), line


@pytest.mark.parametrize(
    "path",
    [path for path in NOTEBOOKS if any(line.startswith("profile:") for line in parameters_of(path))],
    ids=lambda path: path.stem,
)
def test_every_notebook_that_takes_a_profile_checks_all_its_overrides(path):
    code = code_of(path)
    assert "overrides: dict" in code and ("**overrides)" in code or "profile, overrides)" in code)


def check(path: Path, injected: str = "") -> dict[str, Any]:
    """What a notebook's parameters are after its own check, as its first cells do it, with papermill's cell."""
    first, second = [cell.source for cell in cells_of(path) if cell.cell_type == "code"][:2]
    (call,) = re.findall(r"^check_parameters\(globals\(\).*\)$", second, flags=re.MULTILINE)
    before = second[: second.index(call)].strip().splitlines()
    assert all(re.match(r"%matplotlib inline$|import |from |$", line) for line in before)  # it comes first of all
    sources = [first, *([f"# Parameters\n{injected}"] if injected else [])]
    namespace = {"In": ["", *sources, second], **vars(notebook), **vars(values)}
    for source in (*sources, call):
        exec(source, namespace)  # noqa: S102
    return {name: namespace[name] for name in notebook._assigned(first)}


@each_notebook
def test_a_notebooks_own_parameters_pass_its_check_and_others_do_not(path):
    for name, value in check(path).items():
        with pytest.raises(ParamsError, match=rf"^{name}: Input should .*, got None; for papermill: -\w '?{name}"):
            check(path, f"{name} = None")
        with pytest.raises(
            ParamsError, match=rf"^{name}x: unknown parameter; the nearest valid name is '{name}'; this notebook has "
        ):
            check(path, f"{name}x = 1")
        if isinstance(value, int | float):
            with pytest.raises(ParamsError, match=rf"^{name}: .* greater than .*, got -1"):
                check(path, f"{name} = -1")
        if isinstance(value, list):
            with pytest.raises(
                ParamsError, match=rf"^{name}: Input should be a valid list, got 'punch'; for papermill: -y '{name}: \["
            ):
                check(path, f"{name} = 'punch'")


@pytest.mark.parametrize(
    ("injected", "message"),
    [
        ("shots = 'five'", r"shots: Input should be a valid integer, got 'five'; for papermill: -p shots 3$"),
        ("shots = 1", "shots: Input should be greater than or equal to 2, got 1"),
        ("num_frames = 0", "num_frames: Input should be greater than or equal to 1, got 0"),
        ("num_frames = True", "num_frames: Input should be a valid integer, got True"),
        (
            "labels = ['walk', 5]",
            r"labels: entry 2: Input should be a valid string, got 5; for papermill: -y 'labels: \[punch, wave\]'",
        ),
        ("prompts = 2024", "prompts: Input should be a valid string, got 2024; for papermill: -r prompts text"),
        ("videos = 7", "videos: Input should be a valid string, got 7"),
        ("videos = ['a.mp4', 'b.mp4']", ""),
        ("typo = 3\nshots = -2", "shots: .*got -2.*\ntypo: unknown parameter; this notebook has videos, labels, model"),
    ],
)
def test_what_papermill_lets_pass_stops_with_the_name_the_value_and_the_way_to_write_it(injected, message):
    path = ROOT / "notebooks" / "20_your_videos.ipynb"
    if not message:
        assert check(path, injected)["videos"] == ["a.mp4", "b.mp4"]
        return
    with pytest.raises(ParamsError, match=message):
        check(path, injected)


def test_numbers_are_what_they_are_written_as():
    path = ROOT / "notebooks" / "01_concepts.ipynb"
    assert check(path, "temperature = 1")["temperature"] == 1
    for given, message in (
        ("'3e-5'", "YAML reads 3e-5 as text: write 3.0e-5"),
        ("float('nan')", "finite number"),
        ("float('inf')", "finite"),
    ):
        with pytest.raises(ParamsError, match=f"temperature: .*{message}"):
            check(path, f"temperature = {given}")
    with pytest.raises(ParamsError, match="vocabulary: String should match pattern .*, got '../mine'"):
        check(path, "vocabulary = '../mine'")


def test_the_home_folder_may_be_written_as_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    given = check(ROOT / "notebooks" / "20_your_videos.ipynb", "videos = ['~/a.mp4']\noutput = '~/out'\nmodel = '~'")
    assert (given["videos"], given["output"], given["model"]) == (["/home/me/a.mp4"], "/home/me/out", "/home/me")


def test_the_last_run_of_an_edited_cell_counts_and_no_run_is_an_error():
    cell = "shots: int = {}  # clips"
    namespace = {
        "In": ["", cell.format("'x'") + "\nold: int = 3", "import os\nx = 2", "a b", cell.format(4), "%magic"],
        "shots": 4,
        "x": 2,
        "old": 3,
    }
    notebook.check_parameters(namespace)
    with pytest.raises(ParamsError, match="no parameters: run the cell of the parameters first"):
        notebook.check_parameters({"In": ["", "x = 2"]})


def test_a_folder_for_results_is_made_or_refused_before_any_work(tmp_path):
    assert notebook.writable_folder(str(tmp_path / "a" / "b")).is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file/b: no folder can be made there .Not a directory.: choose another"):
        notebook.writable_folder(str(tmp_path / "file" / "b"))
    with pytest.raises(OSError, match="/proc/lss: no folder can be made there"):
        notebook.writable_folder("/proc/lss")


@each_notebook
def test_papermill_shows_every_parameter_with_its_type_and_comment(path):
    shown = papermill.inspect_notebook(path)
    assert list(shown) == list(notebook._assigned("\n".join(parameters_of(path))))
    assert all(entry["inferred_type_name"] in notebook.TYPES and entry["help"] for entry in shown.values())


@each_notebook
def test_the_kernel_is_the_common_one_and_cell_ids_are_fixed(path):
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata.kernelspec.name == "python3"
    assert [cell.id for cell in notebook.cells] == [
        f"{path.stem.split('_')[0]}-{i:02d}" for i in range(len(notebook.cells))
    ]


def test_a_notebook_runs_from_any_folder_and_an_error_of_ours_is_its_message(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        papermill.execute_notebook(
            ROOT / "notebooks" / "02_adapt.ipynb",
            tmp_path / "out.ipynb",
            {"overrides": {"epoch": 3}},
            kernel_name="python3",
            cwd=tmp_path,
            progress_bar=False,
        )
    message = "ParamsError: overrides: epoch: unknown parameter; the nearest valid name is 'epochs'\n(params.py:"
    assert message in str(caught.value) and len(str(caught.value).splitlines()) < 8


def test_errors_of_ours_are_short_and_all_others_whole(tmp_path):
    cells = [
        "seed: int = 0  # of it",
        "# Parameters\nsed = 3",
        "from lib.run.notebook import check_parameters\ncheck_parameters(globals())",
        "from lib.run import params\nparams.load(profile='embedde')",
        "raise ValueError('mine')",
        "import json\njson.loads('{')",
        "params.place_of(1, 2)",
    ]
    executed = NotebookClient(
        new_notebook(cells=[new_code_cell(cell) for cell in cells]),
        kernel_name="python3",
        allow_errors=True,
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    shown = [
        "\n".join(output.traceback)
        for cell in executed.cells
        for output in cell.outputs
        if output.output_type == "error"
    ]
    for text, message in zip(
        shown,
        (
            "^ParamsError: sed: unknown parameter; the nearest valid name is 'seed'; this notebook has seed\n"
            ".notebook.py:\\d+.$",
            "^ParamsError: .*embedde.yaml: no such file; did you mean 'embedded'.\n.(params.py:\\d+(, )?)+.$",
            "^ValueError: mine$",
        ),
        strict=False,
    ):
        assert re.search(message, text), text
    assert len(shown) == 5 and all("Traceback" in text and len(text.splitlines()) > 8 for text in shown[3:])


def test_a_page_of_the_gallery_is_whole_without_network_and_names_no_place_of_this_machine():
    outputs = [
        new_output("stream", name="stderr", text="bar"),
        new_output("stream", text=f"1%\r9%\n{ROOT}/outputs/run"),
    ]
    cells = [new_markdown_cell("cosines $u_k$"), new_code_cell("x", outputs=outputs)]
    shown = gallery.page(new_notebook(cells=cells), "name")
    assert "$u_k$" not in shown and "data:image/svg+xml" in shown
    assert "9%\noutputs/run" in shown and not re.search(r"bar</pre>|1%|<script|<link", shown)


def test_make_gallery_executes_a_notebook_and_writes_page_picture_and_index(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "FOLDER", tmp_path)
    gallery.main(["01_concepts"])
    assert {path.name for path in tmp_path.iterdir()} == {"01_concepts.html", "01_concepts.png", "README.md"}
    assert "data:image/png" in (tmp_path / "01_concepts.html").read_text()


@pytest.mark.parametrize("name", gallery.SHOWN)
def test_the_gallery_is_committed_small_and_linked(name):
    page = (gallery.FOLDER / f"{name}.html").read_text()
    assert len(page) < 1_500_000 and str(ROOT) not in page and "Traceback" not in page
    assert (gallery.FOLDER / f"{name}.png").exists()
    assert (gallery.FOLDER / "README.md").read_text() == gallery.index()
