"""The two notebooks for readers, as a reader meets them: `make lab` in a browser, Run All, pictures on a small screen.

Optional: it needs Playwright and a Chromium (`pip install playwright`, and `playwright install chromium` or the
system's). It takes some minutes. The screenshots stay in pytest's temporary folder.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import threading

import nbformat
import pytest

from lib.run.params import ROOT

playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
SCREEN = {"width": 1280, "height": 800}
RUN_ALL = """async () => {
    const panel = window.jupyterapp.shell.currentWidget;
    await panel.context.ready;
    await panel.sessionContext.ready;
    await window.jupyterapp.commands.execute('runmenu:run-all');
    await window.jupyterapp.commands.execute('docmanager:save');
    return panel.sessionContext.session.kernel.name;
}"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """What `make lab` starts, in a repository that has all of this one committed: its address, the repository's
    folder."""
    root, place = tmp_path_factory.mktemp("a repository"), tmp_path_factory.mktemp("settings")
    for name in ("lib", "workflow", "notebooks", "params", "outputs/embedded/clip/0", ".gitignore"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, root / name)
    for words in (["init"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "all"]):
        subprocess.run(["git", *words], cwd=root, check=True, capture_output=True)
    settings = {
        "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
        "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
    }
    (place / "overrides.json").write_text(json.dumps(settings))
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "workflow.lab",
            "--no-browser",
            "--port=0",
            "--expose-app-in-browser",
            f"--LabApp.app_settings_dir={place}",
        ],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        log = []
        for line in process.stderr:
            log.append(line)
            if address := re.search(r"(http://127\.0\.0\.1:\d+)/lab\S*\?token=(\w+)", line):
                break
        else:
            pytest.fail("JupyterLab did not start:\n" + "".join(log))
        threading.Thread(target=process.stderr.read, daemon=True).start()  # else a full pipe stops it
        yield *address.groups(), root
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        flags = [
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
        ]
        try:
            chromium = driver.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        except playwright.Error as error:
            pytest.skip(f"no Chromium (playwright install chromium): {str(error).splitlines()[0]}")
        yield chromium
        chromium.close()


@pytest.mark.parametrize(("name", "figures"), [("00_tour", 10), ("20_your_videos", 3)])
def test_run_all_in_jupyterlab_shows_every_figure_within_the_screen(lab, browser, tmp_path, name, figures):
    address, token, folder = lab
    page = browser.new_page(viewport=SCREEN)
    page.goto(f"{address}/lab/tree/notebooks/{name}.ipynb?token={token}&reset")
    page.wait_for_selector(".jp-NotebookPanel .jp-CodeCell", timeout=120_000)
    assert page.evaluate(RUN_ALL) == "python3"

    shown = nbformat.read(folder / "outputs" / "notebooks" / f"{name}.ipynb", as_version=4)
    cells = [cell for cell in shown.cells if cell.cell_type == "code"]
    errors = ["\n".join(output.traceback) for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert not errors, errors[0]
    assert all(cell.execution_count for cell in cells)
    assert subprocess.run(["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True).stdout == ""

    page.reload()  # from the file, which has no outputs, and what lies beside it
    page.wait_for_selector(".jp-NotebookPanel .jp-OutputArea-output img", timeout=120_000)
    pictures = page.locator(".jp-NotebookPanel .jp-OutputArea-output img")
    assert pictures.count() == figures
    for number in range(figures):
        picture = pictures.nth(number)
        picture.scroll_into_view_if_needed()
        box = picture.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= SCREEN["width"]
        assert 100 < box["height"] < SCREEN["height"]
        page.screenshot(path=tmp_path / f"{name}-{number}.png")
    page.close()
