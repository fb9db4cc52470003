"""From the options of an estimator to the arguments of its network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scvi._checks import check_flag
from scvi._warnings import warn
from scvi.cells.schema import Schema

_NAMES = {"gene_likelihood": "reconstruction_loss"}


def network_options(
    schema: Schema, options: Mapping[str, Any], names: Mapping[str, str | None] = _NAMES
) -> dict[str, Any]:
    """An estimator's options and the sizes of its data, as arguments of its network.

    Parameters
    ----------
    names
        What the network calls an option that it knows under another name; None for one that it does not know.

    Size factors are the library sizes of their cells: where they are given nothing is inferred.
    """
    named = {names.get(name, name): value for name, value in options.items()}
    if schema.size_factor_key is not None and "use_observed_lib_size" in named:
        named["use_observed_lib_size"] = True
    return {
        "n_batch": schema.n_batch,
        "n_labels": schema.n_labels,
        "n_continuous_cov": schema.n_continuous,
        "n_cats_per_cov": list(schema.n_cats_per_cov),
        **{name: value for name, value in named.items() if name is not None},
    }


def warn_of_sizes(schemas: Sequence[Schema], options: Mapping[str, Any]) -> None:
    """Says that library sizes which are to be inferred are given."""
    observed = check_flag("use_observed_lib_size", options.get("use_observed_lib_size", True))
    keys = [schema.size_factor_key for schema in schemas if schema.size_factor_key is not None]
    if keys and not observed:
        warn(
            f"use_observed_lib_size=False infers library sizes, but size_factor_key={keys[0]!r} gives "
            "them: the size factors are taken and nothing is inferred; leave out size_factor_key in setup_anndata to "
            "infer the library sizes"
        )


def plain(value: Any) -> Any:
    """Numbers of numpy as those of Python, also in a list or a mapping: they can be written as JSON."""
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    if isinstance(value, Mapping):
        return {name: plain(entry) for name, entry in value.items()}
    return value.item() if isinstance(value, np.generic) else value
