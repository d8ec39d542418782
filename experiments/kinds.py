"""Tables over several data sets, from the tables of each: averages, sets side by side, source x target, cost.

All are tables as `formats` writes them. A cell without all its runs is "-"; the commands that make them stand below.
"""

import statistics as numbers
from collections import defaultdict

from cilmp.protocols import in_words

from . import missing, over_sets, published, statistics
from .collect import tested_on, trained_by
from .formats import measure, plain, rounded
from .tables import COSTS, hyper_parameters, marks_of, precisions, span, with_deviation

MARKED = ("Marked best (bold): rows whose average rank can't be told apart from the best one (Friedman's and Nemenyi's "
          "tests, 5 %).")  # fmt: skip


def of_protocol(protocol, backbone, tables, records):
    """[(kind, table)] of {data set: table} of one protocol and backbone, and of their runs."""
    found = []
    if protocol.needs_targets:
        found.append(("source-target", source_target(protocol, backbone, tables, records)))
    elif len(tables) > 1:
        found.append(("average", averaged(protocol, backbone, tables, records)))
        if not protocol.shots_column and len(protocol.columns(())) == 1:
            found.append(("sets", side_by_side(protocol, backbone, tables, records)))
    return [(kind, table) for kind, table in found if table]


def averaged(protocol, backbone, tables, records):
    """Method x (metric, shots, column): means over all data sets of the means over seeds."""
    values, columns = defaultdict(dict), {}  # {row: {column: [a value of each set]}}
    for table in tables.values():
        for row in table["data"]:
            for metric in protocol.metrics:
                own = row["figures"].get(metric, {})
                for c in protocol.columns(row["parts"]):
                    if c in own:
                        name, column = _place(protocol, row, metric, c)
                        values[name].setdefault(column, []).append(own[c][0])
                        columns[column] = None
    columns = sorted(columns, key=lambda c: (protocol.metrics.index(c[0]), _many(c[1])))  # else as the protocol's
    whole = {name: {c: numbers.fmean(v) for c, v in own.items() if len(v) == len(tables)}
             for name, own in values.items()}  # fmt: skip
    if not any(whole.values()):
        return None
    several = len({shots for _, shots in values}) > 1
    marks = {row["label"]: marks_of(row) for table in tables.values() for row in table["data"]}
    theirs = published.beside(protocol, backbone, sorted(tables), columns, {shots for _, shots in values})
    rows = [[_named(name + marks[name], shots, several), *(rounded(c[0], own[c]) if c in own else "-" for c in columns)]
            for (name, shots), own in whole.items()]  # fmt: skip
    rows += [[f"{r['method']} (published)", *(rounded(c[0], r["values"][c]) if c in r["values"] else "-"
                                              for c in columns)] for r in theirs["rows"]]  # fmt: skip
    best, words = _best(protocol, tables, list(whole), columns)
    notes = [f"Means over {_sets(tables)} of the means over seeds.", *words, *_travelling(tables, records),
             *theirs["notes"]]  # fmt: skip
    data = [{"method": name, "shots": shots, "values": [{"metric": m, "shots": k, "column": c, "value": v}
                                                        for (m, k, c), v in own.items()]}
            for (name, shots), own in whole.items()]  # fmt: skip
    data += [{"method": r["method"], "published": r["source"],
              "values": [{"metric": m, "shots": k, "column": c, "value": v} for (m, k, c), v in r["values"].items()]}
             for r in theirs["rows"]]  # fmt: skip
    header = ["method", *(_titled(protocol, *c) for c in columns)]
    return _table(f"{protocol.name}, average of {len(tables)} data sets, {backbone}", header, rows, notes, 1, best,
                  data, missing.commands(records))  # fmt: skip


def _place(protocol, row, metric, column):
    """(row of the averages, its column) of a figure: numbers of shots are columns where the protocol compares them."""
    if protocol.shots_column:
        return (row["label"], None), (metric, row["shots"], column)
    return (row["label"], row["shots"]), (metric, None, column)


def _many(shots):
    """All images come last."""
    return float("inf") if shots is not None and shots < 1 else shots or 0


def _named(name, shots, several):
    return f"{name}, {in_words(shots)}" if several and shots is not None else name


