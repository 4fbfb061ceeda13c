import re
from pathlib import Path

import numpy as np

from lib.world import render

ROOT = Path(__file__).resolve().parents[1]


def test_the_results_in_the_readme_are_the_generated_table():
    readme = (ROOT / "README.md").read_text()
    shown = re.search(r"<!-- results -->\n(.*?)\n<!-- /results -->", readme, re.DOTALL)[1]
    table = ROOT / "outputs" / "embedded" / "tables" / "objectives.md"
    assert shown.strip() == (table.read_text().strip() if table.exists() else "not run")


def test_every_path_and_notebook_that_the_readme_names_exists():
    readme = (ROOT / "README.md").read_text()
    named = re.findall(r"`((?:lib|params|notebooks|tests)/[\w./-]*)`", readme) + re.findall(r"\]\(([\w./-]+)\)", readme)
    named += [f"notebooks/{name}.ipynb" for name in re.findall(r"`(\d\d_\w+)`", readme)]
    assert named and not [name for name in named if not (ROOT / name).exists()]


def test_the_lines_that_name_ones_own_videos_run_as_they_stand(tmp_path, monkeypatch, write_video, capsys):
    readme = (ROOT / "README.md").read_text()
    (lines,) = (block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "zero_shot" in block)
    assert len(lines.splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    files = [name for name in re.findall(r'"([\w/]+\.mp4)"', lines)]
    for seed, name in enumerate(files):
        frames, _ = render("walk", np.random.default_rng(seed), size=64, num_frames=24, fps=12, still=False,
                           difficulty=0.0)
        write_video(tmp_path / name, frames)
    names = {}
    exec(lines, names)
    table, labels = names["table"], list(names["table"].columns[5:])
    assert len(files) >= 2 and table["video"].tolist() == files and (table["error"] == "").all()
    assert set(table["prediction"]) <= set(labels) and np.allclose(table[labels].sum(axis=1), 1)
    assert all(name in capsys.readouterr().out for name in files[:1])
