"""What several rooms tell a person, and what becomes of standard output when nobody can be told. Without torch."""

from __future__ import annotations

import contextlib
import os
import sys

SAMPLE = "THE BUILT-IN SAMPLE: scores on the built-in sample compare with nothing."
REAL_DATA = "It is a few hundred made-up rows a task. For real data: --data DIR, or mtk data fetch."


def silence() -> None:
    """Lets standard output go nowhere: its reader went away, or its disk is full. What is still buffered goes too."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a stream without a descriptor, or none at all
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def is_broken_pipe(error: BaseException) -> bool:
    """Also the SystemExit that rich and typer make of it."""
    return isinstance(error, BrokenPipeError) or (
        isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError)
    )
