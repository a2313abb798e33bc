"""A search keeps what it found whatever ends it, goes on from its record alone, and refuses what cannot work."""

from __future__ import annotations

import io
import json
import math
import os
import queue
import shutil
import signal
import threading
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from rich.console import Console

import mtk
import mtk.device
import mtk.findings
import mtk.plugins
import mtk.search
import mtk.searchfolder
import mtk.searchview
import mtk.session
import mtk.worker
from mtk import session
from mtk.config import make_config
from mtk.errors import CheckpointError, ConfigError, DataError, MTKError, PluginError
from mtk.interfaces import Job, Stage, Tuner
from mtk.search import Search
from mtk.searchfolder import Plan
from mtk.searchview import conduct
from mtk.space import Space, apply
from mtk.training import EpochDone, StepDone
from mtk.worker import Process, Trainer
from tests import toy_plugin

TASKS = {"words": {"batch_size": 8}, "pairs": {"head": "cosine"}}
SPACE = Space.parse(["optim.lr=loguniform(1e-3, 1e-1)"])


class Here(mtk.Worker):
    """The worker on a thread of this process, instead of in its own; what is said and heard is the same."""

    made = 0
    alive = True

    def __init__(self, log: Path) -> None:
        log.touch()
        Here.made += 1
        self.orders: queue.Queue[str] = queue.Queue()
        self.answers: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=Trainer(self.source(), self).serve, daemon=True).start()  # type: ignore[arg-type]

    def source(self) -> Iterator[str]:
        while True:
            yield self.orders.get()

    def write(self, text: str) -> None:
        self.answers.put(json.loads(text))

    def flush(self) -> None: ...

    def say(self, order: Any) -> None:
        self.orders.put(json.dumps(order))

    def hear(self, seconds: float) -> Any:
        try:
            return self.answers.get(timeout=seconds)
        except queue.Empty:
            return {}

    def end(self) -> int:
        return 0


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setenv("MTK_DISABLE_PLUGINS", "report")
    monkeypatch.setattr(mtk.plugins, "_default", toy_plugin.manager())
    monkeypatch.setattr(mtk.device, "onednn_or_torch", lambda: "torch")
    monkeypatch.setattr(mtk.worker, "Process", Here)
    monkeypatch.setattr(mtk.search, "_LOOK", 0.02)


def plan(tuner: str = "asha", tasks: Any = TASKS, space: Space = SPACE, config: Any = None, **more: Any) -> Plan:
    more = {"trials": 3, **more}
    return Plan(toy_plugin.config(tasks, **(config or {})), space, tuner, **more)


def run(search: Search) -> list[str]:
    return [f"{event.kind} {event.trial.number}" for event in search.run()]


def searched(folder: Path, *arguments: Any, **more: Any) -> Search:
    search = Search.create(folder, plan(*arguments, **more), "mtk tune")
    run(search)
    return search


def events(folder: Path) -> list[dict[str, Any]]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    text = (folder / "events.jsonl").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def what(folder: Path) -> list[Any]:
    return [{k: v for k, v in event.items() if k != "seconds"} for event in events(folder)]


def leftovers(folder: Path) -> list[str]:
    return [str(file) for file in folder.rglob(".*") if file.name.startswith(".")]


@pytest.fixture
def training(monkeypatch):
    """`training(f)`: f sees each event of each trial's training, on the worker's side, and may raise."""
    original = session.Session.run

    def install(function):
        def watched(self):
            for event in original(self):
                function(self, event)
                yield event

        monkeypatch.setattr(session.Session, "run", watched)

    return install


# ---------------------------------------------------------------------------------------------- what it leaves


def test_the_main_job(tmp_path):
    search = Search.create(tmp_path / "s", plan(), "mtk tune")
    assert run(search)[:5] == ["begun 0", "epoch 0", "paused 0", "begun 1", "epoch 1"]
    assert search.ended == "the tuner has no more trials"
    assert [len(t.scores) for t in search.trials].count(3) == 1 and len(search.trials) == 3
    best = search.best
    assert best is not None and best.best == max(t.best for t in search.trials)
    facts = json.loads((tmp_path / "s/tune.json").read_text())
    assert facts["status"] == "finished" and facts["hardware"] == {"device": "cpu", "precision": "fp32", "threads": 1}
    assert leftovers(tmp_path) == [] and not list(tmp_path.rglob("last"))
    assert [p.parent.name for p in (tmp_path / "s/trials").glob("*/best")] == [f"{best.number:03d}"]
    rows = (tmp_path / "s/trials.csv").read_text().splitlines()
    assert rows[0] == "trial,state,epochs,best_score,best_epoch,last_score,optim.lr,problem" and len(rows) == 4
    for number, trial in enumerate(search.trials):
        assert trial.parameters == SPACE.sample(1, number)


def test_the_best_is_a_run_and_its_settings_make_it_again(tmp_path):
    search = searched(tmp_path / "s", "random", trials=2)
    assert search.best is not None
    model = mtk.load(tmp_path / "s/best")
    assert model.evaluate().aggregate == search.best.best
    config = mtk.configure(config=tmp_path / "s/best.toml")
    for _ in session.start(config, tmp_path / "again").run():
        pass
    lines = [line for line in session.RunFolder(tmp_path / "again").metrics() if line["event"] == "epoch"]
    assert tuple(line["selected"] for line in lines) == search.trials[search.best.number].scores


def test_what_a_probe_chose_holds_for_all_trials_and_the_best(tmp_path, monkeypatch):
    monkeypatch.setattr(mtk.device, "bf16_speedup", lambda device: answers.pop(0))
    answers = [0.5, 2.0, 2.0, 2.0]  # another trial's probe would choose otherwise
    searched(tmp_path / "s", "random", trials=2, config={"train": {"precision": "auto", "threads": None, "epochs": 1}})
    for file in [tmp_path / "s/trials/001/config.toml", tmp_path / "s/best.toml"]:
        text = file.read_text()
        assert 'precision = "fp32"' in text and "threads = 1" in text and 'device = "cpu"' in text
    assert len(answers) == 3


