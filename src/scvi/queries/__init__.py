"""Questions to a fitted model: pure functions (model, minibatches) -> array."""

from scvi.queries.evaluation import evaluating

__all__ = ["evaluating"]
