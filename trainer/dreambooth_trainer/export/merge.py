"""`python -m dreambooth_trainer.export.merge MODEL OUT`: writes a model with what was learned.

MODEL is a `spec.model` with `mergedAdapters`, as JSON. OUT is a folder for the diffusers layout, or
a .safetensors file for the whole model in one. `--token` names a file of a learned token, or a
folder of a result that has learned some. Exit codes are the trainer's.
"""

import argparse
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from dreambooth_api.models.model import Model
from dreambooth_storage import Storage, StorageError, StorageSettings
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.errors import BadConfigError, TrainerError
from dreambooth_trainer.process.exit_status import describe, exit_code_of
from dreambooth_trainer.process.library_logs import quiet_libraries
from dreambooth_trainer.process.topology import Topology

CARD = """# {title}

{title} with these merged by dreambooth {version}:

{merged}

```python
from diffusers import {pipeline}

pipe = {pipeline}.from_pretrained(".")
```
"""


def merge(model: Model, out: Path, storage: Storage, tokens: Sequence[Path] = ()) -> None:
    """Write a model with its `mergedAdapters`, in the precision of the family's exports.

    `tokens` are files of learned tokens, or folders of results: they become tokens of the model.

    Raises:
        TrainerError: The model, a LoRA or a token cannot be loaded, or there is no single file.
        StorageError: It cannot be read from storage.
        OSError: A file cannot be written.
    """
    # Imported here, as the libraries are to be quiet by then.
    from dreambooth_trainer.export.merge_tokens import merge_tokens
    from dreambooth_trainer.export.pipeline import SINGLE_FILE, write_pipeline
    from dreambooth_trainer.export.provenance import VERSION
    from dreambooth_trainer.models import load_family
    from dreambooth_trainer.models.tokens.learn import has_words

    family = load_family(model, storage, Ranks(Topology()), torch.device("cpu"))
    merge_tokens(family, tokens)
    if out.suffix == ".safetensors" and has_words(family):
        raise BadConfigError(
            f"--out {out}: one file has no place for the names of learned tokens; name a folder"
        )
    loras = [{"source": each.source, "scale": each.strength} for each in model.merged_adapters]
    metadata = {
        "format": "pt",
        "dreambooth.version": VERSION,
        "dreambooth.base_model": model.source,
        "dreambooth.merged_adapters": json.dumps(loras),
        **({"dreambooth.tokens": json.dumps([w.text for w in family.words])} if tokens else {}),
    }
    merged = [f"- {each['source']}, scale {each['scale']}" for each in loras]
    merged += [f"- the learned token `{word.text}`" for word in family.words]
    out.parent.mkdir(parents=True, exist_ok=True)
    # Complete, or not at all; beside its place, so that it is moved and not copied.
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".merge-") as parent:
        folder = Path(parent, "model")
        write_pipeline(family, folder, metadata)
        if out.suffix != ".safetensors":
            card = CARD.format(
                title=model.source.removeprefix("hf://"),
                version=VERSION,
                merged="\n".join(merged),
                pipeline=family.pipeline_class.__name__,
            )
            (folder / "README.md").write_text(card)
            if out.exists():
                out.rmdir()
            folder.rename(out)
        elif (folder / SINGLE_FILE).exists():
            (folder / SINGLE_FILE).rename(out)
        else:
            shutil.rmtree(folder)
            raise BadConfigError(
                f"--out {out}: models of {family.name} are not written as one file; name a folder"
            )


def main() -> int:
    """Merge what the command line names; return the exit code."""
    parser = argparse.ArgumentParser(prog="dreambooth_trainer.export.merge", description=__doc__)
    parser.add_argument("model", help="spec.model, as JSON")
    parser.add_argument("out", type=Path, help="folder, or .safetensors file")
    parser.add_argument("--token", type=Path, action="append", default=[], help="file or folder")
    arguments = parser.parse_args()
    quiet_libraries()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        with Storage(StorageSettings()) as storage:
            model = Model.model_validate_json(arguments.model)
            merge(model, arguments.out, storage, arguments.token)
    except (TrainerError, StorageError, OSError) as error:
        sys.stderr.write(f"{describe(error)}\n")
        return exit_code_of(error)
    sys.stdout.write(f"written: {arguments.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
