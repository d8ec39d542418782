"""Every pair of a table's rows compared, and what that allows to be said."""

import json
from itertools import combinations

import numpy as np

from cilmp.protocols import in_words
from dassl.utils.io import write_text

from . import formats, statistics
from .predictions import measured

KEYS = ("shots", "figure", "column", "a", "b", "difference", "low", "high", "p", "holm", "false_claim", "seeds",
        "units", "unit")  # fmt: skip


def compared(protocol, records, data):
    """{"pairs": [{KEYS}], "left_out": [line]} of a table's rows (`data`): pairs of one number of shots, each figure and
    column; Holm's correction is over the pairs of one figure, column and number of shots. Difference: a - b, points."""
    row_of = {row["group"]: i for i, row in enumerate(data)}
    figures = list(dict.fromkeys([*(m for m in protocol.metrics if m in statistics.FIGURES), *statistics.FIGURES]))
    parts, left = {}, []
    for part in dict.fromkeys(r["spec"]["part"] for r in records):
        own = [(row_of[r["group"]], r) for r in records if r["spec"]["part"] == part and r["group"] in row_of]
        parts[part], missing = measured(part, own, figures)
        left += missing
    parts = {part: m for part, m in parts.items() if m}
    columns, pairs = _Columns(protocol), []
    for shots in dict.fromkeys(row["shots"] for row in data):
        rows = [i for i, row in enumerate(data) if row["shots"] == shots]
        for name in figures:
            for column in protocol.columns(parts):
                pairs += _corrected([p | {"shots": shots, "figure": name, "column": column}
                                     for a, b in combinations(rows, 2)
                                     if (p := _pair(columns, parts, name, column, a, b))])  # fmt: skip
    for pair in pairs:
        pair["rows"] = (pair["a"], pair["b"])
        pair["a"], pair["b"] = (data[i]["label"] for i in pair["rows"])
    lines = _left_out(left, data, row_of)
    grouped = {r["spec"]["part"] for r in records if r.get("ci_unit") == "group"}
    if pairs and any(not m.named for part, m in parts.items() if part in grouped):
        lines.append("Patients are known, but these predictions were written without them: images are compared as if "
                     "each were a patient's only one, so p and intervals are too small; FORCE=1 writes them anew.")
    return {"pairs": pairs, "left_out": lines}


def _corrected(pairs):
    for pair, p in zip(pairs, statistics.holm([pair["p"] for pair in pairs])):
        pair["holm"] = float(p)
    return pairs


def _pair(columns, parts, name, column, a, b):
    """Comparison of rows a and b in one column; None where they share no seed with predictions."""
    needed = {part: m for part, m in parts.items() if name in m.figures}
    shared = {part: m.seeds(a) & m.seeds(b) for part, m in needed.items()}
    first, second = (columns.of(name, row, needed, shared).get(column) for row in (a, b))
    if first is None or second is None:
        return None
    used = [part for part in needed if first[1].get(part) or second[1].get(part)]
    seeds = sorted(set.intersection(*(shared[part] for part in used)), key=int) if used else []
    if not seeds:
        return None
    values, slopes = _weighed(needed, used, seeds, name, columns.units(needed, used), (a, first[1]), (b, second[1]))
    found = statistics.compare(values, slopes, first[0] - second[0])
    claim = None
    if name == "accuracy" and len(used) == 1:  # right and wrong are of one set of images
        m = needed[used[0]]
        claim = statistics.false_claim(*(m.right[[m.places[row, s] for s in seeds]] for row in (a, b)), m.units)
    return {"a": a, "b": b, "difference": found.difference, "low": found.low, "high": found.high, "p": found.p,
            "false_claim": claim, "seeds": len(seeds), "units": slopes.shape[1],
            "unit": "patient" if all(needed[part].patients for part in used) else "image"}  # fmt: skip


