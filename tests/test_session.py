"""Sessions: exact resume, forks, warm starts, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mtk.device
from mtk import session
from mtk.checkpoint import load_training
from mtk.errors import CheckpointError, ConfigError, MTKError
from mtk.run import RunFolder
from mtk.training import EpochDone, Finished, StepDone
from tests.toy_plugin import config, write_rows

pytestmark = pytest.mark.usefixtures("toys", "one_choice")

COMBINERS = ["sum", "pcgrad", "stateful", "toy-famo"]
FRESH = """
import sys, torch
from pathlib import Path
import mtk.plugins
from tests import toy_plugin
mtk.plugins._default = toy_plugin.manager()
import mtk.device
mtk.device.onednn_or_torch = lambda: "torch"
from mtk import session
"""


@pytest.fixture
def one_choice(monkeypatch):
    """Runs that are compared multiply alike: the choice hangs on a clock, which a busy machine upsets."""
    monkeypatch.setattr(mtk.device, "onednn_or_torch", lambda: "torch")


def run_all(run: session.Session) -> list:
    return list(run.run())


def metrics(path: Path) -> list[str]:
    """metrics.jsonl without its seconds."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [json.dumps({k: v for k, v in line.items() if k != "seconds"}) for line in lines]


def assert_same(one, two, where: str) -> None:
    assert type(one) is type(two), where
    if isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            assert_same(one[key], two[key], f"{where} {key}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == two.dtype and torch.equal(one, two), where
    else:
        assert one == two, where


def same_run(a: Path, b: Path) -> None:
    """Metrics, weights, and all that last/ knows, bit for bit."""
    assert metrics(a) == metrics(b)
    for folder in ("best", "last"):
        files = sorted(p.relative_to(a) for p in (a / folder).rglob("*") if p.is_file())
        assert files == sorted(p.relative_to(b) for p in (b / folder).rglob("*") if p.is_file())
        for file in files:
            if file.suffix == ".json" and file.stem != "training":
                assert json.loads((a / file).read_text()) == json.loads((b / file).read_text()), file
            elif file.stem != "training":
                assert_same(load_file(a / file), load_file(b / file), str(file))
    assert_same(load_training(a / "last"), load_training(b / "last"), "state")
    first, second = RunFolder(a).facts, RunFolder(b).facts
    for key in ("best_epoch", "scores", "ended", "status"):
        assert first[key] == second[key]


def resume_afresh(*paths: Path) -> None:
    """Resumes runs in another process."""
    code = FRESH + "for path in sys.argv[1:]:\n    list(session.resume(Path(path)).run())\n"
    done = subprocess.run([sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def stopped(settings, out: Path, steps: int) -> Path:
    """A run that somebody stopped after `steps` steps."""
    run = session.start(settings, out)
    for event in run.run():
        if isinstance(event, StepDone) and event.done == steps:
            run.stop()
    assert event == Finished("stopped")
    assert RunFolder(out).facts["status"] == "stopped"
    return out


def killed(settings, out: Path, steps: int) -> Path:
    """What a run leaves on disk that is killed after `steps` steps."""
    run = session.start(settings, out.with_name(out.name + "-alive"))
    events = run.run()
    for event in events:
        if isinstance(event, StepDone) and event.done == steps:
            run.folder.flush()
            shutil.copytree(run.folder.path, out)
            break
    events.close()
    with (out / "metrics.jsonl").open("a") as log:
        log.write('{"event": "step", "epo')
    return out


# ---------------------------------------------------------------------------------------------- resume


@pytest.mark.slow
def test_resumed_runs_equal_uninterrupted_ones_bit_for_bit(tmp_path):
    afresh = []
    for combiner in COMBINERS:
        settings, whole = config(combiner=combiner), tmp_path / combiner
        run_all(session.start(settings, whole))
        assert len(metrics(whole)) == 3 * 5 + 3
        cut = {
            "inside": stopped(settings, tmp_path / f"{combiner}-inside", 7),
            "killed": killed(settings, tmp_path / f"{combiner}-killed", 8),
        }
        if combiner == "pcgrad":
            cut["edge"] = stopped(settings, tmp_path / "edge", 10)
        assert len((cut["killed"] / "metrics.jsonl").read_text().splitlines()) == 5 + 1 + 3 + 1
        for path in cut.values():
            other = shutil.copytree(path, path.with_name(path.name + "-afresh"))
            run_all(session.resume(path))
            same_run(whole, path)
            afresh.append((whole, other))
    resume_afresh(*(other for _, other in afresh))
    for whole, other in afresh:
        same_run(whole, other)


def test_the_dropout_of_a_resumed_run_matters_to_that_test(tmp_path):
    """The same comparison fails where one generator is not taken back."""
    whole, cut = tmp_path / "whole", stopped(config(), tmp_path / "cut", 7)
    run_all(session.start(config(), whole))
    run = session.resume(cut)
    torch.manual_seed(0)
    run_all(run)
    assert metrics(whole)[:8] == metrics(cut)[:8]
    assert metrics(whole) != metrics(cut)


def test_stopping_twice_and_stopping_in_the_first_epoch(tmp_path):
    whole = tmp_path / "whole"
    run_all(session.start(config(), whole))
    path = stopped(config(), tmp_path / "cut", 2)
    assert not (path / "best").exists()
    run = session.resume(path)
    for event in run.run():
        if isinstance(event, StepDone) and event.done == 11:
            run.stop()
    run_all(session.resume(path))
    same_run(whole, path)


@pytest.mark.slow
def test_a_real_kill(tmp_path):
    whole, path = tmp_path / "whole", tmp_path / "killed"
    run_all(session.start(config(combiner="pcgrad"), whole))
    code = FRESH + (
        "import os, signal\n"
        "for event in session.start(toy_plugin.config(combiner='pcgrad'), Path(sys.argv[1])).run():\n"
        "    if getattr(event, 'done', 0) == 8:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert RunFolder(path).facts["status"] == "running"
    run_all(session.resume(path))
    same_run(whole, path)


def test_early_stopping_is_resumed_too(tmp_path):
    tasks = {"a": {"kind": "scripted", "script": [1.0, 0.5, 0.2, 3.0], "main": True}}
    train = {"epochs": 6, "patience": 2, "select_on": "a.scripted"}
    whole = tmp_path / "whole"
    assert run_all(session.start(config(tasks, train=train), whole))[-1] == Finished("patience")
    path = stopped(config(tasks, train=train), tmp_path / "cut", 5)
    run = session.resume(path)
    run.parts.tasks["a"].target.script = [0.2, 3.0]  # the script is not a function of the weights
    assert run_all(run)[-1] == Finished("patience")
    assert metrics(whole) == metrics(path)


WARM = {
    "model": {"head_warmup": 1, "projection": 6, "freeze": "embeddings"},
    "optim": {"layer_decay": 0.5, "head_lr": 0.03},
}
CAREFUL = {"accumulate": 2, "nonfinite": "skip", "min_gain": 0.01, "patience": 3, "score_train": 4}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("combiner", "train", "model"),
    [
        ("sum", CAREFUL, {}),
        ("pcgrad", {**CAREFUL, "diagnose": "layers", "diagnose_every": 2}, {}),
        ("pcgrad", {"precision": "bf16"}, {}),
        ("pcgrad", {}, {"projection": None, "freeze": None}),  # nothing is shared in the warm-up
        ("uncertainty", CAREFUL, {}),
        ("graddrop", CAREFUL, {}),
        ("famo", CAREFUL, {"projection": None}),
        ("sum", {**CAREFUL, "step": "one", "accumulate": 1}, {}),
    ],
)
def test_a_run_is_resumed_inside_and_after_its_head_warm_up(combiner, train, model, tmp_path):
    settings = config(combiner=combiner, train=train, **{**WARM, "model": {**WARM["model"], **model}})
    whole = tmp_path / "whole"
    events = run_all(session.start(settings, whole))
    steps = sum(isinstance(event, StepDone) for event in events) // 3  # an epoch
    cut = [
        stopped(settings, tmp_path / "inside", 2),
        stopped(settings, tmp_path / "edge", steps),
        stopped(settings, tmp_path / "after", steps + 2),
        killed(settings, tmp_path / "killed", steps + 3),
    ]
    assert not any("encoder." in name for name in load_training(cut[1] / "last")["moments"])
    assert any("encoder." in name for name in load_training(cut[2] / "last")["moments"])
    afresh = shutil.copytree(cut[0], tmp_path / "afresh") if combiner == "uncertainty" else None
    for path in cut:
        run_all(session.resume(path))
        same_run(whole, path)
    if afresh is not None:
        resume_afresh(afresh)
        same_run(whole, afresh)


def test_what_early_stopping_remembers_of_gains_is_resumed(tmp_path):
    tasks = {"a": {"kind": "scripted", "script": [1.0, 1.2, 1.4, 1.5, 9.0], "main": True}}
    train = {"epochs": 5, "patience": 2, "select_on": "a", "min_gain": 0.3}
    whole = tmp_path / "whole"
    assert run_all(session.start(config(tasks, train=train), whole))[-1] == Finished("epochs")
    facts = RunFolder(whole).facts
    path = stopped(config(tasks, train=train), tmp_path / "cut", 5)  # 1.2 is the best by then, and gained nothing
    run = session.resume(path)
    assert (run.training.position.best, run.training.position.gained) == (1.2, 1.0)
    run.parts.tasks["a"].target.script = [1.4, 1.5, 9.0]
    assert run_all(run)[-1] == Finished("epochs")
    assert metrics(whole) == metrics(path) and facts["best_epoch"] == RunFolder(path).facts["best_epoch"] == 5


def test_the_best_epoch_is_kept_however_small_its_gain(tmp_path):
    tasks = {"a": {"kind": "scripted", "script": [1.0, 1.1, 1.2, 9.0], "main": True}}
    train = {"epochs": 4, "patience": 2, "select_on": "a", "min_gain": 0.5}
    run = session.start(config(tasks, train=train), tmp_path / "run")
    assert run_all(run)[-1] == Finished("patience")
    assert run.folder.facts["best_epoch"] == 3 and run.folder.facts["scores"]["tasks"]["a"]["scripted"] == 1.2
    best, last = (load_file(run.folder.path / part / "heads.safetensors") for part in ("best", "last"))
    assert_same(best, last, "the third epoch's")


def test_a_state_from_before_min_gain(tmp_path):
    settings = config(train={"patience": 1, "epochs": 3})
    path = stopped(settings, tmp_path / "cut", 7)

    def forget(tree):
        (position,) = (value["$map"] for key, value in tree["$map"] if key == "position")
        position.remove(next(entry for entry in position if entry[0] == "gained"))

    edit_json(path / "last" / "training.json", forget)
    position = session.resume(path).training.position
    assert position.gained == position.best is not None


def test_train_scores_are_recorded(tmp_path):
    run_all(session.start(config(train={"score_train": 5}), tmp_path / "with"))
    run_all(session.start(config(), tmp_path / "without"))
    with_, without = ([json.loads(line) for line in metrics(tmp_path / name)] for name in ("with", "without"))
    epochs = [line for line in with_ if line["event"] == "epoch"]
    for line in epochs:
        found = line["train_scores"]
        assert set(found["tasks"]) == {"words", "pairs", "tags"} and found["primary"] == line["scores"]["primary"]
        assert found["aggregate"] == pytest.approx(sum(found["tasks"][n][m] for n, m in found["primary"].items()) / 3)
    assert [{k: v for k, v in line.items() if k != "train_scores"} for line in with_] == without


def test_every_step_is_counted_once_on_the_clock(tmp_path):
    path = stopped(config(), tmp_path / "cut", 7)
    before = RunFolder(path).facts["seconds"]
    RunFolder(path).update(seconds=before + 100)
    run_all(session.resume(path))
    assert RunFolder(path).facts["seconds"] >= 100


def refused(error: type[MTKError], *words: str, path: Path, changes=None) -> None:
    with pytest.raises(error) as caught:
        session.resume(path, changes)
    text = str(caught.value)
    assert type(caught.value) is error
    assert "\n" not in text
    for word in words:
        assert word in text, text


def test_resume_refuses_a_finished_run(finished):
    refused(ConfigError, "finished (epochs)", f"--init {finished}", path=finished)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optim": {"lr": 0.5}}, ["optim.lr is 0.01", "0.5"]),
        ({"combiner": "pcgrad"}, ["combiner.name is 'sum'", "pcgrad"]),
        ({"mixer": "capped:rows=14"}, ["mixer.rows", "13", "14"]),
        ({"tasks": {"words": {}, "pairs": {}}}, ["words, pairs, tags", "changed tasks"]),
        ({"tasks": {"words": {"weight": 2.0}, "pairs": {}, "tags": {}}}, ["tasks.words.weight is None", "2.0"]),
        ({"train": {"sed": 3}}, ["unknown key 'train.sed'", "seed"]),
    ],
)
def test_resume_refuses_changed_settings(tmp_path, changes, words):
    path = stopped(config(), tmp_path / "cut", 2)
    refused(ConfigError, *words, path=path, changes=changes)


def test_settings_that_are_the_same_are_no_changes(tmp_path):
    path = stopped(config(), tmp_path / "cut", 2)
    run_all(session.resume(path, {"optim": {"lr": 0.01}, "mixer": "capped:rows=13", "combiner": "sum"}))


def test_resume_refuses_changed_data(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write_rows(data, "a")
    settings = config({"a": {"kind": "filed"}}, data={"folder": str(data)})
    path = stopped(settings, tmp_path / "cut", 2)
    kept = (data / "a-dev.txt").read_text()
    write_rows(data, "a", seed=1)
    refused(ConfigError, "the train rows of task 'a'", "a-train.txt", path=path)
    write_rows(data, "a")
    (data / "a-dev.txt").write_text(kept + "1 one more row\n")
    refused(ConfigError, "the dev rows of task 'a'", path=path)
    (data / "a-dev.txt").write_text(kept)
    run_all(session.resume(path))


def files(**contents: str) -> dict:
    """What run.json says of a task's files: `train_2="b.csv:changed"`."""
    pairs = {key.replace("_", " "): text.split(":") for key, text in contents.items()}
    return {"t": {"origin": "", "files": {key: {"file": name, "sha256": sha} for key, (name, sha) in pairs.items()}}}


@pytest.mark.parametrize(
    ("now", "what"),
    [
        (files(train="a.csv:1", train_2="b.csv:9", train_3="c.csv:3", dev="d.csv:4"), "train .*\\(b.csv changed\\)"),
        (files(train="a.csv:1", train_2="c.csv:3", dev="d.csv:4"), "train .*\\(b.csv is no longer there\\)"),
        (
            files(train="0.csv:0", train_2="a.csv:1", train_3="b.csv:2", train_4="c.csv:9", dev="d.csv:4"),
            "train .*\\(c.csv changed, 0.csv is new\\)",
        ),
        (files(train="b.csv:2", train_2="a.csv:1", train_3="c.csv:3", dev="d.csv:4"), "train .*in another order"),
        (
            files(train="a.csv:1", train_2="b.csv:2", train_3="c.csv:3", dev="d.csv:4", dev_2="e.csv:5"),
            "dev .*e.csv is",
        ),
        (files(train="a.csv:1", train_2="b.csv:2", train_3="c.csv:3", dev="d.csv:4", test="f.csv:6"), None),
    ],
)
def test_every_file_of_train_and_dev_is_compared(now, what):
    then = files(train="a.csv:1", train_2="b.csv:2", train_3="c.csv:3", dev="d.csv:4", test="e.csv:5")
    if what is None:  # nothing that is trained on or selected by
        return session.check_data(Path("run"), {"data": then}, now)
    with pytest.raises(ConfigError, match=f"^run: the {what}"):
        session.check_data(Path("run"), {"data": then}, now)


def test_resume_refuses_what_is_no_run(tmp_path):
    refused(CheckpointError, "no such run folder", path=tmp_path / "nowhere")
    refused(CheckpointError, "not a run folder", path=tmp_path)


def test_a_run_that_died_before_its_first_checkpoint_starts_over(tmp_path):
    run = session.start(config(), tmp_path / "young")
    events = run.run()
    for _ in range(3):
        next(events)
    run.folder.flush()
    events.close()
    run_all(session.resume(tmp_path / "young"))
    run_all(session.start(config(), tmp_path / "whole"))
    same_run(tmp_path / "young", tmp_path / "whole")


@pytest.fixture
def cut(tmp_path) -> Path:
    return stopped(config(combiner="stateful"), tmp_path / "cut", 7)


def edit_json(file: Path, change) -> None:
    tree = json.loads(file.read_text())
    change(tree)
    file.write_text(json.dumps(tree))


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("last/training.json", '{"$map": [["pos', ["training.json", "damaged"]),
        ("last/training.json", "[1, 2]", ["training.json", "damaged"]),
        ("last/training.json", '{"$map": []}', ["training.json", "damaged"]),
        ("last/training.json", None, ["no training state"]),
        ("last/training.safetensors", None, ["training.safetensors", "missing"]),
        ("last/model.json", "{", ["model.json", "damaged"]),
        ("last/model.json", '{"format": 1}', ["model.json", "damaged"]),
        ("last/model.json", '{"format": 2}', ["format 2", "reads format 1"]),
        ("last/model.json", None, ["no checkpoint here"]),
        ("last/heads.safetensors", "", ["heads.safetensors", "corrupt or truncated"]),
        ("run.json", "[]", ["run.json", "damaged"]),
        ("run.json", "{", ["run.json", "damaged"]),
        ("run.json", '{"format": 7, "mtk": "9.9"}', ["format 7", "mtk 9.9", "format 1"]),
        ("run.json", '{"format": 1}', ["run.json", "damaged"]),
    ],
)
def test_damaged_runs(cut, file, text, words):
    if text is None:
        (cut / file).unlink()
    else:
        (cut / file).write_text(text)
    refused(CheckpointError, *words, path=cut)


