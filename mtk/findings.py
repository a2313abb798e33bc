"""What a search leaves for its user beside the trials: tables, the best settings and the best model.

DIR/trials.csv           a line a trial
DIR/best.toml            the best trial's configuration at its best epoch, for mtk train --config
DIR/best_schedule.toml   how its weights came to be, where its settings changed on the way; the same
DIR/best/                its run folder, for mtk evaluate and mtk predict
DIR/lineage.json         every trial's stages and epochs
"""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from mtk.checkpoint import replace_folder
from mtk.config import RunConfig, make_config, spell_out
from mtk.interfaces import Stage, TrialRecord
from mtk.run import RunFolder, write_atomically
from mtk.space import apply

ConfigOf = Callable[[Mapping[str, Any]], RunConfig]


def write_trials(folder: Path, trials: Sequence[TrialRecord]) -> None:
    """trials.csv. Raises CheckpointError."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.parameters))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["trial", "state", "epochs", "best_score", "best_epoch", "last_score", *keys, "problem"])
    for trial in trials:
        own = trial.scores
        scores = [trial.best, own.index(trial.best) + 1, own[-1]] if own else ["", "", ""]
        values = [trial.parameters.get(key, "") for key in keys]
        writer.writerow([trial.number, trial.state, len(own), *scores, *values, trial.problem])
    write_atomically(folder / "trials.csv", stream.getvalue())


def write_best(folder: Path, best: TrialRecord | None, config_of: ConfigOf) -> None:
    """best.toml and best_schedule.toml, where there is something to say. Raises CheckpointError."""
    if best is None:
        return
    write_atomically(folder / "best.toml", config_of(best.parameters).to_toml())
    if len(best.stages) > 1:
        write_atomically(folder / "best_schedule.toml", scheduled(best.stages, config_of).to_toml())
    else:
        (folder / "best_schedule.toml").unlink(missing_ok=True)  # an earlier best's


def scheduled(stages: Sequence[Stage], config_of: ConfigOf, epochs: int | None = None) -> RunConfig:
    """The configuration that makes these stages again, in a run of `epochs`."""
    first = config_of(stages[0].parameters)
    tree = with_epochs(first, epochs or first.train.epochs).to_dict()
    for old, new in pairwise(stages):
        if new.after < tree["train"]["epochs"]:
            tree = _changed(tree, change(old, new, config_of))
    return make_config(tree, "schedule")


def with_epochs(config: RunConfig, epochs: int) -> RunConfig:
    """The configuration for runs of so many epochs, which may be too few for its changes."""
    tree = config.to_dict()
    changes = [one for one in tree.get("changes", []) if one["after"] < epochs]
    return make_config({**tree, "train": {**tree["train"], "epochs": epochs}, "changes": changes}, "schedule")


def _changed(tree: Mapping[str, Any], changed: Mapping[str, Any] | None) -> dict[str, Any]:
    """The tree with one more change, in its place among those that it has."""
    changes = [*tree.get("changes", []), *([] if changed is None else [changed])]
    return {**tree, "changes": sorted(changes, key=lambda one: int(one["after"]))}


def change(old: Stage, new: Stage, config_of: ConfigOf) -> dict[str, Any] | None:
    """What a stage changes of the one before it, as an entry of `changes`; None for nothing."""
    keys = [key for key, value in new.parameters.items() if old.parameters.get(key, _ABSENT) != value]
    if not keys:
        return None
    before, after = config_of(old.parameters), config_of(new.parameters)
    plugins = {kind: _spelt(kind, before, after) for kind in ("combiner", "mixer", "scheduler") if _is_of(kind, keys)}
    others = {key: new.parameters[key] for key in keys if key.partition(".")[0] not in plugins}
    return {"after": new.after, "settings": apply({}, {**others, **plugins})}


def _is_of(kind: str, keys: Sequence[str]) -> bool:
    return any(key.partition(".")[0] == kind for key in keys)


def _spelt(kind: str, before: RunConfig, after: RunConfig) -> dict[str, Any]:
    """The plugin with all its options: laid on the same plugin, none of the old ones is to stay."""
    old, new = (spell_out(kind, getattr(config, kind)) for config in (before, after))
    return {**(dict.fromkeys(old.options) if old.name == new.name else {}), **new.model_dump()}


_ABSENT = object()


def keep_best(folder: Path, run: RunFolder) -> None:
    """best/: a trial's run folder, without what only a resume needs. Raises CheckpointError."""

    def copy(new: Path) -> None:
        for name in ("config.toml", "run.json", "metrics.jsonl"):
            shutil.copy2(run.path / name, new / name)
        shutil.copytree(run.best, new / "best")

    replace_folder(folder / "best", copy)


def take_over(source: RunFolder, target: Path, changed: dict[str, Any] | None, **facts: Any) -> None:
    """Makes `target` a run that stands where `source` does, with a change of settings. Raises CheckpointError."""
    config = source.config
    if changed is not None:
        config = make_config(_changed(config.to_dict(), changed), "take-over")

    def copy(new: Path) -> None:
        hidden = shutil.ignore_patterns(".*")
        shutil.copytree(source.path, new, copy_function=_link, ignore=hidden, dirs_exist_ok=True)
        write_atomically(new / "config.toml", config.to_toml())
        RunFolder(new).update(**facts)

    replace_folder(target, copy)


def _link(source: str, target: str) -> None:
    """The same file under a second name, where the file system can: a checkpoint's files are replaced, never changed.
    What is appended to is copied."""
    if Path(source).suffix == ".jsonl":
        shutil.copy2(source, target)
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def tidy(run: Path, keeps_best: bool) -> None:
    """Drops what no job of this trial will need: moments, and weights unless they are the best."""
    names = ["last", ".last.new", ".last.old", ".best.new"]
    for name in [*names, *([] if keeps_best else ["best", ".best.old"])]:
        shutil.rmtree(run / name, ignore_errors=True)
    shutil.rmtree(run.with_name(f".{run.name}.old"), ignore_errors=True)  # of a take-over that was cut off
