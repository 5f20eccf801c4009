"""What `generate` checks before it makes any image."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from realness.launch.generate_arguments import Command
    from realness.trainer.inference.trained import TrainedGenerator

DISK_BLOCK = 4096
SCORE_BYTES = 40  # per drawn image: its number, score and rank, and the copies that sorting makes


def num_kept(num: int, share: float) -> int:
    """How many of `num` images --top keeps."""
    return max(1, round(share * num))


def check_arguments(command: Command) -> None:
    """Raise ConfigError for values that no run allows."""
    from realness.trainer.config import ConfigError
    from realness.trainer.inference.video import check_video

    if command.interpolate and command.animation == "mp4":
        check_video()
    for name in ("num", "batch_size"):
        if getattr(command, name) < 1:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"{flag}={getattr(command, name)} must be at least 1")
    for name in ("grid", "interpolate", "seed"):
        if getattr(command, name) < 0:
            raise ConfigError(f"--{name}={getattr(command, name)} must not be negative")
    if command.seed >= 2**63:
        raise ConfigError(f"--seed={command.seed} must be below 2**63")
    if not 0 < command.top <= 1:
        raise ConfigError(f"--top={command.top} must lie in (0, 1]")
    if not 0 <= command.truncation <= 1:
        raise ConfigError(f"--truncation={command.truncation} must lie in [0, 1]")
    if command.loop and not command.interpolate:
        raise ConfigError("--loop needs --interpolate, the number of steps between two images")
    if command.latents is not None and command.classes:
        raise ConfigError(
            f"--classes={command.classes} does not go with --latents: the file has the classes of "
            "its latents; leave out one of the two"
        )
    if command.checkpoint == "all":
        raise ConfigError("--checkpoint=all: name one checkpoint, latest or best")


def check_groups(command: Command, generator: TrainedGenerator) -> None:
    """If D scores images in groups, check that the groups do not depend on the batch size."""
    from realness.trainer.config import ConfigError

    group = generator.config.d.group
    if command.batch_size % group:
        raise ConfigError(
            f"--batch-size={command.batch_size} is not divisible by the {group} images that this "
            f"run's D scores together; use {-(-command.batch_size // group) * group}"
        )


def check_room(command: Command, generator: TrainedGenerator) -> None:
    """Check that memory can hold the scores and films, and the disk the images, before all work."""
    import io
    import shutil

    import torch
    from PIL import Image

    from realness.trainer.config import ConfigError
    from realness.trainer.planning.host_memory import available_memory

    count = num_kept(command.num, command.top)
    side, steps = generator.config.data.resolution, command.interpolate
    # The strips, and the frames of the animation.
    film = 2 * 3 * side**2 * steps * (count if command.loop else count - 1)
    for flag, needed in (("--num", SCORE_BYTES * command.num), ("--interpolate", film)):
        if needed > (available := available_memory()):
            name = flag.removeprefix("--")
            raise ConfigError(
                f"{flag}={getattr(command, name)} needs {needed / 2**30:,.0f} GiB of memory, and "
                f"{available / 2**30:,.1f} GiB are available; use a smaller {flag}"
                + (" or --num" if name == "interpolate" else "")
            )
    pixels = generator.sample(torch.zeros(1, dtype=torch.int64), command.seed)[0]
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy()).save(file, "PNG")
    needed = count * -(-file.tell() // DISK_BLOCK) * DISK_BLOCK
    place = next(path for path in (command.out, *command.out.absolute().parents) if path.exists())
    if needed > (free := shutil.disk_usage(place).free):
        raise ConfigError(
            f"--num={command.num} needs about {needed / 2**30:,.0f} GiB, and the disk of "
            f"{command.out} has {free / 2**30:,.1f} GiB free; draw fewer, keep fewer with --top, "
            "or use another disk"
        )
