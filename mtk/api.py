"""`mtk.train(...)`: a whole training run from Python, with the settings of the command line, and the drive of both."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from mtk import session
from mtk.display import Display
from mtk.errors import ConfigError
from mtk.notices import is_broken_pipe, silence
from mtk.run import RunFolder, default_out
from mtk.session import Session
from mtk.settings import FROM_FILES, NamedTask, check_keys, configure, tree_of
from mtk.training import Event, Finished

INTERRUPTED = "interrupted: saving after this step ... (once more ends at once, unsaved)"


class Interrupted(KeyboardInterrupt):
    """Somebody pressed Ctrl-C or sent SIGTERM, and the run is saved; `finished.reason` says how far it came."""

    def __init__(self, number: int, finished: Finished, folder: RunFolder) -> None:
        go_on = f"stopped and saved; go on exactly here: mtk train --resume {folder.path}"
        super().__init__(go_on if finished.reason == "stopped" else f"the run was finished first: {folder.path}")
        self.number = number
        self.finished = finished


def text_task(name: str, *, data: Any = None, **fields: Any) -> NamedTask:
    """A task on rows of your own, for `mtk.train(tasks=[...])`: the fields of a task file, without the file.

    mtk.text_task("emotions", data="tweets.csv", text="tweet", label="emotion")

    data: a path, a list of them, or a mapping by split; `mtk plugins show auto` lists the other fields.
    Raises ConfigError for a field that there is none of.
    """
    table = {"data": data, **fields} if data is not None else fields
    table = {"kind": FROM_FILES, **{key: value for key, value in table.items() if value is not None}}
    check_keys(f"text_task('{name}')", name, table)
    return NamedTask(name, table)


def train(
    tasks: str | NamedTask | Sequence[str | NamedTask] = (),
    *,
    config: str | Path | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    quiet: bool = False,
    watch: Callable[[Event], None] | None = None,
    settings: Sequence[str] = (),
    **flat: Any,
) -> RunFolder:
    """Trains and returns the finished run's folder; `mtk.load(run)` uses it, `run.scores` holds the best dev scores.

    tasks: `"sst"` or `["sst", "sts"]`, as `--task` takes them, and what `mtk.text_task` gives. config: a TOML file;
    settings: `["optim.lr=3e-5"]`. Everything else is a flat setting of the command line with underscores:
    `combiner="pcgrad"`, `batch_size={"sst": 32}`, `head={"sts": "cosine"}`, `epochs=3`, `data="folder"`, `seed=1` ...
    resume: an interrupted run to go on with, exactly; other settings must then be the run's own. watch: called with
    every event: `mtk.StepDone`, `mtk.EpochDone`, at the end `mtk.Finished`.
    Ctrl-C saves the run, says how to resume it, and raises KeyboardInterrupt; a second one ends at once, unsaved.
    Raises MTKError children.
    """
    names = [tasks] if isinstance(tasks, str | NamedTask) else list(tasks)
    if resume is None:
        chosen = configure(config=config, tasks=names, settings=settings, **flat)
        run = session.start(chosen, Path(out) if out is not None else default_out(chosen), command="mtk.train(...)")
    elif out is not None:
        raise ConfigError("resume goes on in the run's own folder: give it no out")
    else:
        run = session.resume(Path(resume), tree_of(config=config, tasks=names, settings=settings, **flat))
    drive(run, None if quiet else Display(run), watch)
    assert run.folder is not None
    return run.folder


def drive(run: Session, display: Display | None = None, watch: Callable[[Event], None] | None = None) -> Finished:
    """Trains to the end, and shows every event as long as the display can be written.

    Raises Interrupted, a KeyboardInterrupt, when the first SIGINT or SIGTERM has been obeyed and the run is saved; a
    second one raises KeyboardInterrupt at once. In a thread that is not the main one no signal is caught.
    """
    assert run.folder is not None
    caught: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)
        run.stop()
        with contextlib.suppress(Exception):  # the step that this comes in between goes on, whoever reads
            if display is None or not display.interject(INTERRUPTED):
                print(INTERRUPTED, file=sys.stderr, flush=True)

    last: Event | None = None
    with signals(interrupt):
        try:
            if display is not None and not _written(display.start):
                display = None
            for last in run.run():
                if display is not None and not _written(display.show, last):
                    display = None
                if watch is not None:
                    watch(last)
        finally:
            if display is not None:
                with contextlib.suppress(OSError):
                    display.close()
    assert isinstance(last, Finished)
    if caught:
        raise Interrupted(caught[0], last, run.folder)
    return last


def _written(show: Callable[..., None], *event: Event) -> bool:
    """Calls it; False where the display can no longer be written. Training goes on without it."""
    try:
        show(*event)
    except (OSError, SystemExit) as error:
        if isinstance(error, SystemExit) and not is_broken_pipe(error):
            raise
        silence()
        if not is_broken_pipe(error):
            with contextlib.suppress(OSError):
                print(f"warning: the display cannot be written ({error}); training goes on", file=sys.stderr)
        return False
    return True


@contextlib.contextmanager
def signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """SIGINT and SIGTERM go to `handler`, where this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)
