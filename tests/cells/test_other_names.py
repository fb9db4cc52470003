"""Why genes are missing is said wherever it is noticed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scvi.cells.missing_genes import with_genes
from scvi.cells.other_names import ENOUGH, likely_cause
from scvi.dataset import declare, encode

SYMBOLS = ["CD3E", "CD4", "CD8A", "HLA-DRA", "LYZ", "NKG7", "GNLY", "MS4A1", "PPBP", "FCER1A", "CST3", "S100A8"]
IDENTIFIERS = [f"ENSG{j:011d}" for j in range(12)]
SPELLINGS: dict[str, tuple[list[str], Callable[[str], str], str]] = {
    "species": (SYMBOLS, str.capitalize, "'CD3E' is there as 'Cd3e' .*upper and lower case"),
    "to the other species": (
        [s.capitalize() for s in SYMBOLS],
        str.upper,
        "'Cd3e' is there as 'CD3E' .*another species",
    ),
    "versions": (IDENTIFIERS, "{}.7".format, "a version at the end"),
    "no versions": ([f"{name}.12" for name in IDENTIFIERS], lambda name: name[:15], "a version at the end"),
    "genome": (SYMBOLS, "GRCh38_{}".format, "a genome or 'gene:' in front"),
    "genome of a mouse": (SYMBOLS, "mm10___{}".format, "a genome or 'gene:' in front"),
    "gene": (IDENTIFIERS, "gene:{}".format, "a genome or 'gene:' in front"),
    "dashes": ([f"MT-{s}" for s in SYMBOLS], lambda name: name.replace("-", "_"), "'-', '_', '.' or spaces"),
    "spaces": (SYMBOLS, " {} ".format, "'-', '_', '.' or spaces"),
    "identifiers": (
        SYMBOLS,
        dict(zip(SYMBOLS, IDENTIFIERS, strict=True)).__getitem__,
        r"the missing ones are symbols, such as 'CD3E', .* there Ensembl identifiers \(ENSG\.\.\.\)",
    ),
    "symbols": (
        IDENTIFIERS,
        lambda name: SYMBOLS[int(name[4:])],
        r"Ensembl identifiers .*and those that are there sym",
    ),
    "identifiers of mice": (IDENTIFIERS, lambda name: f"ENSMUSG{name[4:]}", r"\(ENSG\.\.\.\).*\(ENSMUSG\.\.\.\)"),
    "numbers": (SYMBOLS, lambda name: str(SYMBOLS.index(name) + 900), "symbols, .* numbers, such as '900'"),
}
OF = pytest.mark.parametrize("spelling", SPELLINGS)


def renamed(adata: AnnData, spelling: str) -> tuple[AnnData, AnnData, str]:
    """The cells under the names of a reference and under other ones, and what is to be said of that."""
    names, rename, message = SPELLINGS[spelling]
    reference, query = adata.copy(), adata.copy()
    reference.var_names, query.var_names = names, [rename(name) for name in names]
    return reference, query, message


@OF
def test_of_cells_given_later(adata: AnnData, spelling: str) -> None:
    reference, query, message = renamed(adata, spelling)
    schema, *_ = declare(reference)
    with pytest.raises(ValueError, match=f"lacks 12 of the 12 genes that the model reads.*{message}.*rename them"):
        encode(query, schema)
    with pytest.raises(ValueError, match=f"adata has 0 of the 12 genes.*{message}"):
        with_genes(query, schema, 0.5)
    with pytest.raises(ValueError, match=f"mask_var names 12 genes that adata lacks.*{message}"):
        declare(query, mask_var=list(schema.genes))


@OF
def test_of_some_genes(adata: AnnData, spelling: str) -> None:
    """A warning that genes are taken as zeros says it too."""
    reference, query, message = renamed(adata, spelling)
    query.var_names = [*reference.var_names[:9], *query.var_names[9:]]
    message = message.replace("CD3E", "FCER1A").replace("Cd3e", "Fcer1a").replace("900", "909")
    if "the missing ones" in message or spelling.startswith(("identifiers", "symbols", "numbers")):
        message = ""  # most of what is there is as it should be
    with pytest.warns(UserWarning, match=f"adata has 9 of the 12 genes .*{message}"):
        with_genes(query, declare(reference)[0], 0.5)


@pytest.mark.parametrize("dtype", [object, "string", "category"])
def test_a_column_of_var_that_has_the_names(adata: AnnData, dtype: Any) -> None:
    reference, query, _ = renamed(adata, "identifiers")
    schema, *_ = declare(reference)
    query.var["numbers"] = np.arange(12)
    query.var["symbol"] = pd.Series(SYMBOLS, index=query.var_names).astype(dtype)
    remedy = r"adata.var\['symbol'\] has 12 of them: adata.var_names = adata.var\['symbol'\].astype\(str\)"
    for call in (lambda: encode(query, schema), lambda: with_genes(query, schema, 0.5)):
        with pytest.raises(ValueError, match=remedy):
            call()
    query.var_names = query.var["symbol"].astype(str)
    encode(query, schema)


def test_no_cause_in_sight(adata: AnnData) -> None:
    """Other genes are other genes; then the nearest name is what there is to say."""
    assert likely_cause(["CD3E", "CD4"], ["LYZ", "NKG7"]) == ""
    assert likely_cause([], ["LYZ"]) == likely_cause(["LYZ"], []) == ""
    schema, *_ = declare(adata)
    adata.var_names = [*adata.var_names[:-1], "GENE11"]  # a single one may be a slip
    with pytest.raises(ValueError, match=r"lacks 1 of the 12 genes .*'gene11'; did you mean 'GENE11'"):
        encode(adata, schema)


@pytest.mark.parametrize(("n", "is_said"), [(4, False), (5, True)])
def test_how_many_have_to_be_there(n: int, is_said: bool) -> None:
    """A tenth of what is missing, or of what is there where that is less."""
    missing, there = [f"A{i}" for i in range(50)], [*(f"a{i}" for i in range(n)), *(f"B{i}" for i in range(500))]
    assert ENOUGH == 0.1
    assert bool(likely_cause(missing, there)) is is_said
    assert bool(likely_cause(there, missing)) is is_said
