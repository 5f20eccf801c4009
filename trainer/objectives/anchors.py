"""Anchors A1 (real) and A0 (fake): the virtual ground truths of RealnessGAN.

Xiangli et al., "Real or Not Real, that is the Question" (ICLR 2020), sections 2.2 and 4. Outcome i
of N corresponds to the i-th of N equal bins of [-1, 1], so a larger index means "more real". All
computations are in float64 numpy on the host.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from scipy import special

# The minimum probability of a skew-normal anchor: the smallest normal float32 number. With it every
# outcome is nonzero in fp32, and D_KL(A1 || A0) is finite: at most -ln(FLOOR) = 87.3 nats. The
# losses do not need it (a softmax is never 0, and 0 ln 0 = 0); the solver and D_KL(A1 || A0) do.
FLOOR = float(np.finfo(np.float32).tiny)
MAX_SKEW_FACTOR = 1e4
NUM_QUADRATURE_NODES = 24

NUM_HISTOGRAM_SAMPLES = 1000
HISTOGRAM_SHIFT = 1.0


@dataclass(frozen=True)
class AnchorPair:
    """Two distributions on the same outcomes: real = A1 [N] and fake = A0 [N], float64.

    Raises:
        ValueError: if one is not a distribution, or their numbers of outcomes differ.
    """

    real: np.ndarray
    fake: np.ndarray

    def __post_init__(self) -> None:
        for name, anchor in (("real", self.real), ("fake", self.fake)):
            if anchor.ndim != 1 or not np.all(anchor >= 0) or abs(anchor.sum() - 1) > 1e-6:
                raise ValueError(
                    f"the {name} anchor must be non-negative numbers [N] summing to 1, got {anchor}"
                )
        if self.real.shape != self.fake.shape:
            raise ValueError(
                f"the real anchor has {len(self.real)} outcomes and the fake one "
                f"{len(self.fake)}; give both the same number"
            )

    @property
    def kl(self) -> float:
        """D_KL(A1 || A0) in nats; infinite where A1 has mass and A0 has none."""
        return float(special.rel_entr(self.real, self.fake).sum())


def _log_skewnorm(u: np.ndarray, skew: float, loc: float, scale: float) -> np.ndarray:
    """Log density of the skew-normal (Azzalini, 1985) without its constant, exact in the tails."""
    t = (u - loc) / scale
    return -0.5 * t * t + special.log_ndtr(skew * t)


def _panel_edges(bin_edges: np.ndarray, loc: float, scale: float) -> np.ndarray:
    """Bin edges, plus points that are dense near `loc`, where a steep density has its edge."""
    reach = scale * 2.0 ** np.arange(-16, 8)
    breaks = np.concatenate([bin_edges, [loc], loc - reach, loc + reach])
    return np.unique(np.clip(breaks, -1.0, 1.0))


def skewnorm_anchor(
    num_outcomes: int, skew: float, loc: float = 0.0, scale: float = 1.0
) -> np.ndarray:
    """A skew-normal binned on N equal bins of [-1, 1] and renormalised; [N] float64.

    skew, loc and scale are the shape alpha, location xi and scale omega of the density
    2/omega phi(t) Phi(alpha t), t = (u - xi)/omega. Bins are integrated by Gauss-Legendre panels
    relative to the largest density on [-1, 1]: differences of the cumulative distribution are
    inaccurate below 1e-16, which matters for D_KL = 33.88. Probabilities below FLOOR are raised to
    it.

    Raises:
        ValueError: if num_outcomes < 1, scale <= 0, or a parameter is not finite.
    """
    if num_outcomes < 1 or scale <= 0 or not np.all(np.isfinite([skew, loc, scale])):
        raise ValueError(
            f"no skew-normal anchor with num_outcomes={num_outcomes}, skew={skew}, loc={loc}, "
            f"scale={scale}: it needs at least one outcome, a positive scale and finite numbers"
        )
    bin_edges = np.linspace(-1.0, 1.0, num_outcomes + 1)
    panels = _panel_edges(bin_edges, loc, scale)
    middle, half = (panels[1:] + panels[:-1]) / 2, (panels[1:] - panels[:-1]) / 2
    nodes, weights = np.polynomial.legendre.leggauss(NUM_QUADRATURE_NODES)
    log_density = _log_skewnorm(middle[:, None] + half[:, None] * nodes, skew, loc, scale)
    mass = half * (np.exp(log_density - log_density.max()) @ weights)
    # A panel of one rounding error at -1 has its middle at -1 itself, which would be bin -1.
    bins = np.maximum(np.searchsorted(bin_edges, middle) - 1, 0)
    probabilities = np.bincount(bins, mass, minlength=num_outcomes)
    return np.maximum(probabilities / probabilities.sum(), FLOOR)


def skewnorm_pair(
    num_outcomes: int, skew_real: float, skew_fake: float, loc: float = 0.0, scale: float = 1.0
) -> AnchorPair:
    """A1 with `skew_real` at `loc` and A0 with `skew_fake` at `-loc`, both of width `scale`."""
    return AnchorPair(
        real=skewnorm_anchor(num_outcomes, skew_real, loc, scale),
        fake=skewnorm_anchor(num_outcomes, skew_fake, -loc, scale),
    )


def solve_skewnorm_pair(
    kl: float,
    num_outcomes: int,
    *,
    skew_real: float = 5.0,
    skew_fake: float = -5.0,
    loc: float = 0.0,
    scale: float = 1.0,
) -> AnchorPair:
    """The pair with D_KL(A1 || A0) = kl (nats), found by scaling both skews by the same factor.

    At skews +-5 and 51 outcomes the factors 0.489, 1, 1.296, 1.590 and 3.065 give the paper's 1.66,
    5.11, 7.81, 11.05 and 33.88.

    Raises:
        ValueError: if no factor gives this divergence; the message states the possible range.
    """

    def scaled(factor: float) -> AnchorPair:
        return skewnorm_pair(num_outcomes, factor * skew_real, factor * skew_fake, loc, scale)

    least, upper = scaled(0.0).kl, 1.0
    while scaled(upper).kl < kl and upper < MAX_SKEW_FACTOR:
        upper *= 2.0
    greatest = scaled(upper).kl
    if not least <= kl <= greatest:
        raise ValueError(
            f"D_KL(A1 || A0) = {kl} is out of reach with {num_outcomes} outcomes, skews in the "
            f"ratio {skew_real}:{skew_fake}, location {loc} and scale {scale}; these give "
            f"{least:.4g} to {greatest:.4g}"
        )
    from scipy import optimize  # takes half a second, and most runs give the skews

    solution = optimize.root_scalar(lambda factor: scaled(factor).kl - kl, bracket=(0.0, upper))
    return scaled(solution.root)


def shift_on_support(probabilities: np.ndarray, shift: float) -> np.ndarray:
    """Move a distribution [N] on linspace(-1, 1, N) by `shift`, clamped to [-1, 1].

    Mass between two outcomes is split linearly (the categorical projection of Bellemare et al.,
    2017).
    """
    last = len(probabilities) - 1
    support = np.linspace(-1.0, 1.0, last + 1)
    position = (np.clip(support + shift, -1.0, 1.0) + 1.0) * last / 2
    below = np.minimum(np.floor(position + 1e-9).astype(int), max(last - 1, 0))
    share = np.clip(position - below, 0.0, 1.0)
    moved = np.bincount(below, probabilities * (1 - share), minlength=last + 1)
    return moved + np.bincount(below + (last > 0), probabilities * share, minlength=last + 1)


def histogram_pair(normals: np.ndarray, num_outcomes: int) -> AnchorPair:
    """Anchors as in the paper's published code, from standard normals [2, M].

    A0 is the histogram of M normal draws, A1 that of M uniform draws (here Phi of normals), each
    with N bins between its smallest and largest draw, shifted by -1 and +1 on [-1, 1]. Half of each
    ends up on the outermost outcome, and the two overlap at most in the middle of the support, so
    that with three or more outcomes D_KL(A1 || A0) is infinite; an epsilon of 1e-16 in the
    logarithm makes it about 34.
    """
    counts_fake, _ = np.histogram(normals[0], num_outcomes)
    counts_real, _ = np.histogram(special.ndtr(normals[1]), num_outcomes)
    return AnchorPair(
        real=shift_on_support(counts_real / counts_real.sum(), HISTOGRAM_SHIFT),
        fake=shift_on_support(counts_fake / counts_fake.sum(), -HISTOGRAM_SHIFT),
    )


@functools.cache
def expected_histogram_pair(num_outcomes: int) -> AnchorPair:
    """The expectation of `histogram_pair`: each bin has its expected mass.

    The range of the normal histogram is given by the expected extremes of its draws, from Blom's
    formula (1958).
    """
    m = NUM_HISTOGRAM_SAMPLES
    extreme = special.ndtri((m - 0.375) / (m + 0.25))
    fake = np.diff(special.ndtr(np.linspace(-extreme, extreme, num_outcomes + 1)))
    real = np.full(num_outcomes, 1 / num_outcomes)
    return AnchorPair(
        real=shift_on_support(real, HISTOGRAM_SHIFT),
        fake=shift_on_support(fake / fake.sum(), -HISTOGRAM_SHIFT),
    )
