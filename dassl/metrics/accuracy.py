"""Top-k accuracy of a batch."""


def compute_accuracy(output, target, topk=(1,)):
    """List of 1-element tensors, percent of rows whose target is among the k highest logits.

    Args:
        output: (B, C) logits, or a tuple whose first entry they are.
        target: (B,) labels.
    """
    if isinstance(output, (tuple, list)):
        output = output[0]
    k = min(max(topk), output.shape[1])
    hits = output.topk(k, dim=1).indices.eq(target[:, None])  # (B, k)
    return [hits[:, :n].any(1).float().mean(0, keepdim=True) * 100 for n in topk]
