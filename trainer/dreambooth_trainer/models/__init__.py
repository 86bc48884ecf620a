"""Model families: the differences between one kind of diffusion model and another."""

from dreambooth_trainer.models.family import Family
from dreambooth_trainer.models.load import load_family
from dreambooth_trainer.models.prompts import Conditioning, Tokens

__all__ = ["Conditioning", "Family", "Tokens", "load_family"]
