"""How the papers score their generators, as fields of the configuration: `--protocol paper`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from realness.trainer.config import ConfigError

ITERATIONS = 10_000
"""Iterations between scores: RealnessGAN's Table 1 takes 20,000, 30,000 and so on. The other papers
do not state their schedule; the same one is used for them."""
CHECKPOINTS = 8
"""Checkpoints in these iterations, so that a stopped run loses at most an eighth of them."""


@dataclass(frozen=True)
class Protocol:
    """How a paper scores: by which metrics, how many generated images and which weights of G.

    mirror: whether real images are flipped in training. The Inception network resizes by itself, as
    in the original code of FID, which P2GAN names; the other papers do not name theirs.
    """

    metrics: str
    num_images: int
    weights: Literal["ema", "raw"]
    mirror: bool

    def fields(self, batch_size: int) -> dict[str, Any]:
        """The fields by their flag names. Iterations have `batch_size` images."""
        kimg = ITERATIONS * batch_size / 1000
        return {
            "mirror": self.mirror,
            "metrics": self.metrics,
            "metrics_kimg": kimg,
            "metrics_images": self.num_images,
            "metrics_weights": self.weights,
            "metrics_network": "inception",
            "metrics_resize": "network",
            "checkpoint_kimg": kimg / CHECKPOINTS,
            "keep_checkpoint_kimg": kimg,
        }


REALNESS = Protocol("swd,fid", num_images=50_000, weights="raw", mirror=False)
"""RealnessGAN (ICLR 2020): its published code neither averages G nor flips images. The number of
images is not in the paper. 50,000 is the usual one; its code has 5,000: `--metrics-images 5000`."""
FAR = Protocol("fid,is", num_images=10_000, weights="ema", mirror=True)
"""FAR-GAN: FID of 10,000 images, and an average with decay 0.999 "to produce the final model". It
uses the code of Mescheder et al. (LMescheder/GAN_stability), which flips images."""
P2GAN = Protocol("fid", num_images=50_000, weights="raw", mirror=False)
"""P2GAN (CVPR 2021, section 5.3): 50,000 images; it mentions neither an average nor flips."""
STYLEGAN2 = Protocol("fid", num_images=50_000, weights="ema", mirror=True)
"""Karras et al. (CVPR and NeurIPS 2020): 50,000 images of the average, FFHQ with flips."""

_BASELINES = ("standard", "lsgan", "hinge", "wgan-gp")
PAPERS = {
    **{
        f"{data}-{system}-dcgan": REALNESS
        for data in ("celeba256", "cifar10")
        for system in ("realness", *_BASELINES)
    },
    **{f"{data}-realness-dcgan": REALNESS for data in ("ffhq1024", "ffhq256")},
    **{f"cifar10-realness{name}-dcgan": REALNESS for name in ("1", "3", "-author")},
    **{
        f"{data}-{system}-resnet": FAR
        for data in ("cifar10", "cifar100", "imagenet64")
        for system in ("0gp", "far")
    },
    "cifar10-p2gan-resnet": P2GAN,
    "cifar10-p2gan-dcgan": P2GAN,
    "celeba64-p2gan-resnet": P2GAN,
    "celeba32-p2gan-stylegan2": P2GAN,
    "celeba64-p2gan-stylegan2": P2GAN,
    **{f"{data}-stylegan2": STYLEGAN2 for data in ("ffhq1024", "ffhq256")},
}
"""The protocol of the paper that has the experiment of a preset, by the preset's name."""


def paper_protocol(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that score a run as the paper of its preset does.

    fields: those of the run, by flag names. Raises ConfigError for a preset that no paper has.
    """
    name = fields["preset"]
    if name not in PAPERS:
        raise ConfigError(
            f"--protocol=paper: no paper has scores of the preset {name!r}; leave --protocol out "
            "and choose --metrics, --metrics-kimg and --metrics-images, or take a preset of a "
            f"paper: {', '.join(sorted(PAPERS))}"
        )
    return PAPERS[name].fields(fields["batch_size"])
