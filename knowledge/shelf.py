"""Which stored file is meant: told by what it holds - LLM, words, settings - and never by its name.

Files of a data set lie in one folder of the cache, and some in the repository. A name such as
busi/meta-llama-Meta-Llama-3-8B-1f0c22ab.safetensors is for people: LLM, and a hash of what was first asked.
"""

from dataclasses import dataclass
from pathlib import Path

from dassl.utils.errors import UnknownName, UserError
from dassl.utils.io import sha256_of
from dassl.utils.paths import cache_root, slug

from .llms import identity, is_hub_id, llm_slug, meant
from .names import match

SHIPPED = Path(__file__).resolve().parent / "stored"


@dataclass(frozen=True)
class Entry:
    """What a stored file holds.

    Args:
        path: of the file.
        llm: as the LLM was called when it was asked.
        settings: {name: text} that all its classes share: "llm_hash" and how it was asked and stored.
        words: {class: what the LLM was asked about it}.
    """

    path: Path
    llm: str
    settings: dict
    words: dict

    def key(self, names):
        """What makes the contents of these classes what they are."""
        return (*sorted(self.settings.items()), *(self.words[n] for n in names))


def new_path(dataset, llm, settings, words, ending):
    """Where the cache keeps what was asked so: the readable slug of the LLM and a short hash of the rest."""
    key = sha256_of({"settings": settings, "words": words})[:8]
    return cache_root() / "knowledge" / slug(dataset).lower() / f"{llm_slug(llm)}-{key}{ending}"


def paths(dataset, ending):
    """Stored files of a data set: the cache's first, then those that the repository ships."""
    folders = (root / slug(dataset).lower() for root in (cache_root() / "knowledge", SHIPPED))
    return [path for folder in folders for path in sorted(folder.glob(f"*{ending}"))]


def is_shipped(path):
    """Whether a file is the repository's own, which is only read."""
    return SHIPPED in Path(path).parents


def by_llm(entries, llm):
    """The entries that this very LLM made.

    A hub id whose revision this machine cannot tell stands for any revision under that id.
    """
    if digest := identity(llm):
        return [e for e in entries if e.settings.get("llm_hash") == digest]
    return [e for e in entries if is_hub_id(llm) and meant(e.llm) == meant(llm)]


def pick(entries, classnames, words, settings, what):
    """(entry, {asked class: its name there}) that holds all classes as wanted; None where there is none.

    Args:
        words: {asked class: words it must have been asked in}; None: any.
        settings: {name: value} that it must have.
        what: how messages call it, e.g. "busi by llama-3-8b".

    Raises UserError where two fit that are not the same: which one is meant must be said.
    """
    fits = []
    for entry in entries:
        found = match(classnames, entry.words, str(entry.path))
        if len(found) == len(classnames) and not differences(entry, found, words, settings):
            fits.append((entry, found))
    if not fits:
        return None
    first, found = fits[0]
    for other, names in fits[1:]:
        if other.key(names.values()) != first.key(found.values()):
            raise UserError(f"{what}: {first.path} and {other.path} differ in {_apart(first, found, other, names)}; "
                            f"say which one is meant by its path")
    return first, found


def differences(entry, found, words, settings):
    """How an entry differs from what is wanted, as a clause; "" where it does not."""
    clauses = [f"{name} {entry.settings.get(name)} instead of {value}" for name, value in settings.items()
               if entry.settings.get(name) != value]
    other = [name for name, there in found.items() if words and name in words and words[name] != entry.words[there]]
    if other:
        name, more = other[0], f" and {len(other) - 1} more" if len(other) > 1 else ""
        clauses.append(f"other words for {name!r}{more} ({entry.words[found[name]]!r} instead of {words[name]!r})")
    return ", ".join(clauses)


def _apart(first, found, other, names):
    """The settings in which two entries differ."""
    clauses = [f"{k} ({v}, {other.settings.get(k)})" for k, v in first.settings.items() if other.settings.get(k) != v]
    words = [(name, first.words[a], other.words[names[name]]) for name, a in found.items()]
    clauses += [f"words ({a!r}, {b!r} for {name!r})" for name, a, b in words if a != b][:1]
    return ", ".join(clauses)


def nearest(entries, classnames, words, settings, llm):
    """(classes that no file has as wanted, a clause on what there is instead or "")."""
    ours = by_llm(entries, llm)
    missing, clause = list(classnames), ""
    for entry in ours:
        found = match(classnames, entry.words, str(entry.path))
        clause = clause or (differences(entry, found, words, settings) and
                            f"{entry.path} has {differences(entry, found, words, settings)}")
        lacking = [n for n in classnames if n not in found or differences(entry, {n: found[n]}, words, settings)]
        missing = min(missing, lacking, key=len)
    if not ours:
        clause = next((_other_llm(e, llm) for e in entries if _short(e.llm) == _short(llm)), "")
    return missing, clause


def _short(llm):
    """The last part of an LLM's name."""
    name = meant(llm)
    return Path(name if isinstance(name, str) else name.slug).name


def _other_llm(entry, llm):
    """Why the rows of an LLM of the same name are not used."""
    here = identity(llm)
    if not here:
        return f"{entry.path} is by one of that name, but {llm} is not here to compare"
    there = entry.settings.get("llm_hash") or "unknown"
    return f"{entry.path} is by another LLM of that name (llm_hash {there[:12]} instead of {here[:12]})"


def continued(entries, settings, words):
    """The cache's entry of these settings in which no class was asked in other words than these, or None."""
    return next((e for e in entries if e.settings == settings and not is_shipped(e.path)
                 and all(e.words.get(name, asked) == asked for name, asked in words.items())), None)


def complete(entries, settings, words, free=()):
    """The entries of these settings (but for those that are `free`) that have every class in these words."""
    wanted = {name: value for name, value in settings.items() if name not in free}
    return [e for e in entries if wanted.items() <= e.settings.items() and words.items() <= e.words.items()]


class Kept:
    """What is kept of a data set's classes: `_found(classnames)` gives (path, {asked: stored name}) or UnknownName."""

    def path(self, classnames=()):
        """The file or folder that is read; None where there is none."""
        try:
            return self._found(classnames)[0]
        except UnknownName:
            return None

    def missing(self, classnames):
        """"" where every class is there; else in one line what is missing, what there is, what to run."""
        try:
            self._found(classnames)
        except UnknownName as reason:
            return str(reason)
        return ""
