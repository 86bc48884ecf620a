"""What the run has written as text: its history, its model card, its scores."""

from __future__ import annotations

import json

import pytest

from dreambooth_api.contract.scores import VERSION, ScoreName, Scores
from dreambooth_report import history
from dreambooth_report.card import Block, blocks
from dreambooth_report.scores import over_steps


def test_lines_that_were_cut_off_are_left_out() -> None:
    text = '{"step": 1, "loss": 0.5}\n[]\n{"loss": 1}\n{"step": 2, "lo'
    assert history.parse(text) == [{"step": 1, "loss": 0.5}]


def test_lines_that_no_trainer_writes_break_no_chart() -> None:
    lines = ["[" * 100_000, f'{{"step": 1{"0" * 400}, "loss": 1}}', '{"step": 3, "loss": 2}']
    lines.append(f'{{"step": 4, "loss": 1{"0" * 400}}}')
    curve = history.curve(history.parse("\n".join(lines)), "loss")
    assert curve is not None
    assert (curve.steps, curve.raw) == ([3], [2.0])


def test_a_long_history_becomes_a_curve_of_few_points() -> None:
    entries = [{"step": step, "loss": 1 + step % 2} for step in range(1, 10_001)]
    curve = history.curve(entries, "loss")
    assert curve is not None
    assert len(curve.steps) == len(curve.raw) == len(curve.smooth) <= history.POINTS
    assert curve.steps[-1] == 10_000
    assert curve.smooth[-1] == pytest.approx(1.5, abs=0.01)


def test_values_that_are_not_finite_are_left_out() -> None:
    entries = [{"step": i, "loss": value} for i, value in enumerate([1.0, float("nan"), None, 2.0])]
    curve = history.curve(entries, "loss")
    assert curve is not None
    assert list(curve.raw) == [1.0, 2.0]
    assert history.curve(entries, "other") is None


def test_averages_are_unbiased_from_the_first_value_on() -> None:
    assert history.smoothed([3.0, 3.0, 3.0], 10) == pytest.approx([3, 3, 3])
    assert history.smoothed([1.0, 2.0], 1) == [1, 2]


def test_validation_losses_of_evaluations_by_step() -> None:
    texts = [
        json.dumps({"step": step, "scores": {"validationLoss": 1 / step}}, indent=2)
        for step in (4, 2)
    ]
    others = ['{"step": 1, "scores": {"promptSimilarity": 1}}', "", '{"step": 3, "scores": 1}']
    assert history.validation_losses([*texts, *others]) == [(2, 0.5), (4, 0.25)]


def test_a_model_card_as_blocks() -> None:
    card = """---
license: other
---

# sks

A LoRA for "sks mug",
trained.

```python
a = 1

b = "# no heading"
```

## In ComfyUI

Copy `a.safetensors`.

- Base model: *x*
- License: y
  z

## Scores

| Score | Base |
|---|---|
| subject similarity (DINO) | 0.500 |
"""
    assert blocks(card) == [
        Block("text", 'A LoRA for "sks mug", trained.'),
        Block("code", 'a = 1\n\nb = "# no heading"'),
        Block("heading", "In ComfyUI"),
        Block("text", "Copy a.safetensors."),
        Block("list", items=("Base model: x", "License: y z")),
    ]
    assert blocks("") == []


def scores(step: int, value: float | None, real: float | None = None) -> Scores:
    def estimate(number: float) -> dict[str, float]:
        return {"value": number, "low": number - 0.01, "high": number + 0.01}

    values = {"base": estimate(0.2)}
    values |= {} if value is None else {"trained": estimate(value)}
    values |= {} if real is None else {"real": estimate(real)}
    encoder = {"name": "DINO", "source": "s3://m/dino", "sha256": "ab" * 32}
    subject = {
        "identifier": "sks",
        "classNoun": "mug",
        "counts": {"subject": 8, "class": 8, "perPrompt": 4, "references": 5, "training": 5},
        "scores": {"subjectSimilarity": values},
    }
    document = {
        "version": VERSION,
        "step": step,
        "encoders": {"image": encoder, "text": encoder},
        "subjects": [subject],
    }
    return Scores.decode(json.dumps(document).encode())


def test_scores_over_the_steps_begin_with_the_base_model() -> None:
    (found,) = over_steps([scores(400, 0.7, 0.9), scores(0, None), scores(200, 0.5)])
    assert (found.subject, found.name) == ("sks mug", ScoreName.SUBJECT_SIMILARITY)
    assert [(each.step, each.value) for each in found.points] == [(0, 0.2), (200, 0.5), (400, 0.7)]
    assert found.points[-1].low == pytest.approx(0.69)
    assert found.real == 0.9
    assert found.verdict == "Better than the base model."
    assert over_steps([]) == []


def test_a_difference_inside_the_noise_is_called_none() -> None:
    (found,) = over_steps([scores(400, 0.205)])
    assert found.verdict == "No difference from the base model beyond the noise."
