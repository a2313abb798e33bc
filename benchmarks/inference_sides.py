"""The sides of `inference`. All answer the same texts with the weights of one short run of mtk."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import harness
import plain
import torch
from harness import JSON
from plain import TASKS, Multitask
from torch import Tensor

Text = tuple[str, str | None]
WARM = 32  # rows of each task before the clock starts


def run(spec: JSON) -> JSON:
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    sides = {"prepare": prepare, "agreement": agreement, "transformers pipeline": pipeline}
    return sides.get(spec["side"], ours if "run" in spec else loop)(spec)


def prepare(spec: JSON) -> JSON:
    """Two runs of one step on the sample with the same seed: their weights are as good as any for timing."""
    import mtk

    folder = Path(spec["folder"])
    plain.prepare(folder, spec["encoder"], spec["data"])
    where = {key: spec[key] for key in ("encoder", "threads", "device")}
    for name in ("bf16", "fp32"):
        flat = {"sample": "always", "max_train_rows": 16, "max_steps": 1, "quiet": True, "precision": name, **where}
        mtk.train(list(TASKS), out=folder / name, **flat)
    shutil.rmtree(folder / "bf16" / "best")
    shutil.copytree(folder / "fp32" / "best", folder / "bf16" / "best")  # one set of weights for every side
    return {}


def texts(spec: JSON) -> dict[str, list[Text]]:
    stored = json.loads((Path(spec["folder"]) / "rows.json").read_text())
    return {task: [(a, b) for a, b, _ in own["dev"][: spec["rows"]]] for task, own in stored.items()}


def measure(spec: JSON, answer: Callable[[str, list[Text]], Any]) -> JSON:
    """Warms up on some rows of every task, then times all of them."""
    rows = texts(spec)
    for task, own in rows.items():
        answer(task, own[:WARM])
    harness.synchronise(spec["device"])
    begin = time.perf_counter()
    for task, own in rows.items():
        answer(task, own)
    harness.synchronise(spec["device"])
    seconds = time.perf_counter() - begin
    return {"rows": sum(map(len, rows.values())), "seconds": seconds, "peak": harness.peak(spec["device"])}


# ---------------------------------------------------------------------------------------------- mtk


def load(spec: JSON, run: str) -> Any:
    import mtk

    return mtk.load(Path(spec["folder"]) / run, device=spec["device"], threads=spec["threads"])


def bare(rows: Sequence[Text]) -> list[str | tuple[str, str]]:
    return [a if b is None else (a, b) for a, b in rows]


def ours(spec: JSON) -> JSON:
    model = load(spec, spec["run"])
    return measure(spec, lambda task, rows: model.predict(task, bare(rows)))


# ---------------------------------------------------------------------------------------------- loops by hand


def build(spec: JSON) -> tuple[Multitask, Any]:
    """The plain model with the run's weights, and its tokenizer."""
    from safetensors.torch import load_file

    best = Path(spec["folder"]) / "fp32" / "best"
    heads = load_file(best / "heads.safetensors")
    stored = json.loads((Path(spec["folder"]) / "rows.json").read_text())
    model = Multitask(best / "encoder", {task: own["outputs"] for task, own in stored.items()})
    for task, head in model.heads.items():
        head.load_state_dict({key: heads[f"{task}.out.{key}"] for key in ("weight", "bias")})
    return model.to(spec["device"]).eval(), plain.load_tokenizer(best / "encoder")


def forward(
    spec: JSON, model: Multitask, tokenizer: Any, rows: Sequence[Text], *, sort: bool, bf16: bool
) -> Iterator[tuple[list[int], Tensor]]:
    """Row numbers and pooled vectors [B, D], batch by batch: in the file's order, or by length in characters."""
    order = list(range(len(rows)))
    if sort:
        order.sort(key=lambda i: len(rows[i][0]) + len(rows[i][1] or ""))
    with torch.inference_mode(), torch.autocast(spec["device"], torch.bfloat16, enabled=bf16):
        for first in range(0, len(order), spec["batch"]):
            chosen = order[first : first + spec["batch"]]
            one = [rows[i][0] for i in chosen]
            two = None if rows[0][1] is None else [rows[i][1] for i in chosen]
            batch = tokenizer(one, two, truncation=True, max_length=plain.LENGTH, padding=True, return_tensors="pt")
            batch = batch.to(spec["device"])
            yield chosen, model.pooled(batch["input_ids"], batch["token_type_ids"], batch["attention_mask"])


