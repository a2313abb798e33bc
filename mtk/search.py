"""A search for good settings: the tuner decides, workers train, and every result is on disk before the next step.

DIR/tune.json          what is searched, how, by which versions; status
DIR/config.toml        what every trial starts from
DIR/events.jsonl       all that the search knows (mtk.ledger)
DIR/trials/NNN/        a run folder each
DIR/worker.log         what the processes that train them printed
DIR/best.toml, ...     what it found (mtk.findings)
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from mtk import __version__, plugins
from mtk.assembly import build_tasks, check_dev, check_select_on, complete
from mtk.changes import changeable
from mtk.checkpoint import settle
from mtk.config import Choice, RunConfig, make_config, read_toml
from mtk.errors import CheckpointError, ConfigError, MTKError, PluginError
from mtk.findings import change, keep_best, take_over, tidy, write_best, write_trials
from mtk.interfaces import Executor, Job, SearchState, TrialRecord, Tuner, Worker
from mtk.ledger import OVER, Ledger
from mtk.rows import examples_of
from mtk.run import RunFolder, write_atomically
from mtk.searchfolder import (
    FORMAT,
    Plan,
    acquire,
    check_room,
    go_on,
    is_unmade,
    plan_of,
    read_facts,
    reading,
    record_of,
    release,
)
from mtk.searchrecord import SearchRecord, lineage
from mtk.space import apply

_ENOUGH = 3  # trials that fail before one has ended an epoch: then the fault is no single trial's
_LOOK = 0.2  # seconds in which every worker is listened to once
_CHOSEN = ("device", "precision", "threads")  # what one probe chooses for all trials


@dataclass(frozen=True)
class TrialEvent:
    """What just happened to a trial. kind: begun, waiting (for a worker), epoch, restarted, paused, finished, stopped,
    failed or saved."""

    kind: str
    trial: TrialRecord
    seconds: float  # of the search so far
    problem: str = ""


@dataclass
class _Slot:
    """A trial that a worker is at. told: whether it knows that somebody wants to stop."""

    number: int
    worker: Worker
    told: bool = False


class Search:
    """A search in its folder; `run()` goes on until the tuner, a limit or `stop()` ends it.

    Raises ConfigError for a plan that cannot work.
    """

    def __init__(self, folder: Path, plan: Plan, facts: Mapping[str, Any] | None = None) -> None:
        self.folder, self.plan = folder, plan
        if plan.trials < 1:
            raise ConfigError(f"--trials: expected at least 1, found {plan.trials}")
        if plan.slots < 1:
            raise ConfigError(f"--slots: expected at least 1, found {plan.slots}")
        if plan.max_hours is not None and not 0 < plan.max_hours < math.inf:
            raise ConfigError(f"--max-hours: expected a number above 0, found {plan.max_hours:g}")
        self.tuner: Tuner = _built("tuner", plan.tuner)
        self.executor: Executor = _built("executor", plan.executor)
        plan.space.check(plan.config.to_dict())
        if twice := [key for change in plan.config.changes for key, _ in change.leaves() if key in plan.space]:
            raise ConfigError(f"space: {twice[0]} cannot be searched: the configuration changes it after some epochs")
        self.ended: str | None = None
        self.room = ""  # what is to be known of the disk
        self.place: list[str] = []  # where the trials are trained
        self.ledger = Ledger(folder, go_on(folder))
        self._facts = dict(facts or {})
        self._left: list[int] = []  # trials whose job has begun and has no worker
        self._capacity = plan.slots  # workers that can be had
        self._failed = 0  # trials, in this call
        self._slots: list[_Slot] = []
        self._idle: list[Worker] = []
        self._stop = False
        self._lock = FileLock(folder / ".lock")

    @property
    def trials(self) -> list[TrialRecord]:
        return self.ledger.trials

    @property
    def best(self) -> TrialRecord | None:
        """The trial with the best epoch, as it was then; the earlier of equals. None before the first epoch."""
        return self.ledger.best

    # ------------------------------------------------------------------------------------------ folders

    @classmethod
    def planned(cls, folder: Path, plan: Plan) -> Search:
        """A new search, all of it checked that can be before a trial is trained; nothing is written.

        Raises MTKError: for a folder in use, a grid that is too large, data, a score or an encoder that is not there, a
        disk without room for a trial.
        """
        if not is_unmade(folder):
            if (folder / "tune.json").exists():
                raise ConfigError(
                    f"--out {folder}: a search is there; choose another, or go on with that one: {go_on(folder)}"
                )
            RunFolder.check_out(folder)
        search = cls(folder, plan)
        if plan.config.train.threads is None and (threads := search._threads()) is not None:
            train = plan.config.train.model_copy(update={"threads": threads})
            plan = search.plan = replace(plan, config=plan.config.model_copy(update={"train": train}))
        first = search._next()
        tasks = build_tasks(plan.config)
        dev = {name: examples_of(task, "dev") for name, task in tasks.items()}
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
            search.room = check_room(search.config_of(first.parameters or {}), folder, plan.trials)
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
            "slots": plan.slots,
            "executor": plan.executor,
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
            search._open()
            write_atomically(folder / "config.toml", text)
            search._write_facts(status="running")
        except BaseException as error:
            search.close()
            if isinstance(error, CheckpointError):
                (folder / "config.toml").unlink(missing_ok=True)
                raise ConfigError(f"--out {folder}: cannot be written ({error})") from None
            raise
        return search

    @classmethod
    def resume(cls, folder: Path, slots: int | None = None, executor: str | None = None) -> Search:
        """A search that was cut off, on as many slots and where it was unless they are given.

        Raises ConfigError and CheckpointError.
        """
        read_facts(folder)
        config = make_config(read_toml(folder / "config.toml"), str(folder / "config.toml"))
        lock = FileLock(folder / ".lock")
        acquire(lock, folder)
        search = None
        try:
            facts = read_facts(folder)
            with reading(folder):
                plan = plan_of(config, facts)
                plan = replace(plan, slots=slots or plan.slots, executor=executor or plan.executor)
                search = cls(folder, plan, facts)
                search.ended = facts["ended"] if facts.get("status") == "finished" else None
            search._lock = lock
            search.ledger.replay()
            search._left = list(search.ledger.left)
            if search.ended is not None:
                search._tidy()
                if not plan.final_seeds:
                    best = f"; its best: {folder / 'best.toml'}" if search.best else ""
                    raise ConfigError(f"{folder}: the search is finished ({search.ended}){best}")
            else:
                search._open()
        except BaseException:
            if search is not None:
                search.executor.close()
            release(lock)
            raise
        return search

    def _threads(self) -> int | None:
        """CPU threads of a worker. Raises PluginError for an answer that is none."""
        threads = self.executor.threads(self.plan.slots)
        if threads is not None and (not isinstance(threads, int) or threads < 1):
            raise plugins.wrong(self.executor, "threads", "a whole number of at least 1, or None", repr(threads))
        return threads

    def _open(self) -> None:
        """Makes sure that there is a place for the trials. Raises ConfigError and PluginError."""
        place = self.executor.open(self.folder.absolute(), self.plan.slots)
        if not isinstance(place, list) or not all(isinstance(line, str) for line in place):
            raise plugins.wrong(self.executor, "open", "a list of lines", repr(place))
        self.place = place

    def close(self) -> None:
        """Ends the workers, and lets another process search in this folder. `run()` does so at its end."""
        for worker in [*(slot.worker for slot in self._slots), *self._idle]:
            worker.end()
        self._slots, self._idle = [], []
        try:
            self.executor.close()
        finally:
            release(self._lock)

    def _hold(self) -> None:
        if not self._lock.is_locked:
            acquire(self._lock, self.folder)

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
            plan.space,
            frozenset(filter(changeable, plan.space)),
            self._epochs_left(),
        )

    def _epochs_left(self) -> int | None:
        """What --max-epochs still allows beyond the jobs that have begun; None where it does not limit."""
        if self.plan.max_epochs is None:
            return None
        begun = sum(job.epochs - len(self.trials[number].scores) for number, job in self.ledger.left.items())
        return max(0, self.plan.max_epochs - self.ledger.epochs - begun)

    def run_folder(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:03d}"

    def config_of(self, parameters: Mapping[str, Any]) -> RunConfig:
        """The configuration of a trial, on the hardware that the first one found. Raises ConfigError."""
        chosen = {f"train.{key}": value for key, value in self._facts.get("hardware", {}).items()}
        return make_config(apply(self.plan.config.to_dict(), {**chosen, **parameters}), "trial")

    # ------------------------------------------------------------------------------------------ searching

    def stop(self) -> None:
        """Ends the search after the running steps, resumably. May be called from a signal's handler."""
        self._stop = True

    def run(self) -> Generator[TrialEvent]:
        """Trains until the tuner has no more to do, a limit is reached or somebody stops it.

        Raises MTKError; what was found before then stands. `ended` says why it ended; None: it can be resumed.
        """
        if self.ended is not None:
            self.close()
            return
        self.ledger.start()
        self._hold()
        try:
            self._write_facts(status="running")
            ended: str | None = None
            while True:
                while (ended is None or self._left) and self._is_free():
                    job = self._next_job()
                    if isinstance(job, str):
                        ended = job
                    elif job is None:
                        break
                    else:
                        yield from self._begin(job)
                        self._check_failures(_ENOUGH)
                if not self._slots:
                    break
                for slot in list(self._slots):
                    for event in self._listen(slot):
                        yield event
                        self._check_failures(_ENOUGH)
            if self.ledger.left:
                ended = None  # stopped while it waited for those trials
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
            self.close()

    def _is_free(self) -> bool:
        """Whether another job may begin now."""
        if self._stop or len(self._slots) >= self._capacity:
            return False
        return not self._slots or "hardware" in self._facts  # what the first trial's probe finds, all have

    def _next_job(self) -> Job | str | None:
        """What a free worker does next; None: to wait for another; text: why the search is over."""
        if self._left:
            return self.ledger.left[self._left.pop(0)]
        if (spent := self._spent()) is not None:
            return spent
        job = self._next()
        return None if isinstance(job, str) and self._slots else job

    def _next(self) -> Job | str:
        """The tuner's next job, or why there is none. Raises PluginError for one that cannot be done."""
        job, begun = self.tuner.next(self.state()), len(self.trials)
        if job is None:
            return "the tuner has no more trials"
        if not isinstance(job, Job):
            raise plugins.wrong(self.tuner, "next", "a Job or None", repr(job))
        if job.parameters is not None and (
            not isinstance(job.parameters, Mapping) or not set(job.parameters) <= set(self.plan.space)
        ):
            expected = f"a Job with values for {' and '.join(self.plan.space)}"
            raise plugins.wrong(self.tuner, "next", expected, f"parameters={job.parameters!r}")
        if job.trial is None and job.source is None and job.parameters is not None and job.epochs > 0:
            return job if begun < self.plan.trials else f"{begun} trials have begun (--trials {self.plan.trials})"
        if job.trial is not None and 0 <= job.trial < begun and self._can_go_on(job, self.trials[job.trial]):
            return job
        raise PluginError(
            f"tuner '{self.plan.tuner}': expected a job with parameters, or for more epochs of a trial that waits, or "
            f"from the weights of one that does; {job}"
        )

    def _can_go_on(self, job: Job, trial: TrialRecord) -> bool:
        if job.source is None:
            return trial.state == "paused" and job.parameters is None and job.epochs > len(trial.scores)
        if job.parameters is None or not 0 <= job.source < len(self.trials) or trial.state == "running":
            return False
        source, fixed = self.trials[job.source], [key for key in self.plan.space if not changeable(key)]
        kept = all(job.parameters.get(key) == source.parameters.get(key) for key in fixed)
        return kept and source.state == "paused" and job.epochs > len(source.scores)

    def _spent(self) -> str | None:
        """Which limit is reached, if one is."""
        plan, ledger = self.plan, self.ledger
        if plan.max_epochs is not None and ledger.epochs >= plan.max_epochs:
            return f"{ledger.epochs} epochs trained (--max-epochs {plan.max_epochs})"
        if plan.max_hours is not None and ledger.seconds >= plan.max_hours * 3600:
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

    # ------------------------------------------------------------------------------------------ jobs

    def _begin(self, job: Job) -> Iterator[TrialEvent]:
        """Gives a worker a job: a new one, which is recorded first, or one that was cut off."""
        number = len(self.trials) if job.trial is None else job.trial
        if number not in self.ledger.left:
            parameters = dict(self.trials[number].parameters if job.parameters is None else job.parameters)
            source = {} if job.source is None else {"source": job.source}
            self.ledger.record(event="job", trial=number, parameters=parameters, epochs=job.epochs, **source)
        yield self._event("begun", number)
        try:
            if job.source is not None:
                self._take_over(number, job.source)
            tree = self.config_of(self.trials[number].parameters).to_dict()
        except CheckpointError:
            raise
        except MTKError as error:  # values that are sound in pairs, and not together
            yield self._over(number, "failed", str(error))
            return
        try:
            worker = self._free_worker()
        except MTKError as error:
            if not self._slots:
                raise
            self._capacity = len(self._slots)  # a node is gone: the trial waits for a worker that is there
            self._left.append(number)
            yield self._event("waiting", number, str(error))
            return
        self._slots.append(_Slot(number, worker))
        worker.say({"job": str(self.run_folder(number).absolute()), "config": tree, "epochs": job.epochs})

    def _free_worker(self) -> Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.alive:
                return worker
            worker.end()
        worker = self.executor.start(self.folder.absolute() / "worker.log")
        if not isinstance(worker, Worker):
            raise plugins.wrong(self.executor, "start", "a mtk.Worker", repr(worker))
        return worker

    def _take_over(self, number: int, origin: int) -> None:
        """The trial's run folder becomes that of another, which stands at the end of the same epoch. Raises MTKError.

        What it held is given up; were it the search's best, that is kept first. Done once, however often it is begun.
        """
        *_, before, stage = self.trials[number].stages
        target = settle(self.run_folder(number))
        done = {"trial": origin, "after": stage.after}
        if (target / "run.json").exists() and RunFolder(target).facts.get("took_over") == done:
            return
        if self.best is not None and self.best.number == number and not self._holds_best(number):
            keep_best(self.folder, RunFolder(target))
        take_over(RunFolder(self.run_folder(origin)), target, change(before, stage, self.config_of), took_over=done)

    def _holds_best(self, number: int) -> bool:
        """Whether the search's best epoch lies in the history of the trial's weights."""
        best, trial = self.best, self.trials[number]
        return best is not None and all(
            own[: len(theirs)] == theirs for own, theirs in ((trial.stages, best.stages), (trial.scores, best.scores))
        )

    def _listen(self, slot: _Slot) -> Iterator[TrialEvent]:
        """What a worker has to say, if anything; what follows from it."""
        if self._stop and not slot.told:
            slot.worker.say("save")
            slot.told = True
        answer = slot.worker.hear(_LOOK / len(self._slots))
        if answer is None:
            yield from self._died(slot)
        elif answer and answer["event"] in ("began", "epoch"):
            yield from self._went_on(slot, answer)
        elif answer and answer["event"] == "unsaved":
            raise CheckpointError(
                f"trial {slot.number} cannot be saved; what was found before stands; make room and go on: "
                f"{go_on(self.folder)} ({answer['problem']})"
            )
        elif answer:
            self._slots.remove(slot)
            self._idle.append(slot.worker)
            kind = {"dropped": "stopped"}.get(answer["event"], answer["event"])
            kind = "paused" if kind == "saved" and not self._stop else kind
            yield self._over(slot.number, kind, answer.get("problem", ""))

    def _went_on(self, slot: _Slot, answer: Mapping[str, Any]) -> Iterator[TrialEvent]:
        number = slot.number
        if answer.get("hardware") and "hardware" not in self._facts:
            self._write_facts(hardware={key: answer["hardware"][key] for key in _CHOSEN})
        for line in answer["epochs"] if answer["event"] == "began" else [answer]:
            if line["epoch"] > len(self.trials[number].scores):
                self.ledger.record(**{**line, "event": "epoch", "trial": number})
                yield self._event("epoch", number)
        slot.worker.say(self._verdict(number))

    def _verdict(self, number: int) -> str:
        """Whether the trial goes on after what it has behind it in this job."""
        trial = self.trials[number]
        if len(trial.scores) > self.ledger.since[number]:
            keep: Any = self.tuner.keep(self.state(), trial)
            if not isinstance(keep, bool):
                raise plugins.wrong(self.tuner, f"keep of trial {number}", "True or False", repr(keep))
            if not keep:
                return "drop"
        return "save" if self._stop or self._spent() is not None else "go"

    def _died(self, slot: _Slot) -> Iterator[TrialEvent]:
        """A worker is gone: another goes on from the trial's last checkpoint, unless it is there that this one died."""
        self._slots.remove(slot)
        number, problem = slot.number, _death(slot.worker.end())
        if self.ledger.deaths[number, len(self.trials[number].scores)]:
            yield self._over(number, "failed", problem)
            return
        self.ledger.record(event="restarted", trial=number, problem=problem)
        yield self._event("restarted", number, problem)
        if not self._stop:
            yield from self._begin(self.ledger.left[number])

    def _over(self, number: int, kind: str, problem: str = "") -> TrialEvent:
        """A job has ended so."""
        self._failed += kind == "failed"
        self.ledger.record(event=kind, trial=number, **({"problem": problem} if problem else {}))
        self.write()
        self._tidy()
        return self._event(kind, number, problem)

    def _event(self, kind: str, number: int, problem: str = "") -> TrialEvent:
        return TrialEvent(kind, self.trials[number], self.ledger.seconds, problem)

    # ------------------------------------------------------------------------------------------ what it found

    def write(self) -> None:
        """The tables and the best settings so far. Raises CheckpointError."""
        write_trials(self.folder, self.trials)
        write_best(self.folder, self.best, self.config_of)
        write_atomically(self.folder / "lineage.json", json.dumps(lineage(self.record()), indent=2) + "\n")

    def record(self) -> SearchRecord:
        """The search so far, for reports."""
        return record_of(self.plan, self.ledger, self._facts)

    def _keep_best(self) -> None:
        """best/: the best trial's run folder; where its trial took over other weights since, it is there already."""
        if self.best is not None and self._holds_best(self.best.number):
            keep_best(self.folder, RunFolder(self.run_folder(self.best.number)))

    def _tidy(self) -> None:
        """Drops what no job will need: moments of trials that are over, weights of all but the best."""
        for trial in self.trials:
            if self.ended is not None or trial.state in OVER[1:]:
                keeps = self.best is not None and trial.number == self.best.number
                tidy(self.run_folder(trial.number), keeps)


def _built(kind: str, spec: str) -> Any:
    name, options = plugins.parse_spec(spec)
    return plugins.build(kind, name, **options)


def _death(code: int) -> str:
    """Why a worker is gone, from its exit code."""
    if code == -9:
        return "its process was killed (signal 9): out of memory? a smaller batch or model needs less"
    return f"its process died ({f'signal {-code}' if code < 0 else f'exit code {code}'}); worker.log has what it said"
