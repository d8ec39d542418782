"""Finding a class in a table of class names: exactly, by its plain form, by a known other spelling."""

from dassl.utils.errors import UserError
from dassl.utils.names import plain, spelling_key


def check_distinct(names, where):
    """UserError if two of the names fall together in their plain form: neither could be looked up safely."""
    seen = {}
    for name in names:
        other = seen.setdefault(plain(name), name)
        if other != name:
            raise UserError(f"{where}: the class names {other!r} and {name!r} differ only in case, blanks, '_' or "
                            f"'-'; rename one of them")


def match(asked, stored, where):
    """{asked name: stored name} of those that are found.

    An exact name wins, then the plain form, then a known other spelling. Raises UserError where two stored
    names fit equally well, or where two asked names would get the same row.
    """
    found = {}
    for name in asked:
        for key in (str, plain, spelling_key):
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
