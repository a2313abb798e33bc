"""`python -m mtk.worker`: trains the trials of a search, in a process of its own, so that its death is one trial's.

A line of JSON each way. In: {"job": FOLDER, "config": TREE, "epochs": N}, then "go", "drop" or "save" after `began` and
after each epoch, and "save" at any time. Out: {"event": "began", "hardware": {...}, "epochs": [those that the trial has
behind it]}, {"event": "epoch", "epoch": n, "score": x, "scores": {...}}, and at the end of a job "paused", "finished",
"dropped", "saved", "failed" or "unsaved" (both with "problem"). Where its input ends, the search is gone, and so is the
worker.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mtk import plugins
from mtk.errors import CheckpointError, ConfigError, MTKError
from mtk.interfaces import Worker

if TYPE_CHECKING:
    from mtk.session import Session


def main() -> None:
    """Serves until the input ends."""
    source, sink = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # nobody else reads an order,
    os.dup2(2, 1)  # and whatever prints goes to the log, not among the answers
    Trainer(source, sink).serve()


class Trainer:
    """Takes jobs from one stream and reports on another."""

    def __init__(self, source: TextIO, sink: TextIO) -> None:
        self._sink = sink
        self._orders: queue.Queue[Any] = queue.Queue()
        self._session: Session | None = None
        self._save = False
        threading.Thread(target=self._listen, args=(source,), daemon=True).start()

    def _listen(self, source: TextIO) -> None:
        try:
            for line in source:
                order = json.loads(line)
                self._save = order == "save"  # here, in the order in which they come
                if self._save and self._session is not None:
                    self._session.stop()
                self._orders.put(order)
        finally:
            os._exit(1)  # the search was killed: what the trial saved stands

    def serve(self) -> None:
        while True:
            order = self._orders.get()
            if isinstance(order, dict):  # else an answer to a question that was over
                try:
                    self._tell(self._train(Path(order["job"]), order["config"], int(order["epochs"])))
                finally:
                    self._session = None

    def _train(self, folder: Path, tree: dict[str, Any], epochs: int) -> dict[str, Any]:
        """One job; what ended it."""
        try:
            run = _open(folder, tree)
            if run is None:  # killed just before it could say so
                self._began(folder)
                return {"event": "finished"}
            self._session = run
            outcome = self._began(folder, run.parts.hardware.to_dict())
            if outcome == "go" and run.training.position.epoch >= epochs:
                outcome = "paused"
            if outcome != "go" or self._save:
                run.stop()
            try:
                return {"event": self._go_on(run, epochs, outcome)}
            except CheckpointError as error:
                return {"event": "unsaved", "problem": _one_line(error)}
        except MTKError as error:
            return {"event": "failed", "problem": _one_line(error)}
        except Exception as error:  # one trial's fault, whatever it is: the log has the whole of it
            import traceback

            traceback.print_exc()
            return {
                "event": "failed",
                "problem": _one_line(plugins.blamed(error) or f"{type(error).__name__}: {error}"),
            }

    def _go_on(self, run: Session, epochs: int, outcome: str) -> str:
        from mtk.training import EpochDone, Finished

        for event in run.run():
            if isinstance(event, EpochDone):
                scores = event.scores.to_dict()
                outcome = self._ask(event="epoch", epoch=event.epoch + 1, score=event.selected, scores=scores)
                if outcome == "go" and event.epoch + 1 >= epochs:
                    outcome = "paused"
                if outcome != "go":
                    run.stop()
            elif isinstance(event, Finished) and event.reason != "stopped":
                return "finished"
        return {"go": "saved", "save": "saved", "drop": "dropped"}.get(outcome, outcome)

    def _began(self, folder: Path, hardware: dict[str, Any] | None = None) -> str:
        from mtk.run import RunFolder

        lines = [line for line in RunFolder(folder).metrics() if line["event"] == "epoch"]
        epochs = [{"epoch": line["epoch"], "score": line["selected"], "scores": line["scores"]} for line in lines]
        return self._ask(event="began", hardware=hardware, epochs=epochs)

    def _ask(self, **event: Any) -> str:
        self._tell(event)
        return str(self._orders.get())

    def _tell(self, event: dict[str, Any]) -> None:
        self._sink.write(json.dumps(event) + "\n")
        self._sink.flush()


def _open(folder: Path, tree: dict[str, Any]) -> Session | None:
    """The trial's run, new or where it was; None where it has ended. Raises MTKError."""
    from mtk import session
    from mtk.config import make_config
    from mtk.run import RunFolder

    if not (folder / "run.json").exists():
        shutil.rmtree(folder, ignore_errors=True)  # cut off before it was a run
        return session.start(make_config(tree), folder, command="mtk tune")
    try:
        return session.resume(folder)
    except ConfigError:
        if RunFolder(folder).facts.get("status") != "finished":
            raise
        return None


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def start_worker(log: Path) -> Worker:
    """A worker on this machine, which appends what it prints to `log`. Raises MTKError where none can be started."""
    return Process(log)


class Process(Worker):
    """A worker on this machine, seen from the search."""

    def __init__(self, log: Path) -> None:
        try:
            with log.open("ab") as errors:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "mtk.worker"],  # -P: no module of the folder that somebody is in
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    start_new_session=True,  # Ctrl-C is the search's to hear, which lets the trial be saved
                )
        except OSError as error:
            raise MTKError(f"no process for the trials can be started ({error.strerror})") from error
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError), self._process.stdout as answers:
            for line in answers:
                self._answers.put(dict(json.loads(line)))
        self._answers.put(None)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def say(self, order: Any) -> None:
        """Sends a line; a worker that is gone says so by its silence."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()

    def hear(self, seconds: float) -> dict[str, Any] | None:
        """The next answer; an empty one where none came within `seconds`, None where the worker is gone."""
        try:
            return self._answers.get(timeout=seconds)
        except queue.Empty:
            return {}

    def end(self) -> int:
        """Ends the process, and says its exit code."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.close()
        try:
            return self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


if __name__ == "__main__":
    main()
