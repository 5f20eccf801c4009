"""Base classes of the networks' configurations: what all of them have, and what they can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from realness.trainer.config.base import positive, require
from realness.trainer.config.components import Component, registered

Normalisation = Literal["spectral", "layer", "none"]
GeneratorNormalisation = Literal["batch", "instance"]


@dataclass(frozen=True)
class GeneratorConfig(Component):
    """The generator G: z [B, z_dim] -> images [B, 3, R, R] in [-1, 1].

    Capabilities:
        styles: G maps z to styles w, which truncation, style mixing and path-length regularisation
            need; the module is a `TakesNoiseAndStyles`.
        codes: G takes P2GAN's posterior codes; the module is a `CodedGenerator`.
        recompute: G is made of blocks that `--checkpoint-activations` can compute again: modules
            whose class attribute `recomputable` is True, without batch normalisation.
        shares_statistics: batch normalisation, if any, covers the batch of all ranks.
        grows: the module is a `GrowingNetwork`, and `build` takes `growing`.
        conditional: `build` takes `num_classes`; the module then takes the classes of its images as
            a condition [B, num_classes] (see `networks.classes`) where coded generators take the
            code, by the same name.
    """

    kind: ClassVar[str] = "generator"
    styles: ClassVar[bool] = False
    codes: ClassVar[bool] = False
    recompute: ClassVar[bool] = False
    grows: ClassVar[bool] = False
    conditional: ClassVar[bool] = False

    z_dim: int = 128
    """Dimensions of the latent z ~ N(0, I)."""

    @property
    def shares_statistics(self) -> bool:
        return True

    def __post_init__(self) -> None:
        positive(self, "z_dim")

    def counterpart(self, name: str, doublings: int) -> str:
        """What the tensor `name` is called in a network of 2^doublings times the resolution.

        Empty if such a network has none that does the same.
        """
        return "" if doublings else name

    def build(self, resolution: int, code_dim: int) -> Any:
        """The network (`nn.Module`) for images of `resolution` pixels a side.

        `code_dim` is the dimension of the posterior codes, 0 unless the objective has codes.
        """
        raise NotImplementedError(f"{type(self).__qualname__} does not define build()")


@dataclass(frozen=True)
class DiscriminatorConfig(Component):
    """The discriminator D: images [B, 3, R, R] -> outputs [B, K].

    Capabilities:
        norms: the values of --d-norm that D supports.
        recompute: as of `GeneratorConfig`.
        smooth: D has continuous second derivatives, which `--r1 finite-difference` needs.
        group: number of consecutive images that D compares with each other.
        grows: as of `GeneratorConfig`.
        conditional: `build` takes `num_classes`; the module is then called as
            `d(images, condition)`.
    """

    kind: ClassVar[str] = "discriminator"
    norms: ClassVar[tuple[str, ...]] = ("none",)
    recompute: ClassVar[bool] = False
    grows: ClassVar[bool] = False
    conditional: ClassVar[bool] = False

    d_norm: Normalisation = "none"
    """Normalisation in D: spectral for its weights, layer for its features, or none."""

    @property
    def smooth(self) -> bool:
        return False

    @property
    def group(self) -> int:
        return 1

    def __post_init__(self) -> None:
        require(
            self.d_norm in self.norms,
            f"--discriminator={self.name} does not support --d-norm={self.d_norm}; use --d-norm "
            f"{' or '.join(self.norms)}, or --discriminator sn-resnet",
        )

    def counterpart(self, name: str, doublings: int) -> str:
        """As of `GeneratorConfig`."""
        return "" if doublings else name

    def build(self, resolution: int, num_outputs: int) -> Any:
        """The network (`nn.Module`) for images of `resolution` pixels a side.

        `num_outputs` is the number of outputs K per image, which the objective sets.
        """
        raise NotImplementedError(f"{type(self).__qualname__} does not define build()")


def able(chosen: GeneratorConfig | DiscriminatorConfig, capability: str) -> str:
    """The components of a kind that declare a capability: "resnet or stylegan2"."""
    known = registered(chosen.kind).items()
    return " or ".join(sorted(name for name, kind in known if getattr(kind, capability)))
