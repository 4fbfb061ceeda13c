"""`make gallery`: executes the notebooks that show the method, and writes each as a self-contained page, with an index.

python -m workflow.gallery [notebook ...]
"""

import base64
import io
import re
import sys

import nbformat
import papermill
from matplotlib.mathtext import math_to_image
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from PIL import Image

from lib.run.files import whole_file, write_text
from lib.run.params import ROOT

# each notebook, and which of its pictures the index shows
SHOWN = {"00_tour": 1, "01_concepts": 0, "02_adapt": 1, "03_evaluate": 0, "04_your_experiment": 0, "20_your_videos": 0}
FOLDER = ROOT / "outputs/gallery"
STYLE = """<style>
.jp-Notebook { max-width: 60rem; margin: auto; }
.jp-InputPrompt, .jp-OutputPrompt { display: none; }
.jp-RenderedImage img { max-width: 100%; height: auto; }
.jp-RenderedHTMLCommon, .jp-OutputArea-output { overflow-x: auto; }
.jp-RenderedText pre { white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 40rem) { body.jp-Notebook { padding: 0 0.5rem; } .jp-Cell { padding: 0.3rem 0; } }
</style></head>"""


def _formula(found: re.Match) -> str:
    """A TeX formula as an inline picture: MathJax would be fetched from the network."""
    display, inline = found.groups()
    picture = io.BytesIO()
    depth = math_to_image(f"${display or inline}$", picture, format="svg")
    source = base64.b64encode(picture.getvalue()).decode()
    style = "display: block; margin: auto; max-width: 100%" if display else f"vertical-align: -{depth:.1f}pt"
    return f'<img alt="formula" style="{style}" src="data:image/svg+xml;base64,{source}">'


def _small(png: str) -> str:
    """A base64 PNG with a palette of 256 colours."""
    small = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").quantize(256).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def page(executed: NotebookNode, title: str) -> str:
    """An executed notebook as HTML: progress bars in their last state, small pictures, no path of this machine."""
    for cell in executed.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\$\$(.+?)\$\$|\$([^$`]+)\$", _formula, cell.source)
            continue
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for data in (output.data for output in cell.outputs if "image/png" in output.get("data", {})):
            data["image/png"] = _small(data["image/png"])
    exporter = HTMLExporter(embed_images=True, exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.register_preprocessor("nbconvert.preprocessors.CoalesceStreamsPreprocessor", enabled=True)
    body, _ = exporter.from_notebook_node(executed, {"metadata": {"name": title}})
    body = re.sub(
        r"<script.*?</script>", "", body, flags=re.DOTALL
    )  # of formulas, widgets and diagrams, from the network
    return body.replace("</head>", STYLE, 1).replace(f"{ROOT}/", "")


def pictures(executed: NotebookNode) -> list[bytes]:
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    return [base64.b64decode(output.data["image/png"]) for output in outputs if "image/png" in output.get("data", {})]


def index() -> str:
    """Titles, claims and a picture of the notebooks, as Markdown."""
    lines = ["# Gallery", "", "The notebooks as executed by `make gallery`, each a self-contained page of HTML."]
    lines += [
        "GitHub shows the source of such pages: clone the repository, or download a page, and open it in a browser."
    ]
    for name in SHOWN:
        title, claim = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4).cells[0].source.split("\n\n")[:2]
        lines += ["", f"#{title}", "", claim, "", f"[Page]({name}.html) · [notebook](../../notebooks/{name}.ipynb)", ""]
        lines += [f"![A figure of {name}]({name}.png)"]
    return "\n".join(lines) + "\n"


def main(names: list[str]) -> None:
    for name in names or SHOWN:
        notebook = ROOT / f"notebooks/{name}.ipynb"
        executed = papermill.execute_notebook(notebook, None, kernel_name="python3", cwd=ROOT)
        write_text(FOLDER / f"{name}.html", page(executed, name))
        with whole_file(FOLDER / f"{name}.png") as partial:
            partial.write_bytes(pictures(executed)[SHOWN[name]])
        print(f"outputs/gallery/{name}.html")
    write_text(FOLDER / "README.md", index())


if __name__ == "__main__":
    main(sys.argv[1:])
