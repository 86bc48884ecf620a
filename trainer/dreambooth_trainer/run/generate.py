"""Generates images of a run's result on this machine, on all ranks together.

The images of the job's own prompts and seeds are those of its samples, pixel by pixel, where the
export holds the trained weights unrounded: a LoRA, or a checkpoint.
"""

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from pydantic import ValidationError

from dreambooth_api.contract.layout import OutputLayout
from dreambooth_api.images.generation import Generation, ImageSettings
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_storage import Storage
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.data.png import encode_png
from dreambooth_trainer.evaluation.grid import grid, reduce
from dreambooth_trainer.evaluation.image_generator import ImageGenerator
from dreambooth_trainer.export.load import scale_adapters
from dreambooth_trainer.export.provenance import VERSION
from dreambooth_trainer.models.family import Family
from dreambooth_trainer.models.generate import ImageRequest
from dreambooth_trainer.preflight.model import is_far
from dreambooth_trainer.preflight.sampling import sampling_problems
from dreambooth_trainer.process.distributed import join_ranks
from dreambooth_trainer.process.errors import BadConfigError
from dreambooth_trainer.process.out_of_memory import explain_out_of_memory
from dreambooth_trainer.process.signals import StopSignal
from dreambooth_trainer.process.topology import Topology
from dreambooth_trainer.resolved_job import ResolvedJob
from dreambooth_trainer.run.result import (
    Result,
    check_has_model,
    divided_as_trained,
    load_result,
    read_result_config,
    with_defaults,
)
from dreambooth_trainer.run.train import choose_device, open_storage
from dreambooth_trainer.telemetry.telemetry import Telemetry

log = logging.getLogger(__name__)

CHUNKS = 8
"""Forward passes, of all ranks together, after which images are written."""
MAX_SHOWN = 400
"""Images of the contact sheet, the first ones."""
MAX_NAME = 60
"""Letters of a file's name that are taken from its prompt."""


def generate(
    job: DreamBoothJob, topology: Topology, stop: StopSignal, telemetry: Telemetry, file: Path
) -> None:
    """Write the images that a file asks for, and a contact sheet, to its folder.

    Raises:
        TrainerError: The result cannot be used, or not with these settings.
        StorageError: Storage fails or refuses.
        StoppedError: The ranks were asked to stop; the images so far are kept.
    """
    wanted = _read(file)
    with join_ranks(topology, stop) as ranks, telemetry.serving():
        storage, device = open_storage(job, telemetry), choose_device(job, topology)
        # First, as loading takes minutes: settings that the model does not take are refused.
        resolved, changed = ranks.run_on_first(lambda: _resolve(job, storage, wanted))
        attempt = Attempt(resolved, ranks, storage, telemetry, stop, device)
        with explain_out_of_memory("loading the model", resolved):
            result = load_result(attempt, OutputLayout(wanted.root), wanted.step)
        telemetry.record_checks(*_remarks(result, wanted, attempt))
        # After the result was chosen, which depends on the job's own settings.
        attempt = replace(attempt, job=changed)
        scale_adapters(result.family, wanted.adapter_weight)
        with explain_out_of_memory("encoding text", resolved):
            encode_prompts(attempt, result.family, wanted.prompts)
        _write_images(attempt, result, wanted)


def _read(file: Path) -> Generation:
    try:
        return Generation.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise BadConfigError(f"--generate {file}: {error}") from error


def _resolve(
    job: DreamBoothJob, storage: Storage, wanted: Generation
) -> tuple[ResolvedJob, ResolvedJob]:
    """The job of the run, and with the settings of its images."""
    layout = OutputLayout(wanted.root)
    check_has_model(storage, layout)
    config = read_result_config(
        job.spec.model, storage, layout.export if wanted.step is None else None
    )
    resolved = divided_as_trained(with_defaults(job, config), storage, layout)
    return resolved, with_settings(resolved, wanted, config.skeleton)


def _remarks(result: Result, wanted: Generation, attempt: Attempt) -> tuple[list[str], list[str]]:
    """Warnings and notes for the user."""
    job = attempt.job
    size = _size(wanted, job)
    warnings = [*unread_prompts(wanted.prompts, result.family)]
    warnings += unusual_size(size, job.spec.training.resolution, result.family)
    notes = []
    if result.source != OutputLayout(wanted.root).export:
        notes.append(f"images of the checkpoint of step {result.step}")
    if job.spec.runtime.strategy == "fsdp" and not attempt.sharded:
        notes.append("training divided the model among its GPUs (fsdp); here it is whole")
    return warnings, notes


def unread_prompts(prompts: Iterable[str], family: Family) -> Iterator[str]:
    """Prompts whose end the model does not read, one line each."""
    limit = family.max_tokens
    for prompt in prompts:
        if (count := family.count_tokens(prompt)) > limit:
            yield (
                f"{prompt[:40]!r}... has {count} tokens, and the model reads the first {limit};"
                " shorten it"
            )


def unusual_size(size: tuple[int, int], trained: int, family: Family) -> Iterator[str]:
    """A size, in pixels, that is far from what the model and its result were trained at."""
    native = family.native_resolution
    if any(is_far(side, native) and is_far(side, trained) for side in size):
        width, height = size
        yield (
            f"{width}x{height} is far from {trained}x{trained}, which the model was trained at:"
            " images are worse, and large ones take long and much memory"
        )


