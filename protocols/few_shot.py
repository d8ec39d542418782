"""Few-shot: train on k labelled images a class, test on all classes."""

import numpy as np

from .base import Protocol


class FewShot(Protocol):
    """A row a method and number of shots; a curve a method."""

    summary = "train on k images a class, test on all classes"
    shots = (1, 2, 4, 8, 16)
    demo_shots = (1, 4, 16)
    shots_column = True

    def draw(self, axes, rows):
        names = dict.fromkeys(row["label"] for row in rows)
        for name in names:
            points = sorted((row["shots"], *row["figures"][self.metrics[0]]["test"]) for row in rows
                            if row["label"] == name)  # fmt: skip
            shots, means, deviations = map(np.array, zip(*points))
            (line,) = axes.plot(shots, means, label=name)
            axes.fill_between(shots, means - deviations, means + deviations, color=line.get_color(), linewidth=0,
                              alpha=0.12 if len(names) <= 8 else 0.05)  # fmt: skip
        axes.set_xscale("log", base=2)
        ticks = sorted({row["shots"] for row in rows})
        axes.set_xticks(ticks, labels=list(map(str, ticks)))
        axes.set_xlabel("labelled images a class")
        axes.set_ylabel(f"{self.metrics[0]}, %")


PROTOCOL = FewShot()
