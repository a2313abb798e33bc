"""A search as a value: what reports are written from, and where every trial's weights came from. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mtk.domains import Choice, Constant, Domain, LogUniform

if TYPE_CHECKING:
    from mtk.interfaces import TrialRecord


@dataclass(frozen=True, slots=True)
class Dimension:
    """One key of a space. text: its domain, as people write it. values: of a choice or a constant, in order."""

    text: str
    scale: Literal["linear", "log", "choice", "constant"] = "linear"
    values: Sequence[Any] = ()

    @classmethod
    def of(cls, domain: Domain) -> Dimension:
        if isinstance(domain, Choice):
            constant = isinstance(domain, Constant) or len(domain.values) == 1
            return cls(domain.text(), "constant" if constant else "choice", domain.values)
        return cls(domain.text(), "log" if isinstance(domain, LogUniform) else "linear")


@dataclass(frozen=True, slots=True)
class TrialEpoch:
    """One trained epoch, counted from 1: in which trial, under which parameters, and what it scored on dev.

    source: the trial whose weights it went on with, where they were another's. seconds: of the search, at its end.
    """

    epoch: int
    trial: int
    score: float
    parameters: Mapping[str, Any]
    source: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class SearchRecord:
    """A search so far.

    tuner: as it was given, with options. select_on: what a score is. space: by key. trials: by number. best: the trial
    with the best epoch, as it was then. epochs: of a whole trial. log: every epoch in the order of training, those too
    whose weights were given up; empty where only `trials` is known. caption: a line a fact.
    """

    title: str
    tuner: str
    select_on: str
    seed: int
    space: Mapping[str, Dimension]
    trials: Sequence[TrialRecord]
    best: TrialRecord | None
    epochs: int
    log: Sequence[TrialEpoch] = ()
    caption: Sequence[str] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many trials there are of each kind; each is one of the kinds behind `started`."""
        kinds = [self.kind(trial) for trial in self.trials]
        known = ("trained to the end", "stopped early or left waiting", "failed", "running")
        return {"started": len(kinds), **{kind: kinds.count(kind) for kind in known}}

    def kind(self, trial: TrialRecord) -> str:
        """`trained to the end`, `stopped early or left waiting`, `failed` or `running`."""
        if trial.state in ("failed", "running"):
            return trial.state
        whole = trial.state == "finished" or len(trial.scores) >= self.epochs
        return "trained to the end" if whole else "stopped early or left waiting"

    @property
    def trained(self) -> list[TrialEpoch]:
        """The log; without one, what is known from the trials."""
        if self.log:
            return list(self.log)
        return list({(e.epoch, e.trial, e.score): e for trial in self._known for e in trial_history(trial)}.values())

    @property
    def has_stages(self) -> bool:
        """Whether some trial went on with another's weights, or with other parameters than it had."""
        return any(len(trial.stages) > 1 for trial in self._known) or any(e.source is not None for e in self.log)

    @property
    def chain(self) -> list[TrialEpoch]:
        """The epochs that led to the best score, which is the last one's; empty where there is no best."""
        if self.best is None or not self.best.scores:
            return []
        return trial_history(self.best)[: self.best.scores.index(self.best.best) + 1]

    @property
    def _known(self) -> list[TrialRecord]:
        return [*self.trials, *([self.best] if self.best is not None else [])]


def trial_history(trial: TrialRecord) -> list[TrialEpoch]:
    """The epochs behind a trial's weights, from the first, whichever trial they were trained in."""
    stages, found = _stages(trial), list[TrialEpoch]()
    for epoch, score in enumerate(trial.scores, 1):
        _, trained_in, parameters = next(stage for stage in reversed(stages) if stage[0] < epoch)
        source = found[-1].trial if found and found[-1].trial != trained_in else None
        found.append(TrialEpoch(epoch, trained_in, score, parameters, source))
    return found


def _stages(trial: TrialRecord) -> list[tuple[int, int, Mapping[str, Any]]]:
    """(after, trial, parameters) of each."""
    return [(s.after, s.trial, s.parameters) for s in trial.stages] or [(0, trial.number, trial.parameters)]


def lineage(record: SearchRecord) -> dict[str, Any]:
    """Where every trial's weights came from, for JSON: stages and epochs, and the epochs that led to the best score.

    A score that is no finite number is None.
    """
    return {
        "select_on": record.select_on,
        "epochs": record.epochs,
        "trials": [
            {
                "trial": trial.number,
                "state": trial.state,
                "stages": [
                    {"after": after, "trial": number, "parameters": dict(parameters)}
                    for after, number, parameters in _stages(trial)
                ],
                "epochs": [_entry(epoch) for epoch in trial_history(trial)],
            }
            for trial in record.trials
        ],
        "best": None if record.best is None else record.best.number,
        "chain": [_entry(epoch) for epoch in record.chain],
    }


def _entry(epoch: TrialEpoch) -> dict[str, Any]:
    return {
        "epoch": epoch.epoch,
        "trial": epoch.trial,
        "source": epoch.source,
        "score": epoch.score if math.isfinite(epoch.score) else None,
        "parameters": dict(epoch.parameters),
    }
