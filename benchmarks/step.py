"""One multitask training step of mtk beside the loops that people write: real tokens/s, time, peak memory.

Each turn of a side is a fresh process that builds, warms up, then times the steps; the sides take turns. Before that,
mtk and plain transformers loops train on the same batches, and their losses must agree (exit 1 where they do not).

    python benchmarks/step.py [--turns 7] [--steps 12] [--data DIR] [--device cuda] [--json FILE]
"""

from __future__ import annotations

import json
import statistics
import sys
from typing import Any

import harness
from harness import JSON

NAIVE, TRAINER, BUCKETED = "naive fp32 loop", "HF Trainer", "HF bucketed bf16 loop"
OURS = {  # what mtk is asked for
    "mtk bf16 sum": {"precision": "bf16", "combiner": "sum"},
    "mtk fp32 sum": {"precision": "fp32", "combiner": "sum"},
    "mtk bf16 pcgrad": {"precision": "bf16", "combiner": "pcgrad"},
}
SENTENCES, COSINE = "sentence-transformers, STS", "mtk bf16, STS"
PAIRS = [(ours, peer) for peer in (NAIVE, TRAINER, BUCKETED) for ours in OURS] + [
    ("mtk bf16 pcgrad", "mtk bf16 sum"),
    (COSINE, SENTENCES),
]


def choices() -> Any:
    parser = harness.parser(__doc__, steps=12, batch=16)
    parser.add_argument("--warm", type=int, default=3, help="steps before the clock starts (default: %(default)s)")
    parser.add_argument("--agree-steps", type=int, default=10, help="steps of the agreement check; 0 leaves it out")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="largest difference of losses that agrees")
    parser.add_argument("--only", nargs="+", metavar="SIDE", help="only sides whose name contains one of these")
    return parser


def main() -> int:
    options = choices().parse_args()
    if options.side:
        import step_sides

        print(json.dumps(step_sides.run(json.loads(options.side))))
        return 0
    sides = [*OURS, NAIVE, TRAINER, BUCKETED, COSINE, SENTENCES]
    if options.only:
        sides = [name for name in sides if any(part in name for part in options.only)]
    with harness.workplace(options) as (folder, peers):
        if not harness.install(peers, harness.TRAINER):
            return 1  # without transformers there is nothing to compare with
        if SENTENCES in sides and not harness.install(peers, harness.SENTENCES):
            sides.remove(SENTENCES)
        facts = harness.machine(options, peers)
        base = harness.common(options) | {"folder": str(folder), "batch": options.batch_size}
        harness.side(__file__, base | {"side": "prepare"}, peers)
        agreement = None
        if options.agree_steps:
            agreement = harness.side(__file__, base | {"side": "agreement", "steps": options.agree_steps}, peers)

        def run(name: str, turn: int) -> JSON:
            spec = base | {"side": name, "seed": turn, "warm": options.warm, "steps": options.steps}
            return harness.side(__file__, spec | OURS.get(name, {}), peers)

        found = harness.turns(sides, options.turns, run)
    ratios = compare(found)
    harness.heading(f"{options.steps} steps of {options.batch_size} rows a task, {options.turns} turns", facts)
    show(found, ratios)
    harness.save(options, facts, turns=found, ratios=ratios, agreement=agreement)
    return report(agreement, options.tolerance)


def compare(found: dict[str, list[JSON]]) -> JSON:
    """tokens/s of mtk over each peer's, of the same turn; of PCGrad over the sum the time of a step."""
    out: JSON = {}
    for ours, peer in PAIRS:
        if ours in found and peer in found:
            speed = [[turn["tokens"] / turn["seconds"] for turn in found[name]] for name in (ours, peer)]
            out[f"{ours} / {peer}"] = harness.ratios(*speed)
    return out


def show(found: dict[str, list[JSON]], ratios: JSON) -> None:
    rows = []
    for name, turns in found.items():
        speed = harness.spread([turn["tokens"] / turn["seconds"] for turn in turns])
        seconds = harness.spread([turn["seconds"] / turn["steps"] * 1e3 for turn in turns])
        peak = statistics.median(turn["peak"] for turn in turns) / 2**20
        whole = statistics.median(turn["peak whole"] for turn in turns) / 2**20
        tokens = statistics.median(turn["tokens"] / turn["steps"] for turn in turns)
        steps, rate = harness.shown(seconds, 0), harness.shown(speed, 0)
        rows.append([name, rate, steps, f"{tokens:.0f}", f"{peak:.0f}", f"{whole:.0f}"])
    print()
    harness.table(["side", "real tokens/s", "ms a step", "tokens a step", "peak MiB, steps", "whole"], rows)
    print(
        "\ntokens/s, median (min-max) over the turns; the last two sides are STS alone: not the same work as the rest\n"
    )
    harness.table(["ratio of tokens/s", "median (min-max)"], [[k, harness.shown(v)] for k, v in ratios.items()])


def report(agreement: JSON | None, tolerance: float) -> int:
    """Prints the agreement check; 1 where losses differ by more than `tolerance`."""
    if agreement is None:
        return 0
    print(f"\nsame batches, dropout 0: largest difference of losses over {agreement['steps']} steps")
    worst = 0.0
    for name, found in agreement["against"].items():
        judged = "" if found["judged"] else "  (shown, not judged)"
        print(f"  {name}: {found['largest']:.2e} of losses up to {found['scale']:.2f}{judged}")
        worst = max(worst, found["largest"] if found["judged"] else 0.0)
    if agreement["tokens"][0] != agreement["tokens"][1]:
        print(f"  tokens differ: mtk {agreement['tokens'][0]}, transformers {agreement['tokens'][1]}")
        return 1
    if not worst <= tolerance:
        print(f"FAILED: they differ by more than {tolerance:g}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
