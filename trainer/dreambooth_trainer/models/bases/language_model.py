"""Language models as text encoders."""

from collections.abc import Mapping

from dreambooth_trainer.models.family import Config


def text_width(config: Config) -> int | None:
    """Width of a language model's states, None where its configuration does not say.

    Models that see images too have a configuration for text within theirs.
    """
    text = config.get("text_config", config)
    width = text.get("hidden_size") if isinstance(text, Mapping) else None
    return width if isinstance(width, int) else None
