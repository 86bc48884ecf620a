"""Draws the data, trains every part of tiny-sd and exports it.

    python examples/tiny-sd/train.py [--work FOLDER] [--out FOLDER] [--stage STAGE ...]

Two chains of stages share two cores: the autoencoder and then the diffusion model, beside the
classifier, CLIP, DINO and the captioner.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from tinysd import stages

HERE = Path(__file__).resolve().parent
FIRST = ("draw", "tokenize")
CHAINS = (("encode", "cache", "diffuse"), ("classify", "contrast", "dino", "caption"))


def main() -> None:
    """Runs the stages asked for in this process, or all of them in two parallel chains."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=HERE / "build", help="data and parts")
    parser.add_argument("--out", type=Path, default=HERE, help="where the models go")
    parser.add_argument("--stage", nargs="+", choices=[*stages.STAGES, "export"])
    arguments = parser.parse_args()
    if arguments.stage is None:
        run_all(arguments.work)
    try:
        for stage in arguments.stage or ["export"]:
            if stage == "export":
                stages.export(arguments.work, arguments.out)
            else:
                stages.run(stage, arguments.work)
    except stages.StageOrderError as error:
        parser.error(str(error))


def run_all(work: Path) -> None:
    """Everything up to the export, one thread a process; CalledProcessError if a stage fails."""
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(_command(work, FIRST), env=one_thread, check=True)
    chains = [subprocess.Popen(_command(work, chain), env=one_thread) for chain in CHAINS]
    for chain in chains:
        if chain.wait() != 0:
            raise subprocess.CalledProcessError(chain.returncode, chain.args)


def _command(work: Path, names: tuple[str, ...]) -> list[str]:
    return [sys.executable, __file__, "--work", str(work), "--stage", *names]


if __name__ == "__main__":
    main()
