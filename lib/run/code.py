"""Which code it is that computes: the commit, and a hash of the sources, which is there without git too."""

import ast
import hashlib
import shutil
import subprocess
from functools import cache
from pathlib import Path

from lib.run.params import ROOT

# they choose, carry and record: a change there changes no number (and of which files there are, records have hashes)
NO_NUMBERS = {
    "run.values",
    "run.fields",
    "run.files",
    "run.code",
    "run.params",
    "run.records",
    "datasets.folders",
    "datasets.lists",
    "datasets.kinetics",
    "datasets.official",
    "datasets.preflight",
}


def commit() -> str:
    """The commit that is checked out, with "+" and six hex digits over what was changed since; "unversioned" without one."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, errors="replace")
        return done.stdout.strip() if done.returncode == 0 else ""

    # an unpacked archive, perhaps in somebody's own repository, has none
    if (
        not shutil.which("git")
        or not git("ls-files", "lib/run/code.py")
        or not (head := git("rev-parse", "--short=10", "HEAD"))
    ):
        return "unversioned"
    # a change to what computes makes the commit's name a half-truth; tables and documents do not compute, and one's own
    # profiles and ablations stand in the record with all their values
    changed = git("diff", "HEAD", "--", "lib", "params", "constraints.txt") + git(
        "ls-files", "--others", "--exclude-standard", "lib"
    )
    return head + (f"+{hashlib.sha256(changed.encode()).hexdigest()[:6]}" if changed else "")


@cache
def code_hash(module: str) -> str:
    """Twelve hex digits over a module of `lib` ("evaluation.features") and all that it imports there but `NO_NUMBERS`, comments and layout aside.

    They are of the syntax tree, which another Python may write otherwise: then it is other code.
    """
    todo, found = [_path(f"lib.{module}")], {}
    excluded = {_path(f"lib.{name}") for name in NO_NUMBERS}
    while todo:
        path = todo.pop()
        if path in found or path in excluded or not path.exists():
            continue
        tree, names = ast.parse(path.read_bytes()), []
        found[path] = ast.dump(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        todo += [_path(name) for name in names if name.startswith("lib.")]
    return hashlib.sha256("\n".join(found[path] for path in sorted(found)).encode()).hexdigest()[:12]


def _path(name: str) -> Path:
    """Of a module, from its dotted name."""
    return ROOT / f"{name.replace('.', '/')}.py"
