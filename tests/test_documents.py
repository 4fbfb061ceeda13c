"""What the documents say is so: tables, paths, and every command, as far as it can be run in seconds."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import layouts
import numpy as np
import pandas as pd
import pytest
import yaml

from lib.run.params import load

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PARAMS = ROOT / "params/README.md"
DOCUMENTS = [
    README,
    *(ROOT / name for name in ("MODEL_CARD.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(ROOT / room / "README.md" for room in ("lib", "params", "notebooks", "outputs", "outputs/published/speed")),
]
PROGRAMS = r"(?:[A-Z_]+=\S+ )*(?:make|papermill|pip|conda|python3?|torchrun|tensorboard|\.venv/bin/\w+)(?: |$)"


def commands() -> list[str]:
    """Every command of the documents: the lines of their bash blocks, and what stands between backticks and is one."""
    found = []
    for path in DOCUMENTS:
        text = path.read_text()
        for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
            found += [line.strip() for line in block.splitlines() if line.strip()]
        words = [
            " ".join(code.split()) for code in re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        ]
        found += [code for code in words if re.match(PROGRAMS, code)]
    return sorted({part for line in found for part in re.sub(r"\s+#.*", "", line).split(" && ")})


def run(*words: str, **environment: str) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(
        words, cwd=ROOT, env=os.environ | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_documents_is_one(command, tmp_path):
    """Those that take longer than seconds, or need a network or a GPU, up to where they would begin."""
    words = shlex.split(command)
    while "=" in words[0]:
        words.pop(0)
    program, arguments = Path(words[0]).name, words[1:]
    if program == "make":
        settings = dict(word.split("=", 1) for word in arguments if "=" in word)
        for name, where in (("PROFILE", "profiles"), ("SUITE", "suites")):
            for value in settings.get(name, "").split("+"):
                assert value in ("", "mine") or (ROOT / "params" / where / f"{value}.yaml").exists(), value
        known = re.findall(r"^([A-Z]+)\s*\?=", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert settings.keys() <= set(known)
        run("make", "--dry-run", "--always-make", *arguments)
    elif program == "papermill":
        if "<name>" in arguments[0]:
            return
        if "--help-notebook" in arguments:
            assert "Parameters inferred for notebook" in run(sys.executable, "-m", "papermill", *arguments)
            return
        arguments[1] = str(tmp_path / arguments[1])
        said = run(sys.executable, "-m", "papermill", *arguments, "--prepare-only")
        assert "unknown parameter" not in said, said
    elif program == "snakemake":
        if "--profile" in arguments:  # a cluster's: its plugin is not part of the tests' environment
            assert yaml.safe_load((ROOT / arguments[1] / "config.yaml").read_text())["executor"] == "slurm"
        else:
            assert re.search(
                "total|Nothing to be done", run(sys.executable, "-m", "snakemake", "--dry-run", *arguments, "--nolock")
            )
    elif program in ("pip", "python3"):
        extras = re.findall(r"^\.\[(\w+)\]$", arguments[-1])
        assert (
            set(extras)
            <= tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"].keys()
        )
        run(sys.executable, "-m", arguments[1] if arguments[0] == "-m" else "pip", "--help")
    elif program == "python":  # tests that are asked for by name are there
        run(sys.executable, *arguments, *(["--collect-only", "-q"] if "pytest" in arguments else ["--help"]))
    elif program == "torchrun":
        module = arguments[arguments.index("-m") + 1]
        said = run(sys.executable, "-m", module, "--help")
        assert all(word in said for word in arguments[arguments.index(module) :] if word.startswith("--"))
        said = run(sys.executable, "-m", "torch.distributed.run", "--help")
        assert all(word in said for word in arguments[: arguments.index(module)] if word.startswith("--"))
    elif program == "cp":
        assert (ROOT / arguments[1]).exists()
    elif program == "tensorboard":
        assert arguments[0] in run(sys.executable, "-m", "tensorboard.main", "--help")
    elif program == "git":
        assert arguments[0] == "clone"
    elif program == "lint-imports":
        assert Path(sys.executable).with_name(program).exists()
    elif program not in ("mkdir", "touch", "cd"):
        assert program == "conda" and (ROOT / arguments[arguments.index("-f") + 1]).exists()


def test_the_citation_file_is_valid():
    """By cffconvert, which conflicts with the notebooks' versions: `pipx install cffconvert`."""
    if not shutil.which("cffconvert"):
        pytest.skip("no cffconvert: pipx install cffconvert")
    assert "valid" in run("cffconvert", "--validate")


