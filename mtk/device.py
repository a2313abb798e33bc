"""Where a run computes: device, precision and threads. What a probe chose is stored in the run and reused on resume."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mtk.config import TrainConfig
from mtk.errors import ConfigError

WORTH_IT = 1.25  # bf16 must beat float32 by this factor in the probe


@dataclass(frozen=True)
class Hardware:
    device: str
    precision: str
    threads: int

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device)

    def autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "bf16":
            return torch.autocast(self.device, dtype=torch.bfloat16)
        return nullcontext()

    def apply(self) -> Hardware:
        """Sets the thread count of this process."""
        torch.set_num_threads(self.threads)
        return self

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def available(device: str) -> bool:
    """Whether this torch can compute on `cpu`, `cuda` or `mps` here."""
    if device == "cuda":
        return torch.cuda.is_available()
    return device == "cpu" or (device == "mps" and torch.backends.mps.is_available())


def choose(config: TrainConfig) -> Hardware:
    """Resolves `auto`. Raises ConfigError for a device that is not there."""
    device = config.device
    if device == "auto":
        device = next(name for name in ("cuda", "mps", "cpu") if available(name))
    elif device == "cuda" and not available(device):
        raise ConfigError("--device cuda: torch sees no CUDA device; use --device cpu or install a CUDA build of torch")
    elif device == "mps" and not available(device):
        raise ConfigError("--device mps: this machine has no Metal device; use --device cpu")
    threads = config.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if bf16_speedup(device) >= WORTH_IT else "fp32"
    return Hardware(device, precision, threads)


def bf16_speedup(device: str, repeats: int = 9) -> float:
    """How many times faster a feed-forward layer's forward and backward run under bf16 autocast than in float32.

    Interleaved, best of `repeats`: bf16 is fast on some CPUs and forty times slower on others.
    """
    if device == "cuda" and not torch.cuda.is_bf16_supported():
        return 0.0
    layer = torch.nn.Sequential(torch.nn.Linear(384, 1536), torch.nn.Linear(1536, 384)).to(device)
    rows = torch.ones(16, 32, 384, device=device)
    best = {False: float("inf"), True: float("inf")}
    for turn in range(repeats + 1):
        for bf16 in (False, True):
            start = time.perf_counter()
            with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
                loss = layer(rows).float().sum()
            loss.backward()
            loss.item()
            seconds = time.perf_counter() - start
            if turn:  # the first turn warms up
                best[bf16] = min(best[bf16], seconds)
            if seconds > 2 and device == "cpu":  # hopeless: do not time it nine times
                return 0.0 if bf16 else 1.0
    return best[False] / best[True]
