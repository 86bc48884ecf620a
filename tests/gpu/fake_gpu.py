"""A GPU that is not there: code for CUDA runs on the CPU, and its mistakes show.

Tensors on `cuda:0` hold a tensor in host memory and compute the same values as a CPU would. What a
GPU does not forgive fails as there: operations on tensors of different devices, numpy on a GPU's
tensor, a host's generator for numbers drawn on the GPU. Copies to the host that nobody has waited
for hold garbage, and another GPU than the first must not be used.

For torch, such a tensor is a meta tensor with Python code behind its operations, since torch for
CPUs cannot run autograd for CUDA tensors. Kernels, speed and memory are those of the CPU: what
depends on them is tested on a real GPU.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch.autograd.graph import _engine_run_backward
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device("cuda", 0)
ATEN: Any = torch.ops.aten

WAITING = {
    ATEN._local_scalar_dense, ATEN.equal, ATEN.masked_select, ATEN.nonzero, ATEN._unique2,
    ATEN.unique_dim, ATEN.unique_consecutive, ATEN.bincount, ATEN.repeat_interleave,
}  # fmt: skip
"""Operations whose result, or its shape, the host must wait for."""

# The operations of Stable Diffusion and CLIP that autocast converts.
LOWER_PRECISION = {
    functional.linear, functional.scaled_dot_product_attention, torch.conv2d, torch.matmul,
    torch.bmm, torch.baddbmm, torch.Tensor.matmul, torch.Tensor.__matmul__,
}  # fmt: skip
FULL_PRECISION = {functional.layer_norm, functional.group_norm, functional.softmax, torch.softmax}


class GpuTensor(torch.Tensor):
    """A tensor on the GPU, whose values are in `host`."""

    host: torch.Tensor

    @staticmethod
    def __new__(cls, host: torch.Tensor) -> "GpuTensor":
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, host.size(), strides=host.stride(), storage_offset=host.storage_offset(),
            dtype=host.dtype, device="meta",
        )  # fmt: skip
        tensor.host = host
        return tensor

    device = property(lambda _: GPU)
    is_cuda = property(lambda _: True)
    is_meta = property(lambda _: False)

    @property
    def data(self) -> torch.Tensor:
        return self.detach()

    @data.setter
    def data(self, value: "GpuTensor") -> None:
        torch.Tensor.data.__set__(self, value)
        self.host = value.host

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.host.untyped_storage()

    def data_ptr(self) -> int:
        return self.host.data_ptr()

    def backward(self, *_: Any, **__: Any) -> None:
        # By the engine itself: torch's function would call the one below, and a checkpoint that
        # computes its forward pass again would then do so without autocast.
        with _calls():
            _engine_run_backward(
                (self,), (torch.ones_like(self),), False, False, (),
                allow_unreachable=True, accumulate_grad=True,
            )  # fmt: skip

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        copy: torch.Tensor = self.detach().clone()
        if isinstance(self, torch.nn.Parameter):
            copy = torch.nn.Parameter(copy, self.requires_grad)
        return memo.setdefault(id(self), copy)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.tolist:
            return args[0].cpu().tolist()
        if torch.is_autocast_enabled("cuda"):
            if func in LOWER_PRECISION:
                args, kwargs = _cast((args, kwargs), torch.get_autocast_dtype("cuda"))
            elif func in FULL_PRECISION:
                args, kwargs = _cast((args, kwargs), torch.float32)
        with torch._C.DisableTorchFunctionSubclass(), _calls():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Dispatch(TorchDispatchMode):
    """Also sees the operations that take no tensor of the GPU, but may create one."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Called(threading.local):
    depth = 0


_called = _Called()


@contextmanager
def _calls() -> Iterator[None]:
    """Within, a function runs that a tensor of the GPU was given."""
    _called.depth += 1
    try:
        yield
    finally:
        _called.depth -= 1


