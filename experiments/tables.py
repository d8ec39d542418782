"""Tables of a protocol from records of finished runs. No number here that is not in a results.json."""

import statistics as numbers

from cilmp.protocols import in_words
from dassl.utils.errors import UserError

from . import pairs, statistics
from .collect import trained_by
from .formats import measure, plain, rounded

COSTS = {
    "steps": lambda row: _steps(row["steps"]),
    "learned": lambda row: f"{row['trainable_parameters'] or 0:,}",
    "s/step": lambda row: _median(row["seconds_per_step"], "{:.3f}"),
    "peak MiB": lambda row: _median(row["peak_memory_mib"], "{:.0f}"),
}


def _steps(found):
    """Optimiser steps of a row's trainings: a number, from-to where seeds differ, or a word."""
    words = sorted(n for n in found if isinstance(n, str))
    return span([n for n in found if isinstance(n, int)], "{:,}", otherwise="/".join(words) or "unknown")


def span(values, form, middle=None, otherwise="-"):
    """Numbers in words: from-to where they differ, or (with `middle`) their median; `otherwise` where none is known."""
    there = sorted(v for v in values if v is not None)
    if not there:
        return otherwise
    ends = [middle(there)] if middle else (there[0], there[-1])
    return "-".join(dict.fromkeys(map(form.format, ends)))


def _median(values, form):
    return span(values, form, numbers.median)


def check_equal_splits(records):
    """Refuse to compare runs that did not see the same images in the same roles, or to average over test sets.

    Raises:
        UserError: the two runs that differ, and in what.
    """
    seen, tested = {}, {}
    for r in records:
        _same(seen, cell_of(r), r, "split_sha256", f"on the same split (seed {r['seed']}, {r['subset']} classes")
        key = (r["group"], r["spec"]["part"])
        _same(tested, key, r, "test_sha256", f"on the same {r['split']} images (seeds of one cell")


def cell_of(record):
    """What records of one table share that must have seen the same split."""
    return (*(record[key] for key in ("seed", "subset", "shots", "dataset", "split")), record["spec"]["part"])


def _same(seen, key, record, field, what):
    hashed = record.get(field)
    if hashed is None:
        return
    other, theirs = seen.setdefault(key, (record, hashed))
    if theirs != hashed:
        raise UserError(
            f"{name_of(record)} and {name_of(other)} were not run {what}: {hashed[:12]} and {theirs[:12]}); run both "
            f"again with FORCE=1"
        )


def name_of(record):
    """A run in words, as RunSpec's."""
    spec = record["spec"]
    shots = trained_by(record)["shots"]
    name = spec["label"] or spec["method"]
    return f"{name}, {in_words(shots)}, seed {spec['seed']}, {spec['part']}"


def rows_of(records, metrics):
    """[{method, label, shots, parts: {part: {metric: {seed: value}}}, parameters ...}]: a row an experiment (method,
    setting and what was read), its seeds in it."""
    check_equal_splits(records)
    rows = {}
    for r in records:
        spec = r["spec"]
        row = rows.setdefault(r["group"], {
            "method": spec["method"], "label": plain(spec["label"] or spec["method"]), "shots": spec["shots"],
            "configuration": f"{spec['file']}-{r['group'][:8]}", "settings": spec["settings"], "parts": {},
            "group": r["group"],
            "trainable_parameters": r["cost"]["trainable_parameters"], "hparams": spec["hparams"],
            "tuned": r.get("tuned", False), "transductive": r.get("transductive", False),
            "precision": r.get("precision"), "dropout_mode": r.get("dropout_mode"),
            "steps": [], "seconds_per_step": [], "peak_memory_mib": [],
        })  # fmt: skip
        if not spec["source"]:
            row["shots"], row["settings"] = spec["shots"], spec["settings"]
        if (steps := r["cost"].get("steps", "unknown")) not in row["steps"]:  # older results do not say
            row["steps"].append(steps)
        part = row["parts"].setdefault(spec["part"], {m: {} for m in metrics})
        for metric in metrics:
            part[metric][str(r["seed"])] = r["metrics"].get(metric)
        if r["cost"]["seconds_per_step"]:
            row["seconds_per_step"].append(r["cost"]["seconds_per_step"])
            row["peak_memory_mib"].append(r["cost"]["peak_memory_mib"])
    tell_apart(list(rows.values()))
    return list(rows.values())


