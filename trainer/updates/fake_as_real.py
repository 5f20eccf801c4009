"""FAR-GAN: generated images that D is told are real ("Fake Can Be Real in GANs", section 5)."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor

from realness.trainer.augment.input_augmentation import View
from realness.trainer.distributed.ranks import rank, world_size
from realness.trainer.networks.batch_norm import parts_of_one_batch
from realness.trainer.networks.inputs import training_inputs
from realness.trainer.randomness import Draws, Stream
from realness.trainer.updates.accumulation import run_in_parts, split_rows
from realness.trainer.updates.gan import Gan


@torch.no_grad()
def fakes_as_real(gan: Gan, view: View, first_sample: int | Tensor) -> Tensor:
    """This rank's share of D_FAR: the M0 of M1 newly generated samples with the lowest scores.

    Eq. 11, over the candidates of all ranks. Low scores mark regions where many generated samples
    crowd around one real sample (section 5). D sees them as `view` shows them; they are returned as
    they are, [rows, ...].
    """
    far = gan.config.far
    update = first_sample // gan.config.batch_size
    draws = gan.draws(Stream.CANDIDATES, update * far.far_candidates, far.far_candidates)
    parts = split_rows(len(draws.index), gan.config.engine.micro_batch)

    def generate(rows: slice) -> Tensor:
        return gan.g(*training_inputs(gan.g.module, draws[rows], gan.config.g.z_dim))

    with parts_of_one_batch(gan.g.module, len(parts)):
        candidates = torch.cat([generate(rows) for rows in parts])
    seen = view(candidates, draws)
    scores = gan.objective.score(run_in_parts(gan.d.forward_once_differentiable, (seen,), parts))
    if world_size() > 1:
        return lowest_over_ranks(candidates, scores, far.far_fakes)
    return lowest(candidates, scores, far.far_fakes, gan.num_members)


def real_batch_draws(gan: Gan, first_sample: int | Tensor) -> Draws:
    """The draws of this rank's images that D is told are real in an update.

    Real images come first, then this rank's share of the M0 generated ones, in the same order over
    the ranks for any number of ranks.
    """
    num_real, far_fakes = gan.config.num_real, gan.config.far.far_fakes
    draws = gan.draws(Stream.D_REAL, first_sample, num_real)
    if not far_fakes:
        return draws
    chosen = gan.draws(Stream.D_REAL, first_sample + num_real, far_fakes)
    return replace(draws, index=torch.cat([draws.index, chosen.index]))


def lowest(candidates: Tensor, scores: Tensor, count: int, num_members: int = 1) -> Tensor:
    """The `count` rows with the lowest scores, lowest first; candidates: [M, ...], scores: [M].

    In an ensemble, row r belongs to member r % num_members, and each member's rows are compared
    only with each other.
    """
    table = scores.view(-1, num_members)
    chosen = table.topk(count, dim=0, largest=False).indices * num_members
    return candidates[(chosen + torch.arange(num_members, device=chosen.device)).flatten()]


def lowest_over_ranks(candidates: Tensor, scores: Tensor, count: int) -> Tensor:
    """This rank's equal share of the `count` lowest-scored rows of all ranks; collective.

    The selected rows and their order over the ranks do not depend on the number of ranks. Only
    selected rows are sent. Synchronises with the device once, to get the number of rows to send.
    """
    ranks, mine = world_size(), rank()
    everywhere = [torch.empty_like(scores) for _ in range(ranks)]
    dist.all_gather(everywhere, scores)
    chosen = torch.cat(everywhere).topk(count, largest=False).indices.cpu()
    owners, rows = chosen // len(scores), chosen % len(scores)
    takers = torch.arange(count) // (count // ranks)
    given, taken = owners == mine, takers == mine
    sent = candidates[rows[given].to(candidates.device)].contiguous()
    received = torch.empty(count // ranks, *sent.shape[1:], dtype=sent.dtype, device=sent.device)
    dist.all_to_all_single(
        received,
        sent,
        torch.bincount(owners[taken], minlength=ranks).tolist(),
        torch.bincount(takers[given], minlength=ranks).tolist(),
    )
    # Rows arrive grouped by sender; restore the order of their scores.
    order = torch.argsort(owners[taken], stable=True).to(received.device)
    return torch.empty_like(received).index_copy_(0, order, received)
