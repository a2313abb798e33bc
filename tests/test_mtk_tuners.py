"""The built-in tuners on simulated searches: nothing is trained, an objective says how a trial's curve goes."""

from __future__ import annotations

import itertools
import json
import math
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mtk import plugins
from mtk.errors import ConfigError, MTKError, PluginError
from mtk.interfaces import Job, SearchState, TrialRecord, Tuner
from mtk.space import Space
from mtk_tuners.asha import ASHA, promotable, rungs
from mtk_tuners.grid import Grid
from mtk_tuners.random import Random

Objective = Callable[[dict[str, Any], int], float]
SPACE = Space.parse(["a=uniform(0, 1)", "b=loguniform(1e-6, 1e-2)"])
LISTS = Space.parse(["a=grid(1, 2, 3)", "b=choice(x, y)", "c=7"])
EVERYTHING = Space.parse(
    [
        "a=uniform(-1, 2)", "b=loguniform(1e-6, 1e-2)", "c=quniform(0.1, 0.5, 0.1)", "d=quniform(8, 60, 8)",
        "e=randint(1, 4)", 'f=choice([], ["sick"], true, 1)', "g=grid(sum, pcgrad)", "h=7",
    ]
)  # fmt: skip


def curve(parameters: dict[str, Any], epoch: int) -> float:
    """Scores that rise to a plateau; the best `a` is 0.7."""
    return 0.8 - (parameters["a"] - 0.7) ** 2 - 0.4 * math.exp(-epoch / 3)


class Simulation:
    """A search in which every epoch costs nothing."""

    def __init__(self, tuner: Tuner, objective: Objective = curve, *, space=SPACE, epochs=9, limit=27, seed=0):
        self.tuner, self.objective, self.space = tuner, objective, space
        self.epochs, self.limit, self.seed = epochs, limit, seed
        self.trials: list[TrialRecord] = []
        self.jobs: list[tuple[int, int]] = []  # trial, epochs
        self.budget = math.inf

    def state(self) -> SearchState:
        return SearchState(
            tuple(self.trials), self.epochs, self.limit, self.seed,
            lambda number: self.space.sample(self.seed, number), self.space.grid, self.space,
        )  # fmt: skip

    @property
    def spent(self) -> int:
        return sum(len(trial.scores) for trial in self.trials)

    def step(self) -> bool:
        """A job from its order to its end; False where there is none."""
        job = self.tuner.next(self.state())
        if job is None or self.spent >= self.budget:
            return False
        number = len(self.trials) if job.trial is None else job.trial
        if job.trial is None:
            assert job.parameters is not None and number < self.limit
            self.trials.append(TrialRecord(number, json.loads(json.dumps(job.parameters))))
        trial = self.trials[number]
        assert job.trial is None or trial.state == "paused"
        assert len(trial.scores) < job.epochs <= self.epochs
        self.jobs.append((number, job.epochs))
        state = "paused"
        while len(trial.scores) < job.epochs and self.spent < self.budget:
            score = self.objective(dict(trial.parameters), len(trial.scores) + 1)
            trial = self.trials[number] = replace(trial, scores=(*trial.scores, score), state="running")
            if not self.tuner.keep(self.state(), trial):
                state = "stopped"
                break
        state = "finished" if len(trial.scores) >= self.epochs else state
        self.trials[number] = replace(trial, state=state)
        return True

    def run(self, budget: float = math.inf) -> Simulation:
        self.budget = budget
        for _ in range(10 * self.limit):
            if not self.step():
                return self
        raise AssertionError("the search does not end")

    @property
    def best(self) -> float:
        return max(trial.best for trial in self.trials)


def built(name: str, **options: Any) -> Tuner:
    """A registered tuner; skips where its package is not installed."""
    if name == "optuna":
        pytest.importorskip("optuna", reason="optuna is not installed: pip install 'multitask-toolkit[tune]'")
    return plugins.build("tuner", name, **options)


def source(parameters: dict[str, Any], epoch: int) -> np.random.Generator:
    return np.random.default_rng([int(parameters["a"] * 1e9), epoch])


def noisy(parameters: dict[str, Any], epoch: int) -> float:
    """Another value for each trial and epoch, as a function of both."""
    return float(source(parameters, epoch).random())


# ---------------------------------------------------------------------------------------------- all of them


