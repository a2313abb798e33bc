"""Aligned-MTL: the gradients' principal components brought to one length, so that none dominates or conflicts."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from mtk import GradientCombiner, StepInfo

Scale = Literal["min", "median", "rmse"]


def aligned_mtl_weights(gram: Tensor, scale: Scale = "min") -> Tensor:
    """The weights with which the gradients add up to the sum of the aligned ones: [T, T] -> [T] float64.

    With gram = V diag(l) V^T, the aligned gradients are the rows of B J, B = sqrt(s) V diag(l)^(-1/2) V^T: orthogonal
    and of the same length sqrt(s), the nearest such to the original ones. s is the least eigenvalue (`min`), the
    median one (the lower of two) or their mean (`rmse`); eigenvalues below T eps times the largest are left out.
    Senushkin et al., Independent Component Alignment for Multi-Task Learning, arXiv 2305.19000, algorithm 1.
    """
    values, vectors = torch.linalg.eigh(gram)
    kept = values > len(values) * torch.finfo(values.dtype).eps * values[-1].clamp(min=0)
    if not kept.any():
        return torch.ones_like(values)
    values, vectors = values[kept], vectors[:, kept]
    s = {"min": values[0], "median": values.median(), "rmse": values.mean()}[scale]
    return vectors @ ((s / values).sqrt() * vectors.sum(0))


class AlignedMTL(GradientCombiner):
    """Makes the system of gradients orthogonal with condition number one (arXiv 2305.19000, algorithm 1).

    scale: the common length of the aligned gradients, from the singular values of the gradients: their `min` (the
        paper's, which alone keeps its convergence result), `median` or root mean square (`rmse`), as in the code.
    The aligned gradients are *summed*, the authors' code and equal task weights of one; TorchJD's are averaged. With
    `min` the update shrinks with the weakest component: near-equal or tiny gradients of one task slow them all. A task
    whose gradient is below about 1e-8 of the longest is left out as rounding (float64; float32 in the authors' code).
    """

    needs = "gram"

    def __init__(self, *, scale: Scale = "min") -> None:
        if scale not in get_args(Scale):
            raise ValueError(f"scale: expected min, median or rmse, found {scale!r}")
        self.scale: Scale = scale

    def gradient_weights(self, gram: Tensor, losses: Tensor, info: StepInfo) -> Tensor:
        """gram [T, T] float64 -> weights [T] float64; the losses are not read."""
        return aligned_mtl_weights(gram, self.scale)
