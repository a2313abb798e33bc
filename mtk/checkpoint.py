"""Checkpoints: a folder of safetensors and JSON, saved atomically, loaded without running any code from it.

FOLDER/encoder/            what Encoder.save wrote
FOLDER/heads.safetensors   "task.parameter" -> tensor
FOLDER/projection.safetensors   the linear layer between encoder and heads, where there is one
FOLDER/model.json          format, tasks, heads, encoder: what is needed to build the model again
FOLDER/training.*          moments, position, generators and combiner state (only where a run can be resumed from)
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mtk import formats, plugins
from mtk.errors import CheckpointError
from mtk.faults import one_line
from mtk.interfaces import Encoder, Head
from mtk.model import MultitaskModel


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Writes a new folder beside `folder`, then swaps it in. Raises CheckpointError; the old folder then stands."""
    new, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    settle(folder)
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        write(new)
        for file in new.rglob("*"):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(new, ignore_errors=True)
        with contextlib.suppress(CheckpointError):
            settle(folder)
        reason = why_not_written(error)
        if reason is None:
            raise
        stands = folder.exists() or old.exists()
        kept = "the previous checkpoint there still stands" if stands else "nothing was saved there before"
        raise CheckpointError(f"{folder}: saving failed ({reason}); {kept}; make room and resume") from error


def settle(folder: Path) -> Path:
    """The folder, after undoing a swap that a crash cut in two. Raises CheckpointError where it cannot be renamed."""
    old = folder.with_name(f".{folder.name}.old")
    try:
        if not folder.exists() and old.exists():
            old.rename(folder)
    except OSError as error:
        raise CheckpointError(f"{old}: cannot be renamed to {folder.name} ({error.strerror}); do so by hand") from error
    return folder


def why_not_written(error: BaseException) -> str | None:
    """What the file system had against a write, in one line; None where the error is of another kind."""
    if not isinstance(error, OSError | SafetensorError) and type(error) is not Exception:  # tokenizers raises those
        return None
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return "no space left on the device" if "no space left" in text.lower() else one_line(text)


# ---------------------------------------------------------------------------------------------- the model


def save_model(folder: Path, model: MultitaskModel, extra: Mapping[str, Any]) -> None:
    """Encoder, projection, heads and what is needed to build them again, into an existing folder."""
    _check_state(model)
    (folder / "encoder").mkdir()
    model.encoder.save(folder / "encoder")
    if not any((folder / "encoder").iterdir()):
        raise plugins.wrong(model.encoder, "save", "files in the folder that it was given", "none")
    for part, module in (("heads", model.heads), ("projection", model.projection)):
        if module is not None:
            state = {k: v.detach().cpu().clone().contiguous() for k, v in module.state_dict().items()}  # ties: copies
            save_file(state, folder / f"{part}.safetensors")
    name, options = model.encoder.spec
    description = {"format": formats.CHECKPOINT, "encoder": {"name": name, "options": dict(options)}, **extra}
    (folder / "model.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def _check_state(model: MultitaskModel) -> None:
    """Raises PluginError for a head whose state (`get_extra_state`) is no tensor, which safetensors could not hold."""
    for name in model.heads:
        for key, value in model.head(name).state_dict().items():
            if not isinstance(value, Tensor):
                what = f"state of task '{name}': {key}"
                raise plugins.wrong(model.head(name), what, "a tensor", type(value).__name__)


def load_encoder(folder: Path, dropout: float | str | None = None) -> Encoder:
    """The encoder of a checkpoint, with another dropout where one is given. Raises CheckpointError."""
    try:
        spec = read_description(folder)["encoder"]
        name, options = spec["name"], {**spec["options"], "source": str(folder / "encoder")}
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / 'model.json'}: damaged, it does not describe the encoder") from error
    if dropout is not None:
        options["dropout"] = dropout
    encoder: Encoder = plugins.build("encoder", name, **options)
    return encoder


def load_heads(folder: Path, model: MultitaskModel) -> None:
    """Fills all heads, and the projection, exactly. Raises CheckpointError that names what is missing or has another
    shape."""
    for part, module in (("heads", model.heads), ("projection", model.projection)):
        if module is None:
            continue
        tensors, wanted = read_tensors(folder / f"{part}.safetensors"), module.state_dict()
        if wrong := _misfits(tensors, wanted):
            raise CheckpointError(f"{folder}: parameters of {part} are missing or have another shape: {wrong}")
        module.load_state_dict({k: tensors[k] for k in wanted})


