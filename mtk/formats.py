"""The versions of what mtk writes: a folder of another version is refused, not guessed at."""

from __future__ import annotations

RUN = 1  # run.json and the layout of a run folder
CHECKPOINT = 1  # model.json and the layout of best/ and last/
