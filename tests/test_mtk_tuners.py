"""The built-in tuners on simulated searches: nothing is trained, an objective says how a trial's curve goes."""

from __future__ import annotations

import inspect
import itertools
import json
import math
import random
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mtk import plugins
from mtk.errors import ConfigError, MTKError, PluginError
from mtk.interfaces import Job, SearchState, Stage, TrialRecord, Tuner
from mtk.space import Space
from mtk_tuners.asha import ASHA, promotable, rungs
from mtk_tuners.grid import Grid
from mtk_tuners.pbt import PBT, exploits
from mtk_tuners.random import Random
from mtk_tuners.ray_asha import RayASHA

Weights = tuple[Mapping[str, Any], ...]
Objective = Callable[[dict[str, Any], int], float]
RAY = "ray is not installed: pip install 'multitask-toolkit[tune]'"
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
    """A search in which every epoch costs nothing, with `slots` workers that end epochs in an order drawn from `order`.

    A trial's weights are what they were trained under: the parameters of each epoch, which go with them when another
    trial takes them over. learns: weights -> score, in place of objective. ends: weights -> how an epoch ends a trial:
    "failed" before there is a score, "unsaved" after it, "finished" early; None: not at all.
    """

    def __init__(self, tuner: Tuner, objective: Objective = curve, *, space=SPACE, epochs=9, limit=27, seed=0,
                 slots=1, order=0, learns: Callable[[Weights], float] | None = None, changeable=None,
                 ends: Callable[[Weights], str | None] = lambda weights: None):  # fmt: skip
        self.tuner, self.space, self.ends = tuner, space, ends
        self.learns = learns or (lambda weights: objective(dict(weights[-1]), len(weights)))
        self.epochs, self.limit, self.seed, self.slots = epochs, limit, seed, slots
        self.changeable = frozenset(space if changeable is None else changeable)
        self.order = random.Random(order)
        self.trials: list[TrialRecord] = []
        self.weights: list[Weights] = []
        self.running: dict[int, int] = {}  # trial: epochs that it is to have
        self.jobs: list[tuple[int, int]] = []  # trial, epochs
        self.orders: list[Job] = []
        self.spent, self.budget = 0, math.inf

    def state(self) -> SearchState:
        return SearchState(
            tuple(self.trials), self.epochs, self.limit, self.seed,
            lambda number: self.space.sample(self.seed, number), self.space.grid, self.space, self.changeable,
            None if self.budget == math.inf else max(0, int(self.budget) - self.spent - self.promised()),
        )  # fmt: skip

    def promised(self) -> int:
        return sum(epochs - len(self.trials[number].scores) for number, epochs in self.running.items())

    def begin(self) -> bool:
        """Gives a free slot a job; False where there is none."""
        if len(self.running) == self.slots or self.spent >= self.budget:
            return False
        job = self.tuner.next(self.state())
        if job is None:
            return False
        number = len(self.trials) if job.trial is None else job.trial
        assert number not in self.running
        if job.trial is None:
            assert job.parameters is not None and number < self.limit and job.source is None
            self.trials.append(TrialRecord(number, parameters := json.loads(json.dumps(job.parameters)),
                                           stages=(Stage(0, number, parameters),)))  # fmt: skip
            self.weights.append(())
        elif job.source is None:
            assert job.parameters is None and self.trials[number].state == "paused"
        else:
            self.take_over(number, job.source, json.loads(json.dumps(job.parameters)))
        assert len(self.trials[number].scores) < job.epochs <= self.epochs
        self.trials[number] = replace(self.trials[number], state="running")
        self.running[number] = job.epochs
        self.orders.append(job)
        self.jobs.append((number, job.epochs))
        return True

    def take_over(self, number: int, origin: int, parameters: dict[str, Any]) -> None:
        source = self.trials[origin]
        assert source.state == "paused" and list(parameters) == list(self.space)
        assert all(parameters[key] == source.parameters[key] for key in self.space if key not in self.changeable)
        stages = (*source.stages, Stage(len(source.scores), number, parameters))
        self.trials[number] = replace(source, number=number, parameters=parameters, stages=stages)
        self.weights[number] = self.weights[origin]

    def advance(self, number: int) -> bool:
        """An epoch of a trial, or the end of its job; whether that was the end."""
        trial = self.trials[number]
        if len(trial.scores) >= self.running[number] or self.spent >= self.budget:
            return self.over(number, "paused")
        self.spent += 1
        self.weights[number] = (*self.weights[number], trial.parameters)
        ending = self.ends(self.weights[number])
        if ending == "failed":
            return self.over(number, ending)
        trial = self.trials[number] = replace(trial, scores=(*trial.scores, self.learns(self.weights[number])))
        if ending is not None:
            return self.over(number, "failed" if ending == "unsaved" else ending)
        return not self.tuner.keep(self.state(), trial) and self.over(number, "stopped")

    def over(self, number: int, state: str) -> bool:
        del self.running[number]
        whole = state != "failed" and len(self.trials[number].scores) >= self.epochs
        self.trials[number] = replace(self.trials[number], state="finished" if whole else state)
        return True

    def step(self) -> bool:
        """Until a job is over; False where there is none."""
        while True:
            while self.begin():
                pass
            if not self.running:
                return False
            if self.advance(self.order.choice(list(self.running))):
                return True

    def run(self, budget: float = math.inf) -> Simulation:
        self.budget = budget
        for _ in range((10 + self.epochs) * self.limit):
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
    ("random", {}), ("asha", {}), ("asha", {"eta": 2, "first": 2}), ("ray-asha", {}), ("ray-asha", {"eta": 2}),
    ("pbt", {}), ("pbt", {"every": 2, "quantile": 0.5, "resample": 0.5}),
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
@pytest.mark.parametrize("slots", [1, 2, 4])
def test_it_begins_no_more_than_it_may_and_ends(name, options, limit, slots):
    search = Simulation(built(name, **options), noisy, limit=limit, epochs=3, slots=slots, order=limit).run()
    assert len(search.trials) == limit and not search.running
    assert all(SPACE[key].contains(value) for trial in search.trials for key, value in trial.parameters.items())


