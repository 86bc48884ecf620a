"""The DreamBoothJob."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from dreambooth_api.contract.layout import OutputLayout
from dreambooth_api.models.evaluation import Evaluation
from dreambooth_api.models.export import Export
from dreambooth_api.models.model import Model
from dreambooth_api.models.prior import Prior
from dreambooth_api.models.runtime import Runtime, world_size
from dreambooth_api.models.status import Status
from dreambooth_api.models.storage import Checkpoints, ResumeFrom, Samples, Storage
from dreambooth_api.models.subject import Subject
from dreambooth_api.models.tracking import Tracking
from dreambooth_api.models.training import Training
from dreambooth_api.schema.base import ApiModel, JobName, NamespaceName, ObjectUid, StorageUri
from dreambooth_api.schema.map_list import MapList
from dreambooth_api.schema.rules import rule


class Spec(ApiModel):
    """What to train, on what, how, where, and where to put the result."""

    model: Model
    """The base model."""

    subjects: Annotated[list[Subject], Field(min_length=1, max_length=16), MapList("identifier")]
    """What to learn."""

    output: StorageUri
    """Where the results go: `<output>/<namespace>/<name>/<uid>/`."""

    prior: Prior = Field(default_factory=Prior)
    """Class-prior preservation."""

    training: Training = Field(default_factory=Training)
    """How to train."""

    checkpoints: Checkpoints = Field(default_factory=Checkpoints)
    """Durable states that a later attempt resumes from."""

    resume_from: ResumeFrom | None = None
    """Go on from another run, for example of a job that failed, or with more steps."""

    samples: Samples = Field(default_factory=Samples)
    """Sample images made before, during and after training."""

    evaluation: Evaluation | None = None
    """Scores of the result."""

    export: Export | None = None
    """Where the result goes besides `output`."""

    tracking: Tracking = Field(default_factory=Tracking)
    """Experiment trackers."""

    storage: Storage = Field(default_factory=Storage)
    """How object storage is reached."""

    runtime: Runtime = Field(default_factory=Runtime)
    """Where and how the pods run."""

    suspend: bool = False
    """Save a checkpoint, stop the pods and give their nodes back; set it to false to go on."""

    @rule(
        "training.globalBatch",
        "!has(self.training.globalBatch) || self.training.globalBatch %"
        " (self.runtime.nodes * (self.runtime.gpusPerNode > 0 ? self.runtime.gpusPerNode :"
        " (has(self.runtime.processesPerNode) ? self.runtime.processesPerNode : 1))"
        " * self.training.accumulation) == 0",
        "must be a multiple of nodes x gpusPerNode (or processesPerNode) x accumulation;"
        " change it, or set perDeviceBatch instead",
    )
    def _ranks_divide_the_batch(self) -> bool:
        parts = world_size(self.runtime) * self.training.accumulation
        return (self.training.global_batch or 0) % parts == 0

    @rule(
        "model.adapter",
        "!has(self.model.adapter) || self.training.method == 'lora'",
        "is trained further by method lora; set training.method to lora, or name it in"
        " model.mergedAdapters",
    )
    def _adapter_is_trained(self) -> bool:
        return self.model.adapter is None or self.training.method == "lora"

    @rule(
        "training.lora",
        "!has(self.model.adapter) || (self.training.lora.type == 'lora'"
        " && self.training.lora.init == 'default' && !self.training.lora.rslora"
        " && !has(self.training.lora.alpha) && !has(self.training.lora.targets)"
        " && !has(self.training.lora.targetPreset)"
        " && self.training.lora.rankPattern.size() == 0"
        " && self.training.lora.alphaPattern.size() == 0)",
        "type, init, alpha, rslora, targets and patterns are those of model.adapter; remove them",
    )
    def _adapter_has_its_shape(self) -> bool:
        lora = self.training.lora
        return self.model.adapter is None or (
            lora.type == "lora"
            and lora.init == "default"
            and not lora.rslora
            and lora.alpha is None
            and lora.targets is None
            and lora.target_preset is None
            and not lora.rank_pattern
            and not lora.alpha_pattern
        )

    @rule(
        "training.precision",
        "self.training.precision != 'fp16' || self.runtime.gpusPerNode > 0",
        "fp16 needs a GPU; use fp32 or bf16, or set runtime.gpusPerNode",
    )
    def _fp16_is_for_gpus(self) -> bool:
        return self.training.precision != "fp16" or self.runtime.gpus_per_node > 0

    @rule(
        "runtime.strategy",
        "!has(self.runtime.strategy) || self.runtime.strategy != 'fsdp'"
        " || self.training.precision != 'fp16'",
        "fsdp has no scale for fp16's gradients; use training.precision bf16",
    )
    def _sharding_is_not_for_fp16(self) -> bool:
        return self.runtime.strategy != "fsdp" or self.training.precision != "fp16"

    @rule(
        "runtime.strategy",
        "!has(self.runtime.strategy) || self.runtime.strategy != 'fsdp'"
        " || self.training.method != 'full'"
        " || self.training.optimizer.name in ['adamw', 'lion']",
        "with training.method full, fsdp divides the state of adamw and lion alone; choose one of"
        " them as training.optimizer.name, or training.method lora",
    )
    def _sharding_divides_the_state(self) -> bool:
        training = self.training
        divided = self.runtime.strategy == "fsdp" and training.method == "full"
        return not divided or training.optimizer.name in ("adamw", "lion")

    @rule(
        "runtime.strategy",
        "!has(self.runtime.strategy) || self.runtime.strategy != 'fsdp'"
        " || self.training.method != 'lora'"
        " || self.training.lora.type != 'dora' && self.training.lora.init != 'pissa'"
        " && self.training.textEncoder.method != 'full'",
        "dora, pissa and textEncoder.method full need whole weights, which fsdp divides; choose"
        " other adapters and textEncoder.method, or ddp",
    )
    def _sharding_leaves_no_whole_weight(self) -> bool:
        training = self.training
        if self.runtime.strategy != "fsdp" or training.method != "lora":
            return True
        reads_base = training.lora.type == "dora" or training.lora.init == "pissa"
        return not reads_base and training.text_encoder.method != "full"

    @rule(
        "runtime.strategy",
        "!has(self.runtime.strategy) || self.runtime.strategy != 'fsdp'"
        " || !has(self.model.quantization)",
        "fsdp does not divide quantized weights; use ddp, or remove model.quantization",
    )
    def _quantized_weights_are_whole(self) -> bool:
        return self.runtime.strategy != "fsdp" or self.model.quantization is None

    @rule(
        "model.quantization",
        "!has(self.model.quantization) || self.training.method == 'lora'",
        "is for adapters beside frozen weights; set training.method to lora, or remove it",
    )
    def _quantized_weights_are_frozen(self) -> bool:
        return self.model.quantization is None or self.training.method == "lora"

    @rule(
        "training.lora.type",
        "!has(self.model.quantization) || self.training.lora.type != 'dora'",
        "dora trains the lengths of the weights' rows, which model.quantization changes; choose"
        " another type, or remove model.quantization",
    )
    def _quantized_rows_keep_no_length(self) -> bool:
        return self.model.quantization is None or self.training.lora.type != "dora"

    @rule(
        "model.quantization.textEncoders",
        "!has(self.model.quantization) || !has(self.model.quantization.textEncoders)"
        " || self.training.textEncoder.method == 'frozen'",
        "is for text encoders that are not trained; remove it, or training.textEncoder",
    )
    def _quantized_text_encoders_are_frozen(self) -> bool:
        quantization = self.model.quantization
        quantized = quantization is not None and quantization.text_encoders is not None
        return not quantized or self.training.text_encoder.method == "frozen"

    @rule(
        "subjects",
        "self.subjects.all(a, self.subjects.exists_one(b,"
        " b.identifier.lowerAscii() == a.identifier.lowerAscii()))",
        "each identifier must be used once (letter case does not count); rename one",
    )
    def _identifiers_are_unique(self) -> bool:
        # CLIP's tokenizer lowers its text: `Sks` and `sks` are one word to the model.
        identifiers = [_lower(subject.identifier) for subject in self.subjects]
        return len(set(identifiers)) == len(identifiers)

    @rule(
        "subjects",
        "!self.subjects.exists(a, self.subjects.exists(b,"
        " (' ' + b.classNoun.lowerAscii() + ' ')"
        ".contains(' ' + a.identifier.lowerAscii() + ' ')))",
        "an identifier must not be a word of a classNoun; choose a rare word as identifier",
    )
    def _identifiers_are_no_class(self) -> bool:
        return not any(
            _contains_word(b.class_noun, a) for a in self.subjects for b in self.subjects
        )

    @rule(
        "prior.prompt",
        "!self.subjects.exists(s, (' ' + self.prior.prompt.lowerAscii().replace(',', ' ')"
        ".replace('.', ' ') + ' ').contains(' ' + s.identifier.lowerAscii() + ' '))",
        "must not contain an identifier, as class images show the class in general; remove it",
    )
    def _prior_prompt_is_general(self) -> bool:
        prompt = self.prior.prompt.replace(",", " ").replace(".", " ")
        return not any(_contains_word(prompt, subject) for subject in self.subjects)

    @rule(
        "prior.prompt",
        "!self.prior.enabled || self.prior.prompt.contains('{class}')"
        " || self.subjects.all(s, s.classNoun == self.subjects[0].classNoun)",
        "must contain {class} when the subjects have different class nouns;"
        " write {class} for the class",
    )
    def _prior_prompt_names_the_class(self) -> bool:
        return not self.prior.enabled or "{class}" in self.prior.prompt or self._is_of_one_class()

    @rule(
        "prior.prompts",
        "!self.subjects.exists(s, self.prior.prompts.exists(p, (' ' + p.lowerAscii()"
        ".replace(',', ' ').replace('.', ' ') + ' ').contains(' ' + s.identifier.lowerAscii()"
        " + ' ')))",
        "must not contain an identifier, as class images show the class in general; remove it",
    )
    def _prior_prompts_are_general(self) -> bool:
        prompts = [each.replace(",", " ").replace(".", " ") for each in self.prior.prompts]
        return not any(_contains_word(each, s) for each in prompts for s in self.subjects)

    @rule(
        "prior.prompts",
        "!self.prior.enabled || self.prior.prompts.all(p, p.contains('{class}'))"
        " || self.subjects.all(s, s.classNoun == self.subjects[0].classNoun)",
        "must each contain {class} when the subjects have different class nouns;"
        " write {class} for the class",
    )
    def _prior_prompts_name_the_class(self) -> bool:
        named = all("{class}" in each for each in self.prior.prompts)
        return not self.prior.enabled or named or self._is_of_one_class()

    @rule(
        "prior.images",
        "!self.prior.enabled || !has(self.prior.images)"
        " || self.subjects.all(s, s.classNoun == self.subjects[0].classNoun)",
        "shows one class, and the subjects have different class nouns; remove it, so that the"
        " images of each class are generated, or train each class in a job of its own",
    )
    def _prior_images_show_the_class(self) -> bool:
        return not self.prior.enabled or self.prior.images is None or self._is_of_one_class()

    @rule(
        "evaluation.select.scores",
        "!has(self.evaluation) || self.evaluation.holdOut > 0"
        " || !self.evaluation.select.scores.exists(s, s.name == 'validationLoss')"
        " || self.subjects.exists(s, has(s.evaluationImages))",
        "validationLoss needs images that are not trained on; set evaluation.holdOut, or"
        " evaluationImages of a subject",
    )
    def _validation_loss_has_images(self) -> bool:
        evaluation = self.evaluation
        if evaluation is None or evaluation.hold_out > 0:
            return True
        by_loss = any(each.name == "validationLoss" for each in evaluation.select.scores)
        return not by_loss or any(subject.evaluation_images for subject in self.subjects)

    @rule(
        "output",
        "!self.storage.anonymousBuckets.exists(b,"
        " (self.output + '/').startsWith('s3://' + b + '/'))",
        "is in a bucket of storage.anonymousBuckets, to which nothing is written; choose another"
        " bucket, or remove it from there",
    )
    def _output_needs_credentials(self) -> bool:
        return not is_in_buckets(self.output, self.storage.anonymous_buckets)

    @rule(
        "prior.cache",
        "!has(self.prior.cache) || !self.storage.anonymousBuckets.exists(b,"
        " (self.prior.cache + '/').startsWith('s3://' + b + '/'))",
        "is in a bucket of storage.anonymousBuckets, to which nothing is written; choose another"
        " bucket, or remove it from there",
    )
    def _prior_cache_needs_credentials(self) -> bool:
        cache = self.prior.cache
        return cache is None or not is_in_buckets(cache, self.storage.anonymous_buckets)

    def _is_of_one_class(self) -> bool:
        return len({subject.class_noun for subject in self.subjects}) == 1


class Metadata(ApiModel):
    """The parts of a job's metadata that are used (meta/v1 ObjectMeta); the rest is kept."""

    model_config = ConfigDict(extra="allow")

    # <name>-<attempt>-<index>-<5 letters> must be a pod's name and a DNS label: 63 characters at
    # most.
    name: JobName
    """Name of the job."""

    namespace: NamespaceName = "default"
    """Namespace of the job."""

    uid: ObjectUid | None = None
    """Set by the API server. A folder of the output is named after it."""

    labels: dict[str, str] = {}
    """Labels."""

    annotations: dict[str, str] = {}
    """Annotations."""


