"""What there is: methods, protocols, data sets, backbones, LLMs."""


def listing(plugins=(), root=""):
    """Five tables as text."""
    from tabulate import tabulate

    from cilmp import backbones, datasets, knowledge, trainers
    from cilmp.protocols import PROTOCOLS

    from .settings import base_config

    base_config(plugins)
    methods = [(n, first_line(t)) for n, t in sorted(trainers.methods().items())]
    tables = [
        ("Methods (--trainer)", methods),
        ("Protocols", [(name, p.summary) for name, p in PROTOCOLS.items()]),
        ("Data sets (--dataset)", datasets.known(root)),
        ("Backbones (--backbone)", backbones.known()),
        ("Language models (--llm)", knowledge.known()),
    ]
    return "\n\n".join(f"{title}\n{tabulate(rows, tablefmt='plain')}" for title, rows in tables)


def first_line(thing):
    return (thing.__doc__ or "").strip().split("\n")[0]
