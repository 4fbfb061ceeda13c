import re
from pathlib import Path

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
