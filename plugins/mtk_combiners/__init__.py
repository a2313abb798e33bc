"""The built-in gradient combiners: one paper, one file, imported at first use."""

from mtk import Register, hookimpl


@hookimpl
def register_combiners(register: Register) -> None:
    register("sum", "mtk_combiners.sum:Sum", "the plain sum of the tasks' losses")
    register("mean", "mtk_combiners.mean:Mean", "the mean of the losses of the tasks present in a step")
    register("weighted", "mtk_combiners.weighted:Weighted", "fixed loss weights by task name")
    register("rlw", "mtk_combiners.rlw:RLW", "random loss weights at every step", paper="arXiv 2111.10603")
    register("dwa", "mtk_combiners.dwa:DWA", "weights from two epochs' mean losses", paper="arXiv 1803.10704")
    register(
        "uncertainty",
        "mtk_combiners.uncertainty:Uncertainty",
        "weights from learned variances",
        paper="arXiv 1705.07115",
    )
    register("famo", "mtk_combiners.famo:FAMO", "let the losses' logarithms fall alike", paper="arXiv 2306.03792")
    register("gradnorm", "mtk_combiners.gradnorm:GradNorm", "balance gradient norms", paper="arXiv 1711.02257")
    register("pcgrad", "mtk_combiners.pcgrad:PCGrad", "project conflicting gradients", paper="arXiv 2001.06782")
    register("nash-mtl", "mtk_combiners.nash_mtl:NashMTL", "the tasks bargain fairly", paper="arXiv 2202.01017")
    register("fairgrad", "mtk_combiners.fairgrad:FairGrad", "alpha-fair gains for the tasks", paper="arXiv 2402.15638")
    register(
        "upgrad", "mtk_combiners.upgrad:UPGrad", "the mean of gradients freed of conflicts", paper="arXiv 2406.16232"
    )
    register(
        "dualproj", "mtk_combiners.dualproj:DualProj", "the mean gradient freed of conflicts", paper="arXiv 1706.08840"
    )
    register("graddrop", "mtk_combiners.graddrop:GradDrop", "draw one sign at each parameter", paper="arXiv 2010.06808")
    register(
        "gradvac", "mtk_combiners.gradvac:GradVac", "raise pairs' cosines to their average", paper="arXiv 2010.05874"
    )
    register("mgda", "mtk_combiners.mgda:MGDA", "min-norm point of the gradients' hull", paper="arXiv 1810.04650")
    register("cagrad", "mtk_combiners.cagrad:CAGrad", "best for the worst-off near the mean", paper="arXiv 2110.14048")
    register(
        "imtl-g", "mtk_combiners.imtl_g:IMTLG", "equal projections on all gradients", paper="ICLR 2021, IMPnRXEWpvr"
    )
    register(
        "aligned-mtl", "mtk_combiners.aligned_mtl:AlignedMTL", "components of equal length", paper="arXiv 2305.19000"
    )
