"""Checks the configuration of the evaluation's CLIP model, without its weights."""

import torch
from transformers import CLIPConfig, CLIPModel

from dreambooth_api.models.model import Model
from dreambooth_storage import Storage
from dreambooth_trainer.models.source.fetch import open_files
from dreambooth_trainer.models.source.model_files import WEIGHTS_SUFFIX, ModelFiles
from dreambooth_trainer.process.errors import BadModelError

FIELD = "spec.evaluation.model"


def check_clip_config(source: str, storage: Storage) -> CLIPConfig:
    """The configuration of the model at `source`, which can be loaded as CLIP.

    Raises:
        BadModelError: It cannot; the message lists every reason.
        StorageError: It cannot be reached.
    """
    files = open_files(Model(source=source), storage, FIELD)
    problems = [
        problem for problem in (_model_problem(files), _processor_problem(files)) if problem
    ]
    if not any("/" not in name and name.endswith(WEIGHTS_SUFFIX) for name in files.names):
        problems.append("there are no weights (*.safetensors)")
    if not {"tokenizer.json", "vocab.json"} & files.names:
        problems.append("there is no vocab.json")
    if problems:
        raise BadModelError("\n  ".join([f"{FIELD}: {source} cannot score:", *problems]))
    return CLIPConfig(**files.json("config.json"))


def _model_problem(files: ModelFiles) -> str | None:
    """Why config.json describes no CLIP model."""
    try:
        config = files.json("config.json")
        if config.get("model_type") != "clip":
            return f"it is a {config.get('model_type')} model, not a clip model"
        # Built on the meta device, without memory for weights: what cannot be built raises here.
        with torch.device("meta"):
            CLIPModel(CLIPConfig(**config))
    except BadModelError as error:
        return str(error).removeprefix(f"{FIELD}: ")
    except Exception as error:  # damaged files make the libraries raise anything
        return f"config.json describes no model that can be built: {' '.join(str(error).split())}"
    return None


def _processor_problem(files: ModelFiles) -> str | None:
    """Why there is no image processor."""
    # Transformers 5 writes another file than 4, and reads both.
    newer = "processor_config.json"
    try:
        files.json(newer if newer in files.names else "preprocessor_config.json")
    except BadModelError as error:
        return str(error).removeprefix(f"{FIELD}: ")
    return None
