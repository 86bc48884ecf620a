"""`dreambooth generate`: images from the result of a run, on this machine."""

import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from dreambooth_api.contract.layout import OutputLayout
from dreambooth_api.images.generation import Generation
from dreambooth_api.models.job import DreamBoothJob, output_layout
from dreambooth_api.parsing.messages import messages
from dreambooth_api.schema.names import has_identifier
from dreambooth_operator.cli.base_model import INDEX, with_base
from dreambooth_operator.cli.find import find_recorded, find_result
from dreambooth_operator.cli.job_file import STANDARD_INPUT, check_job, read_job
from dreambooth_operator.cli.output import check_folder
from dreambooth_operator.cli.results import newest_run_uid
from dreambooth_operator.cli.terminal.end import print_entry, print_text
from dreambooth_operator.cli.use.trainer_command import run_on_result
from dreambooth_operator.errors import UserError
from dreambooth_operator.local.host import visible_gpus
from dreambooth_operator.local.state import State
from dreambooth_operator.local.storage import LocalStorage, storage_to_read, with_endpoint

OPTIONS = {
    "prompts": "prompt",
    "count": "-n",
    "guidance_scale": "--guidance",
    "negative_prompt": "--negative",
    "adapter_weight": "--weight",
    "step": "--checkpoint",
    "width": "--size",
    "height": "--size",
}
"""The option of each field of `Generation`, where it has another name."""
SIZE = re.compile(r"(?P<width>[0-9]{1,9})(x(?P<height>[0-9]{1,9}))?")
CHECKPOINT = re.compile(rf"{OutputLayout.CHECKPOINTS}/step-(?P<step>[0-9]+)")
MAX_PROMPTS_BYTES = 8 * 2**20


@dataclass(frozen=True)
class GenerateOptions:
    """The options of `dreambooth generate`, as they were given; None: as in the job's samples."""

    result: str
    prompts: Sequence[str]
    prompts_file: Path | None
    out: Path | None
    settings: dict[str, Any]
    """Fields of `Generation` by their names in Python."""
    size: str | None
    base: str | None
    state: Path
    gpus: int | None


@dataclass(frozen=True)
class _Found:
    """A run whose result is used."""

    job: DreamBoothJob
    embedded: bool
    root: str | None
    """Its folder; None: that of the job's newest run."""


def generate(options: GenerateOptions) -> int:
    """Generate images; returns the exit code: 0, or the trainer's (`ExitCode`).

    Raises:
        UserError: There is no such result, or an option is not valid.
        StorageError: It cannot be read.
    """
    console = Console(soft_wrap=True)
    state = State(options.state)
    given = [prompt.strip() for prompt in options.prompts]  # as the lines of a file
    prompts = [*given, *_read_prompts(options.prompts_file)]
    found = _find(options.result, state)
    job = _for_this_machine(found.job, options)
    folder = options.out or Path(f"{job.metadata.name}-images")
    check_folder(folder, "--out")
    # Like other commands that only read: a job that is still training goes on.
    with storage_to_read(job, state, found.embedded) as storage:
        root = found.root
        if root is None:
            job.metadata.uid = job.metadata.uid or newest_run_uid(storage.client, job)
            root = output_layout(job).root
        wanted = _wanted(job, root, folder, prompts, options)
        _check_contents((each.relative for each in storage.client.list(root)), wanted)
        _hint(job, prompts, console)
        return _generate(storage, wanted, state, console)


def _read_prompts(file: Path | None) -> list[str]:
    """The lines of a file that are not empty."""
    if file is None:
        return []
    if file == STANDARD_INPUT:
        data = sys.stdin.buffer.read(MAX_PROMPTS_BYTES + 1)
    else:
        with file.open("rb") as source:
            data = source.read(MAX_PROMPTS_BYTES + 1)
    try:
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(
            f"--prompts {file}: is not UTF-8 text; name one with a prompt a line"
        ) from error
    if len(data) > MAX_PROMPTS_BYTES or not any(lines):
        raise UserError(f"--prompts {file}: must hold 1 to 10000 prompts, one a line")
    return [line for line in lines if line]


def _find(result: str, state: State) -> _Found:
    if result == str(STANDARD_INPUT):
        return _of_cluster(read_job(STANDARD_INPUT, check_rules=False))
    found = find_result(_without_export(result), state)
    if isinstance(found, str):
        return _Found(*find_recorded(found, state), root=found)
    return _Found(*found, root=None)


def _without_export(result: str) -> str:
    """The folder of the run of which an export was named."""
    folder, _, name = result.rstrip("/").rpartition("/")
    return folder if folder and name == OutputLayout.EXPORT else result


def _of_cluster(job: DreamBoothJob) -> _Found:
    """The run of a job as `kubectl get -o yaml` has printed it."""
    artifacts = job.status.artifacts if job.status else None
    # The endpoint of a cluster may have a name that only pods know.
    if os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        job.spec.storage.endpoint_url = None
    return _Found(with_endpoint(job, os.environ), False, artifacts.output if artifacts else None)


