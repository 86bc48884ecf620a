"""Model families: the differences between one kind of diffusion model and another."""

from dreambooth_trainer.models.family import Conditioning, Family, Tokens
from dreambooth_trainer.models.load import load_family

__all__ = ["Conditioning", "Family", "Tokens", "load_family"]
