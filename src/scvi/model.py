"""The estimators under the name that scripts know: ``scvi.model.SCVI`` is ``scvi.SCVI``."""

from scvi.estimators import *  # noqa: F403
from scvi.estimators import __all__ as __all__
