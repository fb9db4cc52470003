"""A classifier of cells."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import log_softmax

from scvi._checks import check_flag, check_rates, check_sizes
from scvi.models.layers import FCLayers

__all__ = ["Classifier"]


class Classifier(nn.Module):
    """Hidden layers, a linear layer, and a softmax over the labels.

    Parameters
    ----------
    n_input
        Width of the input.
    n_hidden, n_layers, dropout_rate
        Width, number and dropout of the hidden layers; without any the classifier is linear.
    n_labels
        Number of labels c.
    logits
        Return the input of the softmax instead of probabilities.
    use_batch_norm, use_layer_norm
        Norms of the hidden layers.
    """

    def __init__(
        self,
        n_input: int,
        n_hidden: int = 128,
        n_labels: int = 5,
        n_layers: int = 1,
        dropout_rate: float = 0.1,
        logits: bool = False,
        *,
        use_batch_norm: bool = True,
        use_layer_norm: bool = False,
    ) -> None:
        super().__init__()
        check_sizes(1, n_input=n_input, n_hidden=n_hidden, n_labels=n_labels)
        check_sizes(0, n_layers=n_layers)
        check_rates(dropout_rate=dropout_rate)
        self.logits, self.n_labels = check_flag("logits", logits), n_labels
        hidden = FCLayers(
            n_input,
            n_hidden,
            n_layers=max(n_layers, 1),
            n_hidden=n_hidden,
            dropout_rate=dropout_rate,
            use_batch_norm=check_flag("use_batch_norm", use_batch_norm),
            use_layer_norm=check_flag("use_layer_norm", use_layer_norm),
        )
        self.classifier = nn.Sequential(
            *([hidden] if n_layers else []),
            nn.Linear(n_hidden if n_layers else n_input, n_labels),
            *([] if logits else [nn.Softmax(dim=-1)]),
        )
        self._n_before_softmax = 2 if n_layers else 1

    def log_probabilities(self, x: Tensor) -> Tensor:
        """(n, n_input) -> (n, c) logarithms, exact also where a probability is too small for float32."""
        return log_softmax(self.classifier[: self._n_before_softmax](x), dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_input) -> (n, c) probabilities, or their logits."""
        return self.classifier(x)
