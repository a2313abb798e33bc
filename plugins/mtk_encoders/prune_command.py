"""`mtk prune`: a finished run's BERT without its least important attention heads, as a new run (experimental).

How many heads go is told, not learnt: see `pruning.py` for the method, and for how it differs from AUBER.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mtk import CheckpointError, ConfigError, PluginError

if TYPE_CHECKING:
    from mtk import RunFolder, TrainedModel
    from mtk_encoders.bert import BertEncoder

SHARE = 0.25
ENDS = ("best_epoch", "ended", "seconds", "status")  # facts that hold once the new folder is complete


class Device(StrEnum):
    """Where a model computes."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


@dataclass(frozen=True)
class Budget:
    """How many heads go: `heads`, or that `share` of those there are (default 0.25); at most `per_layer` of a layer."""

    heads: int | None = None
    share: float | None = None
    per_layer: int | None = None


@dataclass(frozen=True)
class Pruned:
    """What was pruned: by layer the numbers of the heads that were there, how important each was, and which went.

    rows: how many of each task told the importance. parameters: of the encoder. Both they and the dev scores are before
    and after. sample: the scores are the built-in sample's.
    """

    there: list[list[int]]
    importance: list[list[float]]
    gone: list[list[int]]
    rows: dict[str, int]
    parameters: tuple[int, int]
    scores: tuple[dict[str, Any], dict[str, Any]]
    sample: bool

    def to_dict(self) -> dict[str, Any]:
        layers = [
            {"heads": heads, "importance": [round(value, 6) for value in values], "pruned": gone}
            for heads, values, gone in zip(self.there, self.importance, self.gone, strict=True)
        ]
        parameters = dict(zip(("before", "after"), self.parameters, strict=True))
        return {"layers": layers, "rows": self.rows, "parameters": parameters, "scores_before": self.scores[0]}


def prune(run: Path, out: Path, budget: Budget, *, rows: int = 500, command: str = "", **settings: Any) -> Pruned:
    """Writes a new run folder with the best model of `run`, its encoder pruned. Raises MTKError children.

    rows: how many training rows of each trained task tell the importance, drawn by the run's seed; dev rows are only
        scored. settings: of `mtk.load`, for both runs: device, threads, data.
    """
    from mtk import RunFolder, load
    from mtk_encoders.pruning import choose, importances, sample, without

    if rows < 1:
        raise ConfigError(f"--rows: expected at least 1, found {rows}")
    RunFolder.check_out(out)
    folder = RunFolder.open(run)
    if (status := folder.facts.get("status")) != "finished":
        raise CheckpointError(f"{run}: expected a finished run, found status {status}: mtk train --resume {run}")
    trained = load(run, **settings)
    if trained.left_out:  # its scores and importances would be missing from what is written
        name, why = next(iter(trained.left_out.items()))
        raise PluginError(f"{run}: a run is pruned with all its tasks, but '{name}' is left out: {why}")
    encoder = _bert(run, trained)
    there = [encoder.config.heads(layer) for layer in range(encoder.config.num_hidden_layers)]
    count = _count(run, there, budget)
    read = {name: trained.examples(name, "train").examples for name in trained.trained}
    drawn = {name: sample(name, some, rows, trained.config.train.seed) for name, some in read.items()}
    importance = importances(trained, drawn)
    columns = choose(importance, count, budget.per_layer)
    smaller = without(encoder, columns)
    before = trained.evaluate("dev").to_dict()
    new = RunFolder.create(out, folder.config, **_facts(folder.facts, status="running", command=command))
    try:
        _write_best(folder, new, smaller)
        pruned = Pruned(
            there,
            [scores.tolist() for scores in importance],
            [[heads[column] for column in some] for heads, some in zip(there, columns, strict=True)],
            {name: len(some) for name, some in drawn.items()},
            (_size(encoder), _size(smaller)),
            (before, load(out, **settings).evaluate("dev").to_dict()),
            trained.of_sample,
        )
        ends = {key: value for key, value in folder.facts.items() if key in ENDS}
        new.update(**ends, scores=pruned.scores[1], pruned={"from": str(run), **pruned.to_dict()})
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    return pruned


def _bert(run: Path, trained: TrainedModel) -> BertEncoder:
    from mtk_encoders.bert import BertEncoder

    encoder = trained.model.encoder
    if not isinstance(encoder, BertEncoder):
        raise ConfigError(
            f"{run}: only mtk's own BERT can be pruned (encoders minilm, bert-base, bert, tiny and BERT folders), "
            f"found encoder '{encoder.spec[0]}'"
        )
    return encoder


