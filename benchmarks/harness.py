"""What the benchmarks share: sides in fresh processes, turns, ratios, machine facts, tables, peers from PyPI.

A *side* is one way to do the work. It runs in a fresh process: the benchmark's own script with `--side JSON`, whose
last line of output is a JSON object. This module imports neither torch nor mtk, so that the parent stays small.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

JSON = dict[str, Any]
WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # every side gets libgomp's default
# requirement from PyPI -> module (bounds as `datasets` has them); what the environment has is not installed again
TRAINER = {"transformers": "transformers", "accelerate": "accelerate", "psutil": "psutil"}
SENTENCES = TRAINER | {
    "sentence-transformers": "sentence_transformers",
    "datasets": "datasets",
    "pyarrow": "pyarrow",
    "dill<0.4.2": "dill",
    "multiprocess<0.70.20": "multiprocess",
    "xxhash": "xxhash",
    "pandas": "pandas",
    "python-dateutil": "dateutil",
    "six": "six",
}


class SideError(Exception):
    """A side that did not answer: its name and the last line of what it said."""


# ---------------------------------------------------------------------------------------------- options


def parser(doc: str | None, *, turns: int = 7, steps: int | None = None, batch: int | None = None) -> Any:
    """The options that all benchmarks share; `--steps` and `--batch-size` where there is a default for them."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--turns", type=int, default=turns, help="how often every side runs (default: %(default)s)")
    if steps is not None:
        made.add_argument("--steps", type=int, default=steps, help="timed steps of a turn (default: %(default)s)")
    if batch is not None:
        made.add_argument("--batch-size", type=int, default=batch, help="rows a task and step (default: %(default)s)")
    made.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--encoder", default="minilm", help="mtk's name of a BERT encoder (default: %(default)s)")
    made.add_argument("--data", type=Path, help="the folder of the tasks' files (default: the built-in sample)")
    made.add_argument("--peers", type=Path, help="keep peers in this folder (default: a folder that is thrown away)")
    made.add_argument("--json", type=Path, help="write everything measured to this file")
    made.add_argument("--side", help=argparse.SUPPRESS)
    return made


def common(options: argparse.Namespace) -> JSON:
    """What every side must know, as JSON."""
    data = None if options.data is None else str(options.data.resolve())
    return {"threads": options.threads, "device": options.device, "encoder": options.encoder, "data": data}


# ---------------------------------------------------------------------------------------------- sides


