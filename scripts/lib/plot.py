"""Pictures of tables."""

from pathlib import Path

from dassl.utils.io import atomic_path


def few_shot_curves(table, path):
    """Accuracy against shots, a line a method, a bar of one deviation."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for method in dict.fromkeys(d["method"] for d in table["data"]):
        points = sorted((d["shots"], *d["figures"]["accuracy"]["train_all"]) for d in table["data"]
                        if d["method"] == method)  # fmt: skip
        shots, means, deviations = zip(*points)
        axes.errorbar(shots, means, yerr=deviations, marker="o", capsize=3, label=method)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({d["shots"] for d in table["data"]}))
    axes.get_xaxis().set_major_formatter(matplotlib.ticker.ScalarFormatter())
    axes.set_xlabel("labelled images a class")
    axes.set_ylabel("accuracy, %")
    warnings = [n for n in table["notes"] if "confounded" in n or "Demo" in n]
    axes.set_title("\n".join([table["title"], *warnings]), fontsize=9)
    axes.legend()
    figure.tight_layout()
    with atomic_path(Path(path)) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    plt.close(figure)
