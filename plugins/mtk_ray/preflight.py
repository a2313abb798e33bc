"""What is looked at before a search starts on Ray: room for its workers, and that all nodes have what they need."""

from __future__ import annotations

import contextlib
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mtk import ConfigError, registered

_PARTS = ("task", "head", "encoder", "combiner", "scheduler", "mixer", "augmentation")  # what trials are built of
_SHARED = (
    10.0  # seconds after which a file must be seen on another machine: file systems keep what they saw for a while
)

Node = Mapping[str, Any]  # as ray.nodes() has it
Facts = Mapping[str, Any]  # what `facts` found


def check(
    nodes: Sequence[Node],
    ask: Callable[[Sequence[Node], str], Sequence[Facts]],
    folder: Path,
    slots: int,
    size: tuple[int, float],
) -> list[Node]:
    """The nodes that have room for a worker of `size` (CPUs, GPUs), after all of them were looked at.

    ask: runs `facts_and_storage` on nodes, with a token. Raises ConfigError.
    """
    rooms = [room(node, *size) for node in nodes]
    if sum(rooms) < slots:
        found = "; ".join(f"{name(node)}: {_has(node)}" for node in nodes) or "no node"
        raise ConfigError(
            f"--slots {slots}: expected room for {slots} workers of {resources(*size)} each, found room for "
            f"{sum(rooms)} ({found}); give fewer slots, or less to each with --executor ray:cpus=N,gpus=N"
        )
    fit = [node for node, workers in zip(nodes, rooms, strict=True) if workers]
    token = f".ray-{time.time_ns():x}"
    files = {node["NodeID"]: folder / f"{token}-{node['NodeID']}" for node in fit}
    try:
        (folder / token).write_text(token)
        here = facts()
        for node, there in zip(fit, ask(fit, token), strict=True):
            compare(name(node), here, there)
            if there["problem"] or not _appears(files[node["NodeID"]], token):
                problem = there["problem"] or "that what it writes there is not seen here"
                raise ConfigError(
                    f"node {name(node)}: expected to read and write {folder}, which all nodes must share, under "
                    f"the same path; found {problem}; choose --out on shared storage"
                )
    finally:
        for file in (folder / token, *files.values()):
            file.unlink(missing_ok=True)
    return fit


def room(node: Node, cpus: int, gpus: float) -> int:
    """How many workers a node can take."""
    has = node["Resources"]
    by_cpus = int(has.get("CPU", 0) // cpus)
    return min(by_cpus, math.floor(has.get("GPU", 0) / gpus + 1e-9)) if gpus else by_cpus


def facts() -> dict[str, Any]:
    """What a machine has that trials depend on."""
    plugins = {f"{kind} '{name}'": _origin(one) for kind in _PARTS for name, one in registered(kind).items()}
    python = ".".join(platform.python_version_tuple()[:2])
    return {"Python": python, "ray": version("ray"), "mtk": version("multitask-toolkit"), "plugins": plugins}


def facts_and_storage(folder: str, token: str, node: str) -> dict[str, Any]:
    """`facts` on a node, and as `problem` what is wrong with the folder there, if anything.

    It looks for the file that holds the token, and leaves one of its own.
    """
    found = {**facts(), "problem": ""}
    try:
        if not Path(folder).is_dir():
            raise OSError("no such folder there")
        if not _appears(Path(folder) / token, token):
            raise OSError("another folder there, without what was written here")
        (Path(folder) / f"{token}-{node}").write_text(token)
    except OSError as error:
        found["problem"] = str(error)
    return found


def compare(node: str, here: Facts, there: Facts) -> None:
    """Raises ConfigError where a node differs from this machine; what it has besides, it may have."""
    expected = {"Python": here["Python"], "ray": here["ray"], "mtk": here["mtk"], **here["plugins"]}
    found = {"Python": there["Python"], "ray": there["ray"], "mtk": there["mtk"], **there["plugins"]}
    for what, own in expected.items():
        if found.get(what) != own:
            raise ConfigError(
                f"node {node}: expected {what} {own}, as on this machine, found {found.get(what, 'none')}; install the "
                "same versions on all nodes, and start Ray there anew"
            )


def resources(cpus: float, gpus: float) -> str:
    """`2 CPUs and 1 GPU`."""
    return count(cpus, "CPU") + (f" and {count(gpus, 'GPU')}" if gpus else "")


def count(number: float, what: str) -> str:
    """`1 slot`, `2 slots`."""
    return f"{number:g} {what}{'' if number == 1 else 's'}"


def name(node: Node) -> str:
    """A node as people know it."""
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"


def _has(node: Node) -> str:
    return resources(node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0))


def _origin(registration: Any) -> str:
    return f"of {registration.distribution} {registration.version}".strip()


def _appears(file: Path, text: str) -> bool:
    """Whether a file that another machine wrote is seen here, with what it wrote."""
    until = time.monotonic() + _SHARED
    while True:
        with contextlib.suppress(OSError):
            if file.read_text() == text:
                return True
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
