"""Model families: what differs between one kind of diffusion model and another."""

from dreambooth_trainer.families.base import Conditioning, Family
from dreambooth_trainer.families.load import load_family

__all__ = ["Conditioning", "Family", "load_family"]
