"""Runs the trainer's own code on the meta device, and counts the memory that a GPU would take.

Meta tensors have shapes and no memory, so this needs neither a GPU nor the model's weights.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

META = torch.device("meta")

# The part of autocast's lists that the models use
# (https://docs.pytorch.org/docs/stable/amp.html#cuda-op-specific-behavior).
TO_HALF = {
    torch.conv2d,
    torch.matmul,
    torch.bmm,
    torch.baddbmm,
    functional.linear,
    functional.scaled_dot_product_attention,
}
TO_FULL = {functional.layer_norm, functional.group_norm, functional.mse_loss, torch.softmax}


def _group_norm(
    x: Tensor,
    _weight: Any,
    _bias: Any,
    count: int,
    _channels: int,
    _cells: int,
    groups: int,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """The output, and mean and 1 / deviation of each group, [N, G]."""
    return torch.empty_like(x), x.new_empty(count, groups), x.new_empty(count, groups)


def _group_norm_backward(
    _gradient: Tensor, x: Tensor, _mean: Tensor, _deviation: Tensor, *others: Any
) -> tuple[Tensor | None, ...]:
    """Gradients of input, weight and bias, those that are asked for."""
    _weight, _count, channels, *_, wanted = others
    shapes = x.shape, (channels,), (channels,)
    return tuple(
        x.new_empty(shape) if each else None for shape, each in zip(shapes, wanted, strict=True)
    )


SHORTCUTS: Mapping[Any, Callable[..., Any]] = {
    torch.ops.aten.native_group_norm.default: _group_norm,
    torch.ops.aten.native_group_norm_backward.default: _group_norm_backward,
}
"""What CUDA's kernels allocate, where torch's meta kernels are Python of many slow steps."""


class MemoryMeter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of a device's tensors that are created within, until they are freed."""

    def __init__(self, device: torch.device = META) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = device
        self.current = 0
        self.peak = 0
        """Largest number of bytes since `reset_peak`."""
        self._storages: dict[int, Any] = {}

    def reset_peak(self) -> None:
        """Forget earlier peaks."""
        self.peak = self.current

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Torch's hook around every operation."""
        if function is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            # Values steer the libraries, as "is all of the mask true?". No takes more memory.
            return False
        run = SHORTCUTS.get(function, function) if self._device == META else function
        result = run(*args, **(kwargs or {}))
        self.add(each for each in tree_leaves(result) if isinstance(each, Tensor))
        return result

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors that were created before, unless they are on another device."""
        for tensor in tensors:
            if tensor.device.type == self._device.type:
                self._add(tensor.untyped_storage())

    def _add(self, storage: torch.UntypedStorage) -> None:
        # Views share the storage of their base.
        key, size = storage._cdata, storage.nbytes()
        if key not in self._storages:
            self._storages[key] = weakref.ref(storage, lambda _: self._remove(key, size))
            self.current += size
            self.peak = max(self.peak, self.current)

    def _remove(self, key: int, size: int) -> None:
        del self._storages[key]
        self.current -= size


class CudaArithmetic(TorchFunctionMode):
    """What CUDA does otherwise than the meta device: fused attention, and autocast to `half`."""

    def __init__(self, half: torch.dtype | None) -> None:
        super().__init__()
        self._half = half
        self._weights: dict[int, Tensor] = {}

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Torch's hook around every function."""
        options = dict(kwargs or {})
        if self._half is not None and (function in TO_HALF or function in TO_FULL):
            dtype = self._half if function in TO_HALF else torch.float32
            args, options = tree_map(lambda value: self._cast(value, dtype), (args, options))
        if function is functional.scaled_dot_product_attention:
            names = ("query", "key", "value", "attn_mask")
            named = dict(zip(names, args, strict=False)) | options
            inputs = (*(named[name] for name in names[:3]), named.get("attn_mask"))
            return _FusedAttention.apply(*inputs)  # type: ignore[no-untyped-call]
        return function(*args, **options)

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == dtype:
            return value
        # Autocast keeps copies of trained weights until its context ends.
        if value.is_leaf and value.requires_grad and dtype == self._half:
            return self._weights.setdefault(id(value), value.to(dtype))
        return value.to(dtype)


class _FusedAttention(torch.autograd.Function):
    """Flash attention's memory (Dao 2023): the output, and one float per query for backward.

    With a mask, kernels keep that for backward too, before it is expanded to all heads.
    """

    @staticmethod
    def forward(
        context: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        output = torch.empty_like(query)
        sums = torch.empty(query.shape[:-1], device=query.device)
        if mask is not None and mask.dtype is torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype)  # what is added to the scores
        context.save_for_backward(query, key, value, output, sums, mask)
        return output

    @staticmethod
    def backward(context: Any, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, *_ = context.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None
