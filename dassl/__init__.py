"""The toolbox core: Dassl's public API for supervised image classification, written for current PyTorch."""

__version__ = "0.6.3+cilmp"
