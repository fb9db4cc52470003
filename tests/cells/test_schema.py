from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from scvi.cells.schema import Extent
from scvi.dataset import Schema

EXTENT = Extent(-1 / 3, 1 / 3, (0.1, 0.2), (0.3, 1 / 3))


def schema() -> Schema:
    return Schema(
        layer="counts",
        batch_key="batch",
        labels_key=None,
        categorical_covariate_keys=("donor", "batch"),
        continuous_covariate_keys=("age",),
        genes=("g1", "g2"),
        categories={"batch": ("x", "y"), "donor": ("1", "2", "3")},
        library_prior=((3.25, 0.1), (1 / 3, 1e-4)),
        size_factor_scale=1.7,
        continuous_moments=((50.5, 1 / 7),),
        continuous_extents=(EXTENT,),
        total_extent=replace(EXTENT, highest=1e4),
    )


def test_derived_numbers() -> None:
    s = schema()
    assert (s.n_genes, s.n_batch, s.n_labels, s.n_continuous, s.n_cats_per_cov) == (2, 2, 1, 1, (3, 2))
    assert s.batch_names == ("x", "y")
    assert s.label_names == ("0",)
    assert s.category_keys == ("batch", "donor")
    assert s.counts_name == "adata.layers['counts']"
    assert Schema().counts_name == "adata.X"


def test_json_round_trip_is_exact() -> None:
    assert Schema.from_json(json.loads(json.dumps(schema().to_json()))) == schema()
    assert Schema.from_json(Schema(genes=("a",)).to_json()) == Schema(genes=("a",))


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("batch_key", 3),
        ("genes", "g1"),
        ("genes", [1, 2]),
        ("genes", ["g1", "g1"]),
        ("categories", None),
        ("categories", {}),
        ("categories", {"batch": [], "donor": ["1"]}),
        ("categories", {"batch": ["x", "x"], "donor": ["1"]}),
        ("library_prior", [[1.0, 1.0]]),
        ("library_prior", 3),
        ("library_prior", [[1.0], [2.0]]),
        ("library_prior", [[1.0, 1.0], [1.0, 0.0]]),
        ("library_prior", [[1.0, 1.0], [1.0, -1.0]]),
        ("library_prior", [[1.0, 1.0], [float("nan"), 1.0]]),
        ("library_prior", [[1.0, 1.0], [1.0, float("inf")]]),
        ("library_prior", [[1.0, 1.0], [10**400, 1.0]]),
        ("library_prior", [[1.0, 1.0], ["2", 1.0]]),
        ("continuous_moments", []),
        ("continuous_moments", [[0.0, 1.0], [0.0, 1.0]]),
        ("continuous_moments", [[0.0, 0.0]]),
        ("continuous_moments", None),
        ("continuous_extents", []),
        ("size_factor_scale", None),
        ("size_factor_scale", "big"),
        ("size_factor_scale", 0.0),
        ("size_factor_scale", 10**400),
    ],
)
def test_a_damaged_entry_is_a_value_error(entry: str, value: Any) -> None:
    with pytest.raises(ValueError, match=entry if value != {"batch": ["x", "x"], "donor": ["1"]} else "batch"):
        Schema.from_json({**schema().to_json(), entry: value})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3.0, "Extent is a mapping, not float"),
        ({"lowest": 0.0}, "missing or unknown entries .*'highest'"),
        ({**asdict(EXTENT), "lowest": 2.0}, "the lowest value of an extent is above the highest"),
        ({**asdict(EXTENT), "large": [1.0]}, "large is"),
        ({**asdict(EXTENT), "highest": float("nan")}, "highest=nan is not a number"),
    ],
)
def test_a_damaged_extent_is_a_value_error(value: Any, message: str) -> None:
    for changes in ({"total_extent": value}, {"size_factor_extent": value}, {"continuous_extents": [value]}):
        with pytest.raises(ValueError, match=message):
            Schema.from_json({**schema().to_json(), **changes})


def test_missing_and_unknown_entries_are_named() -> None:
    values = schema().to_json()
    del values["genes"]
    with pytest.raises(ValueError, match="'genes', 'more'"):
        Schema.from_json({**values, "more": 1})
    with pytest.raises(ValueError, match="not list"):
        Schema.from_json([])  # type: ignore[arg-type]


def test_a_schema_whose_parts_do_not_belong_together_cannot_be_made() -> None:
    for changes in ({"batch_key": "donor"}, {"labels_key": "lab"}, {"genes": ("a", "a")}, {"continuous_moments": ()}):
        with pytest.raises(ValueError, match="not a schema"):
            replace(schema(), **changes)


def test_schemas_of_earlier_formats_are_read() -> None:
    """They do not know how far their cells reach; in the first one two entries might be left out."""
    values = schema().to_json()
    assert values["format"] == 3
    for name in ("continuous_extents", "size_factor_extent", "total_extent"):
        del values[name]
    unknown = replace(schema(), continuous_extents=None, total_extent=None)
    assert Schema.from_json({**values, "format": 2}) == unknown
    del values["format"]
    for name in ("proteins", "unlabeled_category"):
        assert Schema.from_json(values) == unknown
        assert values.pop(name) is None
    assert Schema.from_json(values) == unknown


@pytest.mark.parametrize("number", [0, 4, "2", None, 2.0, True])
def test_other_formats_are_refused(number: Any) -> None:
    with pytest.raises(ValueError, match=rf"the schema has format {number!r}, .* reads 1 to 3: update scvi"):
        Schema.from_json({**schema().to_json(), "format": number})