@pytest.mark.parametrize("part", ["training.safetensors", "heads.safetensors", "encoder/model.safetensors"])
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.99])
def test_truncated_tensors(cut, part, keep):
    file = cut / "last" / part
    raw = file.read_bytes()
    file.write_bytes(raw[: int(len(raw) * keep)])
    refused(CheckpointError, Path(part).name, "truncated", path=cut)


def test_a_state_of_another_shape(cut):
    file = cut / "last" / "training.json"
    good = file.read_text()
    entries = {key for key, _ in json.loads(good)["$map"]}
    assert entries == {"position", "moments", "combiner", "generator", "rng", "total"}
    for key in entries:
        if key == "total":
            continue
        edit_json(file, lambda tree, key=key: tree["$map"].remove(next(e for e in tree["$map"] if e[0] == key)))
        refused(CheckpointError, "damaged", path=cut)
        file.write_text(good)
    file.write_text(good.replace('"bad_epochs"', '"bad_apples"'))
    refused(CheckpointError, "damaged or another version's", path=cut)
    file.write_text(good.replace("heads.tags.out", "heads.bags.out"))
    refused(CheckpointError, "heads.bags.out", path=cut)


def test_resume_where_the_device_is_missing(cut):
    RunFolder(cut).update(hardware={"device": "mps", "precision": "fp32", "threads": 1})
    if not torch.backends.mps.is_available():
        refused(CheckpointError, "mps", "--init", path=cut)