def with_settings(job: ResolvedJob, wanted: ImageSettings, family: Family) -> ResolvedJob:
    """The job with settings of its samples that are asked for.

    Raises:
        BadConfigError: The model does not take them; the message lists every problem.
    """
    given = wanted.model_dump(
        by_alias=False,
        include={"sampler", "steps", "guidance_scale", "negative_prompt"},
        exclude_none=True,
    )
    samples = job.spec.samples.model_copy(update=given)
    changed = job.model_copy(update={"spec": job.spec.model_copy(update={"samples": samples})})
    problems = [
        each
        for each in sampling_problems(changed, family.defaults)
        if each.startswith("spec.samples")
    ]
    for name, side in (("width", wanted.width), ("height", wanted.height)):
        if side is not None:
            problems += _side_problems(name, side, family)
    if problems:
        raise BadConfigError("\n".join(problems))
    return changed


def _side_problems(name: str, side: int, family: Family) -> Iterator[str]:
    step, largest = family.side_multiple, family.largest_side
    if side % step:
        yield f"{name} {side}: must be a multiple of {step}, as the model takes no other; round it"
    if largest is not None and side > largest:
        yield f"{name} {side}: must be at most {largest}, as the model takes no more; lower it"


def encode_prompts(attempt: Attempt, family: Family, prompts: Sequence[str]) -> None:
    """Encode all prompts as training does, and free the text encoders."""
    spec = attempt.job.spec
    # Those that are trained encode the prompts of each batch together, under autocast.
    if not spec.trains_text:
        negative = {spec.samples.negative_prompt}
        device = torch.device("meta")
        family.retire_text_encoders(dict.fromkeys(prompts), negative, device, attempt.check_stop)


def _write_images(attempt: Attempt, result: Result, wanted: Generation) -> None:
    folder, size = Path(wanted.folder), _size(wanted, attempt.job)
    generator = ImageGenerator(attempt, result.family, size)
    seeds = range(wanted.seed, wanted.seed + wanted.count)
    requests = [ImageRequest(prompt, seed) for prompt in wanted.prompts for seed in seeds]
    names = file_names(requests)
    settings = _settings(attempt.job, result, wanted, size)
    shown: list[Image.Image] = []
    attempt.telemetry.progress.record_generated_images(0, len(requests))
    for start in range(0, len(requests), group := generator.chunk * CHUNKS):
        # What was written stays, and a single step of large images can take minutes.
        with attempt.stop.default_action():
            images = generator.generate(requests[start : start + group])
        done = start + len(images)
        if attempt.topology.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            for number, image in enumerate(images, start):
                text = png_text(requests[number], settings)
                (folder / names[number]).write_bytes(encode_png(image, text))
        # As small as the sheet shows them: thousands of whole images would fill the memory.
        shown += [reduce(image) for image in images[: MAX_SHOWN - len(shown)]]
        attempt.telemetry.progress.record_generated_images(done, len(requests))
        log.info("images: %d of %d in %s", done, len(requests), folder)
    if attempt.topology.rank == 0:
        rows = [shown[i : i + wanted.count] for i in range(0, len(shown), wanted.count)]
        sheet = grid(rows, labels=wanted.prompts[: len(rows)])
        (folder / OutputLayout.GRID).write_bytes(encode_png(sheet))
    attempt.ranks.barrier()


def _size(wanted: Generation, job: ResolvedJob) -> tuple[int, int]:
    """Width and height of the images, in pixels."""
    resolution = job.spec.training.resolution
    return wanted.width or resolution, wanted.height or resolution


def file_names(requests: Sequence[ImageRequest]) -> list[str]:
    """A file's name for each image, from its prompt and seed: `a-photo-of-sks-mug-42.png`."""
    names: dict[str, int] = {}
    found = []
    for request in requests:
        words = re.sub(r"[^\w]+", "-", request.prompt.lower()).strip("-")[:MAX_NAME].strip("-")
        name = f"{words or 'image'}-{request.seed}"
        again = names.get(name, 0)
        names[name] = again + 1
        found.append(f"{name}.{again}.png" if again else f"{name}.png")
    return found


def _settings(
    job: ResolvedJob, result: Result, wanted: Generation, size: tuple[int, int]
) -> dict[str, object]:
    """What made the images, beside prompt and seed."""
    samples = job.spec.samples
    return {
        "negativePrompt": samples.negative_prompt,
        "sampler": samples.sampler,
        "steps": samples.steps,
        "guidanceScale": samples.guidance_scale,
        "width": size[0],
        "height": size[1],
        "adapterWeight": wanted.adapter_weight,
        "result": result.source,
        "step": result.step,
        "sha256": result.digest,
        **made_with(job),
    }


def made_with(job: ResolvedJob) -> dict[str, object]:
    """The base model of a result, with all that changes it, and the versions of the programs."""
    model = job.spec.model
    return {
        "baseModel": model.source,
        "model": model.model_dump(mode="json", by_alias=True, exclude_none=True),
        "precision": job.spec.training.precision,
        "version": VERSION,
        "torch": torch.__version__,
    }


def png_text(request: ImageRequest, settings: Mapping[str, object]) -> dict[str, str]:
    """Texts of an image's PNG file: for programs as JSON, and as web UIs write and show them."""
    made = {"prompt": request.prompt, "seed": request.seed, **settings}
    negative = f"\nNegative prompt: {made['negativePrompt']}" if made["negativePrompt"] else ""
    parameters = (
        f"{request.prompt}{negative}\nSteps: {made['steps']}, Sampler: {made['sampler']},"
        f" CFG scale: {made['guidanceScale']}, Seed: {request.seed},"
        f" Size: {made['width']}x{made['height']}, Model: {made['result']}"
    )
    return {"parameters": parameters, "dreambooth": json.dumps(made)}