def test_the_data_that_was_found_is_looked_for_nowhere_else(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    toy_plugin.write_rows(tmp_path / "data", "filed")
    monkeypatch.chdir(tmp_path)
    config = mtk.configure(tasks=["filed"], data="data", encoder="tiny:hidden_size=8,layers=1", epochs=2, threads=1,
                           precision="fp32", device="cpu")  # fmt: skip
    search = Search.create(Path("s"), Plan(config, SPACE, "random", 2), "mtk tune")
    for event in search.run():
        if event.kind == "epoch":
            search.stop()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = Search.resume(Path("../s"))
    run(again)
    assert again.ended and all(len(t.scores) == 2 for t in again.trials)


@pytest.mark.parametrize("space", ["optim.lr=loguniform(1e-3, 1e-1)", "model.encoder_dropout=uniform(0, 0.5)"])
def test_trials_that_start_from_a_run_have_its_encoder(tmp_path, space):
    for _ in session.start(toy_plugin.config(TASKS, train={"epochs": 1}), tmp_path / "run").run():
        pass
    config = mtk.configure(init=tmp_path / "run", epochs=1, threads=1, precision="fp32", device="cpu")
    search = Search.create(tmp_path / "s", Plan(config, Space.parse([space]), "random", 2), "mtk tune")
    search.stop()
    run(search)
    again = Search.resume(tmp_path / "s")
    run(again)
    assert [t.state for t in again.trials] == ["finished", "finished"], again.trials
    for _ in session.start(mtk.configure(config=tmp_path / "s/best.toml"), tmp_path / "again").run():
        pass
    assert session.RunFolder(tmp_path / "again").scores["aggregate"] == again.best.best


# ---------------------------------------------------------------------------------------------- kills


class Killed(BaseException):
    pass


def kill_at(search: Search, event: int, before: bool) -> None:
    """Ends the search as SIGKILL would, before or after its n-th event is on disk."""
    record, seen = search.ledger.record, []

    def killed(**one: Any) -> None:
        seen.append(one)
        if before and len(seen) == event:
            raise Killed
        record(**one)
        if not before and len(seen) == event:
            raise Killed

    search.ledger.record = killed  # type: ignore[method-assign]


@pytest.mark.parametrize("tuner", ["asha", "random"])
@pytest.mark.parametrize(("event", "before"), [(1, False), (2, True)], ids=["after each", "before each second"])
def test_killed_at_every_event_it_finds_the_same(tmp_path, tuner, event, before):
    whole = searched(tmp_path / "whole", tuner)
    search = Search.create(tmp_path / "s", plan(tuner), "mtk tune")
    for _ in range(40):
        kill_at(search, event, before)
        try:
            run(search)
            break
        except Killed:
            search = Search.resume(tmp_path / "s")
    assert search.ended == whole.ended and search.trials == whole.trials
    assert what(tmp_path / "s") == what(tmp_path / "whole")
    assert leftovers(tmp_path) == [] and mtk.load(tmp_path / "s/best")


@pytest.mark.parametrize("part", ["write", "_keep_best", "_tidy", "_write_facts"])
def test_killed_while_it_writes_what_it_found(tmp_path, monkeypatch, part):
    def killed(self, *arguments, **more):
        raise Killed

    search = Search.create(tmp_path / "s", plan("random", trials=1), "mtk tune")
    original = getattr(Search, part)
    monkeypatch.setattr(Search, part, killed)
    with pytest.raises(Killed):
        run(search)
    monkeypatch.setattr(Search, part, original)
    again = Search.resume(tmp_path / "s")
    run(again)
    assert again.ended and again.best and mtk.load(tmp_path / "s/best") and leftovers(tmp_path) == []


def test_killed_between_the_metrics_and_the_checkpoint_that_they_tell_of(tmp_path, monkeypatch):
    """The epoch is trained again: what a search reports must have weights behind it."""
    whole = searched(tmp_path / "whole", "random", trials=1)
    save = session.Session._save_last

    def unsaved(self):
        if self.training.position.epoch == 2:
            raise RuntimeError("as if killed")
        save(self)

    monkeypatch.setattr(session.Session, "_save_last", unsaved)
    search = Search.create(tmp_path / "s", plan("random", trials=1), "mtk tune")
    with pytest.raises(MTKError, match=r"all 1 trials failed, the last with: .*RuntimeError: as if killed"):
        run(search)
    monkeypatch.setattr(session.Session, "_save_last", save)
    log = tmp_path / "s/events.jsonl"
    lines = log.read_text().splitlines()
    assert json.loads(lines.pop())["event"] == "failed"
    log.write_text("\n".join(lines) + "\n")
    assert not (tmp_path / "s/trials/000/last").exists()  # it had failed: from its first step then
    again = Search.resume(tmp_path / "s")
    run(again)
    assert again.trials == whole.trials


def test_a_start_that_was_cut_off_is_no_hindrance(tmp_path):
    (tmp_path / "s").mkdir()
    for name in (".lock", "config.toml", ".tune.json.new"):
        (tmp_path / "s" / name).write_text("half")
    assert searched(tmp_path / "s", "random", trials=1).ended and leftovers(tmp_path / "s") == []


# ---------------------------------------------------------------------------------------------- stopping


@pytest.mark.parametrize("moment", [StepDone, EpochDone])
def test_stopped_inside_a_trial_it_goes_on_exactly(tmp_path, training, moment):
    whole = searched(tmp_path / "whole", "random")
    search = Search.create(tmp_path / "s", plan("random"), "mtk tune")

    def stop(run, event):
        if isinstance(event, moment) and event.done >= 4 and run.folder.path.name == "001" and not search._stop:
            search.stop()
            threading.Event().wait(0.3)  # until it is told

    training(stop)
    assert run(search)[-1] == "saved 1" and search.ended is None
    assert json.loads((tmp_path / "s/tune.json").read_text())["status"] == "stopped"
    assert (tmp_path / "s/best/best").exists() and leftovers(tmp_path / "s") == []
    again = Search.resume(tmp_path / "s")
    run(again)
    assert again.trials == whole.trials


def test_stopped_before_anything(tmp_path):
    search = Search.create(tmp_path / "s", plan(), "mtk tune")
    search.stop()
    assert run(search) == [] and search.ended is None
    assert len(run(Search.resume(tmp_path / "s"))) > 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, training, capsys, number, code):
    folder = tmp_path / "a folder"
    search = Search.create(folder, plan("random", trials=1), "mtk tune")
    pressed: list[int] = []

    def press(run, event):
        if isinstance(event, StepDone) and event.done == 7 and not pressed:
            pressed.append(1)
            os.kill(os.getpid(), number)
            threading.Event().wait(0.3)

    training(press)
    assert conduct(search) == code
    said = capsys.readouterr()
    assert f"stopped and saved; go on where it was: mtk tune --resume '{folder}'" in said.out
    assert "saving the running trial" in said.err
    assert [event["event"] for event in events(folder)] == ["job", "epoch", "saved"]
    assert conduct(Search.resume(folder)) == 0
    assert [event["event"] for event in events(folder)] == ["job", "epoch", "saved", "epoch", "epoch", "finished"]


