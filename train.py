#!/usr/bin/env python
"""One run: train (or only evaluate) one method on one data set with one seed.

    python train.py --trainer CILMP --dataset phantom --backbone demo --llm smollm2-135m --seed 1 \\
        --config-file configs/trainers/demo.yaml --output-dir output/try DATASET.NUM_SHOTS 16
    python train.py --list

The flags are CoOp's; KEY VALUE pairs at the end win over everything. For whole protocols see scripts/<method>/.
"""

import argparse

from dassl.utils.errors import run_main


def parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--list", action="store_true", help="methods, data sets, backbones and LLMs, one line each")
    p.add_argument("--root", default=None, help="where data sets live (default: $DATA, else data/)")
    p.add_argument("--output-dir", default=None, help="default: a folder by the settings under $OUTPUT, else output/")
    p.add_argument("--resume", default=None, help="folder to resume from")
    p.add_argument("--seed", type=int, default=None, help="negative: unseeded")
    p.add_argument("--source-domains", nargs="+", default=None)
    p.add_argument("--target-domains", nargs="+", default=None)
    p.add_argument("--transforms", nargs="+", default=None)
    p.add_argument("--config-file", default=None, help="method configuration")
    p.add_argument("--dataset-config-file", default=None)
    p.add_argument("--dataset", default=None, help="data set name, instead of a configuration file")
    p.add_argument("--trainer", default=None)
    p.add_argument("--backbone", default=None)
    p.add_argument("--head", default=None)
    p.add_argument("--llm", default=None, help="language model whose representations are read")
    p.add_argument("--plugin", action="append", default=[], help="FILE.py or module with your own trainer or reader")
    p.add_argument("--eval-only", action="store_true")
    p.add_argument("--model-dir", default="", help="run folder to load for --eval-only")
    p.add_argument("--load-epoch", type=int, default=None)
    p.add_argument("--no-train", action="store_true", help="build everything, train and test nothing")
    p.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE ...")
    return p


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


def setup_cfg(args):
    """The frozen configuration: defaults, nodes of methods and plugins, data set file, method file, flags, pairs."""
    import os

    from dassl.config import merge_from_file, merge_from_list, set_key
    from scripts.lib.settings import base_config

    cfg = base_config(args.plugin)
    for path in (args.dataset_config_file, args.config_file):
        if path:
            merge_from_file(cfg, path)
    for flag, key in FLAGS.items():
        if (value := getattr(args, flag)) is not None:  # 0 is a seed like any other
            set_key(cfg, key, value, f"--{flag.replace('_', '-')}")
    merge_from_list(cfg, args.opts)
    root = cfg.DATASET.ROOT or os.environ.get("DATA", "")
    cfg.DATASET.ROOT = os.path.abspath(os.path.expanduser(root)) if root else ""
    if args.output_dir is None and "OUTPUT_DIR" not in args.opts:
        cfg.OUTPUT_DIR = str(own_folder(cfg))
    cfg.freeze()
    return cfg


def own_folder(cfg):
    """A folder by the settings, so that a changed setting is a new run and never a quarrel with an old one."""
    from dassl.engine import config_hash
    from dassl.utils.paths import output_root, slug

    place = output_root() / "single" / (slug(cfg.DATASET.NAME) or "-") / (cfg.TRAINER.NAME or "-")
    return place / (slug(cfg.MODEL.BACKBONE.NAME) or "-") / config_hash(cfg)[:8] / f"seed{cfg.SEED}"


def main(argv=None):
    args = parser().parse_args(argv)
    if args.list:
        from scripts.lib.listing import listing

        print(listing(args.plugin, args.root or ""))
        return 0
    cfg = setup_cfg(args)
    from dassl.utils.errors import ConfigError
    from scripts.lib.run import run

    for key, value in (("--trainer", cfg.TRAINER.NAME), ("--dataset", cfg.DATASET.NAME)):
        if not value:
            raise ConfigError(f"give {key} (see python train.py --list)")
    what = "test" if args.eval_only else "nothing" if args.no_train else "train"
    run(cfg, what, model_dir=args.model_dir, epoch=args.load_epoch)
    print(f"Written: {cfg.OUTPUT_DIR}")
    return 0


if __name__ == "__main__":
    run_main(main, resume_hint="The same command goes on from the last checkpoint.")
