"""Tables of a protocol: terminal, Markdown, LaTeX, CSV, JSON. No number here that is not in a results.json."""

import contextlib
import csv
import io
import statistics
from pathlib import Path

from dassl.utils.errors import UserError
from dassl.utils.io import write_json, write_text

METRICS = ("accuracy", "macro_f1")
TITLES = {"accuracy": "acc", "macro_f1": "F1"}
COSTS = {
    "learned": lambda row: f"{row['trainable_parameters'] or 0:,}",
    "s/step": lambda row: _median(row["seconds_per_step"], "{:.3f}"),
    "peak MiB": lambda row: _median(row["peak_memory_mib"], "{:.0f}"),
}


def _median(values, form):
    return form.format(statistics.median(values)) if values else "-"


def harmonic(a, b):
    """2ab / (a + b), 0 where both are 0."""
    return 2 * a * b / (a + b) if a + b else 0.0


def spread(values):
    """(mean, standard deviation over seeds, dividing by n: the field's habit, numpy's default)."""
    return statistics.fmean(values), statistics.pstdev(values)


def check_equal_splits(results):
    """Refuse to compare runs that did not see the same images in the same roles.

    Args:
        results: [(what, results.json content)]
    """
    seen = {}
    for what, r in results:
        key = (r["seed"], r["subset"], r["shots"], r["dataset"], r["split"])
        other = seen.setdefault(key, (what, r["split_sha256"]))
        if other[1] != r["split_sha256"]:
            raise UserError(
                f"{what} and {other[0]} were not run on the same split (seed {r['seed']}, {r['subset']} classes: "
                f"{r['split_sha256'][:12]} and {other[1][:12]}); run both again with FORCE=1"
            )


def rows_of(jobs):
    """([{method, label, shots, parts: {part: {metric: {seed: value}}}, parameters ...}], [(job, its results)]) of the
    finished jobs; a row a method, configuration and number of shots."""
    rows, results = {}, []
    for job in jobs:
        if job.why_not or not job.finished:
            continue
        r = job.result()
        results.append((str(job), r))
        row = rows.setdefault((job.method, job.shots, job.key), {
            "method": job.method, "label": job.label or job.method, "shots": job.shots, "configuration": job.key,
            "parts": {},
            "trainable_parameters": r["cost"]["trainable_parameters"], "hparams": r["hparams"],
            "tuned": r.get("tuned", False),
            "seconds_per_step": [], "peak_memory_mib": [], "dropout_mode": r.get("dropout_mode"),
        })  # fmt: skip
        part = row["parts"].setdefault(job.part, {m: {} for m in METRICS})
        for metric in METRICS:
            part[metric][str(job.seed)] = r["metrics"][metric]
        if r["cost"]["seconds_per_step"]:
            row["seconds_per_step"].append(r["cost"]["seconds_per_step"])
            row["peak_memory_mib"].append(r["cost"]["peak_memory_mib"])
    check_equal_splits(results)
    tell_apart(rows.values())
    return list(rows.values()), results


def tell_apart(rows):
    """Rows of one label and number of shots get their configuration's name and hash."""
    names = [(r["label"], r["shots"]) for r in rows]
    for row, name in zip(rows, names):
        if names.count(name) > 1:
            row["label"] = f"{row['label']} ({row['configuration']})"


def base2new_figures(row):
    """Adds base, new and H of each metric: means, deviations, and H of every seed."""
    base, new = row["parts"].get("train_base"), row["parts"].get("test_new")
    if not base or not new:
        return None
    figures = {}
    for metric in METRICS:
        seeds = sorted(set(base[metric]) & set(new[metric]), key=int)
        if not seeds:
            return None
        b, n = [base[metric][s] for s in seeds], [new[metric][s] for s in seeds]
        each = [harmonic(x, y) for x, y in zip(b, n)]
        h = harmonic(statistics.fmean(b), statistics.fmean(n))
        figures[metric] = {"base": spread(b), "new": spread(n), "H": (h, statistics.pstdev(each)),
                           "H_per_seed": dict(zip(seeds, each)), "seeds": len(seeds)}  # fmt: skip
    return figures


