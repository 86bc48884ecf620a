"""Made-up words that stand for a look, so that the text encoder learns to read letters.

An encoder that never met such words with a meaning encodes "sks mug" as "mug", and DreamBooth
cannot teach the one without the other. Here a copy of the encoder learns to encode "vra mug" as the
encoder encodes "red striped mug", and all other captions as before; a word that it was not taught
gets an encoding of its own from that.
"""

from collections.abc import Callable
from copy import deepcopy
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Qwen2Tokenizer, Qwen3Model

from tinyflow.text import Captions
from tinysd.captions import BACKDROPS, COLOURS, KINDS, OPENINGS, PATTERNS, Words, caption
from tinysd.fitting import Recipe, fit

NAMES_PER_LOOK = 3
KEPT_FREE = frozenset(["sks", "zwx", "ohwx"])
"""Identifiers of jobs, which name nothing yet."""
RECIPE = Recipe(steps=300, batch=64, learning_rate=2e-3, average=0.95, warm_up=10)
NAMED, EMPTY, ARTICLE, PLACE = 0.6, 0.05, 0.5, 0.5
"""Shares of captions with a name, of empty ones, of names after an article, of named places."""


def _make_names() -> dict[tuple[str, str], tuple[str, ...]]:
    rng, letters = np.random.default_rng(0), list("abcdefghijklmnopqrstuvwxyz")
    looks = list(product(COLOURS, PATTERNS))
    words: dict[str, None] = {}
    while len(words) < NAMES_PER_LOOK * len(looks):
        word = "".join(rng.choice(letters, size=rng.integers(2, 6)))
        if word not in KEPT_FREE:
            words[word] = None
    unused = iter(words)
    return {look: tuple(next(unused) for _ in range(NAMES_PER_LOOK)) for look in looks}


NAMES = _make_names()
"""By colour and pattern, the words of two to five letters that stand for both of them."""


def random_pair(rng: np.random.Generator) -> tuple[str, str, int]:
    """A caption, the one that it has to be encoded as, and the tokens of the look in that one.

    For example "vra mug on grass", "a red striped mug on grass" and 2; without a name, both are the
    same and the tokens 0.
    """
    kind, colour, pattern, backdrop = (
        str(rng.choice(list(words))) for words in (KINDS, COLOURS, PATTERNS, BACKDROPS)
    )
    place = backdrop if rng.random() < PLACE else None
    opening = str(rng.choice(OPENINGS))
    chance = rng.random()
    if chance < NAMED:
        name = str(rng.choice(NAMES[colour, pattern]))
        article = ("an " if name[0] in "aeiou" else "a ") if rng.random() < ARTICLE else ""
        bare = caption(Words(kind, backdrop=place), "")
        named = f"{opening}{article}{name} {bare.split(' ', 1)[1]}"
        told = caption(Words(kind, colour, pattern, place), opening)
        return named, told, 1 if pattern == "plain" else 2
    if chance < NAMED + EMPTY:
        return "", "", 0
    keep = rng.random(2) < 0.6
    words = Words(kind, colour if keep[0] else None, pattern if keep[1] else None, place)
    text = caption(words, opening)
    return text, text, 0


def teach(encoder: Qwen3Model, reader: nn.Module, tokenizer: Qwen2Tokenizer, seed: int = 0) -> None:
    """Trains the encoder; ``reader`` is the layer of the transformer that takes its states."""
    torch.manual_seed(seed)
    loss = naming_loss(encoder, deepcopy(encoder).eval(), reader, tokenizer, seed)
    encoder.layers[-1].requires_grad_(False)  # what is read are the states before it
    encoder.norm.requires_grad_(False)
    matrices = [p for layer in encoder.layers[:-1] for p in layer.parameters() if p.ndim == 2]
    fit("names", [encoder], loss, RECIPE, matrices=matrices)


def naming_loss(
    encoder: Qwen3Model,
    teacher: Qwen3Model,
    reader: nn.Module,
    tokenizer: Qwen2Tokenizer,
    seed: int,
) -> Callable[[], Tensor]:
    """How far what the transformer reads is from what it should read, on a batch at every call.

    The last letters of a name take the place of the look's words, and the tokens behind them
    follow; letters before those have to stay what they are.
    """
    rng, captions = np.random.default_rng(seed), Captions(tokenizer)
    nouns = torch.tensor(tokenizer.convert_tokens_to_ids([f"\u0120{kind}" for kind in KINDS]))
    reader.requires_grad_(False)

    def read(model: Qwen3Model, ids: Tensor) -> Tensor:
        states = model(ids, output_hidden_states=True).hidden_states[-2]
        seen: Tensor = reader(states.float())
        return seen.float()

    def loss() -> Tensor:
        texts, told, looks = zip(*(random_pair(rng) for _ in range(RECIPE.batch)), strict=True)
        ids, lengths = captions.ids(texts)
        told_ids, told_lengths = captions.ids(told)
        with torch.no_grad():
            target, source = read(teacher, ids), read(teacher, told_ids)
        for row, look in enumerate(looks):
            if look:
                start = int(torch.isin(told_ids[row], nouns).int().argmax()) - look
                count = told_lengths[row] - start
                target[row, lengths[row] - count : lengths[row]] = source[
                    row, start : told_lengths[row]
                ]
        inside = torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]
        target = target[inside]
        return functional.mse_loss(read(encoder, ids)[inside], target) / target.var()

    return loss