# ---------------------------------------------------------------------------------------------- fork


def test_a_fork_goes_on_with_other_settings(finished, tmp_path):
    path = tmp_path / "half"
    for event in (run := session.start(config(), path)).run():
        if isinstance(event, EpochDone) and event.epoch == 0:
            state = shutil.copytree(path / "last", tmp_path / "last")
    other = config(
        {"words": {"batch_size": 6}, "pairs": {"head": "cosine"}, "more": {"kind": "words", "rows": 9}},
        train={"batch_size": 8},
        optim={"lr": 0.02},
        encoder={"dropout": 0.4},
    )
    fork = session.fork(state, other, tmp_path / "fork", "cmd")
    # 3 steps an epoch now (13 rows of words in batches of 6), of which one epoch of three is over
    assert (fork.training.position.epoch, fork.training.position.done, fork.training.total) == (1, 3, 9)
    assert fork.fresh == ["head more"]
    assert fork.training.position.best is None
    model = fork.parts.model
    assert model.encoder.config.hidden_dropout_prob == 0.4
    saved = load_file(state / "heads.safetensors")
    for name in ("words", "pairs"):
        for key, tensor in model.heads[name].state_dict().items():
            assert torch.equal(tensor, saved[f"{name}.{key}"])
    for key, tensor in load_file(state / "encoder" / "model.safetensors").items():
        assert torch.equal(model.encoder.state_dict()[key], tensor)
    names = {id(p): name for name, p in model.named_parameters()}
    loaded = {names[id(p)]: s for p, s in fork.training.optimizer.state.items()}
    assert not any("heads.more" in name for name in loaded)
    assert {name for name, _ in model.named_parameters() if "heads.more" not in name} == set(loaded)
    old = load_training(state)["moments"]
    for name, moment in loaded.items():
        assert_same({k: v.clone() for k, v in moment.items()}, old[name], name)
    events = run_all(fork)
    steps = [e for e in events if isinstance(e, StepDone)]
    assert [s.done for s in steps] == [4, 5, 6, 7, 8, 9]
    assert [s.lr for s in steps] == pytest.approx([0.02 * (9 - d) / 8 for d in range(3, 9)])
    assert RunFolder(tmp_path / "fork").facts["forked_from"] == str(state)
    assert run.folder.facts["status"] == "finished"


