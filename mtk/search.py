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
import shlex
import shutil
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mtk import __version__, plugins
from mtk.assembly import build_encoder, build_tasks, check_dev, check_select_on, complete
from mtk.checkpoint import load_encoder, read_json, replace_folder
from mtk.config import Choice, RunConfig, make_config, read_toml
from mtk.errors import CheckpointError, ConfigError, MTKError, PluginError
from mtk.interfaces import Job, SearchState, TrialRecord, Tuner
from mtk.run import RunFolder, write_atomically
from mtk.space import Space, apply
from mtk.worker import Process

FORMAT = 1
_ENOUGH = 3  # trials that fail before one has ended an epoch: then the fault is no single trial's
_LOOK = 0.2  # seconds between two looks at whether somebody wants to stop
_UNMADE = {".lock", "config.toml", ".config.toml.new", ".tune.json.new"}  # what a start leaves that was cut off
_CHOSEN = ("device", "precision", "threads")  # what one probe chooses for all trials


@dataclass(frozen=True)
class Plan:
    """What is searched and how far. config: what every trial starts from; its epochs are those of a whole trial.

    tuner: NAME or NAME:OPTIONS. trials: that may begin. max_epochs, max_hours: of the whole search, looked at after
    each epoch; None for no limit. final_seeds, final_epochs: of the runs that compare the best with the untuned
    settings afterwards.
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

    Raises ConfigError for a plan that cannot work.
    """

    def __init__(self, folder: Path, plan: Plan, facts: Mapping[str, Any] | None = None) -> None:
        self.folder, self.plan = folder, plan
        if plan.trials < 1:
            raise ConfigError(f"--trials: expected at least 1, found {plan.trials}")
        if plan.max_hours is not None and not 0 < plan.max_hours < math.inf:
            raise ConfigError(f"--max-hours: expected a number above 0, found {plan.max_hours:g}")
        name, options = plugins.parse_spec(plan.tuner)
        self.tuner: Tuner = plugins.build("tuner", name, **options)
        plan.space.check(plan.config.to_dict())
        self.trials: list[TrialRecord] = []
        self.ended: str | None = None
        self.room = ""  # what is to be known of the disk
        self._facts = dict(facts or {})
        self._seconds = 0.0  # of earlier calls
        self._left: Job | None = None  # begun and not over: what a kill cuts off
        self._since = 0  # epochs that its trial had before
        self._failed = 0  # trials, in this call
        self._worker: Process | None = None
        self._stop = False
        self._lock = FileLock(folder / ".lock")

    # ------------------------------------------------------------------------------------------ folders

    @classmethod
    def planned(cls, folder: Path, plan: Plan) -> Search:
        """A new search, all of it checked that can be before a trial is trained; nothing is written.

        Raises MTKError: for a folder in use, a grid that is too large, data, a score or an encoder that is not there, a
        disk without room for a trial.
        """
        if not _is_unmade(folder):
            if (folder / "tune.json").exists():
                raise ConfigError(
                    f"--out {folder}: a search is there; choose another, or go on with that one: {go_on(folder)}"
                )
            RunFolder.check_out(folder)
        search = cls(folder, plan)
        first = search._next()
        tasks = build_tasks(plan.config)
        dev = {name: task.examples("dev") for name, task in tasks.items()}
        check_dev(tasks, dev)
        check_select_on(plan.config, tasks, dev)
        found: dict[str, Any] = {"data": complete(plan.config, tasks).data}  # wherever a resume is started from
        if plan.config.init is not None and "encoder" not in plan.config.model_fields_set:
            own = RunFolder.open(Path(plan.config.init)).config.encoder  # which a tree of all settings must name
            ours = plan.config.model.encoder_dropout is not None or "model.encoder_dropout" in plan.space
            found["encoder"] = Choice(
                name=own.name, **{k: v for k, v in own.options.items() if k != "dropout" or not ours}
            )
        search.plan = replace(plan, config=plan.config.model_copy(update=found))
        if isinstance(first, Job):
            search._check_room(search.config_of(first.parameters or {}))
        return search

    @classmethod
    def create(cls, folder: Path, plan: Plan, command: str) -> Search:
        """A new search in a new or empty folder. Raises MTKError, and has then written nothing."""
        search = cls.planned(folder, plan)
        plan = search.plan
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
        text = plan.config.to_toml()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--out {folder}: cannot be written ({error.strerror})") from error
        search._hold()
        try:
            if (folder / "tune.json").exists():  # since it was looked at
                raise ConfigError(f"--out {folder}: another search has begun there; choose another")
            write_atomically(folder / "config.toml", text)
            search._write_facts(status="running")
        except MTKError as error:
            if isinstance(error, CheckpointError):
                (folder / "config.toml").unlink(missing_ok=True)
                error = ConfigError(f"--out {folder}: cannot be written ({error})")
            search.close()
            raise error from None
        return search

    @classmethod
    def resume(cls, folder: Path) -> Search:
        """A search that was cut off. Raises ConfigError and CheckpointError."""
        _read_facts(folder)
        config = make_config(read_toml(folder / "config.toml"), str(folder / "config.toml"))
        lock = FileLock(folder / ".lock")
        _acquire(lock, folder)
        try:
            facts = _read_facts(folder)
            try:
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
                search.ended = facts["ended"] if facts.get("status") == "finished" else None
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise CheckpointError(
                    f"{folder / 'tune.json'}: damaged, not what a search writes ({error!r})"
                ) from error
            search._lock = lock
            search._replay()
            if search.ended is not None:
                search._tidy()
                if not plan.final_seeds:
                    best = f"; its best: {folder / 'best.toml'}" if search.best else ""
                    raise ConfigError(f"{folder}: the search is finished ({search.ended}){best}")
        except BaseException:
            _release(lock)
            raise
        return search

    def close(self) -> None:
        """Lets another process search in this folder. `run()` does so at its end."""
        _release(self._lock)

    def _hold(self) -> None:
        if not self._lock.is_locked:
            _acquire(self._lock, self.folder)

    def _write_facts(self, **facts: Any) -> None:
        self._facts |= facts
        write_atomically(self.folder / "tune.json", json.dumps(self._facts, indent=2) + "\n")

    def _check_room(self, config: RunConfig) -> None:
        """Raises ConfigError where the disk has no room for even one trial; `room` says where it lacks it for all."""
        if config.init is not None:
            encoder = load_encoder(RunFolder.open(Path(config.init)).best)
        else:
            encoder = build_encoder(config)
        trial = 4 * 4 * sum(p.numel() for p in encoder.parameters())  # bytes: weights, two moments, the best weights
        place = next(place for place in (self.folder.absolute(), *self.folder.absolute().parents) if place.exists())
        free = shutil.disk_usage(place).free
        if free < 2 * trial:  # a save lies beside the one that it replaces
            raise ConfigError(
                f"--out {self.folder}: {_size(free)} are free there, but a trial of this encoder takes about "
                f"{_size(2 * trial)} while it is saved; make room, or choose another folder or a smaller encoder"
            )
        if free < trial * (self.plan.trials + 1):
            self.room = (
                f"{_size(free)} are free on the disk; {self.plan.trials} trials that all wait to be trained further "
                f"would take about {_size(trial * self.plan.trials)}"
            )

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
            plan.space,
        )

    def _record(self, **event: Any) -> None:
        """Appends a line to events.jsonl, on disk before anything else happens. Raises CheckpointError."""
        event = _finite({**event, "seconds": round(self._clock(), 1)})
        try:
            with (self.folder / "events.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(event, allow_nan=False) + "\n")
                log.flush()
                os.fsync(log.fileno())
        except OSError as error:
            raise CheckpointError(
                f"{self.folder / 'events.jsonl'}: writing failed ({error.strerror}); what was found before stands; "
                f"make room and go on: {go_on(self.folder)}"
            ) from error
        self._apply(event)

    def _apply(self, event: Mapping[str, Any]) -> None:
        """The event's effect on what is known: the same when it happens and when it is read again."""
        kind, number = event["event"], event["trial"]
        if kind == "job":
            if number == len(self.trials):
                self.trials.append(TrialRecord(number, dict(event["parameters"])))
            self.trials[number] = replace(self.trials[number], state="running")
            self._left, self._since = Job(event["epochs"], trial=number), len(self.trials[number].scores)
            return
        trial = self.trials[number]
        if kind == "epoch":
            score = -math.inf if event["score"] is None else float(event["score"])
            self.trials[number] = replace(trial, scores=(*trial.scores, score))
        elif kind in ("paused", "finished", "stopped", "failed"):
            self.trials[number] = replace(trial, state=kind, problem=event.get("problem", ""))
            self._left = None
        elif kind != "saved":
            raise ValueError(f"'{kind}' is no event")

    def _replay(self) -> None:
        """Reads what happened. Raises CheckpointError that names the line that is damaged."""
        file = self.folder / "events.jsonl"
        for number, line in enumerate(_lines(file), 1):
            try:
                event = json.loads(line)
                self._apply(event)
                self._seconds = float(event["seconds"])
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                raise CheckpointError(
                    f"{file}, line {number}: damaged, not an event of a search ({error!r}); take the line and those "
                    "after it away to go on from before"
                ) from error

    def _clock(self) -> float:
        return self._seconds + time.perf_counter() - self._start

    # ------------------------------------------------------------------------------------------ searching

    def stop(self) -> None:
        """Ends the search after the running step, resumably. May be called from a signal's handler."""
        self._stop = True

    def run(self) -> Generator[TrialEvent]:
        """Trains until the tuner has no more to do, a limit is reached or somebody stops it.

        Raises MTKError; what was found before then stands. `ended` says why it ended; None: it can be resumed.
        """
        if self.ended is not None:
            self.close()
            return
        self._start = time.perf_counter()
        self._hold()
        try:
            self._write_facts(status="running")
            ended: str | None = None
            while not self._stop:
                job = self._left or self._spent() or self._next()
                if isinstance(job, str):
                    ended = job
                    break
                yield from self._do(job)
                self._check_failures(_ENOUGH)
            if ended is not None:
                self._check_failures(0)
            self.write()
            self._keep_best()
            self._write_facts(status="stopped" if ended is None else "finished", ended=ended)
            self.ended = ended
            self._tidy()
        except CheckpointError as error:
            again = "" if go_on(self.folder) in str(error) else f", and go on: {go_on(self.folder)}"
            raise CheckpointError(f"{error}{again}") from error
        finally:
            self._dismiss()
            self.close()

    def _next(self) -> Job | str:
        """The tuner's next job, or why there is none. Raises PluginError for one that cannot be done."""
        job, begun = self.tuner.next(self.state()), len(self.trials)
        if job is None:
            return "the tuner has no more trials"
        if job.trial is None and job.parameters is not None and job.epochs > 0:
            return job if begun < self.plan.trials else f"{begun} trials have begun (--trials {self.plan.trials})"
        if job.trial is not None and 0 <= job.trial < begun:
            trial = self.trials[job.trial]
            if trial.state == "paused" and job.epochs > len(trial.scores):
                return job
        raise PluginError(
            f"tuner '{self.plan.tuner}': expected a job with parameters, or for more epochs of a paused trial; {job}"
        )

    def _spent(self) -> str | None:
        """Which limit is reached, if one is."""
        plan, epochs = self.plan, sum(len(trial.scores) for trial in self.trials)
        if plan.max_epochs is not None and epochs >= plan.max_epochs:
            return f"{epochs} epochs trained (--max-epochs {plan.max_epochs})"
        if plan.max_hours is not None and self._clock() >= plan.max_hours * 3600:
            return f"--max-hours {plan.max_hours:g} is over"
        return None

    def _check_failures(self, enough: int) -> None:
        """Raises MTKError where nothing but failures came of at least `enough` trials of this call."""
        failed = [trial for trial in self.trials if trial.state == "failed"]
        if failed and len(failed) == len(self.trials) and self._failed >= min(enough, self.plan.trials):
            raise MTKError(
                f"all {len(failed)} trials failed, the last with: {failed[-1].problem} (more in "
                f"{self.folder / 'worker.log'}; with the cause gone, go on: {go_on(self.folder)})"
            )

    def _do(self, job: Job) -> Iterator[TrialEvent]:
        """One job, from its order to its end."""
        number = len(self.trials) if job.trial is None else job.trial
        if job is not self._left:
            parameters = dict(self.trials[number].parameters if job.parameters is None else job.parameters)
            self._record(event="job", trial=number, parameters=parameters, epochs=job.epochs)
        yield self._event("begun", number)
        kind, problem = "", ""
        try:
            tree = self.config_of(self.trials[number].parameters).to_dict()
        except MTKError as error:  # values that are sound in pairs, and not together
            kind, problem = "failed", str(error)
        else:
            if self._worker is None or not self._worker.alive:
                self._dismiss()
                self._worker = Process(self.folder / "worker.log")
            folder = str(self.run_folder(number).absolute())
            self._worker.say({"job": folder, "config": tree, "epochs": job.epochs})
        while not kind:
            answer = self._hear()
            if answer["event"] in ("began", "epoch"):
                if answer.get("hardware") and "hardware" not in self._facts:
                    self._write_facts(hardware={key: answer["hardware"][key] for key in _CHOSEN})
                for line in answer["epochs"] if answer["event"] == "began" else [answer]:
                    if line["epoch"] > len(self.trials[number].scores):
                        self._record(**{**line, "event": "epoch", "trial": number})
                        yield self._event("epoch", number)
                assert self._worker is not None
                self._worker.say(self._verdict(number))
            elif answer["event"] == "unsaved":
                raise CheckpointError(
                    f"trial {number} cannot be saved; what was found before stands; make room and go on: "
                    f"{go_on(self.folder)} ({answer['problem']})"
                )
            else:
                kind = {"dropped": "stopped"}.get(answer["event"], answer["event"])
                problem = answer.get("problem", "")
        if kind == "saved" and not self._stop:
            kind = "paused"
        self._failed += kind == "failed"
        self._record(event=kind, trial=number, **({"problem": problem} if problem else {}))
        self.write()
        self._tidy()
        yield self._event(kind, number)

    def _hear(self) -> dict[str, Any]:
        """The worker's next answer. One who wants to stop is obeyed meanwhile; the death of the worker is an answer."""
        assert self._worker is not None
        told = False
        while True:
            if self._stop and not told:
                self._worker.say("save")
                told = True
            answer = self._worker.hear(_LOOK)
            if answer is None:
                code, self._worker = self._worker.end(), None
                return {"event": "failed", "problem": _death(code)}
            if answer:
                return answer

    def _verdict(self, number: int) -> str:
        """Whether the trial goes on after what it has behind it in this job."""
        trial = self.trials[number]
        if len(trial.scores) > self._since and not self.tuner.keep(self.state(), trial):
            return "drop"
        return "save" if self._stop or self._spent() is not None else "go"

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
        """The configuration of a trial, on the hardware that the first one found. Raises ConfigError."""
        chosen = {f"train.{key}": value for key, value in self._facts.get("hardware", {}).items()}
        return make_config(apply(self.plan.config.to_dict(), {**chosen, **parameters}), "trial")

    @property
    def best(self) -> TrialRecord | None:
        """The trial with the best epoch; the earlier of equals. None before the first epoch."""
        scored = [trial for trial in self.trials if trial.scores and trial.best > -math.inf]
        return max(scored, key=lambda trial: (trial.best, -trial.number)) if scored else None

    def _tidy(self) -> None:
        """Drops what no job will need: moments of trials that are over, weights of all but the best."""
        best = self.best
        for trial in self.trials:
            folder = self.run_folder(trial.number)
            if self.ended is None and trial.state not in ("stopped", "finished", "failed"):
                continue
            names = ["last", ".last.new", ".last.old", ".best.new"]
            if best is None or trial.number != best.number:
                names += ["best", ".best.old"]
            for name in names:
                shutil.rmtree(folder / name, ignore_errors=True)

    def write(self) -> None:
        """trials.csv, and where there is a best trial, best.toml. Raises CheckpointError."""
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
        """best/: the best trial's run folder, without what only a resume needs. Raises CheckpointError."""
        if (best := self.best) is None:
            return
        run = RunFolder(self.run_folder(best.number))

        def copy(new: Path) -> None:
            for name in ("config.toml", "run.json", "metrics.jsonl"):
                shutil.copy2(run.path / name, new / name)
            shutil.copytree(run.best, new / "best")

        replace_folder(self.folder / "best", copy)


def go_on(folder: Path) -> str:
    """What to type to go on with a search."""
    return shlex.join(["mtk", "tune", "--resume", str(folder)])


def _is_unmade(folder: Path) -> bool:
    """Whether a search was cut off there before it was one."""
    try:
        return folder.is_dir() and {file.name for file in folder.iterdir()} <= _UNMADE
    except OSError:
        return False


def _read_facts(folder: Path) -> dict[str, Any]:
    """tune.json. Raises CheckpointError."""
    facts = read_json(folder / "tune.json", f"{folder}: not the folder of a search")
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        found = facts if isinstance(facts, dict) else {}
        raise CheckpointError(
            f"{folder / 'tune.json'}: a search of format {found.get('format')} (mtk {found.get('mtk', '?')}), but this "
            f"mtk {__version__} reads format {FORMAT}; use the mtk that wrote it"
        )
    return facts


def _acquire(lock: FileLock, folder: Path) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(f"{folder}: another process is searching in this folder") from None
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror})") from error


def _release(lock: FileLock) -> None:
    if lock.is_locked:
        with contextlib.suppress(OSError):
            Path(lock.lock_file).unlink(missing_ok=True)  # while it is held: nobody can take it for his own
        lock.release()


def _death(code: int) -> str:
    """Why a worker is gone, from its exit code."""
    if code == -9:
        return "its process was killed (signal 9): out of memory? a smaller batch or model needs less"
    return f"its process died ({f'signal {-code}' if code < 0 else f'exit code {code}'}); worker.log has what it said"


def _finite(value: Any) -> Any:
    """The value with None for what is no finite number, which JSON has no form for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def _lines(file: Path) -> list[bytes]:
    """The lines of a log; a last one that a crash cut off is left out, and taken away."""
    if not file.exists():
        return []
    *lines, rest = file.read_bytes().split(b"\n")
    if rest:
        os.truncate(file, file.stat().st_size - len(rest))
    return lines


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
