"""`mtk sweep`: recipes x settings x seeds of a matrix file, each run once, resumable."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer


def sweep(
    matrix: Annotated[
        Path, typer.Argument(metavar="MATRIX.toml", help="What to run; see the tutorial Reproduce a paper.")
    ],
    out: Annotated[Path, typer.Option(help="The sweep's folder, new, empty or an earlier sweep's, which goes on.")],
    seeds: Annotated[
        int | None, typer.Option(min=1, help="So many seeds of each configuration. Default: the file's, or 1.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 11711,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Make the I-th of N parts of the runs: a part a machine.")
    ] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder of the tasks' files.")] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Train on the built-in sample.")] = False,
    epochs: Annotated[int | None, typer.Option(help="Epochs at most, in place of the file's.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Optimizer steps at most.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32 or bf16.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="SECTION.KEY=VALUE for every run. Repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the runs and an estimate, train nothing.")] = False,
) -> int:
    """Run every combination of a matrix of recipes, settings and seeds, and table their scores.

    Each run is made once: the same command goes on with a sweep that was cut off. Seeds are replicates: they make mean
    and spread, and never compete.
    """
    from mtk.matrix import read_matrix, seeds_from
    from mtk.sweep import Sweep

    title, cells, own = read_matrix(
        matrix,
        data=None if data is None else str(data),
        sample="always" if sample else None,
        epochs=epochs,
        max_steps=max_steps,
        device=device,
        precision=precision,
        threads=threads,
        settings=set_ or [],
    )
    found = Sweep(out, cells, seeds_from(own if seeds is None else seeds, seed))
    return found.conduct(title=title, command=shlex.join(["mtk", *sys.argv[1:]]), shard=shard, dry_run=dry_run)
