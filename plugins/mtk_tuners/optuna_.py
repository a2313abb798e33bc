"""Optuna's samplers and pruners."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from mtk import ConfigError, Job, PluginError, SearchState, TrialRecord, Tuner

_ETA = 3  # what `halving` divides by, as asha does


class Optuna(Tuner):
    """Draws from a model of what has scored well so far, and stops trials that do not look promising.

    Every trial has all its epochs, but for those that the pruner stops. The study is made anew from the record at each
    question, and what is drawn is a function of the record, the seed and the trial's number. With several slots, `tpe`
    takes running trials for bad ones (constant liar), and so keeps away from them.

    sampler: `tpe` (Bergstra et al., NeurIPS 2011, multivariate) or `random`. pruner: `none`; `median` stops a trial
    whose best score so far is below the median of the others' after as many epochs; `halving` one that is not among the
    best third after 1, 3, 9 ... epochs (arXiv 1810.05934, without pauses). startup: trials before `tpe` and `median`
    judge.
    Raises PluginError where Optuna is not installed (Akiba et al., KDD 2019, arXiv 1907.10902).
    """

    def __init__(
        self,
        *,
        sampler: Literal["tpe", "random"] = "tpe",
        pruner: Literal["none", "median", "halving"] = "none",
        startup: int = 5,
    ) -> None:
        if startup < 1:
            raise ConfigError(f"startup: expected at least 1 trial, found {startup}")
        self.sampler, self.pruner, self.startup = sampler, pruner, startup
        self._optuna = _import()

    def next(self, state: SearchState) -> Job | None:
        optuna, number = self._optuna, len(state.trials)
        if number >= state.limit:
            return None
        with _quiet(optuna):
            study = optuna.create_study(direction="maximize", sampler=self._sampler(state.seed, number))
            known = {key: Distribution(optuna, domain) for key, domain in state.space.items()}
            searched = {key: known[key].own for key in known if known[key].own is not None}
            for trial in state.trials:
                study.add_trial(self._past(trial, known, searched))
            drawn = study.ask(fixed_distributions=searched).params
        return Job(state.epochs, {key: one.value(drawn.get(key)) for key, one in known.items()})

    def keep(self, state: SearchState, trial: TrialRecord) -> bool:
        if self.pruner == "none":
            return True
        optuna = self._optuna
        pruner = (
            optuna.pruners.MedianPruner(n_startup_trials=self.startup)
            if self.pruner == "median"
            else optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=_ETA)
        )
        states, prune = optuna.trial.TrialState, False
        with _quiet(optuna):
            study = optuna.create_study(direction="maximize", pruner=pruner)
            others = [one for one in state.trials if one.number != trial.number]
            for one in [*others, trial]:  # pruners remember what they were asked
                asked = study.ask()
                for epoch, best in enumerate(_best_so_far(one), 1):
                    asked.report(best, epoch)
                    prune = asked.should_prune()
                if one.state == "running":
                    continue
                if one.state == "failed" or not one.scores:
                    study.tell(asked, state=states.FAIL)
                elif one.state == "stopped":
                    study.tell(asked, state=states.PRUNED)
                else:
                    study.tell(asked, one.best)
        return not prune

    def _sampler(self, seed: int, number: int) -> Any:
        samplers = self._optuna.samplers
        own = (seed * 1_000_003 + number) % 2**32
        if self.sampler == "random":
            return samplers.RandomSampler(seed=own)
        return samplers.TPESampler(n_startup_trials=self.startup, multivariate=True, constant_liar=True, seed=own)

    def _past(self, trial: TrialRecord, known: Mapping[str, Distribution], searched: Mapping[str, Any]) -> Any:
        """A trial as the sampler sees it."""
        states = self._optuna.trial.TrialState
        known_as = {"running": states.RUNNING, "stopped": states.PRUNED, "failed": states.FAIL}
        state = known_as.get(trial.state, states.COMPLETE)
        if state != states.RUNNING and not trial.scores:
            state = states.FAIL
        return self._optuna.trial.create_trial(
            state=state,
            value=trial.best if state == states.COMPLETE else None,
            params={key: known[key].code(trial.parameters[key]) for key in searched},
            distributions=dict(searched),
            intermediate_values=dict(enumerate(_best_so_far(trial), 1)),
        )


class Distribution:
    """A domain of the space as Optuna has it; `own` is None for a constant. Choices are their places in the list."""

    def __init__(self, optuna: Any, domain: Any) -> None:
        kinds, self._domain, self._values = optuna.distributions, domain, getattr(domain, "values", None)
        name = type(domain).__name__
        self.own: Any = None
        if self._values is not None:
            if len(self._values) > 1:
                self.own = kinds.CategoricalDistribution(range(len(self._values)))
        elif name in ("QUniform", "RandInt"):
            low, high = domain.probes[0], domain.probes[1]
            kind = kinds.IntDistribution if isinstance(low, int) else kinds.FloatDistribution
            self.own = kind(low, high, step=domain.q)
        elif name in ("Uniform", "LogUniform"):
            self.own = kinds.FloatDistribution(domain.low, domain.high, log=name == "LogUniform")
        else:
            raise ConfigError(f"tuner 'optuna': it knows no domain like {domain.text()}")

    def value(self, drawn: Any) -> Any:
        """What was drawn, as a value of the domain."""
        if self._values is not None:
            return self._values[0 if self.own is None else drawn]
        return self._domain.clamp(drawn)

    def code(self, value: Any) -> Any:
        """A value of the domain, as it would have been drawn."""
        return value if self._values is None else _place(self._values, value)


def _place(values: Sequence[Any], value: Any) -> int:
    return next(
        place
        for place, own in enumerate(values)
        if own == value and isinstance(own, bool) == isinstance(value, bool)  # True is no 1
    )


def _best_so_far(trial: TrialRecord) -> list[float]:
    return [max(trial.scores[:epoch]) for epoch in range(1, len(trial.scores) + 1)]


def _import() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise PluginError("tuner 'optuna' needs optuna: pip install 'multitask-toolkit[tune]'") from error
    return optuna


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """In it, Optuna prints nothing; what it prints elsewhere is the user's."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)
