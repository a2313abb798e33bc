"""The sides of `scaling`: one axis, all its sizes with both combiners in one process, step by step in turn."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import plain
import torch
from harness import JSON
from ours import Stepper, start

# one token each in BERT's vocabulary, and in that of the `tiny` encoder
WORDS = ("the", "of", "and", "in", "to", "is", "was", "for", "on", "with", "by", "he", "that", "at", "from", "it")
LABELS = 5


def run(spec: JSON) -> JSON:
    """Seconds by combiner, size and step; real tokens a step by size."""
    combiners = spec["combiners"]
    torch.set_num_threads(spec["threads"])
    sides = [{name: side(spec, size, name) for name in combiners} for size in spec["sizes"]]
    seconds: dict[str, list[list[float]]] = {name: [[] for _ in sides] for name in combiners}
    for turn in range(spec["warm"] + spec["steps"]):
        for place, pair in enumerate(sides):
            for name in combiners if turn % 2 else reversed(combiners):
                took = pair[name].step()
                if turn >= spec["warm"]:
                    seconds[name][place].append(took)
    tokens = [pair["sum"].tokens(pair["sum"].done[-1:]) for pair in sides]
    return {"seconds": seconds, "tokens": tokens}


def side(spec: JSON, size: int, combiner: str) -> Stepper:
    """A training at one size of the axis."""
    axis = spec["side"]
    tasks = size if axis == "tasks" else 3
    batch = {"rows": size, "tasks": max(1, spec["total"] // size)}.get(axis, spec["batch_size"])
    length = size if axis == "length" else spec["length"]
    folder = Path(spec["folder"])
    count = batch * (spec["warm"] + spec["steps"] + 1)  # an epoch that the timing does not leave
    if not (data := folder / f"data{length}-{count}").exists():
        write_rows(data, length, count)
    encoder = str(random_bert(folder / f"layers{size}", spec["encoder"], size)) if axis == "layers" else spec["encoder"]
    flat: dict[str, Any] = {"precision": spec["precision"], "combiner": combiner, "batch_size": batch, "seed": 1}
    flat["diagnose"] = "none"
    names = [f"t{i}=sst" for i in range(tasks)]
    return Stepper(start(spec | {"data": str(data), "encoder": encoder}, names, **flat))


def write_rows(folder: Path, length: int, count: int) -> None:
    """Train and dev rows for the task `sst`, each `length` tokens long with its two special ones."""
    folder.mkdir(parents=True)
    draw = random.Random(length)
    for split, rows in (("train", count), ("dev", LABELS)):
        lines = ["\tid\tsentence\tsentiment"]
        for i in range(rows):
            words = " ".join(draw.choices(WORDS, k=length - 2))
            lines.append(f"{i}\t{split}{i}\t{words}\t{i % LABELS}")
        (folder / f"ids-sst-{split}.csv").write_text("\n".join(lines) + "\n")


def random_bert(folder: Path, encoder: str, layers: int) -> Path:
    """A BERT with the configuration and tokenizer of `encoder` but other depth, and random weights."""
    if folder.exists():
        return folder
    from transformers import BertConfig, BertModel

    given = folder.with_name("given")
    if not given.exists():
        given.mkdir(parents=True)
        plain.prepare(given, encoder, None, tasks=())
    config = BertConfig.from_pretrained(given / "encoder", num_hidden_layers=layers)
    torch.manual_seed(0)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    plain.load_tokenizer(given / "encoder").save_pretrained(folder)
    return folder
