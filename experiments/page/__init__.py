"""One page of a report, report/index.html: answer, tables, pictures and every run in one file that opens from disk.

Python writes data, the browser makes the page of it (page.js: no framework, nothing from the network). Names that come
from results are data all the way: JSON without "<", put into the page as text; and the page's own policy (CSP) runs no
script but page.js. Pictures and what only an opened run needs are compressed.

    answers   a table's answer, figures and pairs          runs      a row a run, and what lies behind it
    mistakes  each run's worst answers, their images       said      what the language model said of the classes
"""

import base64
import gzip
import hashlib
import json
import math
import re
from pathlib import Path

from dassl.utils.io import write_text

from . import answers, mistakes, runs, said

HERE = Path(__file__).parent


def write(folder, made, groups, over=()):
    """index.html in a report's folder; returns its path.

    Args:
        made: {key: (Markdown, table or None)}, groups: {key: [record]} of the report's tables, by the same keys.
        over: what several data sets say together: tables, and the summaries of over_sets.section.
    """
    folder = Path(folder)
    tables = [answers.of_table(key, table, folder) for key, (_, table) in made.items() if table]
    records = [r for found in groups.values() for r in found]
    labels = {row["group"]: row["label"] for _, table in made.values() if table for row in table["data"]}
    worst = mistakes.Worst()
    listed, details = runs.listed(records, labels, worst)
    data = {
        "tables": tables, "methods": len({r["spec"]["method"] for r in records}), "runs": listed,
        "over": [answers.of_sets(one, folder) for one in over],
        "left": [{"title": " on ".join(key[:2]), "why": text.strip()}
                 for key, (text, table) in made.items() if not table],
    }  # fmt: skip
    details |= {"said": said.of_runs(records), "images": worst.content()}
    path = folder / "index.html"
    write_text(html(data, details), path)
    return path


def html(data, details):
    """The page's text: the template, filled once, so that nothing put in is looked at again."""
    script, style, frame = ((HERE / name).read_text(encoding="utf-8") for name in ("page.js", "page.css", "page.html"))
    policy = "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = {"policy": policy, "style": style, "script": script, "data": plain_json(data), "details": packed(details)}
    return re.sub(r"\{\{(\w+)\}\}", lambda m: parts[m[1]], frame)


def plain_json(content):
    """ASCII JSON that no HTML parser takes for a tag or an end; what is not finite is null."""
    text = json.dumps(_finite(content), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def packed(content):
    """base64 of gzip of JSON, the same bytes each time; the browser's DecompressionStream reads it."""
    return base64.b64encode(gzip.compress(plain_json(content).encode(), 6, mtime=0)).decode()


def _finite(content):
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {str(k): _finite(v) for k, v in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(v) for v in content]
    return content
