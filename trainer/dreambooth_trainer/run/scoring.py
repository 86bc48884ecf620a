"""Scores of the model in its current state, for the baseline, during training and at its end."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from dreambooth_api.contract.scores import ScoreName, Scores
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.checkpoint import CheckpointStore
from dreambooth_trainer.data.cache import build_cache
from dreambooth_trainer.data.latents import ImageGroup, LatentStore
from dreambooth_trainer.evaluation.evaluator import Evaluator, load_evaluator
from dreambooth_trainer.evaluation.image_generator import ImageGenerator
from dreambooth_trainer.evaluation.samples import SampleWriter
from dreambooth_trainer.evaluation.validation_loss import ValidationLoss
from dreambooth_trainer.models import Family
from dreambooth_trainer.process.out_of_memory import explain_out_of_memory
from dreambooth_trainer.resume.run_record import add_result
from dreambooth_trainer.selection.policy import Evaluation
from dreambooth_trainer.selection.selector import CheckpointSelector
from dreambooth_trainer.training.module import DreamBooth

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scoring:
    """Samples and scores of the model in its current state. Methods are collective.

    Args:
        attempt: The current one.
        writer: Writes samples.
        evaluator: Scores generated images; None without spec.evaluation.
        validation: None without images that are not trained on.
    """

    attempt: Attempt
    writer: SampleWriter
    evaluator: Evaluator | None
    validation: ValidationLoss | None

    def record_baseline(self) -> None:
        """Write samples and scores of the base model.

        Raises:
            FencedError: A newer attempt owns the output; nothing is written.
            StoppedError: A rank was asked to stop.
        """
        self.writer.write(0)
        if self.evaluator is not None:
            with explain_out_of_memory("scoring", self.attempt.job):
                self.evaluator.score(0)
        if self.validation is not None:
            self.attempt.telemetry.record_validation_loss(0, self.validation.measure())
        self.attempt.check_stop()

    def evaluate(self, step: int) -> Evaluation:
        """Score the model of a step, and write its scores.

        Raises:
            FencedError: A newer attempt owns the output; nothing is written.
            StoppedError: A rank was asked to stop.
        """
        assert self.evaluator is not None
        with explain_out_of_memory("scoring", self.attempt.job):
            found = self.evaluator.score(step)
            loss = self.validation.measure() if self.validation else None
        return _evaluation(step, found, loss)


def load_scoring(
    attempt: Attempt,
    family: Family,
    writer: SampleWriter,
    held_out: Sequence[ImageGroup],
    check_owner: Callable[[], None],
) -> Scoring:
    """What scores the job's model. Collective.

    Args:
        attempt: The current one.
        family: The model.
        writer: Writes samples.
        held_out: Images that are not trained on.
        check_owner: Raises `FencedError` when a newer attempt owns the output. Collective.

    Raises:
        BadModelError: A model that scores cannot be loaded.
        StorageError: It cannot be read.
    """
    job = attempt.job
    validation = None
    if held_out:
        with explain_out_of_memory("encoding latents", job):
            cache = build_cache(
                family,
                held_out,
                job.spec.training.resolution,
                text_is_trained=job.spec.trains_text,
                store=LatentStore(attempt.storage, attempt.layout.latents),
                ranks=attempt.ranks,
                device=attempt.device,
            )
        validation = ValidationLoss(attempt, family, cache)
    with explain_out_of_memory("scoring", job):
        evaluator = load_evaluator(attempt, ImageGenerator(attempt, family), check_owner)
    return Scoring(attempt, writer, evaluator, validation)


def load_selector(
    attempt: Attempt, scoring: Scoring, store: CheckpointStore
) -> CheckpointSelector | None:
    """What chooses the best checkpoint; None without spec.evaluation. Collective."""
    evaluation = attempt.job.spec.evaluation
    if evaluation is None:
        return None
    return CheckpointSelector(attempt, evaluation, scoring.evaluate, store.check_owner)


def load_best(
    module: DreamBooth, selector: CheckpointSelector, store: CheckpointStore, last: int
) -> int:
    """Give the model the weights of the best checkpoint; returns their step. Collective.

    The model keeps the weights of the step `last` where no evaluated checkpoint can be read.
    """
    loaded = store.load_best(selector.choose, module.exported_group)
    if loaded is None:
        log.warning("no checkpoint that was evaluated can be read: the last one is exported")
        return last
    tensors, best = loaded
    module.load_exported(tensors)
    return best


def read_scores(attempt: Attempt, step: int, last: int) -> Scores:
    """The scores of a step that was evaluated, when training has ended at the step `last`.

    Raises:
        StorageError: They cannot be read.
        UnreadableScoresError: They are not of this version.
    """
    scores = Scores.decode(attempt.storage.read(attempt.layout.scores_at(step)))
    return scores.model_copy(update={"last_step": last})


def write_result(
    attempt: Attempt, selector: CheckpointSelector, store: CheckpointStore, exported: int
) -> None:
    """Write the scores of the exported model, and add it to run.json. Collective.

    Raises:
        FencedError: A newer attempt owns the output; nothing is written.
    """
    store.check_owner()
    storage, layout = attempt.storage, attempt.layout

    def write() -> None:
        scores = read_scores(attempt, exported, selector.last_step)
        update = {
            "exported_step": exported,
            "validation_loss": selector.scores_of(exported).get("validationLoss"),
            "selection": selector.selection(exported),
        }
        storage.write(layout.scores, scores.model_copy(update=update).encode())
        add_result(storage, layout, selector.result(exported))

    attempt.ranks.run_on_first(write)
    if selector.chooses and selector.has_lost_class(exported):
        log.warning(
            "the class fidelity of step %d, which is exported, is below its limit, as that of every"
            " evaluation: set spec.prior.target to prediction, raise spec.prior.weight, or lower"
            " spec.evaluation.select.minClassFidelity",
            exported,
        )


def _evaluation(step: int, found: Scores, loss: float | None) -> Evaluation:
    """What the best checkpoint is chosen by: the scores of all subjects together."""
    values: dict[str, list[float]] = {}
    for subject in found.subjects:
        for name, score in subject.scores.items():
            if score.trained is not None:
                values.setdefault(name, []).append(score.trained.value)
    scores = {name: fmean(each) for name, each in values.items()}
    if loss is not None:
        scores["validationLoss"] = loss
    return Evaluation(step, scores, min(values.get(ScoreName.CLASS_FIDELITY, []), default=None))
