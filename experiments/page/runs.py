"""Every run as a row of columns, and what an opened run shows beside: compact, for ten thousand of them."""

from collections import Counter

WORDS = ("protocol", "dataset", "method", "backbone", "part", "shots", "seed")  # columns of few different values
METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece")
COSTS = ("trainable_parameters", "seconds_per_step", "train_seconds", "peak_memory_mib", "test_images_per_second")
FACTS = ("precision", "llm", "weights", "hparams", "device", "threads", "git", "dropout_mode", "ci_unit", "source_note")


class Names:
    """Values by their place in a list: each is kept once."""

    def __init__(self):
        self.values, self._places = [], {}

    def place(self, value, key=None):
        key = value if key is None else key
        if key not in self._places:
            self._places[key] = len(self.values)
            self.values.append(value)
        return self._places[key]


def listed(records, labels, worst):
    """(columns of the table of runs, details of each run), both plain data; `labels` {group: a row's label}."""
    columns = {name: Names() for name in WORDS}
    rows = {name: [] for name in (*WORDS, *METRICS, *COSTS, "n", "steps", "id")}
    details, classes, settings, facts = [], Names(), Settings(records), Names()
    for r in sorted(records, key=_order):
        spec = r["spec"]
        trained = spec["source"] or spec
        values = {
            **{name: spec[name] for name in ("protocol", "dataset", "backbone", "part")},
            "method": labels.get(r["group"], spec["label"] or spec["method"]), "seed": r["seed"],
            "shots": trained.get("shots", spec["shots"]),
        }  # fmt: skip
        for name in WORDS:
            rows[name].append(columns[name].place(values[name]))
        for name in METRICS:
            rows[name].append(_rounded(r["metrics"].get(name)))
        for name in COSTS:
            rows[name].append(_rounded(r["cost"].get(name), 5))
        rows["n"].append(r.get("n"))
        rows["steps"].append(r["cost"].get("steps"))
        rows["id"].append(f"{r['key'][:10]}-{r['seed']}")
        own = {k: r[k] for k in FACTS if r.get(k) not in (None, "", [])}
        own |= {"method": spec["method"], "versions": r.get("versions") or {}}
        names = tuple(map(str, r.get("classes") or ()))
        details.append([classes.place(names), sparse(r.get("confusion")), _interval(r), settings.place(r),
                        facts.place(own, repr(own)), _folder(r), worst.of(r)])  # fmt: skip
    table = {"words": {name: names.values for name, names in columns.items()}, "rows": rows}
    return table, {"runs": details, "classes": classes.values, "facts": facts.values, **settings.content()}


def _order(record):
    spec = record["spec"]
    return *(str(spec[name]) for name in ("protocol", "dataset", "method")), record["seed"], spec["part"]


def _rounded(value, digits=3):
    return round(float(value), digits) if isinstance(value, (int, float)) else None


def _interval(record):
    """[low, high] of accuracy; None where the run does not say."""
    found = (record.get("ci95") or {}).get("accuracy")
    return [_rounded(v, 2) for v in found] if found else None


def _folder(record):
    """Where a run lies below its output folder."""
    return "/".join(record["folder"].parts[-8:]) if "folder" in record else ""


def sparse(confusion):
    """[place, count, place, count ...] of what is not 0 in a matrix, row by row; None where there is none."""
    try:
        flat = [int(v) for row in confusion or () for v in row]
    except (TypeError, ValueError):
        return None
    if not flat:
        return None
    return [x for place, v in enumerate(flat) if v for x in (place, v)]


class Settings:
    """Configurations as differences from what most runs have: two thousand of them are one and some lines."""

    def __init__(self, records):
        counts = {}
        for r in {r["group"]: r for r in records}.values():
            for k, v in (r["spec"].get("settings") or {}).items():
                counts.setdefault(k, Counter())[str(v)] += 1
        self.usual = {k: own.most_common(1)[0][0] for k, own in counts.items()}
        self._different = Names()

    def place(self, record):
        own = {k: str(v) for k, v in (record["spec"].get("settings") or {}).items() if k != "SEED"}
        changed = {k: v for k, v in own.items() if self.usual[k] != v}
        absent = sorted(k for k in self.usual if k not in own and k != "SEED")
        return self._different.place([changed, absent], repr((changed, absent)))

    def content(self):
        return {"usual": self.usual, "settings": self._different.values}
