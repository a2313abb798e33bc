"""The command line answers before anything heavy is imported. What counts is what was imported, not the time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_imports import HEAVY

_SLOW = [name for name in HEAVY if name != "pydantic"]  # Typer itself reads arguments with it

# Runs the entry point as the `mtk` script does, and says at the end what has been imported.
_SCRIPT = f"""
import atexit, sys
atexit.register(lambda: print("imported:", *[n for n in {_SLOW} if n in sys.modules], file=sys.stderr))
sys.argv[0] = "mtk"
from mtk.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    "arguments, expected",
    [("--help", "train"), ("train --help", "--combiner"), ("plugins list", "pcgrad")],
)
def test_light_commands_import_nothing_heavy(arguments: str, expected: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *arguments.split()],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
    assert done.stderr.strip().splitlines()[-1] == "imported:"
