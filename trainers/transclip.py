"""TransCLIP (Zanella et al., NeurIPS 2024, 2406.01837): all test images are answered together, by Gaussians that text
and neighbours hold in place. It reads the test images at once, never their labels.

    x_i (d): unit test image features, Q of them;  y_i (C) = softmax(s x_i . t): zero-shot;  z_i (C): sought
    w_ij = x_i . x_j where j is among the NEIGHBOURS nearest to i, else 0
    log p_ic = -1/2 sum_d (x_i - mu_c)^2 / sigma      mu (C, d), sigma (d): one diagonal covariance           (1)
    z_i <- softmax(LAMBDA log y_i + log p_i / 50 + sum_j (w_ij + w_ji) z_j / (2 NEIGHBOURS)), 5 times         (2)
    mu_c <- unit(sum_i z_ic x_i),   sigma <- mean_i sum_c z_ic (x_i - mu_c)^2                                 (3)
    start: z = y, mu_c from the 8 images surest of c, sigma = 1 / d; ROUNDS rounds of (2) and (3), and (2) once more

Few-shot: N labelled images join (3), together with weight 50 gamma against 1 of all test images, and (2) as neighbours
whose z is known; mu starts at their class means. GAMMAS are tried in turn, each from where the last one ended; the
first that is best on val counts, a val image being answered as the test image nearest to it. Bound to its classes.

Nothing is learned.
"""

import torch
import torch.nn.functional as F
from torch import nn

from dassl.engine import TRAINER_REGISTRY
from dassl.utils.errors import ConfigError

from .base import PromptTrainer
from .fitting import FitTrainer, labels_of
from .learner import Learner, unit
from .templates import ensemble_features, template_set

SHARPNESS = 50  # of images, against text
INNER = 5  # steps (2) a round
SUREST = 8  # images that start a class's mean
CHUNK = 2500  # rows of the affinity at once
SMALLEST = 1e-12  # of sigma: a batch of equal images has none


class TransCLIPLearner(Learner):
    """Zero-shot: text features (C, d); labelled images (N, d) and their one-hot labels (N, C), here none."""

    image_key = "plain"

    def __init__(self, node, clip, classnames, context=None):
        super().__init__(node, clip, classnames, context)
        text = ensemble_features(clip, self.names, template_set(node.TEMPLATES))
        self.register_buffer("text_features", text, persistent=False)
        labels = labels_of(self.labelled())
        self.support = nn.Parameter(torch.zeros(len(labels), clip.embed_dim), requires_grad=False)
        self.register_buffer("known", F.one_hot(labels, len(classnames)).float(), persistent=False)

    def labelled(self):
        """Items whose labels are used."""
        return []

    def logits(self, images):
        """log z (B, C): the images of a call are answered together."""
        x = unit(self.image_features(images))
        log_y = self.score(x, self.text_features).log_softmax(-1)
        return self.solve(x, log_y)

    def solve(self, x, log_y):
        """log z (Q, C) of unit features (Q, d) and log zero-shot probabilities (Q, C)."""
        y = log_y.exp()
        sure = torch.zeros_like(y).scatter(0, y.topk(min(SUREST, len(y)), dim=0).indices, 1.0)
        state = y, unit((y * sure).T @ x), torch.full_like(x[0], 1 / x.shape[1])
        return self.rounds(x, log_y, self.neighbours(x), state)[0].log()

    def rounds(self, x, log_y, graph, state, gamma=0.0):
        """(z, mu, sigma) after ROUNDS rounds from such a state; labelled images weigh `gamma`."""
        z, mu, sigma = state
        for left in reversed(range(self.node.ROUNDS + 1)):
            fixed = self.node.LAMBDA * log_y + likelihood(x, mu, sigma) / SHARPNESS
            for _ in range(INNER):
                z = (fixed + self.votes(z, *graph) / (2 * max(self.node.NEIGHBOURS, 1))).softmax(-1)
            if left:
                mu, sigma = self.moments(x, z, gamma)
        return z.clamp(min=torch.finfo(z.dtype).tiny), mu, sigma

    def moments(self, x, z, gamma):
        """(mu (C, d), sigma (d)) of (3)."""
        parts = [(x, z / len(x))]
        if gamma:
            parts.append((self.support, gamma * SHARPNESS / len(self.support) * self.known))
        mu = unit(sum(weight.T @ features for features, weight in parts))
        spread = sum(weight[:, c] @ (features - mu[c]).square() for features, weight in parts for c in range(len(mu)))
        return mu, (spread / sum(weight.sum() for _, weight in parts)).clamp(min=SMALLEST)

    def neighbours(self, x):
        """(w, indices of test images), (N + Q, k) each: the nearest of every labelled and then every test image, the
        very nearest, a test image itself, left out."""
        k = min(self.node.NEIGHBOURS, len(x) - 1)
        found = [(rows @ x.T).topk(k + 1) for part in (self.support, x) for rows in part.split(CHUNK)]
        w, index = torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])
        return w[:, 1:], index[:, 1:]

    def votes(self, z, w, index):
        """sum_j (w_ij + w_ji) z_j (Q, C) over neighbours j of each test image i, labelled ones too."""
        own = (w[len(self.known) :, :, None] * z[index[len(self.known) :]]).sum(1)
        return own + self.received(torch.cat([self.known, z]), w, index, len(z))

    @staticmethod
    def received(z, w, index, count):
        """sum_j w_ji z_j (count, C). In double: the order in which a device adds does not show."""
        sent = (w[:, :, None] * z[:, None]).double()
        total = sent.new_zeros(count, z.shape[1])
        return total.index_add(0, index.flatten(), sent.flatten(0, 1)).to(z.dtype)


