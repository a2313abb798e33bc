"""What is frozen, what rests at first, and who learns at which rate."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from mtk import session
from mtk.assembly import assemble
from mtk.device import Hardware
from mtk.display import Display, epoch_line, show_plan
from mtk.errors import ConfigError
from mtk.gradients import GradientEngine, GradientReport
from mtk.training import EpochDone, Finished, StepDone, Training
from mtk_encoders.tiny import tiny_bert
from tests.test_training import record_gradients
from tests.toy_plugin import config, still
from tests.toys import ToyEncoder

pytestmark = pytest.mark.usefixtures("toys")
CPU = Hardware("cpu", "fp32", 1)
THREE = {"layers": 3, "pooling": "pooler"}  # depths 0, 1, 2, 3, and 4 for the pooler


def training(encoder=None, **over) -> Training:
    return Training(assemble(config(encoder=THREE if encoder is None else encoder, **over), CPU))


def copy_of(training: Training) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in training.parts.model.named_parameters()}


def moved(training: Training, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, p in training.parts.model.named_parameters() if not torch.equal(p, before[name])}


def encoder_names(training: Training, *depths: int) -> set[str]:
    return {f"encoder.{name}" for name, depth in training.parts.model.encoder.depths().items() if depth in depths}


# ---------------------------------------------------------------------------------------------- depths


def test_the_depths_of_our_bert():
    encoder = tiny_bert(layers=2, pooling="pooler")
    depths = encoder.depths()
    assert encoder.layer_count == 2
    assert list(depths) == [name for name, _ in encoder.named_parameters()]
    for name, depth in depths.items():
        starts = {"embeddings.": 0, "encoder.layer.0.": 1, "encoder.layer.1.": 2, "pooler.": 3}
        assert depth == next(d for start, d in starts.items() if name.startswith(start)), name


def test_an_encoder_without_numbered_layers_is_all_embeddings():
    encoder = ToyEncoder()
    assert encoder.layer_count == 0 and set(encoder.depths().values()) == {0}


TWO = {"num_hidden_layers": 2}
KINDS = {
    "bert": (TWO, {"model.embeddings"}, "model.encoder.layer.{}.", set()),
    "roberta": (TWO, {"model.embeddings"}, "model.encoder.layer.{}.", set()),
    "distilbert": ({"n_layers": 2}, {"model.embeddings"}, "model.transformer.layer.{}.", set()),
    "electra": (TWO, {"model.embeddings", "model.embeddings_project"}, "model.encoder.layer.{}.", set()),
    "gpt2": ({"n_layer": 2}, {"model.wte", "model.wpe"}, "model.h.{}.", {"model.ln_f"}),
    "t5": ({"num_layers": 2}, {"model.embed_tokens"}, "model.block.{}.", {"model.final_layer_norm"}),
    "bart": (
        {
            "d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2,
            "decoder_attention_heads": 2, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40,
        },
        {"model.embed_tokens", "model.embed_positions", "model.layernorm_embedding"},  # the norm is declared last
        "model.layers.{}.",
        set(),
    ),
}  # fmt: skip


@pytest.fixture
def model_of(tmp_path, monkeypatch):
    """Loads an untrained transformers encoder of a kind."""
    pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")
    from mtk_encoders.hf import hf
    from tests import test_mtk_encoders_hf as theirs

    def made(kind: str):
        settings = {**theirs.MODELS.get(kind, {}), **KINDS[kind][0]}
        monkeypatch.setitem(theirs.MODELS, kind, settings)
        return hf(source=str(theirs.checkpoint(tmp_path, kind)))

    return made


@pytest.mark.parametrize("kind", KINDS)
def test_the_depths_of_models_through_transformers(kind, model_of):
    _, first, layer, last = KINDS[kind]
    encoder = model_of(kind)
    depths = encoder.depths()
    assert encoder.layer_count == 2 and set(depths) == {name for name, _ in encoder.named_parameters()}
    for number in (0, 1):
        own = {name for name in depths if name.startswith(layer.format(number))}
        assert own and own == {name for name, depth in depths.items() if depth == number + 1}
    for depth, starts in ((0, first), (3, last)):
        found = {name for name, d in depths.items() if d == depth}
        assert all(any(name.startswith(f"{start}.") for start in starts) for name in found), found
        assert all(any(name.startswith(f"{start}.") for name in found) for start in starts), starts


def test_tied_embeddings_are_frozen_with_their_twin(model_of):
    encoder = model_of("t5")  # the encoder's word embedding is also the decoder's and the whole model's
    parts = assemble(config({"words": {}}, model={"freeze": "embeddings"}), CPU, encoder=encoder)
    assert not encoder._whole[0].shared.weight.requires_grad
    train = Training(parts)
    before = copy_of(train)
    list(train.run())
    assert {n for n in before if n.startswith("encoder.")} - moved(train, before) == {
        "encoder.model.embed_tokens.weight"
    }


# ---------------------------------------------------------------------------------------------- freezing


@pytest.mark.parametrize(
    ("freeze", "learns"),
    [
        (None, (0, 1, 2, 3, 4)),
        ("none", (0, 1, 2, 3, 4)),
        ("embeddings", (1, 2, 3, 4)),
        (0, (1, 2, 3, 4)),
        (1, (2, 3, 4)),
        ("2", (3, 4)),
        (3, (4,)),
        ("encoder", ()),
    ],
)
def test_what_freeze_leaves_alone(freeze, learns):
    run = training(model={"freeze": freeze})
    before = copy_of(run)
    list(run.run())
    heads = {name for name in before if name.startswith("heads.")}
    assert moved(run, before) == encoder_names(run, *learns) | heads
    assert set(run.state_dict()["moments"]) == encoder_names(run, *learns) | heads


@pytest.mark.parametrize(("freeze", "found"), [(4, "3 layers"), (99, "3 layers")])
def test_more_layers_than_there_are(freeze, found, tmp_path, monkeypatch):
    monkeypatch.setattr("mtk.assembly.tokenise", None)  # it is said before the rows are tokenised
    with pytest.raises(ConfigError, match=rf"--freeze {freeze}: expected at most the encoder's {found}"):
        session.start(config(encoder=THREE, model={"freeze": freeze}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_freezing_changes_no_gradient_of_the_rest():
    seen = []
    for freeze in (None, 2):
        run = Training(assemble(still(encoder=THREE, model={"freeze": freeze}, optim={"max_norm": 0.0}), CPU))
        grads = record_gradients(run)
        next(run.run())
        seen.append(grads[0])
    whole, part = seen
    assert set(whole) - set(part) == {name for name in whole if name in encoder_names(run, 0, 1, 2)}
    for name, grad in part.items():
        torch.testing.assert_close(grad, whole[name], rtol=1e-5, atol=1e-7)


def test_a_gramian_is_that_of_what_learns():
    grams = []
    for freeze in (None, 3):
        run = Training(assemble(still(encoder=THREE, model={"freeze": freeze}, combiner="pcgrad"), CPU))
        grams.append(next(run.run()).report.gram)
    whole, pooler = grams
    assert (pooler.diagonal() < whole.diagonal()).all()
    assert (pooler.diagonal() > 0).tolist() == [True, True, False]  # tags read tokens, which pass by the pooler


@pytest.mark.parametrize("combiner", ["pcgrad", "graddrop", "uncertainty", "famo", "stateful"])
def test_with_all_frozen_the_heads_learn_on(combiner):
    run = training(combiner=combiner, model={"freeze": "encoder"}, train={"accumulate": 2, "nonfinite": "skip"})
    assert run.parts.model.shared_parameters() == []
    before = copy_of(run)
    list(run.run())
    assert moved(run, before) == {name for name in before if name.startswith("heads.")}


def test_where_nothing_learns_there_is_no_run(tmp_path):
    fixed = {"pairs": {"head": {"name": "cosine", "learned": "false"}}}
    with pytest.raises(ConfigError, match="nothing is trained: the encoder is frozen"):
        session.start(config(fixed, model={"freeze": "encoder"}), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    run = session.start(config(fixed, model={"freeze": "encoder", "projection": "hidden"}), None)
    assert len(run.parts.model.shared_parameters()) == 2


# ---------------------------------------------------------------------------------------------- learning rates


def rates_of(run: Training) -> dict[str, tuple[float, float]]:
    names = {p: name for name, p in run.parts.model.named_parameters()}
    groups = run.optimizer.param_groups
    return {names[p]: (group["peak_lr"], group["weight_decay"]) for group in groups for p in group["params"]}


def test_layers_learn_the_slower_the_deeper_they_lie():
    run = training(
        optim={"lr": 0.01, "layer_decay": 0.5, "head_lr": 0.04, "weight_decay": 0.1}, model={"projection": 4}
    )
    wanted = {0: 0.000625, 1: 0.00125, 2: 0.0025, 3: 0.005, 4: 0.01}  # lr * decay ** (4 - depth), all exact
    rates, parameters = rates_of(run), dict(run.parts.model.named_parameters())
    assert set(rates) == set(parameters)
    for depth, lr in wanted.items():
        assert {rates[name][0] for name in encoder_names(run, depth)} == {lr}
    for name, (lr, decay) in rates.items():
        assert decay == (0.1 if parameters[name].dim() > 1 else 0.0), name  # matrices only, at every rate
        if name.startswith("heads."):
            assert lr == 0.04
        if name.startswith("projection."):
            assert lr == 0.01
    assert len(run.optimizer.param_groups) == 2 * 6


def test_without_them_all_learn_alike():
    run = training(optim={"lr": 0.01, "weight_decay": 0.1})
    assert [(g["peak_lr"], g["weight_decay"]) for g in run.optimizer.param_groups] == [(0.01, 0.1), (0.01, 0.0)]


def test_the_schedule_moves_every_rate():
    run = training(optim={"lr": 0.01, "layer_decay": 0.5, "head_lr": 0.04}, scheduler="linear:warmup=5")
    events = run.run()
    for factor in (0.2, 0.4, 0.6):
        done = next(events)
        assert done.lr == pytest.approx(0.01 * factor)
        for group in run.optimizer.param_groups:
            assert group["lr"] == group["peak_lr"] * factor


def test_a_rate_is_what_a_parameter_moves_by():
    """Adam's first step is the learning rate, whatever the gradient."""
    optim = {"lr": 0.001, "layer_decay": 0.5, "head_lr": 0.1, "weight_decay": 0.0}
    run = Training(assemble(still(encoder=THREE, optim=optim, scheduler="constant"), CPU))
    before = copy_of(run)
    next(run.run())
    now, rates = dict(run.parts.model.named_parameters()), rates_of(run)
    for start in ("encoder.encoder.layer.0.output.dense", "encoder.pooler.dense", "heads.words"):
        name = next(name for name in now if name.startswith(start) and name.endswith("weight"))
        step = (now[name].detach() - before[name]).abs().max()
        assert step.item() == pytest.approx(rates[name][0], rel=0.01)


