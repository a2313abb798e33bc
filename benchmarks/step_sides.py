"""The sides of `step`, each the whole work of one fresh process. A side that is not mtk's never imports mtk."""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import plain
import torch
from harness import JSON
from plain import TASKS, Multitask, Rows
from torch import Tensor


def run(spec: JSON) -> JSON:
    """One side's answer: tokens, seconds, steps, peak of the timed steps and of the whole process in bytes."""
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(spec.get("seed", 0))
    sides = {
        "prepare": prepare,
        "agreement": agreement,
        "naive fp32 loop": naive,
        "HF Trainer": trainer,
        "HF bucketed bf16 loop": bucketed,
        "sentence-transformers, STS": sentences,
        "mtk bf16, STS": ours_sts,
    }
    return sides.get(spec["side"], ours)(spec)


def prepare(spec: JSON) -> JSON:
    plain.prepare(Path(spec["folder"]), spec["encoder"], spec["data"])
    return {}


def measure(spec: JSON, step: Callable[[], int]) -> JSON:
    """Warms up, then times the steps; `step` makes one and says how many real tokens it had."""
    for _ in range(spec["warm"]):
        step()
    harness.synchronise(spec["device"])
    before = harness.peak(spec["device"])
    harness.reset_peak(spec["device"])
    begin = time.perf_counter()
    tokens = sum(step() for _ in range(spec["steps"]))
    harness.synchronise(spec["device"])
    return answer(spec, tokens, time.perf_counter() - begin, before)


def answer(spec: JSON, tokens: int, seconds: float, before: int) -> JSON:
    peak = harness.peak(spec["device"])
    return {
        "tokens": tokens,
        "seconds": seconds,
        "steps": spec["steps"],
        "peak": peak,
        "peak whole": max(before, peak),
    }


# ---------------------------------------------------------------------------------------------- mtk


def ours(spec: JSON, tasks: tuple[str, ...] = TASKS, **flat: Any) -> JSON:
    from ours import Stepper, start

    flat = {"precision": spec["precision"], "combiner": spec["combiner"], **flat}
    side = Stepper(start(spec, tasks, seed=spec["seed"], batch_size=spec["batch"], **flat))
    side.run(spec["warm"])
    before = harness.peak(spec["device"])
    harness.reset_peak(spec["device"])
    seconds = side.run(spec["steps"])
    return answer(spec, side.tokens(side.done[spec["warm"] :]), seconds, before)


def ours_sts(spec: JSON) -> JSON:
    """The cosine of two texts encoded by themselves, squared error: nearly what sentence-transformers does."""
    return ours(spec | {"precision": "bf16", "combiner": "sum"}, ("sts",), head="cosine")


# ---------------------------------------------------------------------------------------------- loops by hand


def build(spec: JSON) -> tuple[Multitask, dict[str, Rows]]:
    folder = Path(spec["folder"])
    rows = plain.read(folder)
    model = Multitask(folder / "encoder", {task: own.outputs for task, own in rows.items()})
    return model.to(spec["device"]).train(), rows


def naive(spec: JSON) -> JSON:
    """The course loop: float32, shuffled, padded to the batch, a forward and a backward a task, plain AdamW."""
    model, rows = build(spec)
    optimizer = torch.optim.AdamW(model.parameters(), lr=7e-5)
    draws = {task: plain.batches(own, spec["batch"], spec["seed"], bucketed=False) for task, own in rows.items()}

    def step() -> int:
        parts = {task: plain.collate(rows[task], next(draw), spec["device"]) for task, draw in draws.items()}
        return naive_step(model, optimizer, parts)[0]

    return measure(spec, step)


def naive_step(
    model: Multitask, optimizer: torch.optim.Optimizer, parts: dict[str, plain.Batch]
) -> tuple[int, dict[str, Tensor]]:
    optimizer.zero_grad()
    losses = {}
    for task, batch in parts.items():
        loss = model.loss(task, batch)
        loss.backward()
        losses[task] = loss.detach()
    optimizer.step()
    return sum(batch.tokens for batch in parts.values()), losses


def bucketed(spec: JSON) -> JSON:
    """What a careful user of transformers writes: length buckets, bf16 autocast, one backward, fused AdamW."""
    model, rows = build(spec)
    optimizer = torch.optim.AdamW(model.parameters(), lr=7e-5, fused=True)
    draws = {task: plain.batches(own, spec["batch"], spec["seed"], bucketed=True) for task, own in rows.items()}

    def step() -> int:
        parts = {task: plain.collate(rows[task], next(draw), spec["device"]) for task, draw in draws.items()}
        return bucketed_step(model, optimizer, parts, spec["device"], bf16=True)[0]

    return measure(spec, step)


