"""The device that rows run on: clock, memory, peak arithmetic."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

PEAK_BF16_TFLOPS = {
    "H200": 989.5, "H100 PCIe": 756.5, "H100": 989.5, "B200": 2250.0, "A100": 312.0,
    "L40S": 362.0, "A10": 125.0, "4090": 165.2,
}  # fmt: skip
"""Dense bf16 by parts of NVIDIA's names, in the order of the search (NVIDIA's data sheets)."""


@dataclass(frozen=True)
class Device:
    """A GPU, or the CPU for tiny sizes."""

    torch: torch.device

    @classmethod
    def find(cls) -> "Device":
        """The first GPU where there is one."""
        return cls(torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"))

    @property
    def is_gpu(self) -> bool:
        """Whether it is one."""
        return self.torch.type == "cuda"

    def synchronize(self) -> None:
        """Wait until everything queued is done."""
        if self.is_gpu:
            torch.cuda.synchronize()

    def seconds(self, action: Callable[[], object], *, times: int = 1, warm_up: int = 0) -> float:
        """Mean seconds of an action, on an idle device."""
        for _ in range(warm_up):
            action()
        self.synchronize()
        began = time.perf_counter()
        for _ in range(times):
            action()
        self.synchronize()
        return (time.perf_counter() - began) / times

    def reset_peak(self) -> None:
        """Forget earlier peaks."""
        if self.is_gpu:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_bytes(self) -> int:
        """Largest number of bytes of tensors; on the CPU what the process has of memory now."""
        if self.is_gpu:
            return torch.cuda.max_memory_allocated()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4096

    @property
    def peak_flops(self) -> float | None:
        """Floating-point operations per second in bf16; None where it is not known."""
        if not self.is_gpu:
            return None
        name = torch.cuda.get_device_name()
        found = (tflops for part, tflops in PEAK_BF16_TFLOPS.items() if part in name)
        return next((tflops * 1e12 for tflops in found), None)
