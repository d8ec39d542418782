"""An output folder as one file: specs, results, predictions, training curves and few-shot lists; no images, weights or
checkpoints."""

import contextlib
import re
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from dassl.utils.errors import MissingFile, UserError, unwritable
from dassl.utils.io import atomic_path
from dassl.utils.paths import cache_root, slug

from .collect import records
from .predictions import file_of

OF_A_RUN = re.compile(r"(results(_\w+)?|reads|calibration)\.json|config\.yaml|predictions(_\w+)?\.npz")
WITHIN = re.compile(r"(few_shot|studies|runs)/.*\.(json|yaml|npz|txt)|runs/.*/tensorboard/events\.out\.[^/]+")
EVENTS = re.compile(r"(events\.out\.tfevents\.\d+)\..+?\.(\d+\.\d+)")
LARGEST = 1 << 31  # bytes of one file in an archive: more is no results


def pack(output, path):
    """Write OUTPUT's results into a zip; returns the number of runs in it.

    Raises MissingFile where there are none.
    """
    output = Path(output).absolute()
    found = [r for split in ("test", "val") for r in records(output, split)]
    if not found:
        raise MissingFile(f"no finished runs in {output}; make some with: bash scripts/cilmp/base2new.sh")
    folders = dict.fromkeys(r["folder"] for r in found)
    members = {f"runs/{_without_host(file.relative_to(output)).as_posix()}": file for folder in folders
               for file in sorted([*folder.iterdir(), *folder.glob("tensorboard/events.out.*")])
               if OF_A_RUN.fullmatch(file.name) or file.parent != folder}  # fmt: skip
    members |= {f"studies/{file.name}": file for file in sorted((output / "studies").glob("*.yaml"))}
    lists = cache_root() / "few_shot"
    for name in dict.fromkeys(slug(r["dataset"]) for r in found):
        for file in sorted((lists / name).rglob("*.json")):
            members[f"few_shot/{file.relative_to(lists).as_posix()}"] = file
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as z:
        for name, file in members.items():
            z.write(file, name)
    return len(folders)


def _without_host(path):
    """A path whose file name does not say the machine: events.out.tfevents.<time>.<host>.<process>.<number>."""
    named = EVENTS.fullmatch(path.name)
    return path.with_name(f"{named[1]}.host.{named[2]}") if named else path


@contextlib.contextmanager
def opened(sources):
    """[folder] of output folders and archives; what archives hold lies in a temporary folder meanwhile.

    Raises:
        UserError: a file that is no archive of results, or has files that belong elsewhere.
    """
    with tempfile.TemporaryDirectory(prefix="cilmp-archive-") as place:
        folders = []
        for i, source in enumerate(map(Path, sources)):
            if source.is_file():
                folders.append(_unpacked(source, Path(place, str(i))))
            elif source.is_dir():
                folders.append(source.absolute())
            else:
                raise MissingFile(f"no output folder or archive {source}")
        yield folders


def _unpacked(path, folder):
    try:
        with zipfile.ZipFile(path) as z:
            for info in z.infolist():
                _check(info, path)
            z.extractall(folder)
    except (zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{path} is not an archive of results ({error}); make one with: cilmp archive OUTPUT FILE") \
            from None
    except OSError as error:
        raise unwritable(error, folder) or error from None
    return folder / "runs"


def _check(info, path):
    """Refuse what `pack` does not write: another place, another kind, a link, a size beyond all results."""
    parts = PurePosixPath(info.filename).parts
    kind = info.external_attr >> 28  # of the file's mode: 8 a plain file, 0 not said
    if not WITHIN.fullmatch(info.filename) or ".." in parts or "\\" in info.filename or kind not in (0, 8) \
            or info.file_size > LARGEST:  # fmt: skip
        raise UserError(f"{path} holds {info.filename!r}, which is no part of an archive of results; it is not read")


def merged(folders):
    """Records of several output folders; the same run in two places is one, that with its predictions (a bundle of it
    has none).

    Raises:
        UserError: one run (key, seed, part) with other results in another folder.
    """
    found = {}
    for folder in folders:
        for record in records(folder):
            name = (record["key"], record["seed"], record["spec"]["part"])
            other = found.setdefault(name, record)
            same = all(other.get(k) == record.get(k) for k in ("metrics", "test_sha256", "train_sha256"))
            if not same:
                raise UserError(f"{record['folder']} and {other['folder']} are the same run (key "
                                f"{record['key'][:8]}, seed {record['seed']}) with other results; leave one out")
            if file_of(record).is_file() and not file_of(other).is_file():
                found[name] = record
    return list(found.values())
