"""What there is: methods, protocols, data sets, backbones, LLMs."""


def listing(plugins=(), root=""):
    """Five tables as text."""
    from tabulate import tabulate

    from cilmp import backbones, datasets, knowledge
    from cilmp.protocols import PROTOCOLS
    from dassl.data.datasets import DATASET_REGISTRY
    from dassl.engine import TRAINER_REGISTRY

    from .settings import base_config

    base_config(plugins)
    methods = [(n, first_line(TRAINER_REGISTRY.get(n))) for n in sorted(TRAINER_REGISTRY.registered_names())]
    sets = datasets.known(root)
    own = sorted(set(DATASET_REGISTRY.registered_names()) - {name for name, _ in sets})
    tables = [
        ("Methods", methods),
        ("Protocols", [(name, p.summary) for name, p in PROTOCOLS.items()]),
        ("Data sets", sets + [(n, first_line(DATASET_REGISTRY.get(n))) for n in own]),
        ("Backbones", backbones.known()),
        ("Language models", knowledge.known()),
    ]
    return "\n\n".join(f"{title}\n{tabulate(rows, tablefmt='plain')}" for title, rows in tables)


def first_line(thing):
    return (thing.__doc__ or "").strip().split("\n")[0]
