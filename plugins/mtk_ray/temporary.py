"""The folders of private Rays: one is its process's that holds the lock beside it; where none does, it was left."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

_PREFIX = "mtk-ray-"


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A new folder, gone afterwards; its path is short, since those of Ray's sockets may have 107 bytes."""
    sweep()
    own = _root() / f"{_PREFIX}{secrets.token_hex(4)}"
    with FileLock(_lock(own)):  # before the folder, so that nobody takes it for a left one
        own.mkdir(mode=0o700)
        try:
            yield own
        finally:
            _remove(own)


def sweep() -> None:
    """Removes what processes left that were killed."""
    for own in _root().glob(f"{_PREFIX}*/"):
        with contextlib.suppress(Timeout, OSError), FileLock(_lock(own), blocking=False):  # OSError: somebody else's
            _remove(own)


def _remove(own: Path) -> None:
    shutil.rmtree(own, ignore_errors=True)
    if not own.exists():
        _lock(own).unlink(missing_ok=True)


def _lock(own: Path) -> Path:
    return own.with_name(f"{own.name}.lock")


def _root() -> Path:
    short = Path("/tmp")
    return short if short.is_dir() else Path(tempfile.gettempdir())
