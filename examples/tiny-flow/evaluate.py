"""Scores the committed tiny-flow and draws its samples: `python examples/tiny-flow/evaluate.py`.

Writes scores.json and samples.png beside this file and prints the scores.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
TINY_SD = HERE.parent / "tiny-sd"
sys.path.append(str(TINY_SD))

from tinyflow.scoring import load_models  # noqa: E402
from tinysd import scoring  # noqa: E402


def main() -> None:
    """Scores model/ with tiny-sd's CLIP and classifier."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_grad_enabled(False)
    models = load_models(HERE / "model", TINY_SD)
    scores = {
        "prompts": scoring.prompt_scores(models),
        "variety-of-a-photo-of-a-mug": scoring.variety_scores(models),
    }
    text = json.dumps(scores, indent=2, default=float)
    (HERE / "scores.json").write_text(text + "\n")
    print(text)
    scoring.sample_sheet(models).save(HERE / "samples.png")


if __name__ == "__main__":
    main()
