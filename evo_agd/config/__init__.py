"""Settings: the search-space YAML and ``--set``, validated."""

from evo_agd.config.load import dump, load
from evo_agd.config.settings import Settings

__all__ = ["Settings", "dump", "load"]
