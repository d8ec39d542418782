"""The words run, compare, sweep, report and list of the command: flags in, the same variables as the scripts out."""

import argparse
import os
from pathlib import Path

from dassl.utils.errors import ConfigError
from dassl.utils.flags import Parser

FLAGS = {  # variable: (flag's metavar, help); the flag wins over the variable
    "DATA": ("DIR", "folder of data sets"),
    "OUTPUT": ("DIR", "where results go"),
    "SHOTS": ("'K ...'", "labelled images a class, e.g. '1 4 16'"),
    "BACKBONE": ("NAME", "ViT-B/16, BiomedCLIP, any open_clip model::tag, a checkpoint file ..."),
    "WEIGHTS": ("FILE", "a checkpoint for the backbone"),
    "LLM": ("NAME", "hub id, folder, GGUF file, smollm2-135m"),
    "EPOCHS": ("N", "length of training"),
    "CFG": ("NAME", "a file of configs/trainers/<Method>/, or a path ending in .yaml"),
    "HPARAMS": ("KIND", "official or matched (CoOp's number of steps for all)"),
    "TARGETS": ("'SET ...'", "data sets to test on, for protocols that need them"),
    "THREADS": ("N", "CPU threads of each run"),
    "PLUGIN": ("FILE", "FILE.py or module with your own trainer or reader; a CoOp-like checkout, or a file of it"),
    "OPTS": ("'KEY VALUE ...'", "any keys of the configuration"),
}


def parser_of(word, about):
    """The parser of a word of `cilmp`."""
    return Parser(f"cilmp {word}", about)


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
    p = parser_of("run", f"{about}\n\n{listing}")
    p.add_argument("protocol", metavar="PROTOCOL", help="one of those above")
    p.add_argument("method", metavar="METHOD[,METHOD ...]", help="CILMP, CoOp ... (any case), or all; one alone meets "
                   "zero-shot (CILMP: CoOp too) in its table")  # fmt: skip
    p.add_argument("dataset", nargs="?", default="", metavar="DATASET", help="its name (default: the demo)")
    p.add_argument("seeds", nargs="*", default=[], metavar="SEED", help="whole numbers (default: 1 2 3)")
    _add_flags(p)
    args = p.parse_args(argv)
    _set(args)
    return _run(args.protocol, args.method, args.dataset, args.seeds)


def compare(argv):
    """cilmp compare [DATASET] [SEED ...]: every method, base2new unless --protocol says otherwise."""
    p = parser_of("compare", "Every method on one data set, one table. No data set: the demo; no seeds: 1 2 3.")
    p.add_argument("dataset", nargs="?", default="", metavar="DATASET", help="its name (default: the demo)")
    p.add_argument("seeds", nargs="*", default=[], metavar="SEED", help="whole numbers (default: 1 2 3)")
    p.add_argument("--protocol", default="base2new", metavar="NAME", help="one of `cilmp list`")
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
    p = parser_of("sweep", "A grid of settings, each a row of one table; finished runs are not repeated.\n\n"
                  "    cilmp sweep --method CILMP --seeds 1,2 TRAINER.CILMP.LOW_RANK_DIMENSION=4,8,16 "
                  "OPTIM.LR=0.0025,0.01")  # fmt: skip
    p.add_argument("--protocol", default="few_shot", metavar="NAME", help="one of `cilmp list`")
    p.add_argument("--method", default="CILMP", metavar="NAME", help="one, any case")
    p.add_argument("--dataset", default="", metavar="NAME", help="default: the demo")
    p.add_argument("--seeds", default="", metavar="N,N ...", help="default: 1,2,3")
    p.add_argument("--select", default="test", choices=("val", "test"),
                   help="val: choose on val, then test the chosen setting once; test: show all on test, for exploring")
    p.add_argument("grid", nargs="*", default=[], metavar="KEY=VALUE[,VALUE ...]",
                   help="keys of the configuration, with the values to try")
    _add_flags(p)
    args = p.parse_args(argv)
    _set(args)
    from dassl.utils.paths import output_root

    from .sweep import main

    seeds = args.seeds.replace(",", " ").split()
    method = _spelled(args.method, os.environ.get("PLUGIN", ""))
    return main(output_root(), method, args.dataset, seeds, args.grid, args.protocol, args.select)


