"""Pictures of a table and of the runs behind it, each as SVG and PNG: from results, predictions and logs alone.

    draw          the one picture beside a protocol's table
    of_one_table  all pictures of a report's table
    of_data_sets  the critical-difference diagrams of a report
"""

from pathlib import Path

import numpy as np

from cilmp.experiments.formats import measure
from cilmp.protocols import in_words
from dassl.utils.paths import slug

from . import frame, of_runs, of_table

PARTS = 3  # parts of a protocol of which what lies behind is drawn

BEHIND = {
    "per-class": (of_runs.per_class, "Recall of each class, bars for the highest rows"),
    "confusion": (of_runs.confusion, "Confusion matrices of the highest rows"),
    "roc": (of_runs.roc, "ROC curves"),
    "reliability": (of_runs.reliability, "Reliability diagram: share of right answers by confidence"),
    "training": (of_runs.training, "Loss and accuracy during training"),
}


def draw(protocol, table, path):
    """The protocol's first picture of a table as PNG; returns the path, or None where it has none (or no rows)."""
    path = Path(path)
    with frame.style():
        made = of_table.by_protocol(next(iter(protocol.drawings().values())), protocol, table)
        if made is None:
            return None
        frame.save(made, path.with_suffix(""), ("png",))
    return path


def of_one_table(protocol, table, records, folder, stem):
    """[{name, title, alt, file}] of the pictures of a table that could be drawn: <file>.svg and <file>.png, written
    into `folder`."""
    found = []
    with frame.style():
        for name, title, make in _pictures(protocol, table, records):
            made = make()
            if made is not None:
                file = f"{stem}{f'-{name}' if name else ''}"
                frame.save(made, Path(folder, file))
                found.append({"name": name, "title": title, "alt": f"{title}. {table['title']}.", "file": file})
    return found


def _pictures(protocol, table, records):
    """(name, title, function without arguments that returns a figure or None)."""
    for name, method in protocol.drawings().items():
        yield name, f"Figures by {protocol.name}", lambda m=method: of_table.by_protocol(m, protocol, table)
    yield "differences", "Paired differences from the highest row", lambda: of_table.forest(protocol, table)
    yield "cost", f"{measure(protocol.metrics[0]).title} against cost", lambda: of_table.cost(protocol, table)
    rows = of_table.drawn_rows(protocol, table)
    shots = max((row["shots"] for row in rows), key=lambda s: s if s > 0 else np.inf, default=None)
    parts = dict.fromkeys(p for row in rows for p in row["parts"])
    for i, part in enumerate(sorted(parts, key=lambda p: p.startswith("test_"))[:PARTS]):  # the training's own first
        behind = of_runs.Behind(protocol, table, records, part, shots)
        for name, (make, title) in BEHIND.items():
            if name != "training" or i == 0:
                words = f"{title}: {part}" if len(parts) > 1 and name != "training" else title
                ending = f"-{part}" if len(parts) > 1 and name != "training" else ""
                yield f"{name}{ending}", words, lambda m=make, b=behind: m(b)


def of_data_sets(summaries, title, folder, stem):
    """As `of_one_table`, a critical-difference diagram of each of over_sets' summaries that has Friedman's test."""
    found = []
    with frame.style():
        for summary in summaries:
            words = f"{title}: {summary['column']} {measure(summary['figure']).title}, {in_words(summary['shots'])}"
            made = of_table.critical_difference(summary | {"title": words})
            if made is not None:
                name = slug(f"ranks-{summary['column']}-{in_words(summary['shots'])}")
                frame.save(made, Path(folder, f"{stem}-{name}"))
                found.append({"name": name, "title": "Critical differences", "alt": f"Average ranks. {words}.",
                              "file": f"{stem}-{name}"})  # fmt: skip
    return found


def markdown(found):
    """The first picture, and links to the others' files (a vector file each; a .png lies beside)."""
    if not found:
        return ""
    first, *others = found
    lines = [f"![{first['title']}]({first['file']}.png)", ""]
    if others:
        lines += ["Pictures: " + ", ".join(f"[{p['title']}]({p['file']}.svg)" for p in others) + ".", ""]
    return "\n".join(lines)
