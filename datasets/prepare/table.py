"""Which preparation makes which set."""

from functools import partial

from cilmp.datasets.prepare import by_table
from cilmp.datasets.prepare.by_folder import ROWS
from cilmp.datasets.prepare.npz import medmnist
from cilmp.datasets.prepare.pneumonia import pneumonia
from cilmp.datasets.tables import TABLE
from dassl.utils.errors import MissingFile

PREPARERS = {
    "ADAM": by_table.adam, "APTOS": by_table.aptos, "CHAOYANG": by_table.chaoyang, "Derm7pt": by_table.derm7pt,
    "FETAL_US": by_table.fetal_us, "ISIC": by_table.isic, "ODIR": by_table.odir, "ODIR2": by_table.odir2,
    "PNEUMONIA2": partial(pneumonia, wanted="PNEUMONIA2"), "PNEUMONIA3": partial(pneumonia, wanted="PNEUMONIA3"),
    **{name: partial(row.prepare, facts=TABLE[name]) for name, row in ROWS.items()},
    **{name: partial(medmnist, facts=TABLE[name]) for name in TABLE.sets() if TABLE[name].flag},
}

assert set(PREPARERS) == set(TABLE.sets()), "every set of the table has a preparation"


def prepare(name, raw):
    """The Raw of a public set from its raw folder; a set without images of all classes is an error."""
    found = PREPARERS[TABLE[name].name](raw)
    missing = set(found.classnames) - {im.classname for im in found.images}
    if missing:
        raise MissingFile(f"{name}: no image of {sorted(missing)[0]!r} under {raw}; is the download whole?")
    return found
