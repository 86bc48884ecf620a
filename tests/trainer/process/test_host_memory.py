"""Freed memory goes back to the system."""

import subprocess
import sys

CODE = """
from pathlib import Path
from dreambooth_trainer.process.host_memory import return_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

blocks = [bytearray(50_000) for _ in range(2000)]
blocks = blocks[-1:]  # the last keeps the heap from shrinking by itself
before = resident()
return_freed_memory()
print(before - resident())
"""


def test_memory_below_what_is_in_use_is_returned() -> None:
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert int(result.stdout) > 80_000_000, result.stderr