# ---------------------------------------------------------------------------------------------- head warm-up


@pytest.mark.parametrize("combiner", ["sum", "pcgrad", "graddrop", "famo"])
def test_the_encoder_rests_and_then_learns(combiner):
    run = training(combiner=combiner, model={"head_warmup": 2, "projection": 6, "freeze": 1}, train={"epochs": 4})
    others = {n for n in copy_of(run) if n.startswith(("heads.", "projection."))}
    learns = encoder_names(run, 2, 3, 4)
    before = copy_of(run)
    for event in run.run():
        if isinstance(event, EpochDone):
            late = event.epoch >= 2
            assert moved(run, before) == others | (learns if late else set()), event.epoch
            assert set(run.state_dict()["moments"]) == others | (learns if late else set())
            before = copy_of(run)


def test_the_engine_follows_the_encoder(monkeypatch):
    counts = []
    real = GradientEngine.__init__

    def init(self, shared, *args, **more):
        counts.append(len(shared))
        real(self, shared, *args, **more)

    monkeypatch.setattr(GradientEngine, "__init__", init)
    run = training(combiner="pcgrad", model={"head_warmup": 1})
    list(run.run())
    assert counts == [0, len(encoder_names(run, 0, 1, 2, 3, 4))]  # no new one in the third epoch


