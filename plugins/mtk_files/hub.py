"""Rows of a Hugging Face data set (extra `hf`). HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE are that library's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtk import DataError, PluginError, Table, TableRow, did_you_mean

NAMES = {"train": ("train",), "dev": ("validation", "dev", "valid"), "test": ("test",)}


def read_hub(name: str, config: str | None, revision: str | None, splits: Mapping[str, str] | None) -> dict[str, Table]:
    """The splits of a data set as tables; classes by their names. splits: what the Hub calls train, dev and test.

    Raises PluginError without the library; DataError where the data set, its configuration or a split cannot be had.
    """
    try:
        import datasets
    except ImportError as error:
        raise PluginError(f"hub = '{name}' needs datasets: pip install 'multitask-toolkit[hf]'") from error
    try:
        found = datasets.load_dataset(name, config, revision=revision)
    except Exception as error:  # the library raises most kinds
        reason = " ".join(str(error).split())[:300]
        where = "" if config is None else f", config '{config}'"
        raise DataError(
            f"hub '{name}'{where}: cannot be loaded ({type(error).__name__}: {reason}); check the name, the network, "
            "HF_ENDPOINT and HF_HUB_OFFLINE"
        ) from error
    chosen = splits or {split: own for split, names in NAMES.items() for own in names[::-1] if own in found}
    for split, own in chosen.items():
        if own not in found:
            raise DataError(f"hub '{name}': no split '{own}' for {split}{did_you_mean(own, found)}")
    return {split: _table(found[own]) for split, own in chosen.items()}


def _table(rows: Any) -> Table:
    names = {column: _names(kind) for column, kind in rows.features.items()}
    return Table(tuple(names), (TableRow(n, _named(row, names)) for n, row in enumerate(rows, 1)), "Hub")


def _names(kind: Any) -> Any:
    """The names of a column of classes, or of lists of them."""
    return getattr(getattr(kind, "feature", kind), "names", None)


def _named(row: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its classes' names for their numbers; -1 is the Hub's `no label`."""
    return {key: _name(value, names[key]) if names[key] else value for key, value in row.items()}


def _name(value: Any, names: Any) -> Any:
    if isinstance(value, list):
        return [_name(one, names) for one in value]
    return None if not isinstance(value, int) or value < 0 else names[value]
