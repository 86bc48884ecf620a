"""All that can be known to be wrong before a GPU is taken, in one report.

`python -m dreambooth_trainer.preflight --config FILE` prints it. Exit codes are the trainer's: 0
when the job can be trained, else that of the first error.
"""

import argparse
import math
import traceback
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from dreambooth_api.models.job import DreamBoothJob, output_prefix, prior_cache
from dreambooth_api.models.runtime import world_size
from dreambooth_api.parsing.advice import warnings as advice
from dreambooth_storage import AlreadyExistsError, Storage, StorageSettings, join
from dreambooth_trainer.data.captions import load_captions
from dreambooth_trainer.data.class_images import class_prompt
from dreambooth_trainer.data.images import load_images
from dreambooth_trainer.evaluation.clip_config import check_clip_config
from dreambooth_trainer.models.fetch import FIELD as MODEL
from dreambooth_trainer.models.model_config import ModelConfig, read_model_config
from dreambooth_trainer.preflight.memory import GIB, adapted, checkpoint_bytes, estimate_memory
from dreambooth_trainer.preflight.report import PreflightReport
from dreambooth_trainer.process.errors import BadConfigError, BadModelError, StorageDeniedError
from dreambooth_trainer.process.exit_status import exit_code_of, sentence
from dreambooth_trainer.process.termination_message import leave
from dreambooth_trainer.process.topology import load_job, local_batch

LOOKED_AT = 64
"""Of class images and of images for the evaluation, how many are looked at."""

UPLOAD_BYTES_PER_SECOND = 100e6
"""What a node writes to a slow object store. Every node writes its part."""
LAST_STEP_SECONDS = 15
"""Until all ranks have agreed to stop and have finished their step."""

UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
         "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}  # fmt: skip

Prompts = list[tuple[str, str]]
"""Texts that the model will read, with their fields."""


def check_job(job: DreamBoothJob, storage: Storage) -> PreflightReport:
    """Look at everything the job names, but no weights. Writes and deletes a probe or two."""
    report = PreflightReport(warnings=advice(job))
    _check_writing(job, storage, report)
    if report.unreachable:
        report.warnings.append("images and model were not checked, as storage does not answer")
        return report
    prompts = [*_check_subjects(job, storage, report), *_prompts(job)]
    _check_other_images(job, storage, report)
    if job.spec.evaluation:
        with report.collecting():
            check_clip_config(job.spec.evaluation.model, storage)
    with report.collecting():
        config = _model_config(job, storage)
        if config is not None:
            _check_model(job, config, prompts, report)
    return report


def _check_writing(job: DreamBoothJob, storage: Storage, report: PreflightReport) -> None:
    """A small object can be written, is not replaced, and can be deleted wherever the job will
    write.
    """
    places = {"spec.output": output_prefix(job)}
    if job.spec.prior.enabled and job.spec.prior.cache:
        places["spec.prior.cache"] = prior_cache(job)
    for name, folder in places.items():
        probe = join(folder, f".preflight-{uuid.uuid4().hex}")
        with report.collecting():
            storage.write(probe, b"preflight", only_if_absent=True, field=name)
            kept = _stays(storage, probe, name)
            storage.delete([probe], field=name)
            if not kept:
                raise StorageDeniedError(
                    f"{name}: the server replaced {probe}, which was to stay: it ignores"
                    " If-None-Match, so that a lost pod could write over the next one's"
                    " checkpoints; use a server with conditional writes"
                )


def _stays(storage: Storage, uri: str, name: str) -> bool:
    """Whether a conditional write leaves the object that is there: checkpoints are fenced by it."""
    try:
        storage.write(uri, b"replaced", only_if_absent=True, field=name)
    except AlreadyExistsError:
        return True
    return False


def _check_subjects(job: DreamBoothJob, storage: Storage, report: PreflightReport) -> Prompts:
    """The subjects' images and captions are what can be trained on; returns the captions."""
    prompts: Prompts = []
    for index, subject in enumerate(job.spec.subjects):
        name = f"spec.subjects[{index}].images"
        with report.collecting():
            found = load_images(
                storage, subject.images, field=name, resolution=job.spec.training.resolution
            )
            report.warnings += [found.report(name)] if found.rejected else []
            described = load_captions(storage, subject, found.images, index)
            report.warnings += described.warnings
            captions_field = f"spec.subjects[{index}].captions"
            prompts += [(captions_field, text) for text in dict.fromkeys(described.texts)]
    return prompts


def _check_other_images(job: DreamBoothJob, storage: Storage, report: PreflightReport) -> None:
    prior, evaluation = job.spec.prior, job.spec.evaluation
    folders = {}
    if prior.enabled and prior.images:
        folders["spec.prior.images"] = prior.images, job.spec.training.resolution, prior.count
    if evaluation and evaluation.images:
        folders["spec.evaluation.images"] = evaluation.images, 1, LOOKED_AT
    for name, (uri, resolution, most) in folders.items():
        count = min(most, LOOKED_AT)
        with report.collecting():
            found = load_images(storage, uri, field=name, resolution=resolution, count=count)
            report.warnings += [found.report(name)] if found.rejected else []


def _prompts(job: DreamBoothJob) -> Prompts:
    samples = [
        (f"spec.samples.prompts[{i}]", text) for i, text in enumerate(job.spec.samples.prompts)
    ]
    nouns = {subject.class_noun for subject in job.spec.subjects}
    classes = [("spec.prior.prompt", class_prompt(job.spec.prior, noun)) for noun in sorted(nouns)]
    return samples + classes


