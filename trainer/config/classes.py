"""Classes of images: whether networks are told them, and what the run's data has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from realness.trainer.config.base import ConfigError, derived, require
from realness.trainer.config.networks import DiscriminatorConfig, GeneratorConfig, able
from realness.trainer.config.objective import FakeAsRealConfig, ObjectiveConfig

MAX_CLASSES = 100_000
"""More classes are a mistake: config.json holds a number for each."""


@dataclass(frozen=True)
class ClassesConfig:
    """Class-conditional training.

    The numbers of images per class are found in the data when a run starts, and recorded, so that
    resuming, generating and evaluating draw the same classes.
    """

    conditional: bool = False
    """Train with classes: G makes an image of a given class, and D judges an image as one of its
    class. Their number and their proportions are those of the data (--labels)."""
    class_counts: tuple[int, ...] = derived((), "number of images of each class")
    class_names: tuple[str, ...] = derived((), "names of the classes", resumable=True)

    def __post_init__(self) -> None:
        require(
            all(count >= 0 for count in self.class_counts)
            and (not self.class_counts or sum(self.class_counts) > 0),
            "config.json: class_counts must be numbers of images, of which one is above 0",
        )

    @property
    def num_classes(self) -> int:
        """Number of classes that the networks know; 0 for unconditional ones.

        Raises ConfigError for a conditional run whose data has not been opened.
        """
        if not self.conditional:
            return 0
        require(
            bool(self.class_counts),
            "--conditional takes the number of classes from the images: give them with --data",
        )
        return len(self.class_counts)

    def name(self, number: int) -> str:
        """The name of a class, or its number if the data names none."""
        return self.class_names[number] if self.class_names else str(number)

    def agree(self, names: Sequence[str], count: int) -> bool:
        """Whether images of `count` classes with these names, if any, have the run's classes.

        They have the same names; or, if the run or the images have none, no number that the run
        does not have.
        """
        if self.class_names and names:
            return tuple(names) == self.class_names
        return count <= len(self.class_counts)

    def find(self, text: str) -> int:
        """The number of the class with this name or number. Raises ConfigError if there is none."""
        if text in self.class_names:
            return self.class_names.index(text)
        if text.isdigit() and int(text) < len(self.class_counts):
            return int(text)
        names = f" or {', '.join(self.class_names[:10])}" if self.class_names else ""
        raise ConfigError(
            f"the run has no class {text!r}; use 0 to {len(self.class_counts) - 1}{names}"
            f"{', ...' if len(self.class_names) > 10 else ''}"
        )


def check_classes(counts: Sequence[int], num_images: int, data: str, notes: Sequence[str]) -> None:
    """Raise ConfigError for data whose classes cannot be trained on.

    counts: number of images of each class. notes: what opening the data had to say.
    """
    about = "; ".join(note for note in notes if "label" in note or "class" in note)
    require(
        bool(counts),
        f"--conditional needs a class for every image, and --data={data} has none"
        f"{f' ({about})' if about else ''}; use --labels folders if the folders are the classes, "
        "--labels FILE.csv for a list of names and classes, or --no-conditional",
    )
    require(
        sum(counts) == num_images,
        f"--conditional: {num_images - sum(counts):,} of the {num_images:,} images in "
        f"--data={data} have no class; label all of them, or use --no-conditional",
    )
    require(
        len(counts) <= MAX_CLASSES,
        f"--conditional: --data={data} has {len(counts):,} classes, more than {MAX_CLASSES:,}; are "
        "its labels classes?",
    )


def check_conditional(
    classes: ClassesConfig,
    g: GeneratorConfig,
    d: DiscriminatorConfig,
    objective: ObjectiveConfig,
    far: FakeAsRealConfig,
) -> None:
    """Raise ConfigError if a conditional run has components that take no classes."""
    if not classes.conditional:
        return
    require(
        g.conditional and d.conditional,
        f"--conditional needs networks that take classes, not --generator={g.name} "
        f"--discriminator={d.name}; use --generator {able(g, 'conditional')} and "
        f"--discriminator {able(d, 'conditional')}, or --no-conditional",
    )
    require(
        not objective.codes,
        f"--conditional does not combine with --objective={objective.name}: the code of a real "
        "image takes the place of the class in its generator; use another objective, or "
        "--no-conditional",
    )
    require(
        not far.far_fakes,
        f"--conditional does not combine with --far-fakes={far.far_fakes}: FAR-GAN takes the "
        "generated images with the lowest scores of all classes, so the classes of D's real images "
        "would not be those of the data; use --far-fakes 0, or --no-conditional",
    )