def bucketed_step(
    model: Multitask, optimizer: torch.optim.Optimizer, parts: dict[str, plain.Batch], device: str, *, bf16: bool
) -> tuple[int, dict[str, Tensor]]:
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        losses = {task: model.loss(task, batch) for task, batch in parts.items()}
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return sum(batch.tokens for batch in parts.values()), {task: loss.detach() for task, loss in losses.items()}


# ---------------------------------------------------------------------------------------------- Hugging Face


def clock(spec: JSON, counter: Callable[[], int]) -> Any:
    """A Trainer callback that times the steps after the warm-up; `result` has the answer at the end."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        result: JSON

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == spec["warm"]:
                harness.synchronise(spec["device"])
                self.before, self.tokens = harness.peak(spec["device"]), counter()
                harness.reset_peak(spec["device"])
                self.begin = time.perf_counter()
            elif state.global_step == spec["warm"] + spec["steps"]:
                harness.synchronise(spec["device"])
                seconds = time.perf_counter() - self.begin
                self.result = answer(spec, counter() - self.tokens, seconds, self.before)

    return Clock()


class Mixed(torch.nn.Module):
    """Batches that mix the tasks: one forward over all rows, then each task's head over its own rows."""

    def __init__(self, inner: Multitask) -> None:
        super().__init__()
        self.inner = inner
        self.tokens: Tensor | int = 0

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor, task: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        self.tokens = self.tokens + attention_mask.detach().sum()
        pooled = self.inner.pooled(input_ids, token_type_ids, attention_mask)
        total = pooled.new_zeros(())
        for place, name in enumerate(self.inner.heads):
            own = task == place
            if bool(own.any()):
                wanted = labels[own] if self.inner.heads[name].out_features == 1 else labels[own].long()
                total = total + plain.mean_loss(self.inner.outputs(name, pooled[own]), wanted)
        return {"loss": total}


def trainer(spec: JSON) -> JSON:
    """transformers' Trainer with its defaults, and as many rows a batch as mtk's step has."""
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    wanted = (spec["warm"] + spec["steps"] + 1) * spec["batch"]
    model, rows = build(spec | {"device": "cpu"})
    items: list[JSON] = []
    for place, own in enumerate(rows.values()):
        order = plain.batches(own, 1, spec["seed"], bucketed=False)
        for chosen, _ in zip(order, range(wanted), strict=False):
            i = chosen[0]
            row = {"input_ids": own.ids[i], "token_type_ids": own.types[i]}
            items.append({**row, "task": place, "label": float(own.labels[i])})
    mixed = Mixed(model)
    timer = clock(spec, lambda: int(mixed.tokens))
    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            out,
            per_device_train_batch_size=spec["batch"] * len(rows),
            max_steps=spec["warm"] + spec["steps"],
            seed=spec["seed"],
            use_cpu=spec["device"] == "cpu",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        collator = DataCollatorWithPadding(plain.load_tokenizer(Path(spec["folder"]) / "encoder"))
        Trainer(mixed, arguments, train_dataset=items, data_collator=collator, callbacks=[timer]).train()
    return dict(timer.result)


