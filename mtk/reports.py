"""Every installed report, over a table of scores or a search."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from rich.console import Console

from mtk import plugins
from mtk.display import say
from mtk.errors import MTKError
from mtk.scoretable import ScoreTable
from mtk.searchrecord import SearchRecord


def write_reports(
    record: ScoreTable | SearchRecord,
    folder: Path,
    console: Console,
    locked: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> None:
    """Writes them into the folder and says where; one that cannot be written is one line, and the others follow.

    locked: held while one is written.
    """
    for name in plugins.registered("report"):
        try:
            with locked():
                write = plugins.build("report", name)
                written = write(record, folder)
            if not isinstance(written, Path):
                raise plugins.wrong(write, "its answer", "the path of the file that it wrote", repr(written))
            if not written.exists():
                raise plugins.wrong(write, "its answer", "the path of the file that it wrote", f"no file {written}")
            say(console, f"{name}: {written}")
        except Exception as error:
            say(console, f"{name}: not written: {problem(error)}")


def problem(error: Exception) -> MTKError:
    """An error that is one run's or one report's, while the others go on. Raises it where it is a bug of ours."""
    fault = error if isinstance(error, MTKError) else plugins.blamed(error)
    if fault is None:
        raise error
    return fault
