"""What a researcher runs on real data, on recorded clips laid out as the data sets of the field: every suite of every profile
is planned, and one of each kind of profile runs from `make reproduce` to its tables, figures and report."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_workflow import ROOT, Copy

PROFILES = sorted(path.stem for path in (ROOT / "params/profiles").glob("*.yaml"))
SUITES = sorted(path.stem for path in (ROOT / "params/suites").glob("*.yaml"))


class Clone(Copy):
    """A clone of the repository with its environment, as `make` leaves it."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy2(ROOT / name, folder)
        (folder / ".venv").mkdir()
        for entry in Path(sys.prefix).iterdir():
            if entry.name not in ("installed", ".lock"):
                (folder / ".venv" / entry.name).symlink_to(entry)
        (folder / ".venv" / "installed").touch()

    @property
    def environment(self) -> dict[str, str]:
        return {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "MAKE"))} | {"PYTHONPATH": str(self.folder)}

    def make(self, target: str, **variables: str) -> subprocess.CompletedProcess:
        return subprocess.run(["make", target, *(f"{name}={value}" for name, value in variables.items())], cwd=self.folder, text=True,
                              env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def plans(self, wanted: list[dict[str, str]]) -> list[tuple[int, str]]:
        """Exit status and output of the dry run of each of these settings, by one process that forks for each."""
        code = """if True:
            import json, os, sys, tempfile
            import snakemake.cli
            from lib import check, suites, tables, workflow
            for settings in json.load(sys.stdin):
                with tempfile.TemporaryFile() as said:
                    if not (pid := os.fork()):
                        os.dup2(said.fileno(), 1)
                        os.dup2(said.fileno(), 2)
                        try:
                            sys.argv = workflow.snakemake(workflow.Settings.read("reproduce", settings), "--dry-run")[2:]
                            status = snakemake.cli.main()
                        except SystemExit as end:
                            status = end.code
                        sys.stdout.flush(), sys.stderr.flush()
                        os._exit(status or 0)
                    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    said.seek(0)
                    print(json.dumps([status, said.read().decode()]), flush=True)
        """
        done = subprocess.run([sys.executable, "-c", code], cwd=self.folder, env=self.environment, text=True, check=True,
                              input=json.dumps(wanted), stdout=subprocess.PIPE)
        return [tuple(json.loads(line)) for line in done.stdout.splitlines()]