@pytest.mark.parametrize(("name", "options"), TUNERS)
@pytest.mark.parametrize("slots", [2, 4])
def test_no_slot_stands_idle_while_there_are_trials_to_begin(name, options, slots):
    search = Simulation(built(name, **options), noisy, limit=9, epochs=4, slots=slots)
    while len(search.trials) < 9:
        while search.begin():
            pass
        assert len(search.running) == slots or len(search.trials) == 9
        search.advance(search.order.choice(list(search.running)))


@pytest.mark.parametrize(("name", "options"), TUNERS)
@pytest.mark.parametrize("slots", [1, 3])
def test_scores_that_are_no_numbers_and_failures_keep_nothing_from_going_on(name, options, slots):
    def ends(weights: Weights) -> str | None:
        return ("failed", "unsaved", "finished", None)[int(weights[0]["a"] * 1e6) % 4] if len(weights) == 2 else None

    scores = {"none": lambda p, e: -math.inf, "some": lambda p, e: -math.inf if noisy(p, e) < 0.3 else noisy(p, e)}
    for objective in scores.values():
        search = Simulation(built(name, **options), objective, limit=8, epochs=5, slots=slots, ends=ends).run()
        assert len(search.trials) == 8 and not search.running


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


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_asha_begins_nothing_that_its_budget_cannot_finish(seed, slots):
    search = Simulation(ASHA(), noisy, limit=100, seed=seed, slots=slots).run(60)
    assert search.spent == 60
    spent, trained = 0, list[int]()
    for job in search.orders:  # in the order in which they began
        if job.trial is None:
            assert 60 - spent >= 9, f"trial {len(trained)} began with {60 - spent} epochs left"
            trained.append(0)
        number = len(trained) - 1 if job.trial is None else job.trial
        spent, trained[number] = spent + job.epochs - trained[number], job.epochs
    assert spent == 60 and search.orders[-1].trial is not None


