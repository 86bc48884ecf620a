"""run.json, as far as the page shows it."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from dreambooth_api.contract.layout import OutputLayout
from dreambooth_api.contract.message import Time
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.parsing.other_versions import with_known_fields
from dreambooth_api.schema.base import ACCEPTED
from dreambooth_storage import ObjectNotFoundError, Storage


class UnreadableRunError(ValueError):
    """A folder is not that of a run, or of one that this version cannot read."""


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, validate_by_alias=True, extra="ignore")


class Attempt(_Model):
    """An attempt that began to train."""

    attempt: int
    started_at: Time | None = None
    world_size: int = 1
    resumed_from_step: int | None = None
    versions: dict[str, str] = {}
    devices: list[str] = []


class License(_Model):
    """Of the base model's weights, where it is known."""

    name: str = ""
    link: str | None = None


class Evaluation(_Model):
    """A checkpoint that could have been exported."""

    step: int
    score: Annotated[float, Field(allow_inf_nan=False)]
    passed_over: bool = False


class Result(_Model):
    """What was exported and why; before that, which step is the best so far."""

    best_step: int | None = None
    stopped_early: str | None = None
    weights: dict[str, float] = {}
    evaluations: list[Evaluation] = []


class RunRecord(_Model):
    """The parts of run.json that are shown."""

    job: Annotated[DreamBoothJob, BeforeValidator(with_known_fields)]
    global_batch: int | None = None
    model_license: License | None = None
    seeds: dict[str, int] = {}
    hashes: dict[str, str] = {}
    images: dict[str, list[str]] = {}
    captions: dict[str, dict[str, str]] = {}
    warnings: list[str] = []
    notes: list[str] = []
    attempts: list[Attempt] = []
    result: Result = Result()


def read_record(storage: Storage, layout: OutputLayout) -> RunRecord:
    """What a run has recorded.

    Raises:
        UnreadableRunError: The folder holds no run, or run.json is damaged.
        StorageError: It cannot be read.
    """
    try:
        # Whatever rules have come since it began.
        return RunRecord.model_validate_json(storage.read(layout.run_record), context=ACCEPTED)
    except ObjectNotFoundError as error:
        raise UnreadableRunError(
            f"{layout.root}: holds no {layout.RUN_RECORD}; either this run has not begun to train,"
            " or it is not the folder of a run, <output>/<namespace>/<name>/<uid>"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UnreadableRunError(
            f"{layout.run_record}: {where}: {first['msg']}; the file is damaged, or of another"
            " version of dreambooth"
        ) from error
