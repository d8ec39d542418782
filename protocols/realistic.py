"""Realistic few-shot ("Few-Shot, Now for Real", Silva-Rodriguez et al., 2506.17500): shots as the data is distributed,
no validation images, one fixed set of hyper-parameters, the last step's weights; balanced accuracy first."""

from .few_shot import FewShot


class Realistic(FewShot):
    """As few-shot, but the budget of k images a class is drawn from the whole training part."""

    summary = "k images a class as the data is distributed, no validation, fixed hyper-parameters"
    metrics = ("balanced_accuracy", "accuracy", "macro_f1")
    hparams = "matched"
    files = "few_shot"

    def runs(self, first, targets=()):
        return [first.but("train_all", {"DATASET.SHOT_SAMPLING": "natural", "TEST.FINAL_MODEL": "last_step"})]

    def notes(self, dataset, targets=()):
        return [
            "Shots are drawn as the training images are distributed; no validation images, hyper-parameters are a "
            "method's own and fixed, the last step is tested."
        ]


PROTOCOL = Realistic()
