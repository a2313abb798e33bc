"""What a search misses at equal epochs: asha, random and Ray's rule on the learning curves of real trainings.

python benchmarks/asha.py --data DIR [--task sst] [--pool FILE] [--tuners asha random ray-asha] [--json FILE]

A pool of configurations, drawn from one space, is trained to the end once: one task, the top layers of an encoder. Its
curves go to --pool, a line a configuration, and a pool that was cut off is gone on with. Then every tuner searches the
pool --seeds times with one slot and --budget epochs. With the same seed all tuners draw the same configurations, in the
same order. Regret: the best score in the pool less the found.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import gt, lt
from pathlib import Path
from typing import Any

import harness
from harness import JSON

from mtk.domains import Choice
from mtk.errors import ConfigError, MTKError
from mtk.interfaces import SearchState, TrialRecord, Tuner

SPACE = {
    "optim.lr": "loguniform(1e-5, 1e-2)",
    "optim.weight_decay": "loguniform(1e-3, 0.3)",
    "model.dropout": "uniform(0, 0.5)",
    "train.batch_size": "choice(8, 16, 32)",
}
SETTINGS = ("task", "epochs", "rows", "freeze", "encoder", "seed")  # that make a pool another one
TUNERS = ["asha", "random", "ray-asha", "ray-asha:eta=3"]


def choices() -> Any:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--tuners", nargs="+", default=TUNERS, metavar="NAME:OPTIONS", help="the first is the reference")
    made.add_argument("--seeds", type=int, default=200, help="searches of each tuner (default: %(default)s)")
    made.add_argument("--task", default="sst", help="what is trained (default: %(default)s)")
    made.add_argument("--budget", type=int, default=81, help="epochs of a search (default: %(default)s)")
    made.add_argument("--configurations", type=int, default=48, help="in the pool (default: %(default)s)")
    made.add_argument("--epochs", type=int, default=9, help="of a whole trial (default: %(default)s)")
    made.add_argument("--rows", type=int, default=512, help="for training, drawn at random (default: %(default)s)")
    made.add_argument("--freeze", default="4", help="as mtk train has it (default: %(default)s)")
    made.add_argument("--encoder", default="minilm", help="(default: %(default)s)")
    made.add_argument("--seed", type=int, default=11711, help="of the pool (default: %(default)s)")
    made.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--data", type=Path, help="the folder of the task's files (default: the built-in sample)")
    made.add_argument("--pool", type=Path, default=Path("asha-pool.jsonl"), help="(default: %(default)s)")
    made.add_argument("--json", type=Path, help="write every search to this file")
    return made


def main() -> int:
    parser = choices()
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error(f"--seeds: expected at least 2, found {options.seeds}")
    try:
        tuners = {spec: built(spec) for spec in options.tuners}
        curves = pool(options)
    except MTKError as error:
        print(error, file=sys.stderr)
        return 2
    found = {
        spec: [replay(tuner, curves, options, seed) for seed in range(options.seeds)] for spec, tuner in tuners.items()
    }
    facts = harness.machine(options)
    best = max(max(curve, default=-math.inf) for curve in curves)
    middle = statistics.median(max(curve, default=-math.inf) for curve in curves)
    where = f"a pool of {len(curves)} (best {best:.3f}, median {middle:.3f})"
    harness.heading(f"{options.seeds} searches of {options.budget} epochs in {where}", facts)
    print()
    show(found, best)
    options.pool = options.pool.name
    harness.save(
        options, facts, pool=curves, searches={spec: [vars(one) for one in runs] for spec, runs in found.items()}
    )
    return 0


def built(spec: str) -> Tuner:
    from mtk import plugins

    name, given = plugins.parse_spec(spec)
    tuner: Tuner = plugins.build("tuner", name, **given)
    return tuner


# ---------------------------------------------------------------------------------------------- the pool


def pool(options: argparse.Namespace) -> list[list[float]]:
    """The score after each epoch of each configuration; fewer where it failed. Raises MTKError."""
    from mtk.settings import configure
    from mtk.space import Space

    settings = {key: vars(options)[key] for key in SETTINGS} | {"space": SPACE}
    settings["data"] = "sample" if options.data is None else options.data.resolve().name
    lines = read_pool(options.pool, settings)
    space = Space.parse(SPACE)
    flat = {"encoder": options.encoder, "freeze": options.freeze, "epochs": options.epochs, "patience": 0}
    flat |= {"threads": options.threads, "device": options.device, "seed": options.seed, "max_train_rows": options.rows}
    flat |= {"sample": "always"} if options.data is None else {"data": str(options.data)}
    tree = configure(tasks=[options.task], **flat).to_dict()
    space.check(tree)
    while len(lines) < options.configurations:
        if lines:
            minutes = (options.configurations - len(lines)) * statistics.fmean(one["seconds"] for one in lines) / 60
            told = f"{len(lines)}/{options.configurations} configurations, about {minutes:.0f} minutes left"
            print(told, file=sys.stderr, flush=True)
        line = train(tree, space.sample(options.seed, len(lines)), lines[0]["precision"] if lines else None)
        with options.pool.open("a") as file:
            file.write(json.dumps(line) + "\n")
        lines.append(line)
    return [line["scores"] for line in lines[: options.configurations]]


def read_pool(file: Path, settings: JSON) -> list[JSON]:
    """The configurations that are there; a new file gets its first line. Raises ConfigError for another pool's."""
    if not file.exists():
        file.write_text(json.dumps(settings) + "\n")
    *lines, rest = file.read_text().split("\n")
    if rest:  # a kill cut it off
        os.truncate(file, file.stat().st_size - len(rest.encode()))
    there = json.loads(lines[0])
    if wrong := [key for key in settings if there.get(key) != settings[key]]:
        raise ConfigError(
            f"--pool {file}: {wrong[0]} is {there.get(wrong[0])} there, not {settings[wrong[0]]}; choose another"
        )
    return [json.loads(line) for line in lines[1:]]


