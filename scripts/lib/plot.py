"""Pictures of tables."""

import contextlib
from pathlib import Path

from dassl.utils.io import atomic_path


@contextlib.contextmanager
def _picture(table, path):
    """Axes with the table's title and warnings on top; saved as PNG in the end."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(max(6, 0.7 * len({d["label"] for d in table["data"]})), 4))
    warnings = [n for n in table["notes"] if "confounded" in n or n.startswith("Demo")]
    axes.set_title("\n".join([table["title"], *warnings]), fontsize=9)
    yield axes
    axes.legend(fontsize=8)
    figure.tight_layout()
    with atomic_path(Path(path)) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    plt.close(figure)


def few_shot_curves(table, path):
    """Accuracy against shots, a line a method, a bar of one deviation."""
    with _picture(table, path) as axes:
        for name in dict.fromkeys(d["label"] for d in table["data"]):
            points = sorted((d["shots"], *d["figures"]["accuracy"]["train_all"]) for d in table["data"]
                            if d["label"] == name)  # fmt: skip
            shots, means, deviations = zip(*points)
            axes.errorbar(shots, means, yerr=deviations, marker="o", capsize=3, label=name)
        axes.set_xscale("log", base=2)
        ticks = sorted({d["shots"] for d in table["data"]})
        axes.set_xticks(ticks, labels=list(map(str, ticks)))
        axes.set_xlabel("labelled images a class")
        axes.set_ylabel("accuracy, %")


def base2new_bars(table, path):
    """Accuracy on base and new classes and H, a group a method, a bar of one deviation."""
    with _picture(table, path) as axes:
        for k, column in enumerate(("base", "new", "H")):
            means, deviations = zip(*(d["figures"]["accuracy"][column] for d in table["data"]))
            places = [i + 0.27 * (k - 1) for i in range(len(means))]
            axes.bar(places, means, 0.25, yerr=deviations, capsize=3, label=column)
        labels = [d["label"] for d in table["data"]]
        turned = {"rotation": 40, "ha": "right"} if len(labels) > 6 else {}
        axes.set_xticks(range(len(labels)), labels=labels, fontsize=8, **turned)
        axes.set_ylabel("accuracy, %")
