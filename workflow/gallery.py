"""`make gallery`: executes the notebooks that show the method, and writes each as a self-contained page.

python -m workflow.gallery [notebook ...]
"""

import base64
import io
import re
import sys

import papermill
from matplotlib.mathtext import math_to_image
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from PIL import Image

from lib.run.files import write_text
from lib.run.params import ROOT

SHOWN = ["00_tour", "01_concepts", "02_adapt", "03_evaluate", "04_your_experiment", "20_your_videos"]
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
    exporter.mathjax_url = ""
    exporter.register_preprocessor("nbconvert.preprocessors.CoalesceStreamsPreprocessor", enabled=True)
    body, _ = exporter.from_notebook_node(executed, {"metadata": {"name": title}})
    return body.replace("</head>", STYLE, 1).replace(f"{ROOT}/", "")


def main(names: list[str]) -> None:
    for name in names or SHOWN:
        notebook = ROOT / f"notebooks/{name}.ipynb"
        executed = papermill.execute_notebook(notebook, None, kernel_name="python3", cwd=ROOT)
        write_text(FOLDER / f"{name}.html", page(executed, name))
        print(FOLDER / f"{name}.html")


if __name__ == "__main__":
    main(sys.argv[1:])
