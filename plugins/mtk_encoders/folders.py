"""Which files a checkpoint folder in the Hugging Face layout has, and its JSON files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtk import CheckpointError

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model")

AGAIN = "use another checkpoint, or fetch it again"


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint's config.json. Raises CheckpointError where it describes no model."""
    config = read_json(folder / "config.json")
    # Checkpoints from before there was a model_type have a vocabulary's size at least.
    if "model_type" not in config and "vocab_size" not in config:
        raise CheckpointError(f"{folder}: config.json has no model_type: not a checkpoint, or a damaged one; {AGAIN}")
    return config


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError naming the file."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise CheckpointError(f"{file}: damaged, not valid JSON ({error}); {AGAIN}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{file}: expected a JSON object, found {type(data).__name__}; {AGAIN}")
    return data


def write_json(file: Path, data: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def shards(folder: Path) -> list[str]:
    """The files that model.safetensors.index.json names; none without it. Raises CheckpointError."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return []
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict):
        raise CheckpointError(f"{index}: weight_map must be an object; {AGAIN}")
    return sorted({Path(str(shard)).name for shard in places.values()})


def missing_file(folder: Path) -> str:
    """Which file a checkpoint folder lacks, or an empty string."""
    if not (folder / "config.json").is_file():
        return "config.json"
    if not any((folder / file).is_file() for file in WEIGHTS):
        return "model.safetensors"
    lost = [] if (folder / WEIGHTS[0]).is_file() else [s for s in shards(folder) if not (folder / s).is_file()]
    if lost:
        return lost[0]
    if not any((folder / file).is_file() for file in TOKENIZERS):
        return "tokenizer.json (or vocab.txt)"
    return ""