def _count(run: Path, there: list[list[int]], budget: Budget) -> int:
    """How many heads go. Raises ConfigError where they cannot, before anything is computed."""
    from mtk_encoders.pruning import room, wanted_count

    if budget.heads is not None and budget.share is not None:
        raise ConfigError("--heads and --share: expected one of them, found both")
    sizes = [len(heads) for heads in there]
    if sum(sizes) == len(sizes):
        raise ConfigError(f"{run}: each layer of its encoder has one head, so there is nothing to prune")
    count = wanted_count(sum(sizes), budget.heads, SHARE if budget.share is None else budget.share)
    room(sizes, count, budget.per_layer)
    return count


def _facts(old: Mapping[str, Any], **new: Any) -> dict[str, Any]:
    """What is known of the new run before it is complete."""
    return {**{key: value for key, value in old.items() if key not in (*ENDS, "scores", "pruned")}, **new}


def _write_best(old: RunFolder, new: RunFolder, encoder: BertEncoder) -> None:
    """Copies best/ with another encoder. Raises CheckpointError where it cannot be written."""
    try:
        shutil.copytree(old.best, new.path / "best", ignore=shutil.ignore_patterns("encoder"))
        (new.path / "best" / "encoder").mkdir()
        encoder.save(new.path / "best" / "encoder")
    except OSError as error:
        raise CheckpointError(f"{new.path}: writing failed ({error.strerror or error}); nothing is kept") from error


def _size(encoder: BertEncoder) -> int:
    return sum(p.numel() for p in encoder.parameters())


# ---------------------------------------------------------------------------------------------- the command


def prune_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run whose encoder is mtk's own BERT.")],
    out: Annotated[Path, typer.Option(help="The new run folder.")],
    heads: Annotated[int | None, typer.Option(help="How many heads go.")] = None,
    share: Annotated[
        float | None, typer.Option(help="Which share of the heads goes, where --heads is not given. Default: 0.25.")
    ] = None,
    per_layer: Annotated[
        int | None, typer.Option(help="At most so many heads of a layer go. Default: all but one.")
    ] = None,
    rows: Annotated[int, typer.Option(help="Training rows of each trained task that tell what a head matters.")] = 500,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder of the tasks' files in place of the run's own.")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.auto,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: torch's own choice.")] = None,
) -> None:
    """Remove a finished run's least important attention heads: experimental."""
    found = prune(
        run,
        out,
        Budget(heads, share, per_layer),
        rows=rows,
        command=shlex.join(["mtk", *sys.argv[1:]]),
        device=device.value,
        threads=threads,
        data=data,
    )
    _show(found)
    again = ["mtk", "train", "--config", str(out / "config.toml"), "--init", str(out), "--out", f"{out}-tuned"]
    again += [] if data is None else ["--data", str(data)]
    typer.echo(f"\nThe pruned run is {out}. To train it on: {shlex.join(again)}")


def _show(found: Pruned) -> None:
    if found.sample:
        typer.echo("The rows are the built-in sample's: importances and scores mean nothing.\n")
    rows = ", ".join(f"{name} {count:,}" for name, count in found.rows.items())
    typer.echo(f"Importance of each layer's heads, of l2 norm 1 a layer, on training rows ({rows}); * goes:")
    for layer, (heads, values, gone) in enumerate(zip(found.there, found.importance, found.gone, strict=True)):
        cells = [f"{head}: {value:.3f}{'*' * (head in gone)}" for head, value in zip(heads, values, strict=True)]
        typer.echo(f"  layer {layer}  {'  '.join(cells)}")
    count, total = sum(map(len, found.gone)), sum(map(len, found.there))
    before, after = found.parameters
    went = "; ".join(f"layer {layer}: {', '.join(map(str, some))}" for layer, some in enumerate(found.gone) if some)
    typer.echo(f"\nPruned {count} of {total} heads ({went}; layers and heads count from 0).")
    typer.echo(f"Encoder parameters: {before:,} before, {after:,} after ({after / before - 1:+.1%}).")
    typer.echo("\nDev scores, before -> after, with no training in between:")
    old, new = found.scores
    for name, metric in old["primary"].items():
        typer.echo(f"  {name} {metric}: {old['tasks'][name][metric]:.4f} -> {new['tasks'][name][metric]:.4f}")
    typer.echo(f"  aggregate: {old['aggregate']:.4f} -> {new['aggregate']:.4f}")
