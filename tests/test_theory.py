"""What the papers prove, checked on problems small enough to be solved exactly."""

from __future__ import annotations

import pytest
import torch
from objective_tools import anchors64, logits64
from torch import Tensor

from realness.trainer.objectives.realness import realness_d_loss

# Theorem 1.


@pytest.mark.parametrize("num_outcomes", [2, 5, 21])
def test_theorem_1_optimal_discriminator_is_reached(num_outcomes):
    """D is a free table of logits over 4 points; eq. 3 with exact expectations is minimised.

    p_data and p_g are counts out of 10, so batches of 10 rows hold them exactly.
    """
    p_data, p_g = torch.tensor([1, 2, 3, 4]), torch.tensor([6, 1, 3, 0])
    points = torch.arange(4)
    real_rows, fake_rows = points.repeat_interleave(p_data), points.repeat_interleave(p_g)
    a1, a0 = anchors64(num_outcomes)
    table = logits64(4, num_outcomes)
    optimizer = torch.optim.LBFGS(
        [table],
        max_iter=2000,
        tolerance_grad=1e-13,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = realness_d_loss(table[real_rows], table[fake_rows], a1, a0)
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    expected = (torch.outer(p_data, a1) + torch.outer(p_g, a0)) / (p_data + p_g)[:, None]  # eq. 4
    torch.testing.assert_close(table.detach().softmax(1), expected, atol=1e-6, rtol=0)
