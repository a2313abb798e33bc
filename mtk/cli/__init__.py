"""The command `mtk`. Errors become one clear line on standard error and exit code 2."""

from __future__ import annotations

from mtk.cli.app import main

__all__ = ["main"]
