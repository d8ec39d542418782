"""The user's own files: a module of one's own is imported here, a file of a whole checkout runs in a process apart."""

import importlib
import importlib.machinery
import importlib.util
import os
import sys
import traceback
from pathlib import Path

from dassl.utils.errors import MissingFile, UserError
from dassl.utils.io import sha256_file


def load_plugins(plugins):
    """Import the user's files or modules; they register their trainers and readers.

    Returns:
        [module or Checkout], each of which may have an `extend_cfg(cfg)`.

    Raises:
        MissingFile: no such file or module. UserError: it raises, calls exit() or registers nothing; in its own words.
    """
    return [_load(str(plugin)) for plugin in plugins]


def listed(plugins):
    """One plugin or several, a path or text each, as a list of texts."""
    return [str(p) for p in ([plugins] if isinstance(plugins, (str, os.PathLike)) else plugins)]


def hash_of(plugin):
    """SHA-256 of the file that importing a plugin runs, "" where there is none (a checkout's folder); nothing runs.

    Files that it imports in turn are its own affair.

    Raises:
        MissingFile: no such file or module.
    """
    path = _file(plugin)
    if path.suffix != ".py" and not path.exists():  # a module's name
        path = _origin(str(plugin))
    return sha256_file(path) if path.is_file() else ""


def _origin(name):
    """The file of a module by its name, found without importing the packages it lies in."""
    places, found = None, None
    for end in range(1, name.count(".") + 2):
        found = importlib.machinery.PathFinder.find_spec(".".join(name.split(".")[:end]), places)
        if found is None:
            raise MissingFile(f"plugin {name}: no such module; give a file name ending in .py, or a module")
        places = found.submodule_search_locations or ()
    return Path(found.origin or "")


def _file(plugin):
    path = Path(plugin).expanduser()
    if path.suffix == ".py" and not path.is_file():
        raise MissingFile(f"no plugin file {path.absolute()}")
    return path


def _load(plugin):
    from .checkout import Checkout, is_folder_of_none, root_of

    path = _file(plugin)
    if root := root_of(path):
        return Checkout.of(root, path.resolve())
    if is_folder_of_none(path):
        inner = [str(p) for p in sorted(path.iterdir()) if p.is_dir() and root_of(p)]
        raise MissingFile(
            f"{path.absolute()} is no checkout: neither trainers/__init__.py nor datasets/__init__.py is in it; give "
            f"{inner[0] if inner else 'the folder that holds these two'}, or a file of one's own"
        )
    before = registered()
    known = set(sys.modules)
    try:
        module = _load_file(path) if path.suffix == ".py" else importlib.import_module(plugin)
    except ModuleNotFoundError as error:
        if error.name == plugin.split(".")[0]:
            raise MissingFile(f"plugin {plugin}: {error}; give a file name ending in .py, or a module") from None
        ours = " (the toolbox's own rooms are imported as cilmp.trainers, cilmp.backbones ...)"
        hint = ours if error.name in ("trainers", "backbones", "knowledge", "datasets") else ""
        raise UserError(f"plugin {plugin} needs a module that is not installed: {error.name}{hint}") from None
    except UserError:
        raise
    except SystemExit as error:
        raise UserError(f"it calls exit({error.code}) - plugin {plugin}, line {line_of(error, path)}") from None
    except Exception as error:
        raise UserError(f"{words_of(error)} - plugin {plugin}, line {line_of(error, path)}") from None
    if module.__name__ not in known and registered() == before:
        raise nothing_registered(f"plugin {plugin}")
    return module


def registered():
    """All that is registered, by name."""
    from dassl.data.datasets import DATASET_REGISTRY
    from dassl.engine import TRAINER_REGISTRY

    return [{n: r.get(n) for n in r.registered_names()} for r in (TRAINER_REGISTRY, DATASET_REGISTRY)]


def nothing_registered(what):
    return UserError(
        f"{what} registers no trainer and no reader: put @TRAINER_REGISTRY.register() (of dassl.engine) or "
        f"@DATASET_REGISTRY.register() (of dassl.data.datasets) above its class"
    )


def words_of(error):
    """Kind and words of somebody else's error, in one line."""
    text = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"


def line_of(error, path):
    """Where in the plugin's own file it happened."""
    if isinstance(error, SyntaxError):
        return error.lineno
    steps = traceback.extract_tb(error.__traceback__)
    return next((step.lineno for step in reversed(steps) if Path(step.filename).name == path.name), "?")


def _load_file(path):
    """The module of a plugin file; loaded once a process, as it registers what it holds."""
    spec = importlib.util.spec_from_file_location(f"plugin_{path.stem}", path)
    known = sys.modules.get(spec.name)
    if known is not None and Path(known.__file__).resolve() == path.resolve():  # it may be gone by now
        return known
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module
