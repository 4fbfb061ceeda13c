"""The set-up holds together: pinned versions, the installed package, the order of the modules, the notebooks' form."""

import ast
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import nbformat
import pytest
import yaml
from IPython.core.inputtransformer2 import TransformerManager
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
METHOD = ["backbone", "concepts", "gradients", "losses", "objectives", "train"]
ROOMS = ["datasets", "evaluation", "language", "run", "study", "video", "world"]
MODULES = sorted([*(ROOT / "lib").rglob("*.py"), *(ROOT / "workflow").glob("*.py")])
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
INSTALL = "pip install -c constraints.txt -e '.[test]'"


def pins(lines: list[str]) -> dict[str, str]:
    """Canonical name -> the one version asked for with ==, of requirement lines."""
    found = {}
    for requirement in map(Requirement, lines):
        name, specifiers = canonicalize_name(requirement.name), list(requirement.specifier)
        assert len(specifiers) == 1 and specifiers[0].operator == "==", f"{requirement} is no exact pin"
        assert name not in found, f"{name} is pinned twice"
        found[name] = specifiers[0].version
    return found


@pytest.fixture(scope="module")
def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def required(pyproject) -> dict[str, str]:
    project = pyproject["project"]
    return pins(project["dependencies"] + project["optional-dependencies"]["test"])


@pytest.fixture(scope="module")
def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return pins([line for line in lines if line and not line.startswith("#")])


@pytest.mark.parametrize(
    "path, options, itself, local",
    [
        ("environment.yml", ["-c constraints.txt"], "-e .", ""),
        (
            ".binder/environment.yml",
            ["--extra-index-url https://download.pytorch.org/whl/cpu", "-c ../constraints.txt"],
            "-e ..",
            "+cpu",
        ),
    ],
)
def test_environments_and_pyproject_ask_for_the_same(pyproject, required, path, options, itself, local):
    conda = yaml.safe_load((ROOT / path).read_text())["dependencies"]
    (block,) = [item["pip"] for item in conda if isinstance(item, dict)]
    assert block[: len(options)] == options and block[-1] == itself
    assert pins(block[len(options) : -1]) == required | {"torch": required["torch"] + local}
    (python,) = [item for item in conda if isinstance(item, str) and item.startswith("python=")]
    assert Version(python.removeprefix("python=")) in SpecifierSet(pyproject["project"]["requires-python"])


def test_constraints_contain_every_requirement_at_its_pinned_version(required, constraints):
    assert required.items() <= constraints.items()


def test_installed_packages_have_the_constrained_versions(required, constraints):
    installed = {}
    for name in constraints:
        try:
            installed[name] = Version(version(name)).public  # without the local part: torch's +cpu, +cu130
        except PackageNotFoundError:
            assert name not in required, f"{name} is not installed: {INSTALL}"
    assert installed == {name: constraints[name] for name in installed}


def test_the_installed_package_is_this_repository(tmp_path):
    command = [sys.executable, "-c", "import lib; print(lib.__path__[0])"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)  # in the root any lib/ would do
    assert found.returncode == 0, f"lss is not installed: {INSTALL}\n{found.stderr}"
    assert Path(found.stdout.strip()).resolve() == ROOT / "lib"


def test_a_plan_is_made_without_the_libraries_that_take_seconds_to_load():
    code = (
        "import lib.datasets.check, lib.study.suites, lib.study.tables, sys; "
        "print(*{'torch', 'sklearn', 'transformers'} & sys.modules.keys())"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        == "\n"
    )


def test_lib_shows_the_method_and_its_rooms():
    assert sorted(path.stem for path in (ROOT / "lib").glob("*.py")) == sorted(["__init__", *METHOD])
    assert sorted(path.parent.name for path in (ROOT / "lib").glob("*/__init__.py")) == ROOMS


def test_rooms_import_downwards():
    """The contracts of pyproject.toml."""
    found = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout + found.stderr


# How long they still are; none may grow, and no other may pass 320 lines.
LONG = {"lib/backbone.py": 388, "lib/run/fields.py": 350, "lib/train.py": 436}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_short(path):
    assert path.read_text().count("\n") <= LONG.get(str(path.relative_to(ROOT)), 320)


def test_no_name_hides_another_in_lib_and_tests_nor_in_the_snakefile(tmp_path):
    """Also B023 in the Snakefile, as the Python that Snakemake makes of it: a command that is filled in after the
    loop around its rule would have the last value of the loop's variable."""
    snakefile = subprocess.run(
        [sys.executable, "-m", "snakemake", "--print-compilation"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (tmp_path / "snakefile.py").write_text(snakefile.stdout)
    # Snakemake's; `input` is its argument
    own = 'builtins=["ancient", "config", "expand", "shell", "update", "workflow"]'
    for what in (
        ["lib", "workflow", "tests", "notebooks"],
        [
            tmp_path / "snakefile.py",
            "--config",
            "pyproject.toml",
            "--extend-select",
            "B023",
            "--ignore",
            "A002,I001,E501",
            "--config",
            own,
        ],
    ):
        found = subprocess.run(
            [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise", *what],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert found.returncode == 0, found.stdout + found.stderr
    # ruff says nothing of an import that was used before it is hidden
    tree = ast.parse(snakefile.stdout)
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    bound = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    bound |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    assert "path_of" in bound and not imported & bound


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_thin_parameterised_and_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) <= 15
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
    assert not any(cell.outputs or cell.execution_count for cell in code)
    for cell in code:
        assert "!pip" not in cell.source and "%pip" not in cell.source
        plain_python = TransformerManager().transform_cell(cell.source)
        for node in ast.walk(ast.parse(plain_python)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < 5, f"{node.name} belongs in lib"
