"""Scores the committed tiny-sd and draws its sample grid: `python examples/tiny-sd/evaluate.py`.

Writes scores.json and samples.png beside this file and prints the scores.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import Dinov2Model

from tinysd import scoring
from tinysd.captioner.scoring import scores as captioner_scores
from tinysd.dataset import draw_set, draw_view_set

HERE = Path(__file__).resolve().parent
HELD_OUT_SEED, HELD_OUT = 3, 2000
HELD_OUT_VIEWS_SEED, HELD_OUT_ITEMS = 4, 500
DESCRIBED = 200
"""Held-out drawings that the captioner describes, a token at a time."""


def main() -> None:
    """Scores model/, clip/, dino/, captioner/ and the classifier of this folder."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_grad_enabled(False)
    models = scoring.load_models(HERE / "model", HERE / "clip", HERE / "classifier.safetensors")
    held_out = draw_set(HELD_OUT_SEED, HELD_OUT)
    scores = {
        "classifier-on-drawings": scoring.classifier_scores(models, held_out),
        "prompts": scoring.prompt_scores(models),
        "variety-of-a-photo-of-a-mug": scoring.variety_scores(models),
        "clip-images": scoring.clip_scores(
            models, draw_view_set(HELD_OUT_VIEWS_SEED, HELD_OUT_ITEMS)
        ),
        "clip-texts": scoring.clip_text_scores(models, held_out),
        "dino": scoring.dino_scores(
            Dinov2Model.from_pretrained(HERE / "dino", dtype=torch.float32).eval(),
            HERE.parent / "subjects",
        ),
        "captioner": captioner_scores(HERE / "captioner", draw_set(HELD_OUT_SEED, DESCRIBED)),
        "subjects": scoring.subject_scores(models, HERE.parent / "subjects"),
    }
    text = json.dumps(scores, indent=2, default=float)
    (HERE / "scores.json").write_text(text + "\n")
    print(text)
    scoring.sample_sheet(models).save(HERE / "samples.png")


if __name__ == "__main__":
    main()
