"""Training StyleGAN2 in plain PyTorch, for comparison: one update of D and one of G.

Logistic losses, R1 and path lengths as in Karras et al., "Analyzing and Improving the Image Quality
of StyleGAN" (CVPR 2020). As in the published program a lazy penalty has an optimiser step of its
own, and D sees real and generated images in separate passes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from plain_stylegan2 import Discriminator, Generator
from torch import Tensor

MEAN_WEIGHT = 0.01


@dataclass
class Plain:
    """One way to train: networks, optimisers, the moving average, and what differs."""

    g: Generator
    d: Discriminator
    batch: int
    resolution: int
    layout: torch.memory_format = torch.contiguous_format
    precision: torch.dtype = torch.float32
    lr: float = 2.5e-3
    mean: Tensor = field(default_factory=lambda: torch.zeros(()))

    def __post_init__(self) -> None:
        self.average = copy.deepcopy(self.g).requires_grad_(False)
        for network in (self.g, self.d):
            network.to(memory_format=self.layout)  # pyright: ignore[reportCallIssue]
        self.adam_g, self.adam_d = (
            torch.optim.Adam(network.parameters(), self.lr, (0.0, 0.99), fused=True)
            for network in (self.g, self.d)
        )

    def autocast(self) -> torch.autocast:
        """Networks run in `precision`."""
        return torch.autocast("cpu", self.precision, enabled=self.precision != torch.float32)

    def generate(self, batch: int, w: Tensor | None = None) -> Tensor:
        """Images of new latents, nine tenths of them with mixed styles."""
        w = self.draw_styles(batch) if w is None else w
        sides = [4] + [4 << k for k in range(1, len(self.g.blocks)) for _ in range(2)]
        noise = [torch.randn(batch, 1, side, side) for side in sides]
        with self.autocast():
            return self.g(w, noise, self.layout)

    def draw_styles(self, batch: int) -> Tensor:
        """[batch, styles, w_dim]."""
        z, mixed = torch.randn(2, batch, self.g.z_dim)
        crossover = torch.randint(1, self.g.num_styles, (batch,))
        crossover[torch.rand(batch) < 0.1] = self.g.num_styles
        return self.g.styles(z, mixed, crossover)

    def score(self, images: Tensor) -> Tensor:
        """D's outputs in float32."""
        with self.autocast():
            return self.d(images.contiguous(memory_format=self.layout)).float()

    def iteration(self, real: Tensor, *, r1: bool, paths: bool) -> tuple[float, float]:
        """One update of D and one of G, with their lazy penalties if wanted; the losses."""
        loss_d = self.update_d(real)
        if r1:
            self.penalise_d(real)
        loss_g = self.update_g()
        if paths:
            self.penalise_g()
        weight = 0.5 ** (self.batch / 20_000)
        pairs = zip(self.average.parameters(), self.g.parameters(), strict=True)
        with torch.no_grad():
            for slow, fast in pairs:
                slow.lerp_(fast, 1 - weight)
        return loss_d, loss_g

    def update_d(self, real: Tensor) -> float:
        """The logistic loss, with a pass for each kind of images."""
        self.adam_d.zero_grad()
        with torch.no_grad():
            fake = self.generate(self.batch)
        loss_fake = F.softplus(self.score(fake)).mean()
        loss_fake.backward()
        loss_real = F.softplus(-self.score(real)).mean()
        loss_real.backward()
        self.adam_d.step()
        return (loss_fake + loss_real).item()

    def penalise_d(self, real: Tensor, gamma: float = 1.0) -> None:
        """R1: gamma / 2 E |grad D|^2."""
        self.adam_d.zero_grad()
        images = real.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.score(images).sum(), images, create_graph=True)
        (gamma / 2 * gradient.square().sum((1, 2, 3)).mean() * 16).backward()
        self.adam_d.step()

    def update_g(self) -> float:
        """The non-saturating loss."""
        self.adam_g.zero_grad()
        self.d.requires_grad_(False)
        loss = F.softplus(-self.score(self.generate(self.batch))).mean()
        loss.backward()
        self.d.requires_grad_(True)
        self.adam_g.step()
        return loss.item()

    def penalise_g(self, weight: float = 2.0) -> None:
        """Path lengths of half of the batch, section 3.2."""
        self.adam_g.zero_grad()
        w = self.draw_styles(self.batch // 2)
        images = self.generate(len(w), w)
        noise = torch.randn_like(images) / self.resolution
        (gradient,) = torch.autograd.grad((images * noise).sum(), w, create_graph=True)
        lengths = gradient.square().sum(2).mean(1).sqrt()
        mean = self.mean.lerp(lengths.mean(), MEAN_WEIGHT)
        self.mean = mean.detach()
        (weight * (lengths - mean).square().mean() * 4).backward()
        self.adam_g.step()
