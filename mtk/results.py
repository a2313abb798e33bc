"""What a finished run came to, read from its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtk.errors import CheckpointError
from mtk.run import RunFolder
from mtk.scoretable import Curve


@dataclass(frozen=True)
class Result:
    """A finished run's best dev scores (task -> primary metric) and their mean."""

    seed: int
    scores: Mapping[str, float]
    aggregate: float
    best_epoch: int
    seconds: float
    curve: Curve
    facts: Mapping[str, Any]  # its run.json


def result_of(path: Path) -> Result | None:
    """What a run folder came to; None where it is not finished. Raises CheckpointError for a damaged one."""
    if not (path / "run.json").exists():
        return None
    folder = RunFolder(path)
    try:
        facts = folder.facts
        if facts.get("status") != "finished":
            return None
        scores, lines = facts["scores"], [line for line in folder.metrics() if line["event"] == "epoch"]
        own = {name: scores["tasks"][name][metric] for name, metric in scores["primary"].items()}
        seconds = facts.get("seconds")  # missing where a run was killed just before it could say so
        return Result(
            facts["seed"],
            own,
            scores["aggregate"],
            facts["best_epoch"],
            sum(line["seconds"] for line in lines) if seconds is None else seconds,
            _curve(lines, facts),
            facts,
        )
    except (CheckpointError, KeyError, TypeError, AttributeError) as error:
        why = error if isinstance(error, CheckpointError) else f"{path / 'run.json'}: damaged, lacks {error}"
        raise CheckpointError(f"{why}; delete {path} to make the run again") from error


def _curve(epochs: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> Curve:
    dev: dict[str, list[float]] = {}
    train: dict[str, list[float]] = {}
    for line in epochs:
        for kind, found in ((dev, line["scores"]), (train, line.get("train_scores"))):
            if found:
                for name, metric in found["primary"].items():
                    kind.setdefault(name, []).append(found["tasks"][name][metric])
                kind.setdefault("mean", []).append(found["aggregate"])
    return Curve(facts["seed"], dev, train, facts["best_epoch"])