def test_asha_ends_with_the_trial_that_its_last_epochs_finish():
    scores = {0: 0.5, 1: 0.9, 2: 0.7}
    trials = [
        TrialRecord(number, {}, (score,) * epochs, "paused")
        for (number, score), epochs in zip(scores.items(), (3, 1, 3), strict=True)
    ]
    state = SearchState(trials, 9, 100, 0, lambda number: {}, list, left=7)
    assert ASHA().next(state) == Job(9, trial=2), "the best of those that 7 epochs finish"
    assert ASHA().next(replace(state, left=5)) == Job(8, trial=2), "none can be finished: the furthest"
    assert ASHA().next(replace(state, left=0)) is None
    assert ASHA().next(replace(state, trials=[], left=5)) == Job(1, {})


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


# ---------------------------------------------------------------------------------------------- ray-asha


class Both(Tuner):
    """ray-asha, held against Ray's own scheduler at every answer."""

    def __init__(self, first: int, eta: int, epochs: int) -> None:
        schedulers = pytest.importorskip("ray.tune.schedulers", reason=RAY)
        self.ours = RayASHA(first=first, eta=eta)
        self.rays = schedulers.ASHAScheduler(
            metric="score", mode="max", max_t=epochs, grace_period=first, reduction_factor=eta
        )
        self.stopped = 0
        self.known: dict[int, Any] = {}

    def next(self, state: SearchState) -> Job | None:
        return self.ours.next(state)

    def keep(self, state: SearchState, trial: TrialRecord) -> bool:
        if trial.number not in self.known:
            self.known[trial.number] = SimpleNamespace(trial_id=str(trial.number))
            self.rays.on_trial_add(None, self.known[trial.number])
        told = {"training_iteration": len(trial.scores), "score": trial.scores[-1]}
        theirs = self.rays.on_trial_result(None, self.known[trial.number], told)
        ours = self.ours.keep(state, trial)
        if len(trial.scores) < state.epochs:
            assert ours == (theirs == "CONTINUE"), (trial, theirs)
            self.stopped += not ours
        return ours


def sometimes_no_number(parameters: dict[str, Any], epoch: int) -> float:
    score = round(noisy(parameters, epoch), 1)  # ties
    return -math.inf if score == 0 else score


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # Ray's own, of -inf
@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize(("first", "eta", "epochs"), [(1, 4, 9), (1, 3, 27), (2, 2, 9), (3, 3, 9), (1, 2, 16)])
def test_ray_asha_stops_what_ray_stops(first, eta, epochs, slots):
    for seed in range(10):
        tuner = Both(first, eta, epochs)
        objective = noisy if seed % 2 else sometimes_no_number
        search = Simulation(tuner, objective, limit=30, epochs=epochs, seed=seed, slots=slots, order=seed).run()
        assert len(search.trials) == 30 and 5 < tuner.stopped < 30


def test_ray_asha_has_the_defaults_of_ray():
    schedulers = pytest.importorskip("ray.tune.schedulers", reason=RAY)
    theirs = inspect.signature(schedulers.ASHAScheduler).parameters
    ours = inspect.signature(RayASHA).parameters
    assert (ours["first"].default, ours["eta"].default) == (
        theirs["grace_period"].default,
        theirs["reduction_factor"].default,
    )


def test_ray_asha_judges_by_those_that_were_there_before():
    """Scores after one epoch, in the order of their arrival; the bar of two others is 3/4 between them."""
    search = Simulation(RayASHA(), lambda p, e: scores[len(search.trials) - 1], limit=5, epochs=2)
    scores = [0.5, 0.4, 0.475, 0.47, 0.6]
    search.run()
    assert [t.state for t in search.trials] == ["finished", "stopped", "finished", "stopped", "finished"]


@pytest.mark.parametrize("options", [{"first": 0}, {"eta": 1}])
def test_ray_asha_options_out_of_range(options):
    with pytest.raises(ConfigError, match="expected at least"):
        plugins.build("tuner", "ray-asha", **options)


# ---------------------------------------------------------------------------------------------- pbt


def population(*scores: float | None, **states: str) -> list[TrialRecord]:
    """Trials that wait after one epoch with these scores; None failed in it. states: by t0, t1 ... ."""
    trials = [
        TrialRecord(n, {"a": n / 10, "b": 1e-3}, *(((), "failed") if score is None else ((score,), "paused")))
        for n, score in enumerate(scores)
    ]  # fmt: skip
    return [replace(trial, state=states.get(f"t{trial.number}", trial.state)) for trial in trials]


