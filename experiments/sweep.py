"""A grid of settings of one method, each a row of one table: a study of one method, data set and protocol."""

import os

from dassl.utils.errors import ConfigError
from dassl.utils.io import sha256_of

from .settings import words
from .study import VARIABLES, Study, run_study


def axes(grid):
    """{key: values} of KEY=VALUE[,VALUE ...] words."""
    found = {}
    for word in grid:
        key, equals, values = word.partition("=")
        if not equals or not key or not values:
            raise ConfigError(f"{word!r}: write KEY=VALUE[,VALUE ...], e.g. OPTIM.LR=0.0025,0.01")
        found[key] = _values(values)
    return found


def _values(text):
    """The values between commas; commas inside brackets stay."""
    found, depth = [""], 0
    for c in text:
        depth += (c in "([{") - (c in ")]}")
        if c == "," and depth == 0:
            found.append("")
        else:
            found[-1] += c
    return found


def main(output, method="CILMP", dataset="", seeds=(), grid=(), protocol="few_shot", select="test", environ=None):
    """Run the grid; with select="val" the best setting on val is then tested, once. Returns the exit code."""
    env = dict(os.environ if environ is None else environ)
    listed = {key: words(env.get(name, "")) for key, name in (("shots", "SHOTS"), ("targets", "TARGETS"))}
    single = {key: [env[name]] for key, name in (("backbones", "BACKBONE"), ("llms", "LLM")) if env.get(name)}
    study = Study(
        f"sweep-{sha256_of([method, protocol, list(grid), select])[:8]}", [method], [dataset] if dataset else [],
        [protocol], seeds=list(seeds), grid=axes(grid), select=select, labelled=True, **listed, **single,
        variables={v: env[v] for v in VARIABLES if env.get(v)},
    )  # fmt: skip
    return run_study(study, output)
