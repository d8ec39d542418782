"""A table as the page shows it: which rows can't be told apart from the best, on what evidence, at what cost."""

import base64
import gzip
import re

from cilmp.experiments import pairs
from cilmp.experiments.formats import measure
from cilmp.experiments.pictures.of_table import against_top, in_shots
from cilmp.protocols import in_words

TITLES = {"acc": "accuracy", "bal acc": "balanced accuracy"}  # a page has room for words


def of_table(key, table, folder):
    """Plain data of one table; `key` as in the report: (protocol, data set, backbone, split)."""
    protocol = table["protocol"]
    name = protocol.metrics[0]
    return {
        "protocol": key[0], "dataset": key[1], "backbone": key[2], "title": table["title"],
        "figure": TITLES.get(measure(name).title, measure(name).title), "less": measure(name).less_is_better,
        "sentences": pairs.answers(protocol, table), "notes": table["notes"],
        **_cells(table),
        "panels": [_panel(table["data"], name, *panel) for panel in against_top(protocol, table)],
        "pairs": _pairs(protocol, table, name), "pictures": pictures(table.get("pictures", ()), folder),
    }  # fmt: skip


def _cells(table):
    return {"header": table["header"], "rows": table["rows"],
            "marks": [[i, k + table["fixed"], mark] for (i, k), mark in table.get("best", {}).items()]}  # fmt: skip


def _panel(data, name, words, shots, column, rows):
    found = []
    for one in rows:
        row = data[one["place"]]
        value, deviation = row["figures"][name][column]
        found.append({
            "label": one["label"], "value": round(value, 3), "deviation": round(deviation, 3),
            "seeds": row["figures"][name]["seeds"], "top": one["top"], "apart": one.get("apart"),
            **{k: round(one[k], 5) for k in ("difference", "low", "high", "holm") if k in one},
            "learned": row["trainable_parameters"] or 0, "step": _median(row["seconds_per_step"]),
        })  # fmt: skip
    return {"title": words, "shots": shots, "column": column, "rows": found, "answer": _answer(found)}


def _answer(rows):
    """{top, same, unknown, cheapest}: labels; the cheapest of the top and those like it, by what is learned."""
    same = [r["label"] for r in rows if r["apart"] is False]
    like = [r for r in rows if r["top"] or r["apart"] is False]
    return {"top": rows[0]["label"], "same": same, "of": len(rows),
            "unknown": [r["label"] for r in rows if not r["top"] and r["apart"] is None],
            "cheapest": min(like, key=lambda r: (r["learned"], r["step"] or 0))["label"]}  # fmt: skip


def _median(values):
    values = sorted(values)
    return round((values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2, 6) if values else None


def _pairs(protocol, table, name):
    """[shots, column, a, b, difference, low, high, Holm's p, false claim, seeds, units, unit] of the first figure."""
    return [[in_shots(protocol, p["shots"]).removeprefix(", "), p["column"], p["a"], p["b"],
             *(None if p[k] is None else round(p[k], 5) for k in ("difference", "low", "high", "holm", "false_claim")),
             p["seeds"], p["units"], p["unit"]]
            for p in table["pairs"] if p["figure"] == name]  # fmt: skip


def pictures(found, folder):
    """[{title, alt, file, width, height, svg}] of drawn pictures, their SVG compressed."""
    return [_picture(p, (folder / f"{p['file']}.svg").read_bytes()) for p in found]


def _picture(drawn, text):
    width, height = re.search(rb'<svg[^>]*?viewBox="0 0 ([\d.]+) ([\d.]+)"', text).groups()
    return {"title": drawn["title"], "alt": drawn["alt"], "file": drawn["file"], "width": round(float(width)),
            "height": round(float(height)), "svg": base64.b64encode(gzip.compress(text, 6, mtime=0)).decode()}


def of_sets(content, folder):
    """Plain data of what several data sets say together: a table, or over_sets' summaries."""
    if "header" in content:
        return {"title": content["title"], "notes": content["notes"], "table": _cells(content), "blocks": [],
                "pictures": []}  # fmt: skip
    shots = lambda s: f", {in_words(s['shots'])}"  # noqa: E731
    blocks = [{"title": f"{s['column']} {measure(s['figure']).title}{shots(s)}",
               "sets": s["sets"], "notes": s["notes"], "lacking": s["lacking"],
               "rows": [[r["method"], round(r["average"], 3), round(r["rank"], 3)] for r in s["rows"]]}
              for s in content["summaries"]]  # fmt: skip
    return {"title": content["title"], "blocks": blocks, "notes": [],
            "pictures": pictures(content["pictures"], folder)}  # fmt: skip
