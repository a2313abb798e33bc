"""Time limits; fixtures: one thread, the toy plugins in place of the installed ones, and a finished tiny run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import mtk.device
import mtk.plugins
from tests import toy_plugin

SECONDS, SLOW_SECONDS = 120, 300  # a test hangs that takes longer, beside much other work too


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each test's time limit: one for what is marked slow, and one for all others."""
    for item in items:
        item.add_marker(pytest.mark.timeout(SLOW_SECONDS if item.get_closest_marker("slow") else SECONDS))


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def toys(monkeypatch):
    """The installed plugins and the toys; nothing waits for the disk, and no choice depends on how busy it is here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(mtk.device, "onednn_or_torch", lambda: "torch")
    monkeypatch.setattr(mtk.plugins, "_default", toy_plugin.manager())


@pytest.fixture(scope="session")
def _finished(tmp_path_factory) -> Path:
    from mtk import session

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mtk.device, "onednn_or_torch", lambda: "torch")
        patch.setattr(mtk.plugins, "_default", toy_plugin.manager())
        out = tmp_path_factory.mktemp("runs") / "finished"
        for _ in session.start(toy_plugin.config(), out, "the command").run():
            pass
    return out


@pytest.fixture
def finished(_finished, toys, tmp_path) -> Path:
    """A copy of a finished run of the toy configuration."""
    import shutil

    return shutil.copytree(_finished, tmp_path / "finished")
