"""Settings: the search-space YAML and ``--set``, validated."""

from evo_agd.config.load import dump, load
from evo_agd.config.settings import (
    CellSettings,
    Settings,
    SuperResolutionSettings,
    TranslationSettings,
)

__all__ = [
    "CellSettings",
    "Settings",
    "SuperResolutionSettings",
    "TranslationSettings",
    "dump",
    "load",
]
