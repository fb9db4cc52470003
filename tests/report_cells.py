"""Cells of which names are code."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

from small_cells import make_adata

TAG, IMAGE = "<script>window.wrong=1</script>", '"><img src=x onerror="window.wrong=1">'
SCRIPT = f"</script>{TAG}"


def hostile() -> AnnData:
    """Of a column, of batches, of cell types and of genes."""
    adata = make_adata()
    names = adata.var_names.tolist()
    adata.var_names = [IMAGE, SCRIPT, *names[2:]]
    adata.obs[TAG] = pd.Categorical(np.where(np.arange(adata.n_obs) % 2, TAG, SCRIPT + IMAGE))
    adata.obs["cell_type"] = adata.obs["cell_type"].replace({"t1": IMAGE})
    return adata
