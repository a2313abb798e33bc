"""How long one waits: whole processes of `mtk --help`, `mtk plugins list`, and until the first training step is done.

python benchmarks/startup.py [--turns 7] [--data DIR] [--json FILE]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import harness
from harness import JSON

FIRST = "first training step"
COMMANDS = {
    "python, nothing": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import mtk": ["-c", "import mtk"],
    "mtk --help": ["-m", "mtk", "--help"],
    "mtk plugins list": ["-m", "mtk", "plugins", "list"],
}


def choices() -> Any:
    return harness.parser(__doc__, batch=16)


def main() -> int:
    options = choices().parse_args()
    if options.side:
        first_step(json.loads(options.side))
        return 0
    facts = harness.machine(options)
    base = harness.common(options) | {"batch": options.batch_size}

    def run(name: str, turn: int) -> JSON:
        command = COMMANDS.get(name, [__file__, "--side", json.dumps(base)])
        return {"seconds": seconds([sys.executable, *command], name)}

    found = harness.turns([*COMMANDS, FIRST], options.turns, run)
    harness.heading(f"whole processes, {options.turns} turns", facts)
    rows = [[name, harness.shown(harness.spread([t["seconds"] for t in turns]))] for name, turns in found.items()]
    print()
    harness.table(["what", "seconds, median (min-max)"], rows)
    harness.save(options, facts, turns=found)
    return 0


def seconds(command: list[str], name: str) -> float:
    """From the start of a process to its end; of the training, to the line that says that its step is done."""
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if name == FIRST:
            process.stdout.readline()
            took = time.perf_counter() - begin
        _, said = process.communicate()
    if process.returncode:
        raise harness.SideError(f"{name}: {(said.strip() or 'failed').splitlines()[-1]}")
    return took if name == FIRST else time.perf_counter() - begin


def first_step(spec: JSON) -> None:
    """What `mtk train` does up to its first step: reads, tokenises, loads weights, builds, steps. Says so, and goes."""
    from ours import Stepper, start

    Stepper(start(spec, ("sst", "quora", "sts"), batch_size=spec["batch"], precision="auto")).step()
    print("done", flush=True)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
