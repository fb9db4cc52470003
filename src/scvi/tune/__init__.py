"""Search of the arguments with which a model fits cells best, on optuna; needs the extra `[tune]`.

>>> scvi.SCVI.setup_anndata(adata, batch_key="batch")
>>> found = scvi.tune.search(scvi.SCVI, adata, n_trials=30)
"""

from scvi.tune.metrics import METRICS
from scvi.tune.record import Search
from scvi.tune.search import search
from scvi.tune.spaces import default_space

__all__ = ["METRICS", "Search", "default_space", "search"]
