"""`dreambooth merge`: LoRAs and learned tokens merged into their base model, on this machine."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dreambooth_api.contract import environment
from dreambooth_api.models.model import Model
from dreambooth_api.parsing.messages import messages
from dreambooth_operator.cli.base_model import model_source
from dreambooth_operator.cli.output import check_folder
from dreambooth_operator.errors import UserError

SINGLE = ".safetensors"


@dataclass(frozen=True)
class MergeOptions:
    """The options of `dreambooth merge`, as they were given."""

    model: str
    loras: Sequence[str]
    tokens: Sequence[Path]
    out: Path
    revision: str | None
    variant: str | None
    state: Path


def merge(options: MergeOptions) -> int:
    """Write the merged model; returns the exit code: 0, or the trainer's (`ExitCode`).

    Raises:
        UserError: An option is not valid, or something is there already.
    """
    if not options.loras and not options.tokens:
        raise UserError("nothing to merge: name a LoRA, or a learned token with --token")
    if options.out.exists() and (options.out.is_file() or any(options.out.iterdir())):
        raise UserError(f"--out {options.out}: there is something already; name another one")
    check_folder(options.out.parent if options.out.suffix == SINGLE else options.out, "--out")
    source = model_source(options.model, "MODEL")
    fields = {
        "source": source,
        "layout": "single-file" if source.endswith((SINGLE, ".ckpt")) else "diffusers",
        "revision": options.revision,
        "variant": options.variant,
        "mergedAdapters": [_adapter(each) for each in options.loras],
    }
    try:
        model = Model.model_validate({k: v for k, v in fields.items() if v is not None})
    except ValidationError as error:
        raise UserError("\n".join(messages(error))) from error
    cache = (options.state / "cache").absolute()
    command = [sys.executable, "-m", "dreambooth_trainer.export.merge"]
    command += [model.model_dump_json(exclude_none=True), str(options.out.absolute())]
    for token in options.tokens:
        if not token.exists():
            raise UserError(f"--token {token}: no such file or folder; name one on this machine")
        command += ["--token", str(token.absolute())]
    own = {environment.CACHE_DIR: str(cache)}
    return subprocess.run(command, env=os.environ | own, check=False).returncode


def _adapter(text: str) -> dict[str, Any]:
    """The LoRA of an argument, SOURCE or SOURCE=SCALE."""
    source, _, scale = text.rpartition("=")
    try:
        given: dict[str, Any] = {"source": source, "scale": float(scale)}
    except ValueError:
        given = {"source": text}
    if "://" not in given["source"]:
        path = Path(given["source"]).expanduser().absolute()
        if not path.exists():
            raise UserError(
                f"{given['source']}: no such file or folder; name a LoRA on this machine,"
                " hf://owner/name or s3://bucket/path"
            )
        given["source"] = str(path)
    return given