def test_a_fork_with_a_bound_on_steps_takes_the_fraction(tmp_path):
    path = tmp_path / "a"
    run = session.start(config(train={"max_steps": 10}), path)
    for event in run.run():
        if isinstance(event, EpochDone):
            break
    fork = session.fork(path / "last", config(train={"max_steps": 40, "epochs": 20}), tmp_path / "b")
    assert (fork.training.position.epoch, fork.training.position.done) == (1, 20)


def test_a_fork_of_a_finished_run_wants_more_epochs(finished, tmp_path):
    with pytest.raises(ConfigError, match="nothing left to train"):
        session.fork(finished / "last", config(), tmp_path / "fork")
    assert not (tmp_path / "fork").exists()
    fork = session.fork(finished / "last", config(train={"epochs": 4}), tmp_path / "fork")
    assert [e.epoch for e in run_all(fork) if isinstance(e, EpochDone)] == [3]


def test_a_fork_can_be_resumed(finished, tmp_path):
    settings = config(train={"epochs": 5})
    run_all(session.fork(finished / "last", settings, tmp_path / "whole"))
    fork = session.fork(finished / "last", settings, tmp_path / "cut")
    for event in fork.run():
        if isinstance(event, StepDone) and event.done == 18:
            fork.stop()
    run_all(session.resume(tmp_path / "cut"))
    same_run(tmp_path / "whole", tmp_path / "cut")