def _for_this_machine(job: DreamBoothJob, options: GenerateOptions) -> DreamBoothJob:
    """The job with one process per GPU, which its images do not depend on.

    Raises:
        UserError: There are fewer GPUs than `--gpus`, or no model at `--base`.
    """
    present = len(visible_gpus())
    gpus = options.gpus if options.gpus is not None else min(1, present)
    if gpus > present:
        raise UserError(f"--gpus {gpus}: this machine has {present}; lower it (0 uses the CPU)")
    document = job.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"status"})
    spec = document["spec"]
    runtime = {"nodes": 1, "gpusPerNode": gpus}
    dropped = ("processesPerNode", "ports")
    kept = {name: value for name, value in spec.get("runtime", {}).items() if name not in dropped}
    spec["runtime"] = kept | runtime
    training = spec.get("training", {})
    training.pop("globalBatch", None)  # need not be a multiple of these processes
    if gpus == 0 and training.get("precision") == "fp16":
        training["precision"] = "fp32"
    if options.base is not None:
        spec["model"] = with_base(spec["model"], options.base)
    return check_job(document, "the job of the result", check_rules=False)


def _hint(job: DreamBoothJob, prompts: Sequence[str], console: Console) -> None:
    """Say that no prompt names the subject, which may be meant."""
    subjects = job.spec.subjects
    words = [subject.identifier for subject in subjects]
    if prompts and not any(has_identifier(prompt, word) for word in words for prompt in prompts):
        names = " or ".join(words)
        print_text(
            console,
            f"hint: no prompt names {names}; write {subjects[0].prompt!r} for the subject, and"
            f" {subjects[0].class_prompt!r} for any other",
        )


def _wanted(
    job: DreamBoothJob, root: str, folder: Path, prompts: Sequence[str], options: GenerateOptions
) -> Generation:
    """The images, by default the job's samples.

    Raises:
        UserError: An option is not valid; the message lists every problem.
    """
    samples = job.spec.samples
    default = samples.prompts or [subject.prompt for subject in job.spec.subjects]
    fields = {
        "root": root,
        "prompts": list(prompts or default),
        "count": samples.count,
        "seed": samples.seed,
        "folder": str(folder.absolute()),
        **_size(options.size),
        **{name: value for name, value in options.settings.items() if value is not None},
    }
    try:
        return Generation.model_validate(fields)
    except ValidationError as error:
        # Once where width and height are the same.
        lines = dict.fromkeys(_as_option(line) for line in messages(error))
        raise UserError("\n".join(lines)) from error


def _check_contents(names: Iterable[str], wanted: Generation) -> None:
    """Refuse at once what the files of the run's folder show; the trainer starts in seconds.

    Raises:
        UserError: There is no such checkpoint, or there are no adapters to weigh.
    """
    present = set(names)
    steps = {int(match["step"]) for match in map(CHECKPOINT.match, present) if match}
    if wanted.step is not None and steps and wanted.step not in steps:
        known = ", ".join(map(str, sorted(steps)))
        raise UserError(
            f"--checkpoint {wanted.step}: the run has no checkpoint of that step, but of {known};"
            " name one of these"
        )
    whole = wanted.step is None and f"{OutputLayout.EXPORT}/{INDEX}" in present
    if whole and wanted.adapter_weight != 1:
        raise UserError(
            f"--weight {wanted.adapter_weight:g}: the result is a whole model, without adapters;"
            " leave it out"
        )


def _size(text: str | None) -> dict[str, int]:
    if text is None:
        return {}
    match = SIZE.fullmatch(text)
    if match is None:
        raise UserError(f"--size {text}: must be a number of pixels, or WIDTHxHEIGHT as in 768x512")
    return {"width": int(match["width"]), "height": int(match["height"] or match["width"])}


def _as_option(message: str) -> str:
    """A message about a field of `Generation`, with its option's name."""
    match = re.match(r"(?P<field>\w+)(?P<rest>.*)", message, re.DOTALL)
    if match is None:
        return message
    return f"{OPTIONS.get(match['field'], '--' + match['field'])}{match['rest']}"


def _kept(folder: Path, began: float) -> str:
    """What is left of images that were stopped, which began at a Unix time."""
    made = any(path.stat().st_mtime >= began for path in folder.glob("*.png"))
    return f"the images so far are in {folder}" if made else "no image was made yet"


def _generate(storage: LocalStorage, wanted: Generation, state: State, console: Console) -> int:
    parent = state.folder / "generated"
    parent.mkdir(parents=True, exist_ok=True)
    # Of its own: another one may be under way.
    folder = Path(tempfile.mkdtemp(prefix=f"{storage.job.metadata.name}-", dir=parent))
    request = folder / "request.json"
    request.write_text(wanted.model_dump_json(exclude_none=True))
    began = time.time()
    code = run_on_result(
        storage,
        folder,
        ["--generate", str(request)],
        console,
        stopped=lambda: _kept(Path(wanted.folder), began),
        cache=state.folder / "cache",
    )
    if code == 0:
        shutil.rmtree(folder, ignore_errors=True)
        count = len(wanted.prompts) * wanted.count
        print_entry(console, "images", f"{count} in {wanted.folder}")
        print_entry(console, "sheet", f"{wanted.folder}/{OutputLayout.GRID}")
    return code
