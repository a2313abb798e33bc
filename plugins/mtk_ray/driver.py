"""`python -m mtk_ray.driver`: holds a search's connection to Ray, in a process of its own.

Ray ends the process that has lost its cluster, waits for minutes where none answers, takes over signals and prints: all
that is not to happen to a search. A line of JSON each way. In: {"do": NAME} and the arguments of that method of Driver.
Out: {"connected": true} and {"opened": LINES}, or {"problem": TEXT}; of a worker {"worker": N, "started": true} or a
problem, then "heard": an answer, or null where it is gone, and "ended": its exit code. Where the input ends, so do the
workers, the connection, and a private Ray.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from typing import Any, TextIO

import ray

from mtk import MTKError
from mtk_ray import cluster, preflight
from mtk_ray.actor import TrialWorker

_LISTEN = 10.0  # seconds that one question to a worker waits for an answer
_END = 20.0  # seconds for a worker to end: it ends itself after 10
_ANSWERS = "answers"  # the actors' own thread for what waits; orders are taken one by one, in order, on another


def main() -> None:
    """Serves until the input ends."""
    source, sink = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)  # whatever Ray prints is not among the answers
    with contextlib.ExitStack() as stack:
        driver = Driver(sink, stack)
        for line in source:
            message = json.loads(line)
            getattr(driver, message.pop("do"))(**message)


class Driver:
    """Does what it is told, and reports to a stream. `stack` is left at the end."""

    def __init__(self, sink: TextIO, stack: contextlib.ExitStack) -> None:
        self._sink, self._stack = sink, stack
        self._lock = threading.Lock()
        self._actors: dict[int, Any] = {}
        self._resources: dict[str, float] = {}

    def open(self, address: str, folder: str, slots: int, cpus: int, gpus: float) -> None:
        self._resources = {"num_cpus": cpus, "num_gpus": gpus}
        try:
            cluster.connect(address, self._stack)
            self._stack.callback(self._close)
            self._tell(connected=True)
            self._tell(opened=[cluster.look(address, folder, slots, cpus, gpus)])
        except (MTKError, OSError) as error:
            self._tell(problem=str(error))

    def start(self, worker: int, log: str, seconds: float) -> None:
        how: dict[str, Any] = {**self._resources, "max_restarts": 0, "concurrency_groups": {_ANSWERS: 1}}
        actor = self._actors[worker] = ray.remote(**how)(TrialWorker).remote(log)
        threading.Thread(target=self._listen, args=(worker, actor, seconds), daemon=True).start()

    def _listen(self, worker: int, actor: Any, seconds: float) -> None:
        """Passes on what a worker answers, until it is gone."""
        try:
            ray.get(actor.__ray_ready__.remote(), timeout=seconds)
        except Exception as error:
            self._actors.pop(worker, None)
            ray.kill(actor)
            late = isinstance(error, ray.exceptions.GetTimeoutError)
            self._tell(worker=worker, problem=self._no_room(seconds) if late else cluster.said(error))
            return
        self._tell(worker=worker, started=True)
        try:
            while (answer := ray.get(actor.hear.options(concurrency_group=_ANSWERS).remote(_LISTEN))) is not None:
                if answer:
                    self._tell(worker=worker, heard=answer)
        except Exception as error:  # its actor, or its node, is gone
            print(f"worker {worker}: {cluster.said(error)}", file=sys.stderr, flush=True)
        self._tell(worker=worker, heard=None)

    def _no_room(self, seconds: float) -> str:
        free = ray.available_resources()
        return (
            f"expected {preflight.resources(*self._resources.values())} to be free within {seconds:g} s, found "
            f"{preflight.resources(free.get('CPU', 0), free.get('GPU', 0))} free on all nodes together; "
            "wait until others are done, or give fewer slots"
        )

    def say(self, worker: int, order: Any) -> None:
        if worker in self._actors:
            self._actors[worker].say.remote(order)

    def end(self, worker: int) -> None:
        threading.Thread(target=self._end, args=(worker, self._actors.pop(worker, None)), daemon=True).start()

    def _end(self, worker: int, actor: Any) -> None:
        code = -9
        if actor is not None:
            with contextlib.suppress(Exception):  # its actor, or its node, is gone
                code = ray.get(actor.end.remote(), timeout=_END)
            with contextlib.suppress(Exception):
                ray.kill(actor)
        self._tell(worker=worker, ended=code)

    def _close(self) -> None:
        for actor in list(self._actors.values()):
            with contextlib.suppress(Exception):
                ray.kill(actor)

    def _tell(self, **message: Any) -> None:
        with self._lock, contextlib.suppress(OSError):
            self._sink.write(json.dumps(message) + "\n")
            self._sink.flush()


if __name__ == "__main__":
    main()
