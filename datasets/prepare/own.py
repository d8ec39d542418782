"""Your own images: a folder of class folders. A table: `own_table.table`."""

from cilmp.datasets.prepare.base import Image, Raw
from cilmp.datasets.prepare.files import by_suffix, look_under, need_folder
from cilmp.datasets.prepare.layout import need_classes, need_full, read_layout
from cilmp.datasets.prepare.own_table import table
from dassl.utils.errors import MissingFile, UserError

__all__ = ["class_folders", "table"]


def class_folders(raw, group_regex=None, groups_file=None):
    """Raw of <raw>/<class>/**, <raw>/<train|val|test>/<class>/** or <raw>/<class>/<train|val|test>/**, each perhaps
    inside wrapper folders.

    Class names are the folder names, underscores as blanks, in alphabetical order. Groups come from a table
    (file,group; default <raw>/groups.csv) or from a regular expression searched in the path below `raw`, whose
    brackets (or whole match) are the id.
    """
    raw = need_folder(raw)
    found = look_under(raw)
    if not found.images:
        held = f" ({by_suffix(found.others)})" if found.others else ""
        raise MissingFile(f"{raw}: no images{held}; expected {raw}/<class>/<image>, perhaps below train, val, test")
    images, folders, others = ([f.relative_to(raw) for f in files] for files in
                               (found.images, found.folders, found.others))
    try:
        layout = read_layout(images)
        need_classes(images, layout)
        need_full(images, folders, others, layout)
    except UserError as error:
        raise UserError(f"{raw}: {error}") from None
    names = [name.replace("_", " ").strip() for name in layout.classes]
    result = Raw([Image(*row) for row in zip(found.images, names, layout.parts)], tuple(sorted(set(names))),
                 remarks=found.remarks(), origin=raw)
    if layout.wrappers:
        result.remarks.insert(0, f"all images lie in {'/'.join(layout.wrappers)}: class folders are those inside it")
    result.find_groups(raw, group_regex, groups_file)
    return result
