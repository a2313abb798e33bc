"""`mtk runs`: the run folders here, newest first. Reads JSON and TOML only, so that it answers without torch."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from mtk import formats, notices


def runs(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[DIR]...", help="Where to look, with all sub-folders. Default: runs."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
) -> None:
    """List run folders, newest first: status, tasks, scores, data. Damaged ones are listed with the reason."""
    from mtk.errors import CheckpointError

    for folder in folders or []:
        if not folder.is_dir():
            what = "a file" if folder.exists() else "no such folder"
            raise CheckpointError(f"{folder}: expected a folder to look for runs in, found {what}")
    places = folders or [Path("runs")]
    paths = {path.resolve(): path for place in places for path in _run_folders(place)}
    found = sorted((describe(path) for path in paths.values()), key=lambda run: run["when"], reverse=True)
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    elif found:
        _show(found)
    else:
        typer.echo(f"no runs in {', '.join(map(str, places))}; mtk train makes one")


def _run_folders(place: Path) -> Iterator[Path]:
    """Every folder with a run.json, `place` among them; checkpoints and hidden folders are not looked into."""
    for root, below, files in os.walk(place):
        if "run.json" in files:
            yield Path(root)
            below[:] = [name for name in below if name not in ("best", "last")]
        below[:] = [name for name in below if not name.startswith(".")]


# ---------------------------------------------------------------------------------------------- one run


def describe(path: Path) -> dict[str, Any]:
    """What is known of a run folder; `problem` says why it cannot be used, and is None for a sound one."""
    run: dict[str, Any] = {"run": str(path), "status": "damaged", "problem": None, "when": ""}
    try:
        facts = _json(path / "run.json")
        run["when"] = _when(path, facts)
        if facts.get("format") != formats.RUN:
            found = f"format {facts.get('format')} (mtk {facts.get('mtk', '?')})"
            return {**run, "status": "other version", "problem": f"{found}, but this mtk reads format {formats.RUN}"}
        return {**run, **_facts(path, facts)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        run["when"] = run["when"] or _when(path, {})
        return {**run, "problem": _reason(error)}


def _facts(path: Path, facts: dict[str, Any]) -> dict[str, Any]:
    from mtk.config import make_config, read_toml
    from mtk.errors import ConfigError

    try:
        config = make_config(read_toml(path / "config.toml"), "config.toml")
    except ConfigError as error:
        raise ValueError(str(error).replace(f"{path / 'config.toml'}: ", "config.toml: ")) from error
    scores = facts.get("scores")
    known = {} if scores is None else {n: scores["tasks"][n][metric] for n, metric in scores["primary"].items()}
    finished_one = "best_epoch" in facts
    return {
        "status": _status(facts),
        "problem": None if (path / "best").is_dir() or not finished_one else "best/ is missing",
        "tasks": list(config.tasks),
        "encoder": config.encoder.name,
        "combiner": config.combiner.name,
        "seed": config.train.seed,
        "epochs": config.train.epochs,
        "epochs_done": _epochs_done(path / "metrics.jsonl"),
        "best_epoch": facts.get("best_epoch"),
        "ended": facts.get("ended"),
        "primary": {} if scores is None else scores["primary"],
        "scores": known,
        "aggregate": None if scores is None else scores["aggregate"],
        "data": {name: found["origin"] for name, found in facts.get("data", {}).items()},
        "sample": [name for name, found in facts.get("data", {}).items() if found.get("sample")],
        "seconds": facts.get("seconds"),
    }


def _status(facts: dict[str, Any]) -> str:
    """The recorded status; `interrupted` for a run whose process on this machine is gone."""
    status, process = str(facts.get("status", "unknown")), facts.get("process", {})
    if status == "running" and process.get("host") == platform.node():
        try:
            os.kill(int(process["pid"]), 0)
        except ProcessLookupError:
            return "interrupted"
        except PermissionError:
            return status
    return status


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{file.name} is not UTF-8 text") from error
    except ValueError as error:
        raise ValueError(f"{file.name} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{file.name} holds a {type(value).__name__} where an object was expected")
    return value


def _epochs_done(file: Path) -> int:
    """The last epoch that metrics.jsonl tells of; a last line that a crash cut off is left out."""
    done = 0
    if file.exists():
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith('{"event": "epoch"') and line.endswith("}"):
                done = json.loads(line)["epoch"]
    return done


def _when(path: Path, facts: dict[str, Any]) -> str:
    """When the run started, else when its run.json was written: ISO 8601 in local time."""
    try:
        moment = datetime.fromisoformat(facts["started"])
    except (KeyError, TypeError, ValueError):
        moment = datetime.fromtimestamp((path / "run.json").stat().st_mtime)
    return moment.astimezone().isoformat(timespec="seconds")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{Path(error.filename or '').name or 'a file'}: {error.strerror or error}"
    return (
        str(error) if isinstance(error, ValueError) else f"run.json has another shape ({type(error).__name__}: {error})"
    )


# ---------------------------------------------------------------------------------------------- the table


def _show(found: list[dict[str, Any]]) -> None:
    from mtk.cli.printing import print_table

    head = ("run", "status", "tasks", "combiner", "seed", "epochs", "scores", "aggregate", "data", "time")
    print_table(head, [_line(run) for run in found])
    problems = [f"{run['run']}: {run['problem']}" for run in found if run["problem"]]
    if problems:
        typer.echo("\n" + "\n".join(problems))
    if any(run.get("sample") for run in found):
        typer.echo(f"\n{notices.SAMPLE}")


def _line(run: dict[str, Any]) -> tuple[str, ...]:
    if "tasks" not in run:
        return (run["run"], run["status"], *["-"] * 8)
    status = run["status"] if run["problem"] is None else f"{run['status']}, damaged"
    best = "" if run["best_epoch"] is None else f", best {run['best_epoch']}"
    data = "SAMPLE" if run["sample"] and len(run["sample"]) == len(run["data"]) else ", ".join(sorted(_origins(run)))
    return (
        run["run"],
        status,
        ", ".join(run["tasks"]),
        run["combiner"],
        str(run["seed"]),
        f"{run['epochs_done']}/{run['epochs']}{best}",
        ", ".join(f"{name} {value:.3f}" for name, value in run["scores"].items()) or "-",
        "-" if run["aggregate"] is None else f"{run['aggregate']:.4f}",
        data or "-",
        _duration(run["seconds"]),
    )


def _origins(run: dict[str, Any]) -> set[str]:
    return {f"SAMPLE ({name})" if name in run["sample"] else origin for name, origin in run["data"].items()}


def _duration(seconds: float | None) -> str:
    """1:02:03 or 2:03 (hours, minutes, seconds)."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