def _model_config(job: DreamBoothJob, storage: Storage) -> ModelConfig | None:
    """What is known of the model; nothing of a single file but that it is there."""
    model = job.spec.model
    if model.layout == "diffusers":
        return read_model_config(model, storage)
    uri = f"file://{model.source}" if model.source.startswith("/") else model.source
    if not uri.startswith("hf://") and not storage.exists(uri, field=MODEL):
        raise BadModelError(
            f"{MODEL}: there is no file {model.source}; correct it, or copy the model"
        )
    return None


def _check_model(
    job: DreamBoothJob, config: ModelConfig, prompts: Prompts, report: PreflightReport
) -> None:
    report.warnings += _long_prompts(config, prompts)
    report.warnings += _odd_resolution(config, job.spec.training.resolution)
    report.warnings += check_grace_period(job, config)
    for checked in (_check_resolution, _check_targets, _check_memory):
        with report.collecting():
            checked(job, config)


def _long_prompts(config: ModelConfig, prompts: Sequence[tuple[str, str]]) -> Iterator[str]:
    limit = config.tokenizer.model_max_length
    for name, text in prompts:
        if (count := config.tokens(text)) > limit:
            start = text if len(text) <= 40 else f"{text[:40]}..."
            yield f"{name}: {start!r} has {count} tokens; the model reads {limit}, so shorten it"


def _odd_resolution(config: ModelConfig, resolution: int) -> Iterator[str]:
    name, native = "spec.training.resolution", config.native_resolution
    if resolution >= 2 * native or 2 * resolution <= native:
        yield f"{name}: {resolution} is far from the {native} that the model was made for; use that"
    if resolution % (whole := config.vae_factor * config.unet_factor):
        better = _near(resolution, whole)
        yield f"{name}: {resolution} is no multiple of {whole}, which costs quality; use {better}"


def check_grace_period(job: DreamBoothJob, config: ModelConfig) -> Iterator[str]:
    """A pod that is killed while it saves loses what was trained since the checkpoint before."""
    runtime = job.spec.runtime
    size, grace = (
        checkpoint_bytes(config, job.spec.training),
        runtime.termination_grace_period_seconds,
    )
    needed = math.ceil(size / (runtime.nodes * UPLOAD_BYTES_PER_SECOND)) + LAST_STEP_SECONDS
    if needed > grace:
        yield (
            f"spec.runtime.terminationGracePeriodSeconds: the last checkpoint has {size / 1e9:.1f}"
            f" GB and may take {needed} s, but {grace} s are given; raise it"
        )


def _check_resolution(job: DreamBoothJob, config: ModelConfig) -> None:
    resolution, least = job.spec.training.resolution, config.vae_factor * config.unet_factor
    if resolution % config.vae_factor or resolution < least:
        raise BadConfigError(
            f"spec.training.resolution: the model cannot take {resolution};"
            f" use a multiple of {least}, as {_near(resolution, least)}"
        )


def _near(resolution: int, multiple: int) -> int:
    return max(1, round(resolution / multiple)) * multiple


def _check_targets(job: DreamBoothJob, config: ModelConfig) -> None:
    if job.spec.training.method != "lora":
        return
    unet = config.skeleton["unet"]
    targets = job.spec.training.lora.targets
    unknown = [target for target in targets if not adapted(unet, (target,))]
    if unknown:
        raise BadConfigError(
            "spec.training.lora.targets: no module of the model's UNet is named"
            f" {', '.join(unknown)}; to_q, to_k, to_v and to_out.0 are its attention"
        )


def _check_memory(job: DreamBoothJob, config: ModelConfig) -> None:
    runtime, training = job.spec.runtime, job.spec.training
    if runtime.gpu_memory is None or runtime.gpus_per_node == 0:
        return
    halves = 2 if job.spec.prior.enabled and job.spec.prior.weight else 1
    ranks = world_size(runtime)
    images = local_batch(job, ranks) * halves
    needed, there = estimate_memory(config, training, images, ranks), _bytes(runtime.gpu_memory)
    if needed.certain > there:
        raise BadConfigError(
            f"spec.runtime.gpuMemory: about {needed.total / GIB:.1f} GiB are needed"
            f" ({needed.weights / GIB:.1f} for weights and optimizer,"
            f" {needed.activations / GIB:.1f} for activations of {images} images),"
            f" and one GPU has {there / GIB:.1f}; use method lora, gradientCheckpointing,"
            " a smaller batch with accumulation, or larger GPUs"
        )


def _bytes(quantity: str) -> float:
    """A Kubernetes quantity in bytes; `m` is a thousandth."""
    number = quantity.rstrip("kmMGTi")
    unit = quantity.removeprefix(number)
    return float(number) * (0.001 if unit == "m" else UNITS[unit])


def main() -> int:
    """Check the job file of the command line, print the report, return the exit code.

    The report is the termination message too, also of a job that can be trained.
    """
    parser = argparse.ArgumentParser(prog="dreambooth_trainer.preflight", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the job file")
    try:
        report = _examine(parser.parse_args().config)
    except Exception as error:  # of the check itself: worth a retry, and a word in the status
        traceback.print_exc()
        leave(sentence(error))
        return exit_code_of(error)
    print(report)  # noqa: T201
    leave(report.message())
    return report.exit_code


def _examine(config: Path) -> PreflightReport:
    report = PreflightReport()
    with report.collecting():
        job = load_job(config)
        spec = job.spec.storage
        settings = StorageSettings(spec.endpoint_url, spec.region, spec.addressing_style)
        with Storage(settings) as storage:
            report = check_job(job, storage)
    return report