def test_the_models_in_the_card_have_the_accuracies_of_their_records():
    rows = re.findall(
        r"^\| \[[\w, ]+\]\((.*?)\) \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \|$",
        (ROOT / "MODEL_CARD.md").read_text(),
        re.MULTILINE,
    )
    assert len(rows) == 4
    for folder, *said in rows:
        record = json.loads((ROOT / folder / "record.json").read_text())
        assert said == [
            f"{record['parameters']:,}",
            *(f"{record['stills'][name]:.1f}" for name in ("top1", "up_to_direction")),
        ]


def test_the_readme_is_short():
    assert len(README.read_text().split()) <= 1000


def test_the_figures_and_the_table_of_the_readme_are_those_that_its_notebook_makes(tmp_path):
    published = ROOT / "outputs/published/readme"
    notebook = str(ROOT / "notebooks/92_readme.ipynb")
    run(
        sys.executable,
        "-m",
        "papermill",
        notebook,
        str(tmp_path / "out.ipynb"),
        "-k",
        "python3",
        "-p",
        "output",
        str(tmp_path),
    )
    for file in published.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes(), (
            f"run 92_readme: {file.name} is of other numbers"
        )
    shown = re.search(r"<!-- results -->\n(.*?)<!-- /results -->", README.read_text(), re.DOTALL)[1]
    assert shown == (published / "results.md").read_text()


def test_the_gains_in_the_table_are_differences_of_its_accuracies():
    rows = [line.strip("| \n").split("|") for line in (ROOT / "outputs/published/readme/results.md").open()][2:]
    accuracies = {name.strip(): [float(cell) for cell in cells[:2]] for name, *cells in rows}
    for name, *cells in rows:
        for cell, ours, theirs in zip(cells[2:], accuracies["LSS"], accuracies[name.strip()]):
            if gain := re.search(r"[+−][\d.]+", cell):
                assert float(gain[0].replace("−", "-")) == pytest.approx(ours - theirs, abs=0.11)


def test_the_headline_of_the_readme_is_that_of_its_table():
    text = README.read_text()
    (row,) = re.findall(r"^\| image CLIP .*$", text, re.MULTILINE)
    expected = [number for gain in row.split("|")[4:6] for number in re.findall(r"\d+\.\d", gain)]
    headline = re.search(r"\*\*Does it work\?\*\*.*", text)[0]
    assert re.findall(r"\d+\.\d", headline) == expected


def test_the_equations_of_the_readme_link_to_their_lines():
    links = re.findall(r"\[`(\w+)`\]\(([\w/.]+)#L(\d+)\)", README.read_text())
    assert {name for name, *_ in links} >= {"pairwise_cross_entropy", "concept_alignment", "UniformPrior"}
    for name, file, line in links:
        shown = (ROOT / file).read_text().splitlines()[int(line) - 1]
        assert re.match(rf"(def|class) {name}\b", shown), f"{name} is not in line {line} of {file}: {shown}"


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_and_notebook_that_a_document_names_exists(path):
    text = path.read_text()
    named = [ROOT / name for name in re.findall(r"`((?:lib|params|notebooks|tests|workflow)/[\w./-]*)`", text)]
    notebooks = {notebook.stem for notebook in (ROOT / "notebooks").rglob("*.ipynb")}
    assert set(re.findall(r"`(\d\d_\w+)`", text)) <= notebooks
    links = re.findall(r"\]\(([\w./-]*)(?:#([\w-]+))?\)", text)
    links += [(name, "") for name in re.findall(r'src(?:set)?="([\w./-]+)"', text)]
    named += [path.parent / name for name, _ in links]
    assert named and not [place for place in named if not place.exists() and place.stem != "mine"]  # the reader's own
    for name, anchor in links:
        if anchor and not re.match(r"L\d+$", anchor):
            assert anchor in anchors(path.parent / name if name else path), (name, anchor)


