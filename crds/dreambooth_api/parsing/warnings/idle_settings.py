"""Warnings about settings that have no effect beside the others."""

from collections.abc import Iterator

from dreambooth_api.models.lora import Lora
from dreambooth_api.models.pods.runtime import world_size
from dreambooth_api.models.results.evaluation import Evaluation
from dreambooth_api.models.spec import Spec
from dreambooth_api.models.training import Ema, TextEncoder, Training


def idle_settings(spec: Spec) -> Iterator[str]:
    """Warn about what was set and changes nothing.

    A job that came through the API server holds every default, so being there means nothing: a
    setting counts where it is another one than the default.
    """
    training, evaluation = spec.training, spec.evaluation
    # Targets do not count: run.json holds those of the model.
    chosen = training.lora.model_copy(update={"targets": None})
    if chosen != Lora() and not _has_lora(training):
        yield "spec.training.lora: nothing is trained by lora; set method to lora, or remove it"
    if spec.model.adapter is not None and training.lora.rank != Lora().rank:
        yield (
            "spec.training.lora.rank: is that of model.adapter, and preflight refuses another one;"
            " remove it"
        )
    text = training.text_encoder
    if text.method == "frozen" and text.stop_fraction != TextEncoder().stop_fraction:
        yield (
            "spec.training.textEncoder.stopFraction: has no effect when the text encoder is frozen;"
            " set method to lora or full, or remove it"
        )
    if not training.ema.enabled and training.ema.decay != Ema().decay:
        yield (
            "spec.training.ema.decay: has no effect without an average; set enabled to true, or"
            " remove it"
        )
    if len(spec.subjects) == 1 and spec.subjects[0].weight is not None:
        yield "spec.subjects[0].weight: has no effect with one subject; remove it"
    if evaluation is not None and evaluation.every is None:
        yield from (
            f"spec.evaluation.{field}: has no effect without evaluations during training; set"
            " evaluation.every, or remove it"
            for field in _of_evaluations_during_training(evaluation)
        )
    if spec.runtime.strategy == "fsdp" and world_size(spec.runtime) == 1:
        yield (
            "spec.runtime.strategy: fsdp has no effect with a single GPU; raise gpusPerNode or"
            " nodes, or remove it"
        )


def _has_lora(training: Training) -> bool:
    return "lora" in (training.method, training.text_encoder.method)


def _of_evaluations_during_training(evaluation: Evaluation) -> Iterator[str]:
    default = Evaluation()
    if evaluation.select != default.select:
        yield "select"
    if evaluation.max_time_fraction != default.max_time_fraction:
        yield "maxTimeFraction"
