"""Built-in heads: small layers that turn pooled features into a target's outputs."""

from __future__ import annotations

from mtk import Register, hookimpl

_CORAL = "CORAL, arXiv 1901.07884"
_MNR = "Efficient Natural Language Response Suggestion, arXiv 1705.00652"
_LEARNIE = "BERT and Learnie (CS224N 2023)"


@hookimpl
def register_heads(register: Register) -> None:
    register("linear", "mtk_heads.linear:Linear", "dropout and one linear layer")
    register("mlp", "mtk_heads.mlp:MLP", "one hidden layer, dropout and a linear layer")
    register("cosine", "mtk_heads.cosine:Cosine", "cosine of two texts encoded by themselves", paper=_LEARNIE)
    register("concat", "mtk_heads.concat:Concat", "both texts' features side by side, then linear", paper=_LEARNIE)
    register(
        "concat-diff",
        "mtk_heads.concat_diff:ConcatDiff",
        "both texts' features, their difference and product, then linear",
        paper="InferSent, arXiv 1705.02364; Sentence-BERT, arXiv 1908.10084",
    )
    register(
        "ordinal", "mtk_heads.ordinal:OrdinalHead", "ordered classes: one direction, a threshold each", paper=_CORAL
    )
    register("tagger", "mtk_heads.tagger:Tagger", "dropout and one linear layer on every token: a tag for each word")
    register(
        "contrastive",
        "mtk_heads.contrastive:Contrastive",
        "pairs that belong together, by in-batch negatives",
        paper=_MNR,
    )