@pytest.mark.parametrize("warmup", [0, 1])
def test_what_somebody_freezes_between_epochs_stays_frozen(warmup):
    run = training(model={"head_warmup": warmup}, train={"epochs": 4})
    name = "encoder.embeddings.word_embeddings.weight"
    parameter = dict(run.parts.model.named_parameters())[name]
    for event in run.run():
        if isinstance(event, EpochDone) and event.epoch == 1:
            parameter.requires_grad_(False)
            before = copy_of(run)
    assert name not in moved(run, before)
    assert encoder_names(run, 1) <= moved(run, before)


def test_a_head_without_parameters_sits_a_warm_up_out():
    fixed = {"pairs": {"head": {"name": "cosine", "learned": "false"}}, "words": {}}
    for combiner in ("sum", "pcgrad", "famo"):
        run = Training(assemble(config(fixed, combiner=combiner, model={"head_warmup": 1}), CPU))
        assert run.parts.model.head_parameters()["pairs"] == []
        before = copy_of(run)
        assert list(run.run())[-1] == Finished("epochs")
        assert encoder_names(run, 0, 1, 2) <= moved(run, before)


def test_patience_waits_for_the_encoder():
    tasks = {"a": {"kind": "scripted", "script": [3.0, 1.0, 1.0, 1.0, 2.0, 2.0, 9.0]}}
    settings = {"epochs": 7, "patience": 2, "select_on": "a.scripted"}
    epochs = {}
    for warmup in (0, 1, 3, 7):
        run = Training(assemble(config(tasks, train=settings, model={"head_warmup": warmup}), CPU))
        events = list(run.run())
        epochs[warmup] = (len([e for e in events if isinstance(e, EpochDone)]), events[-1])
    assert epochs == {
        0: (3, Finished("patience")),
        1: (3, Finished("patience")),
        3: (5, Finished("patience")),  # the 4th and the 5th epoch are the first two that count
        7: (7, Finished("epochs")),
    }


