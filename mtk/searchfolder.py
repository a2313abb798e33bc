"""A search's folder: its plan, who holds it, the room that it needs, and what can be read of it."""

from __future__ import annotations

import contextlib
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mtk import __version__
from mtk.assembly import build_encoder
from mtk.checkpoint import load_encoder, read_json
from mtk.config import RunConfig, make_config, read_toml
from mtk.display import duration
from mtk.errors import CheckpointError, ConfigError
from mtk.ledger import Ledger
from mtk.notices import SAMPLE
from mtk.run import RunFolder
from mtk.searchrecord import Dimension, SearchRecord
from mtk.space import Space

FORMAT = 2
_UNMADE = {".lock", "config.toml", ".config.toml.new", ".tune.json.new"}  # what a start leaves that was cut off


@dataclass(frozen=True)
class Plan:
    """What is searched and how far. config: what every trial starts from; its epochs are those of a whole trial.

    tuner: NAME or NAME:OPTIONS. trials: that may begin. max_epochs, max_hours: of the whole search, looked at after
    each epoch; None for no limit. final_seeds, final_epochs: of the runs that compare the best with the untuned
    settings afterwards. slots: trials side by side. executor: where they are trained, NAME or NAME:OPTIONS.
    """

    config: RunConfig
    space: Space
    tuner: str
    trials: int
    max_epochs: int | None = None
    max_hours: float | None = None
    final_seeds: int = 0
    final_epochs: int | None = None
    slots: int = 1
    executor: str = "local"


def check_room(config: RunConfig, folder: Path, trials: int) -> str:
    """Raises ConfigError where the disk has no room for even one trial; says where it lacks it for all."""
    init = config.init
    encoder = build_encoder(config) if init is None else load_encoder(RunFolder.open(Path(init)).best)
    trial = 4 * 4 * sum(p.numel() for p in encoder.parameters())  # bytes: weights, two moments, the best weights
    place = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(place).free
    if free < 2 * trial:  # a save lies beside the one that it replaces
        raise ConfigError(
            f"--out {folder}: {_size(free)} are free there, but a trial of this encoder takes about "
            f"{_size(2 * trial)} while it is saved; make room, or choose another folder or a smaller encoder"
        )
    if free < trial * (trials + 1):
        return (
            f"{_size(free)} are free on the disk; {trials} trials that all wait to be trained further would take "
            f"about {_size(trial * trials)}"
        )
    return ""


def read_record(folder: Path) -> SearchRecord:
    """The search in a folder, which may be going on. Raises ConfigError and CheckpointError."""
    facts = read_facts(folder)
    ledger = Ledger(folder, go_on(folder))
    ledger.replay(mend=False)
    with reading(folder):
        return record_of(plan_of(make_config(read_toml(folder / "config.toml")), facts), ledger, facts)


def record_of(plan: Plan, ledger: Ledger, facts: Mapping[str, Any]) -> SearchRecord:
    train = plan.config.train
    caption = [
        f"Ended after {duration(ledger.seconds)}: {facts.get('ended') or facts.get('status')}.",
        f"mtk {facts.get('mtk')}: {facts.get('command')}",
        *([SAMPLE] if plan.config.data.sample == "always" else []),
    ]
    space = {key: Dimension.of(domain) for key, domain in plan.space.items()}
    return SearchRecord(
        f"Search: {plan.tuner}", plan.tuner, train.select_on, train.seed, space, tuple(ledger.trials), ledger.best,
        train.epochs, tuple(ledger.log), caption,
    )  # fmt: skip


def plan_of(config: RunConfig, facts: Mapping[str, Any]) -> Plan:
    """The plan that tune.json tells of."""
    return Plan(
        config,
        Space.parse(facts["space"]),
        facts["tuner"],
        facts["trials"],
        facts["max_epochs"],
        facts["max_hours"],
        facts["final_seeds"],
        facts["final_epochs"],
        facts["slots"],
        facts["executor"],
    )


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    """What tune.json lacks is its fault. Raises CheckpointError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder / 'tune.json'}: damaged, not what a search writes ({error!r})") from error


def go_on(folder: Path) -> str:
    """What to type to go on with a search."""
    return shlex.join(["mtk", "tune", "--resume", str(folder)])


def is_unmade(folder: Path) -> bool:
    """Whether a search was cut off there before it was one."""
    try:
        return folder.is_dir() and {file.name for file in folder.iterdir()} <= _UNMADE
    except OSError:
        return False


def read_facts(folder: Path) -> dict[str, Any]:
    """tune.json. Raises CheckpointError."""
    facts = read_json(folder / "tune.json", f"{folder}: not the folder of a search")
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        found = facts if isinstance(facts, dict) else {}
        raise CheckpointError(
            f"{folder / 'tune.json'}: a search of format {found.get('format')} (mtk {found.get('mtk', '?')}), but this "
            f"mtk {__version__} reads format {FORMAT}; use the mtk that wrote it"
        )
    return facts


def acquire(lock: FileLock, folder: Path) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(f"{folder}: another process is searching in this folder") from None
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror})") from error


def release(lock: FileLock) -> None:
    if lock.is_locked:
        with contextlib.suppress(OSError):
            Path(lock.lock_file).unlink(missing_ok=True)  # while it is held: nobody can take it for his own
        lock.release()


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