def test_every_room_file_and_notebook_has_its_place_in_the_readme_of_its_folder():
    house = (ROOT / "lib/README.md").read_text()
    methods = [path.name for path in (ROOT / "lib").glob("[a-z]*.py")]
    rooms = [f"{path.parent.name}/" for path in (ROOT / "lib").glob("*/__init__.py")]
    assert [name for name in methods + rooms if f"[{name}](" not in house] == []
    page = (ROOT / "notebooks/README.md").read_text()
    notebooks = [str(path.relative_to(ROOT / "notebooks")) for path in (ROOT / "notebooks").rglob("*_*.ipynb")]
    assert [name for name in notebooks if f"({name})" not in page] == []
    page = PARAMS.read_text()
    names = [path.stem for folder in ("suites", "profiles") for path in (ROOT / "params" / folder).glob("*.yaml")]
    assert [name for name in names if f"`{name}`" not in page and name != "mine"] == []


def test_the_layers_of_the_house_are_those_that_are_checked():
    (contract,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = " > ".join(contract["layers"]).replace("lib.", "")
    text = " ".join((ROOT / "lib/README.md").read_text().replace("`", "").split())
    assert layers in text


def test_what_the_papers_run_costs_is_said_as_it_was_computed():
    text = (ROOT / "outputs/published/speed/README.md").read_text()
    shown = re.findall(r"^\| (\d+) \| (\d) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    cost = pd.read_csv(ROOT / "outputs/published/speed/cost.csv")
    assert shown == [
        (f"{row[0]:.0f}", f"{row[1]:.0f}", f"{row[3]:.3g}", f"{row[4]:.1f}", f"{row[5]:.1f}") for row in cost.to_numpy()
    ]
    measured = pd.read_csv(ROOT / "outputs/published/speed/gpu.csv").set_index("variant").loc["as shipped"]
    hours = f"{measured['hours_of_the_run']:.0f} hours"
    for page in (text, (ROOT / "outputs/README.md").read_text().replace("**", "")):
        assert f"{measured['videos_per_s']:.1f} videos a second" in page and hours in page
    short = measured["hours_of_the_run"] * load(profile="paper").epochs / 20
    assert f"{short:.0f} hours" in README.read_text() and f" {short:.0f}" in text


def test_the_operations_of_a_step_are_stated_as_they_were_counted():
    folder = ROOT / "outputs/published/speed"
    totals = pd.read_csv(folder / "ops.csv").groupby("micro_batches")["count"].sum()
    assert list(totals.index) == [1, 2, 8]
    assert all(f"{total:,}" in (folder / "README.md").read_text() for total in totals)


def test_the_lines_that_name_ones_own_videos_run_as_they_stand(tmp_path, monkeypatch, capsys):
    (lines,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(lines.splitlines()) <= 8
    world = load(profile="embedded").data_embedded
    files = re.findall(r'"([\w/.-]+\.mp4)"', lines)
    assert len(files) == 2 and all(name.startswith(f"{world}/test/") for name in files)
    monkeypatch.chdir(tmp_path)
    for clip, name in zip(layouts.clips(), files):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(clip, tmp_path / name)
    names = {}
    exec(lines.replace("outputs/embedded/runs/lss/world0-seed0/teacher", "outputs/embedded/clip/0"), names)
    table = names["table"]
    labels = list(table.columns[5:])
    assert table["video"].tolist() == files and (table["error"] == "").all()
    assert set(table["prediction"]) <= set(labels) and np.allclose(table[labels].sum(axis=1), 1)
    printed = [line.split() for line in capsys.readouterr().out.strip().splitlines()[-3:]]
    shown = re.search(r"```\n( +prediction.*?)```", README.read_text(), re.DOTALL)[1].splitlines()
    assert printed[0] == shown[0].split() and len(printed) == len(shown)


def test_the_ablation_that_the_documents_add_can_be_added_as_it_stands():
    diff = re.search(r"```diff\n(.*?)```", PARAMS.read_text(), re.DOTALL)[1]
    name = re.search(r"\+\+\+ b/(params/ablations/\w+\.yaml)", diff)[1]
    assert not (ROOT / name).exists()
    load(profile="embedded", **yaml.safe_load(re.search(r"^\+(\w+: .*)$", diff, re.MULTILINE)[1]))
    (removed,) = re.findall(r"^-( .*)$", diff, re.MULTILINE)
    assert f"\n{removed}\n" in (ROOT / "params/suites/embedded.yaml").read_text()


def test_the_profile_of_ones_own_videos_fits_on_the_papers():
    block = re.search(r"```yaml\n(.*?)```", PARAMS.read_text(), re.DOTALL)[1]
    assert load(profile="paper", **yaml.safe_load(block)).dataset == "folder"
