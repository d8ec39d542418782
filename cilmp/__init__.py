"""The CILMP toolbox: CLIP-like models adapted to medical images with few labels.

Its rooms are `cilmp.trainers`, `cilmp.backbones`, `cilmp.datasets` ...; installed they lie below this folder, in a
checkout beside it. `dassl`, the core they stand on, is a package of its own. Importing this imports no torch.
"""

import importlib
import importlib.util
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
CHECKOUT = None if (_HERE / "trainers").is_dir() else _HERE.parent  # the repository, where this is not an installation
if CHECKOUT is not None:
    __path__.append(str(CHECKOUT))


def _with_own_dassl():
    """Import the dassl that lies beside this package, and no other.

    Raises:
        ImportError: another one was imported, or is installed, too: code of either would get the wrong one.
    """
    own = (CHECKOUT or _HERE.parent) / "dassl"
    loaded = sys.modules.get("dassl")
    spec = None if loaded else importlib.util.find_spec("dassl")
    origin = getattr(loaded, "__file__", None) or getattr(spec, "origin", None)
    other = Path(origin).resolve().parent if origin else own
    if other != own and not (other / "utils" / "version.py").is_file():  # a copy of ours does no harm
        raise ImportError(
            f"two packages are called dassl, {other} and {own}: uninstall the first (pip uninstall dassl), its "
            f"programs run on ours, or use an environment for each"
        )
    if loaded is None:
        places = {"submodule_search_locations": [str(own)]}
        spec = importlib.util.spec_from_file_location("dassl", own / "__init__.py", **places)
        sys.modules["dassl"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["dassl"])


def off_path():
    """Take our rooms off sys.path: nothing there may answer for `datasets` (Hugging Face's) or `trainers`."""
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() not in (CHECKOUT, _HERE)]


def first_on_path(folder):
    """Somebody else's checkout first: `trainers`, `datasets`, `clip` are its own. For a process of its own only."""
    sys.path.insert(0, str(folder))


_with_own_dassl()

LAZY = {"load": "model", "Model": "model", "Classifier": "classifier"}  # name: its module in cilmp.inference


def __getattr__(name):
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"cilmp.inference.{LAZY[name]}"), name)
