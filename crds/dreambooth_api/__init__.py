"""The DreamBoothJob API, the only definition of a job."""

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.parsing.load import InvalidJobError, dump, load, parse
from dreambooth_api.parsing.warnings.advice import warnings

__all__ = ["DreamBoothJob", "InvalidJobError", "dump", "load", "parse", "warnings"]