def test_a_second_signal_ends_at_once(tmp_path, training, capsys):
    search = Search.create(tmp_path / "s", plan("random", trials=1), "mtk tune")
    held = threading.Event()

    def press(run, event):
        if isinstance(event, StepDone) and event.done == 4:
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait(0.2)
            os.kill(os.getpid(), signal.SIGINT)
            held.wait(60)

    training(press)
    assert conduct(search) == 130
    assert f"go on where it was: mtk tune --resume {tmp_path / 's'}" in capsys.readouterr().out
    assert leftovers(tmp_path / "s") == [] and search._idle == [] and search._slots == []
    Search.resume(tmp_path / "s").close()  # nobody holds it


# ---------------------------------------------------------------------------------------------- limits


def test_epochs_that_run_out_inside_a_trial(tmp_path):
    search = searched(tmp_path / "s", "random", max_epochs=4)
    assert [(t.state, len(t.scores)) for t in search.trials] == [("finished", 3), ("paused", 1)]
    assert search.ended == "4 epochs trained (--max-epochs 4)"
    with pytest.raises(ConfigError, match=r"the search is finished \(4 epochs trained .*best\.toml"):
        Search.resume(tmp_path / "s")
    assert leftovers(tmp_path) == []


def test_a_tuner_knows_what_the_limit_leaves(tmp_path):
    search = Search.create(tmp_path / "s", plan("random", max_epochs=8, slots=2), "mtk tune")
    left = []
    for event in search.run():
        running = sum(3 - len(trial.scores) for trial in search.trials if trial.state == "running")
        left.append(search.state().left)
        assert left[-1] == max(0, 8 - search.ledger.epochs - running), event
    assert left[0] == 5 and left[-1] == 0
    assert searched(tmp_path / "t", "random", trials=1).state().left is None


def test_killed_when_the_limit_was_reached_it_trains_no_further(tmp_path):
    search = Search.create(tmp_path / "s", plan("random", max_epochs=4), "mtk tune")
    kill_at(search, 7, before=True)  # job, 3 epochs, finished, job, epoch: saved, and not recorded
    with pytest.raises(Killed):
        run(search)
    again = Search.resume(tmp_path / "s")
    run(again)
    assert [len(t.scores) for t in again.trials] == [3, 1] and again.trials[1].state == "paused"


def test_hours_that_run_out(tmp_path):
    search = searched(tmp_path / "s", "random", max_hours=1e-5)
    assert search.ended == "--max-hours 1e-05 is over" and len(search.trials) == 1
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="--max-hours: expected a number above 0"):
            Search(tmp_path / "x", plan(max_hours=wrong))


def test_a_trial_that_ends_early_by_itself_is_finished(tmp_path):
    config = {"train": {"epochs": 9, "patience": 1, "min_gain": 9.0}}
    search = searched(tmp_path / "s", "asha:eta=2", trials=2, config=config)
    assert {t.state for t in search.trials} == {"paused", "finished"}
    assert max(len(t.scores) for t in search.trials) == 2  # asked for two: the first gained, the second did not
    steps = searched(tmp_path / "t", "asha:eta=2", trials=4, config={"train": {"epochs": 8, "max_steps": 7}})
    assert steps.ended and max(len(t.scores) for t in steps.trials) == 2
    assert all(t.state == "finished" for t in steps.trials if len(t.scores) == 2)


# ---------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("error", "problem"), [(DataError("no\nmore"), "no more"), (KeyError("x"), "KeyError: 'x'")], ids=["ours", "other"]
)
def test_a_trial_that_fails_takes_no_other_with_it(tmp_path, training, error, problem):
    def fail(run, event):
        if run.folder.path.name == "001" and isinstance(event, EpochDone):
            raise error

    training(fail)
    search = searched(tmp_path / "s", "random")
    assert [t.state for t in search.trials] == ["finished", "failed", "finished"]
    assert problem in search.trials[1].problem and problem in (tmp_path / "s/trials.csv").read_text()
    assert leftovers(tmp_path) == [] and not list(tmp_path.rglob("last"))


def test_where_all_trials_fail_it_says_why_and_goes_on_when_asked(tmp_path, training, monkeypatch):
    broken = [True]

    def fail(run, event):
        if broken:
            raise DataError("no more")

    training(fail)
    search = Search.create(tmp_path / "s", plan("random", trials=5), "mtk tune")
    with pytest.raises(MTKError, match=r"all 3 trials failed, the last with: no more \(more in .*worker\.log"):
        run(search)
    broken.clear()
    again = Search.resume(tmp_path / "s")
    run(again)
    assert [t.state for t in again.trials] == 3 * ["failed"] + 2 * ["finished"] and again.ended


def test_the_last_failure_of_all_is_no_success(tmp_path, training):
    training(lambda run, event: (_ for _ in ()).throw(DataError("no more")))
    with pytest.raises(MTKError, match="all 2 trials failed"):
        searched(tmp_path / "s", "random", trials=2)
    with pytest.raises(MTKError, match="all 2 trials failed"):
        run(Search.resume(tmp_path / "s"))


