"""Loads the model that a run has trained: what it has exported, or one of its checkpoints."""

from collections.abc import Iterable
from dataclasses import dataclass

from dreambooth_api.contract.layout import OutputLayout
from dreambooth_api.contract.scores import Scores, UnreadableScoresError
from dreambooth_api.models.job import DreamBoothJob, accepted
from dreambooth_api.models.model import Model
from dreambooth_storage import ObjectNotFoundError, Storage, StorageError
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.checkpoint import CheckpointStore
from dreambooth_trainer.checkpoint.retention import ChooseStep
from dreambooth_trainer.export.load import adapter_files, add_exported, list_export
from dreambooth_trainer.models import Family, load_family
from dreambooth_trainer.models.adapters.start import ADAPTER_FIELD, load_adapter
from dreambooth_trainer.models.adapters.trainable import make_trainable
from dreambooth_trainer.models.defaults import fill_defaults
from dreambooth_trainer.models.model_config import ModelConfig, read_model_config
from dreambooth_trainer.models.tokens.learn import add_words
from dreambooth_trainer.models.tokens.names import learned_words
from dreambooth_trainer.process.errors import BadConfigError, BadModelError, TrainerError
from dreambooth_trainer.resolved_job import ResolvedJob
from dreambooth_trainer.resume.run_record import read_run_record
from dreambooth_trainer.selection.policy import Evaluation, best_of, with_limit
from dreambooth_trainer.selection.record import RecordStore, settings_hash
from dreambooth_trainer.training.saved_weights import copy_weights, exported_group, starts

ELSEWHERE = "if the base model of the result is elsewhere, name the place with --base"


@dataclass(frozen=True)
class Result:
    """A trained model."""

    family: Family
    """Ready to generate images."""
    source: str
    """URI of what was loaded."""
    step: int
    """Optimizer steps of the model."""
    digest: str
    """sha256 of the model's files or of the base model, then of the adapters."""


def resolve(job: DreamBoothJob, storage: Storage) -> ResolvedJob:
    """The job of a run with its model's defaults; raises as `read_config`."""
    return with_defaults(job, read_config(job.spec.model, storage))


def exports_adapters(job: DreamBoothJob) -> bool:
    """Whether the result goes beside the base model: only adapters and tokens were trained."""
    training = job.spec.training
    return training.method != "full" and training.text_encoder.method != "full"


def read_result_config(base: Model, storage: Storage, export: str | None) -> ModelConfig:
    """The model of a result without its weights, from the exported pipeline if that is a whole one.

    A folder with such a pipeline can be used where the base model cannot be read.

    Args:
        base: `spec.model` of its job.
        storage: Of the run.
        export: URI of the exported model; None: a checkpoint is loaded in place of it.

    Raises:
        TrainerError: As `read_config`, or the exported model is not complete.
        StorageError: It cannot be read.
    """
    names = list_export(storage, export) if export else set()
    if export and names and not adapter_files(names):
        return _read(exported_model(export, base), storage)
    return read_config(base, storage)


def read_config(base: Model, storage: Storage) -> ModelConfig:
    """The base model of a result without its weights.

    Raises:
        TrainerError: There is none, it cannot be loaded without training, or a hub refuses.
        StorageError: It cannot be read.
    """
    try:
        return _read(base, storage)
    except StorageError as error:
        error.advice = f"{ELSEWHERE}, or {error.advice}"
        raise
    except TrainerError as error:
        raise type(error)(f"{error}; {ELSEWHERE}") from error


def _read(model: Model, storage: Storage) -> ModelConfig:
    config = read_model_config(model, storage)
    if config is None:
        raise BadModelError("spec.model.source: a .ckpt file cannot be used here; convert it")
    return config


def with_defaults(job: DreamBoothJob, config: ModelConfig) -> ResolvedJob:
    """The job with its model's defaults. Pure."""
    return fill_defaults(job, config.defaults, config.skeleton.flow_shift)


def divided_as_trained(job: ResolvedJob, storage: Storage, layout: OutputLayout) -> ResolvedJob:
    """The job with the strategy that preflight chose for its run, if it names none itself.

    Raises:
        StorageError: It cannot be read.
    """
    runtime = job.spec.runtime
    record = read_run_record(storage, layout) if runtime.strategy is None else None
    if record is None:
        return job
    chosen = accepted(record["job"]).spec.runtime.strategy
    spec = {"runtime": runtime.model_copy(update={"strategy": chosen})}
    return job.model_copy(update={"spec": job.spec.model_copy(update=spec)})


def load_result(attempt: Attempt, layout: OutputLayout, step: int | None = None) -> Result:
    """The exported model of a run; without one, its best checkpoint or its newest. Collective.

    Args:
        attempt: The current one, with the job of the run.
        layout: The run's folder, which need not be where its job has written it.
        step: Of the checkpoint to load in place of the exported model.

    Raises:
        BadConfigError: The run has no such checkpoint.
        BadModelError: The run has trained nothing yet, or a model cannot be loaded.
        StorageError: It cannot be read.
    """
    exported = attempt.ranks.run_on_first(lambda: list_export(attempt.storage, layout.export))
    if step is None and exported:
        return _load_export(attempt, layout, exported)
    return _load_checkpoint(attempt, layout, step)


