"""Where a run computes: device, precision and threads. What a probe chose is stored in the run and reused on resume."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mtk.config import TrainConfig
from mtk.errors import ConfigError

WORTH_IT = 1.25  # bf16 must beat float32 by this factor in the probe
ROUNDING = 2e-5  # the largest error of a float32 product, over the standard deviation, that is no bf16 in disguise
_PRODUCTS: Any = getattr(torch.backends.mkldnn, "matmul", None)  # torch's switch; older ones have none


@dataclass(frozen=True)
class Hardware:
    """matmul: whose float32 products a CPU computes with: `torch`'s default, or `onednn`'s, the faster ones on some."""

    device: str
    precision: str
    threads: int
    matmul: str = "torch"

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

    @contextmanager
    def computing(self) -> Iterator[None]:
        """In it, float32 products are `matmul`'s; torch's own setting is what it was before and after."""
        before = None if _PRODUCTS is None else _PRODUCTS.fp32_precision
        _use(self.matmul)
        try:
            yield
        finally:
            if _PRODUCTS is not None:
                _PRODUCTS.fp32_precision = before

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
    matmul = onednn_or_torch() if (device, precision) == ("cpu", "fp32") else "torch"
    return Hardware(device, precision, threads, matmul)


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


@functools.cache  # what was trained and what is scored in one process are computed alike
def onednn_or_torch(repeats: int = 7) -> str:
    """`onednn` where it makes float32 products without rounding them and is not clearly slow at it, else `torch`.

    Allowed to round to bf16, oneDNN takes these products over from the default library, and on many a CPU it rounds
    nothing (docs/log.md). So the products are compared with float64, and rounding anywhere refuses it. The choice hangs
    on a clock only where it is much the slower one, so that the same seed finds the same choice on one machine.
    """
    if _PRODUCTS is None:
        return "torch"
    before = _PRODUCTS.fp32_precision
    generator = torch.Generator().manual_seed(0)
    best = {"torch": float("inf"), "onednn": float("inf")}
    try:
        for rows in (512, 96, 8):
            x, w, dy = (torch.randn(size, generator=generator) for size in ((rows, 384), (768, 384), (rows, 768)))
            products = ((x, w.t()), (dy, w), (dy.t(), x))
            exact = [a.double() @ b.double() for a, b in products]
            for turn in range(repeats if rows == 512 else 1):
                for name in best:
                    _PRODUCTS.fp32_precision = before
                    _use(name)
                    start = time.perf_counter()
                    found = [a @ b for a, b in products]
                    if turn:
                        best[name] = min(best[name], time.perf_counter() - start)
                    elif name == "onednn" and any(_error(f, e) > ROUNDING for f, e in zip(found, exact, strict=True)):
                        return "torch"
    finally:
        _PRODUCTS.fp32_precision = before
    return "onednn" if best["onednn"] < WORTH_IT * best["torch"] else "torch"


def _error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).abs().max() / exact.std())


def _use(matmul: str) -> None:
    """oneDNN takes float32 products over where it may round them; `torch` leaves the process's setting alone."""
    if _PRODUCTS is not None and matmul == "onednn":
        _PRODUCTS.fp32_precision = "bf16"


def rng_state(device: str) -> dict[str, Tensor]:
    """The states of torch's global generators, which dropout draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device == "cuda":
        states["cuda"] = torch.cuda.get_rng_state()
    elif device == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_rng_state(device: str, states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if device == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
    elif device == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])