def after_first_epoch(settings, out: Path) -> Path:
    """last/ of a run after its first epoch."""
    for event in session.start(settings, out).run():
        if isinstance(event, EpochDone):
            return shutil.copytree(out / "last", out.with_name(out.name + "-last"))
    raise AssertionError


def test_a_fork_out_of_a_head_warm_up(tmp_path):
    state = after_first_epoch(config(**WARM), tmp_path / "run")
    begun = load_training(state)["moments"]
    assert begun and not any(name.startswith("encoder.") for name in begun)
    for warmup, learns in ((0, 1), (1, 1), (2, 2), (3, None)):
        other = config(**{**WARM, "model": {**WARM["model"], "head_warmup": warmup}})
        fork = session.fork(state, other, tmp_path / f"fork{warmup}")
        assert fork.fresh == [] and set(fork.training.state_dict()["moments"]) == set(begun)
        first = None
        for event in fork.run():
            moments = fork.training.state_dict()["moments"]
            if first is None and any(name.startswith("encoder.") for name in moments):
                first = event.epoch
        assert first == learns
        assert {name for name in moments if "embeddings" in name} == set()


def test_a_fork_into_a_head_warm_up_keeps_the_encoder_s_moments_for_later(finished, tmp_path):
    old = load_training(finished / "last")["moments"]
    settings = config(model={"head_warmup": 4}, train={"epochs": 6})
    fork = session.fork(finished / "last", settings, tmp_path / "whole")
    for event in fork.run():
        if isinstance(event, EpochDone) and event.epoch == 3:
            resting = fork.training.state_dict()["moments"]
            for name, moment in old.items():
                if name.startswith("encoder."):
                    assert_same({k: v.clone() for k, v in resting[name].items()}, moment, name)
                else:
                    assert not torch.equal(resting[name]["exp_avg"], moment["exp_avg"])
    cut = session.fork(finished / "last", settings, tmp_path / "cut")
    for event in cut.run():
        if isinstance(event, StepDone) and event.done == 17:
            cut.stop()
    run_all(session.resume(tmp_path / "cut"))
    same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_fork_that_freezes(finished, tmp_path):
    fork = session.fork(finished / "last", config(model={"freeze": "encoder"}, train={"epochs": 4}), tmp_path / "fork")
    assert all(name.startswith("heads.") for name in fork.training.state_dict()["moments"])
    run_all(fork)
    encoder = Path("encoder") / "model.safetensors"
    assert_same(load_file(tmp_path / "fork" / "last" / encoder), load_file(finished / "last" / encoder), "encoder")


