"""`python -m mtk_ray.driver`: holds a search's connection to Ray, in a process of its own.

Ray ends the process that has lost its cluster, waits for minutes where none answers, takes over signals and prints: all
that is not to happen to a search. A line of JSON each way. In: {"do": "open", "address", "folder", "slots", "cpus",
"gpus"}, then {"do": "start", "worker": N, "log"}, {"do": "say", "worker": N, "order"} and {"do": "end", "worker": N}.
Out: {"connected": true} and {"opened": LINES}, or {"problem"}; of a worker {"worker": N, "started": true} or "problem",
then "heard": an answer, or null where it is gone, and "ended": its exit code. Where the input ends, so do the workers,
the connection, and a private Ray.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any, TextIO

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mtk import ConfigError, MTKError
from mtk_ray import preflight, temporary
from mtk_ray.actor import TrialWorker

_LISTEN = 10.0  # seconds that one question to a worker waits for an answer
_PLACE = 120.0  # seconds for a worker to find room and start, and for all nodes to answer
_END = 20.0  # seconds for a worker to end: it ends itself after 10
_STORE = 100_000_000  # bytes of shared memory for Ray's objects: a line of JSON now and then
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
            self._connect(address)
            self._tell(connected=True)
            nodes = [node for node in ray.nodes() if node["Alive"]]
            fit = preflight.check(
                nodes, lambda ids, token: _ask(nodes, ids, folder, token), Path(folder), slots, (cpus, gpus)
            )
        except MTKError as error:
            self._tell(problem=str(error))
            return
        workers = f"{preflight.count(slots, 'slot')} of {preflight.resources(cpus, gpus)}"
        if address == "local":
            self._tell(opened=[f"Ray {ray.__version__}, local: {workers}"])
            return
        where = address if address != "auto" else ray.get_runtime_context().gcs_address
        total = preflight.resources(*(sum(n["Resources"].get(kind, 0) for n in fit) for kind in ("CPU", "GPU")))
        size = f"{preflight.count(len(fit), 'node')}, {total}"
        agree = "storage and versions agree on all"
        self._tell(opened=[f"Ray {ray.__version__} at {where}: {size}; {workers}; {agree}"])

    def _connect(self, address: str) -> None:
        """Raises ConfigError."""
        known: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
        if address == "local":
            known |= {"include_dashboard": False, "object_store_memory": _STORE, "num_cpus": _cores()}
            known |= {"_temp_dir": str(self._stack.enter_context(temporary.folder())), "_node_ip_address": "127.0.0.1"}
        try:
            ray.init(address=address, **known)
        except ConnectionError as error:
            raise ConfigError(
                f"address={address}: expected a node that `ray start` started on this machine, found no running Ray; "
                f"--ray-address local starts a private one ({_said(error)})"
            ) from error
        except Exception as error:  # whatever it is, it is Ray's word on that address
            raise ConfigError(f"Ray at {address} cannot be joined: {_said(error)}") from error
        self._stack.callback(self._close)

    def _close(self) -> None:
        for actor in self._actors.values():
            with contextlib.suppress(Exception):
                ray.kill(actor)
        ray.shutdown()

    def start(self, worker: int, log: str) -> None:
        how: dict[str, Any] = {**self._resources, "max_restarts": 0, "concurrency_groups": {_ANSWERS: 1}}
        actor = self._actors[worker] = ray.remote(**how)(TrialWorker).remote(log)
        threading.Thread(target=self._listen, args=(worker, actor), daemon=True).start()

    def _listen(self, worker: int, actor: Any) -> None:
        """Passes on what a worker answers, until it is gone."""
        try:
            ray.get(actor.__ray_ready__.remote(), timeout=_PLACE)
        except Exception as error:
            self._actors.pop(worker, None)
            ray.kill(actor)
            late = isinstance(error, ray.exceptions.GetTimeoutError)
            self._tell(worker=worker, problem=self._no_room() if late else _said(error))
            return
        self._tell(worker=worker, started=True)
        try:
            while (answer := ray.get(actor.hear.options(concurrency_group=_ANSWERS).remote(_LISTEN))) is not None:
                if answer:
                    self._tell(worker=worker, heard=answer)
        except Exception as error:  # its actor, or its node, is gone
            print(f"worker {worker}: {_said(error)}", file=sys.stderr, flush=True)
        self._tell(worker=worker, heard=None)

    def _no_room(self) -> str:
        free = ray.available_resources()
        return (
            f"expected {preflight.resources(*self._resources.values())} to be free within {_PLACE:g} s, found "
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

    def _tell(self, **message: Any) -> None:
        with self._lock, contextlib.suppress(OSError):
            self._sink.write(json.dumps(message) + "\n")
            self._sink.flush()


def _ask(nodes: list[Any], ids: list[str], folder: str, token: str) -> list[Any]:
    """The facts of the nodes with these ids. Raises ConfigError."""
    look = ray.remote(num_cpus=0, max_retries=0)(preflight.facts_and_storage)
    names = {node["NodeID"]: preflight.name(node) for node in nodes}
    asked = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(folder, token, node)
        for node in ids
    ]
    ray.wait(asked, num_returns=len(asked), timeout=_PLACE)
    found = []
    for node, one in zip(ids, asked, strict=True):
        try:
            found.append(ray.get(one, timeout=0))
        except ray.exceptions.GetTimeoutError as error:
            raise ConfigError(f"node {names[node]}: no answer within {_PLACE:g} s; look at `ray status`") from error
        except Exception as error:
            raise ConfigError(
                f"node {names[node]}: expected mtk, as on this machine, found none that works ({_said(error)}); "
                "install the same versions on all nodes, and start Ray there anew"
            ) from error
    return found


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _said(error: BaseException) -> str:
    """The last line of what Ray says: the cause."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


if __name__ == "__main__":
    main()
