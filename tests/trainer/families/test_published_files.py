"""Preflight passes every family's published repository: all names and sizes of its files."""

from pathlib import Path

import pytest

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.model import Model
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.models.source.fetch import open_files
from dreambooth_trainer.models.source.selection import select_files
from dreambooth_trainer.preflight.check import check_job
from tests.corpus.families.published_files import write_published
from tests.corpus.families.registry import FAMILIES
from tests.trainer.conftest import MakeJob
from tests.trainer.families.conftest import SUPPORTED

STORAGE = Storage(StorageSettings())


@pytest.mark.parametrize("name", SUPPORTED)
def test_preflight_passes_the_published_repository(job: MakeJob, tmp_path: Path, name: str) -> None:
    facts, folder = FAMILIES[name].FACTS, tmp_path / "model"
    write_published(folder, FAMILIES[name])
    model = Model(source=str(folder))
    files = open_files(model, STORAGE)
    published = {**facts.files, **facts.others}
    assert published.keys() <= files.sizes.keys()
    assert {file: files.sizes[file] for file in facts.files} == {
        file: size or files.sizes[file] for file, size in facts.files.items()
    }
    chosen = select_files(model, files).names
    assert {file for file in chosen if file.endswith(".safetensors")} == set(facts.files)
    assert not chosen & facts.others.keys() - {"tokenizer/tokenizer.json"}
    config = job(model={"source": str(folder)}, training={"method": "lora"})
    report = check_job(DreamBoothJob.model_validate(config), STORAGE)
    assert not report.errors
    file = next(iter(facts.files))
    with (folder / file).open("ab") as stream:
        stream.truncate(files.sizes[file] - 1)
    report = check_job(DreamBoothJob.model_validate(config), STORAGE)
    assert f"{file} is damaged: it has {files.sizes[file] - 1} bytes" in str(report.errors)
