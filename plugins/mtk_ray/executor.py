"""The executor `ray`, and a worker of it as the search sees it."""

from __future__ import annotations

import importlib.util
import itertools
import os
import queue
import re
import secrets
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtk import ConfigError, Executor, MTKError, PluginError, Worker
from mtk_ray.connection import Connection

_PROBE = 3.0  # seconds for an address to take a connection,
_CONNECT = 60.0  # for Ray to answer there,
_LAUNCH = 180.0  # for a private one to start,
_CHECK = 150.0  # for all nodes to be looked at: the driver gives up sooner,
_GIVE_UP = 5.0  # for the driver to end where one of these was too long; else it has what it needs
_PLACE = 120.0  # for a worker to find room and start,
_REPORT = 30.0  # for the driver to say more about it than that,
_END = 30.0  # and for a worker to end


class Ray(Executor):
    """Worker processes on Ray, one an actor. (Moritz et al., OSDI 2018, arXiv 1712.05889.)

    address: `local` starts a private Ray on this machine, which ends with the search; HOST:PORT joins the cluster whose
    head listens there, of which this machine must be a node; `auto` the one that RAY_ADDRESS names or that runs on this
    machine. cpus, gpus: of each worker; a part of a GPU is shared.
    Raises PluginError where Ray is not installed.
    """

    def __init__(self, *, address: str = "local", cpus: int = 1, gpus: float = 0) -> None:
        if cpus < 1:
            raise ConfigError(f"cpus: expected at least 1 CPU for each worker, found {cpus}")
        if gpus < 0 or (gpus > 1 and gpus != int(gpus)):
            raise ConfigError(f"gpus: expected 0, a part of 1, or a whole number for each worker, found {gpus:g}")
        self.address, self.cpus, self.gpus = address, cpus, gpus
        self._server = _server(address)
        if importlib.util.find_spec("ray") is None:
            raise PluginError("executor 'ray' needs ray: pip install 'multitask-toolkit[tune]'")
        self._numbers = itertools.count(1)
        self._connection: Connection | None = None

    def open(self, folder: Path, slots: int) -> list[str]:
        if self._server is not None:
            _probe(self._server)
        private, address = self.address == "local", self._server or self.address
        self._connection = Connection(_environment(private))
        asked = {"address": address, "folder": str(folder), "slots": slots, "cpus": self.cpus, "gpus": self.gpus}
        try:
            self._connection.tell(do="open", **asked)
            if private:
                self._answer(_LAUNCH, "a private Ray does not start on this machine")
            else:
                self._answer(_CONNECT, f"no Ray answers at {address}, expected a cluster's head")
            return list(self._answer(_CHECK, f"Ray at {address}: its nodes cannot be looked at")["opened"])
        except BaseException:
            self._connection.close(_GIVE_UP)
            self._connection = None
            raise

    def _answer(self, seconds: float, problem: str) -> Mapping[str, Any]:
        """What the driver says next. Raises ConfigError: what it found wrong, or `problem` where it says nothing."""
        assert self._connection is not None
        try:
            answer = self._connection.own.get(timeout=seconds)
        except queue.Empty:
            raise ConfigError(f"{problem} (waited {seconds:g} s)") from None
        if answer is None:
            raise ConfigError(f"{problem} ({self._connection.lost()})")
        if "problem" in answer:
            raise ConfigError(answer["problem"])
        return answer

    def threads(self, slots: int) -> int | None:
        return self.cpus

    def start(self, log: Path) -> Worker:
        if self._connection is None:
            raise MTKError("executor 'ray': expected open() before start()")
        return RayWorker(self._connection, next(self._numbers), log)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class RayWorker(Worker):
    """A worker process that an actor holds, somewhere. Raises MTKError where it does not start."""

    def __init__(self, connection: Connection, number: int, log: Path) -> None:
        self._connection, self._number = connection, number
        self._answers = connection.answers(number)
        self._gone = False
        self._code: int | None = None
        connection.tell(do="start", worker=number, log=str(log), seconds=_PLACE)
        started = self._next(_PLACE + _REPORT)
        if started is None or "started" not in started:
            connection.forget(number)
            why = connection.lost() if started is None else started.get("problem", f"waited {_PLACE + _REPORT:g} s")
            raise MTKError(f"no worker can be started on Ray: {why}")

    @property
    def alive(self) -> bool:
        return not self._gone and self._code is None and self._connection.hears(self._number)

    def say(self, order: Any) -> None:
        self._connection.tell(do="say", worker=self._number, order=order)

    def hear(self, seconds: float) -> dict[str, Any] | None:
        answer = None if self._gone else self._next(seconds)
        if answer is None or answer.get("heard", {}) is None:
            self._gone = True
            return None
        return dict(answer["heard"]) if answer else {}

    def end(self) -> int:
        if self._code is None:
            self._connection.tell(do="end", worker=self._number)
            self._code = self._ended()
            self._connection.forget(self._number)
        return self._code

    def _ended(self) -> int:
        """The exit code; -9 where nobody is left to tell it."""
        until = time.monotonic() + _END
        while answer := self._next(until - time.monotonic()):
            if "ended" in answer:
                return int(answer["ended"])
        return -9

    def _next(self, seconds: float) -> dict[str, Any] | None:
        """The driver's next message about this worker; an empty one where none came, None where the driver is gone."""
        try:
            return self._answers.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return {}


def _server(address: str) -> str | None:
    """HOST:PORT, where the address or RAY_ADDRESS names it. Raises ConfigError."""
    named, given = f"address={address}", address
    if address == "auto" and (given := os.environ.get("RAY_ADDRESS", "auto")) != "auto":
        named = f"address=auto, RAY_ADDRESS={given}"
    if given in ("local", "auto") and given == address:
        return None
    if not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^\s:/]+):[0-9]{1,5}", given) or not 0 < _port(given) < 65536:
        raise ConfigError(f"{named}: expected local, auto or HOST:PORT of a cluster's head, found '{given}'")
    return given


def _port(server: str) -> int:
    return int(server.rpartition(":")[2])


def _probe(server: str) -> None:
    """Raises ConfigError where nobody listens: Ray itself would wait for minutes, and then end this process."""
    try:
        socket.create_connection((server.rpartition(":")[0].strip("[]"), _port(server)), timeout=_PROBE).close()
    except OSError as error:
        raise ConfigError(
            f"nothing listens at {server} ({error.strerror or error}); expected a cluster's head: start it "
            f"with `ray start --head --port={_port(server)}`, or let --ray-address local start a private Ray"
        ) from error


def _environment(private: bool) -> dict[str, str]:
    """The driver's environment. A private Ray has a token of its own, and does not lower or end what it runs."""
    own = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_USAGE_STATS_PROMPT_ENABLED": "0"}
    if private:
        own |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        own |= {"RAY_worker_niceness": "0", "RAY_memory_monitor_refresh_ms": "0"}
    inherited = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return {**inherited, **own}
