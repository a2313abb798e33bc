"""`python -m mtk.worker`: trains the trials of a search, in a process of its own, so that its death is one trial's.

A line of JSON each way. In: {"job": FOLDER, "config": TREE, "epochs": N}, then "go" or "drop" after each epoch, "save"
at any time. Out: {"event": "epoch", "epoch": n, "score": x, "scores": {...}}, and at the end of a job "paused",
"finished", "dropped", "saved" or "failed" (with "problem"). Where its input ends, the search is gone, and so is the
worker.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import sys
import threading
from pathlib import Path
from typing import Any, TextIO


def main() -> None:
    """Serves until the input ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever prints goes to the log, not among the answers
    Worker(sys.stdin, out).serve()


class Worker:
    """Takes jobs from one stream and reports on another."""

    def __init__(self, source: TextIO, sink: TextIO) -> None:
        self._sink = sink
        self._orders: queue.Queue[dict[str, Any]] = queue.Queue()
        self._session: Any = None
        self._save = False
        threading.Thread(target=self._listen, args=(source,), daemon=True).start()

    def _listen(self, source: TextIO) -> None:
        for line in source:
            order = json.loads(line)
            if order == "save":
                self._save = True
                if self._session is not None:
                    self._session.stop()
            self._orders.put(order)
        os._exit(1)  # the search was killed: what the trial saved stands

    def serve(self) -> None:
        while True:
            order = self._orders.get()
            if isinstance(order, dict):
                self._save = False
                try:
                    self._tell(self._train(Path(order["job"]), order["config"], int(order["epochs"])))
                finally:
                    self._session = None

    def _train(self, folder: Path, tree: dict[str, Any], epochs: int) -> dict[str, Any]:
        from mtk import session
        from mtk.config import make_config
        from mtk.errors import MTKError
        from mtk.training import EpochDone, Finished

        try:
            if (folder / "run.json").exists():
                run = session.resume(folder)
            else:
                shutil.rmtree(folder, ignore_errors=True)  # cut off before it was a run
                run = session.start(make_config(tree), folder, command="mtk tune")
            self._session = run
            if self._save or run.training.position.epoch >= epochs:
                run.stop()
            outcome = "saved"
            for event in run.run():
                if isinstance(event, EpochDone):
                    score = event.selected
                    self._tell(
                        {
                            "event": "epoch",
                            "epoch": event.epoch + 1,
                            "score": score,
                            "scores": event.scores.to_dict(),
                            "seconds": round(event.seconds, 2),
                        }
                    )
                    answer = self._answer()
                    if answer != "go" or event.epoch + 1 >= epochs:
                        outcome = {"go": "paused", "drop": "dropped"}.get(answer, "saved")
                        run.stop()
                elif isinstance(event, Finished) and event.reason != "stopped":
                    outcome = "finished"
            return {"event": outcome}
        except MTKError as error:
            return {"event": "failed", "problem": str(error)}
        except Exception as error:  # one trial's fault, whatever it is: the log has the whole of it
            import traceback

            traceback.print_exc()
            return {"event": "failed", "problem": f"{type(error).__name__}: {error}"}

    def _answer(self) -> str:
        answer: Any = self._orders.get()
        return str(answer)

    def _tell(self, event: dict[str, Any]) -> None:
        self._sink.write(json.dumps(event) + "\n")
        self._sink.flush()


if __name__ == "__main__":
    main()
