"""A search for good settings: the tuner decides, a worker trains, and every result is on disk before the next step.

DIR/tune.json          what is searched, how, by which versions; status
DIR/space.toml         the space
DIR/events.jsonl       a line a job, an epoch and an end: all that the search knows, flushed one by one
DIR/trials/NNN/        a run folder each
DIR/worker.log         what the process that trains them printed
DIR/trials.csv         a line a trial
DIR/best.toml          the best trial's configuration, for mtk train --config
DIR/best/              its run folder, for mtk evaluate and mtk predict
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mtk import __version__, plugins
from mtk.checkpoint import read_json, replace_folder
from mtk.config import RunConfig, make_config, read_toml
from mtk.errors import CheckpointError, ConfigError
from mtk.interfaces import Job, SearchState, TrialRecord, Tuner
from mtk.run import RunFolder, write_atomically
from mtk.space import Space, apply

FORMAT = 1


@dataclass(frozen=True)
class Plan:
    """What is searched and how far. config: what every trial starts from; its epochs are those of a whole trial.

    tuner: NAME or NAME:OPTIONS. trials: that may begin. max_epochs, max_hours: of the whole search; None for no limit.
    final_seeds, final_epochs: of the runs that compare the best with the untuned settings afterwards.
    """

    config: RunConfig
    space: Space
    tuner: str
    trials: int
    max_epochs: int | None = None
    max_hours: float | None = None
    final_seeds: int = 0
    final_epochs: int | None = None


@dataclass(frozen=True)
class TrialEvent:
    """What just happened to a trial. kind: begun, epoch, paused, finished, stopped, failed or saved."""

    kind: str
    trial: TrialRecord
    seconds: float  # of the search so far


class Search:
    """A search in its folder; `run()` goes on until the tuner, a limit or `stop()` ends it.

    Raises ConfigError for a plan that cannot work, before anything is trained.
    """

    def __init__(self, folder: Path, plan: Plan, facts: Mapping[str, Any] | None = None) -> None:
        self.folder, self.plan = folder, plan
        if plan.trials < 1:
            raise ConfigError(f"--trials: expected at least 1, found {plan.trials}")
        name, options = plugins.parse_spec(plan.tuner)
        self.tuner: Tuner = plugins.build("tuner", name, **options)
        plan.space.check(plan.config.to_dict())
        self.trials: list[TrialRecord] = []
        self.ended: str | None = None
        self._facts = dict(facts or {})
        self._seconds = 0.0  # of earlier calls
        self._left: Job | None = None  # what a kill cut off
        self._worker: Worker | None = None
        self._stop = False

    # ------------------------------------------------------------------------------------------ folders

    @classmethod
    def create(cls, folder: Path, plan: Plan, command: str) -> Search:
        """A new search in a new or empty folder. Raises ConfigError."""
        RunFolder.check_out(folder)
        search = cls(folder, plan)
        search.state()  # a grid that is too large, say
        search.tuner.next(search.state())
        try:
            (folder / "trials").mkdir(parents=True)
        except OSError as error:
            raise ConfigError(f"--out {folder}: cannot be written ({error.strerror})") from error
        search._facts = {
            "format": FORMAT,
            "mtk": __version__,
            "command": command,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "tuner": plan.tuner,
            "trials": plan.trials,
            "max_epochs": plan.max_epochs,
            "max_hours": plan.max_hours,
            "final_seeds": plan.final_seeds,
            "final_epochs": plan.final_epochs,
            "space": plan.space.to_dict(),
        }
        write_atomically(folder / "config.toml", plan.config.to_toml())
        search._write_facts(status="running")
        return search

    @classmethod
    def resume(cls, folder: Path) -> Search:
        """A search that was cut off. Raises ConfigError and CheckpointError."""
        facts = read_json(folder / "tune.json", f"{folder}: not the folder of a search")
        if not isinstance(facts, dict) or facts.get("format") != FORMAT:
            raise CheckpointError(f"{folder / 'tune.json'}: not a search that this mtk {__version__} can read")
        config = make_config(read_toml(folder / "config.toml"), str(folder / "config.toml"))
        plan = Plan(
            config,
            Space.parse(facts["space"]),
            facts["tuner"],
            facts["trials"],
            facts["max_epochs"],
            facts["max_hours"],
            facts["final_seeds"],
            facts["final_epochs"],
        )
        search = cls(folder, plan, facts)
        search._replay()
        if facts.get("status") == "finished":
            search.ended = facts["ended"]
            if not plan.final_seeds:
                raise ConfigError(f"{folder}: the search is finished ({search.ended}); its best: {folder}/best.toml")
        return search

    def _write_facts(self, **facts: Any) -> None:
        self._facts |= facts
        write_atomically(self.folder / "tune.json", json.dumps(self._facts, indent=2) + "\n")

    # ------------------------------------------------------------------------------------------ the record

    def state(self) -> SearchState:
        plan = self.plan
        seed = plan.config.train.seed
        return SearchState(
            tuple(self.trials),
            plan.config.train.epochs,
            plan.trials,
            seed,
            lambda number: plan.space.sample(seed, number),
            plan.space.grid,
        )

    def _record(self, **event: Any) -> None:
        """Appends a line to events.jsonl, on disk before anything else happens. Raises CheckpointError."""
        event["seconds"] = round(self._clock(), 1)
        try:
            with (self.folder / "events.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(event) + "\n")
                log.flush()
                os.fsync(log.fileno())
        except OSError as error:
            raise CheckpointError(
                f"{self.folder / 'events.jsonl'}: writing failed ({error.strerror}); what was found before stands; "
                f"make room and go on: mtk tune --resume {self.folder}"
            ) from error
        self._apply(event)

    def _apply(self, event: Mapping[str, Any]) -> None:
        """The event's effect on what is known: the same when it happens and when it is read again."""
        kind, number = event["event"], event["trial"]
        if kind == "job":
            if number == len(self.trials):
                self.trials.append(TrialRecord(number, event["parameters"]))
            self.trials[number] = replace(self.trials[number], state="running")
            self._left = Job(event["epochs"], trial=number)
            return
        trial = self.trials[number]
        if kind == "epoch":
            score = event["score"]
            self.trials[number] = replace(trial, scores=(*trial.scores, -math.inf if score is None else score))
            return
        if kind != "saved":
            self.trials[number] = replace(trial, state=kind, problem=event.get("problem", ""))
            self._left = None

    def _replay(self) -> None:
        """Reads what happened, and what a killed trial saved that no event tells of."""
        for event in _lines(self.folder / "events.jsonl"):
            self._apply(event)
            self._seconds = event["seconds"]

    def _clock(self) -> float:
        return self._seconds + time.perf_counter() - self._start

    # ------------------------------------------------------------------------------------------ searching

    def stop(self) -> None:
        """Ends the search after the running step, resumably. May be called from a signal's handler."""
        self._stop = True
        if self._worker is not None:
            self._worker.say("save")

    def run(self) -> Iterator[TrialEvent]:
        """Trains until the tuner has no more to do, a limit is reached or somebody stops it.

        Raises MTKError; what was found before then stands. `ended` says why it ended; None: it can be resumed.
        """
        if self.ended is not None:
            return
        self._start = time.perf_counter()
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(f"{self.folder}: another process is searching in this folder") from None
        self._write_facts(status="running")
        try:
            while not self._stop:
                job = self._left or self._spent() or self.tuner.next(self.state())
                if job is None or isinstance(job, str):
                    self.ended = job or "the tuner has no more trials"
                    break
                yield from self._do(job)
            done = self.ended is not None
            self.write()
            self._keep_best()
            self._tidy()
            self._write_facts(status="finished" if done else "stopped", ended=self.ended)
        finally:
            self._dismiss()
            lock.release()

    def _spent(self) -> str | None:
        """Which limit is reached, if one is."""
        plan, epochs = self.plan, sum(len(trial.scores) for trial in self.trials)
        if plan.max_epochs is not None and epochs >= plan.max_epochs:
            return f"{epochs} epochs trained (--max-epochs {plan.max_epochs})"
        if plan.max_hours is not None and self._clock() >= plan.max_hours * 3600:
            return f"--max-hours {plan.max_hours:g} is over"
        failed = [trial for trial in self.trials if trial.state == "failed"]
        if len(failed) == len(self.trials) >= min(3, plan.trials):
            raise ConfigError(
                f"all {len(failed)} trials failed; the last: {failed[-1].problem} (more in "
                f"{self.folder / 'worker.log'})"
            )
        return None

    def _do(self, job: Job) -> Iterator[TrialEvent]:
        """One job, from its order to its end."""
        number = len(self.trials) if job.trial is None else job.trial
        parameters = dict(job.parameters or self.trials[number].parameters)
        if job is not self._left:
            self._record(event="job", trial=number, parameters=parameters, epochs=job.epochs)
        self._catch_up(number)
        yield self._event("begun", number)
        worker = self._worker = self._worker or Worker(self.folder / "worker.log")
        config = self.config_of(parameters)
        worker.say({"job": str(self.run_folder(number)), "config": config.to_dict(), "epochs": job.epochs})
        while True:
            answer = worker.hear()
            if answer is None:
                code, self._worker = worker.end(), None
                answer = {"event": "failed", "problem": _death(code)}
            if answer["event"] == "epoch":
                if answer["epoch"] > len(self.trials[number].scores):
                    score = answer["score"]
                    answer["score"] = score if score is not None and math.isfinite(score) else None
                    self._record(**answer, trial=number)
                    yield self._event("epoch", number)
                keep = self.tuner.keep(self.state(), self.trials[number])
                over = self._stop or self._spent() is not None
                worker.say("save" if over else "go" if keep else "drop")
                continue
            kind = {"dropped": "stopped"}.get(answer["event"], answer["event"])
            if kind == "saved" and not self._stop:
                kind = "paused"
            self._record(event=kind, trial=number, **({"problem": answer["problem"]} if "problem" in answer else {}))
            self._tidy()
            self.write()
            yield self._event(kind, number)
            return

    def _catch_up(self, number: int) -> None:
        """Records epochs that the trial's run saved just before a kill, which no event tells of."""
        folder = RunFolder(self.run_folder(number))
        for line in folder.metrics():
            if line["event"] == "epoch" and line["epoch"] > len(self.trials[number].scores):
                self._record(
                    event="epoch", trial=number, epoch=line["epoch"], score=line["selected"], scores=line["scores"]
                )

    def _event(self, kind: str, number: int) -> TrialEvent:
        return TrialEvent(kind, self.trials[number], self._clock())

    def _dismiss(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.end()

    # ------------------------------------------------------------------------------------------ what it found

    def run_folder(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:03d}"

    def config_of(self, parameters: Mapping[str, Any]) -> RunConfig:
        """The configuration of a trial. Raises ConfigError."""
        return make_config(apply(self.plan.config.to_dict(), parameters), "trial")

    @property
    def best(self) -> TrialRecord | None:
        """The trial with the best epoch; the earlier of equals. None before the first epoch."""
        scored = [trial for trial in self.trials if trial.scores and trial.best > -math.inf]
        return max(scored, key=lambda trial: (trial.best, -trial.number)) if scored else None

    def _tidy(self) -> None:
        """Drops what no job will need: moments of trials that are over, weights of all but the best."""
        best, ended = self.best, self.ended is not None
        for trial in self.trials:
            folder, over = self.run_folder(trial.number), ended or trial.state in ("stopped", "finished", "failed")
            if over:
                shutil.rmtree(folder / "last", ignore_errors=True)
            if over and (best is None or trial.number != best.number):
                shutil.rmtree(folder / "best", ignore_errors=True)

    def write(self) -> None:
        """trials.csv, and where there is a best trial, best.toml and best/. Raises CheckpointError."""
        keys = list(dict.fromkeys(key for trial in self.trials for key in trial.parameters))
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["trial", "state", "epochs", "best_score", "best_epoch", "last_score", *keys, "problem"])
        for trial in self.trials:
            own = trial.scores
            scores = [trial.best, own.index(trial.best) + 1, own[-1]] if own else ["", "", ""]
            values = [trial.parameters.get(key, "") for key in keys]
            writer.writerow([trial.number, trial.state, len(own), *scores, *values, trial.problem])
        write_atomically(self.folder / "trials.csv", stream.getvalue())
        if (best := self.best) is not None:
            write_atomically(self.folder / "best.toml", self.config_of(best.parameters).to_toml())

    def _keep_best(self) -> None:
        """best/: the best trial's run folder, without what only a resume needs."""
        if (best := self.best) is None:
            return
        run = self.run_folder(best.number)

        def copy(new: Path) -> None:
            for name in ("config.toml", "run.json", "metrics.jsonl"):
                shutil.copy2(run / name, new / name)
            shutil.copytree(run / "best", new / "best")

        replace_folder(self.folder / "best", copy)


class Worker:
    """The process that trains, seen from the search."""

    def __init__(self, log: Path) -> None:
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mtk.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # Ctrl-C is the search's to hear, which lets the trial be saved
            )

    def say(self, order: Any) -> None:
        """Sends a line; a worker that is gone says so by its silence."""
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # RuntimeError: a signal's handler amid a write
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()

    def hear(self) -> dict[str, Any] | None:
        """The next line; None where the worker is gone."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        try:
            return dict(json.loads(line)) if line else None
        except ValueError:
            return None

    def end(self) -> int:
        """Ends the process, and says its exit code."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            return self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def _death(code: int) -> str:
    """Why a worker is gone, from its exit code."""
    if code == -9:
        return "its process was killed (signal 9): out of memory? a smaller batch or model needs less"
    return f"its process died ({f'signal {-code}' if code < 0 else f'exit code {code}'}); worker.log has what it said"


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """The events of a log; a last line that a crash cut off is left out, and taken away."""
    if not file.exists():
        return
    whole = 0
    with file.open("rb") as log:
        for line in log:
            try:
                event = json.loads(line)
            except ValueError:
                break
            whole += len(line)
            yield event
    if whole < file.stat().st_size:
        os.truncate(file, whole)
