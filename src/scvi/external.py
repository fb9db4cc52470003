"""Further estimators under the name that scripts know: ``scvi.external.GIMVI`` is ``scvi.GIMVI``."""

from scvi.estimators import GIMVI

__all__ = ["GIMVI"]
