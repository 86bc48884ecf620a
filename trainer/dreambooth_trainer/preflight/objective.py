"""Checks whether the base model's objective takes the job's settings."""

from collections.abc import Iterator

from dreambooth_api.models.training import Training
from dreambooth_trainer.objectives.objective import ObjectiveKind


def check_objective(training: Training, kind: ObjectiveKind, family_name: str) -> Iterator[str]:
    """Settings that mean nothing for the model's objective, one message for each.

    Args:
        training: `spec.training`.
        kind: Of the model's objective.
        family_name: Of the model, for people.
    """
    if kind == "ddpm":
        reason = f"is for models of flow matching, and this one ({family_name}) is of DDPM"
        if training.timestep_sampling is not None:
            yield f"spec.training.timestepSampling: {reason}; remove it"
        if training.loss_weighting != "none":
            yield (
                f"spec.training.lossWeighting: {training.loss_weighting} {reason};"
                " remove it, or set minSnrGamma instead"
            )
        return
    reason = f"is for models of DDPM, and this one ({family_name}) is of flow matching"
    if training.min_snr_gamma is not None:
        yield f"spec.training.minSnrGamma: {reason}; remove it, or set lossWeighting instead"
    # The offset makes up for DDPM's last timestep, which still shows an image's brightness (Lin et
    # al. 2023, section 3). Flow matching trains on noise alone, the same that sampling starts from.
    if training.noise_offset:
        yield (
            f"spec.training.noiseOffset: {reason}, which learns dark and bright images without it;"
            " remove it"
        )
