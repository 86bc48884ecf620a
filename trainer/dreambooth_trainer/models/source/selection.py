"""Which files of a model training loads; all others are neither fetched, judged nor hashed.

Published repositories hold much else: safety checkers, the same weights in several formats and
variants, files of other tools. Stable Diffusion 1.5's has 23.6 GB of weights, of which training
loads 4.3.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dreambooth_api.models.model import Model
from dreambooth_trainer.models.family import Family
from dreambooth_trainer.models.registry import FAMILIES
from dreambooth_trainer.models.scheduler import SCHEDULER_CONFIG
from dreambooth_trainer.models.source.model_files import ModelFiles
from dreambooth_trainer.models.source.refusals import (
    folder_without_pipeline,
    unsupported_pipeline,
)
from dreambooth_trainer.models.source.weights import (
    Weights,
    choose_weights,
    unknown_variant,
)
from dreambooth_trainer.process.errors import BadModelError

INDEX = "model_index.json"
TOKENIZER_FILE = re.compile(r"[\w-]+\.(json|txt|model|jinja)")
VOCABULARIES = ("vocab.json", "tokenizer.json", "spiece.model", "tokenizer.model")
"""The files that a tokenizer's vocabulary may be in; one is enough."""


@dataclass(frozen=True)
class Selection:
    """The files that are loaded, and the weights of each part."""

    names: frozenset[str]
    weights: Mapping[str, Weights]


def select_files(model: Model, files: ModelFiles) -> Selection:
    """The files of a model that training loads.

    Raises:
        BadModelError: The model cannot be trained, or its files are not complete; the message lists
            every reason.
    """
    selection, problems = find_files(model, files)
    raise_problems(model, files.field, problems)
    return selection


def find_files(model: Model, files: ModelFiles) -> tuple[Selection, list[str]]:
    """The files of a model that training loads, and why it cannot be loaded from them.

    Raises:
        BadModelError: It is of no family that can be trained.
    """
    if model.layout == "single-file":
        return Selection(files.names, {}), []
    family = find_family(model, files)
    libraries = {part: library_of(each) for part, each in family.modules.items()}
    required = [*(f"{part}/config.json" for part in libraries), SCHEDULER_CONFIG]
    missing = [name for name in required if name not in files.sizes]
    problems = [f"{name} is missing; copy the whole model" for name in missing]
    # Without a vocabulary, transformers would build an empty tokenizer without a warning.
    problems += [
        f"{part}/ holds no vocabulary ({', '.join(VOCABULARIES)}); copy the whole model"
        for part in family.tokenizers
        if not {f"{part}/{name}" for name in VOCABULARIES} & files.names
    ]
    if unknown := unknown_variant(files, libraries, model.variant):
        problems.append(unknown)
    weights: dict[str, Weights] = {}
    for part, library in libraries.items():
        try:
            weights[part] = choose_weights(files, part, library, model.variant)
        except BadModelError as error:
            problems.append(str(error).removeprefix(f"{files.field}: "))
    tokenizer = {name for part in family.tokenizers for name in tokenizer_files(files, part)}
    chosen = {name for each in weights.values() for name in each.files}
    names = frozenset({INDEX, *required, *tokenizer, *chosen})
    return Selection(names, weights), problems


def select_transformers_files(_model: Model, files: ModelFiles) -> Selection:
    """The files of one transformers model: its configuration, tokenizer and weights.

    Raises:
        BadModelError: It has no weights.
    """
    weights = find_transformers_weights(files)
    settings = (name for name in files.names if TOKENIZER_FILE.fullmatch(name))
    return Selection(frozenset({*settings, *weights.files}), {"": weights})


def find_transformers_weights(files: ModelFiles) -> Weights:
    """The weights of one transformers model; raises `BadModelError` when they are not whole."""
    return choose_weights(files, "", "transformers", None)


def raise_problems(model: Model, field: str, problems: Iterable[str]) -> None:
    """Raise a `BadModelError` that lists the problems, if there are any."""
    if found := list(problems):
        raise BadModelError("\n  ".join([f"{field}: {model.source} cannot be trained:", *found]))


def library_of(module: type) -> str:
    """`diffusers` or `transformers`."""
    return module.__module__.partition(".")[0]


def tokenizer_files(files: ModelFiles, part: str) -> list[str]:
    """The files of the tokenizer in a folder."""
    return [
        name
        for name in files.names
        if name.startswith(f"{part}/") and TOKENIZER_FILE.fullmatch(name.removeprefix(f"{part}/"))
    ]


def find_family(model: Model, files: ModelFiles) -> type[Family]:
    """The family that model_index.json names; its parts are those that training loads.

    Raises:
        BadModelError: The family cannot be trained, or a part would need code of its own.
    """
    if INDEX not in files.sizes:
        raise BadModelError(f"{files.field}: {model.source} {folder_without_pipeline(files)}")
    index = files.json(INDEX)
    name = index.get("_class_name")
    if not isinstance(name, str) or name not in FAMILIES:
        problem = unsupported_pipeline(name, FAMILIES)
        raise BadModelError(f"{files.field}: {model.source} {problem}")
    family = FAMILIES[name].for_index(index)
    for part in family.modules:
        _check_part(model, files.field, index, part, family)
    return family


def pipeline_settings(family: type[Family], files: ModelFiles) -> dict[str, Any]:
    """The settings of the family's pipeline that model_index.json has."""
    index = files.json(INDEX)
    return {name: index[name] for name in family.pipeline_settings if name in index}


def _check_part(
    model: Model, field: str, index: Mapping[str, Any], part: str, family: type[Family]
) -> None:
    entry = index.get(part)  # ["diffusers", "UNet2DConditionModel"]
    module = family.modules[part]
    if entry in (None, [None, None]):
        raise BadModelError(
            f"{field}: {model.source} has no {part} in {INDEX}, and training needs one of the class"
            f" {module.__name__}; copy the whole model"
        )
    if entry != [library_of(module), module.__name__]:
        raise BadModelError(
            f"{field}: the {part} of {model.source} is {entry!r};"
            f" only {module.__name__} of {library_of(module)} can be trained, and code"
            f" that comes with a model is not run; use {family.name}, such as"
            f" {family.published[0].source}"
        )
