"""Checks whether the vision-language model of `spec.captioning` can be asked."""

import os
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from dreambooth_api.contract import environment
from dreambooth_api.models.captioning import CaptioningEndpoint, CaptioningModel
from dreambooth_api.models.job import output_layout
from dreambooth_api.models.model import Model
from dreambooth_storage import Storage
from dreambooth_trainer.captioning.models.local import FIELD
from dreambooth_trainer.captioning.models.own import WEIGHTS, answers_questions, is_own
from dreambooth_trainer.models.source.fetch import open_files
from dreambooth_trainer.models.source.model_files import ModelFiles
from dreambooth_trainer.models.source.selection import find_transformers_weights
from dreambooth_trainer.preflight.report import PreflightReport
from dreambooth_trainer.process.errors import BadConfigError, BadModelError, TrainerError
from dreambooth_trainer.resolved_job import ResolvedJob

URL = "spec.captioning.endpoint.url"
KEY = "spec.captioning.endpoint.apiKeySecretRef"
WAIT_SECONDS = 10
"""Until an endpoint answers; a list of models takes it no time."""
BYTES = 2
"""Of a weight in bf16, as these models are loaded; those in fp8 are unpacked to it."""
TOKENIZERS = ("tokenizer.json", "tekken.json", "tokenizer_config.json")


def check_captioning(job: ResolvedJob, storage: Storage, report: PreflightReport) -> int:
    """Check the model's files, or that the endpoint answers.

    Not where captions.json is there: the run may not need to ask any more.

    Returns:
        Bytes of the model's weights on a GPU; 0 where none runs there.
    """
    captioning = job.spec.captioning
    if captioning is None or not (job.spec.has_auto or captioning.photo_check):
        return 0
    with report.collecting():
        if storage.exists(output_layout(job).captions, field="spec.output"):
            return 0
        if captioning.endpoint is not None:
            check_endpoint(captioning.endpoint)
            return 0
        assert captioning.local_model is not None
        if is_own(captioning.local_model, job.spec.model):
            return _check_own(job.spec.model, storage, report)
        return check_files(captioning.local_model, storage)
    return 0


def _check_own(model: Model, storage: Storage, report: PreflightReport) -> int:
    """As `check_files`, of the base model's text encoder, whose weights are checked elsewhere."""
    files = open_files(model, storage)
    if not answers_questions(model, files):
        raise BadModelError(
            f"{FIELD}: {model.source} is the base model, and its text encoder answers no questions"
            " about images; name a vision-language model, or leave it out for the default"
        )
    report.notes.append(f"{FIELD}: the text encoder of {model.source}, which training reads anyway")
    return _weight_bytes(dict(files.json(f"{WEIGHTS}/config.json")), files, f"{WEIGHTS}/")


def check_files(model: CaptioningModel, storage: Storage) -> int:
    """Check that a model's folder is complete; returns the bytes of its weights, unpacked.

    Raises:
        BadModelError: It is not, or holds another kind of model.
        StorageError: It cannot be read.
    """
    files = open_files(Model(source=model.source, revision=model.revision), storage, FIELD)
    config = files.json("config.json")
    kind = config.get("model_type")
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise BadModelError(
            f"{FIELD}: {model.source} is of type {kind!r}, and no vision-language model that"
            " transformers knows; name another one"
        )
    try:
        find_transformers_weights(files)
    except BadModelError as error:
        raise BadModelError(
            f"{FIELD}: {model.source} is not whole: {error}; copy it again"
        ) from error
    if not files.names & set(TOKENIZERS):
        raise BadModelError(f"{FIELD}: {model.source} has no tokenizer; copy the whole model")
    return _weight_bytes(dict(config), files)


def _weight_bytes(values: dict[str, Any], files: ModelFiles, folder: str = "") -> int:
    values.pop("quantization_config", None)
    try:
        with torch.device("meta"):
            config = AutoConfig.for_model(**values)
            model = AutoModelForImageTextToText.from_config(config)
        return BYTES * sum(int(each.numel()) for each in model.parameters())
    except Exception:  # of a newer transformers: its loading will say what is wrong
        return sum(
            size
            for name, size in files.sizes.items()
            if name.startswith(folder) and name.endswith(".safetensors")
        )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows none: the key would go to another server."""

    def redirect_request(self, *arguments: Any) -> None:
        """Refuse; the answer counts as it is."""


def check_endpoint(endpoint: CaptioningEndpoint) -> None:
    """Check that a server answers, and takes the key, within `WAIT_SECONDS`. No image is sent.

    Raises:
        BadConfigError: It refuses the key, or wants one.
        TrainerError: It does not answer; it may later.
    """
    key = os.environ.get(environment.OPENAI_API_KEY)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(f"{endpoint.url.rstrip('/')}/models", headers=headers)
    try:
        urllib.request.build_opener(_NoRedirect()).open(request, timeout=WAIT_SECONDS).close()
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403):
            what = "refuses the key" if key else "asks for a key"
            raise BadConfigError(
                f"{KEY}: {endpoint.url} {what} (HTTP {error.code}); name a Secret with one that is"
                f" valid, or set {environment.OPENAI_API_KEY} for a local run"
            ) from error
        if error.code >= 500:
            raise TrainerError(
                f"{URL}: {endpoint.url} answers HTTP {error.code}; see whether the server is well"
            ) from error
        # Else it is there, and has no list of models.
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise TrainerError(
            f"{URL}: {endpoint.url} does not answer ({reason}); correct it, start the server, or"
            " allow the pods to reach it"
        ) from error
