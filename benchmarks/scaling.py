"""How the cost of a step grows with rows, tasks, sequence length and layers: what is linear and what is not.

The rows are made up, each of exactly L tokens, so that nothing is padded and tokens are known. Each axis is one fresh
process in which all its sizes, with `sum` and with `pcgrad`, alternate step by step. An exponent is the slope of
log time over log size: 1 is linear, 0 is constant. `last` is that of the two largest sizes alone.

    python benchmarks/scaling.py [--axes rows tasks length layers] [--steps 11] [--device cuda] [--json FILE]
"""

from __future__ import annotations

import json
import statistics
import sys
from typing import Any

import harness
from harness import JSON

SIZES = {
    "rows": [4, 8, 16, 32, 64],
    "tasks": [2, 4, 8, 16, 32],
    "length": [16, 32, 64, 128],
    "layers": [2, 4, 6, 8, 12],
}
MEANING = {
    "rows": "rows a task, three tasks",
    "tasks": "tasks, at equal total rows and tokens",
    "length": "tokens a row, three tasks",
    "layers": "layers of a random BERT as wide as MiniLM, three tasks",
}
COMBINERS = ("sum", "pcgrad")


def choices() -> Any:
    parser = harness.parser(__doc__, turns=1, steps=11, batch=16)
    parser.add_argument("--axes", nargs="+", choices=[*SIZES], default=[*SIZES], help="default: all")
    parser.add_argument("--sizes", type=int, nargs="+", help="other sizes, of a single axis")
    parser.add_argument("--total", type=int, default=64, help="rows of a step on the tasks axis (default: %(default)s)")
    parser.add_argument("--length", type=int, default=32, help="tokens a row on the other axes (default: %(default)s)")
    parser.add_argument("--warm", type=int, default=2, help="steps before the clock starts (default: %(default)s)")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    return parser


def main() -> int:
    options = choices().parse_args()
    if options.side:
        import scaling_sides

        print(json.dumps(scaling_sides.run(json.loads(options.side))))
        return 0
    if options.sizes and len(options.axes) != 1:
        print("--sizes: name the one axis that they are of, with --axes", file=sys.stderr)
        return 2
    results: JSON = {}
    with harness.workplace(options) as (folder, peers):
        harness.install(peers, {"transformers": "transformers"})
        facts = harness.machine(options, peers)
        harness.heading(f"{options.turns * options.steps} interleaved steps, {options.precision}", facts)
        names = ("batch_size", "total", "length", "warm", "steps", "precision")
        base = harness.common(options) | {name: getattr(options, name) for name in names}
        for axis in options.axes:
            sizes = options.sizes or SIZES[axis]
            answers = []
            for turn in range(options.turns):
                own = {"sizes": sizes, "combiners": COMBINERS, "folder": str(folder / f"{axis}{turn}")}
                spec = base | {"side": axis} | own
                answers.append(harness.side(__file__, spec, peers))
            results[axis] = show(axis, sizes, answers)
    harness.save(options, facts, results=results)
    return 0


def show(axis: str, sizes: list[int], answers: list[JSON]) -> JSON:
    """The axis's table and exponents."""
    seconds = {
        name: [[s for answer in answers for s in answer["seconds"][name][place]] for place in range(len(sizes))]
        for name in COMBINERS
    }
    tokens = answers[0]["tokens"]
    steps = {name: [statistics.median(own) for own in seconds[name]] for name in COMBINERS}
    over = [harness.ratios(p, s) for p, s in zip(seconds["pcgrad"], seconds["sum"], strict=True)]
    rows = [
        [
            size,
            tokens[i],
            *(f"{steps[name][i] * 1e3:.1f}" for name in COMBINERS),
            *(f"{steps[name][i] / tokens[i] * 1e6:.1f}" for name in COMBINERS),
            harness.shown(over[i]),
        ]
        for i, size in enumerate(sizes)
    ]
    print(f"\n{axis}: {MEANING[axis]}")
    heads = [f"ms, {name}" for name in COMBINERS] + [f"us a token, {name}" for name in COMBINERS]
    harness.table([axis, "tokens a step", *heads, "pcgrad / sum"], rows)
    found: JSON = {"sizes": sizes, "tokens": tokens, "seconds": seconds, "pcgrad over sum": over, "exponents": {}}
    if len(sizes) > 1:
        for name, own in steps.items():
            each = [s / t for s, t in zip(own, tokens, strict=True)]
            slopes = {
                "step": harness.exponent(sizes, own),
                "token": harness.exponent(sizes, each),
                "last": harness.exponent(sizes[-2:], own[-2:]),
            }
            found["exponents"][name] = slopes
            said = f"{slopes['step']:+.2f} a step (last {slopes['last']:+.2f}), {slopes['token']:+.2f} a token"
            print(f"  {name}: exponent {said}; {own[-1] / own[0]:.2f} times the cost from {sizes[0]} to {sizes[-1]}")
    return found


if __name__ == "__main__":
    sys.exit(main())
