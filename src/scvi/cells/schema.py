"""What a model reads from an AnnData, and how it is encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from scvi._checks import check_number

__all__ = ["ProteinSchema", "Schema"]


@dataclass(frozen=True)
class ProteinSchema:
    """Where the counts of proteins are, and what is known of them.

    Attributes
    ----------
    obsm_key
        Key of ``adata.obsm``.
    names_uns_key
        Key of ``adata.uns`` with the names; None where a table in `obsm` has them, or nothing.
    names
        Names in the model's order.
    measured
        For each batch code, whether it measured each protein.
    modalities
        Names of the modalities of a MuData, by argument of ``setup_mudata``; empty for an AnnData.
    layer
        Layer of the protein modality; None is its X.
    """

    obsm_key: str
    names_uns_key: str | None
    names: tuple[str, ...]
    measured: tuple[tuple[bool, ...], ...]
    modalities: dict[str, str] = field(default_factory=dict)
    layer: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return values | {"names": list(self.names), "measured": [list(row) for row in self.measured]}

    @classmethod
    def from_json(cls, values: Any) -> ProteinSchema:
        """The inverse of :meth:`to_json`; ValueError as for :class:`Schema`."""
        if not isinstance(values, Mapping) or set(values) != {entry.name for entry in fields(cls)}:
            raise ValueError("not a schema: the entry of the proteins is damaged")
        names, measured, modalities = (values[name] for name in ("names", "measured", "modalities"))
        flags = isinstance(measured, (list, tuple)) and all(
            len(row) == len(names) and all(isinstance(flag, bool) for flag in row) for row in measured
        )
        if not flags or not isinstance(modalities, Mapping):
            raise ValueError("not a schema: the proteins have no list of True and False for each batch")
        _texts("modalities", [*modalities, *modalities.values()])
        return cls(
            obsm_key=_texts("obsm_key", [values["obsm_key"]])[0],
            names_uns_key=_optional_text("names_uns_key", values["names_uns_key"]),
            names=_texts("names of proteins", names),
            measured=tuple(tuple(row) for row in measured),
            modalities=dict(modalities),
            layer=_optional_text("layer", values["layer"]),
        )


@dataclass(frozen=True)
class Schema:
    """The declaration that a model keeps: where its inputs are, and what every code means.

    It holds plain values only, so that it can be written as JSON and read back without loss.

    Attributes
    ----------
    layer
        Key of ``adata.layers`` with the counts; None is ``adata.X``.
    batch_key, labels_key, size_factor_key
        Columns of ``adata.obs``; None where there is none.
    categorical_covariate_keys, continuous_covariate_keys
        Further columns of ``adata.obs``.
    mask_var
        Column of ``adata.var`` that chose the genes, if they were chosen that way.
    genes
        Names of the genes the model reads, in the model's order.
    categories
        Category names for each categorical column, in the order of their codes; only categories that occur.
    unlabeled_category
        The value of the labels' column that says that the label is not known, whose code is -1; None: all are known.
    library_prior
        Mean and variance of the log total counts, one pair for each batch code.
    size_factor_scale
        Size factors are relative; times this number their mean is the mean total count.
    continuous_moments
        Mean and standard deviation of each continuous covariate, which enters a model less the one, over the other.
    proteins
        The counts of proteins, for a model that reads them.
    """

    layer: str | None = None
    batch_key: str | None = None
    labels_key: str | None = None
    size_factor_key: str | None = None
    categorical_covariate_keys: tuple[str, ...] = ()
    continuous_covariate_keys: tuple[str, ...] = ()
    mask_var: str | None = None
    genes: tuple[str, ...] = ()
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict)
    library_prior: tuple[tuple[float, float], ...] = ((0.0, 1.0),)
    size_factor_scale: float = 1.0
    continuous_moments: tuple[tuple[float, float], ...] = ()
    unlabeled_category: str | None = None
    proteins: ProteinSchema | None = None

    @property
    def n_genes(self) -> int:
        return len(self.genes)

    @property
    def batch_names(self) -> tuple[str, ...]:
        """Names of the experimental batches in code order; ("0",) without a batch key."""
        return self._names(self.batch_key)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the known labels in code order; ("0",) without a labels key."""
        return self._names(self.labels_key)

    @property
    def n_batch(self) -> int:
        return len(self.batch_names)

    @property
    def n_labels(self) -> int:
        return len(self.label_names)

    @property
    def n_continuous(self) -> int:
        return len(self.continuous_covariate_keys)

    @property
    def n_cats_per_cov(self) -> tuple[int, ...]:
        return tuple(len(self._names(key)) for key in self.categorical_covariate_keys)

    @property
    def counts_name(self) -> str:
        """The counts as a user writes them: ``adata.X`` or ``adata.layers['...']``."""
        return "adata.X" if self.layer is None else f"adata.layers[{self.layer!r}]"

    @property
    def category_keys(self) -> tuple[str, ...]:
        """The categorical columns, each once."""
        keys = (self.batch_key, self.labels_key, *self.categorical_covariate_keys)
        return tuple(dict.fromkeys(key for key in keys if key is not None))

    def _names(self, key: str | None) -> tuple[str, ...]:
        return ("0",) if key is None else self.categories[key]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; no entry for proteins where there are none."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        if self.proteins is None:
            del values["proteins"]
        else:
            values["proteins"] = self.proteins.to_json()
        values["categories"] = {key: list(names) for key, names in values["categories"].items()}
        for name in ("library_prior", "continuous_moments"):
            values[name] = [list(pair) for pair in values[name]]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Schema:
        """The inverse of :meth:`to_json`.

        Raises
        ------
        ValueError
            If an entry is missing, unknown, of the wrong type or out of range.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"a schema is a mapping, not {type(values).__name__}")
        names = {entry.name for entry in fields(cls)}
        wrong = sorted(set(values) ^ names)
        if not set(wrong) <= _LATER - set(values):
            raise ValueError(f"not a schema of this version of scvi: missing or unknown entries {wrong}")
        plain: dict[str, Any] = {name: _optional_text(name, values.get(name)) for name in _OPTIONAL_TEXTS}
        plain |= {name: _texts(name, values[name]) for name in _TEXT_LISTS}
        try:
            schema = cls(
                **plain,
                categories={str(key): _texts(key, names) for key, names in dict(values["categories"]).items()},
                library_prior=_moments("library_prior", values["library_prior"]),
                size_factor_scale=check_number(
                    "size_factor_scale", values["size_factor_scale"], "a positive number", above=0
                ),
                continuous_moments=_moments("continuous_moments", values["continuous_moments"]),
                proteins=ProteinSchema.from_json(values["proteins"]) if "proteins" in values else None,
            )
        except TypeError as error:
            raise ValueError(f"not a schema: {error}") from error
        lost = [key for key in schema.category_keys if not schema.categories.get(key)]
        if lost or len(schema.library_prior) != schema.n_batch:
            raise ValueError(f"not a schema: no categories for {lost}, or not one library prior for each batch")
        if len(schema.continuous_moments) != schema.n_continuous:
            raise ValueError("not a schema: not one pair of continuous_moments for each continuous covariate")
        proteins = schema.proteins
        if proteins is not None and len(proteins.measured) != schema.n_batch:
            raise ValueError("not a schema: it does not say for each batch which proteins were measured")
        named = {"genes": schema.genes, "proteins": () if proteins is None else proteins.names}
        for name, entries in {**named, **schema.categories}.items():
            if len(set(entries)) < len(entries):
                raise ValueError(f"not a schema: an entry of {name} occurs twice")
        return schema


_OPTIONAL_TEXTS = ("layer", "batch_key", "labels_key", "size_factor_key", "mask_var", "unlabeled_category")
_LATER = {"proteins", "unlabeled_category"}  # not in the files of the first version
_TEXT_LISTS = ("categorical_covariate_keys", "continuous_covariate_keys", "genes")


def _optional_text(name: str, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"not a schema: {name} is {value!r}, not a string or null")
    return value


def _moments(name: str, pairs: Any) -> tuple[tuple[float, float], ...]:
    """Pairs of a finite mean and a positive variance or deviation."""
    positive = "a mean and a positive number"
    return tuple(
        (check_number(f"{name} of", mean, "a number"), check_number(f"{name} of", spread, positive, above=0))
        for mean, spread in pairs
    )


def _texts(name: str, values: Any) -> tuple[str, ...]:
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"not a schema: {name} is not a list of strings")
    return tuple(values)
