"""How the networks of a model are built, in what 2020 left no choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypedDict

from torch import nn

from scvi._checks import check_choice, check_flag, check_integer
from scvi.models.gaussian import VarianceActivation, activation_name

Part: TypeAlias = Literal["encoder", "decoder"]
Where: TypeAlias = Literal["encoder", "decoder", "none", "both"]
BatchRepresentation: TypeAlias = Literal["one-hot", "embedding"]
ScaleActivation: TypeAlias = Literal["softmax", "softplus"]
_EMBEDDING_DIM = 5
PLACES: tuple[Where, ...] = ("encoder", "decoder", "none", "both")


class LayerOptions(TypedDict, total=False):
    """Arguments of :class:`scvi.models.layers.FCLayers`."""

    use_batch_norm: bool
    use_layer_norm: bool
    inject_covariates: bool


class EncoderOptions(LayerOptions, total=False):
    """Arguments of :class:`scvi.models.modules.Encoder`."""

    var_activation: VarianceActivation


class OtherOptions(TypedDict, total=False):
    """Arguments of :class:`Architecture`, but for that of which LDVAE has an older one."""

    use_layer_norm: Where
    deeply_inject_covariates: bool
    var_activation: VarianceActivation
    batch_representation: BatchRepresentation
    batch_embedding_kwargs: Mapping[str, int] | None
    scale_activation: ScaleActivation


class ArchitectureOptions(OtherOptions, total=False):
    """Arguments of :class:`Architecture`."""

    use_batch_norm: Where


@dataclass(frozen=True)
class Architecture:
    """What the layers of a model's encoders and decoders are made of.

    Attributes
    ----------
    use_batch_norm, use_layer_norm
        Where hidden layers are normalised over the cells of a minibatch, and over the units of a cell: in the
        'encoder', the 'decoder', 'none' or 'both'. Where they have both norms, that over cells comes first.
    deeply_inject_covariates
        Show covariates to every layer, not to the first alone.
    var_activation
        What makes variances of the encoders' outputs; see :func:`scvi.models.gaussian.activation_name`.
    batch_representation
        What layers see of the batch: a 'one-hot' row, or an 'embedding', a few numbers for each batch that are learned.
    batch_embedding_kwargs
        How many: ``{"embedding_dim": 5}``.
    scale_activation
        What makes expected counts for a library size of 1 of the decoder's numbers: 'softmax', frequencies that sum to
        one, or 'softplus', positive numbers of any sum.
    """

    use_batch_norm: Where = "both"
    use_layer_norm: Where = "none"
    deeply_inject_covariates: bool = True
    var_activation: VarianceActivation = "exp"
    batch_representation: BatchRepresentation = "one-hot"
    batch_embedding_kwargs: Mapping[str, int] | None = None
    scale_activation: ScaleActivation = "softmax"

    def __post_init__(self) -> None:
        check_choice("use_batch_norm", self.use_batch_norm, [*PLACES])
        check_choice("use_layer_norm", self.use_layer_norm, [*PLACES])
        check_flag("deeply_inject_covariates", self.deeply_inject_covariates)
        activation_name(self.var_activation)
        check_choice("batch_representation", self.batch_representation, ["one-hot", "embedding"])
        check_choice("scale_activation", self.scale_activation, ["softmax", "softplus"])
        self._check_embedding()

    def _check_embedding(self) -> None:
        given = self.batch_embedding_kwargs
        if given is None:
            return
        if not isinstance(given, Mapping) or not set(given) <= {"embedding_dim"}:
            raise ValueError(
                f'batch_embedding_kwargs={given!r} is not what a batch\'s embedding has: pass {{"embedding_dim": 5}}'
            )
        if self.batch_representation != "embedding":
            raise ValueError(
                f"batch_embedding_kwargs={given!r} is for batch_representation='embedding', which is "
                f"{self.batch_representation!r}: pass that, or leave these out"
            )
        check_integer("embedding_dim", self.n_numbers, 1)

    @property
    def n_numbers(self) -> int:
        """How many numbers stand for a batch; 0 where it is a one-hot row."""
        if self.batch_representation == "one-hot":
            return 0
        return (self.batch_embedding_kwargs or {}).get("embedding_dim", _EMBEDDING_DIM)

    def covariates(self, n_batch: int, n_continuous: int, n_cats: Sequence[int] | None) -> dict[str, Any]:
        """Arguments of networks: numbers of categories that are one-hot rows, the batch first, and of other columns."""
        one_hot = n_batch if self.batch_representation == "one-hot" else 0
        return {"n_cat_list": [one_hot, *(n_cats or [])], "n_cont": n_continuous + self.n_numbers}

    def embeddings(self, n_batch: int) -> nn.ModuleDict:
        """A row for each batch; with none, and with a single one, it is one row."""
        return nn.ModuleDict({"batch": nn.Embedding(max(n_batch, 1), self.n_numbers)})

    def norms(self, part: Part) -> LayerOptions:
        """Of layers that see no covariate, or need theirs everywhere."""
        here = (part, "both")
        return {"use_batch_norm": self.use_batch_norm in here, "use_layer_norm": self.use_layer_norm in here}

    def layers(self, part: Part) -> LayerOptions:
        """Of layers that see the covariates."""
        return {**self.norms(part), "inject_covariates": self.deeply_inject_covariates}

    @property
    def encoder(self) -> EncoderOptions:
        """Of an encoder that sees the covariates, and says a mean and a variance."""
        return {**self.layers("encoder"), "var_activation": self.var_activation}
