"""Pruned attention heads: what a head matters, the encoder without some, and `mtk prune` on a tiny run."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch import Tensor, nn
from typer.testing import CliRunner, Result

import mtk
from mtk import CheckpointError, ConfigError, MTKError, StepInfo, session
from mtk.assembly import assemble
from mtk.cli.app import make_app
from mtk.config import make_config
from mtk.data import fuse
from mtk.device import Hardware
from mtk.gramian import gramian
from mtk.training import Training
from mtk_encoders.bert import BertEncoder
from mtk_encoders.builders import bert
from mtk_encoders.config import BertConfig
from mtk_encoders.packing import Packing
from mtk_encoders.pruning import choose, importances, sample, wanted_count, without
from mtk_encoders.tiny import initialise, tiny_bert
from tests.test_mtk_encoders import batch_of
from tests.test_training import FOUR
from tests.toy_plugin import config as toy_config

CONFIG: dict[str, Any] = {
    "tasks": {"sst": {}, "sts": {"head": {"name": "cosine"}}, "quora": {"trained": False}},
    "encoder": {"name": "tiny"},
    "data": {"max_train_rows": 32, "sample": "always"},
    "train": {"epochs": 1, "precision": "fp32", "device": "cpu", "threads": 1},
}


def four_heads(pooling: str = "mean", dropout: float = 0.0, layers: int = 3) -> BertEncoder:
    """A tiny BERT with more heads than `tiny` has, and biases that are not zero."""
    config = BertConfig(
        vocab_size=406, hidden_size=32, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=40,
        max_position_embeddings=64,
    )  # fmt: skip
    encoder = BertEncoder(config, tiny_bert().tokenizer, pooling=pooling, dropout=dropout)
    generator = torch.Generator().manual_seed(0)
    initialise(encoder, 0.2, generator)
    for p in encoder.parameters():
        if p.dim() == 1:
            nn.init.normal_(p, mean=float(p.detach().mean()), std=0.1, generator=generator)
    return encoder.eval()


def gated(encoder: BertEncoder, gates: list[Tensor]) -> list[Any]:
    """Hooks that multiply each head's output by its gate [H]."""

    def gate(layer: int) -> Any:
        size = encoder.config.head_size
        return lambda _m, _i, output: output * gates[layer].repeat_interleave(size)

    layers = encoder.encoder["layer"]
    return [m.attention["self"].register_forward_hook(gate(i)) for i, m in enumerate(layers)]


# ---------------------------------------------------------------------------------------------- without some heads


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
@pytest.mark.parametrize("columns", [[[1], [], [0, 2, 3]], [[0, 1, 2], [0, 1, 2], [3]]])
def test_a_pruned_forward_is_the_masked_one(pooling, columns) -> None:
    encoder = four_heads(pooling)
    smaller = without(encoder, columns)
    batch = batch_of(encoder)
    gates = [torch.tensor([float(h not in gone) for h in range(4)]) for gone in columns]
    hooks = gated(encoder, gates)
    with torch.no_grad():
        wanted, found = encoder(batch), smaller(batch)
    torch.testing.assert_close(found.pooled, wanted.pooled, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.tokens, wanted.tokens, atol=1e-5, rtol=0)
    for hook in hooks:
        hook.remove()
    assert not torch.allclose(encoder(batch).pooled, wanted.pooled, atol=1e-3)
    gone = sum(map(len, columns))
    lost = sum(p.numel() for p in encoder.parameters()) - sum(p.numel() for p in smaller.parameters())
    assert lost == gone * (4 * 32 * 8 + 3 * 8)  # rows of q, k, v with their biases; columns of the output


def test_pruning_twice_is_pruning_at_once(tmp_path: Path) -> None:
    encoder = four_heads()
    once = without(encoder, [[0, 2], [1], []])
    twice = without(without(encoder, [[0], [1], []]), [[1], [], []])  # the second column is now that of head 2
    assert twice.config == once.config and twice.config.pruned_heads == {0: (0, 2), 1: (1,)}
    assert [twice.config.heads(layer) for layer in range(3)] == [[1, 3], [0, 2, 3], [0, 1, 2, 3]]
    batch = batch_of(encoder)
    assert torch.equal(once(batch).pooled, twice(batch).pooled)


