"""Reading and writing weights: safetensors, or torch files that hold tensors only."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mtk import CheckpointError
from mtk_encoders.folders import AGAIN, shards

_LEGACY = re.compile(r"(LayerNorm)\.(gamma|beta)$")


def write_weights(file: Path, state: Mapping[str, Tensor]) -> None:
    """Tensors as safetensors, with the metadata that transformers asks for."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, file, {"format": "pt"})


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of model.safetensors, its shards, or pytorch_model.bin. Raises CheckpointError naming the file."""
    if (folder / "model.safetensors").is_file():
        return _read_safetensors(folder / "model.safetensors")
    if names := shards(folder):
        return {k: v for name in names for k, v in _read_safetensors(folder / name).items()}
    return _read_torch(folder / "pytorch_model.bin")


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file}: corrupt or truncated, not a safetensors file ({error}); {AGAIN}") from error


def _read_torch(file: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{file.parent}: model.safetensors is missing; {AGAIN}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{file}: corrupt, or more than weights ({reason}); {AGAIN}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{file}: expected a dict of tensors, found {type(state).__name__}; {AGAIN}")
    return {str(name): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def bert_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The BERT part of a checkpoint: without the `bert.` prefix, heads and buffers, legacy layer-norm names renewed."""
    prefix = "bert." if any(name.startswith("bert.") for name in state) else ""
    found = {}
    for name, tensor in state.items():
        if not name.startswith(prefix) or name.endswith(("position_ids", "token_type_ids")):
            continue
        name = _LEGACY.sub(lambda m: f"{m[1]}.{'weight' if m[2] == 'gamma' else 'bias'}", name[len(prefix) :])
        if name.startswith(("embeddings.", "encoder.", "pooler.")):
            found[name] = tensor
    return found


def fill(model: nn.Module, state: Mapping[str, Tensor], origin: Path) -> None:
    """Copies `state` into a model's parameters, as float32. `model` may be on the meta device.

    Raises CheckpointError that names the parameters which are missing, unknown or of another shape.
    """
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in state]
    unknown = [name for name in state if name not in wanted and not name.startswith("pooler.")]
    shapes = [
        f"{name} is {list(state[name].shape)}, config.json wants {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    faults = [f"missing: {_some(missing)}"] * bool(missing) + [f"not in config.json: {_some(unknown)}"] * bool(unknown)
    faults += [f"misshapen: {_some(shapes)}"] * bool(shapes)
    if faults:
        raise CheckpointError(f"{origin}: weights do not fit the model; {'; '.join(faults)}; {AGAIN}")
    model.to_empty(device="cpu")
    model.load_state_dict({name: state[name].float() for name in wanted})


def _some(names: Iterable[str], most: int = 4) -> str:
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