def test_forks_that_are_refused(tmp_path, finished):
    path = stopped(config(), tmp_path / "cut", 7)
    with pytest.raises(CheckpointError, match="inside an epoch"):
        session.fork(path / "last", config(), tmp_path / "fork")
    with pytest.raises(CheckpointError, match="no training state"):
        session.fork(finished / "best", config(train={"epochs": 5}), tmp_path / "fork")
    with pytest.raises(ConfigError, match="expected a new or empty folder"):
        session.fork(finished / "last", config(train={"epochs": 5}), finished)


# ---------------------------------------------------------------------------------------------- init


def test_a_warm_start_takes_the_best_weights(finished, tmp_path):
    tasks = {"pairs": {"head": "cosine"}, "more": {"kind": "words"}}
    settings = config(tasks, init=str(finished))
    run = session.start(settings, tmp_path / "warm")
    assert run.fresh == ["head more"]
    assert run.training.position.epoch == 0 and not run.training.optimizer.state
    for key, tensor in load_file(finished / "best" / "encoder" / "model.safetensors").items():
        assert torch.equal(run.parts.model.encoder.state_dict()[key], tensor)
    saved = load_file(finished / "best" / "heads.safetensors")
    for key, tensor in run.parts.model.heads["pairs"].state_dict().items():
        assert torch.equal(tensor, saved[f"pairs.{key}"])
    cold = session.start(config(tasks), None)
    for key, tensor in run.parts.model.heads["more"].state_dict().items():
        assert torch.equal(tensor, cold.parts.model.heads["more"].state_dict()[key])
    run_all(run)
    # the written configuration makes the same run again
    again = session.start(RunFolder(tmp_path / "warm").config, tmp_path / "again")
    run_all(again)
    same_run(tmp_path / "warm", tmp_path / "again")


