"""In which settings a finished run differs from what its method, protocol and file of hyper-parameters say today."""

import json
from functools import cache

from dassl.utils.errors import UserError

from .collect import trained_by
from .settings import OWNED, Request, base_config, own_base

USUAL = ("demo", "vit_b16", "default")  # files of hyper-parameters that no flag chose, but for a protocol's own


def own_file(record):
    """The file of hyper-parameters that somebody chose (CFG); "" for a method's own."""
    from cilmp.protocols import PROTOCOLS

    file, protocol = record["spec"]["file"], PROTOCOLS[record["spec"]["protocol"]]
    return "" if file in (*USUAL, protocol.name, protocol.files) else file


def changed(record):
    """{key: value} of a training's own settings, as OPTS takes them; None where that can't be known: a method, file or
    result of elsewhere or before."""
    try:
        usual = _usual(record)
    except (UserError, KeyError, TypeError, ValueError):
        return None
    taken = {key for key, owner in OWNED.items() if owner != "EPOCHS"}  # said by other words of the command
    settings = record["spec"]["settings"]
    return {k: v for k, v in settings.items() if k in usual and k not in taken and v != usual[k]}


def _usual(record):
    spec, first = record["spec"], trained_by(record)
    env = {"BACKBONE": spec["backbone"], "WEIGHTS": spec.get("weights") or "", "LLM": spec.get("llm") or "",
           "CFG": own_file(record), "SHOTS": str(first["shots"]) if first["shots"] > 0 else "",
           "TARGETS": first["dataset"], "HPARAMS": _hparams(spec)}  # fmt: skip
    request = Request(spec["protocol"], spec["method"], first["dataset"], [spec["seed"]], env)
    bare = request.spec(own_base(_base(), spec["method"]), spec["method"], first["shots"], spec["seed"])
    return json.loads(json.dumps(request.protocol.runs(bare, ())[0].settings))


def _hparams(spec):
    return spec["hparams"] if spec["hparams"] in ("official", "matched") else ""


@cache
def _base():
    return base_config()


def written(value):
    """A value as the command's words write it: double quotes, which a shell's single ones keep."""
    return str(value).replace("'", '"') if isinstance(value, list) else str(value)
