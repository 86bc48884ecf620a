"""Trains the captioner: first its vision tower to see, then all of it to follow instructions."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import Mistral3ForConditionalGeneration, PreTrainedTokenizerFast

from tinysd.captioner import sight
from tinysd.captioner.lessons import Lesson, lesson, render_chat, texts
from tinysd.captioner.model import SPECIAL, build, normalized, see, train_tokenizer
from tinysd.classifiers import Classifier
from tinysd.dataset import DrawingSet
from tinysd.fitting import Recipe, fit

PARTS = (
    ("reading", Recipe(300, 32, 1.5e-3, average=0.98, decay_from=0.6), {"see": 1.0}),
    (
        "instructions",
        Recipe(400, 24, 1.5e-3, average=0.98, decay_from=0.2),
        {"see": 0.1, "describe": 0.2, "caption": 0.35, "check": 0.25, "prompts": 0.1},
    ),
    (
        "both",
        Recipe(260, 32, 1.2e-3, warm_up=20, average=0.98, decay_from=0.1),
        {"see": 0.4, "describe": 0.3, "caption": 0.15, "check": 0.1, "prompts": 0.05},
    ),
    (
        "seeing",
        Recipe(130, 32, 1.2e-3, warm_up=10, average=0.95, decay_from=0),
        {"see": 0.6, "describe": 0.4},
    ),
)
"""What the language model learns: with short instructions first, then with the real ones."""


def train(
    drawings: DrawingSet, teacher: Classifier, seed: int = 0
) -> tuple[Mistral3ForConditionalGeneration, PreTrainedTokenizerFast]:
    """Trains on drawings: the tower first, with the classifier's help, then the rest."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(texts(np.random.default_rng(seed)))
    model = build(len(tokenizer))
    for course in sight.COURSES:
        sight.train(model, drawings, teacher, course)
    for number, part in enumerate(PARTS):
        teach(model, tokenizer, drawings, *part, np.random.default_rng(seed + number))
    return model, tokenizer


def teach(
    model: Mistral3ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    drawings: DrawingSet,
    name: str,
    recipe: Recipe,
    tasks: Mapping[str, float],
    rng: np.random.Generator,
) -> None:
    """Trains on lessons of these tasks, which come up with their probabilities."""

    def loss() -> Tensor:
        task = str(rng.choice(list(tasks), p=list(tasks.values())))
        chosen = rng.integers(len(drawings.words), size=recipe.batch)
        lessons = [lesson(task, drawings.pixels[i], drawings.words[i], rng) for i in chosen]
        return loss_of(model, tokenizer, lessons)

    fit(f"captioner, {name}", [model], loss, recipe)


def loss_of(
    model: Mistral3ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    lessons: Sequence[Lesson],
) -> Tensor:
    """Cross-entropy of the answers' tokens."""
    asked = [tokenizer.encode(render_chat(each), add_special_tokens=False) for each in lessons]
    answers = [
        [*tokenizer.encode(each.answer.model_dump_json(), add_special_tokens=False), 2]
        for each in lessons
    ]
    length = max(len(a) + len(b) for a, b in zip(asked, answers, strict=True))
    ids = torch.full((len(lessons), length), SPECIAL.index("<pad>"))
    labels = torch.full((len(lessons), length), -100)
    for row, (question, answer) in enumerate(zip(asked, answers, strict=True)):
        end = len(question) + len(answer)
        ids[row, :end] = torch.tensor(question + answer)
        labels[row, len(question) : end] = torch.tensor(answer)
    embedded = model.get_input_embeddings()(ids)
    if lessons[0].pixels is not None:
        pixels = np.stack([each.pixels for each in lessons if each.pixels is not None])
        seen = see(model, normalized(pixels)).to(embedded.dtype)
        places = (ids == SPECIAL.index("[IMG]")).unsqueeze(-1)
        embedded = embedded.masked_scatter(places, seen)
    # Padding stands behind the answers, where causal attention does not look.
    hidden = model.model.language_model(inputs_embeds=embedded).last_hidden_state
    wanted = labels[:, 1:] != -100
    logits = model.lm_head(hidden[:, :-1][wanted])
    return functional.cross_entropy(logits.float(), labels[:, 1:][wanted])
