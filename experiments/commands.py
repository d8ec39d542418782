"""The words run, compare, sweep, report and list of the command: flags in, the same variables as the scripts out."""

import argparse
import os

FLAGS = {  # variable: (flag's metavar, help); the flag wins over the variable
    "DATA": ("DIR", "folder of data sets"),
    "OUTPUT": ("DIR", "where results go"),
    "SHOTS": ("'K ...'", "labelled images a class, e.g. '1 4 16'"),
    "BACKBONE": ("NAME", "ViT-B/16, BiomedCLIP, any open_clip model::tag, a checkpoint file ..."),
    "WEIGHTS": ("FILE", "a checkpoint for the backbone"),
    "LLM": ("NAME", "hub id, folder, GGUF file, smollm2-135m"),
    "EPOCHS": ("N", "length of training"),
    "CFG": ("NAME", "a file of configs/trainers/<Method>/, or a path ending in .yaml"),
    "HPARAMS": ("KIND", "official or common"),
    "TARGETS": ("'SET ...'", "data sets to test on, for protocols that need them"),
    "THREADS": ("N", "CPU threads of each run"),
    "PLUGIN": ("FILE", "FILE.py or module with your own trainer or reader; a CoOp-like checkout, or a file of it"),
    "OPTS": ("'KEY VALUE ...'", "any keys of the configuration"),
}


def _parser(word, about):
    form = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(prog=f"cilmp {word}", description=about, formatter_class=form)


def _add_flags(p, without=()):
    group = p.add_argument_group("settings (each is also a variable of the environment; the flag wins)")
    for variable, (metavar, about) in FLAGS.items():
        if variable not in without:
            group.add_argument(f"--{variable.lower()}", metavar=metavar, dest=variable, help=f"{variable}: {about}")
    group.add_argument("--force", action="store_const", const="1", dest="FORCE", help="FORCE: repeat finished runs")


def _set(args):
    """What the flags say becomes what the environment says, for this process and its children."""
    os.environ.update({k: v for k, v in vars(args).items() if k.isupper() and v is not None})


def _spelled(method, plugins=""):
    """A method's own spelling, whatever the case it was typed in."""
    from dassl.engine import TRAINER_REGISTRY

    from .settings import base_config, paths

    base_config(paths(plugins))
    same = [n for n in TRAINER_REGISTRY.registered_names() if n.lower() == method.lower()]
    return same[0] if len(same) == 1 else method


def run(argv):
    """cilmp run PROTOCOL METHOD[,METHOD ...] [DATASET] [SEED ...]"""
    from cilmp.protocols import PROTOCOLS

    listing = "\n".join(f"    {name:<14} {p.summary}" for name, p in PROTOCOLS.items())
    about = "All runs of a protocol, then their table. No data set: the demo; no seeds: 1 2 3."
    p = _parser("run", f"{about}\n\n{listing}")
    p.add_argument("protocol", metavar="PROTOCOL")
    p.add_argument("method", metavar="METHOD[,METHOD ...]", help="CILMP, CoOp ... (any case), or all; one alone meets "
                   "zero-shot (CILMP: CoOp too) in its table")  # fmt: skip
    p.add_argument("dataset", nargs="?", default="", metavar="DATASET")
    p.add_argument("seeds", nargs="*", metavar="SEED")
    _add_flags(p)
    args = p.parse_args(argv)
    _set(args)
    return _run(args.protocol, args.method, args.dataset, args.seeds)


def compare(argv):
    """cilmp compare [DATASET] [SEED ...]: every method, base2new unless --protocol says otherwise."""
    p = _parser("compare", "Every method on one data set, one table. No data set: the demo; no seeds: 1 2 3.")
    p.add_argument("dataset", nargs="?", default="", metavar="DATASET")
    p.add_argument("seeds", nargs="*", metavar="SEED")
    p.add_argument("--protocol", default="base2new")
    _add_flags(p)
    args = p.parse_args(argv)
    _set(args)
    return _run(args.protocol, "all", args.dataset, args.seeds)


def _run(protocol, method, dataset, seeds):
    from .driver import run_protocol
    from .settings import Request

    methods = [m if m == "all" else _spelled(m, os.environ.get("PLUGIN", "")) for m in method.split(",") if m]
    request = Request(protocol, methods[0] if methods else "", dataset, seeds)
    if len(methods) > 1:
        request.methods = list(dict.fromkeys(methods))
    return 1 if run_protocol(request, "compare" if method == "all" else "table") else 0


def sweep(argv):
    """cilmp sweep KEY=VALUE[,VALUE ...] ..."""
    p = _parser("sweep", "A grid of settings, each a row of one table; finished runs are not repeated.\n\n"
                "    cilmp sweep --method CILMP --seeds 1,2 TRAINER.CILMP.LOW_RANK_DIMENSION=4,8,16 "
                "OPTIM.LR=0.0025,0.01")  # fmt: skip
    p.add_argument("--protocol", default="few_shot")
    p.add_argument("--method", default="CILMP")
    p.add_argument("--dataset", default="")
    p.add_argument("--seeds", default="", help="e.g. 1,2,3")
    p.add_argument("--select", default="test", choices=("val", "test"),
                   help="val: choose on val, then test the chosen setting once; test: show all on test, for exploring")
    p.add_argument("grid", nargs="*", metavar="KEY=VALUE[,VALUE ...]")
    _add_flags(p)
    args = p.parse_args(argv)
    _set(args)
    from dassl.utils.paths import output_root

    from .sweep import main

    seeds = args.seeds.replace(",", " ").split()
    method = _spelled(args.method, os.environ.get("PLUGIN", ""))
    return main(output_root(), method, args.dataset, seeds, args.grid, args.protocol, args.select)


def report(argv):
    """cilmp report [OUTPUT]"""
    p = _parser("report", "All tables and pictures of an output folder, from its results, into OUTPUT/report/.")
    p.add_argument("output", nargs="?", default=None, help="default: $OUTPUT, else output/")
    args = p.parse_args(argv)
    from .report import main

    return main(args.output)


def listing(argv):
    """cilmp list"""
    p = _parser("list", "Methods, protocols, data sets, backbones and language models, one line each.")
    p.add_argument("--plugin", action="append", default=[])
    p.add_argument("--data", default="", help="folder of data sets")
    args = p.parse_args(argv)
    from .listing import listing as everything

    print(everything(args.plugin, args.data))
    return 0