class _Columns:
    """A protocol's columns as functions of its parts: each one's figure and how it moves with a part's values, by a
    central difference: 1 of a column that is one part's mean, the delta method's weights of any other (base2new's H).
    """

    def __init__(self, protocol):
        self.protocol, self._known, self._units = protocol, {}, {}

    def units(self, parts, used):
        """(G, {part: columns of its units among G}) of the units of several parts; a patient of two parts is one."""
        if tuple(used) not in self._units:
            each = [parts[part].unit_names for part in used]
            names, where = np.unique(np.concatenate(each), return_inverse=True)
            ends = np.cumsum([len(own) for own in each])[:-1]
            self._units[tuple(used)] = len(names), dict(zip(used, np.split(where, ends)))
        return self._units[tuple(used)]

    def of(self, name, row, parts, shared):
        """{column: (figure, {part: weight})} of a row's values of the shared seeds."""
        key = name, row, *((part, *sorted(seeds)) for part, seeds in shared.items())
        if key not in self._known:
            own = {part: {s: float(m.figures[name][0][m.places[row, s]]) for s in sorted(shared[part], key=int)}
                   for part, m in parts.items() if shared[part]}  # fmt: skip
            self._known[key] = self._moved(own)
        return self._known[key]

    def _moved(self, own):
        found = self._figures(own)
        up, down = ({part: self._figures(own, part, step) for part in own} for step in (1e-3, -1e-3))
        return {c: (v, {part: (up[part][c] - down[part][c]) / 2e-3 for part in own}) for c, v in found.items()}

    def _figures(self, own, part="", step=0.0):
        values = {p: {s: v + (step if p == part else 0) for s, v in seeds.items()} for p, seeds in own.items()}
        found = self.protocol.figures(values) or {}
        return {c: found[c][0] for c in self.protocol.columns(own) if c in found}


def _weighed(needed, used, seeds, name, together, *sides):
    """Differences of values (S,) and slopes (S, G), the units of all used parts together (_Columns.units)."""
    number, columns = together
    values, slopes = np.zeros(len(seeds)), np.zeros((len(seeds), number))
    for part in used:
        m = needed[part]
        for sign, (row, gradient) in zip((1, -1), sides):
            places = [m.places[row, s] for s in seeds]
            values += sign * gradient[part] * m.figures[name][0][places]
            slopes[:, columns[part]] += sign * gradient[part] * m.figures[name][1][places]
    return values, slopes


def _left_out(left, data, row_of):
    """A line for each reason: which rows' predictions were not taken."""
    found = {}
    for record, why in left:
        label = data[row_of[record["group"]]]["label"]
        found.setdefault(why.replace("predictions.npz", "predictions"), {}).setdefault(label, set()).add(record["seed"])
    return [f"Not compared, {why}: " + "; ".join(f"{label}, seeds {_numbers(seeds)}" for label, seeds in rows.items())
            + "." for why, rows in found.items()]  # fmt: skip


def _numbers(seeds):
    return " ".join(map(str, sorted(seeds)))


def alike(pairs, figure, column, top, rows):
    """Those of `rows` that can't be told apart from `top` in a column; `top` among them. None where `top` was compared
    with none of them."""
    apart = {frozenset(p["rows"]): p["holm"] <= statistics.LEVEL for p in pairs
             if p["figure"] == figure and p["column"] == column}  # fmt: skip
    known = [i for i in rows if i != top and frozenset((top, i)) in apart]
    return [i for i in rows if i == top or (i in known and not apart[frozenset((top, i))])] if known else None


def answers(protocol, table):
    """Sentences: of each number of shots and column of the first figure that pairs are compared in, which rows can't be
    told apart from the highest, on what evidence."""
    found, data = [], table["data"]
    name = next((m for m in protocol.metrics if m in statistics.FIGURES), "")
    for shots in sorted({row["shots"] for row in data}, key=lambda s: s if s > 0 else np.inf):
        for column in protocol.columns(dict.fromkeys(p for row in data for p in row["parts"])):
            rows = [i for i, row in enumerate(data) if row["shots"] == shots and column in row["figures"].get(name, {})]
            if len(rows) > 1:
                found.append(_answer(table, name, column, rows, shots if protocol.shots_column else None))
    return found