def test_a_head_of_another_shape_starts_fresh(finished):
    run = session.start(config({"pairs": {"head": "linear"}, "words": {}}, init=str(finished)), None)
    assert run.fresh == ["head pairs"]


def without_encoder(**over):
    from mtk.config import make_config, merge
    from tests.toy_plugin import TREE

    return make_config(merge({k: v for k, v in TREE.items() if k != "encoder"}, over))


def test_a_warm_start_brings_its_encoder(finished, tmp_path):
    run = session.start(without_encoder(init=str(finished)), tmp_path / "warm")
    assert run.parts.model.encoder.hidden_size == 8
    assert RunFolder(tmp_path / "warm").config.encoder.name == "tiny"
    run = session.start(without_encoder(init=str(finished), model={"encoder_dropout": 0.5}), None)
    assert run.parts.model.encoder.config.hidden_dropout_prob == 0.5
    with pytest.raises(ConfigError, match="brings its own encoder, tiny, found --encoder minilm"):
        session.start(without_encoder(init=str(finished), encoder="minilm"), None)


def test_warm_starts_that_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such run folder"):
        session.start(config(init=str(tmp_path / "nowhere")), None)
    session.start(config(), tmp_path / "young")
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        session.start(config(init=str(tmp_path / "young")), None)


# ---------------------------------------------------------------------------------------------- start