def _titled(protocol, metric, shots, column):
    where = in_words(shots) if shots is not None else column
    return f"{where} {measure(metric).title}"


def _sets(tables):
    return f"{len(tables)} data sets ({', '.join(sorted(tables))})"


def _best(protocol, tables, rows, columns):
    """({(row, column): "best"}, [line]): by the tests over data sets, where there are enough of them."""
    tested = [one for one in over_sets.summaries(protocol, tables) if "friedman" in one]
    best = {}
    for one in tested:
        if one["friedman"] > statistics.LEVEL or len(one["sets"]) < len(tables):
            continue
        first = min(r["rank"] for r in one["rows"])
        same = {r["method"] for r in one["rows"] if r["rank"] - first < one["critical_difference"]}
        for i, (name, shots) in enumerate(rows):
            place = one["figure"], one["shots"] if shots is None else None, one["column"]
            if name in same and place in columns and shots in (None, one["shots"]):
                best[i, columns.index(place)] = "best"
    if best:
        return best, [MARKED]
    if tested:
        return best, ["No row is marked: Friedman's test tells no methods apart."]
    return best, [f"No row is marked: {len(tables)} data sets tell no methods apart; tests over sets begin with "
                  f"{statistics.FRIEDMAN} sets and 3 methods."]  # fmt: skip


def _travelling(tables, records):
    """Warnings of single tables that a summary may not lose."""
    sources = {plain(r.get("source_note") or "") for r in records}
    words = ("Demo numbers", "Random weights", "Rows differ in their seeds", "*:", "†:", "Judged on")
    rows = {(row["label"], row["group"]): row for table in tables.values() for row in table["data"]}.values()
    found = {note: list(tables) for note in (*precisions(rows), *hyper_parameters(rows))}
    for dataset, table in tables.items():
        for note in table["notes"]:
            if note.startswith(words) or note in sources:
                found.setdefault(note, []).append(dataset)
    return [note if len(sets) == len(tables) else f"{', '.join(sets)}: {note}" for note, sets in found.items()]


def side_by_side(protocol, backbone, tables, records):
    """Method x data set of a protocol with one column, of its first metric; then the average."""
    metric, column, sets = protocol.metrics[0], protocol.columns(())[0], sorted(tables)
    cells, best, names = {}, {}, {}
    for k, dataset in enumerate(sets):
        for i, row in enumerate(tables[dataset]["data"]):
            place = (row["label"] + marks_of(row), row["shots"])
            names.setdefault(place, len(names))
            own = row["figures"].get(metric, {})
            if column in own:
                cells[place, dataset] = (*own[column], own["seeds"])
                if (i, 0) in tables[dataset]["best"]:
                    best[names[place], k] = tables[dataset]["best"][i, 0]
    rows, data = [], []
    for place in names:
        own = [cells.get((place, d)) for d in sets]
        mean = numbers.fmean(c[0] for c in own) if all(own) else None
        rows.append([place[0], *(with_deviation(metric, *c) if c else "-" for c in own),
                     "-" if mean is None else rounded(metric, mean)])  # fmt: skip
        data.append({"method": place[0], "shots": place[1], "sets": dict(zip(sets, own)), "average": mean})
    notes = [f"{plain(measure(metric).title)}: mean ± standard deviation over seeds; marked within each data set as in "
             "its own table.", *_travelling(tables, records)]  # fmt: skip
    return _table(f"{protocol.name} by data set, {backbone}", ["method", *sets, "average"], rows, notes, 1, best, data,
                  missing.commands(records))  # fmt: skip


