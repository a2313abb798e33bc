"""A task on a table of your own, beside a built-in one: `python examples/your_own_table.py`."""

import csv
from pathlib import Path

import mtk

rows = [(f"The {thing} is {word}.", mood) for thing in ("soup", "room", "view", "bus", "staff", "bed", "bill", "pool")
        for word, mood in (("lovely", "joy"), ("great", "joy"), ("awful", "anger"), ("late", "anger"))]  # fmt: skip
with Path("moods.csv").open("w", encoding="utf-8", newline="") as file:
    csv.writer(file).writerows([("review", "mood"), *rows])

mood = mtk.text_task("mood", data="moods.csv", text="review", label="mood")
run = mtk.train([mood, "sst"], sample="fallback", out="runs/example-table")
print(mtk.load(run).predict("mood", ["The garden is lovely."])[0].probabilities)
