"""Warnings about learning rates that hardly anybody means."""

from collections.abc import Iterator

from dreambooth_api.models.training import Training

LARGE_RESOLUTION = 256
"""Models below this many pixels are small, and take higher learning rates."""
# Four times the rate of the paper for Stable Diffusion, 5e-6.
HIGH_FULL_RATE = 2e-5
# Ten times what is usual for adapters, and for a subject's token; Adam then moves each of them in
# one step by as much as their size.
HIGH_RATE = 1e-2
ADAM_RATE = Training().learning_rate


def unusual_rates(training: Training) -> Iterator[str]:
    """Warn about rates that are too high, or that have no effect."""
    if training.optimizer.name == "prodigy":
        return  # a factor on the rate that it finds
    rates = {
        "learningRate": training.learning_rate,
        "textEncoder.learningRate": training.text_encoder.learning_rate,
        "tokenLearningRate": training.token_learning_rate,
    }
    if training.method == "textual-inversion" and rates.pop("learningRate") != ADAM_RATE:
        yield (
            "spec.training.learningRate: has no effect with textual-inversion; set"
            " tokenLearningRate instead"
        )
    for field, rate in rates.items():
        advice = None if rate is None else _advice(training, field, rate)
        if advice is not None:
            yield f"spec.training.{field}: {rate:g} is {advice}"


def _advice(training: Training, field: str, rate: float) -> str | None:
    """What a rate is too high for, and what is usual; None: it is usual."""
    real = training.resolution is None or training.resolution >= LARGE_RESOLUTION
    if training.method == "full" and field == "learningRate" and real and rate > HIGH_FULL_RATE:
        return "high for full fine-tuning; 1e-6 to 5e-6 are usual"
    if rate > HIGH_RATE:
        return "far above all usual rates, and training may diverge; lower it to 1e-3 or less"
    if training.optimizer.name == "lion" and field != "tokenLearningRate" and rate >= ADAM_RATE:
        return "one for adamw, and lion takes a third to a tenth of it; lower it to 3e-5 or less"
    return None
