"""Draws the data, trains every part of tiny-flow and exports it.

    python examples/tiny-flow/train.py [--work FOLDER] [--out FOLDER] [--stage STAGE ...]

The drawings, the captions and the autoencoder are tiny-sd's.
"""

import argparse
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "tiny-sd"))

from tinyflow import stages  # noqa: E402


def main() -> None:
    """Runs the stages asked for, or all of them, and prints the minutes that each took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=HERE / "build", help="data and parts")
    parser.add_argument("--out", type=Path, default=HERE / "model", help="where the model goes")
    names = [*stages.STAGES, "export"]
    parser.add_argument("--stage", nargs="+", choices=names, default=names)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    for stage in arguments.stage:
        start = time.perf_counter()
        if stage == "export":
            stages.export(arguments.work, arguments.out)
        else:
            stages.STAGES[stage](arguments.work)
        print(f"{stage}: {(time.perf_counter() - start) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
