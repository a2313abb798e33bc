"""How a message names a plugin, and tells what was raised in its code."""

from __future__ import annotations

import importlib.util
import traceback
from pathlib import Path

_BETWEEN = ("mtk", "importlib", "pluggy", "contextlib", "functools")  # between whoever asks and the plugin's code


def who(plugin: str, distribution: str, version: str) -> str:
    """`plugin 'mine' (mtk-mine 0.1)`."""
    return f"plugin '{plugin}'{f' ({distribution} {version})' if distribution else ''}"


def told(error: BaseException) -> str:
    """`ModuleNotFoundError: No module named 'x' (mtk_mine/__init__.py:3); pip install x`, in one line."""
    place = _place(error)
    text = one_line(f"{type(error).__name__}: {error}") + (f" ({place})" if place else "")
    return text + (_remedy(error) if place else "")


def one_line(text: object) -> str:
    return " ".join(str(text).split())


def _place(error: BaseException) -> str:
    """File and line, the last in the package that was entered first: the plugin's, not what it imports."""
    found, entered = "", ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package not in _BETWEEN and not frame.f_code.co_filename.startswith("<") and entered in ("", package):
            file, entered = Path(frame.f_code.co_filename), package
            found = f"{file.parent.name}/{file.name}:{line}"
    return found


def _remedy(error: BaseException) -> str:
    """What to install, where a package is missing and the message does not say."""
    package = ((error.name if isinstance(error, ModuleNotFoundError) else None) or "").partition(".")[0]
    if not package or "pip install" in str(error) or importlib.util.find_spec(package) is not None:
        return ""
    return f"; pip install {package}"
