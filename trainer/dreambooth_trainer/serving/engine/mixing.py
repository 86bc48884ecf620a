"""Images of several LoRAs in one batch: every layer applies to each image its own."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from dreambooth_trainer.resolved_job import ResolvedJob


class CannotMixError(Exception):
    """The model has layers whose input has no row for each image."""


def shared_base(job: ResolvedJob) -> str | None:
    """What results need to have in common to be mixed; None: this one is made alone. Pure.

    Peft mixes LoRAs alone. Adapters and learned words of text encoders would change how other
    prompts are read.
    """
    training = job.spec.training
    mixes = training.method == training.lora.type == "lora"
    if not mixes or job.spec.trains_text:
        return None
    return f"{job.spec.model.model_dump_json()} {training.precision}"


@contextmanager
def mixed(denoiser: nn.Module, adapters: Sequence[str]) -> Iterator[None]:
    """Within, each image of a batch is made with the adapter of its place.

    Args:
        denoiser: With the adapters, all of them active.
        adapters: The name of each image's.

    Raises:
        CannotMixError: From within, when the denoiser runs: this model cannot do it.
    """

    def choose(
        _: nn.Module, arguments: tuple[Any, ...], named: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        # Guidance puts the unconditional half before the conditional one.
        halves, rest = divmod(len(arguments[0]), len(adapters))
        if rest or halves not in (1, 2):
            raise CannotMixError
        return arguments, {**named, "adapter_names": [*adapters] * halves}

    with ExitStack() as hooks:
        if len(set(adapters)) > 1:
            for layer in denoiser.modules():
                if isinstance(layer, BaseTunerLayer):
                    hook = layer.register_forward_pre_hook(choose, with_kwargs=True)
                    hooks.callback(hook.remove)
        yield
