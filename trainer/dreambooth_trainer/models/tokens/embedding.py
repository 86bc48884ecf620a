"""An embedding whose last rows are trained, without a copy of the others."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class SplicedEmbedding(nn.Module):
    """A frozen embedding, with rows of its own for token ids from `first` on.

    The rows are fp32 parameters whatever precision the embedding has, so that neither gradient nor
    optimizer holds anything for the tens of thousands of words that are not learned.

    Args:
        frozen: The embedding of the model.
        first: The smallest id of a learned token.
        rows: [tokens, D], what they begin as.
    """

    def __init__(self, frozen: nn.Embedding, first: int, rows: Tensor) -> None:
        super().__init__()
        self.frozen = frozen
        self.first = first
        self.rows = nn.Parameter(rows.float(), requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """The frozen rows, whose precision transformers asks for."""
        return self.frozen.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids [captions, tokens] -> [captions, tokens, D], in the precision of `frozen`."""
        known = self.frozen(ids.clamp(max=self.first - 1))
        learned = functional.embedding((ids - self.first).clamp(min=0), self.rows)
        return torch.where((ids >= self.first).unsqueeze(-1), learned.to(known.dtype), known)

    def whole(self) -> nn.Embedding:
        """One embedding with all rows, in the precision of `frozen`."""
        kept = self.frozen.weight.detach()
        count = self.first + len(self.rows)
        weight = kept.new_zeros(max(count, len(kept)), kept.shape[1])
        weight[: len(kept)] = kept
        weight[self.first : count] = self.rows.detach()
        return nn.Embedding(len(weight), weight.shape[1], _weight=weight, _freeze=True)