def part_figures(row, part):
    values = row["parts"].get(part)
    if not values or not values["accuracy"]:
        return None
    return {m: {part: spread(list(values[m].values())), "seeds": len(values[m])} for m in METRICS}


def build(request, jobs):
    """The table: {title, notes, header, rows (cells), data} of a protocol's jobs."""
    rows, results = rows_of(jobs)
    columns, data = _columns(request), []
    for row in rows:
        figures = base2new_figures(row) if request.protocol == "base2new" else {}
        if request.protocol != "base2new":
            for part in dict.fromkeys(j.part for j in jobs):
                for metric, value in (part_figures(row, part) or {}).items():
                    figures.setdefault(metric, {}).update(value)
        if figures:
            data.append(row | {"figures": figures})
    if request.protocol == "cross_dataset":
        columns = list(dict.fromkeys(j.part for j in jobs if not j.why_not))
    header = ["method"] + (["shots"] if request.protocol == "few_shot" else [])
    header += [f"{c} {TITLES[m]}" for m in METRICS for c in map(_short, columns)] + list(COSTS)
    cells = [_cells(request, d, columns) for d in data]
    best = _ranks(data, columns)
    title = f"{request.protocol} on {request.dataset}, {request.backbone}"
    return {"title": title, "notes": _notes(request, results, jobs), "header": header, "rows": cells, "best": best,
            "data": data, "fixed": len(header) - len(columns) * len(METRICS) - len(COSTS)}  # fmt: skip


def _columns(request):
    return ["base", "new", "H"] if request.protocol == "base2new" else ["train_all"]


def _short(part):
    return {"train_all": "test"}.get(part, part.removeprefix("test_"))


def _cells(request, row, columns):
    first = [row["label"] + ("*" if row["tuned"] else "")]
    first += [str(row["shots"])] if request.protocol == "few_shot" else []
    cells = []
    for metric in METRICS:
        for c in columns:
            mean, deviation = row["figures"][metric].get(c, (None, None))
            cells.append("-" if mean is None else with_deviation(mean, deviation, row["figures"][metric]["seeds"]))
    return first + cells + [cost(row) for cost in COSTS.values()]


def with_deviation(mean, deviation, seeds):
    """One seed has no deviation."""
    return f"{mean:.1f} ± {deviation:.1f}" if seeds > 1 else f"{mean:.1f}"


def _ranks(data, columns):
    """{(row, column): "best" or "second"} by the figures as printed, so that equals are marked alike."""
    marks = {}
    for k, (metric, c) in enumerate((m, c) for m in METRICS for c in columns):
        values = {i: round(d["figures"][metric][c][0], 1) for i, d in enumerate(data) if c in d["figures"][metric]}
        ranked = sorted(set(values.values()), reverse=True)[:2]
        for i, value in values.items():
            if len(ranked) > 1 and value in ranked:
                marks[(i, k)] = ("best", "second")[ranked.index(value)]
    return marks


def _notes(request, results, jobs):
    seeds = " ".join(map(str, sorted({r["seed"] for _, r in results})))
    notes = [f"Mean ± standard deviation (dividing by n) over seeds {seeds}, percent." if " " in seeds
             else f"One seed ({seeds}), so no deviation; percent."]
    if request.protocol == "base2new":
        notes.append("H: harmonic mean of the seed-mean base and new values; its deviation is of the seeds' own H.")
    notes += sorted({r["source_note"] for _, r in results if r.get("source_note")})
    if request.protocol == "cross_dataset":
        notes += _overlaps(request)
    if request.dataset == "phantom" or request.backbone == "demo":
        notes.append("Demo numbers: a tiny backbone, drawn for trying the toolbox, of no meaning for real images.")
    modes = sorted({r["dropout_mode"] for _, r in results if r.get("dropout_mode")})
    notes += [f"CILMP dropout: {', '.join(modes)}."] if modes else []
    weights = sorted({r["weights"] for _, r in results if r.get("weights")})
    notes += [f"Backbone weights: {', '.join(weights)}."] if weights else []
    llms = sorted({r["llm"] for _, r in results if r.get("llm")})
    notes += [f"LLM: {', '.join(llms)}."] if llms else []
    hparams = sorted({r["hparams"] for _, r in results})
    notes.append(f"Hyper-parameters: {', '.join(hparams)}.")
    if any(r.get("tuned") for _, r in results):
        notes.append("*: tuned by its authors for this very data set; HPARAMS=common gives all methods one set.")
    notes.append("learned: trained numbers; s/step and peak MiB (of the whole process): medians over seeds, training.")
    notes += sorted({f"{j.method}: not run here - {j.why_not}." for j in jobs if j.why_not})
    per_row = {}
    for job, (_, r) in zip([j for j in jobs if not j.why_not and j.finished], results):
        per_row.setdefault((job.method, job.shots, job.key), set()).add(r["seed"])
    if len(set(map(frozenset, per_row.values()))) > 1:
        notes.append("Rows differ in their seeds (see table.json): compare with care.")
    missing = [str(j) for j in jobs if not j.why_not and not j.finished]
    notes += [f"Not finished: {'; '.join(missing)}."] if missing else []
    return notes


