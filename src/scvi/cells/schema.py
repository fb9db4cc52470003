"""What a model reads from an AnnData, and how it is encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from scvi._checks import check_number
from scvi._formats import in_format
from scvi.cells.checks import counts_name
from scvi.cells.estimates import NonInteger, check_non_integer

_FORMAT = 3


@dataclass(frozen=True)
class ProteinPlace:
    """Where the counts of proteins are.

    Attributes
    ----------
    obsm_key
        Key of ``adata.obsm``: a table with the names of the proteins as columns, or an array.
    names_uns_key
        Key of ``adata.uns`` with the names; None where a table in `obsm` has them, or nothing.
    modalities
        Names of the modalities of a MuData, by argument of ``setup_mudata``; empty for an AnnData.
    layer
        Layer of the protein modality; None is its X.
    """

    obsm_key: str
    names_uns_key: str | None = None
    modalities: dict[str, str] = field(default_factory=dict)
    layer: str | None = None

    @property
    def counts_name(self) -> str:
        """The counts as a user writes them."""
        return f"adata.obsm[{self.obsm_key!r}]"


@dataclass(frozen=True, kw_only=True)
class ProteinSchema(ProteinPlace):
    """Where the counts of proteins are, and what is known of them.

    Attributes
    ----------
    names
        Names in the model's order.
    measured
        For each batch code, whether it measured each protein.
    """

    names: tuple[str, ...]
    measured: tuple[tuple[bool, ...], ...]


@dataclass(frozen=True)
class Extent:
    """How far the values of a column reach in the cells that a schema was made for.

    Attributes
    ----------
    lowest, highest
        Of all cells.
    typical, large
        Median and 95 % quantile of the absolute values that are not 0, of the batch where it is smallest, and where it
        is largest.
    """

    lowest: float
    highest: float
    typical: tuple[float, float]
    large: tuple[float, float]


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
    continuous_extents, size_factor_extent, total_extent
        How far each continuous covariate, the size factors and the total counts of the cells reach; None where that is
        not known, or there is no such column.
    non_integer
        What is done with counts that are estimates: 'warn', 'refuse' or 'round'.

    Raises
    ------
    ValueError
        If its parts do not belong together.
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
    continuous_extents: tuple[Extent, ...] | None = None
    size_factor_extent: Extent | None = None
    total_extent: Extent | None = None
    non_integer: NonInteger = "warn"

    def __post_init__(self) -> None:
        check_non_integer(self.non_integer)
        proteins, lost = self.proteins, [key for key in self.category_keys if not self.categories.get(key)]
        spreads = {
            "a variance in library_prior": [variance for _, variance in self.library_prior],
            "a deviation in continuous_moments": [deviation for _, deviation in self.continuous_moments],
            "size_factor_scale": [self.size_factor_scale],
        }
        extents = [*(self.continuous_extents or ()), self.size_factor_extent, self.total_extent]
        named = [
            ("genes", self.genes),
            ("proteins", () if proteins is None else proteins.names),
            *self.categories.items(),
        ]
        mistakes = {
            f"no categories for {lost}": bool(lost),
            "library_prior has not one pair for each batch": len(self.library_prior) != self.n_batch,
            "continuous_moments has not one pair for each covariate": len(self.continuous_moments) != self.n_continuous,
            **{f"{name} is not above 0": min(values, default=1) <= 0 for name, values in spreads.items()},
            "continuous_extents has not one for each covariate": self.continuous_extents is not None
            and len(self.continuous_extents) != self.n_continuous,
            "the lowest value of an extent is above the highest": any(e.lowest > e.highest for e in extents if e),
            "it does not say for each batch which proteins were measured": proteins is not None
            and [len(row) for row in proteins.measured] != [len(proteins.names)] * self.n_batch,
            **{f"an entry of {name} occurs twice": len(set(entries)) < len(entries) for name, entries in named},
        }
        for mistake, was_made in mistakes.items():
            if was_made:
                raise ValueError(f"not a schema: {mistake}")

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
        return counts_name(self.layer)

    @property
    def category_keys(self) -> tuple[str, ...]:
        """The categorical columns, each once."""
        keys = (self.batch_key, self.labels_key, *self.categorical_covariate_keys)
        return tuple(dict.fromkeys(key for key in keys if key is not None))

    def _names(self, key: str | None) -> tuple[str, ...]:
        return ("0",) if key is None else self.categories.get(key, ())

    def to_json(self) -> dict[str, Any]:
        """What JSON can say, with the number of the format."""
        return {"format": _FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Schema:
        """The inverse of :meth:`to_json`, which reads what earlier versions wrote as well.

        Raises
        ------
        ValueError
            If an entry is missing, unknown, of the wrong type or out of range, or the format is of a newer version.
        """
        read = in_format(_FORMAT, "the schema", _mapping("a schema", values), _READERS)
        return _built(cls, {"non_integer": "warn", **read})  # which was not written down at first


def _of_format_1(values: dict[str, Any]) -> dict[str, Any]:
    """There were no unlabelled cells at first, and an entry for proteins was left out where a model reads none."""
    return {"unlabeled_category": None, "proteins": None, **values}


def _of_format_2(values: dict[str, Any]) -> dict[str, Any]:
    """How far the cells reach was not written down."""
    return {"continuous_extents": None, "size_factor_extent": None, "total_extent": None, **values}


_READERS = {1: _of_format_1, 2: _of_format_2}


def _built(kind: Any, values: Any) -> Any:
    """A schema of a kind from a mapping that has all of its fields, and no more."""
    types = get_type_hints(kind)
    wrong = sorted(set(_mapping(kind.__name__, values)) ^ set(types))
    if wrong:
        raise ValueError(f"not a schema of this version of scvi: missing or unknown entries {wrong}")
    return kind(**{name: _read(name, of_field, values[name]) for name, of_field in types.items()})


def _read(name: str, kind: Any, value: Any) -> Any:
    """A value from JSON as the type of a field: a text, flag or finite number, or a tuple or dict of these."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        kind = str  # which one it may be is checked by the schema
    if NoneType in inner:
        return None if value is None else _read(name, inner[0], value)
    if is_dataclass(kind):
        return _built(kind, value)
    if origin is dict:
        return {str(key): _read(name, inner[1], entry) for key, entry in _mapping(name, value).items()}
    if origin is tuple:  # of any length, tuple[X, ...], or of as many as are listed, which are all of one type
        if not isinstance(value, (list, tuple)) or (... not in inner and len(value) != len(inner)):
            raise ValueError(f"not a schema: {name} is {value!r}, not a list as it should be")
        return tuple(_read(name, inner[0], entry) for entry in value)
    if kind is float:
        return check_number(name, value, "a number")
    if not isinstance(value, kind):
        raise ValueError(f"not a schema: {name} is {value!r}, not of type {kind.__name__}")
    return value


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"not a schema: {name} is a mapping, not {type(value).__name__}")
    return value