class DreamBoothJob(ApiModel):
    """A job that teaches a diffusion model one or more subjects."""

    api_version: Literal["dreambooth.dev/v1alpha1"]
    kind: Literal["DreamBoothJob"]
    metadata: Metadata
    spec: Spec
    status: Status | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_stored(cls, data: Any) -> Any:
        # Before validation, which is strict: it would refuse 8.0 for an integer, and null for a
        # default.
        return stored(data)


def stored(value: Any) -> Any:
    """Read a value of a job file as the API server does: null is absent, and 8.0 is 8.

    A null in a list is kept: leaving it out would move the items after it.
    """
    if isinstance(value, dict):
        return {key: stored(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [stored(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _lower(text: str) -> str:
    """Lower the case of ASCII letters only, as `lowerAscii()` in CEL."""
    return "".join(letter.lower() if letter.isascii() else letter for letter in text)


def _contains_word(text: str, subject: Subject) -> bool:
    """Whether the subject's identifier is one of the words of a text."""
    return f" {_lower(subject.identifier)} " in f" {_lower(text)} "


def is_in_buckets(uri: str, buckets: Iterable[str]) -> bool:
    """Whether a URI is that of something in one of the buckets, given by name."""
    return any(f"{uri}/".startswith(f"s3://{bucket}/") for bucket in buckets)


def output_layout(job: DreamBoothJob) -> OutputLayout:
    """The layout of the run's folder, `<output>/<namespace>/<name>/<uid>` (spec.output)."""
    meta = job.metadata
    return OutputLayout.of(job.spec.output, meta.namespace, meta.name, meta.uid)


def prior_cache(job: DreamBoothJob) -> str:
    """Folder in which jobs share class images (spec.prior.cache, else below spec.output)."""
    return job.spec.prior.cache or f"{job.spec.output.rstrip('/')}/prior-cache"


def resolved(job: DreamBoothJob) -> dict[str, Any]:
    """The job with every default filled in, as the API server would store it."""
    return job.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"status"})
