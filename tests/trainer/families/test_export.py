"""An exported pipeline is set as its base model was."""

import json
import shutil
from pathlib import Path

import pytest

from dreambooth_trainer.export.pipeline import export_pipeline
from dreambooth_trainer.models.registry import FAMILIES
from tests.corpus.families import registry
from tests.trainer.export.test_export import ABOUT
from tests.trainer.families.conftest import SUPPORTED, build, load

WITH_SETTINGS = [
    name for name in SUPPORTED if FAMILIES[registry.FAMILIES[name].FACTS.pipeline].pipeline_settings
]


@pytest.mark.parametrize("name", WITH_SETTINGS)
def test_an_export_keeps_the_settings_of_the_pipeline(name: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(build(name), model)
    index = json.loads((model / "model_index.json").read_text())
    family = FAMILIES[index["_class_name"]]
    # Other values than the defaults, as far as they are switches.
    index |= {
        setting: not index.get(setting, False)
        for setting in family.pipeline_settings
        if isinstance(index.get(setting, False), bool)
    }
    (model / "model_index.json").write_text(json.dumps(index))
    export_pipeline(load(model), tmp_path / "export", ABOUT)
    exported = json.loads((tmp_path / "export" / "model_index.json").read_text())
    for setting in family.pipeline_settings:
        assert exported[setting] == index[setting]
