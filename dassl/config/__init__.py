"""Configuration: `get_cfg_default()` and merges that name the key, the file and the nearest key on a mistake."""

import ast
import difflib
from pathlib import Path

import yaml
from yacs.config import CfgNode

from dassl.utils.errors import ConfigError, MissingFile

from .defaults import _C as _defaults

OF_BACKBONE = tuple(f"INPUT.{k}" for k in ("SIZE", "PIXEL_MEAN", "PIXEL_STD", "INTERPOLATION", "RESIZE_MODE"))


def get_cfg_default():
    """A fresh copy of the default tree."""
    return _defaults.clone()


def clean_cfg(cfg, trainer):
    """Drop the TRAINER sub-nodes other than NAME and the trainer's own."""
    for key in list(cfg.TRAINER.keys()):
        if key not in ("NAME", trainer.upper()):
            cfg.TRAINER.pop(key)


def keys_of(node, prefix=""):
    """All leaf keys of a config, dotted."""
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from keys_of(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def merge_from_file(cfg, path):
    """Merge a yaml file; text in it is read as a Python literal where it is one ("1e-5", "(224, 224)"), as in yacs.

    Raises MissingFile or ConfigError in one line.
    """
    merge_tree(cfg, yaml_tree(path), path)


def yaml_tree(path):
    """{key: value} of a yaml file; MissingFile or ConfigError in one line."""
    try:
        tree = yaml.safe_load(_text(path)) or {}
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid yaml ({' '.join(str(error).split())})") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold KEY: value pairs")
    return tree


def merge_tree(cfg, tree, source):
    """Merge nested dicts, values as in merge_from_file. `source` names errors."""
    leaves = dict(_leaves(tree))
    for key, value in leaves.items():
        set_key(cfg, key, value, source)
    if "INPUT.SET" in leaves:  # a run's whole configuration: it says itself which of its values were set
        set_key(cfg, "INPUT.SET", leaves["INPUT.SET"], source)


def _text(path):
    """The text of a configuration file."""
    if Path(path).is_dir():
        raise ConfigError(f"{path} is a folder; give the configuration file itself")
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise MissingFile(f"no configuration file {path}") from None
    except OSError as error:
        raise ConfigError(f"{path} can't be read ({error.strerror})") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        kind = " (it looks like UTF-16)" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise ConfigError(f"{path} is not UTF-8 text{kind}; save it as UTF-8") from None


def merge_from_list(cfg, opts, source="the command line"):
    """Merge [KEY, value, KEY, value, ...], values as in merge_from_file. `source` names errors."""
    if len(opts) % 2:
        raise ConfigError(f"{source}: options come in pairs KEY VALUE; {opts[-1]!r} has no value")
    for key, value in zip(opts[::2], opts[1::2]):
        set_key(cfg, key, value, source)


def set_key(cfg, key, value, source):
    """cfg.<key> = value, with the type of the default (literals in text, int -> float, list <-> tuple)."""
    node, *rest = cfg, *key.split(".")
    for part in rest[:-1]:
        node = node.get(part) if isinstance(node, CfgNode) else None
    if not isinstance(node, CfgNode) or rest[-1] not in node:
        near = difflib.get_close_matches(key, list(keys_of(cfg)), n=1, cutoff=0.5)
        hint = f" - did you mean {near[0]}?" if near else ""
        raise ConfigError(f"unknown configuration key {key} in {source}{hint}")
    node[rest[-1]] = _coerce(value, node[rest[-1]], key, source)
    if key in OF_BACKBONE and rest[-1] not in node.get("SET", (rest[-1],)):
        node.SET = (*node.SET, rest[-1])


def _coerce(value, default, key, source):
    literal = _literal(value)
    if not isinstance(default, str) or isinstance(literal, str):  # a name that looks like a number stays that name
        value = literal
    if isinstance(default, CfgNode):
        raise ConfigError(f"{key} in {source} is a group of keys, not a value")
    if isinstance(default, bool) or default is None or isinstance(value, type(default)):
        if isinstance(default, bool) and not isinstance(value, bool):
            raise ConfigError(f"{key} in {source} must be True or False, got {value!r}")
        if isinstance(value, bool) and isinstance(default, int) and not isinstance(default, bool):
            raise ConfigError(f"{key} in {source} must be a whole number, got {value!r}")
        return value
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, (list, tuple)) and isinstance(value, (list, tuple)):
        return type(default)(value)
    if isinstance(default, (list, tuple)) and isinstance(value, str):
        return type(default)(v.strip() for v in value.split(",") if v.strip())
    if isinstance(default, str) and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    kind = {int: "a whole number", float: "a number", str: "text", tuple: "a list", list: "a list"}[type(default)]
    raise ConfigError(f"{key} in {source} must be {kind}, got {value!r}")


def _leaves(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _literal(value):
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # what literal_eval may raise
        return value


__all__ = [
    "CfgNode", "clean_cfg", "get_cfg_default", "keys_of", "merge_from_file", "merge_from_list", "merge_tree", "set_key",
    "yaml_tree",
]