def numbers(pair: tuple[list[TrialRecord], list[TrialRecord]]) -> tuple[list[int], list[int]]:
    return [trial.number for trial in pair[0]], [trial.number for trial in pair[1]]


NO = -math.inf


@pytest.mark.parametrize(
    ("trials", "quantile", "takers", "sources"),
    [
        (population(0.3, 0.1, 0.2, 0.4), 0.25, [1], [3]),
        (population(0.3, 0.1, 0.2, 0.4), 0.5, [1, 2], [3, 0]),
        (population(0.3, 0.1, 0.2, 0.4, 0.5), 0.25, [1, 2], [4, 3]),  # rounded up
        (population(0.3, 0.1, 0.2), 0.5, [1], [0]),  # at most half
        (population(0.1, 0.2), 0.01, [0], [1]),
        (population(0.1), 0.5, [], []),
        (population(0.5, 0.5, 0.5, 0.5), 0.5, [3, 2], [0, 1]),  # by number
        (population(0.3, None, 0.2, 0.4), 0.25, [1], [3]),
        (population(NO, None, math.nan, 0.4), 0.25, [2, 1, 0], [3]),  # all that have no score, from all that have
        (population(math.inf, 0.3, 0.2, 0.1), 0.25, [0], [1]),
        (population(NO, NO, None, NO), 0.25, [], []),
        (population(0.3, 0.1, 0.2, 0.4, t3="finished"), 0.25, [1], [0]),  # ended early: no weights to take over
        (population(0.3, 0.1, 0.2, 0.4, t1="finished"), 0.25, [1], [3]),
        (population(0.3, 0.1, 0.2, 0.4, t3="failed"), 0.25, [1], [0]),  # was there, and was not saved
        (population(None, 0.1, 0.2, 0.3, t2="finished", t3="finished"), 0.5, [0], [1]),  # a source stays itself
    ],
)
def test_pbt_has_the_worst_take_over_the_best(trials, quantile, takers, sources):
    assert numbers(exploits(trials, 1, quantile)) == (takers, sources)
    for done in range(1, len(takers) + 1):  # whoever took over has another's scores from then on
        number, own = takers[done - 1], trials[sources[0]]
        trials[number] = replace(trials[number], scores=own.scores, state="running", stages=(Stage(1, number, {}),))
        assert numbers(exploits(trials, 1, quantile)) == (takers[done:], sources)


def test_pbt_ranks_by_the_latest_epoch_and_no_later_one():
    fell = TrialRecord(0, {}, (0.9, 0.1, 0.9), "paused")
    rose = TrialRecord(1, {}, (0.1, 0.2), "paused")
    ended = TrialRecord(2, {}, (0.15,), "finished")
    assert numbers(exploits([fell, rose, ended, replace(rose, number=3)], 2, 0.25)) == ([0], [1])


def test_pbt_lets_those_that_take_over_go_first():
    search = Simulation(PBT(), lambda p, e: p["a"], limit=4, epochs=2).run()
    ranked = sorted(range(4), key=lambda number: SPACE.sample(0, number)["a"])
    rest = [number for number in range(4) if number != ranked[0]]
    assert search.jobs == [(0, 1), (1, 1), (2, 1), (3, 1), (ranked[0], 2), *((number, 2) for number in rest)]
    assert [(job.trial, job.source) for job in search.orders if job.source is not None] == [(ranked[0], ranked[3])]


def test_pbt_waits_at_a_barrier_and_not_between():
    search = Simulation(PBT(quantile=0.5), noisy, limit=4, epochs=3)
    waiting = population(0.1, 0.2, 0.3, 0.4)
    for late in (0, 3):  # one is still in its epoch, or has its score and is being saved
        for scores in ((), waiting[late].scores):
            search.trials = list(waiting)
            search.trials[late] = replace(waiting[late], state="running", scores=scores)
            assert search.tuner.next(search.state()) is None
    search.trials = list(waiting)
    while search.tuner.next(search.state()):
        search.slots += 1
        assert search.begin() if search.weights else search.weights.extend([({},)] * 4) or search.begin()
    assert [job.source is None for job in search.orders] == [False, False, True, True]