def _load_export(attempt: Attempt, layout: OutputLayout, names: set[str]) -> Result:
    spec, storage = attempt.job.spec, attempt.storage
    arguments = storage, attempt.ranks, attempt.device, spec.training
    step = attempt.ranks.run_on_first(lambda: exported_step(storage, layout, attempt.job))
    if adapters := adapter_files(names):
        family = load_family(
            spec.model, *arguments, sharded=attempt.sharded, offload=spec.runtime.offload
        )
        digest = add_exported(family, storage, layout.export, adapters)
        return Result(family, layout.export, step, f"{family.model_hash}+{digest}")
    model = exported_model(layout.export, spec.model)
    family = load_family(model, *arguments, sharded=attempt.sharded)
    return Result(family, layout.export, step, family.model_hash)


def exported_model(uri: str, base: Model) -> Model:
    """The exported pipeline in a folder, which is used as the model that it was trained from."""
    return Model(source=uri, clip_skip=base.clip_skip)


def _load_checkpoint(attempt: Attempt, layout: OutputLayout, step: int | None) -> Result:
    # Only read: the run may still be training, and is never claimed.
    store = CheckpointStore(attempt.storage, layout.checkpoints, attempt.ranks)
    refs = attempt.ranks.run_on_first(store.checkpoints)
    if not refs:
        raise attempt.ranks.run_on_first(lambda: missing_model(attempt.storage, layout))
    if step is not None and step not in (steps := sorted({ref.step for ref in refs})):
        raise BadConfigError(
            f"--checkpoint {step}: the run has no checkpoint of that step, but of"
            f" {', '.join(map(str, steps))}; name one of these"
        )
    spec = attempt.job.spec
    group = exported_group(spec.training)
    found = store.load_best(_choice(attempt, layout, step), group)
    if found is None:
        raise BadModelError(
            f"spec.output: the checkpoints in {layout.checkpoints} are damaged; copy them again"
        )
    tensors, loaded = found
    family = load_family(
        spec.model,
        attempt.storage,
        attempt.ranks,
        attempt.device,
        spec.training,
        sharded=attempt.sharded,
        offload=spec.runtime.offload,
    )
    if words := learned_words(spec.subjects):
        add_words(family, words)
    if (given := spec.model.adapter) is not None:
        family.start = load_adapter(given, attempt.storage, attempt.ranks, family, ADAPTER_FIELD)
    copy_weights(make_trainable(family, spec.training).all.items(), tensors, group)
    if spec.training.lora.init == "pissa" and (found := store.load_best(only(loaded), "start")):
        copy_weights(starts(family), found[0], "start")
    source = next(ref.uri for ref in refs if ref.step == loaded)
    return Result(family, source, loaded, f"{family.model_hash}+step {loaded} of {layout.root}")


def check_has_model(storage: Storage, layout: OutputLayout) -> None:
    """Before the base model is read: without a result, nothing that is wrong with it matters.

    Raises:
        BadModelError: The run has neither an exported model nor a checkpoint.
        StorageError: It cannot be read.
    """
    if not list_export(storage, layout.export) and not storage.list(layout.checkpoints):
        raise missing_model(storage, layout)


def missing_model(storage: Storage, layout: OutputLayout) -> BadModelError:
    """The error for a run without an exported model, by whether the run has ended.

    Raises:
        StorageError: Storage fails or refuses.
    """
    try:
        storage.read_start(layout.report, 1)
    except ObjectNotFoundError:
        return BadModelError(
            f"{layout.root}: has no exported model yet; wait until the job has saved one, or train"
            " it"
        )
    return BadModelError(
        f"{layout.root}: the run has ended, but {OutputLayout.EXPORT}/ is missing in this folder;"
        " copy it, too, or train the job again"
    )


def only(step: int) -> ChooseStep:
    """Chooses a step, where it is available."""
    return lambda available: step if step in available else None


def _choice(attempt: Attempt, layout: OutputLayout, step: int | None) -> ChooseStep:
    """Chooses the step; without one, the best that was evaluated, or else the newest."""
    if step is not None:
        return only(step)
    known: list[Evaluation] = []
    evaluation = attempt.job.spec.evaluation
    if evaluation is not None and evaluation.every is not None:
        records = RecordStore(attempt.storage, layout, settings_hash(attempt.job))
        known = [each.evaluation for each in attempt.ranks.run_on_first(records.read_all)]

    def choose(available: Iterable[int]) -> int | None:
        steps = set(available)
        evaluated = [each for each in known if each.step in steps]
        if evaluation is None or not evaluated:
            return max(steps, default=None)
        best = best_of(evaluated, with_limit(evaluation.select, attempt.job.spec.prior))
        return best.step if best else None

    return choose


def exported_step(storage: Storage, layout: OutputLayout, job: ResolvedJob) -> int:
    """Optimizer steps of the exported model: those of the run, unless its scores say otherwise.

    Raises:
        StorageError: Storage fails or refuses.
    """
    try:
        step = Scores.decode(storage.read(layout.scores)).exported_step
    except (ObjectNotFoundError, UnreadableScoresError):
        step = None
    return job.spec.training.steps if step is None else step
