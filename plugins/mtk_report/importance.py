"""Which parameters of a search its scores hang on, and how far that is to be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mtk import Dimension, SearchRecord, TrialEpoch, trial_history

if TYPE_CHECKING:
    import numpy as np

ENOUGH = 10  # trials with a score: with fewer an importance is chance
FEW = 4  # and a rank correlation too
TREES = 200


@dataclass(frozen=True, slots=True)
class Importance:
    """Of each key that has one. shares: they add up to 1, and are empty where they would say nothing. correlations:
    Spearman's, of keys with numbers. trust: sentences on what both are worth."""

    shares: dict[str, float] = field(default_factory=dict)
    correlations: dict[str, float] = field(default_factory=dict)
    trust: Sequence[str] = ()

    def order(self, keys: Sequence[str]) -> list[str]:
        """The most important first; without importances as given."""
        return sorted(keys, key=lambda key: -self.shares.get(key, 0.0))


def importance(record: SearchRecord) -> Importance:
    """Importance by permutation, out of bag, in a random forest that predicts a trial's rank from its parameters.

    Breiman, "Random Forests" (2001), section 10. The ranks are of the trials' best scores, so that a score of -inf is
    the worst and no more; the parameters are those of the best epoch; a choice is a column a value, permuted together.
    """
    epochs = best_epochs(record)
    keys = varied(record)
    if not keys:
        return Importance(trust=["No importance: no key has two values among the trials with a score."])
    if len(epochs) < FEW:
        return Importance(trust=[f"No importance: {_trials(len(epochs))} with a score; it takes {ENOUGH}."])
    from scipy.stats import rankdata

    ranks = rankdata([epoch.score for epoch in epochs])
    columns = {key: _columns([epoch.parameters.get(key) for epoch in epochs], record.space[key]) for key in keys}
    found = _correlations(record, columns, ranks)
    chance = min(1.0, 1.96 / math.sqrt(len(epochs) - 1))
    bound = f"A rank correlation below {chance:.2f} in size can be chance, with {len(epochs)} trials."
    trust = [bound] * bool(found)
    if len(epochs) < ENOUGH:
        trust.insert(0, f"No importance: {_trials(len(epochs))} with a score; with fewer than {ENOUGH} it is chance.")
        return Importance({}, found, [*trust, *_reservations(record)])
    if len(set(ranks)) == 1:
        return Importance(trust=["No importance: all trials have the same score."])
    shares, explained = _forest(columns, ranks, record.seed)
    return Importance(shares, found, [_verdict(shares, explained, len(epochs)), *trust, *_reservations(record)])


def best_epochs(record: SearchRecord) -> list[TrialEpoch]:
    """The best epoch of every trial, the first of equals; one that several trials go back to is there once."""
    found = [max(trial_history(trial), key=lambda epoch: epoch.score) for trial in record.trials if trial.scores]
    return list({(epoch.epoch, epoch.trial, epoch.score): epoch for epoch in found}.values())


def varied(record: SearchRecord) -> list[str]:
    """The keys with two values or more among the trials with a score."""
    epochs = best_epochs(record)
    return [key for key in record.space if len({repr(epoch.parameters.get(key)) for epoch in epochs}) > 1]


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _columns(values: Sequence[Any], dimension: Dimension) -> np.ndarray[Any, Any]:
    """[N, 1] of numbers, in the logarithm where the domain is; of choices [N, values], one of them 1."""
    import numpy as np

    if dimension.scale in ("linear", "log") and all(map(is_number, values)):
        numbers = np.asarray(values, dtype=float)[:, None]
        return np.log(numbers) if dimension.scale == "log" else numbers
    names = [repr(value) for value in values]
    return np.stack([[float(name == one) for name in names] for one in sorted({*names})], axis=1)


def _correlations(record: SearchRecord, columns: dict[str, Any], ranks: Any) -> dict[str, float]:
    from scipy.stats import spearmanr

    numeric = [key for key in columns if record.space[key].scale in ("linear", "log")]
    sound = [key for key in numeric if len(set(columns[key][:, 0])) > 1 and len(set(ranks)) > 1]
    return {key: float(spearmanr(columns[key][:, 0], ranks).statistic) for key in sound}


def _forest(columns: dict[str, Any], ranks: Any, seed: int) -> tuple[dict[str, float], float]:
    """Shares by key, empty where no permutation does harm; and the forest's R² out of bag."""
    import numpy as np
    from sklearn.ensemble import RandomForestRegressor

    rows, generator = np.hstack(list(columns.values())), np.random.default_rng(seed)
    forest = RandomForestRegressor(TREES, oob_score=True, max_features=1 / 3, random_state=seed % 2**32)
    forest.fit(rows, ranks)
    harm = dict.fromkeys(columns, 0.0)
    for tree, drawn in zip(forest.estimators_, forest.estimators_samples_, strict=True):
        out = np.setdiff1d(np.arange(len(rows)), drawn)
        if not len(out):
            continue
        before, start = _error(tree, rows[out], ranks[out]), 0
        for key, own in columns.items():
            shuffled, place = rows[out].copy(), slice(start, start + own.shape[1])
            shuffled[:, place] = generator.permutation(shuffled[:, place])
            harm[key] += _error(tree, shuffled, ranks[out]) - before
            start = place.stop
    whole = sum(max(0.0, one) for one in harm.values())
    shares = {key: max(0.0, one) / whole for key, one in harm.items()} if whole > 0 else {}
    return shares, float(forest.oob_score_)


def _error(tree: Any, rows: Any, ranks: Any) -> float:
    """The mean squared error."""
    return float(((tree.predict(rows) - ranks) ** 2).mean())


def _verdict(shares: dict[str, float], explained: float, trials: int) -> str:
    text = "Importance: the share of what a random forest loses, out of bag, when a key's values are shuffled. "
    text += f"From {trials} trials it explains "
    if explained < 0.1 or not shares:
        return f"{text}next to nothing of their order (R² {explained:.2f}): do not read the shares."
    if explained < 0.5 or trials < 3 * ENOUGH:
        return f"{text}some of their order (R² {explained:.2f}): the first keys are a hint, the figures are not exact."
    return f"{text}much of their order (R² {explained:.2f}): the first keys matter, in this space and with this budget."


def _reservations(record: SearchRecord) -> list[str]:
    found = []
    lengths = {len(trial.scores) for trial in record.trials if trial.scores}
    if len(lengths) > 1:
        found.append(
            "Trials that were stopped early count with the best score that they had, so part of a rank is time."
        )
    if record.has_stages:
        found.append("Weights were taken over between trials: a score owes part to the parameters of epochs before.")
    return found


def _trials(count: int) -> str:
    return "1 trial" if count == 1 else f"{count or 'no'} trials"
