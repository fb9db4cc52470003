"""How the networks of a model are built, in what 2020 left no choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, TypedDict

from scvi._checks import check_choice, check_flag
from scvi.models.gaussian import VarianceActivation, activation_name

Part: TypeAlias = Literal["encoder", "decoder"]
Where: TypeAlias = Literal["encoder", "decoder", "none", "both"]
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
    """

    use_batch_norm: Where = "both"
    use_layer_norm: Where = "none"
    deeply_inject_covariates: bool = True
    var_activation: VarianceActivation = "exp"

    def __post_init__(self) -> None:
        check_choice("use_batch_norm", self.use_batch_norm, [*PLACES])
        check_choice("use_layer_norm", self.use_layer_norm, [*PLACES])
        check_flag("deeply_inject_covariates", self.deeply_inject_covariates)
        activation_name(self.var_activation)

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
