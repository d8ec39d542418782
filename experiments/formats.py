"""A table as Markdown, LaTeX, CSV, JSON and in the terminal. What is in it was decided before, for all of them.

A table is {title, header, rows (cells of text), notes, fixed (columns of names), best ({(row, column after those):
"best" or "second"}), data (the numbers behind), commands (what would fill its gaps)}. Names come from people: each
format keeps its own special characters from meaning anything.
"""

import csv
import io
import json
import re
from pathlib import Path

from dassl.evaluation.figures import METRICS, Metric
from dassl.utils.errors import unknown_name
from dassl.utils.io import write_text

NUMBER = re.compile(r"-|[-+]?[\d.,]+( ± [\d.,]+)?")
TEX = {"\\": "\\textbackslash{}", "±": "$\\pm$", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}",
       "†": "$\\dagger$", "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}", "[": "{[}",
       "]": "{]}"}  # fmt: skip
GAPS = "To fill what is missing (finished runs are kept; DATA, or --data, says where the sets lie):"


def plain(text):
    """One line of characters that can be seen: no newline, tab, escape sequence or change of writing direction."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def measure(name):
    """The Metric of that name; one that only results know (of a plugin) is called as there."""
    return METRICS.get(name) or Metric(plain(name), None)


def rounded(metric, value):
    """As printed: percentages with one digit, what is no percentage (kappas) with three."""
    return f"{value:.{1 if measure(metric).percent else 3}f}"


def marked(table, forms, escape):
    """Rows of escaped cells, in the form of their mark."""
    marks = [{k + table["fixed"]: mark for (i, k), mark in table["best"].items() if i == row}
             for row in range(len(table["rows"]))]  # fmt: skip
    return [[forms.get(own.get(k), "{}").format(escape(c)) for k, c in enumerate(row)]
            for own, row in zip(marks, table["rows"])]  # fmt: skip


def markdown(table):
    """GitHub Markdown: best bold, second underlined."""
    rows = marked(table, {"best": "**{}**", "second": "<u>{}</u>"}, md)
    lines = [f"**{md(table['title'])}**", "", *grid(map(md, table["header"]), rows), ""]
    lines += [f"{md(n)}  " for n in table["notes"]]
    if table.get("commands"):
        lines += ["", GAPS, "", "```bash", *(plain(c).replace("`", "") for c in table["commands"]), "```"]
    return "\n".join(lines) + "\n"


def grid(header, rows):
    """Lines of a Markdown table of escaped cells."""
    header = list(header)
    return [f"| {' | '.join(cells)} |" for cells in (header,)] + ["|" + "---|" * len(header)] \
        + [f"| {' | '.join(cells)} |" for cells in rows]  # fmt: skip


def md(text):
    """Text that is no markup, HTML, link or new cell."""
    return re.sub(r"([\\`|\[\]])", r"\\\1", plain(text)).replace("<", "&lt;")


def latex(table):
    """A table environment: best bold, second underlined; the title is its caption, the notes stand below. A table wider
    than the text is made as wide as that."""
    rows = marked(table, {"best": "\\textbf{{{}}}", "second": "\\underline{{{}}}"}, tex)
    columns = "l" * table["fixed"] + "c" * (len(table["header"]) - table["fixed"])
    lines = ["% \\usepackage{booktabs, graphicx}", "\\begin{table}", "\\centering",
             f"\\caption{{{tex(table['title'])}}}", f"\\sbox0{{\\begin{{tabular}}{{{columns}}}", "\\toprule",
             " & ".join(map(tex, table["header"])) + " \\\\", "\\midrule"]  # fmt: skip
    lines += [" & ".join(row) + " \\\\" for row in rows]
    lines += ["\\bottomrule", "\\end{tabular}}%",
              "\\ifdim\\wd0>\\linewidth\\resizebox{\\linewidth}{!}{\\usebox0}\\else\\usebox0\\fi"]  # fmt: skip
    if table["notes"]:
        lines += ["\\par\\smallskip", f"\\parbox{{\\linewidth}}{{\\footnotesize {tex(one_text(table['notes']))}}}"]
    return "\n".join([*lines, "\\end{table}"]) + "\n"


def tex(text):
    """Text with LaTeX's own characters escaped; a * that begins a row would belong to the \\\\ before it."""
    found = "".join(TEX.get(c, f"\\{c}" if c in "_%&#${}" else c) for c in plain(text))
    return f"{{*}}{found[1:]}" if found.startswith("*") else found


def one_text(notes):
    return " ".join(n if n.endswith((".", ":")) else f"{n}." for n in notes)


def as_csv(table):
    """A number copied out of its table keeps its warnings: the notes are a column."""
    note = one_text(table["notes"])
    return csv_of([*table["header"], "notes"], [[*row, note] for row in table["rows"]])


def csv_of(header, rows):
    """CSV text whose cells a spreadsheet takes for text or numbers, never for a formula."""
    buffer = io.StringIO()
    csv.writer(buffer).writerows([map(cell, row) for row in (header, *rows)])
    return buffer.getvalue()


def cell(value):
    """A cell as it is, a name with an apostrophe before it where its first character would begin a formula."""
    if not isinstance(value, str):
        return value
    text = plain(value)
    return f"'{text}" if text[:1] in tuple("=+-@") and not NUMBER.fullmatch(text) else text


def as_json(table):
    kept = {key: table[key] for key in ("title", "notes", "header", "rows", "data")}
    kept |= {"commands": table["commands"]} if table.get("commands") else {}
    return json.dumps(kept, indent=4, ensure_ascii=False, allow_nan=False) + "\n"


def terminal(table):
    from tabulate import tabulate

    text = tabulate([list(map(plain, row)) for row in table["rows"]], headers=list(map(plain, table["header"])),
                    disable_numparse=True)  # fmt: skip
    gaps = [GAPS, *table["commands"]] if table.get("commands") else []
    return "\n".join([plain(table["title"]), text, *map(plain, (*table["notes"], *gaps))])


FORMATS = {"md": markdown, "tex": latex, "csv": as_csv, "json": as_json}


def chosen(names):
    """The formats asked for, all files where none is; "terminal" prints. UnknownName names another word."""
    known = (*FORMATS, "terminal")
    for name in names:
        if name not in known:
            raise unknown_name("format", name, known)
    return tuple(names) or tuple(FORMATS)


def in_files(formats):
    """Whether some format is a file: text in a terminal shows no pictures, so none are drawn for it alone."""
    return any(name in FORMATS for name in formats)


def save(table, folder, stem="table", formats=tuple(FORMATS)):
    """table.md, table.tex, table.csv and table.json in a folder; "terminal" prints it."""
    for name in formats:
        if name == "terminal":
            print(f"\n{terminal(table)}")
        else:
            write_text(FORMATS[name](table), Path(folder) / f"{stem}.{name}")
