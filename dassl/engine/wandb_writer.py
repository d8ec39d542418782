"""Weights & Biases beside TensorBoard: the same scalars, and the settings; no images, folders or checkpoints. wandb
itself adds host, command and packages."""

from pathlib import Path

from dassl.utils.errors import UserError
from dassl.utils.io import sha256_of

from .run_folder import settings


class WandB:
    """What TensorBoard's writer is asked for, sent to the project TRAIN.WANDB. WANDB_MODE=offline writes to the run's
    folder alone; a resumed run goes on in its own curve.

    Raises:
        UserError: wandb is not installed, or refuses (no key, no network).
    """

    def __init__(self, cfg):
        project, folder = cfg.TRAIN.WANDB, Path(cfg.OUTPUT_DIR).absolute()
        try:
            import wandb
        except ImportError:
            raise UserError(f"TRAIN.WANDB {project}: wandb is not installed; pip install 'cilmp[wandb]', or leave the "
                            f"key out") from None  # fmt: skip
        name = " ".join([cfg.TRAINER.NAME, cfg.DATASET.NAME, f"shots {cfg.DATASET.NUM_SHOTS}", f"seed {cfg.SEED}"])
        try:
            self.run = wandb.init(project=project, dir=str(folder), config=settings(cfg), name=name,
                                  id=sha256_of(str(folder))[:16], resume="allow")  # fmt: skip
        except Exception as error:  # its own kinds, which differ between versions
            raise UserError(f"TRAIN.WANDB {project}: wandb says: {' '.join(str(error).split())}; WANDB_MODE=offline "
                            f"needs neither key nor network") from None  # fmt: skip

    def add_scalar(self, tag, value, step=None):
        """Curves of training and of test count different steps: each has an axis of its own, as one must only grow."""
        kind = tag.split("/")[0]
        self.run.define_metric(f"{kind}/*", step_metric=f"{kind}/step")
        self.run.log({tag: value, f"{kind}/step": step})

    def close(self):
        self.run.finish()