def check_head(tensors: Mapping[str, Tensor], task: str, head: Head) -> None:
    """Raises CheckpointError that names what a task's head has in another shape than the checkpoint's heads, or alone.

    tensors: of the checkpoint's heads.safetensors.
    """
    if wrong := _misfits(tensors, {f"{task}.{key}": value for key, value in head.state_dict().items()}):
        raise CheckpointError(
            f"the head of task '{task}' is not the one that was trained: missing from the checkpoint, or of another "
            f"shape there: {wrong}; use the plugin version that trained it"
        )


def _misfits(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """The first names that are missing or have another shape."""
    return ", ".join(sorted(k for k in wanted if k not in tensors or tensors[k].shape != wanted[k].shape)[:5])


def load_matching(folder: Path, model: MultitaskModel) -> list[str]:
    """Fills projection and heads where the checkpoint has them in the same shape (a warm start). Returns what starts
    fresh: `projection`, `head TASK`. Without the projection that they learned behind, all heads do."""
    file = folder / "projection.safetensors"
    projection = read_tensors(file) if file.exists() else {}
    heads = read_tensors(folder / "heads.safetensors")
    same = not projection if model.projection is None else _fill(model.projection, projection)
    fresh = [] if same or model.projection is None else ["projection"]
    for name, head in model.heads.items():
        own = {k.removeprefix(f"{name}."): v for k, v in heads.items() if k.startswith(f"{name}.")}
        if not (same and _fill(head, own)):
            fresh.append(f"head {name}")
    return fresh


def _fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    """Fills a module where all of its state is there in the same shape; else leaves it alone and says False."""
    state = module.state_dict()
    if any(k not in tensors or tensors[k].shape != state[k].shape for k in state):
        return False
    module.load_state_dict({k: tensors[k] for k in state})
    return True


def read_json(file: Path, absent: str) -> Any:
    """A JSON file. Raises CheckpointError: `absent` and the reason where it cannot be read, or that it is damaged."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{absent} ({file.name}: {error.strerror})") from error
    except ValueError as error:
        raise CheckpointError(f"{file}: damaged, not JSON ({error})") from error


def read_description(folder: Path) -> dict[str, Any]:
    """model.json, checked. Raises CheckpointError."""
    file = settle(folder) / "model.json"
    description = read_json(file, f"{folder}: no checkpoint here")
    if not isinstance(description, dict) or description.get("format") != formats.CHECKPOINT:
        found = description.get("format") if isinstance(description, dict) else None
        raise CheckpointError(
            f"{folder}: a checkpoint of format {found}, but this mtk reads format {formats.CHECKPOINT}; "
            "use the mtk that wrote it"
        )
    return description


def read_tensors(file: Path) -> dict[str, Tensor]:
    """A safetensors file. Raises CheckpointError for a missing, truncated or corrupt one."""
    try:
        return load_file(file)
    except FileNotFoundError as error:
        raise CheckpointError(f"{file}: missing from the checkpoint") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file}: corrupt or truncated ({error}); use another checkpoint of the run") from error


# ---------------------------------------------------------------------------------------------- training state


def save_training(folder: Path, state: Mapping[str, Any]) -> None:
    """A tree of tensors, numbers, strings, lists and dictionaries as training.safetensors and training.json."""
    tensors: dict[str, Tensor] = {}
    tree = _split(state, tensors)
    save_file(tensors, folder / "training.safetensors")
    (folder / "training.json").write_text(json.dumps(tree), encoding="utf-8")


def load_training(folder: Path) -> dict[str, Any]:
    """What `save_training` saved. Raises CheckpointError."""
    read_description(folder)
    file = folder / "training.json"
    tree = read_json(file, f"{folder}: holds no training state to resume from")
    tensors = read_tensors(folder / "training.safetensors")
    try:
        state = dict(_join(tree, tensors))
        if not (isinstance(state["position"], dict) and isinstance(state["moments"], dict)):
            raise TypeError("position and moments are tables")
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: damaged, not the state of a training ({one_line(repr(error))})") from error
    return state


def unsaved(value: Any) -> Any:
    """The first part of a tree that `save_training` cannot hold; None where there is none."""
    if isinstance(value, Mapping | list | tuple):
        parts = value.values() if isinstance(value, Mapping) else value
        return next((odd for odd in map(unsaved, parts) if odd is not None), None)
    return None if value is None or isinstance(value, Tensor | str | int | float) else value


def _split(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        key = str(len(tensors))
        tensors[key] = value.detach().cpu().contiguous().clone()
        return {"$tensor": key}
    if isinstance(value, Mapping):
        return {"$map": [[key, _split(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_split(item, tensors) for item in value]
    return value


def _join(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_join(item, tensors) for item in value]
    if isinstance(value, dict):
        if "$tensor" in value:
            return tensors[value["$tensor"]]
        return {key: _join(item, tensors) for key, item in value["$map"]}
    return value
