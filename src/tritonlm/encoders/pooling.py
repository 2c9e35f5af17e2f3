"""One vector a row from the vectors of its tokens, as sentence-transformers defines it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

MIN_NORM = 1e-12


def pool(kind: str, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[rows, width] of `hidden` [rows, length, width]; `mask` [rows, length] is 0 after a row."""
    if kind == "cls":
        return hidden[:, 0]
    if kind == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1]
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)


def normalized(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors [rows, width] of length 1; zeros stay."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: NDArray[np.float32] = vectors / np.maximum(norms, MIN_NORM)
    return result
