"""The documented command, with the real torchrun, gloo and S3."""

import json
import os
import subprocess
import sys

import yaml
from PIL import Image

from dreambooth_api.contract.termination import Termination
from dreambooth_storage import Storage, StorageSettings


def test_torchrun_trains_from_s3_to_s3(random_model, s3_endpoint, bucket, tmp_path):
    storage = Storage(StorageSettings(s3_endpoint, None, "path"))
    subject = tmp_path / "subject"
    subject.mkdir()
    for number in range(3):
        Image.new("RGB", (64, 70), (80 * number, 120, 40)).save(subject / f"{number}.png")
    storage.upload_tree(subject, f"s3://{bucket}/subject")
    storage.upload_tree(random_model, f"s3://{bucket}/model")
    job = {
        "apiVersion": "dreambooth.dev/v1alpha1",
        "kind": "DreamBoothJob",
        "metadata": {"name": "torchrun", "namespace": "default", "uid": "1"},
        "spec": {
            "model": {"source": f"s3://{bucket}/model"},
            "subjects": [
                {"identifier": "sks", "classNoun": "mug", "images": f"s3://{bucket}/subject"}
            ],
            "output": f"s3://{bucket}/results",
            "prior": {"count": 4, "steps": 2},
            "training": {"steps": 3, "globalBatch": 2, "resolution": 64, "precision": "bf16"},
            "samples": {"steps": 2, "count": 1},
            "storage": {"endpointURL": s3_endpoint, "addressingStyle": "path"},
            "runtime": {"gpusPerNode": 0, "processesPerNode": 2},
        },
    }
    config = tmp_path / "job.yaml"
    config.write_text(yaml.safe_dump(job))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "dreambooth_trainer", "--config", str(config),
    ]  # fmt: skip
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "POD_IP": "127.0.0.1",
        "DREAMBOOTH_METRICS_PORT": "0",
        "DREAMBOOTH_CACHE_DIR": str(tmp_path / "cache"),
        "DREAMBOOTH_TERMINATION_LOG": str(tmp_path / "termination.log"),
    }
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    run = f"s3://{bucket}/results/default/torchrun/1"
    names = {item.relative for item in storage.list(run)}
    assert "export/pytorch_lora_weights.safetensors" in names
    assert "samples/before-after.png" in names
    lines = storage.read(f"{run}/history.jsonl").decode().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert set(ended.stderr.splitlines()[-2:]) == {"rank 0: done", "rank 1: done"}
    termination = Termination.decode((tmp_path / "termination.log").read_text())
    assert (termination.rank, termination.message) == (0, "done")
    assert termination.checkpoint is not None
    assert termination.checkpoint.uri == f"{run}/checkpoints/step-00000003-claim-0000"
