"""Pictures of tables: the frame here, what is drawn by the protocol."""

import textwrap
from pathlib import Path

from dassl.utils.io import atomic_path

from .tables import marks_of


def draw(protocol, table, path):
    """The protocol's picture of a table as PNG; returns the path, or None where it has none (or no rows)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row | {"label": row["label"] + marks_of(row)} for row in table["data"]
            if protocol.metrics[0] in row["figures"]]  # fmt: skip
    if not rows:
        return None
    figure, axes = plt.subplots(figsize=(max(7, 0.7 * len({row["label"] for row in rows})), 4.2))
    try:
        if protocol.draw(axes, rows) is False:
            return None
        warnings = [n for n in table["notes"] if "confounded" in n or n.startswith(("Demo", "Random"))]
        width = int(figure.get_size_inches()[0] * 14)
        axes.set_title("\n".join(textwrap.fill(line, width) for line in (table["title"], *warnings)), fontsize=9)
        axes.legend(fontsize=8)
        figure.tight_layout()
        with atomic_path(Path(path)) as temporary:
            figure.savefig(temporary, format="png", dpi=120)
    finally:
        plt.close(figure)
    return Path(path)