def source_target(protocol, backbone, tables, records):
    """(source, method) x data set tested, of the first metric; the average is over the targets, without the source."""
    metric = protocol.metrics[0]
    names = {(trained_by(r)["dataset"], r["spec"]["part"].removeprefix("test_")): tested_on(r) for r in records}
    columns = {d: protocol.columns(dict.fromkeys(p for row in t["data"] for p in row["parts"]))
               for d, t in tables.items()}  # fmt: skip
    called = lambda source, c: source if c == "test" else names.get((source, c), c)  # noqa: E731
    targets = sorted({called(d, c) for d, own in columns.items() for c in own} | set(tables))
    rows, data, best = [], [], {}
    for source in sorted(tables):
        table = tables[source]
        places = {called(source, c): (k, c) for k, c in enumerate(columns[source])}
        for i, row in enumerate(table["data"]):
            own = row["figures"].get(metric, {})
            cells = {t: own.get(c) for t, (_, c) in places.items()}
            asked = [cells.get(t) for t in places if t != source]
            mean = numbers.fmean(c[0] for c in asked) if asked and all(asked) else None
            name = _named(row["label"] + marks_of(row), row["shots"], len({r["shots"] for r in table["data"]}) > 1)
            best |= {(len(rows), targets.index(t)): table["best"][i, k] for t, (k, _) in places.items()
                     if (i, k) in table["best"]}  # fmt: skip
            rows.append([source, name, *("" if t not in places else with_deviation(metric, *cells[t], own["seeds"])
                                         if cells[t] else "-" for t in targets),
                         "-" if mean is None else rounded(metric, mean)])  # fmt: skip
            data.append({"source": source, "method": row["label"], "shots": row["shots"], "targets": cells,
                         "average": mean})  # fmt: skip
    notes = [f"{plain(measure(metric).title)}: mean ± standard deviation over seeds; average: of the targets, without "
             "the source's own test; empty: not among a source's targets; marked within each source as in its own "
             "table.", *_travelling(tables, records)]  # fmt: skip
    return _table(f"{protocol.name}: source x target, {backbone}", ["source", "method", *targets, "average"], rows,
                  notes, 2, best, data, missing.commands(records))  # fmt: skip


COST = {
    "learned": lambda costs: span([c.get("trainable_parameters") for c in costs], "{:,.0f}"),
    "training s": lambda costs: span([c.get("train_seconds") for c in costs], "{:,.1f}", numbers.median),
    "s/step": lambda costs: span([c.get("seconds_per_step") for c in costs], "{:.3f}", numbers.median),
    "images/s": lambda costs: span([c.get("test_images_per_second") for c in costs], "{:,.0f}", numbers.median),
    "peak MiB": lambda costs: span([c.get("peak_memory_mib") for c in costs], "{:,.0f}", numbers.median),
}


def cost(protocol, backbone, tables, records):
    """Method x what a training costs, over the data sets and seeds of one protocol and backbone, and all its tables."""
    names = {row["group"]: row["label"] for table in tables for row in table["data"]}
    rows = defaultdict(list)
    for r in records:
        if not r["spec"]["source"]:
            name = names.get(r["group"]) or plain(r["spec"]["label"] or r["spec"]["method"])
            rows[name, r["spec"]["shots"]].append(r)
    if not rows:
        return None
    cells, data = [], []
    for (name, shots), own in rows.items():
        costs = [r["cost"] for r in own]
        facts = {"steps": COSTS["steps"]({"steps": list(dict.fromkeys(c.get("steps", "unknown") for c in costs))})}
        facts |= {title: form(costs) for title, form in COST.items()}
        for fact, keys in (("precision", ["precision"]), ("device", ["device_name", "device"])):
            facts[fact] = ", ".join(sorted({plain(next(filter(None, map(r.get, keys)), "not known")) for r in own}))
        cells.append([name, in_words(shots), *facts.values(), str(len(own))])
        data.append({"method": name, "shots": shots, "runs": len(own), **facts})
    sets = sorted({trained_by(r)["dataset"] for r in records})
    notes = [f"Trainings on {', '.join(sets)}. learned: trained numbers, from-to where data sets differ; steps: of "
             "the optimiser; training s, s/step, test images/s and peak MiB (of the whole process): medians over runs."]
    devices = {row["device"] for row in data}
    if len(devices) > 1:
        notes.append("Devices differ, so times can't be compared across them.")
    title = f"Cost of {protocol.name}, {backbone}"
    header = ["method", "shots", "steps", *COST, "precision", "device", "runs"]
    return _table(title, header, cells, notes, 2, {}, data, [])


def _table(title, header, rows, notes, fixed, best, data, commands):
    return {"title": plain(title), "header": list(map(plain, header)), "rows": rows, "notes": list(map(plain, notes)),
            "fixed": fixed, "best": best, "data": data, "commands": commands}  # fmt: skip
