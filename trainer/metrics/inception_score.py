"""The Inception Score.

Salimans et al., "Improved Techniques for Training GANs", NeurIPS 2016, section 4:
IS = exp(E_x KL(p(y|x) || p(y))), for the class probabilities p(y|x) of generated images under the
Inception network of 2015, and their mean p(y). Mean and standard deviation over 10 parts of 50,000
images. It is between 1 (worst) and the number of classes. Real images are not used.
"""

from __future__ import annotations

import torch
from torch import Tensor

NUM_SPLITS = 10


def inception_score(probabilities: Tensor, num_splits: int = NUM_SPLITS) -> tuple[float, float]:
    """Mean and standard deviation of the score over `num_splits` parts of consecutive rows.

    probabilities: [n, classes], rows that sum to 1.

    Raises:
        ValueError: for rows that are not distributions, or fewer rows than parts.
    """
    if probabilities.dim() != 2 or len(probabilities) < num_splits:
        raise ValueError(
            f"probabilities have shape {tuple(probabilities.shape)}; {num_splits} parts need "
            f"[n, classes] with n of at least {num_splits}"
        )
    rows = probabilities.double()
    if (rows < 0).any() or ((rows.sum(1) - 1).abs() > 1e-3).any():
        raise ValueError("probabilities must be positive and sum to 1 in each row; apply softmax")
    scores = torch.stack([_score(part) for part in rows.tensor_split(num_splits)])
    return scores.mean().item(), scores.std(correction=0).item()


def _score(rows: Tensor) -> Tensor:
    marginal = rows.mean(0, keepdim=True)
    # xlogy is 0 for classes of probability 0, whose logarithm is not finite.
    divergence = torch.xlogy(rows, rows) - torch.xlogy(rows, marginal)
    return divergence.sum(1).mean().exp()
