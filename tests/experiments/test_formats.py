"""Names from people in every format: nothing breaks, nothing executes."""

import csv
import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cilmp.experiments import formats
from dassl.utils.errors import UnknownName

HOSTILE = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[x](javascript:alert(1))", "![x](http://a/b.png)",
    "=cmd|'/c calc'!A0", "+1+cmd()", "-2+3", "@SUM(A1)", "\t=1+1", "\r\n=1+1", "\\input{/etc/passwd} $x$ 5% a_b #1 {",
    "two\nlines", "a | b", "\x1b[31mred\x1b[0m", "[1] x", "* x", "‮evil", "`code`", "a\\", "x\\\\& y", "```\nrm -rf /",
]  # fmt: skip
MACROS = re.compile(r"\\(begin|end)\{(table|tabular)\}|\\(centering|toprule|midrule|bottomrule|caption|par|smallskip"
                    r"|parbox|linewidth|footnotesize|textbf|underline|textbackslash|textasciitilde|textasciicircum|pm"
                    r"|dagger|textless|textgreater|textbar|sbox|ifdim|wd|resizebox|usebox|else|fi)(?![a-zA-Z])|\\\\"
                    r"|\\[_%&#${}]")  # fmt: skip


def table(name, rows=2):
    return {"title": f"title {name}", "header": ["method", name], "fixed": 1, "best": {(0, 0): "best"}, "data": [],
            "rows": [[name, "1.0 ± 0.5"]] * rows, "notes": [f"note {name}", "end."],
            "commands": [f"cilmp run {name}"]}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_markdown_has_its_own_lines_and_cells_alone(name):
    text = formats.markdown(table(name))
    lines = text.split("\n")
    assert len(lines) == 16 and text.count("```") == 2
    assert {len(re.findall(r"(?<!\\)\|", line.replace("\\\\", ""))) for line in lines[2:6]} == {3}
    outside = text.replace("\\\\", "").split("```")[0]
    assert "<script" not in outside and "<img" not in outside and "\x1b" not in text and "‮" not in text
    assert not re.search(r"(?<!\\)[\[\]`]", outside)


@pytest.mark.parametrize("name", HOSTILE)
def test_latex_has_no_command_but_ours(name):
    text = formats.latex(table(name)).split("\n", 1)[1].replace("}%\n", "}\n")
    rest = MACROS.sub("", text).replace("0>", "0")
    assert "\\" not in rest and not re.search(r"[%#_~^<>|]", rest) and text.isprintable() is False
    balance = re.sub(r"\\[{}]", "", text.replace("\\\\", ""))
    assert balance.count("{") == balance.count("}") and rest.count("$") % 2 == 0
    assert not re.search(r"\\\\\s*[*\[]", text)  # an option of the line's end


@pytest.mark.parametrize("name", HOSTILE)
def test_csv_has_no_formula(name):
    rows = list(csv.reader(io.StringIO(formats.as_csv(table(name)))))
    assert len(rows) == 3 and {len(row) for row in rows} == {3}
    assert not [c for row in rows for c in row if c[:1] in tuple("=+-@\t\r\n")]
    assert rows[1][1] == "1.0 ± 0.5"


def test_numbers_and_gaps_stay_what_they_are_in_csv():
    text = formats.csv_of(["a", "b", "c", "d"], [["-1.5 ± 0.2", "-", -2.5, "1,000"]])
    assert text.splitlines()[1] == '-1.5 ± 0.2,-,-2.5,"1,000"'


@pytest.mark.parametrize("name", HOSTILE)
def test_terminal_and_json(name):
    shown = formats.terminal(table(name))
    assert "\x1b" not in shown and "‮" not in shown and len(shown.split("\n")) == 9
    saved = json.loads(formats.as_json(table(name)))
    assert saved["rows"][0][0] == name and saved["commands"] == [f"cilmp run {name}"]


@given(st.text())
def test_any_text(name):
    assert formats.plain(name).isprintable() and formats.plain(formats.plain(name)) == formats.plain(name)
    assert "\\" not in MACROS.sub("", formats.tex(name)) and "\n" not in formats.md(name)
    assert formats.cell(name)[:1] not in tuple("=+-@\t\r") or formats.NUMBER.fullmatch(formats.cell(name))


def test_all_formats_hold_the_same(tmp_path):
    made = table("CoOp")
    formats.save(made, tmp_path)
    assert {p.suffix for p in tmp_path.iterdir()} == {".md", ".tex", ".csv", ".json"}
    for path in tmp_path.iterdir():
        text = path.read_text()
        assert text.count("CoOp") >= 4 and "note CoOp" in text and "0.5" in text and "end." in text
    assert "**1.0 ± 0.5**" in (tmp_path / "table.md").read_text()
    assert "\\textbf{1.0 $\\pm$ 0.5}" in (tmp_path / "table.tex").read_text()


def test_the_caption_is_the_title_alone():
    text = formats.latex(table("CoOp"))
    assert "\\caption{title CoOp}" in text and "{\\footnotesize note CoOp. end.}" in text


def test_only_what_is_asked_for_is_written(tmp_path, capsys):
    formats.save(table("CoOp"), tmp_path, formats=formats.chosen(["csv", "terminal"]))
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"] and "note CoOp" in capsys.readouterr().out
    with pytest.raises(UnknownName, match=r"unknown format 'tec'.* Known: csv, json, md, terminal, tex"):
        formats.chosen(["tec"])
