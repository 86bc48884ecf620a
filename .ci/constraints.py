"""Prints constraints.txt for another PyTorch: `python3 .ci/constraints.py oldest|newest`.

The pinned PyTorch and the packages that belong to it (CUDA, triton) are left out. `oldest` takes
the lowest version that trainer/pyproject.toml allows, `newest` the newest one published.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TORCH = re.compile(r"^(torch|triton|nvidia-[\w-]+|cuda-[\w-]+)==")


def main() -> None:
    """Write the constraints to standard output."""
    if sys.argv[1:] not in (["oldest"], ["newest"]):
        sys.exit("TORCH must be oldest, pinned or newest")
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not TORCH.match(line)]
    if sys.argv[1] == "oldest":
        trainer = (ROOT / "trainer" / "pyproject.toml").read_text(encoding="utf-8")
        (lowest,) = re.findall(r'"torch>=([\d.]+)"', trainer)
        kept.append(f"torch=={lowest}.*")
    sys.stdout.write("\n".join(kept) + "\n")


if __name__ == "__main__":
    main()
