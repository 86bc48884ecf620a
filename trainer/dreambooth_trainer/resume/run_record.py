"""run.json: how a result was produced, and what is needed to reproduce it.

It contains no secrets.
"""

import json
import logging
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Any

import torch
from pydantic import JsonValue

from dreambooth_api.contract.layout import OutputLayout
from dreambooth_api.contract.times import now, rfc3339
from dreambooth_api.models.job import accepted, resolved
from dreambooth_api.parsing.other_versions import with_known_fields
from dreambooth_storage import ObjectNotFoundError, Storage, without_userinfo
from dreambooth_trainer.models.published import INHERITED, License
from dreambooth_trainer.resolved_job import ResolvedJob

log = logging.getLogger(__name__)

FORMAT = 1
PACKAGES = (
    "dreambooth-trainer",
    "boto3",
    "diffusers",
    "numpy",
    "peft",
    "pillow",
    "pi-heif",
    "pytorch-lightning",
    "safetensors",
    "torch",
    "transformers",
)


def write_run_record(
    storage: Storage,
    layout: OutputLayout,
    job: ResolvedJob,
    *,
    attempt: int,
    world_size: int,
    global_batch: int,
    hashes: Mapping[str, JsonValue],
    seeds: Mapping[str, int],
    images: Mapping[str, Sequence[str]] = MappingProxyType({}),
    captions: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    warnings: Sequence[str] = (),
    notes: Sequence[str] = (),
    model_license: License = INHERITED,
    resumed_from: int | None = None,
    source: Mapping[str, JsonValue] | None = None,
) -> None:
    """Write run.json, with this attempt added to the earlier ones. Rank 0 alone.

    Args:
        storage: Storage of the run.
        layout: The paths of the run.
        job: As this attempt trains it.
        attempt: Number of the attempt.
        world_size: Ranks of the attempt.
        global_batch: Subject images per optimizer step over all ranks.
        hashes: sha256 of the model and of each image, by name.
        seeds: By purpose.
        images: URIs of images, by subject and class, for the report.
        captions: Those of subjects with `captions: auto`, by identifier and image.
        warnings: What the checks before training found that does not prevent it.
        notes: What they say about the job that is as it should be.
        model_license: Of the base model's weights; `INHERITED` where it is not known.
        resumed_from: Step of the checkpoint that this attempt resumes from; None: there is none.
        source: That checkpoint, and what differs, if it is another run's (spec.resumeFrom).
    """
    earlier = read_run_record(storage, layout)
    this = {
        "attempt": attempt,
        "startedAt": rfc3339(now()),
        "worldSize": world_size,
        "resumedFromStep": resumed_from,
        **({"resumedFrom": dict(source)} if source else {}),
        "versions": versions(),
        "devices": devices(),
    }
    record = {
        "format": FORMAT,
        "job": public_config(job),
        "globalBatch": global_batch,
        "modelLicense": None
        if model_license == INHERITED
        else {"name": model_license.name, "link": model_license.link},
        "seeds": dict(seeds),
        "hashes": dict(hashes),
        "images": {name: list(uris) for name, uris in images.items()},
        **({"captions": {name: dict(each) for name, each in captions.items()}} if captions else {}),
        "warnings": list(warnings),
        "notes": list(notes),
        "attempts": [*(earlier["attempts"] if earlier else []), this],
        **({"result": earlier["result"]} if earlier and "result" in earlier else {}),
    }
    storage.write(layout.run_record, json.dumps(record, indent=2).encode())


def add_result(storage: Storage, layout: OutputLayout, result: Mapping[str, JsonValue]) -> None:
    """Add to run.json what was exported and why, or which step is the best so far. Rank 0 alone.

    Raises:
        StorageError: It cannot be read or written.
    """
    if (record := read_run_record(storage, layout)) is not None:
        document = {**record, "result": dict(result)}
        storage.write(layout.run_record, json.dumps(document, indent=2).encode())


def read_run_record(storage: Storage, layout: OutputLayout) -> dict[str, Any] | None:
    """The content of run.json; None when it is missing, or damaged, which is logged.

    Its job has the fields alone that this version knows: another one may have begun the run.

    Raises:
        StorageError: It cannot be read.
    """
    uri = layout.run_record
    try:
        record = json.loads(storage.read(uri, field="spec.output"))
        job = with_known_fields(record["job"])
        accepted(job)
        return {
            **record,
            "job": job,
            "hashes": dict(record["hashes"]),
            "attempts": list(record["attempts"]),
        }
    except ObjectNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        log.warning("%s cannot be read (%s): it is replaced", uri, error)
        return None


def read_global_batch(storage: Storage, layout: OutputLayout) -> int | None:
    """Subject images per optimizer step, as run.json has them; None when it does not say."""
    batch = (read_run_record(storage, layout) or {}).get("globalBatch")
    return batch if isinstance(batch, int) and batch > 0 else None


def public_config(job: ResolvedJob) -> dict[str, JsonValue]:
    """The resolved job without anything that may be secret.

    Left out are annotations, `runtime.podOverrides`, and the user and password of
    `storage.endpointURL`.
    """
    # kubectl apply keeps a copy of the whole job in an annotation, and the overrides' `env` may
    # have values in plain text.
    config = resolved(job)
    meta, spec = config["metadata"], config["spec"]
    config["metadata"] = {name: meta[name] for name in ("namespace", "name", "uid") if name in meta}
    spec["runtime"].pop("podOverrides", None)
    if "endpointURL" in spec["storage"]:
        spec["storage"]["endpointURL"] = without_userinfo(spec["storage"]["endpointURL"])
    return config


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the result depends on."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    if torch.version.cuda:
        installed["cuda"] = torch.version.cuda
    return installed


def devices() -> list[str]:
    """Names of this node's GPUs, or its processor architecture."""
    if torch.cuda.is_available():
        return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [f"cpu {platform.machine()}"]