TUNERS = [
    ("random", {}), ("asha", {}), ("asha", {"eta": 2, "first": 2}),
    ("optuna", {}), ("optuna", {"sampler": "random"}), ("optuna", {"pruner": "median"}),
    ("optuna", {"pruner": "halving", "startup": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), TUNERS)
def test_every_decision_is_a_function_of_the_record_alone(name, options):
    whole = Simulation(built(name, **options), noisy, limit=12, epochs=4, seed=3).run()
    parts = Simulation(built(name, **options), noisy, limit=12, epochs=4, seed=3)
    while parts.step():
        parts.tuner = built(name, **options)  # another process goes on
    assert parts.jobs == whole.jobs and parts.trials == whole.trials
    assert Simulation(built(name, **options), noisy, limit=12, epochs=4, seed=4).run().trials != whole.trials


@pytest.mark.parametrize(("name", "options"), TUNERS)
@pytest.mark.parametrize("limit", [1, 2, 7])
def test_it_begins_no_more_than_it_may_and_ends(name, options, limit):
    search = Simulation(built(name, **options), noisy, limit=limit, epochs=3).run()
    assert len(search.trials) == limit
    assert all(SPACE[key].contains(value) for trial in search.trials for key, value in trial.parameters.items())


@pytest.mark.parametrize(("name", "options"), TUNERS)
def test_scores_that_are_no_numbers_and_failures_keep_nothing_from_going_on(name, options):
    search = Simulation(built(name, **options), lambda p, e: -math.inf, limit=8, epochs=3)
    for place in range(30):
        if not search.step():
            break
        if place % 3 == 1:
            search.trials[-1] = replace(search.trials[-1], state="failed", scores=search.trials[-1].scores[: place % 2])
    assert len(search.trials) == 8


# ---------------------------------------------------------------------------------------------- random and grid


def test_random_draws_what_the_state_samples():
    search = Simulation(Random(), limit=5, epochs=3, seed=8).run()
    assert [trial.parameters for trial in search.trials] == [SPACE.sample(8, number) for number in range(5)]
    assert search.jobs == [(number, 3) for number in range(5)]


@pytest.mark.parametrize("limit", [6, 20])
def test_grid_trains_every_combination_once(limit):
    search = Simulation(Grid(), lambda p, e: p["a"], space=LISTS, limit=limit, epochs=2).run()
    assert [trial.parameters for trial in search.trials] == LISTS.grid() and len(search.trials) == 6


def test_grid_refuses_what_it_cannot_cover():
    with pytest.raises(ConfigError, match="has 6 combinations, but the search may begin 5 trials; give --trials 6"):
        Simulation(Grid(), space=LISTS, limit=5).run()
    with pytest.raises(ConfigError, match="a grid has listed values"):
        Simulation(Grid()).run()


# ---------------------------------------------------------------------------------------------- asha


@pytest.mark.parametrize(
    ("first", "eta", "epochs", "expected"),
    [(1, 3, 9, [1, 3, 9]), (1, 3, 10, [1, 3, 9, 10]), (2, 2, 7, [2, 4, 7]), (1, 4, 1, [1]), (5, 3, 3, [3])],
)
def test_rungs(first, eta, epochs, expected):
    assert rungs(first, eta, epochs) == expected


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("eta", "limit"), [(3, 27), (2, 16), (4, 30)])
def test_asha_ends_with_the_best_of_each_rung_promoted(seed, eta, limit):
    search = Simulation(ASHA(eta=eta), noisy, limit=limit, epochs=eta**2, seed=seed).run()
    steps = rungs(1, eta, eta**2)
    for rung, further in itertools.pairwise(steps):
        reached = sorted(
            (t for t in search.trials if len(t.scores) >= rung), key=lambda t: (-max(t.scores[:rung]), t.number)
        )
        promoted = {t.number for t in reached if len(t.scores) > rung}
        top = [t.number for t in reached[: len(reached) // eta]]
        assert set(top) <= promoted  # a trial that was among the best when it was promoted may have fallen behind since
        assert all(len(t.scores) in (*steps, further) for t in reached)
    assert all(epochs in steps for _, epochs in search.jobs)


@pytest.mark.parametrize("seed", range(3))
def test_asha_promotes_only_the_best_1_in_eta_at_each_moment(seed):
    search = Simulation(ASHA(), noisy, limit=27, seed=seed)
    while True:
        before = list(search.trials)
        if not search.step():
            break
        number, epochs = search.jobs[-1]
        waiting = [
            (rung, trial)
            for rung in (3, 1)
            for trial in sorted((t for t in before if len(t.scores) >= rung), key=lambda t: -max(t.scores[:rung]))[
                : len([t for t in before if len(t.scores) >= rung]) // 3
            ]
            if len(trial.scores) == rung
        ]
        if number < len(before):
            assert waiting and waiting[0][1].number == number and epochs == 3 * waiting[0][0]
        else:
            assert not waiting  # a new trial begins only where none deserves more


def test_asha_compares_at_equal_epochs():
    late = TrialRecord(0, {}, (0.1, 0.2, 0.9), "paused")
    others = [TrialRecord(n, {}, (0.1 + n / 10,), "paused") for n in (1, 2, 3)]
    found = promotable([late, *others], 1, 3)
    assert found is not None and found.number == 3


def test_asha_promotes_neither_failures_nor_what_is_no_number():
    trials = [TrialRecord(n, {}, (0.9 - n / 10,), "paused") for n in range(3)]
    assert promotable(trials, 1, 3) == trials[0]
    assert promotable([replace(trials[0], state="failed"), *trials[1:]], 1, 3) is None
    assert promotable([replace(t, scores=(-math.inf,)) for t in trials], 1, 3) is None


def regrets(speed: Callable[[dict[str, Any]], float]) -> dict[str, list[float]]:
    """What asha and random miss the best plateau by, over 20 seeds of 90 epochs, where trials approach a plateau of
    their own (a quadratic in four parameters) at a speed that `speed` gives."""
    space, found = Space.parse([f"{key}=uniform(0, 1)" for key in "abcd"]), {"asha": [], "random": []}

    def learning(parameters: dict[str, Any], epoch: int) -> float:
        plateau = 0.85 - 0.3 * sum((value - 0.6) ** 2 for value in parameters.values())
        return plateau * (1 - math.exp(-speed(parameters) * epoch)) + float(source(parameters, epoch).normal(0, 0.004))

    for seed in range(20):
        for name, tuner in (("asha", ASHA()), ("random", Random())):
            search = Simulation(tuner, learning, space=space, limit=1000, seed=seed).run(90)
            assert search.spent == 90
            found[name].append(0.85 - search.best)
    return found


@pytest.mark.parametrize("speed", [lambda p: 0.5, lambda p: source(p, 0).uniform(0.25, 0.75)], ids=["one", "its own"])
def test_asha_beats_random_at_equal_epochs(speed):
    found = regrets(speed)
    assert statistics.median(found["asha"]) < statistics.median(found["random"]), found


def test_asha_loses_where_what_learns_fast_ends_low():
    """Its limit, known: where a first epoch misleads, trials that run to the end find more."""
    found = regrets(lambda p: 0.2 + 2.4 * sum((value - 0.6) ** 2 for value in p.values()))
    assert statistics.median(found["asha"]) > statistics.median(found["random"]), found


@pytest.mark.parametrize("options", [{"first": 0}, {"eta": 1}])
def test_asha_options_out_of_range(options):
    with pytest.raises(ConfigError, match="expected at least"):
        plugins.build("tuner", "asha", **options)


# ---------------------------------------------------------------------------------------------- optuna


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_optuna_draws_from_every_domain(sampler):
    tuner = built("optuna", sampler=sampler, startup=3)
    search = Simulation(tuner, lambda p, e: p["a"], space=EVERYTHING, limit=15, epochs=1).run()
    for trial in search.trials:
        assert list(trial.parameters) == list(EVERYTHING)
        for key, value in trial.parameters.items():
            assert EVERYTHING[key].contains(value), (key, value)
            assert type(value) is type(EVERYTHING[key].clamp(value))
    assert len({json.dumps(trial.parameters) for trial in search.trials}) == 15
    assert {json.dumps(t.parameters["f"]) for t in search.trials} <= {"[]", '["sick"]', "true", "1"}


def test_optuna_learns_from_scores():
    found = {}
    for sampler in ("tpe", "random"):
        best = []
        for seed in range(5):
            tuner = built("optuna", sampler=sampler)
            search = Simulation(tuner, lambda p, e: -abs(p["a"] - 0.7), limit=25, epochs=1, seed=seed).run()
            best.append(statistics.median(abs(t.parameters["a"] - 0.7) for t in search.trials[15:]))
        found[sampler] = statistics.median(best)
    assert found["tpe"] < 0.6 * found["random"], found


@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_optuna_stops_what_is_worse_than_the_others(pruner):
    tuner = built("optuna", pruner=pruner, sampler="random")
    search = Simulation(tuner, lambda p, e: p["a"] + e / 1000, limit=20, epochs=9).run()
    stopped = [t.parameters["a"] for t in search.trials if t.state == "stopped"]
    whole = [t.parameters["a"] for t in search.trials if t.state == "finished"]
    assert stopped and whole and statistics.fmean(whole) > statistics.fmean(stopped)
    assert max(whole) == max(t.parameters["a"] for t in search.trials)
    assert search.spent < 20 * 9


def test_optuna_without_a_pruner_stops_nothing():
    search = Simulation(built("optuna"), noisy, limit=4, epochs=3).run()
    assert {t.state for t in search.trials} == {"finished"}


def test_optuna_options_out_of_range():
    built("optuna")
    for options in ({"startup": 0}, {"sampler": "cmaes"}, {"pruner": "some"}):
        with pytest.raises(MTKError):
            plugins.build("tuner", "optuna", **options)


def test_optuna_missing_is_said_with_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(PluginError, match=r"tuner 'optuna' needs optuna: pip install 'multitask-toolkit\[tune\]'"):
        plugins.build("tuner", "optuna")


def test_optuna_leaves_its_own_logging_as_it_was():
    tuner = built("optuna")
    import optuna

    before = optuna.logging.get_verbosity()
    assert isinstance(tuner.next(Simulation(tuner).state()), Job)
    assert optuna.logging.get_verbosity() == before
