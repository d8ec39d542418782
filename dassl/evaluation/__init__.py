"""Evaluators by name (TEST.EVALUATOR)."""

from dassl.utils.registry import Registry

EVALUATOR_REGISTRY = Registry("EVALUATOR")

from .evaluator import Classification, EvaluatorBase  # noqa: E402


def build_evaluator(cfg, **kwargs):
    """The evaluator TEST.EVALUATOR."""
    return EVALUATOR_REGISTRY.get(cfg.TEST.EVALUATOR)(cfg, **kwargs)


__all__ = ["EVALUATOR_REGISTRY", "Classification", "EvaluatorBase", "build_evaluator"]
