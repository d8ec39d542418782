"""Finding a class in a table of class names: exactly, by its normalised form, by a known other spelling."""

import re

from dassl.utils.errors import UserError

# Spellings that public sets use for one class. The first of each row is only a representative.
SPELLINGS = (
    ("covid", "covid 19", "covid19"),
    ("vascular lesion", "vascular lesions"),
    ("melanocytic nevus", "melanocytic nevi"),
    ("actinic keratosis", "actinic keratoses", "actinic keratoses and intraepithelial carcinoma"),
    ("benign keratosis", "benign keratosis like lesions"),
    ("immature granulocytes", "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)",
     "immature granulocytes (myelocytes, metamyelocytes and promyelocytes)"),
    ("bacterial pneumonia", "bacteria pneumonia"),
    ("viral pneumonia", "virus pneumonia"),
    ("esophagitis", "oesophagitis"),
    ("normal cecum", "normal caecum"),
    ("sickle cell anemia", "sickle cell anaemia"),
)


def normalised(name):
    """Trimmed, lower case, '_' and '-' as blanks, runs of blanks as one."""
    return re.sub(r"[\s_\-]+", " ", str(name)).strip().lower()


_REPRESENTATIVE = {normalised(s): row[0] for row in SPELLINGS for s in row}


def spelling_key(name):
    """One key for all known spellings of a class."""
    return _REPRESENTATIVE.get(normalised(name), normalised(name))


def check_distinct(names, where):
    """UserError if two of the names fall together once normalised: neither could be looked up safely."""
    seen = {}
    for name in names:
        other = seen.setdefault(normalised(name), name)
        if other != name:
            raise UserError(f"{where}: the class names {other!r} and {name!r} differ only in case, blanks, '_' or "
                            f"'-'; rename one of them")


def match(asked, stored, where):
    """{asked name: stored name} of those that are found.

    An exact name wins, then the normalised form, then a known other spelling. Raises UserError where two stored
    names fit equally well, or where two asked names would get the same row.
    """
    found = {}
    for name in asked:
        for key in (str, normalised, spelling_key):
            fits = [s for s in stored if key(s) == key(name)]
            if len(fits) > 1:
                raise UserError(f"{where}: the class {name!r} fits both {fits[0]!r} and {fits[1]!r}; use the exact "
                                f"name")
            if fits:
                found[name] = fits[0]
                break
    taken = {}
    for name, row in found.items():
        if taken.setdefault(row, name) != name:
            raise UserError(f"{where}: the classes {taken[row]!r} and {name!r} both resolve to the stored {row!r}; "
                            f"store a row for each of them")
    return found
