"""Creates the environment of this project, `.venv`, and updates it when a pinned version has changed.

    python3 -m workflow.environment

Only the standard library, in a syntax that older versions of Python can read: they print that they are too old.
"""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv"
INSTALLED = FOLDER / "installed"  # as old as the last installation
PINNED = ("pyproject.toml", "constraints.txt")


def up_to_date():
    """Whether everything was installed since the pinned versions have changed."""
    return INSTALLED.exists() and all(INSTALLED.stat().st_mtime >= (ROOT / name).stat().st_mtime for name in PINNED)


def main():
    if sys.version_info < (3, 11):
        sys.exit(
            "Python 3.11 or newer is needed, but %s is %s: make PYTHON=<path of a newer python>"
            % (sys.executable, sys.version.split()[0])
        )
    if os.pathsep in str(ROOT):
        sys.exit(
            "%s: Python has no environments in a folder with a %s in its path: move this repository"
            % (ROOT, os.pathsep)
        )
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / ".lock").open("w") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("another process is setting up .venv; waiting for it to end", flush=True)
            fcntl.lockf(lock, fcntl.LOCK_EX)
        if up_to_date():
            return
        print("Setting up .venv: one to three minutes, plus the download", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(FOLDER)], check=True)
        pip = [str(FOLDER / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "--constraint", "constraints.txt", "--editable", ".[test]"], cwd=ROOT, check=True)
        INSTALLED.touch()


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as failed:
        sys.exit(failed.returncode)
