"""A RunSpec as a file: what a worker, or a node of a cluster, is told to run. JSON, never a pickle."""

import yaml

from dassl.utils.errors import UserError
from dassl.utils.io import read_json_object, write_json

FIELDS = ("protocol", "part", "file", "label", "reads")


def write_spec(spec, path):
    """Write a resolved RunSpec, its source in it."""
    write_json(_plain(spec), path)


def read_spec(path, reads_of=None):
    """The RunSpec in a file; plugins that it names are loaded.

    Args:
        reads_of: hashes what the run reads on this machine now (`reads.Reads()`); None: taken as written.

    Raises:
        UserError: no such file, settings of another version of the toolbox, or what the run reads has changed since.
    """
    content = read_json_object(path)
    try:
        spec = _spec(content, path, reads_of)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not the file of a run ({type(error).__name__}: {error})") from None
    if spec.key != content["key"]:
        raise UserError(
            f"{path} was written by another version of the toolbox (its settings mean another run here); make it "
            f"again with the command that wrote it"
        )
    return spec


def _plain(spec):
    config = yaml.safe_load(spec.config.dump())
    if not spec.config.RUN.get("CHECKOUT"):  # methods that this process knows need not be known where it is read
        own = ("NAME", spec.method.upper())
        config["TRAINER"] = {key: value for key, value in config["TRAINER"].items() if key in own}
    source = _plain(spec.source) if spec.source else None
    facts = {name: getattr(spec, name) for name in FIELDS}
    return {**facts, "key": spec.key, "plugins": list(spec.plugins), "source": source, "config": config}


def _spec(content, path, reads_of):
    from cilmp.protocols import RunSpec
    from dassl.config import merge_tree

    from .settings import base_config, own_base

    plugins = tuple(content["plugins"])
    config = own_base(base_config(plugins), content["config"]["TRAINER"]["NAME"])
    merge_tree(config, content["config"], path)
    config.freeze()
    source = _spec(content["source"], path, reads_of) if content["source"] else None
    spec = RunSpec(config, source=source, plugins=plugins, **{name: content[name] for name in FIELDS})
    if reads_of is not None:
        now = reads_of(config)
        if now != spec.reads:
            from .reads import differing

            words = ", ".join(differing(spec.reads, now))
            raise UserError(f"{spec}: the {words} has changed since {path} was written; make it again with the command "
                            f"that wrote it")  # fmt: skip
    return spec
