"""Pictures of a table's figures: what its protocol draws, paired differences, accuracy against cost."""

import statistics as st

import numpy as np

from cilmp.experiments import statistics
from cilmp.experiments.formats import measure
from cilmp.experiments.pairs import alike
from cilmp.experiments.tables import marks_of
from cilmp.protocols import in_words

from .frame import LABEL, QUIET, figure, fitted, legend, looks, short_number

COLUMNS = 6  # panels of one picture


def drawn_rows(protocol, table):
    """The table's rows that have the protocol's first figure, labelled as in the table."""
    return [row | {"label": row["label"] + marks_of(row), "place": i} for i, row in enumerate(table["data"])
            if protocol.metrics[0] in row["figures"]]  # fmt: skip


def warned(table):
    """The title, and below it what no reader of a picture alone may miss."""
    warnings = [n for n in table["notes"] if "confounded" in n or n.startswith(("Demo", "Random"))]
    return "\n".join([table["title"], *warnings])


def by_protocol(draw, protocol, table):
    """What the protocol draws of its rows; None where there is nothing."""
    rows = drawn_rows(protocol, table)
    if not rows:
        return None
    made, axes = figure(warned(table), 3.4)
    names = [fitted(made, row["label"], 2.4) for row in rows]
    names = names if len(set(names)) == len({row["label"] for row in rows}) else [row["label"] for row in rows]
    axes = axes[0, 0]
    if draw(axes, [row | {"label": name} for row, name in zip(rows, names)]) is False:
        return None
    handles, labels = axes.get_legend_handles_labels()
    legend(made, handles, labels, 6)
    return made


def _by_shots(rows):
    return sorted({row["shots"] for row in rows}, key=lambda s: s if s > 0 else np.inf)


def in_shots(protocol, shots):
    """ ", 4 shots" where a protocol's rows differ in shots."""
    return f", {in_words(shots)}" if protocol.shots_column else ""


def panels(protocol, table):
    """[(title, shots, column, rows)] with two rows or more: a panel for each number of shots, or each column."""
    name, rows = protocol.metrics[0], drawn_rows(protocol, table)
    found = []
    for shots in _by_shots(rows):
        own = [row for row in rows if row["shots"] == shots]
        for column in protocol.columns(dict.fromkeys(p for row in own for p in row["parts"])):
            having = [row for row in own if column in row["figures"][name]]
            if len(having) > 1:
                words = in_shots(protocol, shots).removeprefix(", ") if protocol.shots_column else column
                found.append((words, shots, column, having))
    return found


def against_top(protocol, table):
    """[(title, shots, column, rows of the table's `data` that `differences` are of)], see `panels`; of each row
    {label, place, top, difference, low, high, holm, apart}: its first figure less the highest row's, percentage points,
    with a 95 % interval; a row that could not be compared has no difference."""
    name = protocol.metrics[0]
    known = {(p["column"], p["rows"]): p for p in table["pairs"] if p["figure"] == name}
    return [(words, shots, column, _differences(known, table, name, column, rows))
            for words, shots, column, rows in panels(protocol, table)]  # fmt: skip


def _differences(known, table, name, column, rows):
    """[{...}] of `against_top`, the highest first."""
    sign = -1 if measure(name).less_is_better else 1
    rows = sorted(rows, key=lambda row: -sign * row["figures"][name][column][0])
    top = rows[0]["place"]
    same = alike(table["pairs"], name, column, top, [row["place"] for row in rows]) or []
    found = []
    for row in rows:
        one = {"label": row["label"], "place": row["place"], "top": row["place"] == top}
        for ends, turn in (((row["place"], top), 1), ((top, row["place"]), -1)):
            if pair := known.get((column, ends)):
                low, high = sorted((turn * pair["low"], turn * pair["high"]))
                one |= {"difference": turn * pair["difference"], "low": low, "high": high, "holm": pair["holm"],
                        "apart": row["place"] not in same}  # fmt: skip
        found.append(one)
    return found


