"""Methods over several data sets: averages, ranks, and the tests that many sets allow."""

import numpy as np

from cilmp.protocols import in_words
from dassl.utils.io import write_json

from . import pictures, statistics
from .formats import grid, md, measure, rounded


def summaries(protocol, tables):
    """[summary] of {data set: table} of one protocol and backbone: one for each number of shots and column that all
    sets have, of the protocol's first figure. A method that some set lacks is left out and named."""
    found, name = [], protocol.metrics[0]
    rows = {(row["shots"], row["label"]) for table in tables.values() for row in table["data"]}
    for shots in sorted({shots for shots, _ in rows}, key=lambda s: s if s > 0 else np.inf):
        values = {}  # {column: {label: {set: value}}}
        for dataset, table in tables.items():
            for row in table["data"]:
                for column in protocol.columns(row["parts"]) if row["shots"] == shots else ():
                    if column in row["figures"].get(name, {}):
                        own = values.setdefault(column, {}).setdefault(row["label"], {})
                        own[dataset] = row["figures"][name][column][0]
        for column, methods in values.items():
            if len(sets := {d for m in methods.values() for d in m}) > 1:
                found.append(_summary(shots, column, name, sorted(sets), methods))
    return found


def _summary(shots, column, name, sets, methods):
    whole = {label: [own[d] for d in sets] for label, own in methods.items() if len(own) == len(sets)}
    found = {"shots": shots, "column": column, "figure": name, "sets": sets, "methods": list(whole),
             "lacking": {m: sorted(set(sets) - set(own)) for m, own in methods.items() if m not in whole},
             "rows": [], "notes": []}  # fmt: skip
    if not whole:
        return found
    values = np.array(list(whole.values())).T  # (N, k)
    values = -values if measure(name).less_is_better else values
    found["rows"] = [{"method": m, "average": float(np.mean(v)), "rank": float(r)}
                     for (m, v), r in zip(whole.items(), statistics.ranks(values).mean(0))]  # fmt: skip
    return found | _tests(values, list(whole))


def _tests(values, methods):
    """What Friedman's and Wilcoxon's tests say, or why they can't be made."""
    n, k = values.shape
    if k < 3 or n < statistics.FRIEDMAN:
        few = f"{n} data sets" if n < statistics.FRIEDMAN else f"{k} methods"
        return {"notes": [f"No test over data sets: {few}; Friedman's needs {statistics.FRIEDMAN} sets and 3 methods, "
                          f"Wilcoxon's {statistics.WILCOXON} sets."]}  # fmt: skip
    p, ranks, reach = statistics.friedman(values)
    notes = [f"Friedman: p = {p:.2g} over {n} sets; Nemenyi: average ranks that differ by less than {reach:.2f} can't "
             f"be told apart (5 %)."]  # fmt: skip
    if p > statistics.LEVEL:
        notes.append("Friedman's test does not tell the methods apart, so no pair of them is.")
    else:
        best = int(np.argmin(ranks))
        same = [methods[i] for i in range(k) if i != best and ranks[i] - ranks[best] < reach]
        notes.append(f"Can't be told apart from the best rank, {methods[best]}: {', '.join(same) or 'none'}.")
    found = {"friedman": p, "critical_difference": reach, "wilcoxon": [], "notes": notes}
    if n < statistics.WILCOXON:
        notes.append(f"No pairs by Wilcoxon's test: {n} sets, it needs {statistics.WILCOXON}.")
    else:
        corrected = statistics.wilcoxon(values)
        found["wilcoxon"] = [{"a": methods[a], "b": methods[b], "holm": float(q)} for (a, b), q in corrected.items()]
        apart = [f"{w['a']} - {w['b']} ({w['holm']:.2g})" for w in found["wilcoxon"] if w["holm"] <= statistics.LEVEL]
        notes.append(f"Wilcoxon's test, Holm-corrected, tells apart: {'; '.join(apart) or 'no pair'}.")
    return found


def section(protocol, backbone, tables, stem, folder, draws=True):
    """(Markdown of the summaries of {data set: table}, {title, summaries, pictures}), and <stem>.json beside;
    ("", None) where they share nothing."""
    found = summaries(protocol, tables)
    if not found:
        return "", None
    write_json(found, folder / f"{stem}.json")
    title = f"{protocol.name} over data sets, {backbone}"
    drawn = pictures.of_data_sets(found, title, folder, stem) if draws else []
    lines = [f"**{md(title)}**", ""]
    for one in found:
        shots = f"{in_words(one['shots'])}, " if protocol.shots_column else ""
        lines += [f"{shots}{one['column']} {measure(one['figure']).title}, {len(one['sets'])} sets "
                  f"({', '.join(map(md, one['sets']))}):", ""]  # fmt: skip
        if one["rows"]:
            rows = [[md(r["method"]), rounded(one["figure"], r["average"]), f"{r['rank']:.2f}"] for r in one["rows"]]
            lines += [*grid(["method", "average", "average rank"], rows), ""]
        lines += [f"{md(note)}  " for note in one["notes"]]
        lacking = [f"{m} ({', '.join(sets)})" for m, sets in one["lacking"].items()]
        lines += [*(f"Left out, as sets lack it: {md(row)}.  " for row in lacking), ""]
    content = {"title": title, "summaries": found, "pictures": drawn}
    return "\n".join([*lines, pictures.markdown(drawn)]), content
