"""`mtk data fetch`: the published files of the text tasks, from their repository or a mirror."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from mtk import DataError, did_you_mean
from mtk_text.download import download
from mtk_text.published import BASE_URL, COMMIT, PUBLISHED, REPOSITORY, cache_folder

ALIASES = {"para": "quora"}


def fetch(
    tasks: Sequence[str],
    folder: Path,
    mirror: str = BASE_URL,
    watch: Callable[[str, int, int | None], None] = lambda name, done, total: None,
) -> dict[Path, bool]:
    """Fetches the tasks' files (all tasks where none is named); True where a file came, False where it was there.

    watch: told a file's name, its bytes so far and its bytes in all. Raises DataError.
    """
    base = mirror.rstrip("/")
    came: dict[Path, bool] = {}
    for task in _known(tasks):
        for file in PUBLISHED[task].files.values():

            def advance(done: int, total: int | None, name: str = file.name, size: int | None = file.size) -> None:
                watch(name, done, total or size)

            came[folder / file.name] = download(base, folder / file.name, file.blob, advance)
    return came


def _known(tasks: Sequence[str]) -> list[str]:
    names = [ALIASES.get(task, task) for task in tasks] or list(PUBLISHED)
    for name in names:
        if name not in PUBLISHED:
            raise DataError(f"there is nothing to fetch for '{name}'{did_you_mean(name, [*PUBLISHED, *ALIASES])}")
    return list(dict.fromkeys(names))


def fetch_command(
    tasks: Annotated[
        list[str] | None, typer.Argument(metavar="[TASK]...", help="sst, quora, sts; all of them where none is named.")
    ] = None,
    mirror: Annotated[
        str, typer.Option(help="A URL or folder that holds files of the same names.", show_default=False)
    ] = BASE_URL,
    to: Annotated[
        Path | None, typer.Option(help="The folder to put them in; mtk's cache otherwise.", show_default=False)
    ] = None,
) -> None:
    """Download the published data sets, verified and resumable."""
    folder = (to or cache_folder()).expanduser()
    names = _known(tasks or [])
    with _progress() as watch:
        came = fetch(names, folder, mirror, watch)
    for path, new in came.items():
        typer.echo(f"{'fetched' if new else 'already there'}: {path}")
    typer.echo(f"\nEach file is the one of github.com/{REPOSITORY}, data/, commit {COMMIT}, by its git blob id.")
    for name in names:
        published = PUBLISHED[name]
        typer.echo(f"\n{name}: {published.title}\n  cite:  {published.citation}\n  terms: {published.terms}")
    if to is not None:
        typer.echo(f"\nUse them with --data {folder}, or set MTK_DATA={folder}")


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
