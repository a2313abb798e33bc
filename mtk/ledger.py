"""The event log of a search: all that the search knows of its trials, on disk before anything else happens."""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mtk.errors import CheckpointError
from mtk.interfaces import Job, Stage, TrialRecord
from mtk.searchrecord import TrialEpoch

OVER = ("paused", "finished", "stopped", "failed")  # how a job ends, and the trial's state then


class Ledger:
    """events.jsonl in a search's folder: a line a job, an epoch, a restart and an end, flushed one by one.

    trials: by number. left: jobs that have begun and are not over, by trial; since: the epochs that its trial had then.
    best: the trial with the best epoch as it was then; the earlier of equals. log: every epoch that was trained, those
    too whose weights were given up. deaths: of workers, by trial and the epochs that it had.
    """

    def __init__(self, folder: Path, again: str) -> None:
        self.file = folder / "events.jsonl"
        self.trials: list[TrialRecord] = []
        self.left: dict[int, Job] = {}
        self.since: dict[int, int] = {}
        self.best: TrialRecord | None = None
        self.log: list[TrialEpoch] = []
        self.deaths: Counter[tuple[int, int]] = Counter()
        self._again = again  # what to type to go on
        self._before = 0.0  # seconds of earlier calls
        self._start: float | None = None

    def start(self) -> None:
        """The clock runs from now on."""
        self._start = time.perf_counter()

    @property
    def epochs(self) -> int:
        """That were trained."""
        return len(self.log)

    @property
    def seconds(self) -> float:
        """That the search has run, all calls together."""
        return self._before + (0.0 if self._start is None else time.perf_counter() - self._start)

    def record(self, **event: Any) -> None:
        """Appends a line. Raises CheckpointError where it cannot be written; nothing has happened then."""
        event = _finite({**event, "seconds": round(self.seconds, 1)})
        try:
            with self.file.open("a", encoding="utf-8") as log:
                log.write(json.dumps(event, allow_nan=False) + "\n")
                log.flush()
                os.fsync(log.fileno())
        except OSError as error:
            raise CheckpointError(
                f"{self.file}: writing failed ({error.strerror}); what was found before stands; make room and go on: "
                f"{self._again}"
            ) from error
        self._apply(event)

    def replay(self, mend: bool = True) -> None:
        """Reads what happened. Raises CheckpointError that names the line that is damaged.

        mend: takes away a last line that a crash cut off; where somebody else may be writing it, it is left alone.
        """
        for number, line in enumerate(_lines(self.file, mend), 1):
            try:
                event = json.loads(line)
                self._before = float(event["seconds"])
                self._apply(event)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                raise CheckpointError(
                    f"{self.file}, line {number}: damaged, not an event of a search ({error!r}); take the line and "
                    "those after it away to go on from before"
                ) from error

    def _apply(self, event: Mapping[str, Any]) -> None:
        """The event's effect on what is known: the same when it happens and when it is read again."""
        kind, number = event["event"], event["trial"]
        if kind == "job":
            self._begin(number, dict(event["parameters"]), event["epochs"], event.get("source"))
            return
        trial = self.trials[number]
        if kind == "epoch":
            score = -math.inf if event["score"] is None else float(event["score"])
            trial = self.trials[number] = replace(trial, scores=(*trial.scores, score))
            self.log.append(self._trained(trial, event["seconds"]))
            if score > (-math.inf if self.best is None else self.best.best):
                self.best = trial
        elif kind == "restarted":
            self.deaths[number, len(trial.scores)] += 1
        elif kind in OVER:
            self.trials[number] = replace(trial, state=kind, problem=event.get("problem", ""))
            del self.left[number]
        elif kind != "saved":
            raise ValueError(f"'{kind}' is no event")

    def _begin(self, number: int, parameters: dict[str, Any], epochs: int, source: int | None) -> None:
        if number == len(self.trials):
            self.trials.append(TrialRecord(number, parameters, stages=(Stage(0, number, parameters),)))
        trial = self.trials[number]
        if source is not None:
            origin = self.trials[source]
            stage = Stage(len(origin.scores), number, parameters)
            trial = replace(trial, parameters=parameters, scores=origin.scores, stages=(*origin.stages, stage))
        self.trials[number] = replace(trial, state="running", problem="")
        self.left[number], self.since[number] = Job(epochs, parameters, number, source), len(trial.scores)

    def _trained(self, trial: TrialRecord, seconds: float) -> TrialEpoch:
        epoch, (*before, stage) = len(trial.scores), trial.stages
        source = before[-1].trial if before and stage.after == epoch - 1 else None
        return TrialEpoch(epoch, trial.number, trial.scores[-1], trial.parameters, source, seconds)


def _finite(value: Any) -> Any:
    """The value with None for what is no finite number, which JSON has no form for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def _lines(file: Path, mend: bool) -> list[bytes]:
    """The lines of a log; a last one that was cut off is left out, and taken away to mend it."""
    if not file.exists():
        return []
    *lines, rest = file.read_bytes().split(b"\n")
    if rest and mend:
        os.truncate(file, file.stat().st_size - len(rest))
    return lines