def test_the_same_seed_gives_the_same_run_and_another_does_not(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run_all(session.start(config(combiner="pcgrad", train={"seed": seed}), tmp_path / name))
    same_run(tmp_path / "a", tmp_path / "b")
    assert metrics(tmp_path / "a")[0] != metrics(tmp_path / "c")[0]


def test_a_dry_session_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = session.start(config(), None)
    assert run.training.total == 15 and run.folder is None
    assert not list(tmp_path.iterdir())


def test_nothing_is_loaded_for_an_out_folder_that_will_not_do(finished, monkeypatch):
    monkeypatch.setattr(session, "assemble", None)
    with pytest.raises(ConfigError, match="mtk train --resume"):
        session.start(config(), finished)


@pytest.mark.parametrize(
    ("tasks", "over", "error", "words"),
    [
        ({"words": {"wieght": 2}}, {}, "PluginError", "'wieght'.*did you mean 'weight'"),
        ({"wrods": {}}, {}, "PluginError", "unknown task 'wrods'.*did you mean 'words'"),
        ({"words": {"head": "liner"}}, {}, "PluginError", "unknown head 'liner'.*did you mean 'linear'"),
        ({"words": {"head": "cosine"}}, {}, "ConfigError", "head 'cosine' compares two texts.*--head words=linear"),
        ({"words": {"trained": False}}, {}, "ConfigError", "no task is trained"),
        ({"type": {"kind": "words"}}, {}, "ConfigError", "task 'type': PyTorch keeps this name"),
        ({"words": {}}, {"combiner": "pcgrd"}, "PluginError", "unknown combiner 'pcgrd'.*did you mean 'pcgrad'"),
        ({"words": {}}, {"combiner": "pcgrad", "train": {"step": "one"}}, "ConfigError", "nothing to combine"),
        ({"words": {}}, {"augment": ["nothing"]}, "DataError", "augmentation 'nothing' left none"),
        ({"words": {}}, {"augment": ["sick"]}, "ConfigError", "augmentation 'sick' changed no training row of words"),
        ({"words": {"rows": 0}}, {}, "DataError", "task 'words': its train split has no rows"),
        ({"words": {"dev": 0}}, {}, "DataError", "none of its 0 dev rows has a label"),
        ({"words": {}}, {"train": {"select_on": "wrods"}}, "ConfigError", "no such task; did you mean 'words'"),
        ({"words": {}}, {"train": {"select_on": "words.acuracy"}}, "ConfigError", "did you mean 'accuracy'"),
    ],
)
def test_what_cannot_be_assembled(tmp_path, tasks, over, error, words):
    with pytest.raises(MTKError, match=words) as caught:
        session.start(config(tasks, **over), tmp_path / "out")
    assert type(caught.value).__name__ == error
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_max_train_rows(tmp_path):
    whole, few = session.start(config(), None), session.start(config(data={"max_train_rows": 5}), None)
    assert [len(rows) for rows in few.parts.train.values()] == [5, 5, 5]
    ids = [row.id for row in whole.parts.train["words"].examples]
    kept = [row.id for row in few.parts.train["words"].examples]
    assert kept == sorted(kept, key=ids.index)
    assert [len(rows) for rows in few.parts.dev.values()] == [8, 7, 5]


# ---------------------------------------------------------------------------------------------- trouble on the way


def test_a_loss_that_explodes(tmp_path):
    tasks = {"boom": {"kind": "exploding", "head": "linear"}, "words": {}}
    run = session.start(config(tasks), tmp_path / "out")
    with pytest.raises(MTKError) as caught:
        run_all(run)
    text = str(caught.value)
    assert "\n" not in text
    for word in ("task boom", "step 9", "epoch 3", "--lr (now 0.01)", "--precision fp32"):
        assert word in text, text
    assert run.folder.facts["status"] == "failed"
    again = session.resume(tmp_path / "out")
    assert (again.training.position.epoch, again.training.position.done) == (2, 8)
    assert all(p.isfinite().all() for p in again.parts.model.parameters())


def test_a_consumer_that_goes_away(tmp_path):
    run = session.start(config(), tmp_path / "out")
    events = run.run()
    next(events)
    events.close()
    assert run.folder.facts["status"] == "failed"
    run = session.start(config(train={"epochs": 1}), tmp_path / "other")
    for event in run.run():
        if isinstance(event, Finished):
            break  # leaves the generator where it stands
    assert run.folder.facts["status"] == "finished"


def full(monkeypatch, name: str) -> None:
    """No file whose name holds `name` can be written any more."""
    real = Path.write_text

    def write_text(self, *args, **more):
        if name in self.name:
            self.touch()
            raise OSError(28, os.strerror(28))
        return real(self, *args, **more)

    monkeypatch.setattr(Path, "write_text", write_text)
    real_open = Path.open

    class Full:
        def write(self, text):
            raise OSError(28, os.strerror(28))

        close = flush = fileno = lambda self: (_ for _ in ()).throw(OSError(28, os.strerror(28)))

    def opened(self, mode="r", *args, **more):
        return Full() if name in self.name and mode != "r" else real_open(self, mode, *args, **more)

    monkeypatch.setattr(Path, "open", opened)


@pytest.mark.parametrize("name", ["metrics.jsonl", "run.json", "training.json", "model.json"])
def test_no_space_left_is_one_line_and_loses_nothing(cut, tmp_path, name):
    whole = tmp_path / "whole"
    run_all(session.start(config(combiner="stateful"), whole))
    with pytest.MonkeyPatch.context() as patch:
        with pytest.raises(CheckpointError) as caught:
            run = session.resume(cut)
            full(patch, name)
            run_all(run)
        text = str(caught.value)
        assert "\n" not in text
        assert any(
            place in text for place in {"training.json": ["last"], "model.json": ["best", "last"]}.get(name, [name])
        )
        assert "no space left" in text and "stand" in text
    assert not list(cut.rglob(".*")), "litter"
    if session.load_training(cut / "last")["position"]["ended"]:  # all but run.json's last word was written
        with pytest.raises(ConfigError, match="finished"):
            session.resume(cut)
    else:
        run_all(session.resume(cut))
    same_run(whole, cut)


def test_no_space_for_a_new_run(tmp_path):
    for name in ("config.toml", "run.json"):
        out = tmp_path / name
        with pytest.MonkeyPatch.context() as patch:
            full(patch, name)
            with pytest.raises(ConfigError, match="no space left"):
                session.start(config(), out)
        assert not list(out.iterdir())
        session.start(config(), out)


def tmpfs(folder: Path, size: str) -> bool:
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    return made.returncode == 0


def test_a_file_system_that_is_really_full(tmp_path):
    place, whole = tmp_path / "small", tmp_path / "whole"
    if not tmpfs(place, "4m"):
        pytest.skip("tmpfs cannot be mounted here")
    try:
        settings = config(combiner="pcgrad")
        run_all(session.start(settings, whole))
        path = stopped(settings, place / "run", 7)
        free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
        for room in (0, 4096, 16384, 32768, 49152):  # so that another file is the one that fails
            run = session.resume(path)
            (place / "ballast").write_bytes(b"x" * (free - room))
            with pytest.raises(CheckpointError) as caught:
                run_all(run)
            assert "no space left" in str(caught.value) and "\n" not in str(caught.value), str(caught.value)
            (place / "ballast").unlink()
            assert not list(path.rglob(".*")), "litter"
        run_all(session.resume(path))
        same_run(whole, path)
    finally:
        subprocess.run(["umount", str(place)], check=True)