def sentences(spec: JSON) -> JSON:
    """sentence-transformers' trainer on STS alone: a cosine of two texts, squared error. Not the multitask work."""
    peer, losses, models = (
        importlib.import_module(f"sentence_transformers{part}") for part in ("", ".losses", ".models")
    )
    arrow, datasets = importlib.import_module("pyarrow"), importlib.import_module("datasets")
    folder = Path(spec["folder"])
    own = plain.read(folder, limit=(spec["warm"] + spec["steps"] + 1) * spec["batch"], seed=spec["seed"])["sts"]
    words = models.Transformer(str(folder / "encoder"), max_seq_length=plain.LENGTH)
    pooling = models.Pooling(words.get_word_embedding_dimension())
    model = peer.SentenceTransformer(modules=[words, pooling], device=spec["device"])
    loss, counted = losses.CosineSimilarityLoss(model), torch.zeros((), dtype=torch.int64)

    def count(module: object, given: tuple[Any, ...]) -> None:
        features = given[0]
        counted.add_(sum(part["attention_mask"].sum().cpu() for part in features))

    loss.register_forward_pre_hook(count)
    columns = {
        "sentence1": [first for first, _ in own.texts],
        "sentence2": [second for _, second in own.texts],
        "score": [(label + 2) / 4 for label in own.labels],  # back from standardised to 0..1
    }
    table = datasets.Dataset(arrow.table(columns), fingerprint="sts")  # without a name it hashes itself, which can fail
    timer = clock(spec, lambda: int(counted))
    with tempfile.TemporaryDirectory() as out:
        arguments = peer.SentenceTransformerTrainingArguments(
            out,
            per_device_train_batch_size=spec["batch"],
            max_steps=spec["warm"] + spec["steps"],
            seed=spec["seed"],
            use_cpu=spec["device"] == "cpu",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        peer.SentenceTransformerTrainer(model, arguments, train_dataset=table, loss=loss, callbacks=[timer]).train()
    return dict(timer.result)


# ---------------------------------------------------------------------------------------------- agreement


def agreement(spec: JSON) -> JSON:
    """Losses of mtk and of plain loops on the same batches: same weights, no dropout, same AdamW, no clipping."""
    from ours import Stepper, start

    fixed = {"dropout": 0.0, "encoder_dropout": 0.0, "max_norm": 0.0, "weight_decay": 0.0, "scheduler": "constant"}
    flat = {**fixed, "batch_size": spec["batch"], "seed": 1, "lr": 7e-5}
    sides = {precision: Stepper(start(spec, TASKS, precision=precision, **flat)) for precision in ("fp32", "bf16")}
    reference = sides["fp32"]
    parts = reference.training.parts
    loops: dict[str, Multitask] = {}
    for name in ("naive loop", "bucketed loop"):
        outputs = {task: parts.tasks[task].target.size for task in TASKS}
        loops[name] = Multitask(Path(spec["folder"]) / "encoder", outputs, dropout=0.0)
        for task, head in loops[name].heads.items():
            own = parts.model.heads[task].state_dict()
            head.load_state_dict({key.removeprefix("out."): value for key, value in own.items()})
        loops[name].to(spec["device"]).train()
    for side in sides.values():
        for _ in range(spec["steps"]):
            side.step()
    tokenizer = plain.load_tokenizer(Path(spec["folder"]) / "encoder")
    fed = [feed(reference, step, tokenizer, spec["device"]) for step in reference.done]
    found: dict[str, list[dict[str, float]]] = {"mtk bf16": [done.losses for done in sides["bf16"].done]}
    for name, model in loops.items():
        fused = name == "bucketed loop"
        optimizer = torch.optim.AdamW(model.parameters(), lr=flat["lr"], weight_decay=0.0, fused=fused)
        steps = []
        for batches in fed:
            if fused:
                _, losses = bucketed_step(model, optimizer, batches, spec["device"], bf16=False)
            else:
                _, losses = naive_step(model, optimizer, batches)
            steps.append({task: float(loss) for task, loss in losses.items()})
        found[name] = steps
    ours = [done.losses for done in reference.done]
    tokens = [reference.tokens(reference.done), sum(b.tokens for batches in fed for b in batches.values())]
    against = {name: difference(ours, steps) | {"judged": name != "mtk bf16"} for name, steps in found.items()}
    return {"steps": spec["steps"], "mtk fp32": ours, "tokens": tokens, "against": against}


def feed(side: Any, step: Any, tokenizer: Any, device: str) -> dict[str, plain.Batch]:
    """The rows of mtk's step as a plain loop's batches, from their texts on."""
    train, out = side.training.parts.train, {}
    for task, chosen in side.rows(step).items():
        examples = [train[task].examples[i] for i in chosen]
        target = train[task].target
        ids, types = plain.tokenise(tokenizer, [(row.text, row.pair) for row in examples])
        labels = [float(row.label) for row in examples]
        if target.size == 1:
            labels = [(label - (target.low + target.high) / 2) / ((target.high - target.low) / 4) for label in labels]
        else:
            labels = [int(label) for label in labels]
        rows = Rows([(row.text, row.pair) for row in examples], ids, types, labels, target.size)
        out[task] = plain.collate(rows, range(len(rows)), device)
    return out


def difference(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> JSON:
    gaps = [abs(a[task] - b[task]) for a, b in zip(ours, theirs, strict=True) for task in a]
    scale = max(value for losses in ours for value in losses.values())
    return {"largest": max(gaps), "scale": scale, "losses": theirs}