def ending(weights: Weights) -> str | None:
    """Some epochs end in some way, as a function of what was trained."""
    return {0: "failed", 1: "unsaved", 2: "finished"}.get(int(history(weights) * 1e6) % 12)


def history(weights: Weights) -> float:
    """Another value for other weights."""
    text = json.dumps([sorted(parameters.items()) for parameters in weights])
    return float(np.random.default_rng(list(text.encode())).random())


@pytest.mark.parametrize("options", [{}, {"every": 2, "quantile": 0.5}, {"every": 3, "quantile": 0.4, "resample": 1.0}])
@pytest.mark.parametrize("ends", [ending, lambda weights: None], ids=["failures", "none"])
def test_pbt_decides_the_same_with_few_workers_and_many(options, ends):
    for seed in range(4):
        found = [
            Simulation(
                PBT(**options), learns=history, ends=ends, limit=8, epochs=8, seed=seed, slots=slots, order=slots
            ).run()
            for slots in (1, 2, 4, 8)
        ]
        for search in found:
            assert search.trials == found[0].trials and search.weights == found[0].weights
            for trial, weights in zip(search.trials, search.weights, strict=True):
                starts = [*(stage.after for stage in trial.stages), len(weights)]
                told = zip(trial.stages, itertools.pairwise(starts), strict=True)
                assert list(weights) == [stage.parameters for stage, (start, end) in told for _ in range(start, end)]
        taken = {stage.after for trial in found[0].trials for stage in trial.stages}
        every = options.get("every", 1)
        assert len(taken) > 2 and all(after % every == 0 and after < 8 for after in taken)


def test_pbt_brings_a_failed_trial_back_at_the_next_barrier():
    search = Simulation(
        PBT(), limit=4, epochs=3, ends=lambda w: "failed" if len(w) == 1 and w[0] == SPACE.sample(0, 2) else None
    ).run()
    assert {trial.state for trial in search.trials} == {"finished"}
    assert next((job.trial, job.epochs) for job in search.orders if job.source is not None) == (2, 2)


def test_pbt_ends_where_nothing_is_left_to_train():
    search = Simulation(PBT(), limit=4, epochs=4, ends=lambda weights: "failed" if len(weights) == 2 else None).run()
    assert {trial.state for trial in search.trials} == {"failed"} and search.spent == 8


