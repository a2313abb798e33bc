"""Ray as the place where a search's trials are trained: a private one on this machine, or a running cluster."""

from __future__ import annotations

from mtk import Register, hookimpl


@hookimpl
def register_executors(register: Register) -> None:
    register("ray", "mtk_ray.executor:Ray", "worker processes on Ray: a private one, or a cluster's nodes")
