"""The paper "BERT and Learnie" (CS224N 2023) as recipes, one for each row of its tables, and commands that run them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from mtk import Register, RegisterCommand, hookimpl

PAPER = "BERT and Learnie: Multi-task Classification Across Semantics Street (CS224N 2023)"
FOLDER = Path(__file__).parent / "recipes"

# name -> summary: the ladder, each on the one before it, in the order of the paper's Tables 1 to 3
ROWS = {
    "paper/baseline": "trained on SST only; cosines of the same features answer the other two",
    "paper/baseline-multitask": "all three tasks in turns, Quora capped at 6,000 rows an epoch",
    "paper/baseline-multitask-schedule": "linear warm-up and decay, early stopping",
    "paper/surgery": "concatenation heads, PCGrad",
    "paper/surgery-sick": "SICK's pairs join the STS rows",
    "paper/surgery-sick-sampling": "STS capped as well",
    "paper/final": "both sentences in one sequence, a linear head a task, nothing else shared than the encoder",
    "paper/final-tuned": "the settings that the paper's search found",
}
VARIANTS = {"paper/baseline-cfimdb": "the baseline, trained on CFIMDB's film reviews too"}


@hookimpl
def register_recipes(register: Register) -> None:
    for name, summary in {**ROWS, **VARIANTS}.items():
        register(name, partial(recipe_file, name), summary, paper=PAPER)


@hookimpl
def register_commands(register: RegisterCommand) -> None:
    from mtk_paper.ablate import ablate
    from mtk_paper.compare import compare_single
    from mtk_paper.reproduce import reproduce

    register("reproduce", reproduce, "Train the rows of the paper's tables and set the scores beside the paper's.")
    register("ablate", ablate, "Train a configuration without each of its extensions: what matters beyond the noise?")
    register("compare-single", compare_single, "Train each task alone and all together: does sharing help, and whom?")


def recipe_file(name: str) -> Path:
    """The TOML file of a recipe."""
    return FOLDER / f"{name.removeprefix('paper/')}.toml"
