"""What `cilmp predict` is pointed at, as a list of image files: files, folders, tables."""

import os
from pathlib import Path

from cilmp.datasets import text_table
from dassl.utils.arrays import is_array_image
from dassl.utils.dicom import frame_of
from dassl.utils.errors import MissingFile, UserError
from dassl.utils.images import recognised

TABLES = (".csv", ".tsv")
COLUMNS = ("image", "path", "file", "filename", "image path", "impath")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif", ".jp2", ".ppm", ".pgm", ".dcm",
            ".dicom")  # fmt: skip


def files_of(words, column=""):
    """[path] of all that the words name, in their order; a folder's files sorted.

    Of a folder, what is an image by its content or its ending; so one that is broken is named, and a readme is none.

    Raises:
        MissingFile, UserError: a word that names nothing, a folder without images, a table without such a column.
    """
    found = []
    for word in words:
        path = Path(word).expanduser()
        if path.is_dir():
            found += _in_folder(path)
        elif path.suffix.lower() in TABLES:
            found += _in_table(path, column)
        elif path.exists() or is_array_image(word) or os.path.exists(frame_of(path)[0]):
            found.append(str(path))
        else:
            raise MissingFile(f"no image, folder or table {word}")
    return found


def _in_folder(folder):
    inside = sorted(Path(place, name) for place, _, names in os.walk(folder) for name in names)
    inside = [p for p in inside if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
    images = [str(p) for p in inside if p.suffix.lower() in SUFFIXES or recognised(p)]
    if not images:
        raise UserError(f"{folder} holds no image")
    return images


def _in_table(path, column):
    """Files of a table's column, relative to the table's folder."""
    table = text_table.read(path)
    place = table.find(*([column] if column else COLUMNS))
    if place is None:
        raise UserError(f"{path}: no column {column or 'image'!r}, its first line has {', '.join(table.columns[:8])}: "
                        f"name the columns there, or say which one holds the files with --column")  # fmt: skip
    cells = [cells[place] for _, cells in table.rows]
    if not cells:
        raise UserError(f"{path}: the table has no row below its first line")
    return [str(path.parent / Path(cell).expanduser()) for cell in cells]


def classes_of(words, files, classes):
    """{file: class} of files that the words name, as far as it is known: by a table's column `label` (`name`, where
    labels are numbers), else by the nearest folder that is called as one of the classes."""
    found = {file: name for file in files if (name := _folder_class(Path(file), classes))}
    for path in (Path(word).expanduser() for word in words):
        if path.suffix.lower() in TABLES:
            table = text_table.read(path)
            place = table.find("name", "label", "class")
            if place is not None:
                found |= zip(_in_table(path, ""), (cells[place] for _, cells in table.rows))
    return found


def _folder_class(path, classes):
    names = {name.replace("_", " ").strip().lower(): name for name in classes}
    above = (folder.name.replace("_", " ").strip().lower() for folder in path.parents)
    return next((names[name] for name in above if name in names), "")
