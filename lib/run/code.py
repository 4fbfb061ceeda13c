"""The version of the code: its commit, and a hash of the sources (also without git). Imports no torch: plans use it."""

import ast
import hashlib
import shutil
import subprocess
from functools import cache
from pathlib import Path

from lib.run.params import ROOT

# These choose, carry and record: a change there changes no number. (Records have hashes of the files that were chosen.)
NO_NUMBERS = "values scene fields files code params records checkpoints tensors fingerprint"
NO_NUMBERS = {f"run.{name}" for name in NO_NUMBERS.split()}
NO_NUMBERS |= {f"datasets.{name}" for name in ("folders", "lists", "kinetics", "crowdsourced", "official", "preflight")}


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, errors="replace")
    return done.stdout.strip() if done.returncode == 0 else ""


def commit() -> str:
    """The commit, with "+" and six hex digits over later changes to what computes; "unversioned" in an archive."""
    here = shutil.which("git") and _git("ls-files", "lib/run/code.py")  # else perhaps of another repository
    head = _git("rev-parse", "--short=10", "HEAD") if here else ""
    if not head:
        return "unversioned"
    changes = _git("diff", "HEAD", "--", "lib", "params", "constraints.txt")
    changes += _git("ls-files", "--others", "--exclude-standard", "lib")
    return head + (f"+{hashlib.sha256(changes.encode()).hexdigest()[:6]}" if changes else "")


@cache
def code_hash(module: str) -> str:
    """Twelve hex digits over a module of `lib` ("evaluation.features") and what it imports there, but `NO_NUMBERS`.

    They are of the syntax tree: comments and layout do not count, another version of Python may give another hash.
    """
    excluded = {_path(f"lib.{name}") for name in NO_NUMBERS}
    todo, trees = [_path(f"lib.{module}")], {}
    while todo:
        path = todo.pop()
        if path in trees or path in excluded or not path.exists():
            continue
        tree = ast.parse(path.read_bytes())
        trees[path] = ast.dump(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("lib"):
                todo += [_path(node.module), *(_path(f"{node.module}.{alias.name}") for alias in node.names)]
    return hashlib.sha256("\n".join(trees[path] for path in sorted(trees)).encode()).hexdigest()[:12]


def _path(module: str) -> Path:
    return ROOT / f"{module.replace('.', '/')}.py"
