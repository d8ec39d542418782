"""One run from flags: train (or only evaluate) one method on one data set with one seed. The flags are CoOp's."""

import argparse
import os
from dataclasses import replace
from pathlib import Path

from dassl.utils.errors import ConfigError
from dassl.utils.flags import Parser
from dassl.utils.io import sha256_file

DESCRIPTION = """Train (or only evaluate) one method on one data set with one seed.

    --trainer CILMP --dataset phantom --backbone demo --llm smollm2-135m --seed 1 \\
        --config-file configs/trainers/demo.yaml --output-dir output/try DATASET.NUM_SHOTS 16

The flags are CoOp's; KEY VALUE pairs at the end win over everything.
"""
FLAGS = {
    "root": "DATASET.ROOT",
    "output_dir": "OUTPUT_DIR",
    "resume": "RESUME",
    "seed": "SEED",
    "source_domains": "DATASET.SOURCE_DOMAINS",
    "target_domains": "DATASET.TARGET_DOMAINS",
    "transforms": "INPUT.TRANSFORMS",
    "dataset": "DATASET.NAME",
    "trainer": "TRAINER.NAME",
    "backbone": "MODEL.BACKBONE.NAME",
    "head": "MODEL.HEAD.NAME",
    "llm": "MODEL.LLM",
}


def add_arguments(p):
    p.add_argument("--spec", nargs="+", metavar="FILE", help="runs that `cilmp study` wrote down; no other flag counts")
    p.add_argument("--list", action="store_true", help="methods, data sets, backbones and LLMs, one line each")
    p.add_argument("--root", default=None, metavar="DIR", help="where data sets live (default: $DATA, else data/)")
    p.add_argument("--output-dir", default=None, metavar="DIR",
                   help="default: a folder by the settings under $OUTPUT, else output/")
    p.add_argument("--resume", default=None, metavar="DIR", help="folder to resume from")
    p.add_argument("--seed", type=int, default=None, metavar="N", help="negative: unseeded")
    p.add_argument("--source-domains", nargs="+", default=None, metavar="NAME", help="for readers of several domains")
    p.add_argument("--target-domains", nargs="+", default=None, metavar="NAME", help="likewise")
    p.add_argument("--transforms", nargs="+", default=None, metavar="NAME", help="what is done to training images")
    p.add_argument("--config-file", default=None, metavar="FILE", help="method configuration")
    p.add_argument("--dataset-config-file", default=None, metavar="FILE", help="data set configuration")
    p.add_argument("--dataset", default=None, metavar="NAME", help="data set name, instead of a configuration file")
    p.add_argument("--trainer", default=None, metavar="NAME", help="the method")
    p.add_argument("--backbone", default=None, metavar="NAME", help="a backbone of `cilmp list`")
    p.add_argument("--head", default=None, metavar="NAME", help="for plugins: no method here reads it")
    p.add_argument("--llm", default=None, metavar="NAME", help="language model whose representations are read")
    p.add_argument("--plugin", action="append", default=[], metavar="FILE",
                   help="FILE.py or module with your own trainer or reader")
    p.add_argument("--eval-only", action="store_true", help="test what --model-dir holds")
    p.add_argument("--model-dir", default="", metavar="DIR", help="run folder to load for --eval-only")
    p.add_argument("--load-epoch", type=int, default=None, metavar="N",
                   help="its checkpoint of this epoch (default: the last)")
    p.add_argument("--no-train", action="store_true", help="build everything, train and test nothing")
    p.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE ...")
    return p


def parser(prog=None):
    return add_arguments(Parser(prog, DESCRIPTION))


def spec_of(args):
    """The resolved RunSpec of the flags: defaults, nodes of methods and plugins, data set file, method file, flags,
    pairs."""
    from cilmp import backbones, trainers
    from cilmp.protocols import RunSpec
    from dassl.config import merge_from_file, merge_from_list, set_key
    from dassl.engine import TRAINER_REGISTRY

    from .reads import Reads
    from .settings import base_config, own_base

    cfg = base_config(args.plugin)
    if args.trainer:
        cfg = own_base(cfg, args.trainer)
    for path in (args.dataset_config_file, args.config_file):
        if path:
            merge_from_file(cfg, path)
    for flag, key in FLAGS.items():
        if (value := getattr(args, flag)) is not None:  # 0 is a seed like any other
            set_key(cfg, key, value, f"--{flag.replace('_', '-')}")
    merge_from_list(cfg, args.opts)
    root = cfg.DATASET.ROOT or os.environ.get("DATA", "")
    cfg.DATASET.ROOT = os.path.abspath(os.path.expanduser(root)) if root else ""
    for key, value in (("--trainer", cfg.TRAINER.NAME), ("--dataset", cfg.DATASET.NAME)):
        if not value:
            raise ConfigError(f"give {key} (see cilmp list)")
    if own_base(cfg, cfg.TRAINER.NAME).RUN.get("CHECKOUT") != cfg.RUN.get("CHECKOUT"):
        raise ConfigError(f"{cfg.TRAINER.NAME} is of a checkout, with keys of its own: name it with --trainer")
    cfg.freeze()
    part = "test" if args.eval_only else "train"
    reads = Reads()
    if issubclass(TRAINER_REGISTRY.get(cfg.TRAINER.NAME), trainers.PromptTrainer):
        reads.data(cfg.DATASET.NAME, cfg)  # said before weights are fetched, which must be here to be hashed
        backbones.fetch(cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.WEIGHTS or None)
    spec = RunSpec(cfg, "single", part, "flags", plugins=tuple(args.plugin)).resolved(reads)
    results = Path(args.model_dir, "results.json")
    if args.model_dir and results.is_file():  # another training of the same settings is another test
        spec = replace(spec, reads={**spec.reads, "source": sha256_file(results)})
    return spec


def folder_of(spec, args):
    """What --output-dir says, or a folder by the settings, so that a changed one never quarrels with an old run."""
    from dassl.utils.paths import output_root

    named = args.output_dir is not None or "OUTPUT_DIR" in args.opts
    return os.path.abspath(spec.config.OUTPUT_DIR) if named else spec.folder(output_root())


def run_specs(paths):
    """Run the specs in files, one after another, unless they are finished; returns the exit code: 1 where one failed,
    75 (sysexits.h: try again) where another process is at one."""
    from dassl.utils.paths import output_root

    from .launch import outcome
    from .reads import Reads
    from .spec_file import read_spec

    reads, codes = Reads(), {"done": 0, "failed": 1, "busy": 75}
    for path in paths:
        spec = read_spec(path, reads)
        found = outcome(spec, output_root())
        print(f"{spec}: {'failed - ' if found.state == 'failed' else ''}"
              f"{found.words or 'another process is at it, or its training is not done'}", flush=True)  # fmt: skip
        if codes[found.state]:  # the tests of a training that failed are pointless
            return codes[found.state]
    return 0


def main(argv=None):
    """Run what the words say (default: those of the call); returns the exit code."""
    args = parser("cilmp train" if argv is not None else None).parse_args(argv)
    if args.list:
        from .listing import listing

        print(listing(args.plugin, args.root or ""))
        return 0
    if args.spec:
        return run_specs(args.spec)
    from .run import claimed, run

    spec = spec_of(args)
    folder = folder_of(spec, args)
    what = "test" if args.eval_only else "nothing" if args.no_train else "train"
    with claimed(folder):
        run(spec, folder, what, args.model_dir, args.load_epoch)
    print(f"Written: {folder}")
    return 0
