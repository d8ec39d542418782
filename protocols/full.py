"""Full: train on every training image, test on all classes."""

from .base import Protocol


class Full(Protocol):
    """One column."""

    summary = "train on every training image"
    shots = (-1,)


PROTOCOL = Full()
