"""What upstream's Dassl has and this one leaves out, in one line instead of a missing name."""


def left_out(name):
    """The ImportError that importing `name` amounts to."""
    return ImportError(
        f"{name} is left out of this dassl: it trains on labelled images (TrainerX), without domain adaptation, domain "
        f"generalisation, semi-supervised learning and their networks; what needs them needs Dassl.pytorch, in an "
        f"environment of its own"
    )
