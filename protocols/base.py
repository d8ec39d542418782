"""Protocol: which runs an experiment is made of, and how its table and picture read them."""

import statistics

METRICS = ("accuracy", "macro_f1")


def spread(values):
    """(mean, standard deviation over seeds, dividing by n: the field's habit, numpy's default)."""
    return statistics.fmean(values), statistics.pstdev(values)


class Protocol:
    """One experiment design. A file of this folder defines one and calls it PROTOCOL; nothing else knows its name.

    Class attributes:
        summary: one line for lists and --help.
        shots: labelled images a class where SHOTS says nothing; (-1,) = all, and SHOTS is not asked.
        demo_shots: those for the demo; None = `shots`.
        needs_targets: whether TARGETS names the data sets to test on.
        other_classes: whether what is learned is tested on classes it was not trained on.
        shots_column: whether rows differ in shots.
        hparams: official or matched, where HPARAMS says nothing.
        files: the protocol whose files of hyper-parameters (configs/trainers/<Method>/) are read; by default its own.
        metrics: which figures of a run the table shows; the first is drawn.
    """

    name = ""
    summary = ""
    shots = (16,)
    demo_shots = None
    needs_targets = False
    other_classes = False
    shots_column = False
    hparams = "official"
    files = property(lambda self: self.name)
    metrics = METRICS

    def refuse(self, dataset, root, targets=()):
        """Raise a UserError where the experiment makes no sense on this data set."""

    def runs(self, first, targets=()):
        """[RunSpec] in running order, from the bare RunSpec of a method, data set, number of shots and seed."""
        return [first.but("train_all")]

    def columns(self, parts):
        """Names of the table's columns (of each metric), given the parts that have results."""
        return ["test"]

    def figures(self, values):
        """{column: (mean, deviation), "seeds": n} of {part: {seed: value}}; None if nothing can be shown."""
        found = values.get("train_all")
        return {"test": spread(list(found.values())), "seeds": len(found)} if found else None

    def notes(self, dataset, targets=()):
        """Lines below the table."""
        return []

    def draw(self, axes, rows):
        """Draw the table's rows into matplotlib axes; False: the protocol has no picture."""
        return False

    def drawings(self):
        """{name: as `draw`} of all pictures of the figures, the first (named "") the one beside the table."""
        return {"": self.draw}


def by_part(values):
    """{target: (mean, deviation)} of {part: {seed: value}}, a column a part; train_* is the source's own test."""
    if not values or not values.get("train_all"):
        return None
    found = {column(part): spread(list(v.values())) for part, v in values.items() if v}
    return {**found, "seeds": len(values["train_all"])}


def column(part):
    """Name of a part's column."""
    return "test" if part == "train_all" else part.removeprefix("test_")


def columns_by_part(parts):
    """The source's own test first, then the targets as they come."""
    return [column(part) for part in sorted(parts, key=lambda part: part != "train_all")]
