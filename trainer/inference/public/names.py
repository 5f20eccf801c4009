"""The names that files of public models import; every other is refused."""

from __future__ import annotations

TENSORS = {
    "collections.OrderedDict",
    "builtins.set",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_tensor_v2",
    "torch.storage._load_from_bytes",
    "torch.Size",
    "torch.device",
    "_codecs.encode",
    "numpy.ndarray",
    "numpy.dtype",
    *(
        f"numpy.{core}.multiarray.{name}"
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ),
    *(
        f"torch.{kind}Storage"
        for kind in (
            *("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte"),
            "Bool",
        )
    ),
    *(f"torch.{kind}" for kind in ("float32", "float64", "float16", "bfloat16", "int64")),
}
"""Tensors, arrays, and the containers of networks."""

PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
TENSORFLOW = "dnnlib.tflib.network.Network"
MODELS = {PERSISTENT, TENSORFLOW, "dnnlib.util.EasyDict", "argparse.Namespace"}
"""NVIDIA's networks with their source text, its networks of TensorFlow, and settings."""

R3GAN = {
    "training.networks.Generator",
    "training.networks.Discriminator",
    *(
        f"R3GAN.Networks.{name}"
        for name in (
            *("Generator", "GeneratorStage", "GenerativeBasis", "UpsampleLayer"),
            *("Discriminator", "DiscriminatorStage", "DiscriminativeBasis", "DownsampleLayer"),
            *("ResidualBlock", "Convolution"),
        )
    ),
    *(f"R3GAN.FusedOperators.BiasedActivation{kind}" for kind in ("", "CUDA", "Reference")),
    *(
        f"R3GAN.Resamplers.Interpolative{way}sampler{kind}"
        for way in ("Up", "Down")
        for kind in ("", "CUDA", "Reference")
    ),
}
"""The modules of R3GAN, stored by their names."""
MODULES = R3GAN | {
    "torch.nn.modules.container.ModuleList",
    "torch.nn.modules.conv.Conv2d",
    "torch.nn.modules.linear.Linear",
    "torch.nn.modules.activation.LeakyReLU",
}
"""Modules whose attributes are their state."""

_ALLOWED = TENSORS | MODELS | MODULES


def is_allowed(name: str) -> bool:
    """Whether a file may import this dotted name. What it stands for is never imported."""
    return name in _ALLOWED
