"""Where a run computes."""

from __future__ import annotations

import time

import pytest
import torch

from mtk import device
from mtk.config import TrainConfig
from mtk.device import Hardware, bf16_speedup, choose
from mtk.errors import ConfigError


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def bare(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture(autouse=True)
def plain_products(request, monkeypatch):
    """No probe of float32 products but where a test is about it; and none of its settings outlives a test."""
    if "products" not in request.node.name:
        monkeypatch.setattr(device, "onednn_or_torch", lambda: "torch")
    yield
    torch.backends.mkldnn.matmul.fp32_precision = "none"
    if "products" in request.node.name:
        device.onednn_or_torch.cache_clear()  # what it found with a false clock


def test_products_are_oneDNNs_only_where_it_rounds_nothing(monkeypatch):
    """What the probe says is true of products of other sizes; one that rounds is refused, one that is slow too."""
    torch.manual_seed(0)
    settings = TrainConfig(device="cpu", precision="fp32", threads=1)
    for matmul in {"torch", device.onednn_or_torch()}:
        assert torch.backends.mkldnn.matmul.fp32_precision == "none", "the probe left its setting behind"
        a, b = torch.randn(300, 384), torch.randn(384, 1536)
        with Hardware("cpu", "fp32", 1, matmul).computing():
            assert torch.backends.mkldnn.matmul.fp32_precision == ("bf16" if matmul == "onednn" else "none")
            assert float((a @ b - (a.double() @ b.double())).abs().max()) < 1e-3
    torch.backends.mkldnn.matmul.fp32_precision = "ieee"  # the user's own choice stands
    with pytest.raises(ZeroDivisionError), Hardware("cpu", "fp32", 1, "onednn").computing():
        _ = 1 / 0
    assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
    torch.backends.mkldnn.matmul.fp32_precision = "none"
    plain = torch.Tensor.__matmul__

    def rounding(self, other):
        wanted = plain(self, other)
        on = torch.backends.mkldnn.matmul.fp32_precision == "bf16" and self.dtype == torch.float32
        return plain(self.bfloat16(), other.bfloat16()).float() if on else wanted

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounding)
    device.onednn_or_torch.cache_clear()
    assert device.onednn_or_torch() == "torch"
    monkeypatch.setattr(torch.Tensor, "__matmul__", plain)

    clock = [0.0]

    def ticks() -> float:  # oneDNN takes ten times as long
        clock[0] += 10.0 if torch.backends.mkldnn.matmul.fp32_precision == "bf16" else 1.0
        return clock[0]

    monkeypatch.setattr(device.time, "perf_counter", ticks)
    device.onednn_or_torch.cache_clear()
    assert device.onednn_or_torch() == "torch"
    assert choose(settings).matmul == "torch"
    assert Hardware(**{"device": "cpu", "precision": "fp32", "threads": 1}).matmul == "torch"  # an older run's


def test_auto_takes_what_is_there(monkeypatch, bare):
    settings = TrainConfig(precision="fp32", threads=1)
    assert choose(settings) == Hardware("cpu", "fp32", 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose(settings).device == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose(settings).device == "cuda"


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there(bare, name):
    with pytest.raises(ConfigError, match=f"--device {name}: .*; use --device cpu") as caught:
        choose(TrainConfig(device=name))
    assert "\n" not in str(caught.value)


def test_threads(bare):
    assert choose(TrainConfig(precision="fp32", threads=1)).threads == 1
    torch.set_num_threads(2)
    assert choose(TrainConfig(precision="fp32")).threads == 2
    Hardware("cpu", "fp32", 1).apply()
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(("speed", "precision"), [(0.02, "fp32"), (1.0, "fp32"), (1.2, "fp32"), (1.3, "bf16")])
def test_auto_precision_asks_the_probe(monkeypatch, bare, speed, precision):
    monkeypatch.setattr(device, "bf16_speedup", lambda name: speed)
    assert choose(TrainConfig()).precision == precision
    assert choose(TrainConfig(precision="fp32")).precision == "fp32"
    assert choose(TrainConfig(precision="bf16")).precision == "bf16"


def test_the_probe_is_quick():
    torch.set_num_threads(1)
    start = time.process_time()
    assert bf16_speedup("cpu", repeats=2) >= 0
    assert time.process_time() - start < 10


def test_a_probe_without_hope_gives_up(monkeypatch):
    ticks = iter(range(0, 1000, 3))
    monkeypatch.setattr(device.time, "perf_counter", lambda: next(ticks))
    assert bf16_speedup("cpu") == 1.0
    assert next(ticks) == 6  # one timing


def test_autocast_follows_the_precision():
    rows = torch.ones(2, 2)
    with Hardware("cpu", "bf16", 1).autocast():
        assert (rows @ rows).dtype == torch.bfloat16
    with Hardware("cpu", "fp32", 1).autocast():
        assert (rows @ rows).dtype == torch.float32


def test_hardware_is_stored_as_it_is():
    hardware = Hardware("cpu", "bf16", 3)
    assert Hardware(**hardware.to_dict()) == hardware
