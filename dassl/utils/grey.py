"""Grey levels and samples of more than 8 bits, to 8 bits."""

import numpy as np

DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras and scanners fill of 16


def window(values, low=None, high=None, use=True, full=(0, 1)):
    """Grey values to uint8, linear between low and high; NaN is black.

    Without low and high: between the 0.5th and 99.5th percentile of the finite values, or, where those are equal,
    between the least and the greatest; an image of a single value lies where it lies within `full`.

    Args:
        use: mask of the values that the percentiles are taken of.
        full: the range that the values could have.
    """
    values = np.asarray(values, dtype=np.float64)
    if low is None:
        low, high = _span(values[np.isfinite(values) & use], full)
    scaled = ((values - low) / (high - low)).clip(0, 1)
    return (np.nan_to_num(scaled, nan=0.0) * 255 + 0.5).astype(np.uint8)


def _span(known, full):
    """(low, high), low < high, of the values that are known."""
    if not known.size:
        return full
    for low, high in (np.percentile(known, (0.5, 99.5)), (known.min(), known.max())):
        if low < high:
            return low, high
    return full


def eight_bits(samples):
    """uint16 samples to uint8 over the depth that they fill: 12-bit data in 16 bits are 0..4095, so colours stay."""
    top = next(2**bits - 1 for bits in DEPTHS if samples.max(initial=0) < 2**bits)
    return (samples.astype(np.float32) * (255 / top) + 0.5).astype(np.uint8)
