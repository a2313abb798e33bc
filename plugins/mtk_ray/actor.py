"""What runs in an actor's process, on a node. That node has mtk installed, so this module is imported there by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class TrialWorker:
    """Holds a worker process of its node. Where the actor's process dies, the worker's input ends, and so does it."""

    def __init__(self, log: str) -> None:
        from mtk import start_worker  # with torch, which the driver can do without

        self._worker = start_worker(Path(log))

    def say(self, order: Any) -> None:
        self._worker.say(order)

    def hear(self, seconds: float) -> dict[str, Any] | None:
        return self._worker.hear(seconds)

    def end(self) -> int:
        return self._worker.end()
