"""Where a task's rows come from: the user's folder, $MTK_DATA, the fetched files, or the built-in sample."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from mtk import DataError, Source, TaskContext
from mtk_text.published import cache_folder

SAMPLE = Path(__file__).parent / "sample"


def file_names(stem: str) -> dict[str, tuple[str, ...]]:
    """The names that a split's file may have, best first."""
    test = (f"{stem}-test-student.csv", f"{stem}-test.csv")
    return {"train": (f"{stem}-train.csv",), "dev": (f"{stem}-dev.csv",), "test": test}


def find_source(context: TaskContext, kind: str, stem: str) -> Source:
    """The first of: the sample where it always serves, context.data, $MTK_DATA, fetched files, the sample as fallback.

    kind: the task's registered name, for `mtk data fetch`. Raises DataError that names the ways out.
    """
    names = file_names(stem)
    sample = Source("the built-in sample", _files_in(SAMPLE, names), sample=True)
    if context.sample == "always":
        return sample
    if context.data is not None:
        return _users_folder(context.data, "", context.name, names)
    if variable := os.environ.get("MTK_DATA"):
        return _users_folder(Path(variable).expanduser(), "MTK_DATA: ", context.name, names)
    cache = cache_folder()
    files = _files_in(cache, names)
    if "train" in files and "dev" in files:
        return Source(f"fetched files in {cache}", files)
    if context.sample == "fallback":
        return sample
    raise DataError(
        f"task '{context.name}' has no data: name a folder that holds {names['train'][0]} with --data DIR, fetch the"
        f" published files with `mtk data fetch {kind}`, or try things out on the built-in sample with --sample"
    )


def _users_folder(folder: Path, prefix: str, task: str, names: Mapping[str, tuple[str, ...]]) -> Source:
    expected = ", ".join(name for choices in names.values() for name in choices)
    try:
        there = sorted(entry.name for entry in folder.iterdir())
    except FileNotFoundError:
        raise DataError(f"{prefix}{folder}: no such folder; task '{task}' expects one that holds {expected}") from None
    except NotADirectoryError:
        raise DataError(f"{prefix}{folder}: expected a folder that holds {expected}, found a file") from None
    except OSError as error:
        raise DataError(f"{prefix}{folder}: cannot be read: {error.strerror or error}") from None
    files = _files_in(folder, names)
    if not files:
        found = ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "")
        raise DataError(
            f"{prefix}{folder}: expected a file of task '{task}' ({expected}), found {found or 'an empty folder'}"
        )
    return Source(f"{prefix}{folder}", files)


def _files_in(folder: Path, names: Mapping[str, tuple[str, ...]]) -> dict[str, Path]:
    candidates = {split: [folder / name for name in choices] for split, choices in names.items()}
    found = {split: next((path for path in paths if path.is_file()), None) for split, paths in candidates.items()}
    return {split: path for split, path in found.items() if path is not None}
