"""Tables as people save them: UTF-8, UTF-16 or Windows text, any delimiter, every row with its line number."""

import codecs
import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

from dassl.utils.errors import MissingFile, UserError

MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
         (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
MISSING = {"", "nan", "na", "n/a", "#n/a", "<na>", "null"}  # how programs write that there is no value


@dataclass(frozen=True)
class TextTable:
    """A header and rows; values are stripped."""

    path: Path
    columns: tuple
    header_line: int
    rows: list  # (line number, cells); a short row is filled up with ""
    remark: str = ""  # what was guessed about the encoding

    def find(self, *names):
        """Number of the first of these columns that is there (case, blanks, '_' and '-' don't count), else None; a
        column that is there twice is an error."""
        keys = [_key(c) for c in self.columns]
        for name in names:
            if keys.count(_key(name)) > 1:
                raise UserError(f"{self.path}: two columns are called {self.columns[keys.index(_key(name))]!r}; "
                                "rename or remove one")
            if _key(name) in keys:
                return keys.index(_key(name))
        return None

    def need(self, *names):
        """As `find`; an absent column is an error that lists the columns there are."""
        if (found := self.find(*names)) is None:
            raise UserError(f"{self.path}: no column {names[0]!r}; there are: {', '.join(self.columns)}")
        return found

    def dicts(self):
        """Rows as {column: value}."""
        return [dict(zip(self.columns, cells)) for _, cells in self.rows]


def _key(column):
    return re.sub(r"[\s_\-]+", "", column).lower()


def is_missing(value):
    """Whether a cell says that there is no value: empty, NaN, N/A, null."""
    return value.strip().lower() in MISSING


def read(path, delimiter=None, strict=True):
    """The TextTable in a file; , ; and tab are told apart by the header. Empty lines don't count.

    Args:
        strict: a quote that is never closed is an error, not a cell with the rest of the file in it.
    """
    text, remark = decode(path)
    head = next((line for line in text.splitlines() if line.strip()), "")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter or max(",;\t", key=head.count),
                        strict=strict, skipinitialspace=True)
    rows, line = [], 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((line, [cell.strip() for cell in cells]))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}: line {line}: {error}; is a quotation mark left open?") from None
    if not rows:
        raise UserError(f"{path}: the table is empty")
    (header_line, columns), *rows = rows
    rows = [(line, cells + [""] * (len(columns) - len(cells))) for line, cells in rows]
    return TextTable(Path(path), tuple(columns), header_line, rows, remark)


def decode(path):
    """(text, remark) of a file: by its byte-order mark, else UTF-8, else Windows-1252 (Latin-1), which the remark
    says. What is no text is an error."""
    path = Path(path)
    if not path.is_file():
        raise MissingFile(f"no such table: {path}")
    data = path.read_bytes()
    if data.startswith(WORKBOOKS):
        raise UserError(f"{path} is a workbook, not text; save it as CSV (UTF-8)")
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
        if "\0" in text:
            raise UserError(f"{path} holds zero bytes: it is no text, or UTF-16 without a mark; save it as CSV (UTF-8)")
        return text, ""
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        try:
            text = data.decode("cp1252") if encoding == "utf-8" else None
        except UnicodeDecodeError:
            text = None
    if text is None or "\0" in text:
        raise UserError(f"{path}: line {line} is neither UTF-8 nor Latin-1 text; save the table as CSV (UTF-8)")
    word = re.search(r"\w*[^\x00-\x7f]\w*", text)[0]
    return text, f"{path.name} is not UTF-8 (line {line}): read as Latin-1 (Windows-1252), e.g. {word!r}; is it right?"
