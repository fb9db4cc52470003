"""A category is not its spelling: whichever type a column or an argument has, an integer is that integer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad
from hypothesis import given, settings
from hypothesis import strategies as st

from scvi.cells.categories import joined, key_of, places_among
from scvi.cells.schema import Schema
from scvi.cells.setup import declare, extended, labelled_schema
from scvi.dataset import encode
from scvi.estimators.cells import codes_among

NUMBERS: dict[str, Callable[[list[int]], Any]] = {
    **{dtype: lambda values, dtype=dtype: np.array(values, dtype=dtype) for dtype in ("int64", "int16", "float32")},
    **{dtype: lambda values, dtype=dtype: pd.array(values, dtype=dtype) for dtype in ("Int64", "Int16", "Float64")},
    "float64": lambda values: np.array(values, dtype=np.float64),
    "objects": lambda values: np.array([*values, None], dtype=object)[:-1],
    "float objects": lambda values: np.array([*map(float, values), None], dtype=object)[:-1],
    "text": lambda values: np.array(list(map(str, values)), dtype=object),
    "text of floats": lambda values: np.array([f"{value}.0" for value in values], dtype=object),
    "string": lambda values: pd.array(list(map(str, values)), dtype="string"),
}
FLAGS: dict[str, Callable[[list[int]], Any]] = {
    "bool": lambda values: np.array(values, dtype=bool),
    "boolean": lambda values: pd.array(list(map(bool, values)), dtype="boolean"),
    "flags as text": lambda values: np.array([str(bool(value)) for value in values], dtype=object),
}
ARGUMENTS: dict[str, Callable[[int], Any]] = {
    "int": int,
    "float": float,
    "text": str,
    "text of a float": lambda value: f"{value}.0",
    "numpy integer": np.int64,
    "numpy float": np.float32,
    "numpy text": lambda value: np.str_(value),
    "array of no axis": lambda value: np.array(value),
}
FLAG_ARGUMENTS: dict[str, Callable[[int], Any]] = {
    "bool": bool,
    "numpy bool": np.bool_,
    "flag as text": lambda value: str(bool(value)),
}


@st.composite
def columns(draw: st.DrawFn) -> tuple[list[int], list[Any], Callable[[int], Any]]:
    """Some categories, two columns of six cells that spell them in ways of their own, and one for an argument."""
    flags = draw(st.booleans())
    kinds, arguments = ({**NUMBERS, **FLAGS}, {**ARGUMENTS, **FLAG_ARGUMENTS}) if flags else (NUMBERS, ARGUMENTS)
    names = [0, 1] if flags else draw(st.lists(st.integers(-9999, 9999), min_size=2, max_size=4, unique=True))
    values = draw(st.permutations((names * 3)[:6]))
    both = [kinds[draw(st.sampled_from(sorted(kinds)))](values) for _ in range(2)]
    both = [pd.Categorical(column) if draw(st.booleans()) else column for column in both]
    return values, both, arguments[draw(st.sampled_from(sorted(arguments)))]


def cells(column: Any, key: str = "batch") -> AnnData:
    counts = np.random.default_rng(0).poisson(3.0, (len(column), 4)).astype(np.float32) + 1
    names = [f"cell{i}" for i in range(len(column))]
    return AnnData(counts, obs=pd.DataFrame({key: column}, index=names), var=pd.DataFrame(index=list("abcd")))


def mixed(values: Sequence[Any]) -> np.ndarray:
    """Values of many types as a column."""
    return np.array([*values, None], dtype=object)[:-1]


def names_of(values: Sequence[int], column: Any) -> dict[int, str]:
    return {value: str(entry) for value, entry in zip(values, pd.Series(column).tolist(), strict=True)}


# ---- what matches ----------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(columns())
def test_reference_query_and_argument_agree_whatever_their_types(drawn: Any) -> None:
    """The names are those of the reference, and every spelling finds its code."""
    values, (reference, query), argument = drawn
    schema, *_ = declare(cells(reference), batch_key="batch")
    names = names_of(values, reference)
    assert set(schema.batch_names) == set(names.values())
    codes = [schema.batch_names.index(names[value]) for value in values]
    assert encode(cells(reference), schema).batch.tolist() == codes
    assert encode(cells(query), schema).batch.tolist() == codes
    assert extended(schema, cells(query), labels=False)[0] == schema  # no category is new
    assert [codes_among(argument(value), schema.batch_names, "{}").tolist() for value in values] == [[c] for c in codes]
    assert codes_among([argument(value) for value in values], schema.batch_names, "{}").tolist() == codes


@settings(max_examples=100, deadline=None)
@given(columns())
def test_cells_are_unlabelled_however_their_category_is_spelled(drawn: Any) -> None:
    values, (reference, query), argument = drawn
    unknown, names = values[0], names_of(values, reference)
    adata = cells(reference, "label")
    schema, *_ = declare(adata, labels_key="label", unlabeled_category=argument(unknown))
    assert schema.unlabeled_category == names[unknown]
    assert set(schema.label_names) == set(names.values()) - {names[unknown]}
    codes = [-1 if value == unknown else schema.label_names.index(names[value]) for value in values]
    for given_cells in (adata, cells(query, "label")):
        assert encode(given_cells, schema).labels.tolist() == codes
    later = labelled_schema(adata, declare(adata)[0], "label", argument(unknown))
    assert (later.label_names, later.unlabeled_category) == (schema.label_names, schema.unlabeled_category)


@pytest.mark.parametrize("category", [-1, -1.0, "-1", "-1.0", 10, 0.5])
def test_a_number_that_does_not_occur_may_stand_for_unlabelled(category: Any) -> None:
    """It is not a misspelling of another number."""
    schema, *_ = declare(
        cells(np.array([1.0, 2.0, 100.0] * 2), "label"), labels_key="label", unlabeled_category=category
    )
    assert schema.label_names == ("1.0", "2.0", "100.0")
    assert schema.unlabeled_category == str(category)


@pytest.mark.parametrize(
    ("names", "category"),
    [(["01", "2"], 1), (["1", "2"], "01"), (["1.10", "2"], 1.1), (["1", "2"], "1.00"), (["NaN", "2"], "nan")],
)
def test_a_number_in_a_spelling_of_its_own_is_refused_as_unlabelled(names: list[str], category: Any) -> None:
    adata = cells(np.array(names * 2, dtype=object), "label")
    with pytest.raises(ValueError, match=f"unlabeled_category='{category}' does not occur"):
        declare(adata, labels_key="label", unlabeled_category=category)


@pytest.mark.parametrize("key", ["batch_key", "labels_key", "categorical_covariate_keys"])
def test_every_column_is_matched_so(key: str) -> None:
    reference, query = cells(np.array([2.0, 1.0, 2.0, 1.0])), cells(np.array(["2", "1", "2", "1"]))
    schema, *_ = declare(reference, **{key: ["batch"] if key.endswith("keys") else "batch"})  # type: ignore[arg-type]
    found = encode(query, schema)
    part = {"batch_key": found.batch, "labels_key": found.labels, "categorical_covariate_keys": found.categorical}[key]
    assert part is not None
    assert part.ravel().tolist() == [1, 0, 1, 0]
    assert schema.categories == {"batch": ("1.0", "2.0")}  # as the reference spells them


def test_flags_that_went_through_files(tmp_path: Any) -> None:
    """A column of True and False is text in a csv file, 0 and 1 after arithmetic, and itself in an h5ad file."""
    adata = cells(np.array([True, False, False, True]))
    schema, *_ = declare(adata, batch_key="batch")
    adata.obs.to_csv(tmp_path / "obs.csv")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    text = pd.read_csv(tmp_path / "obs.csv", index_col=0, dtype={"batch": str})
    for column in (text["batch"], read_h5ad(tmp_path / "cells.h5ad").obs["batch"], adata.obs["batch"] * 1.0):
        assert encode(cells(column.to_numpy()), schema).batch.tolist() == [1, 0, 0, 1]
    assert schema.batch_names == ("False", "True")


def test_doses_in_single_precision() -> None:
    """0.1 in float32 is 0.1, though as a float it is 0.10000000149011612: so earlier models have it by name."""
    doses = np.array([0.1, 0.5, 0.1, 2.0])
    for reference in (doses, doses.astype(np.float32), doses.astype(str)):
        schema, *_ = declare(cells(reference), batch_key="batch")
        for query in (doses, doses.astype(np.float32), pd.array(doses, dtype="Float32"), doses.astype(str)):
            assert encode(cells(query), schema).batch.tolist() == [0, 1, 0, 2]
        assert codes_among(["0.1", 0.1, np.float32(0.1)], schema.batch_names, "{}").tolist() == [0, 0, 0]


def test_new_categories_of_a_query_are_added_as_it_spells_them() -> None:
    schema, *_ = declare(cells(np.array(["1", "2", "2", "1"])), batch_key="batch")
    wider, _ = extended(schema, cells(np.array([2.0, 3.0, 3.0, 2.0])), labels=False)
    assert wider.batch_names == ("1", "2", "3.0")
    assert encode(cells(np.array([3, 2, 1])), wider).batch.tolist() == [2, 1, 0]
    assert joined(("a", "1"), ("1.0", "b", "a")) == ("a", "1", "b")


def test_a_column_keeps_its_own_order() -> None:
    reference = pd.Categorical([10, 9, 10, 9], categories=[10, 8, 9])
    schema, *_ = declare(cells(reference), batch_key="batch")
    assert schema.batch_names == ("10", "9")
    assert encode(cells(np.array([9.0, 10.0])), schema).batch.tolist() == [1, 0]


@given(st.integers())
def test_integers_of_any_size(value: int) -> None:
    """A float beyond 2**53 is the integer that it holds, and no other."""
    assert key_of(value) == key_of(str(value)) == key_of(Decimal(value)) == key_of(Fraction(value)) == str(value)
    nearest = float(value)
    assert key_of(nearest) == key_of(repr(nearest)) == key_of(int(nearest))
    assert (key_of(nearest) == key_of(value)) == (int(nearest) == value)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_single_precision_is_what_it_prints(value: float) -> None:
    single = np.float32(value)
    assert key_of(single) == key_of(float(single)) == key_of(repr(float(single)))
    if not value.is_integer():
        assert key_of(single) == key_of(float(str(single)))


@given(st.floats(-1e30, 1e30), st.sampled_from([np.float32, np.float64, lambda value: np.nextafter(value, 1e38)]))
def test_different_numbers_are_different_categories(a: float, near: Callable[[float], float]) -> None:
    b = float(near(a))
    singles = [float(np.float32(x)) == x for x in (a, b)]
    if a == b or singles[0] == singles[1]:
        assert (key_of(a) == key_of(b)) == (a == b)
    assert key_of(a) == key_of(repr(a)) == key_of(np.float64(a))


def number_of(text: str) -> int | float | None:
    """The number that a text is, if it is spelled as one."""
    if text in ("True", "False"):
        return int(text == "True")
    if re.fullmatch(r"0|-?[1-9][0-9]*", text):
        return int(text)
    try:
        return float(text) if str(float(text)) == text and text != "nan" else None
    except ValueError:
        return None


@given(
    st.lists(st.text(alphabet="0123.e+- _T", max_size=6) | st.sampled_from(["True", "False"]), min_size=2, max_size=2)
)
def test_texts_match_as_numbers_only_where_they_are_spelled_as_numbers(texts: list[str]) -> None:
    numbers = [number_of(text) for text in texts]
    same_number = None not in numbers and numbers[0] == numbers[1]
    assert (key_of(texts[0]) == key_of(texts[1])) == (texts[0] == texts[1] or same_number)


# ---- what does not ---------------------------------------------------------------------------------------------------

DIFFERENT = [
    ("1.1", "1.10"),
    ("1", "01"),
    ("1", "1.00"),
    ("1", " 1"),
    ("1", "1 "),
    ("1", "+1"),
    ("1", "\u0661"),  # a digit of another script
    ("1000", "1e3"),
    ("1000", "1_000"),
    ("0", "-0"),
    ("0", ""),
    ("inf", "Infinity"),
    ("nan", "NaN"),
    ("True", "true"),
    ("True", "yes"),
    ("1", "-1"),
    (1, 1.5),
    (True, 2),
    (2**53, str(2**53 + 1)),
    (float(2**53), 2**53 + 1),
    (0.1, "0.10"),
    (np.float32(0.1), 0.1000001),
    (1, "b'1'"),
    (1, "1j"),
]


@pytest.mark.parametrize(("reference", "query"), DIFFERENT)
def test_what_is_another_category(reference: Any, query: Any) -> None:
    assert key_of(reference) != key_of(query)
    for first, second in ((reference, query), (query, reference)):
        schema, *_ = declare(cells(mixed([first, "other"] * 2)), batch_key="batch")
        with pytest.raises(ValueError, match="holds categories that the model has never seen"):
            encode(cells(mixed([second, "other"] * 2)), schema)
        with pytest.raises(ValueError, match="is not a batch of the model"):
            codes_among(second, schema.batch_names, "{!r} is not a batch")
        assert extended(schema, cells(mixed([second, "other"])), labels=False)[0].n_batch == 3
    both, *_ = declare(cells(mixed([reference, query] * 2)), batch_key="batch")
    assert both.n_batch == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (1, "1"),
        (1, 1.0),
        (1, True),
        (0.0, False),
        (1, "1.0"),
        ("1", "1.0"),
        (1.0, "1"),
        (True, "True"),
        (True, "1"),
        ("False", "0.0"),
        (-1, "-1.0"),
        ("0", "-0.0"),
        (2.5, "2.5"),
        (float("inf"), "inf"),
        (1e16, "1e+16"),
        ("10000000000000000", "1e+16"),
    ],
)
@pytest.mark.parametrize("categorical", [False, True])
def test_two_spellings_in_one_column_are_refused(first: Any, second: Any, categorical: bool) -> None:
    """At set-up, in a query and where a query brings new categories; and the remedy that the message names mends it."""
    assert key_of(first) == key_of(second)
    column: Any = mixed([first, second, "b", first] * 2)
    if categorical and first != second:  # equal ones cannot be two categories of one column
        column = pd.Categorical(column)
    adata, schema = cells(column), declare(cells(mixed([first, "b"] * 2)), batch_key="batch")[0]
    calls = [
        lambda: declare(adata, batch_key="batch"),
        lambda: encode(adata, schema),
        lambda: extended(schema, adata, labels=False),
    ]
    for call in calls:
        with pytest.raises(
            ValueError, match=r"batch_key: adata\.obs\['batch'\] holds .*two spellings of one"
        ) as caught:
            call()
    message = str(caught.value)
    assert all(f"{value!r} ({type(value).__name__})" in message for value in (first, second))
    remedy = re.search(r"with adata\.obs\['batch'\] = (.*), or rename", message)
    assert remedy is not None
    adata.obs["batch"] = eval(remedy[1], {"adata": adata})
    assert declare(adata, batch_key="batch")[0].n_batch == 2
    assert encode(adata, schema).batch.tolist() == [
        schema.batch_names.index(str(first)),
        *encode(adata, schema).batch[1:],
    ]


def test_one_spelling_of_several_types_is_none_too_many() -> None:
    """Integers of Python and numpy, and categories that do not occur, are no second spelling."""
    assert declare(cells(mixed([1, np.int64(1), "b", 1])), batch_key="batch")[0].batch_names == ("1", "b")
    assert declare(cells(mixed([0.1, np.float32(0.1), "b"])), batch_key="batch")[0].batch_names == ("0.1", "b")
    unused = pd.Categorical(["1", "b", "1", "b"], categories=["1.0", "1", "b"])
    assert declare(cells(unused), batch_key="batch")[0].batch_names == ("1", "b")


def test_an_earlier_model_may_know_two_spellings_of_a_category() -> None:
    """Then each goes by its spelling, as when the model was fitted."""
    schema = Schema(
        batch_key="batch", genes=tuple("abcd"), categories={"batch": ("1", "1.0")}, library_prior=((1.0, 1.0),) * 2
    )
    assert encode(cells(np.array(["1.0", "1", "1.0"])), schema).batch.tolist() == [1, 0, 1]
    assert encode(cells(np.array([1, 1])), schema).batch.tolist() == [0, 0]
    assert encode(cells(np.array([1.0, 1.0])), schema).batch.tolist() == [1, 1]
    assert places_among(("1", "1.0"), [True, "x"]).tolist() == [0, -1]


def test_values_are_looked_up_by_category_not_by_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    from scvi.cells import categories

    looked_up = []
    monkeypatch.setattr(categories, "key_of", lambda value: looked_up.append(value) or key_of(value))
    adata = cells(np.arange(5000) % 3)
    encode(adata, declare(adata, batch_key="batch")[0])
    assert len(looked_up) < 50
