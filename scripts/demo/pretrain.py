"""Pre-train the demo backbone: a small CLIP on captioned phantoms of the "pretrain" nuisance.

    python -m cilmp.scripts.demo.pretrain                       # writes backbones/demo/model.safetensors
    python -m cilmp.scripts.demo.pretrain --steps 200 --output /tmp/try.safetensors

CLIP's contrastive loss with several positives: in a batch, a caption belongs to every image it is true of.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from cilmp.datasets.phantom import CLASSES, MODALITIES, draw_described, generator
from cilmp.scripts.demo.captions import caption, truth
from dassl.utils.errors import run_main
from dassl.utils.io import atomic_path, read_json
from dassl.utils.paths import REPO

DEMO = REPO / "backbones" / "demo"
SEED = 7001  # of the pre-training images; the data set's partitions have others (datasets/phantom.py)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=DEMO / "model.safetensors")
    parser.add_argument("--images", type=int, default=1500, help="drawn images a class")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3, help="peak rate; 100 steps warm-up, cosine to 0")
    parser.add_argument("--minutes", type=float, default=20, help="the schedule ends by then")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def draw_class(name, count):
    """(images uint8 (count, 64, 64, 3), list of word lists) of one finding."""
    drawn = [draw_described(name, generator(SEED, name, i), "pretrain") for i in range(count)]
    return np.stack([image for image, _ in drawn]), [words for _, words in drawn]


def draw_all(count, workers):
    """Images (N, 64, 64, 3) uint8, names and words of N = count images a class."""
    with ProcessPoolExecutor(workers) as pool:
        parts = list(pool.map(draw_class, CLASSES, [count] * len(CLASSES)))
    names = [name for name in CLASSES for _ in range(count)]
    return np.concatenate([p[0] for p in parts]), names, [words for p in parts for words in p[1]]


def normalised(images):
    """uint8 (B, 64, 64, 3) -> float (B, 3, 64, 64) with the demo's mean and std."""
    facts = read_json(DEMO / "preprocess.json")
    mean, std = torch.tensor(facts["mean"]), torch.tensor(facts["std"])
    return ((torch.from_numpy(images).float() / 255 - mean) / std).permute(0, 3, 1, 2)


def encode_text(model, ids):
    """open_clip's encode_text, cut to the batch's longest text (the tower is causal: nothing changes)."""
    last = ids.argmax(dim=1)
    length = int(last.max()) + 1
    x = model.token_embedding(ids[:, :length]) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return x[torch.arange(len(ids)), last] @ model.text_projection


def batch_captions(rng, chosen, names, words, tokenizer):
    """(ids of a batch's distinct captions, their truth (captions, images)); each image gets one."""
    length = "long" if rng.random() < 0.25 else "short"
    made = dict(caption(rng, length, names[i], MODALITIES[names[i]], words[i]) for i in chosen)
    facts = [{names[i], *words[i]} for i in chosen]
    return tokenizer(list(made)), torch.from_numpy(truth(made.values(), facts))


def contrastive_loss(logits, true):
    """Cross-entropy of each image over captions and each caption over images; both (captions, images)."""
    by_image = -(true / true.sum(0) * logits.log_softmax(dim=0)).sum(0).mean()
    by_caption = -(true / true.sum(1, keepdim=True) * logits.log_softmax(dim=1)).sum(1).mean()
    return (by_image + by_caption) / 2


def optimiser(model, lr):
    """AdamW; only the towers' matrices decay: token rows that no caption uses keep their first value."""
    decayed = [p for n, p in model.named_parameters() if p.ndim == 2 and "embedding" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embedding" in n]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)


def train(model, data, args):
    """Steps until --steps or --minutes are over; the learning rate follows whichever is nearer."""
    images, names, words = data
    tokenizer, optim = open_clip.get_tokenizer("ViT-B-32"), optimiser(model, args.lr)
    rng = np.random.default_rng(SEED)
    started, loss_sum = time.time(), 0.0
    for step in range(args.steps):
        done = max(step / args.steps, (time.time() - started) / 60 / args.minutes)
        if done >= 1:
            break
        for group in optim.param_groups:
            group["lr"] = args.lr * min((step + 1) / 100, (1 + np.cos(np.pi * done)) / 2)
        chosen = rng.choice(len(images), size=args.batch, replace=False)
        ids, true = batch_captions(rng, chosen, names, words, tokenizer)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            seen = model.encode_image(normalised(images[chosen]))
            read = encode_text(model, ids)
        logits = F.normalize(read.float(), dim=-1) @ F.normalize(seen.float(), dim=-1).T
        loss = contrastive_loss(model.logit_scale.exp() * logits, true)
        optim.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optim.step()
        model.logit_scale.data.clamp_(max=np.log(100))
        loss_sum += loss.item()
        if (step + 1) % 100 == 0:
            scale, minutes = model.logit_scale.exp().item(), (time.time() - started) / 60
            print(f"step {step + 1:5d}  loss {loss_sum / 100:.3f}  scale {scale:.1f}  {minutes:.1f} min",
                  flush=True)
            loss_sum = 0.0


@torch.no_grad()
def shrink_text_stream(model, factor=0.3):
    """Scale all that the text tower's residual stream is made of; features stay the same up to LayerNorm's epsilon.

    Every reader of the stream has a LayerNorm in front, so its scale is free. A smaller one makes a step of given
    size turn a prompt further: the literature's learning rate for context vectors, 0.002, then works here too.
    """
    written = [model.token_embedding.weight, model.positional_embedding]
    for block in model.transformer.resblocks:
        written += [*block.attn.out_proj.parameters(), *block.mlp.c_proj.parameters()]
    for tensor in written:
        tensor *= factor


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.backends.cuda.enable_flash_sdp(False)  # the CPU obeys too: plain attention steps 1.7 times as fast
    torch.manual_seed(SEED)
    model = open_clip.CLIP(**read_json(DEMO / "model.json"))
    print(f"drawing {args.images} images of each of {len(CLASSES)} findings ...", flush=True)
    train(model, draw_all(args.images, args.threads), args)
    shrink_text_stream(model)
    state = {k: v.half().contiguous() for k, v in model.state_dict().items()}
    with atomic_path(args.output) as temporary:
        save_file(state, temporary, metadata={"format": "pt"})
    print(f"wrote {args.output}: {args.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_main(main)