def test_a_pruned_encoder_is_saved_and_loaded(tmp_path: Path) -> None:
    smaller = without(four_heads("cls", dropout=0.2), [[0, 2], [], [1]])
    smaller.save(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["pruned_heads"] == {"0": [0, 2], "2": [1]} and saved["num_attention_heads"] == 4
    name, options = smaller.spec
    again = mtk.build("encoder", name, source=str(tmp_path), **options)
    assert again.config == smaller.config and again.spec == smaller.spec
    batch = batch_of(smaller)
    assert torch.equal(again.eval()(batch).pooled, smaller(batch).pooled)
    assert torch.equal(bert(source=str(tmp_path), dropout=0.0, pooling="cls")(batch).pooled, smaller(batch).pooled)


@pytest.mark.parametrize(
    ("pruned", "says"),
    [
        ({"0": [0, 1, 2, 3]}, r"not all, found 0: \[0, 1, 2, 3\]"),
        ({"3": [0]}, "expected some heads of 3 layers of 4 heads"),
        ({"1": [4]}, "expected some heads of 3 layers of 4 heads"),
        ({"1": ["0"]}, "pruned_heads must be lists of heads by layer"),
        ([1], "pruned_heads must be lists of heads by layer"),
        ({"0": [1]}, r"misshapen: .*query"),
    ],
)
def test_pruned_heads_that_cannot_be(pruned, says, tmp_path: Path) -> None:
    four_heads().save(tmp_path)
    file = tmp_path / "config.json"
    assert "pruned_heads" not in file.read_text()
    file.write_text(json.dumps({**json.loads(file.read_text()), "pruned_heads": pruned}))
    with pytest.raises(CheckpointError, match=says) as caught:
        bert(source=str(tmp_path))
    assert "\n" not in str(caught.value)


def test_empty_pruned_heads_are_none(tmp_path: Path) -> None:
    four_heads().save(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "pruned_heads": {}}))
    assert bert(source=str(tmp_path)).config == four_heads().config.with_dropout(0.0)


def test_layers_of_as_many_heads_share_their_indices() -> None:
    mask = torch.arange(5) < torch.tensor([5, 2])[:, None]
    packing = Packing(mask, 4, packed=True)
    assert packing.with_heads(4) is packing and packing.with_heads(2) is packing.with_heads(2)
    assert packing.with_heads(2).places is packing.places
    for heads in (4, 2, 1):
        tokens = torch.randn(7, 3 * heads * 8)
        own = packing.with_heads(heads)
        assert own.split(tokens, 3).shape == (3, 2 * heads, 5, 8)
        assert torch.equal(own.join(own.split(tokens, 3)), tokens)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_gradients_by_task_are_the_plain_ones(pooling, toys) -> None:
    """One backward serves all tasks for a pruned encoder too."""
    encoder = without(four_heads(pooling, dropout=0.1), [[1], [0, 1, 3], []])
    parts = assemble(toy_config(tasks=FOUR, combiner="pcgrad"), Hardware("cpu", "fp32", 1), encoder=encoder)
    training = Training(parts)
    assert training.slow_parameters == []
    shared = parts.model.shared_parameters()
    rows = {name: torch.arange(3).numpy() for name in parts.train}
    batch = fuse(parts.train, rows, encoder.tokenizer.pad_id)

    def losses() -> dict[str, Tensor]:
        torch.manual_seed(4)
        return parts.model.losses(batch, parts.model(batch))

    plain = losses()
    wanted = [torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True) for loss in plain.values()]
    engine = training.engine()
    engine.start(StepInfo(tuple(plain), 0, 0, torch.Generator().manual_seed(0)))
    with engine.watch(batch.ranges):
        found = losses()
    engine.backward(found)
    report = engine.finish()
    exact = gramian(wanted)
    torch.testing.assert_close(report.gram, exact, rtol=1e-4, atol=1e-4 * float(exact.max()))
    weights = report.weights.tolist()
    for place, p in enumerate(shared):
        right = sum(w * row[place] for w, row in zip(weights, wanted, strict=True) if row[place] is not None)
        torch.testing.assert_close(p.grad, right, rtol=1e-3, atol=1e-5)


# ---------------------------------------------------------------------------------------------- which heads


def test_the_least_important_go_within_the_budget() -> None:
    importance = [torch.tensor(row) for row in ([0.1, 0.2, 0.3], [0.15, 0.9, 0.9], [0.05, 0.05, 0.8])]
    assert choose(importance, 1) == [[], [], [0]]
    assert choose(importance, 3) == [[0], [], [0, 1]]
    assert choose(importance, 4) == [[0], [0], [0, 1]]
    assert choose(importance, 3, per_layer=1) == [[0], [0], [0]]
    assert choose(importance, 6) == [[0, 1], [0, 1], [0, 1]]  # one stays in every layer
    with pytest.raises(ConfigError, match="7 of 9 heads cannot go, only 6 can: one stays in each of 3 layers; ask"):
        choose(importance, 7)
    with pytest.raises(ConfigError, match=r"only 3 can: .* and at most 1 of a layer may go"):
        choose(importance, 4, per_layer=1)
    with pytest.raises(ConfigError, match="--per-layer: expected at least 1, found 0"):
        choose(importance, 1, per_layer=0)


