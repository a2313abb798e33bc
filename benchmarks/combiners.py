"""What combining gradients costs: every combiner over PCGrad and over the plain sum, on the same batches.

Trainings with one combiner each alternate step by step in one process, so that the machine's load cancels in the ratio
of two neighbours; each group holds `sum` and `pcgrad` beside a few others. Memory is that of fresh processes. The peers
(TorchJD, LibMTL, and the projection of flat gradients by hand) are each compared with the plain sum of their own loop.

    python benchmarks/combiners.py [--tasks 3] [--steps 11] [--data DIR] [--device cuda] [--json FILE]
"""

from __future__ import annotations

import json
import statistics
import sys
from typing import Any

import harness
from harness import JSON

PEERS = {"TorchJD": {"torchjd": "torchjd"}, "LibMTL": {"LibMTL": "LibMTL"}, "by hand": {}}
LAYOUTS = ("a forward a task", "one forward")


def choices() -> Any:
    parser = harness.parser(__doc__, turns=3, steps=11, batch=16)
    parser.add_argument(
        "--tasks", type=int, nargs="+", default=[3], metavar="T", help="how many tasks, once or several"
    )
    parser.add_argument("--combiners", nargs="+", metavar="NAME", help="only these (default: all that are registered)")
    parser.add_argument("--group", type=int, default=5, help="combiners in one process beside sum and pcgrad")
    parser.add_argument("--warm", type=int, default=3, help="steps before the clock starts (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=2048, help="training rows of each task (default: %(default)s)")
    parser.add_argument("--memory", nargs="*", default=["pcgrad"], metavar="NAME", help="whose memory; `all` for all")
    parser.add_argument("--no-peers", action="store_true", help="mtk's combiners only")
    return parser


def main() -> int:
    options = choices().parse_args()
    if options.side:
        import combiner_sides

        print(json.dumps(combiner_sides.run(json.loads(options.side))))
        return 0
    with harness.workplace(options) as (folder, peers):
        base = harness.common(options) | {"folder": str(folder), "batch": options.batch_size, "rows": options.rows}
        base |= {"steps": options.steps, "warm": options.warm}
        needs = harness.side(__file__, base | {"side": "needs"})
        for name in [name for name, said in needs.items() if said.startswith("cannot")]:
            print(f"left out: {name}: {needs.pop(name)}")
        names = options.combiners or sorted(needs)
        harness.install(peers, harness.TRAINER)
        facts = harness.machine(options, peers)
        harness.heading(f"{options.steps} interleaved steps of {options.batch_size} rows a task", facts)
        results: JSON = {}
        for tasks in options.tasks:
            here = base | {"tasks": tasks}
            found: JSON = {"head": headline(here), "combiners": compare(here, names, needs, options.group)}
            memory = names if options.memory == ["all"] else options.memory
            found["memory"] = measure(here, [*memory], options.turns, peers)
            if not options.no_peers:
                found["peers"] = beside(here, options.turns, peers)
            results[f"{tasks} tasks"] = found
        harness.save(options, facts, results=results)
    return 0


def ask(spec: JSON, peers: Any = None) -> JSON | None:
    """A side's answer; None, said in one line, where it has none."""
    try:
        return harness.side(__file__, spec, peers)
    except harness.SideError as error:
        print(f"left out: {error}", flush=True)
        return None


def headline(spec: JSON) -> JSON | None:
    answer = ask(spec | {"side": "interleaved", "combiners": ["sum", "pcgrad"]})
    if answer is None:
        return None
    ratio = harness.ratios(answer["seconds"]["pcgrad"], answer["seconds"]["sum"])
    shared = answer["shared bytes"]
    print(f"\n{spec['tasks']} tasks: a pcgrad step over a fused summed step: {harness.shown(ratio, 3)}; ", end="")
    print(f"P = {shared / 2**20:.1f} MiB, {answer['tokens']} tokens a step")
    return answer | {"pcgrad over sum": ratio}


def compare(spec: JSON, names: list[str], needs: dict[str, str], group: int) -> JSON:
    """Every combiner's steps over those of sum and pcgrad in the same group."""
    others = [name for name in names if name not in ("sum", "pcgrad")]
    found: JSON = {}
    for first in range(0, len(others), group):
        chosen = ["sum", "pcgrad", *others[first : first + group]]
        answer = ask(spec | {"side": "interleaved", "combiners": chosen})
        for name, seconds in (answer or {"seconds": {}})["seconds"].items():
            assert answer is not None
            over = {base: harness.ratios(seconds, answer["seconds"][base]) for base in ("sum", "pcgrad")}
            found.setdefault(name, {"needs": needs[name], "seconds": seconds, "over": over})
    rows = [
        [
            name,
            own["needs"],
            f"{statistics.median(own['seconds']) * 1e3:.0f}",
            *(harness.shown(own["over"][base], 3) for base in ("sum", "pcgrad")),
        ]
        for name, own in sorted(found.items(), key=lambda item: (item[1]["needs"], item[0]))
    ]
    if rows:
        print()
        harness.table(["combiner", "needs", "ms a step", "over sum", "over pcgrad"], rows)
    return found


def measure(spec: JSON, names: list[str], turns: int, peers: Any) -> JSON:
    """Peak memory over the summed step, in units of P, of fresh processes that take turns."""
    names = [name for name in names if name != "sum"]
    if not names:
        return {}

    def run(name: str, turn: int) -> JSON:
        return harness.side(__file__, spec | {"side": "memory", "combiners": [name]}, peers)

    found = harness.turns(["sum", *names], turns, run)
    extra: JSON = {}
    rows = []
    for name in (name for name in names if name in found and "sum" in found):
        pairs = zip(found[name], found["sum"], strict=True)
        extra[name] = harness.spread([(a["peak"] - b["peak"]) / b["shared bytes"] for a, b in pairs])
        rows.append([name, harness.shown(extra[name])])
    print()
    harness.table(["peak memory over sum", "in units of P"], rows)
    return {"peaks": found, "over sum": extra}


def beside(spec: JSON, turns: int, peers: Any) -> JSON:
    """PCGrad by peers, over the plain sum of the same loop by hand; and the memory that it takes more."""
    harness.side(__file__, spec | {"side": "prepare"}, peers)
    found: JSON = {}
    rows = []
    for name, packages in PEERS.items():
        if not harness.install(peers, packages):
            continue
        for layout in LAYOUTS:
            here = spec | {"side": "peer", "peer": name, "layout": layout}
            timed = ask(here | {"kinds": ["sum", "pcgrad"]}, peers)
            if timed is None:
                continue
            ratio = harness.ratios(timed["seconds"]["pcgrad"], timed["seconds"]["sum"])
            peaks = {kind: ask(here | {"kinds": [kind]}, peers) for kind in ("sum", "pcgrad")}
            extra = None
            if peaks["sum"] and peaks["pcgrad"]:
                extra = (peaks["pcgrad"]["peak"] - peaks["sum"]["peak"]) / timed["shared bytes"]
            found[f"{name}, {layout}"] = timed | {"over sum": ratio, "peaks": peaks, "extra memory in P": extra}
            plain = statistics.median(timed["seconds"]["sum"]) * 1e3
            memory = "-" if extra is None else f"{extra:.1f}"
            rows.append([f"{name}, {layout}", f"{plain:.0f}", harness.shown(ratio), memory])
    print("\nPCGrad by others, fp32, each over the plain sum of its own loop")
    harness.table(["peer", "ms a plain step", "pcgrad over sum", "extra memory in P"], rows)
    return found


if __name__ == "__main__":
    sys.exit(main())
