"""Joins a running Ray, or starts a private one, and looks at its nodes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mtk import ConfigError
from mtk_ray import preflight, temporary

_LOOK = 120.0  # seconds for all nodes to answer
_STORE = 100_000_000  # bytes of shared memory for a private Ray's objects: a line of JSON now and then


def connect(address: str, stack: contextlib.ExitStack) -> None:
    """Joins the Ray at `address`, or starts a `local` one, until the stack is left. Raises ConfigError."""
    how: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    if address == "local":
        how |= {"include_dashboard": False, "object_store_memory": _STORE, "num_cpus": _cores()}
        how |= {"_temp_dir": str(stack.enter_context(temporary.folder())), "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(address=address, **how)
    except Exception as error:  # whatever it is, it is Ray's word on that address
        raise ConfigError(_refused(address, error)) from error
    stack.callback(ray.shutdown)


def look(address: str, folder: str, slots: int, cpus: int, gpus: float) -> str:
    """A line that says what the Ray is that was joined. Raises ConfigError where it cannot take the workers."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    fit = preflight.check(nodes, lambda fit, token: _ask(fit, folder, token), Path(folder), slots, (cpus, gpus))
    workers = f"{preflight.count(slots, 'slot')} of {preflight.resources(cpus, gpus)}"
    if address == "local":
        return f"Ray {ray.__version__}, local: {workers}"
    where = ray.get_runtime_context().gcs_address if address == "auto" else address
    total = preflight.resources(*(sum(node["Resources"].get(kind, 0) for node in fit) for kind in ("CPU", "GPU")))
    size = f"{preflight.count(len(fit), 'node')}, {total}"
    return f"Ray {ray.__version__} at {where}: {size}; {workers}; storage and versions agree on all"


def said(error: BaseException) -> str:
    """The last line of what Ray says: the cause."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _ask(nodes: Sequence[Mapping[str, Any]], folder: str, token: str) -> list[Any]:
    """What preflight finds on each of the nodes. Raises ConfigError."""
    task = ray.remote(num_cpus=0, max_retries=0)(preflight.facts_and_storage)
    asked = []
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked.append(task.options(scheduling_strategy=there).remote(folder, token, node["NodeID"]))
    ray.wait(asked, num_returns=len(asked), timeout=_LOOK)
    found = []
    for node, answer in zip(nodes, asked, strict=True):
        try:
            found.append(ray.get(answer, timeout=0))
        except ray.exceptions.GetTimeoutError as error:
            raise ConfigError(f"node {preflight.name(node)}: no answer within {_LOOK:g} s; see `ray status`") from error
        except Exception as error:
            raise ConfigError(f"node {preflight.name(node)}: {_unlike(said(error))}") from error
    return found


def _unlike(said: str) -> str:
    """What is wrong with a node that gave no answer, and what to do."""
    if "No module named" not in said:
        return f"Ray works there no more ({said}); see `ray status`"
    return (
        f"expected mtk, as on this machine, found none ({said}); install the same versions on all nodes, and start Ray "
        "there anew"
    )


def _refused(address: str, error: Exception) -> str:
    """Why Ray cannot be joined or started there, and what to do."""
    cause = error.__cause__ or error
    if "Could not find any running Ray" in str(cause):
        return (
            "no Ray runs on this machine, and RAY_ADDRESS names none; join a cluster with "
            "`ray start --address=HOST:PORT`, or let --ray-address local start a private Ray"
        )
    if "AuthToken" in str(cause):
        return (
            f"Ray at {address} does not take this machine's token; give RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or "
            "~/.ray/auth_token) the values that its head was started with"
        )
    if "No node info found" in str(cause):
        return f"this machine is no node of the Ray at {address}; join it with `ray start --address={address}`"
    return f"Ray at {address}: {said(cause)}"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
