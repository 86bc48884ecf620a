"""Latents as sequences of tokens, each of 2 x 2 cells, as FLUX.1 and Qwen-Image take them."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from dreambooth_trainer.models.bases.flow import FlowFamily
from dreambooth_trainer.models.family import Config


class PackedFamily(FlowFamily):
    """A family whose transformer takes tokens of 2 x 2 cells."""

    @classmethod
    def find_mismatches(cls, configs: Mapping[str, Config]) -> Iterator[str]:
        """Another number of channels than packed latents have."""
        vae = configs["vae"]
        channels = configs["transformer"].get("in_channels")
        latent = vae.get("latent_channels", vae.get("z_dim"))
        if not isinstance(latent, int) or channels != 4 * latent:
            yield (
                f"its transformer reads {channels} channels and its VAE makes {latent}, of which it"
                " takes 2 x 2 at once"
            )

    def unpack_latents(self, latents: Tensor, width: int, height: int | None = None) -> Tensor:
        """Tokens [N, h/2 * w/2, 4C] -> [N, C, h, w]."""
        return unpack(latents, self.latent_shape(width, height))


def pack(latents: Tensor) -> Tensor:
    """[N, C, h, w] -> [N, h/2 * w/2, 4C]; a token's channels are ordered (channel, row, column)."""
    count, channels, height, width = latents.shape
    cells = latents.view(count, channels, height // 2, 2, width // 2, 2)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(count, height * width // 4, channels * 4)


def unpack(tokens: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The opposite of `pack`: [N, h/2 * w/2, 4C] -> [N, C, h, w]; `shape` is (C, h, w)."""
    channels, height, width = shape
    cells = tokens.view(len(tokens), height // 2, width // 2, channels, 2, 2)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), channels, height, width)


def positions(height: int, width: int, device: torch.device) -> Tensor:
    """Row and column of each token, [height * width, 2] float32; sizes in tokens."""
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    grid = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack(grid, dim=-1).view(-1, 2).float()