def test_how_many() -> None:
    assert [wanted_count(144, None, 0.25), wanted_count(10, None, 0.3), wanted_count(10, 4, 0.3)] == [36, 3, 4]
    for heads, share, says in (
        (0, 0.3, "--heads"),
        (None, 0.0, "--share"),
        (None, 1.0, "--share"),
        (None, 0.05, "none"),
    ):
        with pytest.raises(ConfigError, match=says):
            wanted_count(10, heads, share)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    for _ in session.start(make_config(CONFIG), out).run():
        pass
    return out


def test_importance_is_the_gradient_of_a_gate_row_by_row(run: Path) -> None:
    """Against one forward a row with real gates, by autograd and by finite differences; sst reads texts, sts two."""
    trained = mtk.load(run, device="cpu", threads=1)
    trained.model.encoder = encoder = four_heads()  # its heads read 32 features as well
    rows = {name: sample(name, trained.examples(name, "train").examples, 7, seed=1) for name in ("sst", "sts")}
    found = importances(trained, rows)

    gates = [torch.ones(4, requires_grad=True) for _ in range(3)]
    hooks = gated(encoder, gates)
    wanted = [torch.zeros(4, dtype=torch.float64) for _ in range(3)]
    rough = [torch.zeros(4, dtype=torch.float64) for _ in range(3)]
    for name, examples in rows.items():
        head = trained.model.head(name)

        def loss(example: mtk.Example, head: mtk.Head = head) -> Tensor:
            both = [example.text] if example.pair is None else [example.text, example.pair]
            features = [encoder(batch_of(encoder, [(text, None)], encoder.max_length)) for text in both]
            return head.loss(head(*features), head.target.collate([example.label], 1))

        for example in examples:
            grads = torch.autograd.grad(loss(example), gates)
            for i, grad in enumerate(grads):
                wanted[i] += grad.abs() / len(examples)
            with torch.no_grad():
                for i, gate in enumerate(gates):
                    for h in range(4):
                        gate[h] += 1e-2
                        above = float(loss(example))
                        gate[h] -= 2e-2
                        rough[i][h] += abs(above - float(loss(example))) / 2e-2 / len(examples)
                        gate[h] += 1e-2
    for scores, exact, near in zip(found, wanted, rough, strict=True):
        torch.testing.assert_close(scores, exact / exact.norm(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(scores, near / near.norm(), atol=0.02, rtol=0)
    for hook in hooks:
        hook.remove()
    assert all(p.grad is None for p in encoder.parameters())


def test_importance_weighs_a_task_as_training_did(run: Path) -> None:
    trained = mtk.load(run, device="cpu", threads=1)
    rows = {name: sample(name, trained.examples(name, "train").examples, 5, seed=1) for name in ("sst", "sts")}
    alone = importances(trained, {"sts": rows["sts"]})
    trained.config.tasks["sst"].weight = 0.0
    for scores, wanted in zip(importances(trained, rows), alone, strict=True):
        torch.testing.assert_close(scores, wanted)


def test_the_sample_of_rows_is_seeded_and_labelled(run: Path) -> None:
    rows = mtk.load(run, device="cpu", threads=1).examples("sst", "train").examples
    some = sample("sst", rows, 9, seed=3)
    assert some == sample("sst", rows, 9, seed=3) != sample("sst", rows, 9, seed=4) and len(set(some)) == 9
    assert len(sample("sst", rows, 10**6, seed=3)) == len(rows)
    assert sample("sst", [mtk.Example("a", "text")], 5, seed=3) == []


# ---------------------------------------------------------------------------------------------- the command


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(make_app(), [str(argument) for argument in arguments])


def ok(*arguments: str | Path) -> str:
    result = call(*arguments)
    assert result.exception is None, result.output
    return result.stdout


def fault(*arguments: str | Path) -> str:
    result = call(*arguments)
    assert isinstance(result.exception, MTKError), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


def test_prune_makes_a_run_that_every_command_takes(run: Path, tmp_path: Path) -> None:
    out, quick = tmp_path / "pruned", ("--device", "cpu", "--threads", "1")
    shown = ok("prune", run, "--out", out, "--heads", "2", "--per-layer", "1", "--rows", "20", *quick)
    facts = json.loads((out / "run.json").read_text())
    pruned = facts["pruned"]
    assert [len(layer["pruned"]) for layer in pruned["layers"]] == [1, 1]
    assert pruned["rows"] == {"sst": 20, "sts": 20}, "only trained tasks tell"
    assert (facts["status"], facts["best_epoch"], pruned["from"]) == ("finished", 1, str(run))
    assert pruned["parameters"] == {"before": 34304, "after": 34304 - 2 * (4 * 32 * 16 + 3 * 16)}
    before = json.loads((run / "run.json").read_text())["scores"]
    assert pruned["scores_before"]["tasks"]["sst"] == pytest.approx(before["tasks"]["sst"])
    for said in (
        "built-in sample",
        "layer 0  0: ",
        "*",
        "Pruned 2 of 4 heads (layer 0: ",
        "34,304 before, 30,112 after",
    ):
        assert said in shown
    assert f"aggregate: {before['aggregate']:.4f} -> {facts['scores']['aggregate']:.4f}" in shown

    assert (out / "config.toml").read_text() == (run / "config.toml").read_text()
    assert (out / "best" / "heads.safetensors").read_bytes() == (run / "best" / "heads.safetensors").read_bytes()
    scores = json.loads(ok("evaluate", out, "--json", *quick))
    assert scores["aggregate"] == pytest.approx(facts["scores"]["aggregate"])
    assert "sst" in ok("predict", out, "--task", "sst", "--text", "a good film")
    line = next(row for row in json.loads(ok("runs", out, "--json")))
    assert line["status"] == "finished" and line["problem"] is None

    tell = "To train it on: mtk "
    again = shown[shown.index(tell) + len(tell) :].split()
    ok(*again)
    tuned = Path(again[-1])
    encoder = json.loads((tuned / "best" / "encoder" / "config.json").read_text())
    assert {int(layer) for layer in encoder["pruned_heads"]} == {0, 1}
    assert tomllib.loads((tuned / "config.toml").read_text())["init"] == str(out)
    assert "so there is nothing to prune" in fault("prune", tuned, "--out", tmp_path / "more", *quick)


def test_a_share_of_the_heads(run: Path, tmp_path: Path) -> None:
    ok("prune", run, "--out", tmp_path / "a", "--share", "0.5", "--rows", "5", "--device", "cpu")
    ok("prune", run, "--out", tmp_path / "b", "--rows", "5", "--device", "cpu")
    gone = [
        sum(
            len(layer["pruned"]) for layer in json.loads((tmp_path / name / "run.json").read_text())["pruned"]["layers"]
        )
        for name in "ab"
    ]
    assert gone == [2, 1]


def test_mistakes_are_one_line_and_leave_nothing(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    says = {
        ("--heads", "1", "--share", "0.5"): "--heads and --share: expected one of them, found both",
        ("--heads", "3"): "3 of 4 heads cannot go, only 2 can",
        ("--heads", "2", "--per-layer", "0"): "--per-layer: expected at least 1",
        ("--share", "0.1"): "that is none of 4 heads",
        ("--rows", "0"): "--rows: expected at least 1, found 0",
        ("--data", str(tmp_path / "nowhere")): "nowhere",
    }
    for options, said in says.items():
        assert said in fault("prune", run, "--out", out, "--device", "cpu", *options)
        assert not out.exists()
    assert "no such run folder" in fault("prune", tmp_path / "nothing", "--out", out)
    assert f"--out {run}: expected a new or empty folder" in fault("prune", run, "--out", run)
    shutil.copytree(run, tmp_path / "open")
    facts = json.loads((run / "run.json").read_text())
    (tmp_path / "open" / "run.json").write_text(json.dumps({**facts, "status": "stopped"}))
    assert "expected a finished run, found status stopped" in fault("prune", tmp_path / "open", "--out", out)
    assert not out.exists()


def test_another_encoder_is_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = mtk.load

    class Other(nn.Module):
        spec = ("hf", {})

    def load(*arguments: Any, **settings: Any) -> mtk.TrainedModel:
        trained = plain(*arguments, **settings)
        trained.model.encoder = Other()
        return trained

    monkeypatch.setattr("mtk.inference.load", load)
    assert "only mtk's own BERT can be pruned" in fault("prune", run, "--out", tmp_path / "out")
    assert "found encoder 'hf'" in fault("prune", run, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_failure_on_the_way_leaves_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: BertEncoder, folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(BertEncoder, "save", full)
    assert "writing failed (No space left on device)" in fault("prune", run, "--out", tmp_path / "out", "--rows", "2")
    assert not (tmp_path / "out").exists()


def test_it_is_a_command_of_the_plugin() -> None:
    assert "prune" in {command.name for command in make_app().registered_commands}
    assert isinstance(make_app(), typer.Typer)