def _overlaps(request):
    """A line for each target that shares images with the source, as far as the sets are known here."""
    from datasets.overlap import overlap

    notes = []
    for target in request.targets:
        with contextlib.suppress(UserError):  # a report may be made where the data are not
            if shared := overlap(request.dataset, target):
                notes.append(f"{target} shares images with {request.dataset}: {shared}.")
    return notes


def markdown(table):
    """GitHub Markdown: best bold, second underlined."""
    lines = [f"**{table['title']}**", "", "| " + " | ".join(table["header"]) + " |"]
    lines.append("|" + "---|" * len(table["header"]))
    forms = {"best": "**{}**", "second": "<u>{}</u>"}
    for i, row in enumerate(table["rows"]):
        cells = [forms.get(table["best"].get((i, k - table["fixed"])), "{}").format(c) for k, c in enumerate(row)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"{n}  " for n in table["notes"])]) + "\n"


def latex(table):
    """A table environment: best bold, second underlined, title and notes as its caption."""
    forms = {"best": "\\textbf{{{}}}", "second": "\\underline{{{}}}"}
    columns = "l" * table["fixed"] + "c" * (len(table["header"]) - table["fixed"])
    lines = ["\\begin{table}", "\\centering", f"\\begin{{tabular}}{{{columns}}}", "\\hline"]
    lines += [" & ".join(map(tex, table["header"])) + " \\\\", "\\hline"]
    for i, row in enumerate(table["rows"]):
        marks = [forms.get(table["best"].get((i, k - table["fixed"])), "{}") for k in range(len(row))]
        lines.append(" & ".join(m.format(tex(c)) for m, c in zip(marks, row)) + " \\\\")
    caption = tex(" ".join([f"{table['title']}.", *map(sentence, table["notes"])]))
    return "\n".join([*lines, "\\hline", "\\end{tabular}", f"\\caption{{{caption}}}", "\\end{table}"]) + "\n"


def tex(text):
    """Text with LaTeX's own characters escaped."""
    special = {"\\": "\\textbackslash{}", "±": "$\\pm$", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "_%&#${}" else c) for c in text)


def sentence(note):
    return note if note.endswith(".") else f"{note}."


def terminal(table):
    from tabulate import tabulate

    text = tabulate(table["rows"], headers=table["header"], disable_numparse=True)
    return "\n".join([table["title"], text, *table["notes"]])


def save(table, folder, stem="table"):
    """table.md, table.tex, table.csv and table.json in a folder."""
    folder = Path(folder)
    write_text(markdown(table), folder / f"{stem}.md")
    write_text(latex(table), folder / f"{stem}.tex")
    buffer = io.StringIO()
    note = " ".join(map(sentence, table["notes"]))  # a number copied out of its table keeps its warnings
    csv.writer(buffer).writerows([[*table["header"], "notes"], *([*row, note] for row in table["rows"])])
    write_text(buffer.getvalue(), folder / f"{stem}.csv")
    write_json({k: table[k] for k in ("title", "notes", "header", "rows", "data")}, folder / f"{stem}.json")
