"""Prediction from text to label: `mtk.load(run).predict` beside loops over transformers' BERT with the same weights.

Each turn of a side is a fresh process that loads, warms up and answers the dev rows of three tasks, tokenising
included. Before that, pooled vectors and labels of mtk are held against the padded float32 loop's.

    python benchmarks/inference.py [--turns 7] [--rows N] [--data DIR] [--device cuda] [--json FILE]
"""

from __future__ import annotations

import json
import statistics
import sys
from typing import Any

import harness
from harness import JSON

PADDED = "padded fp32 loop"
SIDES: dict[str, JSON] = {
    "mtk bf16": {"run": "bf16"},
    "mtk fp32": {"run": "fp32"},
    PADDED: {"sort": False, "bf16": False},
    "sorted fp32 loop": {"sort": True, "bf16": False},
    "padded bf16 loop": {"sort": False, "bf16": True},
    "sorted bf16 loop": {"sort": True, "bf16": True},
    "transformers pipeline": {},
}


def choices() -> Any:
    parser = harness.parser(__doc__, batch=16)
    parser.add_argument("--rows", type=int, default=800, help="dev rows of each task at most (default: %(default)s)")
    return parser


def main() -> int:
    options = choices().parse_args()
    if options.side:
        import inference_sides

        print(json.dumps(inference_sides.run(json.loads(options.side))))
        return 0
    with harness.workplace(options) as (folder, peers):
        if not harness.install(peers, harness.TRAINER):
            return 1
        facts = harness.machine(options, peers)
        base = harness.common(options) | {"folder": str(folder), "batch": options.batch_size, "rows": options.rows}
        harness.side(__file__, base | {"side": "prepare"}, peers)
        agreement = harness.side(__file__, base | {"side": "agreement"}, peers)

        def run(name: str, turn: int) -> JSON:
            return harness.side(__file__, base | {"side": name} | SIDES[name], peers)

        found = harness.turns(list(SIDES), options.turns, run)
    ratios = show(found, facts, options)
    print("\nmtk against the padded float32 loop, the same rows and weights")
    for name, own in agreement.items():
        print(f"  {name}: smallest cosine of pooled vectors {own['cosine']:.6f}, same label {own['same label']:.2%}")
    harness.save(options, facts, turns=found, ratios=ratios, agreement=agreement)
    return 0


def show(found: dict[str, list[JSON]], facts: JSON, options: Any) -> JSON:
    """The tables; returns rows/s over the padded loop's, of the same turn."""
    speed = {name: [turn["rows"] / turn["seconds"] for turn in turns] for name, turns in found.items()}
    ratios = {name: harness.ratios(own, speed[PADDED]) for name, own in speed.items() if PADDED in speed}
    harness.heading(f"prediction of dev rows, {options.turns} turns", facts)
    rows = []
    for name, turns in found.items():
        peak = statistics.median(turn["peak"] for turn in turns) / 2**20
        over = harness.shown(ratios[name]) if name in ratios else "-"
        rows.append([name, harness.shown(harness.spread(speed[name]), 0), over, f"{peak:.0f}"])
    print()
    harness.table(["side", "rows/s", f"over {PADDED}", "peak MiB"], rows)
    return ratios


if __name__ == "__main__":
    sys.exit(main())
