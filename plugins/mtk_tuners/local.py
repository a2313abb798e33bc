"""Trials on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from mtk import ConfigError, Executor, Worker, start_worker


class Local(Executor):
    """Worker processes of this machine, which share its cores."""

    def open(self, folder: Path, slots: int) -> list[str]:
        if slots > (cores := _cores()):
            raise ConfigError(f"--slots {slots}: expected at most one for each of this machine's {cores} cores")
        return []

    def threads(self, slots: int) -> int | None:
        return None if slots == 1 else max(1, _cores() // slots)

    def start(self, log: Path) -> Worker:
        return start_worker(log)

    def close(self) -> None: ...


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
