"""`mtk.train(...)`: a whole training run from Python, with the settings of the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mtk import session
from mtk.display import Display
from mtk.run import RunFolder, default_out
from mtk.settings import configure
from mtk.training import Event


def train(
    tasks: Sequence[str] = (),
    *,
    config: str | Path | None = None,
    out: str | Path | None = None,
    quiet: bool = False,
    watch: Callable[[Event], None] | None = None,
    settings: Sequence[str] = (),
    **flat: Any,
) -> RunFolder:
    """Trains and returns the finished run's folder; `mtk.load(run)` uses it, `run.scores` holds the best dev scores.

    tasks: `["sst", "sts"]`, as `--task` takes them. config: a TOML file; settings: `["optim.lr=3e-5"]`. Everything
    else is a flat setting of the command line with underscores: `combiner="pcgrad"`, `batch_size={"sst": 32}`,
    `head={"sts": "cosine"}`, `epochs=3`, `data="folder"`, `seed=1` ... watch: called with every event.
    Raises MTKError children.
    """
    chosen = configure(config=config, tasks=tasks, settings=settings, **flat)
    run = session.start(chosen, Path(out) if out is not None else default_out(chosen), command="mtk.train(...)")
    assert run.folder is not None
    display = None if quiet else Display(run)
    for event in run.run():
        if display is not None:
            display.show(event)
        if watch is not None:
            watch(event)
    return run.folder
