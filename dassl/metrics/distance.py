"""Distances between the rows of two matrices."""

from torch.nn.functional import normalize

from dassl.utils.errors import unknown_name


def euclidean_squared_distance(input1, input2):
    """(m, n) squared distances of the rows of input1 (m, d) and input2 (n, d)."""
    norms = input1.square().sum(1)[:, None] + input2.square().sum(1)
    return (norms - 2 * input1 @ input2.T).clamp(min=0)  # equal rows: rounding, else, may go below


def cosine_distance(input1, input2):
    """(m, n) one minus the cosine of the rows of input1 (m, d) and input2 (n, d)."""
    return 1 - normalize(input1, dim=1) @ normalize(input2, dim=1).T


METRICS = {"euclidean": euclidean_squared_distance, "cosine": cosine_distance}


def compute_distance_matrix(input1, input2, metric="euclidean"):
    """(m, n) distances of the rows of input1 (m, d) and input2 (n, d): "euclidean" (squared) or "cosine"."""
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    return METRICS[metric](input1, input2)
