"""Base to new: train on the first half of the classes, test there and on the second half, which nothing has seen."""

import numpy as np

from dassl.utils.errors import UserError

from .base import Protocol, spread


def harmonic(a, b):
    """2ab / (a + b), 0 where both are 0."""
    return 2 * a * b / (a + b) if a + b else 0.0


class BaseToNew(Protocol):
    """Columns base, new and their harmonic mean H."""

    summary = "train on half the classes, test on those and on the others"
    other_classes = True

    def refuse(self, dataset, root, targets=()):
        from cilmp import datasets

        try:
            n = len(datasets.info(dataset, root).classnames)
        except UserError:  # a reader of the user's own is asked when it is built
            return
        if n < 4:
            raise UserError(
                f"base2new needs at least four classes, two on each side: {dataset} has {n}, so new would have "
                f"{n // 2}; use few_shot or full"
            )

    def runs(self, first, targets=()):
        train = first.but("train_base", {"DATASET.SUBSAMPLE_CLASSES": "base"})
        return [train, train.then("test_new", {"DATASET.SUBSAMPLE_CLASSES": "new"})]

    def columns(self, parts):
        return ["base", "new", "H"]

    def figures(self, values):
        """H is the harmonic mean of the seed means, the field's habit; its deviation is of the seeds' own H, whose
        mean is given too (H_of_seeds)."""
        base, new = values.get("train_base", {}), values.get("test_new", {})
        seeds = sorted(set(base) & set(new), key=int)
        if not seeds:
            return None
        b, n = spread([base[s] for s in seeds]), spread([new[s] for s in seeds])
        each = {s: harmonic(base[s], new[s]) for s in seeds}
        of_seeds = spread(list(each.values()))
        return {"base": b, "new": n, "H": (harmonic(b[0], n[0]), of_seeds[1]), "H_of_seeds": of_seeds,
                "H_per_seed": each, "seeds": len(seeds)}  # fmt: skip

    def notes(self, dataset, targets=()):
        return ["H: harmonic mean of the seed-mean base and new values; its deviation is of the seeds' own H "
                "(their mean: H_of_seeds in table.json)."]  # fmt: skip

    def draw(self, axes, rows):
        for k, column in enumerate(self.columns(())):
            means, deviations = zip(*(row["figures"][self.metrics[0]][column] for row in rows))
            places = [i + 0.27 * (k - 1) for i in range(len(means))]
            axes.bar(places, means, 0.25, yerr=deviations, capsize=3, label=column)
        turned = {"rotation": 40, "ha": "right"} if len(rows) > 6 else {}
        axes.set_xticks(range(len(rows)), labels=[row["label"] for row in rows], fontsize=8, **turned)
        axes.set_ylabel(f"{self.metrics[0]}, %")

    def drawings(self):
        return {"": self.draw, "base-new": self.draw_plane}

    def draw_plane(self, axes, rows):
        """Base against new, a deviation over seeds both ways; the curves have equal H."""
        ends = []
        for row in rows:
            (x, dx), (y, dy) = (row["figures"][self.metrics[0]][column] for column in ("base", "new"))
            (point,) = axes.plot(x, y, linestyle="", label=row["label"], zorder=3)
            axes.errorbar(x, y, xerr=dx, yerr=dy, color=point.get_color(), marker="", elinewidth=0.7, capsize=0)
            ends += [(x - dx, y - dy), (x + dx, y + dy)]
        low, high = np.min(ends, 0) - 3, np.max(ends, 0) + 3
        x, y = (np.linspace(max(a, 0.1), min(b, 100), 100) for a, b in zip(low, high))
        curves = axes.contour(x, y, 2 * x * y[:, None] / (x + y[:, None]), 8, colors="#999999", linewidths=0.6)
        axes.clabel(curves, fmt="H %g", fontsize=7)
        axes.set(xlabel=f"base {self.metrics[0]}, %", ylabel=f"new {self.metrics[0]}, %")


PROTOCOL = BaseToNew()
