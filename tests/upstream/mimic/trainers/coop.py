import os

import open_clip
from clip import clip
from datasets.shapes import NAMES
from torch.nn import functional as F

from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.optim import build_lr_scheduler, build_optimizer
from trainers.parts import Scaled


@TRAINER_REGISTRY.register()
class CoOp(TrainerX):
    """The mimic's own CoOp."""

    def check_cfg(self, cfg):
        assert cfg.TRAINER.COOP.PREC in ("fp16", "fp32") and cfg.LOSS.T == 1.0
        assert open_clip.OWNER == clip.OWNER and os.path.isfile("train.py")

    def build_model(self):
        cfg, names = self.cfg, self.dm.dataset.classnames
        assert set(names) <= set(NAMES) or cfg.DATASET.NAME == "phantom"
        rows = clip.load(cfg.MODEL.BACKBONE.NAME)[: len(names), :1].expand(-1, 48)
        self.model = Scaled(rows, cfg.TRAINER.COOP.SCALE).to(self.device)
        self.optim = build_optimizer(self.model, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model("prompt_learner", self.model, self.optim, self.sched)
        print(f"trained with the clip of {clip.OWNER}, on {cfg.DATASET.NAME} as {cfg.TRAINER.NAME}")

    def forward_backward(self, batch):
        loss = F.cross_entropy(self.model(batch["img"].to(self.device)), batch["label"].to(self.device))
        self.model_backward_and_update(loss)
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        return {"loss": loss.item()}