# ---------------------------------------------------------------------------------------------- what is said of it


def plan(**over) -> str:
    console = Console(file=io.StringIO(), width=400, color_system=None, markup=False)
    show_plan(session.start(config(encoder=THREE, **over), None), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_plan_says_what_learns():
    encoder = tiny_bert(hidden_size=8, layers=3, pooling="pooler")
    sizes = {depth: 0 for depth in range(5)}
    for name, p in encoder.named_parameters():
        sizes[encoder.depths()[name]] += p.numel()
    whole = sum(sizes.values())
    printed = plan()
    assert f"encoder tiny: {whole:,} shared parameters | combiner sum" in printed
    assert "| lr 0.01 | seed 1" in printed and "rests" not in printed and "projection" not in printed
    printed = plan(model={"freeze": 1, "head_warmup": 2, "projection": 5}, optim={"head_lr": 0.1, "layer_decay": 0.9})
    frozen = sizes[0] + sizes[1]
    assert f": {whole + 45:,} shared parameters, {frozen:,} of them frozen | projection to 5 units |" in printed
    assert "| the encoder rests for the first 2 epochs |" in printed
    assert "| lr 0.01 (heads 0.1, times 0.9 a layer down) |" in printed
    assert "rests throughout" in plan(model={"head_warmup": 3})
    assert f", {whole:,} of them frozen |" in plan(model={"freeze": "encoder"})
    assert "of them frozen" not in plan(model={"head_warmup": 1})
    assert "without a better aggregate by more than 0.01" in plan(train={"patience": 1, "min_gain": 0.01})
    assert "by more than" not in plan(train={"patience": 1})


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({}, "all in one backward pass"),
        ({"head_warmup": 1}, "none while the encoder rests"),
        ({"head_warmup": 1, "projection": 4}, "all in one backward pass"),
        ({"freeze": "encoder"}, "none, for nothing shared is trained"),
    ],
)
def test_the_plan_says_what_gradients_by_task_there_are(model, says):
    assert f"gradients by task: {says}\n" in plan(combiner="pcgrad", model=model)


def test_an_epoch_s_line_has_the_scores_on_training_rows():
    for some, wanted in ((0, False), (5, True)):
        events = list(training(train={"score_train": some, "epochs": 1}).run())
        (done,) = (event for event in events if isinstance(event, EpochDone))
        line = epoch_line(done, 1)
        assert ("on training rows" in line) == wanted
        if done.train_scores is not None:
            assert f" | on training rows words {done.train_scores.tasks['words']['accuracy']:.4f} pairs " in line
        assert f" | dev words {done.scores.tasks['words']['accuracy']:.4f} pairs " in line


def test_no_estimate_is_made_of_steps_without_the_encoder(tmp_path: Path):
    for warmup, wanted in ((0, True), (1, False)):
        run = session.start(config(model={"head_warmup": warmup}), None)
        console = Console(file=io.StringIO(), width=200, color_system=None, markup=False)
        display = Display(run, console)
        for step in range(25):
            report = GradientReport(("words",), torch.ones(1))
            display.show(StepDone(0, step + 1, 30, step + 1, 90, {"words": 1.0}, 1e-4, 8, report))
        assert isinstance(console.file, io.StringIO)
        assert ("estimated" in console.file.getvalue()) == wanted
