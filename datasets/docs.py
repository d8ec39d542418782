"""The tables of docs/datasets.md, made from the facts: `python -m cilmp.datasets.docs` writes them into the page."""

from pathlib import Path

from cilmp.datasets.overlap import pairs
from cilmp.datasets.tables import TABLE
from dassl.utils.io import write_text
from dassl.utils.paths import REPO

PAGE = REPO / "docs" / "datasets.md"
START, END = "<!-- made by python -m cilmp.datasets.docs -->", "<!-- end of the made part -->"


def tables():
    """Markdown: what each set is, where it comes from, which sets overlap."""
    sets = [TABLE[name] for name in TABLE.sets()]
    return "\n".join([
        "### What is in them\n",
        _table(("set (other names)", "of", "modality", "organ", "classes", "images", "partition", "kept together"),
               [(_names(f), f.family, f.modality, f.organ, str(len(f.classes)),
                 f"{sum(f.counts):,}" if f.counts else "", f.partition, f.group) for f in sets]),
        "\n### Where they come from\n",
        _table(("set", "page", "licence", "raw data", "then", "folder and split under DATA"),
               [(f.name, f.home, f.licence, _access(f), f"`cilmp prepare {f.name} --raw DIR`", _layouts(f))
                for f in sets]),
        "\n### Sets that share images\n",
        _table(("set", "and", "share"), pairs()),
        "\n### Class names, the words of the LLM question where they differ, images a class\n",
        "\n".join(f"- **{f.name}**: " + "; ".join(_classes(f)) for f in sets)])


def _classes(facts):
    """'name (wording) count' of each class."""
    counts = facts.counts or ("",) * len(facts.classes)
    return [f"{name}{f' ({words})' if words else ''} {f'{n:,}' if n else ''}".strip()
            for (name, words), n in zip(facts.classes, counts)]


def _table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _names(facts):
    return facts.name + (f" ({', '.join(facts.aliases)})" if facts.aliases else "")


def _access(facts):
    kind = facts.download.partition(":")[0]
    return {"zenodo": "`--download`", "url": "`--download`", "kaggle": "`--download` with a Kaggle token",
            "": facts.click}[kind]


def _layouts(facts):
    places = [f"{lay.folder}/{lay.split}" for lay in facts.layouts]
    return ", ".join(f"`{p}`" for p in places) + (f", or `{facts.flag}_224.npz`" if facts.flag else "")


def page(text):
    """The page with its made part replaced."""
    before, rest = text.split(START)
    return before + START + "\n\n" + tables() + "\n\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    write_text(page(Path(PAGE).read_text(encoding="utf-8")), PAGE)
    print(f"written: {PAGE}")
