"""A decoder that fails as badly as one can: it ends its process where a file's name says so."""

import os
import signal
from pathlib import Path
from typing import Any

from lib.video import manifest

ENTRY = manifest.entry


def entry(path: Path, name: str) -> dict[str, Any]:
    """`manifest.entry`, but "killer" in a name is fatal."""
    if "killer" in name:
        os.kill(os.getpid(), signal.SIGSEGV)
    return ENTRY(path, name)