def tell_apart(rows):
    """Rows of one label and number of shots get the settings in which they differ; where none does (they read
    different data or weights), the name and hash of their configuration."""
    for name in {(r["label"], r["shots"]) for r in rows}:
        alike = [r for r in rows if (r["label"], r["shots"]) == name]
        if len(alike) == 1:
            continue
        keys = sorted({k for r in alike for k in r["settings"]})
        differ = [k for k in keys if k != "SEED" and len({str(r["settings"].get(k)) for r in alike}) > 1]
        if "RUN.HPARAMS" in differ:  # says what the budget comes from
            differ = [k for k in differ if k != "OPTIM.BUDGET"]
        known = all("hash" not in r["settings"] for r in alike) and 0 < len(differ) <= 4
        for row in alike:
            words = plain(", ".join(f"{k.split('.')[-1]}={row['settings'].get(k)}" for k in differ))
            row["label"] += f" ({words if known else row['configuration']})"
    labels = [(r["label"], r["shots"]) for r in rows]
    for row, label in zip(rows, labels):
        if labels.count(label) > 1:
            row["label"] += f" ({row['configuration']})"


def build(protocol, records, title, missing=(), not_run=(), targets=(), notes=()):
    """The table: {title, notes, header, rows (cells), data} of records of one protocol and data set.

    Args:
        missing: specs without results. not_run: specs that say why there are none. notes: further lines.
    """
    rows, data = rows_of(records, protocol.metrics), []
    for row in rows:
        per_metric = {m: {part: v[m] for part, v in row["parts"].items() if None not in v[m].values()}
                      for m in protocol.metrics}  # fmt: skip
        figures = {m: found for m, values in per_metric.items() if (found := protocol.figures(values))}
        if figures:
            data.append(row | {"figures": figures})
    parts = dict.fromkeys(p for row in rows for p in row["parts"])
    columns = [(m, c) for m in protocol.metrics for c in protocol.columns(parts)]
    first = ["method", *(["shots"] if protocol.shots_column else [])]
    judged = next((r["split"] for r in records if r["split"] != "test"), "test")
    header = [*first, *(f"{judged if c == 'test' else c} {measure(m).title}" for m, c in columns), *COSTS]
    cells = [_cells(d, columns, protocol.shots_column) for d in data]
    words = _notes(protocol, records, rows, missing, not_run, targets)
    table = {"title": plain(title), "header": header, "rows": cells, "data": data, "fixed": len(first),
             **pairs.compared(protocol, records, data)}  # fmt: skip
    words = list(map(plain, (*words, *pairs.notes(table), *notes)))
    return table | {"notes": words, "best": _ranks(table, columns)}


def _cells(row, columns, shots):
    first = [row["label"] + marks_of(row), *([_shots(row["shots"])] if shots else [])]
    cells = []
    for metric, c in columns:
        figures = row["figures"].get(metric, {})
        cells.append(with_deviation(metric, *figures[c], figures["seeds"]) if c in figures else "-")
    return first + cells + [cost(row) for cost in COSTS.values()]


def marks_of(row):
    """What is put behind a row's label; the notes say what it means."""
    return "*" * row["tuned"] + "†" * row["transductive"]


def _shots(number):
    return "all" if number < 1 else str(number)


def with_deviation(metric, mean, deviation, seeds):
    """One seed has no deviation."""
    return rounded(metric, mean) + (f" ± {rounded(metric, deviation)}" if seeds > 1 else "")


def _ranks(table, columns):
    """{(row, column): "best" or "second"} among the rows of one number of shots. Best are those that can't be told
    apart from the best figure, and equals as printed; second is the next figure. A row alone has no mark."""
    marks, data = {}, table["data"]
    for shots in dict.fromkeys(d["shots"] for d in data):
        for k, (metric, c) in enumerate(columns):
            values = {i: d["figures"][metric][c][0] for i, d in enumerate(data)
                      if d["shots"] == shots and c in d["figures"].get(metric, {})}  # fmt: skip
            marks |= {(i, k): mark for i, mark in _marks(table["pairs"], metric, c, values).items()}
    return marks


def _marks(found, metric, column, values):
    """{row: mark} of {row: value}."""
    if len(values) < 2:
        return {}
    sign = -1 if measure(metric).less_is_better else 1
    printed = {i: sign * float(rounded(metric, v)) for i, v in values.items()}
    top = max(values, key=lambda i: sign * values[i])
    same = pairs.alike(found, metric, column, top, list(values))
    best = {i for i, v in printed.items() if v == printed[top]} | set(same or ())
    rest = [v for i, v in printed.items() if i not in best]
    if same is None and not rest:
        return {}  # equals, of which nothing is known
    return {i: "best" if i in best else "second" for i, v in printed.items() if i in best or v == max(rest)}


