"""What authors published, from docs/published.yaml: rows beside ours where everything fits, marked as theirs."""

import math
from functools import cache

import yaml

from cilmp.protocols import PROTOCOLS
from dassl.evaluation.figures import METRICS
from dassl.utils.errors import UserError
from dassl.utils.paths import REPO

FILE = REPO / "docs" / "published.yaml"
FACTS = {"source": str, "where": str, "sets_from": str, "protocol": str, "backbone": str, "sets": list, "metric": str,
         "unit": str, "seeds": int, "shots": list, "columns": list, "rows": dict}  # fmt: skip
LIMITS = "theirs may differ from ours in images, few-shot lists and software, and enter no statistics."


@cache
def tables(path=FILE):
    """[table] of the file, each with its source in a line (`cited`); none without the file: an installation has none.

    Raises:
        UserError: what in the file has not its form.
    """
    if not path.is_file():
        return []
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    sources = content["sources"]
    return [_checked(table, sources, path) for table in content["tables"]]


def _checked(table, sources, path):
    name = f"{path.name}, {table.get('source')}, {table.get('where')}"
    wrong = [key for key, kind in FACTS.items() if not isinstance(table.get(key), kind)]
    wrong += [key for key in table if key not in (*FACTS, "note")]
    wrong += ["source"] if table.get("source") not in sources else []
    wrong += ["protocol"] if table.get("protocol") not in PROTOCOLS else []
    wrong += ["metric"] if table.get("metric") not in METRICS else []
    wrong += ["unit"] if table.get("unit") != "percent" else []
    width = len(table.get("shots") or ()) * len(table.get("columns") or ())
    wrong += [f"rows of {m}" for m, row in (table.get("rows") or {}).items()
              if len(row) != width or not all(map(_percent, row))]  # fmt: skip
    if wrong:
        raise UserError(f"{name}: {', '.join(map(str, wrong))} has not the form of the other tables")
    facts = sources[table["source"]]
    place = f"{facts['repository']} at {facts['commit'][:12]}, {table['where']}"
    note = f" ({table['note']})" if table.get("note") else ""
    return table | {"cited": f"{facts['paper']}; {place}{note}"}


def _percent(value):
    return value is None or (isinstance(value, (int, float)) and math.isfinite(value) and 0 <= value <= 100)


def beside(protocol, backbone, sets, columns, shots):
    """{"rows": [{method, source, values {column: value}}], "notes"} of what was published of just this.

    Args:
        sets: the data sets that ours are the average of.
        columns: ours, as (metric, number of shots or None where all rows have one, column of the protocol).
        shots: the numbers of shots of our rows, where they are no columns.
    """
    about = [t for t in tables() if t["protocol"] == protocol.name and t["backbone"] == backbone]
    rows, notes = [], []
    for table in about:
        if set(table["sets"]) != set(sets):
            continue
        found = [(m, values) for m, row in table["rows"].items()
                 if (values := _values(table, row, columns, shots))]  # fmt: skip
        rows += [{"method": m, "source": table["cited"], "values": values} for m, values in found]
        notes += [f"(published): {table['cited']}; mean over {table['seeds']} seeds; {LIMITS}"] if found else []
    if about and not rows:
        other = "; ".join(f"{t['source']}: {len(t['sets'])} sets ({', '.join(sorted(t['sets']))})" for t in about)
        notes = [f"Published averages are of other sets or shots than these and not shown - {other}."]
    return {"rows": rows, "notes": notes}


def _values(table, row, columns, shots):
    """{column of ours: value} of a published row; those that fit none of ours are left away."""
    places = [(k, c) for k in table["shots"] for c in table["columns"]]
    ours = {(k, c): place for place in columns if place[0] == table["metric"]
            for k, c in [(shots_of(place, shots), place[2])]}  # fmt: skip
    return {ours[place]: value for place, value in zip(places, row) if place in ours and value is not None}


def shots_of(place, shots):
    """The number of shots of a column; of rows that all have one number, that one."""
    return place[1] if place[1] is not None else next(iter(shots)) if len(shots) == 1 else None
