"""How long should a waiting OpenMP thread spin? Seconds for the same training steps, alone and beside a busy process.

Each side is a fresh process (libgomp reads GOMP_SPINCOUNT when it loads); the sides take turns.

    python benchmarks/spin.py [--turns 7] [--steps 12] [--threads 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

STEPS = """
import sys, time
from mtk import session
from mtk.settings import configure
from mtk.training import StepDone
steps, threads = int(sys.argv[1]), int(sys.argv[2])
config = configure(tasks=["sst", "quora", "sts"], sample="always", threads=threads, max_steps=steps + 3)
training = session.start(config, None).training
events = training.run()
for _ in range(3):
    next(events)
start = time.perf_counter()
for _ in range(steps):
    assert isinstance(next(events), StepDone)
print(time.perf_counter() - start)
"""
BUSY = "while True: pass"
SIDES = {"long": None, "brief": "3000", "none": "0"}  # GOMP_SPINCOUNT: libgomp's default, mtk's, and none


def seconds(spin: str | None, steps: int, threads: int) -> float:
    environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    if spin is not None:
        environment["GOMP_SPINCOUNT"] = spin
    command = [sys.executable, "-c", STEPS, str(steps), str(threads)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def compare(turns: int, steps: int, threads: int, busy: bool) -> dict[str, object]:
    beside = [subprocess.Popen([sys.executable, "-c", BUSY])] if busy else []
    try:
        found: dict[str, list[float]] = {name: [] for name in SIDES}
        for _ in range(turns):
            for name, spin in SIDES.items():
                found[name].append(seconds(spin, steps, threads))
    finally:
        for process in beside:
            process.kill()
            process.wait()
    ratios = {
        name: [a / b for a, b in zip(found[name], found["brief"], strict=True)] for name in SIDES if name != "brief"
    }
    return {"beside a busy process": busy, "seconds": found, "over brief": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = [compare(options.turns, options.steps, options.threads, busy) for busy in (False, True)]
    print(f"{options.steps} steps of three tasks, {options.threads} threads, {options.turns} turns")
    for result in results:
        where = "beside a busy process" if result["beside a busy process"] else "alone"
        sides = result["over brief"]
        assert isinstance(sides, dict)
        for name, ratios in sides.items():
            shown = f"median {statistics.median(ratios):.2f} (min {min(ratios):.2f}, max {max(ratios):.2f})"
            print(f"{where:22}  {name:5} / brief: {shown}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
