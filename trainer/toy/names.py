"""Names of data and networks for the command line, without importing torch."""

from __future__ import annotations

from typing import Literal

DataName = Literal["grid9", "ring8", "grid25", "swissroll", "gauss-finite"]
"""The distributions of `realness.trainer.toy.data`."""

Networks = Literal["realness", "far", "published"]
"""Networks and optimiser of RealnessGAN (section 4.1), of FAR-GAN (section 6.1), or of
RealnessGAN's published script, which departs from its paper."""

NETWORKS_OF: dict[DataName, Networks] = {
    "grid9": "realness",
    "ring8": "far",
    "grid25": "far",
    "swissroll": "far",
    "gauss-finite": "far",
}
"""The paper that each distribution comes from."""
