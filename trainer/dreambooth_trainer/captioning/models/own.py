"""The base model's own vision-language model, where its text encoder is one: that of FLUX.2 dev.

Training fetches it anyway, so a job needs no other model to describe its images.
"""

from collections.abc import Iterable

from dreambooth_api.models.captioning import CaptioningModel
from dreambooth_api.models.model import Model
from dreambooth_storage import Storage
from dreambooth_trainer.models.family import Family
from dreambooth_trainer.models.source.fetch import open_files
from dreambooth_trainer.models.source.model_files import ModelFiles
from dreambooth_trainer.models.source.weights import choose_weights, read_header
from dreambooth_trainer.process.errors import BadModelError
from dreambooth_trainer.resolved_job import ResolvedJob

WEIGHTS, PROCESSOR = "text_encoder", "tokenizer"
"""Its folders in the base model's."""
IMAGES = f"{PROCESSOR}/preprocessor_config.json"
HEAD = "lm_head.weight"
"""End of the name of what makes words of hidden states, which training does not need."""


def with_own_model(job: ResolvedJob, family: type[Family], storage: Storage) -> ResolvedJob:
    """The job with its base model's own as `spec.captioning.model`, where it names no other.

    Raises:
        TrainerError: The base model's files cannot be read.
        StorageError: Likewise.
    """
    model, captioning = job.spec.model, job.spec.captioning
    if captioning is None or captioning.model or captioning.endpoint or not family.reads_images:
        return job
    quantization = model.quantization
    if quantization is not None and quantization.text_encoders is not None:
        return job  # here it would need the memory that this saves
    if not answers_questions(model, open_files(model, storage)):
        return job
    own = CaptioningModel(source=model.source, revision=model.revision)
    spec = {"captioning": captioning.model_copy(update={"model": own})}
    return job.model_copy(update={"spec": job.spec.model_copy(update=spec)})


def is_own(asked: CaptioningModel, base: Model) -> bool:
    """Whether a job's vision-language model is its base model's."""
    return asked.source == base.source and asked.revision in (None, base.revision)


def answers_questions(model: Model, files: ModelFiles) -> bool:
    """Whether the files of a base model have all that questions about images take.

    Raises:
        StorageError: They cannot be read.
    """
    if model.layout != "diffusers" or model.variant is not None or IMAGES not in files.names:
        return False
    try:
        return any(name.endswith(HEAD) for name in _tensors(files))
    except BadModelError:  # training's checks name the reason
        return False


def _tensors(files: ModelFiles) -> Iterable[str]:
    """Names of the text encoder's weights; none where they are not in safetensors files."""
    weights = choose_weights(files, WEIGHTS, "transformers", None)
    first = weights.files[0]
    if first.endswith(".json"):
        return list(files.json(first).get("weight_map", {}))
    return list(read_header(files, first)[1]) if weights.use_safetensors else ()
