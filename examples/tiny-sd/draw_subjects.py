"""Draws the examples' subjects anew: `python examples/tiny-sd/draw_subjects.py`."""

import argparse
from pathlib import Path

from tinysd.subjects import write_subjects

if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    write_subjects(Path(__file__).resolve().parents[1] / "subjects")
