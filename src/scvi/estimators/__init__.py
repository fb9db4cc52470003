"""AnnData-first models."""

from scvi.estimators.autozi import AUTOZI
from scvi.estimators.cond_scvi import CondSCVI
from scvi.estimators.gimvi import GIMVI
from scvi.estimators.linear_scvi import LinearSCVI
from scvi.estimators.scanvi import SCANVI
from scvi.estimators.scvi import SCVI
from scvi.estimators.totalvi import TOTALVI

__all__ = ["AUTOZI", "GIMVI", "SCANVI", "SCVI", "TOTALVI", "CondSCVI", "LinearSCVI"]
