"""`mtk data fetch`: the published files of the text tasks, from their repository or a mirror."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from mtk import DataError, did_you_mean
from mtk_text.download import FileFault, download
from mtk_text.published import PUBLISHED, cache_folder

ALIASES = {"para": "quora"}


@dataclass(frozen=True, slots=True)
class Fetched:
    """What became of one published file: `new` or there before; `fault` says why it did not come."""

    task: str
    split: str
    path: Path
    new: bool = False
    fault: str = ""

    @property
    def optional(self) -> bool:
        """Whether a task can do without it: train and dev are enough."""
        return self.split == "test"


def fetch(
    tasks: Sequence[str],
    folder: Path,
    mirror: str | None = None,
    watch: Callable[[str, int, int | None], None] = lambda name, done, total: None,
) -> Iterator[Fetched]:
    """Fetches the tasks' files (all tasks where none is named), and goes on where the mirror lacks one.

    mirror: a URL or folder that has the files; default the place where each data set is published. watch: told a file's
    name, its bytes so far and its bytes in all. Raises DataError where no further file would come: an unknown task, a
    mirror out of reach, a full disk.
    """
    for task in _known(tasks):
        base = (mirror or PUBLISHED[task].place.url).rstrip("/")
        for split, file in PUBLISHED[task].files.items():

            def advance(done: int, total: int | None, name: str = file.name, size: int | None = file.size) -> None:
                watch(name, done, total or size)

            path = folder / file.name
            try:
                yield Fetched(task, split, path, download(base, path, file.blob, advance))
            except FileFault as error:
                yield Fetched(task, split, path, fault=str(error))


def _known(tasks: Sequence[str]) -> list[str]:
    names = [ALIASES.get(task, task) for task in tasks] or list(PUBLISHED)
    for name in names:
        if name not in PUBLISHED:
            raise DataError(f"there is nothing to fetch for '{name}'{did_you_mean(name, [*PUBLISHED, *ALIASES])}")
    return list(dict.fromkeys(names))


def fetch_command(
    tasks: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TASK]...", help="sst, cfimdb, quora, sts, sick; all of them where none is named."),
    ] = None,
    mirror: Annotated[
        str | None, typer.Option(help="A URL or folder that holds files of the same names.", show_default=False)
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="The folder to put them in; mtk's cache otherwise.", show_default=False)
    ] = None,
) -> None:
    """Download the published data sets, verified and resumable."""
    folder = (to or cache_folder()).expanduser()
    names = _known(tasks or [])
    files: list[Fetched] = []
    try:
        with _progress() as watch:
            files.extend(fetch(names, folder, mirror, watch))
    finally:  # whatever stopped it, these have come
        for file in files:
            typer.echo(_line(file))
    there = [file for file in files if not file.fault]
    names = list(dict.fromkeys(file.task for file in there))
    for place in dict.fromkeys(str(PUBLISHED[name].place) for name in names):
        whose = ", ".join(name for name in names if str(PUBLISHED[name].place) == place)
        typer.echo(f"\nEach file of {whose} is the one of {place}, by its git blob id.")
    for name in names:
        published = PUBLISHED[name]
        typer.echo(f"\n{name}: {published.title}\n  cite:  {published.citation}\n  terms: {published.terms}")
    if to is not None and there:
        typer.echo(f"\nUse them with --data {folder}, or set MTK_DATA={folder}")
    failed = [file for file in files if file.fault and not file.optional]
    if failed:
        others = f" (and {len(failed) - 1} more: {', '.join(f.path.name for f in failed[1:])})" if failed[1:] else ""
        raise DataError(f"{len(there)} of {len(files)} files are there; {failed[0].fault}{others}")


def _line(file: Fetched) -> str:
    if file.fault and file.optional:
        return f"note: no test rows of {file.task}, train and dev are enough: {file.fault}"
    if file.fault:
        return f"failed: {file.fault}"
    return f"{'fetched' if file.new else 'already there'}: {file.path}"


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int | None], None]]:
    """A progress bar a file on a terminal's stderr; silent elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bars = {}

        def watch(name: str, done: int, total: int | None) -> None:
            if name not in bars:
                bars[name] = progress.add_task(name, total=total)
            progress.update(bars[name], completed=done, total=total)

        yield watch
