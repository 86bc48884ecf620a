"""Every stage of every family on a GPU: no mix of devices, and no step that waits for the host."""

import json
from functools import partial
from pathlib import Path

from dreambooth_api.contract.exit_codes import ExitCode
from dreambooth_trainer.models.registry import FAMILIES
from tests.gpu.test_stages import prepare
from tests.trainer.conftest import MakeJob
from tests.trainer.families.test_runs import PREPARED
from tests.trainer.ranks import run_folder, run_ranks


def test_a_job_runs_on_a_gpu(job: MakeJob, folder: Path, tmp_path: Path) -> None:
    config = job(
        "gpu",
        model={"source": str(folder)},
        training={"method": "lora", "steps": 2, "globalBatch": 2, "precision": "bf16"},
        runtime={"gpusPerNode": 1},
        **PREPARED,
    )
    name = json.loads((folder / "model_index.json").read_text())["_class_name"]
    ready = partial(prepare, forbid_waiting=not FAMILIES[name].waits_in_step)
    ended = run_ranks(config, tmp_path / "logs", timeout=280, prepare=ready)
    assert ended.codes == [ExitCode.DONE], ended.logs[0]
    assert (run_folder(config) / "export" / "pytorch_lora_weights.safetensors").is_file()
