"""Answers as rows of a table, and tables as files: CSV, JSON, JSON lines, by the ending."""

import csv
import io
import json
from pathlib import Path

from dassl.utils.errors import UserError
from dassl.utils.io import write_text

ENDINGS = (".csv", ".json", ".jsonl")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with one of these in front a spreadsheet runs a cell


def columns_of(model, logits, features=None):
    """{column: N values}: prediction, its probability, what the calibration says, p(<class>) of every class."""
    from .model import softmax

    probabilities = softmax(logits)
    best = probabilities.argmax(1)
    columns = {"prediction": [model.classes[k] for k in best],
               "probability": [shown(p[k]) for p, k in zip(probabilities, best)]}  # fmt: skip
    if model.calibration is not None:
        columns |= model.judged(logits, features)
    return columns | {f"p({name})": [shown(p) for p in probabilities[:, c]] for c, name in enumerate(model.classes)}


def shown(p):
    """A probability with seven digits, which float32 has."""
    return float(f"{p:.7g}")


def check_ending(path):
    if Path(path).suffix.lower() not in ENDINGS:
        raise UserError(f"--out {path}: its ending says the form, choose {', '.join(ENDINGS)}")


def write(path, columns, facts, skipped):
    """Write rows, whole or not at all.

    Args:
        columns: {column: N values}, the image first. facts: what JSON says of the run. skipped: [(image, why)].
    """
    rows = [dict(zip(columns, values)) for values in zip(*columns.values())]
    left = [{"image": image, "error": why} for image, why in skipped]
    suffix = Path(path).suffix.lower()
    if suffix == ".csv":
        text = as_csv(columns, rows)
    elif suffix == ".json":
        text = json.dumps({**facts, "predictions": rows, "skipped": left}, indent=1, ensure_ascii=False) + "\n"
    else:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in [*rows, *left])
    write_text(text, path)


def as_csv(columns, rows):
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([safe(name) for name in columns])
    writer.writerows([[safe(value) for value in row.values()] for row in rows])
    return buffer.getvalue()


def safe(value):
    """A cell that no spreadsheet runs as a formula; sets of classes with ' | ' between them."""
    if isinstance(value, (list, tuple)):
        value = " | ".join(map(str, value))
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