def forest(protocol, table):
    """Differences from the highest row with their 95 % intervals, a panel a column; filled where told apart."""
    found = [(words, [d for d in own if d["top"] or "low" in d]) for words, _, _, own in against_top(protocol, table)]
    found = [f for f in found if len(f[1]) > 1][:COLUMNS]
    if not found:
        return None
    names = list(dict.fromkeys(d["label"] for _, own in found for d in own))
    title = f"{warned(table)}\nDifference from the highest row (diamond), {measure(protocol.metrics[0]).title}, " \
            "percentage points; 95 % intervals; filled: told apart (Holm-corrected, 5 %)"  # fmt: skip
    made, axes = figure(title, 0.5 + 0.17 * len(names), columns=len(found), sharey=True)
    for axis, (words, own) in zip(axes[0], found):
        _forest_panel(axis, words, own, names)
    axes[0, 0].set_yticks(range(len(names)), labels=[fitted(made, n, 3.2 / len(found) + 0.4) for n in names])
    axes[0, 0].set_ylim(len(names) - 0.4, -0.6)
    return made


def _forest_panel(axis, words, differences, names):
    axis.axvline(0, color=QUIET, linewidth=0.8)
    for d in differences:
        y = names.index(d["label"])
        if d["top"]:
            axis.plot(0, y, marker="D", color="#000000", markersize=5, linestyle="")
            continue
        colour = "#D55E00" if d["apart"] else "#0072B2"
        axis.plot([d["low"], d["high"]], [y, y], color=colour, linewidth=1.4, linestyle="-", marker="")
        axis.plot(d["difference"], y, marker="o", linestyle="", color=colour, markersize=4.5,
                  markerfacecolor=colour if d["apart"] else "white")  # fmt: skip
    axis.set_title(words)
    axis.tick_params(axis="y", length=0)


def cost(protocol, table):
    """The first figure against what is learned, and against seconds a step where they were measured."""
    name, rows = protocol.metrics[0], drawn_rows(protocol, table)
    if len(rows) < 2:
        return None
    shots = _by_shots(rows)[-1]
    rows = [row for row in rows if row["shots"] == shots]
    column = protocol.columns(dict.fromkeys(p for row in rows for p in row["parts"]))[-1]
    rows = [row for row in rows if column in row["figures"][name]]
    costs = [("learned numbers", [row["trainable_parameters"] or 0 for row in rows])]
    if sum(map(bool, seconds := [_median(row["seconds_per_step"]) for row in rows])) > 1:
        costs.append(("seconds a training step", seconds))
    title = f"{warned(table)}\n{column} {measure(name).title}{in_shots(protocol, shots)} against cost; " \
            "the line: nothing cheaper is as high"  # fmt: skip
    made, axes = figure(title, 3.0, columns=len(costs), sharey=True)
    handles = {}
    for axis, (words, values) in zip(axes[0], costs):
        points = [(v, *row["figures"][name][column], row["label"], look)
                  for v, row, look in zip(values, rows, looks(len(rows))) if v is not None]  # fmt: skip
        for x, y, deviation, label, look in points:
            handles[label] = axis.errorbar(x, y, yerr=deviation if row_seeds(rows, label) > 1 else None,
                                           **look | {"linestyle": ""}, elinewidth=0.8)  # fmt: skip
        sign = -1 if measure(name).less_is_better else 1
        front = _front([(x, sign * y) for x, y, *_ in points])
        axis.step([x for x, _ in front], [sign * y for _, y in front], where="post", color=QUIET, linewidth=0.8,
                  linestyle="-", marker="", zorder=0)  # fmt: skip
        axis.set_xlabel(words)
        smallest = min((v for v in (p[0] for p in points) if v > 0), default=1)
        axis.set_xscale("symlog", linthresh=smallest, linscale=0.8)
        axis.xaxis.set_major_formatter(lambda v, _: short_number(v))
        axis.tick_params(axis="x", rotation=30)
        axis.set_xlim(-0.15 * smallest, 3 * max(p[0] for p in points) or 1)
    axes[0, 0].set_ylabel(f"{column} {measure(name).title}, %")
    legend(made, list(handles.values()), list(handles), 4)
    return made