def likelihood(x, mu, sigma):
    """log p (Q, C) of (1), without its constant."""
    return -0.5 * torch.stack([(x - m).square() @ (1 / sigma) for m in mu], dim=1)


class TransCLIPFSLearner(TransCLIPLearner):
    """Few-shot: labelled images (N, d), and val's (M, d) to choose gamma with."""

    def __init__(self, node, clip, classnames, context=None):
        super().__init__(node, clip, classnames, context)
        if not node.GAMMAS:
            raise ConfigError("TRAINER.TRANSCLIPFS.GAMMAS is empty: give a weight of the labelled images or several")
        held = labels_of(context.dataset.val or [])
        self.held = nn.Parameter(torch.zeros(len(held), clip.embed_dim), requires_grad=False)
        self.register_buffer("held_labels", held, persistent=False)

    def labelled(self):
        return self.context.dataset.train_x

    @classmethod
    def bound_to_classes(cls, node):
        return dict.fromkeys(("support", "held"), "its labelled images are of its classes")

    @torch.no_grad()
    def fit(self, train, val):
        """Keep the unit features of ((V, N, d), (N,)) and of val's ((M, d), (M,))."""
        self.support.copy_(unit(train[0].mean(0)))
        if val is not None:
            self.held.copy_(unit(val[0]))

    def checkpoint_tensors(self):
        return {"support": self.support, "held": self.held}

    def solve(self, x, log_y):
        found = self.answers(x, log_y)
        nearest = (self.held @ x.T).argmax(-1)
        right = torch.stack([(z[nearest].argmax(-1) == self.held_labels).float().mean() for z in found])
        return torch.stack(found).index_select(0, right.argmax()[None])[0]

    def answers(self, x, log_y):
        """[log z (Q, C)] of each of GAMMAS, of the first without val."""
        state = log_y.exp(), unit(self.known.T @ self.support), torch.full_like(x[0], 1 / x.shape[1])
        graph, found = self.neighbours(x), []
        for gamma in self.node.GAMMAS if len(self.held) else self.node.GAMMAS[:1]:
            state = self.rounds(x, log_y, graph, state, gamma)
            found.append(state[0].log())
        return found

    def neighbours(self, x):
        """As official where RELEASED: a labelled image's nearest test image is left out as if it were itself."""
        w, index = super().neighbours(x)
        if not self.node.RELEASED:
            top = (self.support @ x.T).topk(w.shape[1])
            w, index = (torch.cat([a, b[len(self.known) :]]) for a, b in ((top.values, w), (top.indices, index)))
        return w, index

    def votes(self, z, w, index):
        """As official where RELEASED: w has labelled images first, z last, so that w's rows meet others' z."""
        if not self.node.RELEASED:
            return super().votes(z, w, index)
        own = (w[: len(z), :, None] * z[index[: len(z)]]).sum(1)
        return own + self.received(torch.cat([z, self.known]), w, index, len(z))


class AllAtOnce:
    """Trainers whose answer to an image depends on the other test images."""

    transductive = True

    def test_outputs(self, loader):
        features, rest = [], []
        for batch in loader:
            images, labels = self.parse_batch_test(batch)
            features.append(self.model.image_features(images))
            rest.append((labels, {"impath": batch["impath"]}))
        outputs = self.model_inference(torch.cat(features)).split([len(f) for f in features])
        for output, (labels, batch) in zip(outputs, rest):
            yield output, labels, batch


DEFAULTS = {
    "LAMBDA": 1.0,  # weight of the text
    "NEIGHBOURS": 3,
    "ROUNDS": 10,
    "TEMPLATES": "a photo of a {}.",  # a set's name (medical, imagenet ...), or templates with ';' between them
    "PREC": "fp32",
}


@TRAINER_REGISTRY.register()
class TransCLIP(AllAtOnce, PromptTrainer):
    """Zero-shot, all test images answered together (TransCLIP-ZS)."""

    learner = TransCLIPLearner
    trains = False
    defaults = DEFAULTS


@TRAINER_REGISTRY.register()
class TransCLIPFS(AllAtOnce, FitTrainer):
    """Few labelled images, all test images answered together (TransCLIP-FS)."""

    learner = TransCLIPFSLearner
    defaults = DEFAULTS | {
        "LAMBDA": 0.5,
        "GAMMAS": (0.002, 0.01, 0.02, 0.2),  # weights of labelled images to choose from on val; the first without val
        "RELEASED": False,  # True: labelled images and w in the released code's order
    }
