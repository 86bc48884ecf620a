"""Scores the result of a run by a protocol: images of base model and result, on all ranks.

Images are kept below `evaluation/<protocol>/<hash>/`, where the hash is of the model and of all
that its images depend on. What is there is not generated again: an evaluation that was stopped
goes on.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from dreambooth_api.contract.layout import EvaluationProtocol, OutputLayout
from dreambooth_api.contract.scores import Encoders, Scores
from dreambooth_api.models.job import DreamBoothJob, output_layout
from dreambooth_api.models.results.evaluation import Evaluation
from dreambooth_api.models.subject import Subject
from dreambooth_storage import Storage
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.data.png import decode_png, encode_png
from dreambooth_trainer.evaluation.encoder_config import encoder_sources, read_encoder
from dreambooth_trainer.evaluation.encoders import ImageEncoder, TextEncoder, load_encoders
from dreambooth_trainer.evaluation.image_generator import ImageGenerator
from dreambooth_trainer.evaluation.protocol import IMAGES_PER_PROMPT, protocol_prompts
from dreambooth_trainer.evaluation.references import encode_real
from dreambooth_trainer.evaluation.scores import GeneratedVectors, subject_scores
from dreambooth_trainer.export.load import adapter_files, add_exported, list_export
from dreambooth_trainer.models import Family, load_family
from dreambooth_trainer.models.generate import ImageRequest
from dreambooth_trainer.process.distributed import join_ranks
from dreambooth_trainer.process.out_of_memory import explain_out_of_memory
from dreambooth_trainer.process.signals import StopSignal
from dreambooth_trainer.process.topology import Topology
from dreambooth_trainer.resolved_job import ResolvedJob
from dreambooth_trainer.run.result import (
    divided_as_trained,
    exported_model,
    exported_step,
    missing_model,
    resolve,
)
from dreambooth_trainer.run.train import choose_device, open_storage
from dreambooth_trainer.telemetry.telemetry import Telemetry

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Plan:
    """The images of one subject, by the names of their files."""

    subject: Subject
    prompts: Sequence[str]
    of_prompts: dict[str, ImageRequest]
    of_class: dict[str, ImageRequest]


def evaluate(
    job: DreamBoothJob,
    topology: Topology,
    stop: StopSignal,
    telemetry: Telemetry,
    protocol: EvaluationProtocol,
) -> None:
    """Score the exported model of the job's run, and write the scores.

    Raises:
        TrainerError: The result or the job's model, images or encoders cannot be used.
        StorageError: Storage fails or refuses.
        StoppedError: The ranks were asked to stop; the images so far are kept.
    """
    with join_ranks(topology, stop) as ranks, telemetry.serving():
        storage, device = open_storage(job, telemetry), choose_device(job, topology)
        # First: without a result, nothing that is wrong with its base model matters.
        exported = ranks.run_on_first(lambda: _exported_files(storage, output_layout(job)))
        resolved = ranks.run_on_first(
            lambda: divided_as_trained(resolve(job, storage), storage, output_layout(job))
        )
        attempt = Attempt(resolved, ranks, storage, telemetry, stop, device)
        folder = attempt.layout.evaluation(protocol)
        evaluation = resolved.spec.evaluation or Evaluation()
        sources = encoder_sources(evaluation)
        # Before hours of generating images for nothing.
        ranks.run_on_first(lambda: [read_encoder(source, storage) for source in sources])
        plans = [_plan(resolved, index, evaluation.count) for index in _indices(resolved)]
        total = 2 * len(_wanted(plans))
        # Before the stage, which would show the steps of the training.
        telemetry.progress.record_protocol_images(0, total)
        telemetry.record_checks([], [_explain(plans, total)])
        telemetry.enter_stage("Evaluating")
        with explain_out_of_memory("sampling", resolved):
            base, trained = _generate_all(attempt, folder, plans, exported)
        with explain_out_of_memory("scoring", resolved):
            encoders = load_encoders(attempt, sources)
            scores = ranks.run_on_first(lambda: _score(attempt, plans, base, trained, *encoders))
        if topology.rank == 0:
            storage.write(attempt.layout.protocol_scores(protocol), scores.encode())
            log.info("scores: %s", attempt.layout.protocol_scores(protocol))


def _indices(job: ResolvedJob) -> range:
    return range(len(job.spec.subjects))


def _plan(job: ResolvedJob, index: int, count: int) -> _Plan:
    subject, seed = job.spec.subjects[index], job.spec.samples.seed
    prompts = protocol_prompts(subject)
    of_prompts = {
        f"{index}-{number:02}-{image}.png": ImageRequest(prompt, seed + image)
        for number, prompt in enumerate(prompts)
        for image in range(IMAGES_PER_PROMPT)
    }
    of_class = {
        f"{index}-class-{image}.png": ImageRequest(subject.class_prompt, seed + image)
        for image in range(count)
    }
    return _Plan(subject, prompts, of_prompts, of_class)


def _explain(plans: Sequence[_Plan], total: int) -> str:
    """What the images are that progress counts."""
    prompts, of_class = len(plans[0].prompts), len(plans[0].of_class)
    return (
        f"{total} images: for each subject {prompts} prompts with {IMAGES_PER_PROMPT} images, and"
        f" {of_class} of the class, by the base model and by the result"
    )


def _wanted(plans: Sequence[_Plan]) -> list[tuple[str, ImageRequest]]:
    return [item for plan in plans for item in (plan.of_prompts | plan.of_class).items()]


def _generate_all(
    attempt: Attempt, folder: str, plans: Sequence[_Plan], exported: set[str]
) -> tuple[str, str]:
    """The folders of the base model's images and of the result's, all of them. Collective."""
    spec = attempt.job.spec
    arguments = attempt.storage, attempt.ranks, attempt.device, spec.training
    offload = spec.runtime.offload
    family = load_family(spec.model, *arguments, sharded=attempt.sharded, offload=offload)
    base = _generate(attempt, folder, plans, family, family.model_hash)
    if adapters := adapter_files(exported):
        added = add_exported(family, attempt.storage, attempt.layout.export, adapters)
        digest = f"{family.model_hash}+{added}"
    else:
        del family  # two models may not fit on the device
        model = exported_model(attempt.layout.export, spec.model)
        family = load_family(model, *arguments, sharded=attempt.sharded)
        digest = family.model_hash
    return base, _generate(attempt, folder, plans, family, digest, before=len(_wanted(plans)))


def _exported_files(storage: Storage, layout: OutputLayout) -> set[str]:
    if names := list_export(storage, layout.export):
        return names
    raise missing_model(storage, layout)


def _generate(
    attempt: Attempt,
    folder: str,
    plans: Sequence[_Plan],
    family: Family,
    model_hash: str,
    before: int = 0,
) -> str:
    """Generate the images that are not stored yet; returns their folder. Collective.

    `before` images of other models are done.
    """
    wanted = _wanted(plans)
    uri = f"{folder}/{_key(attempt.job, wanted, model_hash)}"
    stored = attempt.ranks.run_on_first(
        lambda: {each.relative for each in attempt.storage.list(uri)}
    )
    generator = ImageGenerator(attempt, family)
    # A forward pass of each rank, after which images are stored and counted: neither the number of
    # ranks nor a stop changes which images share a pass.
    size = generator.chunk * attempt.topology.world_size
    for start in range(0, len(wanted), size):
        group = wanted[start : start + size]
        if not {name for name, _ in group} <= stored:
            images = generator.generate([request for _, request in group])
            if attempt.topology.rank == 0:
                for (name, _), image in zip(group, images, strict=True):
                    attempt.storage.write(f"{uri}/{name}", encode_png(image))
        done = start + len(group)
        attempt.telemetry.progress.record_protocol_images(before + done, 2 * len(wanted))
    log.info("images: %s", uri)
    attempt.ranks.barrier()
    return uri


def _key(job: ResolvedJob, wanted: Sequence[tuple[str, ImageRequest]], model_hash: str) -> str:
    """A hash of all that the images depend on, 16 hexadecimal digits."""
    settings = job.spec.samples.model_dump(mode="json", exclude={"prompts", "every", "count"})
    requests = [[name, request.prompt, request.seed] for name, request in wanted]
    training = job.spec.training
    parts = [model_hash, settings, training.resolution, training.precision, requests]
    if job.spec.model.quantization is not None:
        parts.append(job.spec.model.quantization.model_dump(mode="json"))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _score(
    attempt: Attempt,
    plans: Sequence[_Plan],
    base: str,
    trained: str,
    image_encoder: ImageEncoder,
    text_encoder: TextEncoder,
) -> Scores:
    """The scores of all subjects, from the stored images. Rank 0 alone."""

    def encode(plan: _Plan, folder: str) -> GeneratedVectors:
        images = _read(attempt.storage, folder, plan.of_prompts)
        of_class = _read(attempt.storage, folder, plan.of_class)
        clip = text_encoder.images(images)
        return GeneratedVectors(
            subject=image_encoder.images(images),
            subject_clip=clip,
            class_images=image_encoder.images(of_class),
            prompts=clip.view(len(plan.prompts), IMAGES_PER_PROMPT, -1),
        )

    step = exported_step(attempt.storage, attempt.layout, attempt.job)
    return Scores(
        step=step,
        exported_step=step,
        encoders=Encoders(image=image_encoder.record, text=text_encoder.record),
        subjects=[
            subject_scores(
                plan.subject,
                plan.prompts,
                encode_real(attempt, index, plan.prompts, image_encoder, text_encoder),
                encode(plan, base),
                encode(plan, trained),
            )
            for index, plan in enumerate(plans)
        ],
    )


def _read(storage: Storage, folder: str, wanted: dict[str, ImageRequest]) -> list[Image.Image]:
    return [decode_png(storage.read(f"{folder}/{name}")) for name in wanted]