def row_seeds(rows, label):
    return next((max(len(v) for part in row["parts"].values() for v in part.values()) for row in rows
                 if row["label"] == label), 1)  # fmt: skip


def _median(values):
    return st.median(values) if values else None


def _front(points):
    """Those of (cost, figure) that no cheaper one reaches, by cost."""
    found = []
    for x, y in sorted(points, key=lambda p: (p[0], -p[1])):
        if not found or y > found[-1][1]:
            found.append((x, y))
    return found


def critical_difference(summary):
    """Average ranks over data sets, 1 (the best) at the right; a bar joins those that Nemenyi's test can't tell apart.

    None without Friedman's test, which needs statistics.FRIEDMAN sets (Demsar, 2006).
    """
    if "critical_difference" not in summary or len(summary["sets"]) < statistics.FRIEDMAN:
        return None
    rows, reach = sorted(summary["rows"], key=lambda r: r["rank"]), summary["critical_difference"]
    k = len(rows)
    half = (k + 1) // 2
    told = summary["friedman"] <= statistics.LEVEL
    groups = _groups([r["rank"] for r in rows], reach if told else np.inf)
    verdict = "" if told else "; Friedman's test tells none apart"
    title = f"{summary['title']}\nAverage rank over {len(summary['sets'])} data sets (1: best); joined: not told " \
            f"apart (Friedman p = {summary['friedman']:.2g}, Nemenyi, 5 %{verdict})"  # fmt: skip
    made, axes = figure(title, 0.75 + 0.16 * len(groups) + 0.19 * half)
    axis = axes[0, 0]
    margin = 0.45 * (k - 1)
    axis.set_xlim(k + margin, 1 - margin)  # the best at the right
    axis.set_ylim(-(1.2 + 0.55 * len(groups) + half), 2.2)
    axis.axis("off")
    axis.plot([1, k], [0, 0], color="black", linewidth=1, marker="")
    for x in range(1, k + 1):
        axis.plot([x, x], [0, 0.25], color="black", linewidth=0.8, marker="")
        if k <= 15 or x in (1, k) or x % 5 == 0:
            axis.text(x, 0.35, str(x), ha="center", va="bottom")
    axis.plot([1, min(1 + reach, k)], [1.6, 1.6], color="black", linewidth=1.6, marker="|", linestyle="-")
    axis.text((1 + min(1 + reach, k)) / 2, 1.7, f"critical difference {reach:.2f}", ha="center", va="bottom")
    for i, (first, last) in enumerate(groups):
        y = -0.55 * (i + 1)
        ends = [rows[first]["rank"] - 0.02 * k / 10, rows[last]["rank"] + 0.02 * k / 10]
        axis.plot(ends, [y, y], color="black", linewidth=3, marker="", linestyle="-", solid_capstyle="butt")
    low = -(0.55 * len(groups) + 0.7)
    for i, row in enumerate(rows):
        right = i < half
        y = low - (i if right else k - 1 - i)
        x, edge = row["rank"], (1 - 0.02 * k) if right else (k + 0.02 * k)
        axis.plot([x, x, edge], [0, y, y], color=QUIET, linewidth=0.7, marker="", linestyle="-")
        name = fitted(made, row["method"], 1.3)
        axis.text(edge, y, f" {name} {row['rank']:.2f} ", ha="left" if right else "right", va="center", fontsize=LABEL)
    return made


def _groups(ranks, reach):
    """[(first, last)] of sorted ranks: the longest runs within `reach`, none inside another, two members at least."""
    found = []
    for i in range(len(ranks)):
        j = max(j for j in range(i, len(ranks)) if ranks[j] - ranks[i] < reach)
        if j > i and (not found or j > found[-1][1]):
            found.append((i, j))
    return found
