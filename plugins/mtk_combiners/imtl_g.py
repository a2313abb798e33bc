"""IMTL-G: the combination whose projections on all the tasks' gradients are equal."""

from __future__ import annotations

import torch
from torch import Tensor

from mtk import GradientCombiner, StepInfo


def imtl_g_weights(gram: Tensor) -> Tensor:
    """Weights with sum one whose combination g has the same <g, g_t / ||g_t||> for every t: [T, T] -> [T] float64.

    Liu et al., Towards Impartial Multi-task Learning, ICLR 2021, the closed form. The paper solves T - 1 differences of
    those equations; in terms of the cosines C the same is: w_t = y_t / ||g_t||, C y = 1, scaled to sum one.
    Where C is singular: y is the limit of (C + e I)^-1 1 as e falls to 0, which is pinv(C) 1, or where that does not
    solve C y = 1 (opposite gradients: only zero is impartial) what of 1 lies in the null space of C.
    Zero gradients have no direction, and get the weight zero. Where the weights' sum is zero to rounding, or all
    gradients are, no weights exist; they are all zero.
    """
    norms = gram.diagonal().sqrt()
    present = norms > 0
    weights = torch.zeros_like(norms)
    if not present.any():
        return weights
    norms, gram = norms[present], gram[present][:, present]
    values, vectors = torch.linalg.eigh(gram / norms.unsqueeze(1) / norms)
    ones = vectors.sum(0)  # 1 in the basis of eigenvectors
    null = values <= 4 * len(values) * torch.finfo(values.dtype).eps * values[-1]
    if ones[null].square().sum() > 1e-12 * len(values):
        y = vectors[:, null] @ ones[null]
    else:
        y = vectors[:, ~null] @ (ones[~null] / values[~null])
    w = y * (norms.min() / norms)
    if w.sum().abs() > 1e-12 * w.abs().sum():
        weights[present] = w / w.sum()
    return weights


class IMTLG(GradientCombiner):
    """Gives every task the same projection of the update on its gradient (IMTL, ICLR 2021, closed form).

    The gradient half of IMTL, on the shared parameters themselves rather than on the features that they give; losses
    are not scaled (the other half, IMTL-L). Weights may be negative; they sum to one. As the paper's formula has it,
    they grow without bound, and may turn the update against all tasks, as the weights before scaling to one come to
    sum to zero or less: with many conflicts, clip the norm.
    Deviations: only in the degenerate cases, where the paper's inverse does not exist; see `imtl_g_weights`.
    """

    needs = "gram"

    def gradient_weights(self, gram: Tensor, losses: Tensor, info: StepInfo) -> Tensor:
        """gram [T, T] float64 -> weights [T] float64; the losses are not read."""
        return imtl_g_weights(gram)