def _notes(protocol, records, rows, missing, not_run, targets):
    """What a reader must know beside the numbers."""
    every = lambda key: sorted({str(r[key]) for r in records if r.get(key)})  # noqa: E731
    seeds = _by_seeds(rows)
    notes = [_averaged_over(list(seeds))]
    if any(r["split"] != "test" for r in records):
        notes.append(f"Judged on {', '.join(every('split'))}, not on the test images.")
    dataset = next((r["spec"]["dataset"] for r in records if not r["spec"]["source"]), "")
    if alone := [measure(m).title for m in protocol.metrics if m not in statistics.FIGURES]:
        notes.append(f"{', '.join(alone)}: the best figure alone is marked, as pairs are not compared in it.")
    if other := [measure(m).title for m in protocol.metrics if not measure(m).percent]:
        notes.append(f"No percentage: {', '.join(other)}.")
    notes += protocol.notes(dataset, targets)
    notes += every("source_note")
    if any(r["spec"]["dataset"] == "phantom" or r["spec"]["backbone"] == "demo" for r in records):
        notes.append("Demo numbers: a tiny backbone, drawn for trying the toolbox, of no meaning for real images.")
    if any("random" in (r["spec"]["weights"] or r["spec"]["backbone"]).split("::")[-1] for r in records):
        notes.append("Random weights: this backbone was never trained; its numbers mean nothing.")
    notes += precisions(rows)
    if modes := every("dropout_mode"):
        notes.append(f"CILMP dropout: {', '.join(modes)}.")
    if weights := every("weights"):
        notes.append(f"Backbone weights: {', '.join(weights)}.")
    if llms := every("llm"):
        notes.append(f"LLM: {', '.join(llms)}.")
    notes += hyper_parameters(rows)
    if any(r.get("tuned") for r in records):
        notes.append("*: tuned by its authors for this very data set.")
    if any(r.get("transductive") for r in records):
        notes.append("†: sees all test images at once, without their labels; the other rows answer image by image.")
    notes += _left_out(records)
    fitted = " (fitted: no optimiser)" if any("fitted" in row["steps"] for row in rows) else ""
    notes.append(f"steps: of the optimiser{fitted}; learned: trained numbers; s/step and peak MiB (of the whole "
                 "process): medians over seeds, training.")  # fmt: skip
    notes += sorted({f"{s.method}: not run here - {s.why_not}." for s in not_run})
    notes += [f"Rows differ in their seeds, compare with care - {_listed(seeds)}."] if len(seeds) > 1 else []
    notes += [f"Not finished: {'; '.join(map(str, missing))}."] if missing else []
    return notes


def _averaged_over(seeds):
    """What the means are of, by the seeds in words that rows have."""
    if len(seeds) > 1:
        return "Mean ± standard deviation (dividing by n) over each row's own seeds, percent."
    if " " in (found := "".join(seeds)):
        return f"Mean ± standard deviation (dividing by n) over seeds {found}, percent."
    return f"One seed ({found}), so no deviation; percent."


def _by_seeds(rows):
    """{seeds in words: names of the rows that have them}; a label of several numbers of shots that differ in their
    seeds is named with them."""
    of = [(_seeds_of(row), row) for row in rows]
    known, found = {}, {}
    for seeds, row in of:
        known.setdefault(row["label"], set()).add(seeds)
    for seeds, row in of:
        name = row["label"] if len(known[row["label"]]) == 1 else f"{row['label']} ({in_words(row['shots'])})"
        found.setdefault(seeds, {})[name] = None
    return found


def _seeds_of(row):
    """A row's seeds in words; of each part, where parts differ."""
    of = lambda metrics: " ".join(sorted({s for own in metrics.values() for s in own}, key=int))  # noqa: E731
    parts = {part: of(metrics) for part, metrics in row["parts"].items()}
    words = list(dict.fromkeys(parts.values()))
    return words[0] if len(words) == 1 else ", ".join(f"{seeds} of {part}" for part, seeds in parts.items())


def precisions(rows):
    """The precision of all rows, or a warning that names each."""
    found = _labels(rows, "precision")
    if len(found) < 2:
        return [f"Precision: {name}." for name in found]
    return [f"Rows differ in precision, compare with care - {_listed(found)}."]


def hyper_parameters(rows):
    """Whose hyper-parameters all rows have, or which rows have whose; and what `matched` means."""
    found = _labels(rows, "hparams")
    words = next(iter(found)) if len(found) == 1 else _listed(found)
    meaning = ["matched: CoOp's number of steps, all else a method's own."] if "matched" in found else []
    return [f"Hyper-parameters: {words}.", *meaning]


def _labels(rows, fact):
    """{value of a fact: labels of the rows that have it}."""
    found = {}
    for row in rows:
        if row[fact]:
            found.setdefault(row[fact], {})[row["label"]] = None
    return found


def _listed(found):
    return "; ".join(f"{name}: {', '.join(labels)}" for name, labels in sorted(found.items()))


def _left_out(records):
    """A line where images could not be read and were skipped."""
    most = {}
    for r in records:
        for part, n in r.get("left_out", {}).items():
            most[part] = max(most.get(part, 0), n)
    tested = max((r["n"] for r in records if r.get("left_out")), default=0)
    return [f"Unreadable images were left out: {n} of {part}{f' ({tested} were judged)' if part == 'test' else ''}."
            for part, n in sorted(most.items())]  # fmt: skip
