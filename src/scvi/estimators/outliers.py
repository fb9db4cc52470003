"""Cells that lie apart from the others of their group in the latent space."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from scvi.cells.cell_data import CellData
from scvi.estimators.base import Estimator
from scvi.queries import latent
from scvi.queries.groups import Groups

_SHARE = 0.1  # of the cells of a group that are taken to lie apart
_LEAST = 5  # cells for each dimension of the latent space, below which nobody can say


def without_outliers(self: Estimator, data: CellData, groups: Groups, batch_size: int | None) -> Groups:
    """The same groups without the tenth of each that is furthest from its centre, as its covariance measures it.

    The centre and the covariance are robust (Rousseeuw & Van Driessen 1999). Small groups stay as they are.
    """
    from sklearn.covariance import EllipticEnvelope

    members = groups.members
    z = latent.latent(self.module, self._minibatches(data, members, batch_size))
    codes = groups.codes.copy()
    for pool in range(groups.n_pools):
        cells = np.flatnonzero(groups.codes[members] == pool)
        if len(cells) >= _LEAST * z.shape[1]:
            envelope = EllipticEnvelope(contamination=_SHARE, random_state=0).fit(z[cells])
            codes[members[cells[envelope.predict(z[cells]) < 0]]] = -1
    return replace(groups, codes=codes)
