"""Configuration of the real images and of the two networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from realness.trainer.config.base import any_time, not_negative, positive, require


@dataclass(frozen=True)
class DataConfig:
    """Real images."""

    data: str = any_time("")
    """Folder, zip or tar shards of square images (launch/prepare.py converts any collection)."""
    resolution: int = 1024
    """Side length of the images in pixels; a power of two from 32 to 1024."""
    mirror: bool = True
    """Flip half of the images horizontally."""
    dequantize: bool = False
    """Add uniform noise of one grey level (1/127.5) to real images, as FAR-GAN does."""
    decoder: Literal["auto", "dali", "threads"] = any_time("auto")
    """Decode with DALI or with CPU threads. auto uses DALI if it is installed, except for raw
    images and, on machines without a GPU, for JPEG."""
    decode_threads: int = any_time(4)
    """Decoding threads per rank."""
    max_bad_images: int = any_time(100)
    """Unreadable images to tolerate before the run stops; each is replaced and named once."""

    def __post_init__(self) -> None:
        size = self.resolution
        require(
            32 <= size <= 1024 and size & (size - 1) == 0,
            f"--resolution={size} must be a power of two from 32 to 1024",
        )
        positive(self, "decode_threads")
        not_negative(self, "max_bad_images")


@dataclass(frozen=True)
class GeneratorConfig:
    """The generator G: z [B, z_dim] -> images [B, 3, R, R] in [-1, 1]."""

    generator: Literal["dcgan", "resnet", "sn-resnet", "stylegan2"] = "dcgan"
    """Architecture of G: DCGAN; resnet, FAR-GAN's ResNet without normalisation; sn-resnet, the
    batch-normalised ResNet of SNGAN; or StyleGAN2, configuration F."""
    z_dim: int = 128
    """Dimensions of the latent z ~ N(0, I)."""
    g_width: int = 32
    """Channels of G at half the output resolution (dcgan), in the image stage (resnet), or a
    quarter of the channels in every stage (sn-resnet)."""
    g_max_channels: int = 512
    """Maximum channels per stage of G (resnet, stylegan2)."""
    g_channel_base: int = 32768
    """Channels of a stage times its side length in pixels, up to --g-max-channels (stylegan2)."""
    w_dim: int = 512
    """Dimensions of the styles w (stylegan2)."""
    mapping_layers: int = 8
    """Fully connected layers from z to w (stylegan2)."""
    style_mixing: float = 0.9
    """Fraction of training images whose styles come from two latents (stylegan2)."""
    g_blocks: Literal[1, 2] = 1
    """Residual blocks per stage of G (resnet)."""
    g_activation: Literal["relu", "lrelu"] = "relu"
    """Activation function in G."""
    batch_statistics: Literal["global", "local"] = "global"
    """Compute batch normalisation over the batch of all ranks, or over each rank's own share."""

    def __post_init__(self) -> None:
        positive(self, "z_dim", "g_width", "g_max_channels", "g_channel_base", "w_dim")
        positive(self, "mapping_layers")
        require(
            0 <= self.style_mixing <= 1,
            f"--style-mixing={self.style_mixing} is a fraction and must lie in [0, 1]",
        )


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The discriminator D: images [B, 3, R, R] -> outputs [B, K]."""

    discriminator: Literal["dcgan", "resnet", "sn-resnet", "stylegan2"] = "dcgan"
    """Architecture of D: DCGAN; resnet, FAR-GAN's ResNet; sn-resnet, the ResNet of SNGAN; or
    StyleGAN2, configuration F."""
    d_width: int = 32
    """Channels of D at half the input resolution (dcgan), in the image stage (resnet), or half of
    the channels in every stage (sn-resnet)."""
    d_activation: Literal["lrelu", "silu"] = "lrelu"
    """Activation function in D (dcgan): LeakyReLU, or SiLU (x * sigmoid(x)), which is smooth."""
    d_norm: Literal["spectral", "layer", "none"] = "spectral"
    """Normalisation in D: spectral for its weights, layer for its features, or none."""
    d_max_channels: int = 512
    """Maximum channels per stage of D (resnet, stylegan2)."""
    d_channel_base: int = 32768
    """Channels of a stage times its side length in pixels, up to --d-max-channels (stylegan2)."""
    minibatch_group: int = 4
    """Images per group whose standard deviation is an input of D (stylegan2); 1 disables it."""
    d_blocks: Literal[1, 2] = 1
    """Residual blocks per stage of D (resnet)."""

    def __post_init__(self) -> None:
        positive(self, "d_width", "d_max_channels", "d_channel_base", "minibatch_group")
        require(
            self.discriminator not in ("resnet", "stylegan2") or self.d_norm == "none",
            f"--discriminator={self.discriminator} does not support normalisation, but "
            f"--d-norm={self.d_norm}; use --d-norm none, or --discriminator sn-resnet",
        )
        require(
            self.discriminator == "dcgan" or self.d_activation == "lrelu",
            f"--discriminator={self.discriminator} has a fixed activation, but "
            f"--d-activation={self.d_activation}; use lrelu, or --discriminator dcgan",
        )

    @property
    def group(self) -> int:
        """Number of consecutive images that D compares with each other."""
        return self.minibatch_group if self.discriminator == "stylegan2" else 1