def _answer(table, name, column, rows, shots):
    data = table["data"]
    place = f"{'' if shots is None else f'{in_words(shots)}, '}{column} {formats.measure(name).title}"
    sign = -1 if formats.measure(name).less_is_better else 1
    top = max(rows, key=lambda i: sign * data[i]["figures"][name][column][0])
    label = data[top]["label"]
    same = alike(table["pairs"], name, column, top, rows)
    if same is None:
        return f"{place}: {label} is highest; nothing can be said of it, as no other row has predictions of its seeds."
    own = [p for p in table["pairs"] if p["figure"] == name and p["column"] == column and top in p["rows"]]
    others = [data[i]["label"] for i in same if i != top]
    if len(same) == len(rows):
        words = f"no row can be told apart from the highest, {label}"
    elif others:
        words = f"{', '.join(others)} can't be told apart from the highest, {label}"
    else:
        words = f"{label} is told apart from every row it was compared with"
    if unknown := [data[i]["label"] for i in rows if i != top and not any(i in p["rows"] for p in own)]:
        words += f"; not compared: {', '.join(unknown)}"
    return f"{place}: {words} ({_of(own, 'seeds', 'seed')} x {_of(own, 'units', own[0]['unit'])}; Holm-corrected, 5 %)."


def _of(found, key, word):
    """A number of pairs in words, from-to where they differ."""
    counts = sorted({p[key] for p in found})
    ends = "-".join(f"{n:,}" for n in dict.fromkeys((counts[0], counts[-1])))
    return f"{ends} {word}{'' if ends == '1' else 's'}"


def notes(table):
    """What bold means in a table, and what its seeds cannot show."""
    pairs = table["pairs"]
    if len(table["data"]) < 2:
        return []
    if not pairs:
        return ["Marked best (bold): the best figure alone; rows can't be compared, as predictions are missing, of "
                "other images or of other seeds.",
                *(line for line in table["left_out"] if "no predictions" not in line)]  # fmt: skip
    lines = ["Marked best (bold): all that can't be told apart from the best figure (Holm-corrected p > 0.05, paired "
             f"by {pairs[0]['unit']} and seed)."]  # fmt: skip
    seeds = {p["seeds"] for p in pairs}
    if 1 in seeds:
        some = "Where rows share one seed alone" if len(seeds) > 1 else "One seed"
        lines.append(f"{some}, trained models are told apart, not methods: another seed may turn it.")
    if few := [n for n in seeds if 1 < n < statistics.SEEDS]:
        lines.append(f"Fewer than {statistics.SEEDS} seeds ({min(few)}) show large differences alone: not told apart "
                     "is not equal.")  # fmt: skip
    return [*lines, *table["left_out"]]


def markdown(table):
    """The pairs as a Markdown table."""
    rows = [[formats.md(_cell(key, pair[key])) for key in KEYS] for pair in table["pairs"]]
    lines = [f"**{formats.md(table['title'])}: pairs**", "", *formats.grid(KEYS, rows), ""]
    return "\n".join([*lines, *(f"{formats.md(n)}  " for n in table["left_out"])]) + "\n"


def _cell(key, value):
    if value is None:
        return "-"
    if key in ("p", "holm", "false_claim"):
        return f"{value:.2g}" if value >= 1e-4 else "< 0.0001"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _json(content):
    """A pair a line."""
    own = ",\n".join(json.dumps(pair, ensure_ascii=False, allow_nan=False) for pair in content["pairs"])
    rest = {k: v for k, v in content.items() if k != "pairs"}
    return json.dumps(rest, ensure_ascii=False, allow_nan=False)[:-1] + f', "pairs": [\n{own}\n]}}\n'


def save(table, folder, stem, wanted=tuple(formats.FORMATS)):
    """<stem>-statistics.md, .csv and .json."""
    content = {"title": table["title"], "pairs": [{k: p[k] for k in KEYS} for p in table["pairs"]],
               "left_out": table["left_out"], "calibration": table.get("calibration", [])}  # fmt: skip
    made = {"md": lambda: markdown(table), "json": lambda: _json(content),
            "csv": lambda: formats.csv_of(KEYS, [[pair[key] for key in KEYS] for pair in table["pairs"]])}  # fmt: skip
    for name in made.keys() & set(wanted):
        write_text(made[name](), folder / f"{stem}-statistics.{name}")