def train(tree: Mapping[str, Any], parameters: Mapping[str, Any], precision: str | None) -> JSON:
    """A configuration trained to its end, in the first one's precision."""
    from mtk import session
    from mtk.config import make_config
    from mtk.space import apply
    from mtk.training import EpochDone

    chosen = {} if precision is None else {"train.precision": precision}
    begin, scores, problem = time.perf_counter(), [], ""
    run = session.start(make_config(apply(tree, {**parameters, **chosen})), None)
    try:
        for event in run.training.run():
            if isinstance(event, EpochDone):
                scores.append(event.selected)
    except MTKError as error:
        problem = str(error)
    seconds = time.perf_counter() - begin
    return {"parameters": dict(parameters), "scores": scores, "problem": problem, "seconds": round(seconds, 1),
            "precision": run.parts.hardware.precision}  # fmt: skip


# ---------------------------------------------------------------------------------------------- searches


@dataclass(frozen=True)
class Searched:
    """best: found after each epoch of the search. started, finished: trials; the others wait, or were stopped."""

    best: list[float]
    started: int
    finished: int


def drawn(seed: int, number: int, size: int) -> int:
    """Which configuration trial `number` has: a function of both, the same for all tuners. None comes twice before
    each has come once, as in a space that is not finite; there a second one would take a promotion from others."""
    turn, place = divmod(number, size)
    return random.Random(f"{seed} {turn}").sample(range(size), size)[place]


def replay(tuner: Tuner, curves: Sequence[Sequence[float]], options: argparse.Namespace, seed: int) -> Searched:
    """A search in the pool."""

    def sample(number: int) -> Mapping[str, Any]:
        return {"configuration": drawn(seed, number, len(curves))}

    space, best, trials = {"configuration": Choice(tuple(range(len(curves))))}, [], list[TrialRecord]()

    def state() -> SearchState:
        left = options.budget - len(best)
        return SearchState(tuple(trials), options.epochs, options.budget, seed, sample, list, space, left=left)

    while len(best) < options.budget and (job := tuner.next(state())) is not None:
        number = len(trials) if job.trial is None else job.trial
        if job.trial is None:
            trials.append(TrialRecord(number, job.parameters or {}))
        trial, kept = trials[number], True
        curve = curves[trial.parameters["configuration"]]
        while kept and len(trial.scores) < job.epochs and len(best) < options.budget:
            if len(trial.scores) == len(curve):
                trials[number] = replace(trial, state="failed")
                best.append(best[-1] if best else -math.inf)
                break
            trial = trials[number] = replace(trial, scores=(*trial.scores, curve[len(trial.scores)]), state="running")
            best.append(max(trial.scores[-1], best[-1] if best else -math.inf))
            kept = tuner.keep(state(), trial)
        else:
            over = "finished" if len(trial.scores) == options.epochs else "paused" if kept else "stopped"
            trials[number] = replace(trial, state=over)
    return Searched(best, len(trials), sum(trial.state == "finished" for trial in trials))


def show(found: Mapping[str, Sequence[Searched]], best: float) -> None:
    """The regrets along the search, and how often each tuner's is smaller than that of the first with the same seed."""
    first = next(iter(found.values()))
    ends = [len(first[0].best) * part // 3 for part in (1, 2, 3)]  # epochs
    rows = []
    for spec, runs in found.items():
        regrets = [[best - run.best[end - 1] for run in runs] for end in ends]
        pairs = list(zip(runs, first, strict=True))
        versus = [
            "/".join(
                str(sum(wins(own.best[end - 1], other.best[end - 1]) for own, other in pairs)) for wins in (gt, lt)
            )
            for end in ends
        ]
        trials = [
            f"{statistics.median(values):g}" for values in zip(*((r.started, r.finished) for r in runs), strict=True)
        ]
        rows.append([
            spec, *map(quartiles, regrets), f"{statistics.fmean(regrets[-1]):.4f}", *trials,
            "" if runs is first else ", ".join(versus),
        ])  # fmt: skip
    name = next(iter(found))
    marks = [f"{end} epochs" for end in ends]
    header = ["tuner", f"regret after {marks[0]}", *marks[1:], "mean", "started", "finished", f"less/more than {name}"]
    harness.table(header, rows)


def quartiles(values: Sequence[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.4f} ({low:.4f}-{high:.4f})"


if __name__ == "__main__":
    sys.exit(main())
