"""A trainer and a reader as plugins of the CoOp family write them: against upstream's public API only."""

import os.path as osp
from collections import OrderedDict

import torch
import torch.nn as nn
from torch.nn import functional as F

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import load_checkpoint, load_pretrained_weights, mkdir_if_missing, read_json


@DATASET_REGISTRY.register()
class PluginPets(DatasetBase):
    """Reads a split JSON with paths relative to an image folder."""

    dataset_dir = "pets"

    def __init__(self, cfg):
        root = osp.abspath(osp.expanduser(cfg.DATASET.ROOT))
        self.dataset_dir = osp.join(root, self.dataset_dir)
        self.image_dir = osp.join(self.dataset_dir, "images")
        mkdir_if_missing(osp.join(self.dataset_dir, "split_fewshot"))
        train, val, test = self.read_split(osp.join(self.dataset_dir, "split.json"), self.image_dir)
        train = self.generate_fewshot_dataset(train, num_shots=cfg.DATASET.NUM_SHOTS)
        super().__init__(train_x=train, val=val, test=test)

    @staticmethod
    def read_split(filepath, path_prefix):
        def convert(items):
            return [Datum(impath=osp.join(path_prefix, p), label=int(y), classname=c) for p, y, c in items]

        split = read_json(filepath)
        return convert(split["train"]), convert(split["val"]), convert(split["test"])


class PromptLearner(nn.Module):
    def __init__(self, n_cls, width):
        super().__init__()
        self.ctx = nn.Parameter(torch.empty(n_cls, width).normal_(std=0.02))
        self.register_buffer("token_prefix", torch.zeros(n_cls, 1))

    def forward(self):
        return self.ctx


class CustomCLIP(nn.Module):
    def __init__(self, classnames):
        super().__init__()
        self.image_encoder = nn.Linear(3 * 16 * 16, 24)
        self.prompt_learner = PromptLearner(len(classnames), 24)

    def forward(self, image):
        features = F.normalize(self.image_encoder(image.flatten(1)), dim=-1)
        return 10 * features @ F.normalize(self.prompt_learner(), dim=-1).t()


@TRAINER_REGISTRY.register()
class PluginCoOp(TrainerX):
    def check_cfg(self, cfg):
        assert cfg.TRAINER.PLUGINCOOP.PREC in ["fp16", "fp32", "amp"]

    def build_model(self):
        cfg = self.cfg
        self.model = CustomCLIP(self.dm.dataset.classnames)
        for name, param in self.model.named_parameters():
            if "prompt_learner" not in name:
                param.requires_grad_(False)
        if cfg.MODEL.INIT_WEIGHTS:
            load_pretrained_weights(self.model.prompt_learner, cfg.MODEL.INIT_WEIGHTS)
        self.model.to(self.device)
        self.optim = build_optimizer(self.model.prompt_learner, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model("prompt_learner", self.model.prompt_learner, self.optim, self.sched)
        self.rates = []

    def forward_backward(self, batch):
        image, label = self.parse_batch_train(batch)
        output = self.model(image)
        loss = F.cross_entropy(output, label)
        self.model_backward_and_update(loss)
        self.rates.append(self.get_current_lr())
        loss_summary = {"loss": loss.item(), "acc": compute_accuracy(output, label)[0].item()}
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        return loss_summary

    def parse_batch_train(self, batch):
        return batch["img"].to(self.device), batch["label"].to(self.device)

    def load_model(self, directory, epoch=None):
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
            return
        for name in self.get_model_names():
            checkpoint = load_checkpoint(osp.join(directory, name, f"model.pth.tar-{epoch}"))
            state_dict = OrderedDict(checkpoint["state_dict"])
            if "token_prefix" in state_dict:
                del state_dict["token_prefix"]
            self._models[name].load_state_dict(state_dict, strict=False)
