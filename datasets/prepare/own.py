"""Your own images: a folder of class folders, or a table."""

from pathlib import Path

from dassl.utils.errors import MissingFile, UserError
from datasets.beside import read_rows
from datasets.facts import compile_pattern, group_id
from datasets.prepare.base import Image, Raw, column, find_images, need_folder, read_table

PART_FOLDERS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
                "dev": "val", "test": "test", "testing": "test"}


def class_folders(raw, group_regex=None, groups_file=None):
    """Raw of <raw>/<class>/** or <raw>/<train|val|test>/<class>/**.

    Class names are the folder names, underscores as blanks, in alphabetical order. Groups come from a table
    (file,group; default <raw>/groups.csv) or from a regular expression searched in the path below `raw`, whose
    brackets (or whole match) are the id.
    """
    raw = need_folder(raw)
    files = find_images(raw)
    if not files:
        raise MissingFile(f"{raw}: no images; expected {raw}/<class>/<image>, perhaps below train, val, test")
    images = [_labelled(file, file.relative_to(raw)) for file in files]
    names = tuple(sorted({im.classname for im in images}))
    group_of, key = _groups(raw, group_regex, groups_file)
    images = [Image(im.source, im.classname, im.part, group_of(im.source.relative_to(raw).as_posix())) for im in images]
    return Raw(images, names, key)


def _labelled(file, relative):
    folders = relative.parts[:-1]
    part = PART_FOLDERS.get(folders[0].lower(), "") if len(folders) > 1 else ""
    if part:
        folders = folders[1:]
    if not folders:
        raise UserError(f"{file}: an image outside the class folders; expected <class>/<image>")
    return Image(file, folders[0].replace("_", " ").strip(), part)


def _groups(raw, regex, table):
    """(function relative path -> group or "", the key in words)."""
    table = Path(table).expanduser() if table else raw / "groups.csv"
    if regex:
        pattern = compile_pattern(regex)
        return lambda file: group_id(pattern, file), f"regular expression {regex!r} on the path"
    if table.is_file():
        ids = dict(read_rows(table))
        return lambda file: ids.get(file, ""), f"{table.name}"
    return lambda file: "", ""


def table(path, group_regex=None):
    """Raw of a csv with the columns path, label and perhaps split and group; paths are relative to its folder.

    `label` is the class name, or a number with a further column `name`; classes are in alphabetical order, or in
    the order of the numbers.
    """
    path = Path(path).expanduser().absolute()
    path = path / "labels.csv" if path.is_dir() else path
    if not path.is_file():
        raise MissingFile(f"no such table: {path} (columns path,label[,split][,group])")
    rows = read_table(path)
    if not rows:
        raise UserError(f"{path}: the table is empty")
    present = {key.lower() for key in rows[0]}
    images, order = [], {}
    for row in rows:
        label = column(row, "label", path)
        name = column(row, "name", path) if "name" in present else label
        if order.setdefault(name, label) != label:
            raise UserError(f"{path}: class {name!r} has the labels {order[name]!r} and {label!r}")
        images.append(Image(path.parent / column(row, "path", path), name, _part(row, present, path),
                            row_group(row, present, path, group_regex)))
    missing = [im.source for im in images if not im.source.is_file()]
    if missing:
        raise MissingFile(f"{path}: {len(missing)} of {len(images)} files are not there, first {missing[0]}")
    return Raw(images, _ordered(order), "column group" if "group" in present else "")


def _ordered(order):
    numbers = all(label.isdigit() for label in order.values())
    return tuple(sorted(order, key=lambda name: (int(order[name]) if numbers else 0, name)))


def _part(row, present, path):
    if "split" not in present:
        return ""
    value = column(row, "split", path).lower()
    if value and value not in PART_FOLDERS:
        raise UserError(f"{path}: split {value!r}; expected train, val or test")
    return PART_FOLDERS.get(value, "")


def row_group(row, present, path, regex=None):
    if "group" in present:
        return column(row, "group", path)
    return group_id(compile_pattern(regex), column(row, "path", path)) if regex else ""