def test_scores_that_are_no_numbers(tmp_path):
    tasks = {"scripted": {"kind": "scripted", "script": [math.nan, math.inf, 0.5] * 9, "main": True}}
    search = searched(tmp_path / "s", "random", tasks, trials=1)
    assert search.trials[0].scores[0] == -math.inf and search.best is not None
    assert events(tmp_path / "s")[1]["score"] is None
    tasks["scripted"]["script"] = [math.nan] * 30
    nothing = searched(tmp_path / "t", "random", tasks, trials=1)
    assert nothing.best is None and nothing.trials[0].scores == (-math.inf,) * 3 and nothing.ended
    assert "-inf" in (tmp_path / "t/trials.csv").read_text() and not (tmp_path / "t/best.toml").exists()


def test_equal_scores_the_earlier_trial_is_best(tmp_path):
    tasks = {"scripted": {"kind": "scripted", "script": [0.5] * 30, "main": True}}
    search = searched(tmp_path / "s", "asha:eta=2", tasks, trials=4)
    assert search.best is not None and search.best.number == 0 and mtk.load(tmp_path / "s/best")


class Dead(Here):
    """A worker that is killed when the trial with this name begins."""

    trial = "001"

    def say(self, order: Any) -> None:
        if isinstance(order, dict) and order["job"].endswith(self.trial):
            self.answers.put(None)
        else:
            super().say(order)

    def end(self) -> int:
        return -9


def test_a_dead_worker_is_one_trials_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(mtk.worker, "Process", Dead)
    before = Here.made
    search = searched(tmp_path / "s", "random")
    assert [t.state for t in search.trials] == ["finished", "failed", "finished"]
    assert search.trials[1].problem.startswith("its process was killed (signal 9): out of memory?")
    assert Here.made == before + 3  # another has tried again
    assert mtk.search._death(-11).startswith("its process died (signal 11)")
    assert mtk.search._death(3).startswith("its process died (exit code 3)")


# ---------------------------------------------------------------------------------------------- the disk


def test_a_disk_without_room_is_seen_before(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(0, 0, 1000))
    with pytest.raises(ConfigError, match="0 MB are free there, but a trial of this encoder takes about"):
        Search.create(tmp_path / "s", plan(), "mtk tune")
    assert not (tmp_path / "s").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(0, 0, 200_000))
    assert "trials that all wait" in Search.planned(tmp_path / "s", plan(trials=1000)).room


def test_a_full_disk_stops_the_search_and_not_only_the_trial(tmp_path, monkeypatch):
    save, full = session.save_training, [True]

    def failing(folder, state):
        if full and folder.parent.name == "001":
            raise OSError(28, "No space left on device")
        save(folder, state)

    monkeypatch.setattr(session, "save_training", failing)
    search = Search.create(tmp_path / "s", plan("random"), "mtk tune")
    with pytest.raises(CheckpointError, match=r"trial 1 cannot be saved; .*go on: mtk tune --resume .*no space left"):
        run(search)
    full.clear()
    again = Search.resume(tmp_path / "s")
    run(again)
    whole = searched(tmp_path / "whole", "random")
    assert again.trials == whole.trials


@pytest.mark.parametrize("name", ["trials.csv", "best.toml", "tune.json", "events.jsonl", "best"])
def test_a_full_disk_when_the_search_writes(tmp_path, monkeypatch, name):
    search = Search.create(tmp_path / "s", plan("random", trials=1), "mtk tune")
    write, opened = Path.write_text, Path.open

    def full(file: Path, original: Any, *arguments: Any, **more: Any) -> Any:
        if file.parent == tmp_path / "s" and file.name in (f".{name}.new", name) and "r" not in arguments:
            raise OSError(28, "No space left on device")
        return original(file, *arguments, **more)

    def no_copy(*arguments: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", lambda file, *a, **m: full(file, write, *a, **m))
        patch.setattr(Path, "open", lambda file, *a, **m: full(file, opened, *a, **m))
        if name == "best":
            patch.setattr(shutil, "copytree", no_copy)
        with pytest.raises(CheckpointError, match=r"no space left on the device|No space left") as error:
            run(search)
    assert str(error.value).count("mtk tune --resume") == 1
    again = Search.resume(tmp_path / "s")
    run(again)
    assert again.ended and again.best and mtk.load(tmp_path / "s/best") and leftovers(tmp_path) == []


# ---------------------------------------------------------------------------------------------- the folder


def test_two_processes_in_one_folder(tmp_path):
    search = Search.create(tmp_path / "s", plan("random", trials=1), "mtk tune")
    before = None
    for event in search.run():
        if event.kind == "epoch" and before is None:
            with (tmp_path / "s/events.jsonl").open("a") as log:
                log.write('{"half": ')  # the other one is about to write a line
            before = (tmp_path / "s/events.jsonl").read_bytes()
            for attempt in (Search.resume, lambda folder: Search.create(folder, plan(), "mtk tune")):
                with pytest.raises(ConfigError, match=r"another process is searching|a search is there"):
                    attempt(tmp_path / "s")
            assert (tmp_path / "s/events.jsonl").read_bytes() == before
            os.truncate(tmp_path / "s/events.jsonl", len(before) - len('{"half": '))
    assert search.ended


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s/notes").write_text("mine")
    with pytest.raises(ConfigError, match="expected a new or empty folder"):
        Search.create(tmp_path / "s", plan(), "mtk tune")
    searched(tmp_path / "t", "random", trials=1)
    with pytest.raises(ConfigError, match="a search is there; choose another, or go on with that one: mtk tune --res"):
        Search.create(tmp_path / "t", plan(), "mtk tune")
    with pytest.raises(ConfigError, match="cannot be written"):
        Search.create(tmp_path / "s/notes/below", plan(), "mtk tune")
    for nothing in (tmp_path / "none", tmp_path / "s"):
        with pytest.raises(CheckpointError, match="not the folder of a search"):
            Search.resume(nothing)
    assert leftovers(tmp_path) == []
    with FileLock(tmp_path / "t/.lock"), pytest.raises(ConfigError, match="another process"):
        Search.resume(tmp_path / "t")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 9, "mtk": "9.0"}, r"a search of format 9 \(mtk 9.0\), but this mtk .* reads format 2; use the mtk"),
        ({"space": None}, "damaged"),
        ({"trials": "many"}, "damaged"),
        ({"tuner": "none"}, "unknown tuner 'none'"),
        ({"space": {"optim.lr": "uniform(2, 1)"}}, "expected low below high"),
    ],
)
def test_a_damaged_or_foreign_search(tmp_path, change, said):
    search = Search.create(tmp_path / "s", plan(), "mtk tune")
    search.close()
    file = tmp_path / "s/tune.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps({**facts, **change}))
    with pytest.raises(MTKError, match=said):
        Search.resume(tmp_path / "s")
    for text in ("{", "[]", "null"):
        file.write_text(text)
        with pytest.raises(CheckpointError, match=r"tune\.json"):
            Search.resume(tmp_path / "s")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"event": "epoch", "trial": 7, "score": 1, "seconds": 1}', "null",
                                  '{"event": "dance", "trial": 0, "seconds": 1}'])  # fmt: skip