def explored(**options: Any) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The parameters of sources and of those that took over from them."""
    search = Simulation(PBT(quantile=0.5, **options), learns=history, limit=40, epochs=2, space=EVERYTHING,
                        changeable=["a", "b", "d", "g", "h"]).run()  # fmt: skip
    return [(EVERYTHING.sample(0, job.source), job.parameters or {}) for job in search.orders if job.source is not None]


def test_pbt_perturbs_what_may_change_and_takes_over_the_rest():
    pairs, moved = explored(resample=0.0), set()
    assert len(pairs) == 20
    for source, own in pairs:
        assert list(own) == list(EVERYTHING) and all(EVERYTHING[key].contains(value) for key, value in own.items())
        assert all(own[key] == source[key] for key in "cefh")
        moved.add(round(own["b"] / source["b"], 3))
        assert own["a"] == pytest.approx(
            EVERYTHING["a"].clamp(source["a"] * (1.2 if own["a"] ** 2 > source["a"] ** 2 else 0.8))
        )
        assert own["g"] != source["g"]  # one of two choices
        assert own["d"] != source["d"] or own["d"] in (8, 56)
    assert {0.8, 1.2} <= moved and len(moved) <= 4  # and what stopped at an end


@pytest.mark.parametrize(("resample", "low", "high"), [(0.0, 0, 0), (0.25, 1, 12), (1.0, 18, 20)])
def test_pbt_draws_anew_as_often_as_it_is_told(resample, low, high):
    drawn = [own["b"] / source["b"] for source, own in explored(resample=resample)]
    again = [ratio for ratio in drawn if min(abs(ratio - 0.8), abs(ratio - 1.2)) > 1e-9]
    ends = [own for source, own in explored(resample=resample) if own["b"] in (1e-6, 1e-2)]
    assert low <= len(again) - len(ends) <= high


def test_pbt_finds_a_schedule_that_no_constant_reaches():
    """Gradient descent with noise: a step of size a takes the error down by exp(-a), and adds noise of a^2."""
    space = Space.parse(["a=loguniform(1e-3, 1)"])

    def error(weights: Weights) -> float:
        now = 1.0
        for parameters in weights:
            now = now * math.exp(-parameters["a"]) + 0.3 * parameters["a"] ** 2
        return now

    constant = min(error(({"a": 10 ** (-3 + step / 100)},) * 30) for step in range(301))
    best = [
        -Simulation(PBT(), learns=lambda w: -error(w), space=space, limit=12, epochs=30, seed=seed).run().best
        for seed in range(9)
    ]
    assert statistics.median(best) < 0.8 * constant, (constant, best)


def test_pbt_solves_the_toy_of_its_paper():
    """Section 4.1: climb 1.2 - x^2 - y^2 from (0.9, 0.9) by the gradient of 1.2 - a x^2 - b y^2, a, b in [0, 1]; one
    worker has (1, 0), the other (0, 1), and only by taking turns do both coordinates vanish."""
    space = Space.parse(["a=choice(0, 1)", "b=choice(0, 1)"])

    def climb(weights: Weights) -> float:
        place = [0.9, 0.9]
        for one in weights:
            place = [x * (1 - 0.2 * one[key]) ** 4 for x, key in zip(place, "ab", strict=True)]
        return 1.2 - sum(x * x for x in place)

    class Two(PBT):
        def next(self, state: SearchState) -> Job | None:
            return super().next(replace(state, sample=lambda number: {"a": 1 - number, "b": number}))

    alone = climb(({"a": 1, "b": 0},) * 20)
    assert alone == pytest.approx(1.2 - 0.81, abs=1e-3)
    assert Simulation(Two(), learns=climb, space=space, limit=2, epochs=20).run().best > 1.19


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"every": 0}, "every: expected at least 1 epoch, found 0"),
        ({"quantile": 0.0}, "quantile: expected a share above 0 and at most 0.5, found 0"),
        ({"quantile": 0.6}, "quantile: expected .* found 0.6"),
        ({"resample": 1.5}, "resample: expected a probability from 0 to 1, found 1.5"),
    ],
)
def test_pbt_options_out_of_range(options, problem):
    with pytest.raises(ConfigError, match=problem):
        plugins.build("tuner", "pbt", **options)


def test_pbt_refuses_searches_in_which_it_could_change_nothing():
    with pytest.raises(ConfigError, match="every: expected fewer than the 3 epochs of a trial, found 3; give more"):
        Simulation(PBT(every=3), epochs=3).run()
    with pytest.raises(ConfigError, match=r"a key that may change while a trial trains, .* found a, b; use another"):
        Simulation(PBT(), changeable=[]).run()


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


def test_optuna_takes_the_score_of_a_running_trial_for_nothing():
    tuner = built("optuna", startup=3)
    search = Simulation(tuner, noisy, limit=10, epochs=2)
    for _ in range(6):
        search.step()
    running = TrialRecord(6, SPACE.sample(0, 6), (), "running")
    whole, drawn = list(search.trials), []
    for scores in ((), (0.0,), (1.0,)):
        search.trials = [*whole, replace(running, scores=scores)]
        drawn.append(tuner.next(search.state()))
    assert drawn[0] == drawn[1] == drawn[2]
    search.trials = [*whole, replace(running, scores=(1.0, 1.0), state="finished")]
    assert tuner.next(search.state()) != drawn[0]


def test_optuna_judges_by_all_that_came_before_whatever_their_number():
    search = Simulation(built("optuna"), limit=10, epochs=3)
    trials = [TrialRecord(n, {}, (0.5 + n / 100,) * 3, "finished") for n in range(5)]
    poor = TrialRecord(0, {}, (0.1,), "running")
    for pruner in ("median", "halving"):
        tuner = built("optuna", pruner=pruner, startup=5)
        search.trials = [poor, *(replace(trial, number=trial.number + 1) for trial in trials)]
        assert not tuner.keep(search.state(), poor)
        search.trials[3] = replace(search.trials[3], state="running")  # the fifth is not over: too few for a median
        assert tuner.keep(search.state(), poor) == (pruner == "median")


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