def side(script: str, spec: Mapping[str, Any], peers: Path | None = None) -> JSON:
    """Runs one side in a fresh process and returns its answer. Raises SideError."""
    environment = {name: value for name, value in os.environ.items() if name not in WAITING}
    environment |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    if peers is not None:
        paths = [str(peers), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    command = [sys.executable, script, "--side", json.dumps(dict(spec))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit {done.returncode}").splitlines()[-1]
        raise SideError(f"{spec.get('side')}: {said}")
    answer: JSON = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def turns(sides: Sequence[str], count: int, run: Callable[[str, int], JSON]) -> dict[str, list[JSON]]:
    """`count` turns of all sides; who begins rotates. A side that fails is said once, and left out from then on."""
    found: dict[str, list[JSON]] = {name: [] for name in sides}
    for turn in range(count):
        start = turn % len(sides)
        for name in [*sides[start:], *sides[:start]]:
            if name not in found:
                continue
            began = time.perf_counter()
            try:
                found[name].append(run(name, turn))
            except SideError as error:
                del found[name]
                print(f"left out: {error}", flush=True)
                continue
            print(f"turn {turn + 1}/{count} {name}: {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
    return found


def spread(values: Sequence[float]) -> JSON:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "all": list(values)}


def ratios(over: Sequence[float], under: Sequence[float]) -> JSON:
    """Turn by turn: each is a ratio of two neighbours, so that the machine's load cancels."""
    return spread([a / b for a, b in zip(over, under, strict=True)])


def shown(found: Mapping[str, Any], digits: int = 2) -> str:
    return f"{found['median']:.{digits}f} ({found['min']:.{digits}f}-{found['max']:.{digits}f})"


def exponent(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The slope of log y over log x by least squares: 1 is linear, 0 is constant."""
    return statistics.linear_regression([math.log(x) for x in xs], [math.log(y) for y in ys]).slope


# ---------------------------------------------------------------------------------------------- inside a side


def synchronise(device: str) -> None:
    """Waits for a GPU, so that the clock reads what was done and not what was asked for."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def reset_peak(device: str) -> None:
    """Begins a new peak of memory, where the system lets us; elsewhere the peak is the whole process's."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak(device: str) -> int:
    """Bytes: of the GPU's allocator, else of resident memory.

    Not `ru_maxrss` where there is another way: Linux lets a child begin with its parent's.
    """
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# ---------------------------------------------------------------------------------------------- peers


@contextlib.contextmanager
def workplace(options: argparse.Namespace) -> Iterator[tuple[Path, Path]]:
    """A throw-away folder, and the folder of peers, which `--peers` keeps."""
    with tempfile.TemporaryDirectory(prefix="mtk-benchmark-") as folder:
        peers = options.peers.resolve() if options.peers else Path(folder) / "peers"
        peers.mkdir(parents=True, exist_ok=True)
        yield Path(folder), peers


def install(peers: Path, packages: Mapping[str, str]) -> bool:
    """Installs into `peers` what neither it nor the environment has; never a dependency, and so never a torch.

    False where that fails, said in one line.
    """
    missing = [
        name
        for name, module in packages.items()
        if importlib.util.find_spec(module) is None and not any(peers.glob(f"{module}*"))
    ]
    if not missing:
        return True
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*command, "--target", str(peers), *missing], capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        print(f"left out: {', '.join(missing)} cannot be installed: {said[0]}", flush=True)
    return done.returncode == 0


def version(package: str, peers: Path | None = None) -> str | None:
    """The version of a distribution in the environment or among the peers."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    places = [] if peers is None else [str(peers)]
    return next((found.version for found in importlib.metadata.distributions(name=package, path=places)), None)


# ---------------------------------------------------------------------------------------------- what is printed


def machine(options: argparse.Namespace, peers: Path | None = None) -> JSON:
    """What a figure depends on. No host name, no path."""
    facts: JSON = {"cpu": _cpu(), "cores": os.cpu_count(), "threads": options.threads, "device": options.device}
    facts |= {"python": platform.python_version(), "system": platform.system()}
    if options.device == "cuda":
        ask = [sys.executable, "-c", "import torch; print(torch.cuda.get_device_name())"]
        facts["gpu"] = subprocess.run(ask, capture_output=True, text=True).stdout.strip()
    names = {"mtk": "multitask-toolkit", "torch": "torch", "transformers": "transformers", "accelerate": "accelerate"}
    names |= {"sentence-transformers": "sentence-transformers", "torchjd": "torchjd", "LibMTL": "LibMTL"}
    return facts | {"versions": {name: found for name, p in names.items() if (found := version(p, peers))}}


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def heading(title: str, facts: Mapping[str, Any]) -> None:
    versions = ", ".join(f"{name} {found}" for name, found in facts["versions"].items())
    where = facts.get("gpu") or f"{facts['cpu']}, {facts['threads']} of {facts['cores']} threads"
    print(f"{title}\n{where}; {versions}")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Plain text, first column to the left, the others to the right."""
    cells = [list(columns), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    for place, row in enumerate(cells):
        print("  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]))
        if place == 0:
            print("  ".join("-" * width for width in widths))


def save(options: argparse.Namespace, facts: JSON, **results: Any) -> None:
    """Everything to `--json`, if asked for. Of the data only the folder's name."""
    if options.json is None:
        return
    chosen = {k: v for k, v in vars(options).items() if k not in ("json", "side", "peers")}
    chosen["data"] = "the built-in sample" if options.data is None else options.data.resolve().name
    options.json.write_text(json.dumps({"machine": facts, "options": chosen, **results}, indent=2) + "\n")
