# ruff: noqa: F401
"""The entry script of the mimic: it names what there is and adds the keys."""

import datasets.busi
import datasets.shapes
import trainers.breaks

import trainers.coop


def extend_cfg(cfg):
    from yacs.config import CfgNode

    cfg.TRAINER.COOP = CfgNode()
    cfg.TRAINER.COOP.SCALE = 1.0
    cfg.TRAINER.COOP.PREC = "fp16"
    cfg.LOSS = CfgNode()
    cfg.LOSS.T = 1.0


if __name__ == "__main__":
    raise SystemExit("imported, not run")