def _cast(arguments: Any, dtype: torch.dtype) -> Any:
    return _map(lambda t: t.to(dtype) if t.is_floating_point() else t, arguments)


def _map(change: Callable[[torch.Tensor], torch.Tensor], value: Any) -> Any:
    """A value with its tensors changed; torch's own function for this takes most of the time."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)([_map(change, each) for each in value])
    if isinstance(value, dict):
        return {name: _map(change, each) for name, each in value.items()}
    return value


def _find(value: Any) -> list[torch.Tensor]:
    """All tensors in a value."""
    found: list[torch.Tensor] = []
    _map(lambda t: found.append(t) or t, value)
    return found


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation on the CPU, if a GPU could; its results are where a GPU's would be."""
    tensors = _find((args, kwargs))
    wrappers = {id(t.host): t for t in tensors if isinstance(t, GpuTensor)}
    on_gpu, kwargs = _place(bool(wrappers), kwargs)
    if func.overloadpacket is ATEN.copy_:
        on_gpu = isinstance(args[0], GpuTensor)
    if func.overloadpacket in (ATEN.copy_, ATEN._to_copy):
        if _is_queued(func, args, kwargs, on_gpu):
            return _queue_copy(*args[:2])
    elif wrappers:
        _check_devices(func, tensors)
        _check_waiting(func, args)
    if wrappers:
        args, kwargs = _map(lambda t: t.host if isinstance(t, GpuTensor) else t, (args, kwargs))
    result = func(*args, **kwargs)
    if not on_gpu:
        return result
    # An operation in place returns its argument.
    return _map(lambda t: wrappers[id(t)] if id(t) in wrappers else GpuTensor(t), result)


def _place(on_gpu: bool, kwargs: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
    """Whether a result belongs on the GPU, and the arguments for the CPU to compute it."""
    # The CPU's torch has no pinned memory.
    kwargs = {name: value for name, value in kwargs.items() if name != "pin_memory"}
    if kwargs.get("device") is not None:
        target, had_gpu = torch.device(kwargs["device"]), on_gpu
        # Within a call, C++ asks for a meta tensor where it wants one like a tensor of the GPU.
        on_gpu = target.type == "cuda" or (target.type == "meta" and _called.depth > 0)
        if on_gpu or had_gpu:
            kwargs["device"] = torch.device("cpu")
    if on_gpu and kwargs.get("generator") is not None:
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
    return on_gpu, kwargs


def _is_queued(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], to_gpu: bool) -> bool:
    """Whether a copy is one to existing memory of the host that nobody waits for.

    Raises:
        RuntimeError: It waits for the GPU where nothing may.
    """
    into = func.overloadpacket is ATEN.copy_
    source = args[1] if into else args[0]
    if isinstance(source, GpuTensor) == to_gpu:
        return False
    if not (kwargs.get("non_blocking") or (into and len(args) > 2 and args[2])):
        _wait(f"a copy of {tuple(source.shape)}")
        return False
    return into and not to_gpu


def _check_devices(func: Any, tensors: list[torch.Tensor]) -> None:
    """Raise for what CUDA's kernels raise for; numbers, and positions in an index, may be anywhere.

    Raises:
        RuntimeError: The tensors are on different devices.
    """
    if func.overloadpacket in (ATEN.index, ATEN.index_put_):
        tensors = [t for t in tensors if t.dtype not in (torch.int64, torch.bool)]
    if any(not isinstance(t, GpuTensor) and t.dim() for t in tensors):
        raise RuntimeError(
            f"{func}: Expected all tensors to be on the same device, but found at least two"
            " devices, cuda:0 and cpu!"
        )


def _check_waiting(func: Any, args: tuple[Any, ...]) -> None:
    if func.overloadpacket in WAITING:
        _wait(str(func))
    if func.overloadpacket in (ATEN.index, ATEN.index_put_) and any(
        i is not None and (i.dtype == torch.bool or not isinstance(i, GpuTensor)) for i in args[1]
    ):
        _wait(f"{func} by a mask or by positions on the host")


