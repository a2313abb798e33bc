"""The projection of weighted gradients onto the cone of directions that conflict with no task."""

from __future__ import annotations

import torch
from torch import Tensor


def project_weights(gram: Tensor, preferences: Tensor) -> Tensor:
    """Weights of the nearest vectors that conflict with no gradient: gram [T, T], preferences [..., T] -> [..., T].

    A row u stands for the vector J^T u; its projection onto the dual cone {d: <g_i, d> >= 0 for all i} is J^T w, where
    w minimises w^T G w under w >= u. Quinton and Rey, arXiv 2406.16232, proposition 1; equation 11 of arXiv 1706.08840.

    It is solved as non-negative least squares for w - u, on a square root of the matrix of cosines: so it knows no
    scale, and gradients of any lengths may stand beside each other. Eigenvalues below T times 1e-15 count as zero, and
    so do gradients whose squared length does: they conflict with none and keep their preference.
    """
    import numpy as np
    from scipy.optimize import nnls

    tasks = len(gram)
    lengths = gram.diagonal().clamp(min=0).sqrt().numpy()
    inverse = np.divide(1.0, lengths, out=np.zeros(tasks), where=lengths > 0)
    cosines = np.clip(gram.numpy() * inverse[:, None] * inverse, -1.0, 1.0)
    values, vectors = np.linalg.eigh(cosines)
    root = (np.sqrt(np.where(values > 1e-15 * tasks, values, 0.0)) * vectors).T  # root^T root = cosines
    weights = preferences.numpy().reshape(-1, tasks).copy()
    for w in weights:
        scaled = w * lengths
        size = np.abs(scaled).max()
        if size == 0 or (cosines @ scaled >= 0).all():
            continue  # it conflicts with none as it is
        added, _ = nnls(root, -(root @ (scaled / size)), maxiter=50 * tasks)
        w += size * added * inverse
    return torch.from_numpy(weights.reshape(preferences.shape))
