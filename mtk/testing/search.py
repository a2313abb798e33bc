"""Checks of tuners and executors."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mtk.interfaces import Executor, Job, SearchState, Stage, TrialRecord, Tuner, Worker
from mtk.space import Space

SPACE = ("optim.lr=choice(0.1, 0.2, 0.3)", "train.batch_size=grid(4, 8)")
EPOCHS, LIMIT, SEED = 3, 6, 0  # of a trial; trials that may begin


def check_tuner(make: Callable[[], Tuner], space: Sequence[str] = SPACE) -> None:
    """A tuner's answers in simulated searches with one slot and with three, with and without trials that fail: jobs
    that can be done, the same in any process that knows the same record, and an end.

    make: builds a fresh one. space: what to search, in place of two choices of six combinations. Raises AssertionError.
    """
    parsed = Space.parse(list(space))
    for slots in (1, 3):
        for failing in (0, 3):
            trials = _Search(make, parsed, slots, failing).run()
            assert trials, f"{slots} slots: a search of up to {LIMIT} trials has none"


class _Search:
    """A search in which an epoch costs nothing: scores rise with the learning rate, every `failing`-th trial fails."""

    def __init__(self, make: Callable[[], Tuner], space: Space, slots: int, failing: int) -> None:
        self.make, self.space, self.slots, self.failing = make, space, slots, failing
        self.tuner = make()
        self.trials: list[TrialRecord] = []
        self.running: dict[int, int] = {}  # trial: the epochs that it is to have

    def run(self) -> list[TrialRecord]:
        for _ in range(100 * LIMIT * EPOCHS):
            job = self._ask() if len(self.running) < self.slots else None
            if job is not None:
                self._begin(job)
            elif self.running:
                self._advance(next(iter(self.running)))
            else:
                return self.trials
        raise AssertionError(f"the search does not end: {len(self.trials)} trials and {self.tuner!r} still wants more")

    def _state(self) -> SearchState:
        return SearchState(
            tuple(self.trials),
            EPOCHS,
            LIMIT,
            SEED,
            lambda number: self.space.sample(SEED, number),
            self.space.grid,
            self.space,
            frozenset(self.space),
        )

    def _ask(self) -> Job | None:
        job, again = self.tuner.next(self._state()), self.make().next(self._state())
        assert job is None or isinstance(job, Job), f"next: expected a Job or None, found {job!r}"
        assert job == again, f"next: a fresh tuner answers the same record otherwise: {job} and {again}"
        return job

    def _begin(self, job: Job) -> None:
        new = job.trial is None
        number = len(self.trials) if job.trial is None else job.trial
        assert number < (LIMIT if new else len(self.trials)), f"next: there is no trial {number} to train: {job}"
        assert number not in self.running, f"next: trial {number} is running already: {job}"
        if job.parameters is not None:
            sound = json.loads(json.dumps(dict(job.parameters))) == dict(job.parameters)
            assert sound and set(job.parameters) == set(self.space), f"next: expected {list(self.space)}, found {job}"
        if new:
            assert job.parameters is not None and job.source is None, f"next: a new trial needs parameters: {job}"
            stage = Stage(0, number, job.parameters)
            self.trials.append(TrialRecord(number, job.parameters, stages=(stage,)))
        elif job.source is None:
            paused = self.trials[number].state == "paused" and job.parameters is None
            assert paused, f"next: trial {number} is {self.trials[number].state}, not paused: {job}"
        else:
            source = self.trials[job.source]
            assert source.state == "paused" and job.parameters is not None, f"next: no weights to take over: {job}"
            stages = (*source.stages, Stage(len(source.scores), number, job.parameters))
            self.trials[number] = replace(source, number=number, parameters=job.parameters, stages=stages)
        done = len(self.trials[number].scores)
        assert done < job.epochs <= EPOCHS, f"next: expected more than {done} and at most {EPOCHS} epochs: {job}"
        self.trials[number] = replace(self.trials[number], state="running")
        self.running[number] = job.epochs

    def _advance(self, number: int) -> None:
        """One epoch of a trial."""
        trial = self.trials[number]
        if self.failing and number % self.failing == self.failing - 1:
            self._over(number, "failed")
            return
        score = float(trial.parameters[next(iter(self.space))]) * (1 - 0.5 ** (len(trial.scores) + 1))
        trial = self.trials[number] = replace(trial, scores=(*trial.scores, score))
        keep, again = self.tuner.keep(self._state(), trial), self.make().keep(self._state(), trial)
        assert isinstance(keep, bool), f"keep: expected True or False, found {keep!r}"
        assert keep == again, "keep: a fresh tuner answers the same record otherwise"
        if len(trial.scores) == EPOCHS:
            self._over(number, "finished")
        elif not keep:
            self._over(number, "stopped")
        elif len(trial.scores) >= self.running[number]:
            self._over(number, "paused")

    def _over(self, number: int, state: Any) -> None:
        del self.running[number]
        self.trials[number] = replace(self.trials[number], state=state)


def check_executor(make: Callable[[], Executor]) -> None:
    """An executor opens a folder, starts a worker there that lives until it is ended, and closes: also twice, and
    without having opened. No trial is trained.

    make: builds a fresh one. Raises AssertionError, and ConfigError where it cannot run here.
    """
    make().close()
    executor = make()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        try:
            lines = executor.open(folder, 1)
            sound = isinstance(lines, list) and all(isinstance(line, str) and "\n" not in line for line in lines)
            assert sound, f"open: expected lines of text, found {lines!r}"
            threads = executor.threads(1)
            assert threads is None or (type(threads) is int and threads > 0), f"threads: found {threads!r}"
            worker = executor.start(folder / "worker.log")
            try:
                assert isinstance(worker, Worker) and worker.alive, f"start: expected a live Worker, found {worker!r}"
                answer = worker.hear(0.01)
                assert answer == {}, f"hear: expected an empty answer before any job, found {answer!r}"
            finally:
                code = worker.end()
            assert type(code) is int and not worker.alive, f"end: expected an exit code and no process, found {code!r}"
        finally:
            executor.close()
            executor.close()