def test_a_damaged_line_is_named_and_nothing_is_taken_away(tmp_path, line):
    search = Search.create(tmp_path / "s", plan("random", trials=1), "mtk tune")
    kill_at(search, 3, before=True)
    with pytest.raises(Killed):
        run(search)
    log = tmp_path / "s/events.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([lines[0], line, *lines[1:]]) + "\n")
    before = log.read_bytes()
    with pytest.raises(CheckpointError, match=r"events\.jsonl, line 2: damaged"):
        Search.resume(tmp_path / "s")
    assert log.read_bytes() == before


@pytest.mark.parametrize("rest", ['{"event": "ep', '{"event": "epoch", "trial": 0, "score": 1, "seconds": 1}', "\0\0"])
def test_a_last_line_that_was_cut_off_is_written_again(tmp_path, rest):
    whole = searched(tmp_path / "whole", "random", trials=1)
    search = Search.create(tmp_path / "s", plan("random", trials=1), "mtk tune")
    kill_at(search, 3, before=True)
    with pytest.raises(Killed):
        run(search)
    with (tmp_path / "s/events.jsonl").open("a") as log:
        log.write(rest)
    again = Search.resume(tmp_path / "s")
    run(again)
    assert again.trials == whole.trials and what(tmp_path / "s") == what(tmp_path / "whole")


# ---------------------------------------------------------------------------------------------- refusals, tuners


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: plan(config={"train": {"select_on": "words.f9"}}), "--select-on words.f9: task 'words' has no such"),
        (lambda: plan(config={"train": {"select_on": "none"}}), "--select-on none: no such task"),
        (lambda: plan(space=Space.parse(["optim.speed=uniform(0,1)"])), "optim.speed"),
        (lambda: plan("grid", space=Space.parse(["combiner=grid(sum, pcgrad)"]), trials=1), "give --trials 2"),
        (lambda: plan("grid"), "a grid has listed values"),
        (lambda: plan("ashe"), "did you mean 'asha'"),
        (lambda: plan("asha:eta=1"), "eta: expected at least 2"),
        (lambda: plan(trials=0), "--trials: expected at least 1"),
        (lambda: plan(tasks={"filed": {}}, config={"data": {"folder": "/none"}}), "none"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path, made, said):
    with pytest.raises((MTKError, OSError), match=said):
        Search.create(tmp_path / "s", made(), "mtk tune")
    assert not (tmp_path / "s").exists()


class Odd(Tuner):
    def __init__(self, job: Job) -> None:
        self.job = job

    def next(self, state):
        return Job(1, {}) if not state.trials else self.job


@pytest.mark.parametrize("job", [Job(1), Job(3, trial=5), Job(1, trial=0), Job(0, {}), Job(3, trial=-1)])
def test_a_tuner_that_orders_what_cannot_be_done(tmp_path, job):
    search = Search.create(tmp_path / "s", plan(), "mtk tune")
    search.tuner = Odd(job)
    with pytest.raises(PluginError, match="expected a job with parameters, or for more epochs of a trial that waits"):
        run(search)


def test_plugins_that_answer_something_else(tmp_path, monkeypatch):
    search = Search.create(tmp_path / "s", plan(), "mtk tune")
    search.tuner = Odd({"epochs": 3})  # type: ignore[arg-type]
    with pytest.raises(PluginError, match=r"next: expected a Job or None, found \{'epochs': 3\}"):
        run(search)
    for name, answer in (("open", None), ("open", [1]), ("threads", 0), ("threads", "2")):
        with monkeypatch.context() as patch:
            patch.setattr(f"mtk_tuners.local.Local.{name}", lambda self, *_, answer=answer: answer)
            with pytest.raises(PluginError, match=f"executor 'local'.*{name}: expected"):
                Search.create(tmp_path / "t", plan(config={"train": {"threads": None}}), "mtk tune")


def test_a_tuner_that_wants_more_trials_than_may_begin(tmp_path):
    search = Search.create(tmp_path / "s", plan(trials=2), "mtk tune")
    search.tuner = Odd(Job(1, {}))
    run(search)
    assert search.ended == "2 trials have begun (--trials 2)"


class Picky(Tuner):
    def next(self, state):
        return Job(state.epochs, state.sample(len(state.trials))) if len(state.trials) < state.limit else None

    def keep(self, state, trial):
        return trial.number != 1 or len(trial.scores) < 2


def test_a_trial_that_is_given_up_is_given_up_after_a_kill_too(tmp_path):
    search = Search.create(tmp_path / "s", plan(), "mtk tune")
    search.tuner = Picky()
    kill_at(search, 9, before=True)  # trial 1 has two epochs, and nobody has said yet that it stops
    with pytest.raises(Killed):
        run(search)
    again = Search.resume(tmp_path / "s")
    again.tuner = Picky()
    run(again)
    assert [(t.state, len(t.scores)) for t in again.trials] == [("finished", 3), ("stopped", 2), ("finished", 3)]


