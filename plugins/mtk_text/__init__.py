"""Text tasks in the CS 224N format, the fetching of their published files, and the course's submission format."""

from __future__ import annotations

from mtk import Register, RegisterCommand, hookimpl


@hookimpl
def register_tasks(register: Register) -> None:
    register(
        "sst",
        "mtk_text.tasks:SST",
        "Stanford Sentiment Treebank: how positive a sentence is, 5 classes",
        paper="Socher et al., EMNLP 2013",
    )
    register(
        "cfimdb",
        "mtk_text.tasks:CFIMDB",
        "Counterfactual IMDB: is a long film review negative or positive?",
        paper="Kaushik, Hovy and Lipton, ICLR 2020, arXiv 1909.12434",
    )
    register(
        "quora",
        "mtk_text.tasks:Quora",
        "Quora Question Pairs: do two questions ask the same?",
        paper="Iyer, Dandekar and Csernai, Quora 2017",
        aliases=("para",),
    )
    register(
        "sts",
        "mtk_text.tasks:STS",
        "STS benchmark: how alike two sentences are in meaning, 0 to 5",
        paper="Cer et al., SemEval 2017, arXiv 1708.00055",
    )


@hookimpl
def register_augmentations(register: Register) -> None:
    register(
        "sick",
        "mtk_text.sick:SICK",
        "SICK's sentence pairs, rescaled and without dev and test pairs, join the sts task's training rows",
        paper="Marelli et al., LREC 2014; BERT and Learnie (CS224N 2023)",
    )
    register(
        "eda",
        "mtk_text.eda:EDA",
        "copies of the training rows with words replaced by synonyms, inserted, swapped or deleted",
        paper="Wei and Zou, EMNLP 2019, arXiv 1901.11196",
    )


@hookimpl
def register_exporters(register: Register) -> None:
    register("cs224n", "mtk_text.export:CS224N", "the submission files of the CS 224N default project")


@hookimpl
def register_commands(register: RegisterCommand) -> None:
    from mtk_text.fetch import fetch_command

    register("data fetch", fetch_command, "Download the published data sets, verified and resumable.")
