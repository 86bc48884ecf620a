"""The evaluations of a run in storage: `selection/step-<step>.json`, each written once.

What is recorded is never recomputed: an attempt that trains a step again reads what an earlier one
found there. A record of other settings (images, encoders, samples) is replaced.
"""

import hashlib
import json
import logging
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from dreambooth_api.contract.layout import OutputLayout
from dreambooth_api.contract.message import MAX_STEP
from dreambooth_api.models.job import resolved
from dreambooth_storage import AlreadyExistsError, ObjectNotFoundError, Storage
from dreambooth_trainer.resolved_job import ResolvedJob, sample_settings
from dreambooth_trainer.selection.policy import Evaluation

log = logging.getLogger(__name__)

DECISIONS = ("every", "maxTimeFraction", "select", "earlyStopping")
"""Fields of spec.evaluation that change no score."""


class Record(BaseModel):
    """One evaluation as it is stored."""

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, serialize_by_alias=True, frozen=True
    )

    format: Literal[1] = 1
    settings: str
    """sha256 of the settings of the scores."""
    step: Annotated[int, Field(ge=1, le=MAX_STEP)]
    scores: dict[str, float]
    class_fidelity: float | None = None
    seconds: Annotated[float, Field(ge=0)]
    next_step: Annotated[int, Field(ge=1)]
    """Earliest step of the next evaluation, see `schedule`."""

    @property
    def evaluation(self) -> Evaluation:
        """What the best checkpoint is chosen by."""
        return Evaluation(self.step, self.scores, self.class_fidelity)


def scoring_settings(job: ResolvedJob) -> dict[str, object]:
    """The settings that samples and scores depend on, without those that are fixed in a run."""
    spec = resolved(job)["spec"]
    evaluation = spec.get("evaluation")
    if evaluation is not None:
        evaluation = {name: v for name, v in evaluation.items() if name not in DECISIONS}
    images = [subject.get("evaluationImages") for subject in spec["subjects"]]
    return {**sample_settings(job), "evaluation": evaluation, "images": images}


@dataclass(frozen=True)
class RecordStore:
    """Reads and writes the records of one run. Used by rank 0 alone; raises `StorageError`.

    Args:
        storage: Of the run.
        layout: Its paths.
        settings: `settings_hash` of the job.
    """

    storage: Storage
    layout: OutputLayout
    settings: str

    def read_all(self) -> list[Record]:
        """All records of these settings; others, and damaged ones, are left out."""
        listing = self.storage.list(self.layout.selection, field="spec.output")
        records = [self._read(each.uri) for each in listing if each.uri.endswith(".json")]
        return [record for record in records if record is not None]

    def read(self, step: int) -> Record | None:
        """The record of a step; None where there is none of these settings."""
        return self._read(self.layout.selection_at(step))

    def write(self, record: Record) -> Record:
        """Write a record; returns the one that counts, which another process may have written."""
        uri = self.layout.selection_at(record.step)
        data = record.model_dump_json(indent=1, exclude_none=True).encode()
        try:
            self.storage.write(uri, data, only_if_absent=True)
        except AlreadyExistsError:
            if (present := self._read(uri)) is not None:
                return present
            self.storage.write(uri, data)
        return record

    def _read(self, uri: str) -> Record | None:
        try:
            record = Record.model_validate_json(self.storage.read(uri, field="spec.output"))
        except ObjectNotFoundError:
            return None
        except ValidationError as error:
            log.warning("%s is not an evaluation, and is replaced: %s", uri, error)
            return None
        return record if record.settings == self.settings else None


def settings_hash(job: ResolvedJob) -> str:
    """sha256, in hexadecimal, of the settings of samples and scores."""
    text = json.dumps(scoring_settings(job), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