def test_values_that_are_sound_in_pairs_alone_fail_their_trial_only(tmp_path, monkeypatch):
    search = Search.create(tmp_path / "s", plan("random"), "mtk tune")
    original = Search.config_of

    def config_of(self, parameters):
        if parameters == SPACE.sample(1, 1):
            raise ConfigError("not together")
        return original(self, parameters)

    monkeypatch.setattr(Search, "config_of", config_of)
    run(search)
    assert [t.state for t in search.trials] == ["finished", "failed", "finished"]


# ---------------------------------------------------------------------------------------------- final runs, display


def quiet(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    out = io.StringIO()
    monkeypatch.setattr(mtk.searchview, "make_console", lambda: Console(file=out, width=200, markup=False))
    monkeypatch.setattr(mtk.sweep, "_PROBE_STEPS", 1)
    return out


def test_final_runs_that_are_cut_off_go_on(tmp_path, monkeypatch):
    out = quiet(monkeypatch)
    search = Search.create(tmp_path / "s", plan("random", trials=1, final_seeds=2, final_epochs=1), "mtk tune")
    conducted = mtk.searchview.Sweep.estimate

    def pressed(self, runs):
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(5)

    monkeypatch.setattr(mtk.searchview.Sweep, "estimate", pressed)
    assert conduct(search) == 143
    assert f"go on where it was: mtk tune --resume {tmp_path / 's'}" in out.getvalue()
    monkeypatch.setattr(mtk.searchview.Sweep, "estimate", conducted)
    assert conduct(Search.resume(tmp_path / "s")) == 0
    assert "Tuned against untuned: 2 configurations x 2 seeds = 4 runs" in out.getvalue()
    assert len(list((tmp_path / "s/final/runs").glob("*/*/run.json"))) == 4
    assert conduct(Search.resume(tmp_path / "s")) == 0 and "4 runs done, 0 to go" in out.getvalue()


def test_a_reader_who_has_enough_does_not_end_the_search(tmp_path, monkeypatch):
    quiet(monkeypatch)
    monkeypatch.setattr(mtk.searchview, "silence", lambda: None)

    def gone(self, event):
        raise BrokenPipeError

    monkeypatch.setattr(mtk.searchview._Display, "_show", gone)
    search = Search.create(tmp_path / "s", plan("random", trials=1), "mtk tune")
    assert conduct(search) == 0 and search.ended


# ---------------------------------------------------------------------------------------------- the process


def test_the_process_takes_nothing_from_the_folder_it_is_in_and_dies_with_its_search(tmp_path, monkeypatch):
    (tmp_path / "queue.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    process = Process(tmp_path / "log")
    process.say({"job": str(tmp_path / "t"), "config": {"tasks": {"none": {}}}, "epochs": 1})
    for _ in range(600):
        if answer := process.hear(0.2):
            break
    assert answer == {"event": "failed", "problem": answer["problem"]} and "none" in answer["problem"]
    process._process.stdin.write(b'{"half')  # type: ignore[union-attr]
    assert process.end() == 1 and not process.alive
    assert process.hear(1) is None
    process.say("go")  # to nobody


# ---------------------------------------------------------------------------------------------- side by side


def test_workers_side_by_side_share_the_cores(tmp_path, monkeypatch):
    monkeypatch.setattr("mtk_tuners.local._cores", lambda: 8)
    free = {"train": {"threads": None}}
    assert Search.planned(tmp_path / "s", plan(slots=3, config=free)).plan.config.train.threads == 2
    assert Search.planned(tmp_path / "s", plan(config=free)).plan.config.train.threads is None
    given = plan(slots=3, config={"train": {"threads": 5}})
    assert Search.planned(tmp_path / "s", given).plan.config.train.threads == 5
    with pytest.raises(ConfigError, match=r"^--slots 9: expected at most one for each of this machine's 8 cores$"):
        Search.create(tmp_path / "s", plan(slots=9), "mtk tune")
    assert not any((tmp_path / "s").iterdir())


def test_where_fewer_workers_can_be_had_it_goes_on_with_those(tmp_path, monkeypatch):
    starts: list[Path] = []

    def start(log: Path) -> Here:
        starts.append(log)
        if len(starts) == 2:
            raise MTKError("a node is gone")
        return Here(log)

    monkeypatch.setattr("mtk_tuners.local.start_worker", start)
    search = Search.create(tmp_path / "s", plan("random", slots=2), "mtk tune")
    kinds = run(search)
    assert kinds.count("waiting 1") == 1 and [t.state for t in search.trials] == ["finished"] * 3
    assert len(starts) == 2  # and the trial was given to the first
    starts[:] = [Path()]
    with pytest.raises(MTKError, match="a node is gone"):
        run(Search.create(tmp_path / "none", plan("random", slots=2), "mtk tune"))


def test_a_limit_lets_those_that_run_end_their_epoch(tmp_path):
    search = searched(tmp_path / "s", "random", trials=4, slots=2, max_epochs=3)
    assert search.ended is not None and search.ended.endswith("epochs trained (--max-epochs 3)")
    assert 3 <= search.ledger.epochs <= 4 and {t.state for t in search.trials} <= {"paused", "finished"}


# ---------------------------------------------------------------------------------------------- other weights


PBT = "pbt:quantile=0.5,resample=0"


@pytest.fixture(scope="module")
def population(tmp_path_factory) -> Path:
    """A finished population of four trials, three epochs each."""
    with pytest.MonkeyPatch.context() as patch:
        toys.__wrapped__(patch)
        folder = tmp_path_factory.mktemp("population") / "s"
        assert searched(folder, PBT, trials=4).ended == "the tuner has no more trials"
    return folder


def copied(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event.get("source") is not None]


def test_a_population_takes_over_weights(population):
    search = mtk.searchfolder.read_record(population)
    forks = copied(events(population))
    assert len(forks) == 4 and all(len(trial.scores) == 3 for trial in search.trials)  # two of four, after two epochs
    for fork in forks:
        assert fork["trial"] != fork["source"]
    tree = json.loads((population / "lineage.json").read_text())
    assert [len(trial["epochs"]) for trial in tree["trials"]] == [3] * 4
    assert len(search.log) == 12 and sum(epoch.source is not None for epoch in search.log) == 4


def test_each_trial_is_a_run_that_its_own_configuration_makes_again(population, tmp_path):
    """A fork is the run that had the source's settings first and its own after."""
    trials = mtk.searchfolder.read_record(population).trials
    forked = [trial for trial in trials if len(trial.stages) > 1]
    assert len(forked) >= 2
    for trial in forked[:2]:
        folder = session.RunFolder(population / f"trials/{trial.number:03d}")
        assert len(folder.config.changes) == len(trial.stages) - 1
        out = tmp_path / str(trial.number)
        for _ in session.start(folder.config, out).run():
            pass
        lines = [line for line in session.RunFolder(out).metrics() if line["event"] == "epoch"]
        assert tuple(line["selected"] for line in lines) == trial.scores


def test_the_best_schedule_makes_the_best_score_again(population, tmp_path):
    best = mtk.searchfolder.read_record(population).best
    assert best is not None
    name = "best_schedule.toml" if len(best.stages) > 1 else "best.toml"
    assert (population / "best_schedule.toml").exists() == (len(best.stages) > 1)
    for _ in session.start(mtk.configure(config=population / name), tmp_path / "again").run():
        pass
    assert session.RunFolder(tmp_path / "again").scores["aggregate"] == best.best
    assert mtk.load(population / "best").evaluate().aggregate == best.best


@pytest.mark.parametrize(("event", "before"), [(1, False), (2, True)], ids=["after each", "before each second"])
def test_a_population_killed_at_every_event_finds_the_same(population, tmp_path, event, before):
    search = Search.create(tmp_path / "s", plan(PBT, trials=4), "mtk tune")
    for _ in range(100):
        kill_at(search, event, before)
        try:
            run(search)
            break
        except Killed:
            search = Search.resume(tmp_path / "s")
    assert what(tmp_path / "s") == what(population)
    assert leftovers(tmp_path) == [] and mtk.load(tmp_path / "s/best")


@pytest.mark.parametrize("moment", ["keep_best", "take_over", "after"])
def test_a_population_killed_while_weights_are_taken_over(population, tmp_path, monkeypatch, moment):
    name = "keep_best" if moment == "keep_best" else "take_over"
    original, kills = getattr(mtk.search, name), []

    def killed(*arguments: Any, **more: Any) -> None:
        if moment == "after":
            original(*arguments, **more)
        if len(kills) < 3:
            kills.append(1)
            raise Killed
        if moment != "after":
            original(*arguments, **more)

    monkeypatch.setattr(mtk.search, name, killed)
    search = Search.create(tmp_path / "s", plan(PBT, trials=4), "mtk tune")
    for _ in range(10):
        try:
            run(search)
            break
        except Killed:
            search = Search.resume(tmp_path / "s")
    assert len(kills) == 3 and what(tmp_path / "s") == what(population)
    assert mtk.load(tmp_path / "s/best") and leftovers(tmp_path) == []


def test_a_change_of_a_plugins_options_leaves_none_behind():
    old, new = Stage(0, 0, {"combiner": "cagrad:c=0.2"}), Stage(2, 1, {"combiner": "cagrad"})
    config = mtk.findings.scheduled([old, new], lambda given: toy_plugin.config(TASKS, **given))
    assert [float(config.at(epoch).combiner.options["c"]) for epoch in range(3)] == [0.2, 0.2, 0.5]
    assert mtk.findings.scheduled([old, new], lambda given: toy_plugin.config(TASKS, **given), epochs=2).changes == []


def test_what_a_configuration_changes_itself_is_not_searched(tmp_path):
    changed = {"changes": [{"after": 1, "settings": {"optim": {"lr": 0.5}}}]}
    with pytest.raises(ConfigError, match=r"^space: optim\.lr cannot be searched: the configuration changes it"):
        Search.planned(tmp_path / "s", plan(config=changed))


class Fork(Tuner):
    """Two trials, of which the first, the better one, then takes over the other's weights."""

    def next(self, state: Any) -> Job | None:
        trials = state.trials
        if len(trials) < 2:
            return Job(1, state.sample(len(trials)))
        if len(trials[0].stages) == 1:
            return Job(2, {"optim.lr": 1e-9}, trial=0, source=1)
        return None


def test_the_best_is_kept_when_its_trial_gives_it_up(tmp_path, monkeypatch):
    search = Search.create(tmp_path / "s", plan(trials=2, space=Space.parse(["optim.lr=loguniform(1e-3, 1e-1)"])), "")
    search.tuner = Fork()
    script = {0: 0.9, 1: 0.1}
    record = search.ledger.record

    def scored(**one: Any) -> None:
        if one["event"] == "epoch":
            one["score"] = script[one["trial"]] if one["epoch"] == 1 else 0.2
        record(**one)

    search.ledger.record = scored  # type: ignore[method-assign]
    weights: list[bytes] = []
    for event in search.run():
        if event.kind == "paused" and event.trial.number == 0 and not weights:
            weights.append((tmp_path / "s/trials/000/best/heads.safetensors").read_bytes())
    assert search.best is not None and (search.best.number, search.best.best) == (0, 0.9)
    assert search.trials[0].scores == (0.1, 0.2) and [s.trial for s in search.trials[0].stages] == [1, 0]
    assert (tmp_path / "s/best/best/heads.safetensors").read_bytes() == weights[0]
    assert not (tmp_path / "s/best_schedule.toml").exists()


@pytest.mark.parametrize(
    "job",
    [
        Job(2, {"optim.lr": 0.01}, trial=0, source=7),
        Job(1, {"optim.lr": 0.01}, trial=0, source=1),
        Job(2, None, trial=0, source=1),
        Job(2, {"optim.lr": 0.01}, source=1),
    ],
)
def test_weights_that_cannot_be_taken_over(tmp_path, job):
    class Wrong(Fork):
        def next(self, state: Any) -> Job | None:
            return Job(1, state.sample(len(state.trials))) if len(state.trials) < 2 else job

    search = Search.create(tmp_path / "s", plan(), "mtk tune")
    search.tuner = Wrong()
    with pytest.raises(PluginError, match="or from the weights of one that does"):
        run(search)


def test_a_trial_that_cannot_take_over_another_model(tmp_path):
    """The keys that cannot change within a run come with the weights."""
    space = Space.parse(["optim.lr=loguniform(1e-3, 1e-1)", "model.projection=choice(4, 8)"])
    search = Search.create(tmp_path / "s", plan(space=space), "mtk tune")
    assert search.state().changeable == {"optim.lr"}

    class Wrong(Fork):
        def next(self, state: Any) -> Job | None:
            if len(state.trials) < 2:
                return Job(1, {"optim.lr": 0.01, "model.projection": (4, 8)[len(state.trials)]})
            return Job(2, {"optim.lr": 0.01, "model.projection": 4}, trial=0, source=1)

    search.tuner = Wrong()
    with pytest.raises(PluginError, match="or from the weights of one that does"):
        run(search)


def forked(folder: Path, **more: Any) -> Search:
    """Trial 0 has taken over the weights of trial 1 after an epoch."""
    search = Search.create(folder, plan(trials=2, **more), "mtk tune")
    search.tuner = Fork()
    run(search)
    return search


@pytest.mark.parametrize("after", [1, 2])
def test_weights_taken_over_beside_changes_of_the_configurations_own(tmp_path, after):
    own = {"after": after, "settings": {"optim": {"weight_decay": 0.5}}}
    search = forked(tmp_path / "s", config={"changes": [own]})
    trial = search.trials[0]
    assert (trial.state, trial.problem, len(trial.scores)) == ("paused", "", 2)
    schedule = mtk.findings.scheduled(trial.stages, search.config_of)
    assert schedule.changes == session.RunFolder(tmp_path / "s/trials/000").config.changes
    assert (schedule.at(2).optim.lr, schedule.at(2).optim.weight_decay) == (1e-9, 0.5)
    assert mtk.findings.scheduled(trial.stages, search.config_of, epochs=1).changes == []


def test_final_runs_may_be_too_short_for_a_change(tmp_path, monkeypatch):
    quiet(monkeypatch)
    own = {"after": 2, "settings": {"optim": {"weight_decay": 0.5}}}
    short = plan("random", trials=1, config={"changes": [own]}, final_seeds=1, final_epochs=1)
    assert conduct(Search.create(tmp_path / "s", short, "mtk tune")) == 0
    assert conduct(Search.resume(tmp_path / "s")) == 0
    assert session.RunFolder(tmp_path / "s/final/runs/tuned/seed-2").config.changes == []


@pytest.mark.parametrize("swap", [1, 2])
def test_killed_while_weights_that_are_taken_over_come_into_place(tmp_path, monkeypatch, swap):
    """After the trial's old folder is set aside, and after the new one has its name."""
    rename, remove, swapped = Path.rename, shutil.rmtree, []

    def alive() -> None:
        if len(swapped) == swap:
            raise Killed

    def renamed(file: Path, target: Path) -> Path:
        alive()
        if target.parent.name == "trials":
            swapped.append(target)
        return rename(file, target)

    def removed(folder: Path, **more: Any) -> None:
        alive()
        remove(folder, **more)

    search = Search.create(tmp_path / "s", plan(trials=2), "mtk tune")
    search.tuner = Fork()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", renamed)
        patch.setattr(shutil, "rmtree", removed)
        with pytest.raises(Killed):
            run(search)
    assert (tmp_path / "s/trials/.000.old").exists()
    again = Search.resume(tmp_path / "s")
    again.tuner = Fork()
    run(again)
    assert again.trials == forked(tmp_path / "whole").trials
    assert mtk.load(tmp_path / "s/best").evaluate().aggregate == again.best.best and leftovers(tmp_path) == []


def test_stopped_when_the_limit_was_reached_the_running_trial_goes_on_later(tmp_path, training):
    search = Search.create(tmp_path / "s", plan("random", trials=2, slots=2, max_epochs=1), "mtk tune")

    def stop(run, event):
        if run.folder.path.name == "001" and not search._stop:
            while spent() is None:
                threading.Event().wait(0.02)
            threading.Event().wait(0.2)  # until it has been looked at
            search.stop()
            threading.Event().wait(0.3)  # until the worker is told

    spent = search._spent
    training(stop)
    run(search)
    assert search.ended is None and [trial.state for trial in search.trials] == ["paused", "running"]
    again = Search.resume(tmp_path / "s")
    run(again)
    assert again.ended and [trial.state for trial in again.trials] == ["paused", "paused"]


@pytest.mark.parametrize(
    ("base", "old", "new"),
    [
        ({}, {"scheduler": "linear", "scheduler.warmup": 0.3}, {"scheduler": "cosine", "scheduler.warmup": 0.3}),
        ({}, {"scheduler": "step:floor=0.2", "scheduler.warmup": 0.3}, {"scheduler": "step", "scheduler.warmup": 0.3}),
        ({"combiner": "cagrad:c=0.7"}, {"combiner": "sum"}, {"combiner": "cagrad"}),
        ({"combiner": "cagrad:c=0.7"}, {"combiner.c": 0.2}, {"combiner.c": 0.3}),
        ({}, {"scheduler": "cyclic:stepsize=5"}, {"scheduler": "cyclic"}),
    ],
)
def test_a_change_brings_in_the_plugin_that_the_parameters_say(base, old, new):
    def config_of(parameters: Any) -> Any:
        return make_config(apply(toy_plugin.config(TASKS, **base).to_dict(), parameters))

    def method(config: Any, kind: str) -> dict[str, Any]:
        choice = getattr(config, kind)
        return {"name": choice.name, **vars(mtk.plugins.build(kind, choice.name, **choice.options))}

    kind = next(iter(new)).partition(".")[0]
    schedule = mtk.findings.scheduled([Stage(0, 0, old), Stage(1, 1, new)], config_of)
    assert method(schedule.at(0), kind) == method(config_of(old), kind)
    assert method(schedule.at(1), kind) == method(config_of(new), kind) != method(config_of(old), kind)
