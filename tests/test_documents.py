"""What the documents say is so: tables, paths, and every command, as far as it can be run in seconds."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import layouts
import numpy as np
import pandas as pd
import pytest
import yaml

from lib.run.params import load

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    ROOT / name
    for name in ("README.md", "MODEL_CARD.md", "CONTRIBUTING.md", "CHANGELOG.md", "outputs/published/speed/README.md")
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
    elif program not in ("mkdir", "touch"):
        assert program == "conda" and (ROOT / arguments[arguments.index("-f") + 1]).exists()


def test_the_citation_file_is_valid():
    """By cffconvert, which needs older versions of what the notebooks need: an environment of its own (`pipx install cffconvert`)."""
    if not shutil.which("cffconvert"):
        pytest.skip("no cffconvert: pipx install cffconvert")
    assert "valid" in run("cffconvert", "--validate")


def test_the_models_in_the_card_have_the_accuracies_of_their_records():
    rows = re.findall(
        r"^\| \[\d\]\((.*?)\) \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \|$",
        (ROOT / "MODEL_CARD.md").read_text(),
        re.MULTILINE,
    )
    assert len(rows) == 3
    for folder, *said in rows:
        record = json.loads((ROOT / folder / "record.json").read_text())
        assert said == [
            f"{record['parameters']:,}",
            *(f"{record['stills'][name]:.1f}" for name in ("top1", "up_to_direction")),
        ]


def test_the_results_in_the_readme_are_the_generated_table():
    readme = (ROOT / "README.md").read_text()
    shown = re.search(r"<!-- results -->\n(.*?)\n<!-- /results -->", readme, re.DOTALL)[1]
    table = ROOT / "outputs/published/embedded/objectives/tables/objectives.md"
    assert shown.strip() == (table.read_text().strip() if table.exists() else "not run")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_and_notebook_that_a_document_names_exists(path):
    text = path.read_text()
    named = [ROOT / name for name in re.findall(r"`((?:lib|params|notebooks|tests)/[\w./-]*)`", text)]
    named += [ROOT / "notebooks" / f"{name}.ipynb" for name in re.findall(r"`(\d\d_\w+)`", text)]
    named += [path.parent / name for name in re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", text)]
    assert named and not [place for place in named if not place.exists() and place.stem != "mine"]  # the reader's own


def test_what_the_papers_run_costs_is_said_as_it_was_computed():
    text = (ROOT / "outputs/published/speed/README.md").read_text()
    shown = re.findall(r"^\| (\d+) \| (\d) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    cost = pd.read_csv(ROOT / "outputs/published/speed/cost.csv")
    assert shown == [
        (f"{row[0]:.0f}", f"{row[1]:.0f}", f"{row[3]:.3g}", f"{row[4]:.1f}", f"{row[5]:.1f}") for row in cost.to_numpy()
    ]
    measured = pd.read_csv(ROOT / "outputs/published/speed/gpu.csv").set_index("variant").loc["as shipped"]
    for page in (text, (ROOT / "README.md").read_text().replace("**", "")):
        assert (
            f"{measured['videos_per_s']:.1f} videos a second" in page
            and f"{measured['hours_of_the_run']:.0f} hours" in page
        )


def test_the_lines_that_name_ones_own_videos_run_as_they_stand(tmp_path, monkeypatch, capsys):
    readme = (ROOT / "README.md").read_text()
    (lines,) = (block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "zero_shot" in block)
    assert len(lines.splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    files = [name for name in re.findall(r'"([\w/]+\.mp4)"', lines)]
    for clip, name in zip(layouts.clips(), files):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(clip, tmp_path / name)
    names = {}
    exec(lines, names)
    table, labels = names["table"], list(names["table"].columns[5:])
    assert len(files) >= 2 and table["video"].tolist() == files and (table["error"] == "").all()
    assert set(table["prediction"]) <= set(labels) and np.allclose(table[labels].sum(axis=1), 1)
    assert all(name in capsys.readouterr().out for name in files[:1])


def test_the_ablation_that_the_readme_adds_can_be_added_as_it_stands():
    diff = re.search(r"```diff\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    name = re.search(r"\+\+\+ b/(params/ablations/\w+\.yaml)", diff)[1]
    assert not (ROOT / name).exists()
    load(profile="embedded", **yaml.safe_load(re.search(r"^ *\+(\w+: .*)$", diff, re.MULTILINE)[1]))
    (removed,) = re.findall(r"^  -( .*)$", diff, re.MULTILINE)
    assert f"\n{removed}\n" in (ROOT / "params/suites/embedded.yaml").read_text()


def test_the_profile_of_ones_own_videos_fits_on_the_papers():
    block = re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    assert load(profile="paper", **yaml.safe_load(textwrap.dedent("  " + block.lstrip()))).dataset == "folder"
