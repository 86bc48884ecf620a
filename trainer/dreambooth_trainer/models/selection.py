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
from dreambooth_trainer.models.model_files import ModelFiles
from dreambooth_trainer.models.scheduler import SCHEDULER_CONFIG
from dreambooth_trainer.models.stable_diffusion import StableDiffusion
from dreambooth_trainer.models.weights import (
    FILE_NAMES,
    Weights,
    choose_weights,
    unknown_variant,
)
from dreambooth_trainer.process.errors import BadModelError

FAMILIES = {"StableDiffusionPipeline": StableDiffusion}
INDEX = "model_index.json"
TOKENIZER_FILE = re.compile(r"tokenizer/[\w-]+\.(json|txt)")


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
    check_index(model, files)
    libraries = {part: library_of(each) for part, each in StableDiffusion.modules.items()}
    required = [*(f"{part}/config.json" for part in libraries), SCHEDULER_CONFIG]
    missing = [name for name in required if name not in files.sizes]
    problems = [f"{name} is missing; copy the whole model" for name in missing]
    # Without a vocabulary, transformers would build an empty tokenizer without a warning.
    if not {"tokenizer/vocab.json", "tokenizer/tokenizer.json"} & files.names:
        problems.append("there is no tokenizer/vocab.json; copy the whole model")
    if unknown := unknown_variant(files, libraries, model.variant):
        problems.append(unknown)
    weights: dict[str, Weights] = {}
    for part, library in libraries.items():
        try:
            weights[part] = choose_weights(files, part, library, model.variant)
        except BadModelError as error:
            problems.append(str(error).removeprefix(f"{files.field}: "))
    tokenizer = {name for name in files.names if TOKENIZER_FILE.fullmatch(name)}
    chosen = {name for each in weights.values() for name in each.files}
    names = frozenset({INDEX, *required, *tokenizer, *chosen})
    return Selection(names, weights), problems


def select_transformers_files(_model: Model, files: ModelFiles) -> Selection:
    """The files of one transformers model: its configuration, tokenizer and safetensors weights."""
    weights, _ = FILE_NAMES["transformers"]
    names = {
        name
        for name in files.names
        if re.fullmatch(r"[\w-]+\.(json|txt)", name)
        or name == weights
        or re.fullmatch(r"model-\d+-of-\d+\.safetensors|model\.safetensors\.index\.json", name)
    }
    return Selection(frozenset(names), {})


def raise_problems(model: Model, field: str, problems: Iterable[str]) -> None:
    """Raise a `BadModelError` that lists the problems, if there are any."""
    if found := list(problems):
        raise BadModelError("\n  ".join([f"{field}: {model.source} cannot be trained:", *found]))


def library_of(module: type) -> str:
    """`diffusers` or `transformers`."""
    return module.__module__.partition(".")[0]


def check_index(model: Model, files: ModelFiles) -> None:
    """Check the family that model_index.json names, and the parts that training loads.

    Raises:
        BadModelError: The family cannot be trained, or a part would need code of its own.
    """
    if INDEX not in files.sizes:
        raise BadModelError(
            f"{files.field}: {model.source} has no {INDEX}; name the folder that holds it,"
            " or set spec.model.layout to single-file"
        )
    index = files.json(INDEX)
    name = index.get("_class_name")
    if not isinstance(name, str) or name not in FAMILIES:
        raise BadModelError(
            f"{files.field}: {model.source} is a {name}; only {', '.join(FAMILIES)} can be trained"
        )
    for part, module in FAMILIES[name].modules.items():
        _check_part(model, files.field, index, part, module)


def _check_part(
    model: Model, field: str, index: Mapping[str, Any], part: str, module: type
) -> None:
    entry = index.get(part)  # ["diffusers", "UNet2DConditionModel"]
    if entry != [library_of(module), module.__name__]:
        raise BadModelError(
            f"{field}: the {part} of {model.source} is {entry!r};"
            f" only {module.__name__} of {library_of(module)} can be trained, and code"
            " that comes with a model is not run"
        )
