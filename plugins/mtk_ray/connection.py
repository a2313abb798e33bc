"""The driver (see mtk_ray.driver), seen from the search."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from typing import Any

from mtk import MTKError
from mtk_ray import temporary

Answers = queue.Queue[dict[str, Any] | None]  # None: the driver is gone


class Connection:
    """The driver's process, what it is told and what it answers, by worker. It hears no Ctrl-C."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "mtk_ray.driver"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._printed,
                env=dict(environment),
                start_new_session=True,
            )
        except OSError as error:
            raise MTKError(f"no process for Ray's driver can be started ({error.strerror})") from error
        self.own: Answers = queue.Queue()
        self._workers: dict[int, Answers] = {}
        self._silent: set[int] = set()  # workers that are gone
        self._lost = False
        self._lock = threading.Lock()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def answers(self, worker: int) -> Answers:
        """What will be said of a worker."""
        with self._lock:
            found = self._workers[worker] = queue.Queue()
            if self._lost:
                found.put(None)
        return found

    def forget(self, worker: int) -> None:
        """Nobody waits for that worker's answers any more."""
        with self._lock:
            self._workers.pop(worker, None)
            self._silent.discard(worker)

    def hears(self, worker: int) -> bool:
        """Whether the worker was there a moment ago."""
        return not self._lost and worker not in self._silent

    def tell(self, **message: Any) -> None:
        """Sends a message; a driver that is gone says so by its silence."""
        assert self._process.stdin is not None
        line = json.dumps(message).encode() + b"\n"
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def lost(self) -> str:
        """Why the driver is gone, as far as it said."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        self._printed.seek(0)
        lines = self._printed.read().decode(errors="replace").splitlines()
        said = next((" ".join(line.split()) for line in reversed(lines) if line.strip()), "it said nothing")
        return f"the connection to Ray was lost: {said}"

    def close(self, seconds: float = 30.0) -> None:
        """Ends the driver, and with it a private Ray; by force where they take longer."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            temporary.sweep()
        self._listener.join(timeout=1)
        self._printed.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError), self._process.stdout as lines:
            for line in lines:
                self._take(json.loads(line))
        with self._lock:
            self._lost = True
            for answers in (self.own, *self._workers.values()):
                answers.put(None)

    def _take(self, message: dict[str, Any]) -> None:
        worker = message.pop("worker", None)
        with self._lock:
            if message.get("heard", {}) is None:
                self._silent.add(worker)
            answers = self.own if worker is None else self._workers.get(worker)
            if answers is not None:
                answers.put(message)
