"""The targets of `make` for a suite: plan and run it, report its progress, publish it.

    PROFILE=ucf101 DATA=/path/to/UCF-101 python -m workflow.make reproduce

Settings are environment variables, which make exports: no value passes through the text of a shell command.
"""

import difflib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from lib.datasets import check
from lib.run.files import alone_in, results_folder
from lib.run.params import ROOT, ParamsError, elsewhere
from lib.study.suites import Run, folder_of, progress, read_suite, runs_of, state_of

PUBLISHED = ROOT / "outputs" / "published"


class Settings(NamedTuple):
    """The variables of the Makefile; an empty one means the default."""

    profile: str
    suite: str
    data: str
    cores: int
    devices: str
    gpus: str
    cluster: str

    @classmethod
    def read(cls, target: str, environment: Mapping[str, str]) -> "Settings":
        """Raises ParamsError for an invalid value or a misspelt variable."""
        names = [name.upper() for name in cls._fields]
        # assignments on make's command line, as in `make profile=paper`
        for word in re.findall(r"(?<!\\)\s(\w+)=", environment.get("MAKEFLAGS", "")):
            if word not in names and (near := difflib.get_close_matches(word.upper(), names, n=1, cutoff=0.8)):
                raise ParamsError(f"{word}=: there is no such setting; did you mean {near[0]}=?")
        values = {name: environment.get(name.upper(), "") for name in cls._fields}
        values["profile"] = values["profile"] or "embedded"
        first = values["profile"].split("+")[0]
        study = first if first in ("embedded", "rendered") else "paper"
        if target == "pilot" and "pilot" not in values["profile"].split("+"):
            values["profile"] += "+pilot"
        values["suite"] = values["suite"] or {"ablations": study, "pilot": "pilot"}.get(target, "reproduce")
        for name in ("cores", "devices", "gpus"):
            if values[name] and not (values[name].isdecimal() and int(values[name])):
                raise ParamsError(f"{name.upper()}={values[name]}: expected a number of 1 or more")
        return cls(**{**values, "data": os.path.expanduser(values["data"]), "cores": int(values["cores"] or 2)})

    @property
    def overrides(self) -> dict[str, str]:
        return elsewhere(self.profile, self.data)

    def runs(self) -> list[Run]:
        return runs_of(read_suite(self.suite), self.profile, self.overrides)

    def results(self) -> Path:
        return results_folder(self.profile, self.overrides)


def snakemake(settings: Settings, *options: str) -> list[str]:
    """A call of Snakemake, which reads the environment (`configuration`)."""
    where = ["--profile", f"params/cluster/{settings.cluster}"] if settings.cluster else ["-c", str(settings.cores)]
    where += ["--resources", f"gpu={settings.gpus}"] if settings.gpus else []
    rerun = ["--rerun-incomplete", "--rerun-triggers", "mtime", "params", "input"]
    return [sys.executable, "-m", "snakemake", *where, *rerun, "--nolock", "--keep-going", *options]


def configuration(settings: Settings, **more: str) -> dict[str, str]:
    """The environment of a call of Snakemake. On its command line values would lose quotes and what follows a #."""
    config = {name: getattr(settings, name) for name in ("profile", "suite", "data", "devices", "cluster")} | more
    return os.environ | {"LSS_CONFIG": json.dumps(config)}


def call(command: list[str], environment: Mapping[str, str]) -> int:
    """Runs a command to its end and returns its exit status.

    Ctrl-C, SIGTERM and a closed terminal interrupt it with all its jobs, and then end this process: Snakemake by itself
    would wait for its jobs, and count them as failed.
    """
    # A script's background jobs ignore SIGINT, and so would all that they start.
    at_start = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, cwd=ROOT, env=environment, process_group=0) as process:
        signal.signal(signal.SIGINT, at_start)
        received = []

        def interrupt(number: int, _: object) -> None:
            received.append(number)
            os.killpg(process.pid, signal.SIGINT)

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        numbers = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores SIGHUP
        before = {number: signal.signal(number, interrupt) for number in numbers}
        try:
            status = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if received:
        sys.exit(128 + received[0])
    return status


def reproduce(settings: Settings, target: str) -> int:
    """Runs a suite with its tables, figures and report; if runs fail, these show the others.

    First a dry run checks the settings, then `workflow/planned.py` the data.
    """
    plan = subprocess.run(
        snakemake(settings, "--dry-run", "--quiet", "all"),
        cwd=ROOT,
        env=configuration(settings),
        text=True,
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if plan.returncode:
        print(plan.stdout, end="", file=sys.stderr)
        return 2
    if any(state_of(run)[0] != "done" for run in settings.runs()) and call(
        [sys.executable, "-m", "workflow.planned"], configuration(settings)
    ):
        return 2
    with alone_in(settings.results()):
        status = call(snakemake(settings), configuration(settings))
        if status <= 0 or status >= 128:  # done, or ended by a signal
            return abs(status)
        call(snakemake(settings), configuration(settings, partial="1"))
    print(f"make {target}: some runs failed (messages above); the tables are made from the others.", file=sys.stderr)
    return 1


def publish(settings: Settings) -> int:
    """Copies what a finished suite wrote to `outputs/published`, which the documents cite and git keeps."""
    suite, runs = read_suite(settings.suite), settings.runs()
    source = folder_of(suite, settings.profile, runs, settings.overrides)
    if source.name == "partial" or not (source / "report.html").exists():
        print(
            f"nothing was published: {progress(runs, at_once=settings.cores)}\n"
            f"make reproduce PROFILE={settings.profile} SUITE={settings.suite} finishes it",
            file=sys.stderr,
        )
        return 1
    target = PUBLISHED / settings.profile / suite.folder
    for name in ("tables", "figures", "records"):
        shutil.copytree(source / name, target / name, dirs_exist_ok=True)
    shutil.copy2(source / "report.html", target)
    print(f"published: {target.relative_to(ROOT)}; `git status` shows what is new")
    return 0


def main(target: str) -> int:
    try:
        settings = Settings.read(target, os.environ)
        if target in ("reproduce", "ablations", "pilot"):
            return reproduce(settings, target)
        if target == "publish":
            return publish(settings)
        if target == "check-data":
            return check.main([settings.profile, f"--data={settings.data}", "--workers", str(settings.cores)])
        print(
            f"profile {settings.profile}, suite {settings.suite}: {progress(settings.runs(), at_once=settings.cores)}"
        )
    except ValueError as error:  # of parameters, or a record that is cut short
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