def answers(outputs: Tensor) -> list[float]:
    """outputs [B, C] -> the class, or the number."""
    found: list[float] = (outputs.argmax(-1) if outputs.size(-1) > 1 else outputs.squeeze(-1)).tolist()
    return found


def loop(spec: JSON) -> JSON:
    model, tokenizer = build(spec)

    def answer(task: str, rows: list[Text]) -> list[float]:
        found = [0.0] * len(rows)
        for chosen, pooled in forward(spec, model, tokenizer, rows, sort=spec["sort"], bf16=spec["bf16"]):
            with torch.inference_mode():
                for i, value in zip(chosen, answers(model.outputs(task, pooled).float()), strict=True):
                    found[i] = value
        return found

    return measure(spec, answer)


def pipeline(spec: JSON) -> JSON:
    """transformers' text-classification pipeline: BERT of the same size with a pooler, batched, float32."""
    from transformers import BertForSequenceClassification, pipeline as make

    best = Path(spec["folder"]) / "fp32" / "best"
    tokenizer = plain.load_tokenizer(best / "encoder")
    stored = json.loads((Path(spec["folder"]) / "rows.json").read_text())
    pipes: dict[str, Any] = {}
    for task, own in stored.items():
        model = BertForSequenceClassification.from_pretrained(best / "encoder", num_labels=own["outputs"])
        flat = {"batch_size": spec["batch"], "device": spec["device"], "truncation": True, "max_length": plain.LENGTH}
        pipes[task] = make("text-classification", model=model, tokenizer=tokenizer, **flat)

    def answer(task: str, rows: list[Text]) -> Any:
        given = [a if b is None else {"text": a, "text_pair": b} for a, b in rows]
        return list(pipes[task](given))

    return measure(spec, answer)


# ---------------------------------------------------------------------------------------------- agreement


def agreement(spec: JSON) -> JSON:
    """Cosines of mtk's pooled vectors to those of the padded float32 loop, and how often the labels are the same."""
    spec = spec | {"rows": min(spec["rows"], 200)}
    rows = texts(spec)
    model, tokenizer = build(spec)
    wanted: dict[str, Tensor] = {}
    labels: dict[str, list[float]] = {}
    for task, own in rows.items():
        pooled = torch.cat([p for _, p in forward(spec, model, tokenizer, own, sort=False, bf16=False)])
        with torch.inference_mode():
            wanted[task], labels[task] = pooled.float(), answers(model.outputs(task, pooled).float())
    out: JSON = {}
    for name in ("fp32", "bf16"):
        trained = load(spec, name)
        cosines, same = [], []
        for task, own in rows.items():
            cosines.append(torch.cosine_similarity(pooled_by(trained, own), wanted[task], dim=-1).min().item())
            for answer, label in zip(trained.predict(task, bare(own)), labels[task], strict=True):
                if trained.tasks[task].target.size > 1:
                    same.append(answer.value == label)
        out[f"mtk {name}"] = {"cosine": min(cosines), "same label": sum(same) / len(same)}
    return out


def pooled_by(trained: Any, rows: Sequence[Text]) -> Tensor:
    """mtk's pooled vectors [B, D] of these rows, one by one, on the device and in the precision of the run."""
    from mtk import TokenBatch

    encoder, device = trained.model.encoder, trained.hardware.torch_device
    found = []
    with torch.inference_mode(), trained.hardware.autocast():
        for row in encoder.tokenizer.encode(list(rows), plain.LENGTH):
            ids, types = torch.tensor([row.ids]), torch.tensor([row.types])
            batch = TokenBatch(ids, types, torch.ones_like(ids, dtype=torch.bool)).to(device)
            found.append(encoder(batch).pooled.float())
    return torch.cat(found)