def study(argv):
    """cilmp study [FILE] [--methods ...]"""
    from .slurm import FLAGS
    from .study import LISTS, presets

    p = parser_of("study", "Methods x data sets x protocols x shots x seeds: the plan with what is done, then what is "
                  "missing,\nthen the tables. The same command goes on where it was.\n\n"
                  "    cilmp study --methods ZeroshotCLIP CoOp CILMP --datasets BUSI CHMNIST --shots 1 4 16 "
                  "--seeds 1-5\n"
                  "    cilmp study my_study.yaml --workers 2        the same words as keys of a yaml file")  # fmt: skip
    p.add_argument("file", nargs="?", default="", metavar="FILE", help="a study.yaml; flags go before what it says")
    for name in LISTS:
        p.add_argument(f"--{name}", nargs="+", metavar="WORD", help=AXES[name])
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE[,VALUE ...]",
                   help="a further axis: any key of the configuration; may be repeated")
    p.add_argument("--preset", default="", metavar="NAME",
                   help=f"a study that comes with the toolbox: {', '.join(presets())}")
    p.add_argument("--select", choices=("val", "test"), help="val: a method's best setting on val, tested once")
    p.add_argument("--workers", type=int, help="runs at a time (default 1)")
    p.add_argument("--dry-run", action="store_true", help="show the plan and what is not ready, run nothing")
    p.add_argument("--worker", metavar="OUTPUT", help=argparse.SUPPRESS)
    p.add_argument("--launcher", choices=("local", "slurm"), help="slurm: an array job, a task a training")
    p.add_argument("--print", action="store_true", help="slurm: write and show the script, submit nothing")
    group = p.add_argument_group("slurm")
    for name, (option, metavar, about) in FLAGS.items():
        as_option = f" (sbatch --{option})" if option else ""
        group.add_argument(f"--{name}", metavar=metavar, help=about + as_option)
    _add_flags(p, without=("SHOTS", "BACKBONE", "LLM", "TARGETS"))
    args = p.parse_args(argv)
    if args.worker:
        from .workers import serve

        return serve(args.worker)
    _set(args)
    from dassl.utils.paths import output_root

    from . import study as studies

    asked = _study(args, studies)
    if not args.dry_run:
        studies.save(asked, output_root())
    if args.print and asked.launcher != "slurm":
        raise ConfigError("--print shows the script of --launcher slurm; --dry-run shows the plan")
    return studies.run_study(asked, output_root(), args.dry_run, args.print)


AXES = {
    "methods": "names, any case; default: all", "datasets": "default: the demo", "protocols": "default: few_shot",
    "shots": "labelled images a class; default: the protocol's", "seeds": "1 2 3, or 1-5; default: 1 2 3",
    "backbones": "default: ViT-B/16, of the demo: demo", "llms": "for methods that read one",
    "targets": "data sets to test on, for protocols that need them",
}  # fmt: skip


def _study(args, studies):
    """The Study of the flags; where they say nothing, of the file, then of the environment."""
    from dassl.config import yaml_tree

    from .slurm import FLAGS
    from .sweep import axes

    if args.file and args.preset:
        raise ConfigError(f"{args.file} and --preset {args.preset}: give one of the two")
    path = studies.preset_file(args.preset) if args.preset else args.file
    tree = yaml_tree(path) if path else {}
    grid = [{**some, **axes(args.set)} for some in studies.grids(tree.get("set"))] if args.set else tree.get("set")
    flags = {key: getattr(args, key) for key in (*studies.LISTS, "select", "workers", "launcher")}
    slurm = {k: v for k in FLAGS if (v := getattr(args, k.replace("-", "_")))}
    said = {v.lower(): os.environ[v] for v in studies.VARIABLES if os.environ.get(v)}
    read = dict(tree)
    tree |= {**said, **{k: v for k, v in flags.items() if v is not None}, **({"set": grid} if grid else {})}
    asked = studies.study_of(tree, path or "the command line", Path(path).stem if path else "")
    asked.slurm |= slurm
    plugins = asked.variables.get("PLUGIN", "")
    asked.methods = [m if m == "all" else _spelled(m, plugins) for m in asked.methods]
    studies.check_leave_out(asked.leave_out, read, path)
    asked.protocols = asked.protocols or ["few_shot"]
    asked.name = asked.name or studies.name_of(asked)
    return asked


def report(argv):
    """cilmp report [OUTPUT|ARCHIVE ...]"""
    p = parser_of("report", "All tables and pictures of output folders and archives, from the results in them.")
    p.add_argument("sources", nargs="*", default=[], metavar="OUTPUT|ARCHIVE", help="default: $OUTPUT, else output/")
    p.add_argument("--to", default="", metavar="DIR", help="default: report/ in the first folder, beside an archive")
    p.add_argument("--metrics", nargs="+", default=[], metavar="METRIC", help="what tables show, by its name in "
                   "results.json (balanced_accuracy, auroc, ece ...); default: each protocol's own")  # fmt: skip
    p.add_argument("--formats", nargs="+", default=[], metavar="FORMAT", help="of tables: md tex csv json (all by "
                   "default), terminal (alone: no pictures are drawn)")  # fmt: skip
    args = p.parse_args(argv)
    from .report import main

    return main(args.sources, args.to, args.metrics, args.formats)


def archive(argv):
    """cilmp archive OUTPUT FILE"""
    p = parser_of("archive", "Specs, results, predictions and few-shot lists of an output folder as one zip file,\n"
                  "which `cilmp report` reads. No images, no weights.")  # fmt: skip
    p.add_argument("output", metavar="OUTPUT", help="folder of results")
    p.add_argument("file", metavar="FILE", help="the archive to write, e.g. results.zip")
    args = p.parse_args(argv)
    from .archive import pack

    print(f"{pack(args.output, args.file)} runs. Written: {Path(args.file).absolute()}")
    return 0


def listing(argv):
    """cilmp list"""
    p = parser_of("list", "Methods, protocols, data sets, backbones and language models, one line each.")
    p.add_argument("--plugin", action="append", default=[], metavar="FILE", help="your own methods and readers, too")
    p.add_argument("--data", default="", metavar="DIR", help="folder of data sets: those in it, too")
    args = p.parse_args(argv)
    from .listing import listing as everything

    print(everything(args.plugin, args.data))
    return 0