_queue_lock = threading.Lock()
_queued: list[tuple[torch.Tensor, torch.Tensor]] = []
"""Copies to the host that have not happened yet: targets, and values when they were queued."""
_error_on_wait = False


def _queue_copy(target: torch.Tensor, source: GpuTensor) -> torch.Tensor:
    with _queue_lock:
        _queued.append((target, source.host.clone()))
    target.fill_(float("nan") if target.is_floating_point() else 1)
    return target


def queued_copies() -> int:
    """Number of copies to the host that nobody has waited for."""
    return len(_queued)


def _finish(copies: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    with _queue_lock:
        for copy in copies:
            if any(copy is queued for queued in _queued):
                copy[0].copy_(copy[1])
        _queued[:] = [queued for queued in _queued if not any(queued is c for c in copies)]


def _wait(reason: str) -> None:
    if _error_on_wait:
        raise RuntimeError(f"called a synchronizing CUDA operation: {reason}")
    _finish(list(_queued))


class _Event:
    """The part of torch.cuda.Event that is used here."""

    def __init__(self, **_: Any) -> None:
        self._copies: list[tuple[torch.Tensor, torch.Tensor]] = []

    def record(self, _stream: Any = None) -> None:
        self._copies = list(_queued)

    def synchronize(self) -> None:
        _finish(self._copies)


def _set_sync_debug_mode(mode: str) -> None:
    global _error_on_wait
    _error_on_wait = mode == "error"


def _first_only(result: Any = None) -> Callable[..., Any]:
    def use(device: Any = 0, *_: Any, **__: Any) -> Any:
        index = torch.device("cuda", device).index if isinstance(device, int) else device.index
        if index:
            raise RuntimeError(f"this process has no business with GPU {index}")
        return result

    return use


def _swap(left: torch.Tensor, right: torch.Tensor) -> None:
    """As torch's function, which refuses tensors that a graph still has."""
    left.__class__, right.__class__ = right.__class__, left.__class__
    left.__dict__, right.__dict__ = right.__dict__, left.__dict__
    torch._C._swap_tensor_impl(left, right)


def install() -> None:
    """Give this process two GPUs, of which it may use the first. There is no way back."""
    properties = SimpleNamespace(name="fake", total_memory=2**34, major=9, minor=0)
    fakes = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_bf16_supported": lambda *_, **__: True,
        "device_count": lambda: 2,
        "current_device": lambda: 0,
        "set_device": _first_only(),
        "get_device_name": lambda *_: "fake",
        "get_device_properties": lambda *_: properties,
        "get_device_capability": lambda *_: (9, 0),
        "memory_allocated": lambda *_: 0,
        "max_memory_allocated": lambda *_: 0,
        "mem_get_info": lambda *_: (2**34, 2**34),
        "reset_peak_memory_stats": _first_only(),
        "empty_cache": lambda: None,
        "synchronize": lambda *_: _wait("torch.cuda.synchronize"),
        "get_rng_state": _first_only(torch.empty(0)),
        "set_rng_state": lambda _state, device=0: _first_only()(device),
        "set_sync_debug_mode": _set_sync_debug_mode,
        "Event": _Event,
        "cudart": lambda: SimpleNamespace(
            cudaHostRegister=lambda *_: 0, cudaHostUnregister=lambda *_: 0
        ),
    }
    for name, fake in fakes.items():
        setattr(torch.cuda, name, fake)
    torch.Tensor.pin_memory = lambda self, *_: self.clone()
    # Otherwise modules would move by an assignment of `data`, which keeps the parameter's class.
    torch.__future__.set_swap_module_params_on_conversion(True)
    torch.utils.swap_tensors = _swap
    torch._C._set_only_lift_cpu_tensors(True)  # or torch.tensor() would allocate on the GPU itself
    _Dispatch().__enter__()
