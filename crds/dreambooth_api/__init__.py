"""The DreamBoothJob API, the only definition of a job."""

from dreambooth_api.advice import warnings
from dreambooth_api.job import DreamBoothJob
from dreambooth_api.load import InvalidJob, dump, load, parse
from dreambooth_api.update import check_update

__all__ = ["DreamBoothJob", "InvalidJob", "check_update", "dump", "load", "parse", "warnings"]
