"""What the tests of the pages share: the pages, their links, and the commands in them."""

import json
import re

from dassl.utils.paths import REPO

PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", REPO / "CHANGELOG.md", *sorted(REPO.glob("docs/**/*.md"))]
NOTEBOOK = REPO / "docs" / "quickstart.ipynb"


def cells(kind):
    """[source] of the notebook's cells of a kind ("code", "markdown")."""
    found = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


def texts():
    """[(path, text)] of all pages, the notebook's words among them."""
    return [(p, p.read_text(encoding="utf-8")) for p in PAGES] + [(NOTEBOOK, "\n\n".join(cells("markdown")))]


def blocks(text, language="bash"):
    """Contents of the fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def prose(text):
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def commands(text):
    """Lines of the bash blocks, without comments, continued lines joined."""
    lines = "\n".join(blocks(text)).replace("\\\n", " ").split("\n")
    return [re.sub(r"(^|\s)#.*", "", line).strip() for line in lines]


def section(text, heading):
    """What stands below a heading, up to the next of its level or above."""
    level = heading.split(" ")[0]
    begin = text.index(f"\n{heading}\n") + len(heading) + 2
    end = re.search(rf"^#{{1,{len(level)}}} ", text[begin:], re.M)
    return text[begin : begin + end.start()] if end else text[begin:]


def rows(text):
    """[[cell]] of the markdown tables, without their heads."""
    lines = [line for line in text.split("\n") if line.startswith("|")]
    heads = {i - 1 for i, line in enumerate(lines) if re.fullmatch(r"[|\s:-]+", line)}
    body = [x for i, x in enumerate(lines) if i not in heads and i - 1 not in heads]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body]


def words(text):
    """Names in `code`."""
    return re.findall(r"`([^`]+)`", text)
