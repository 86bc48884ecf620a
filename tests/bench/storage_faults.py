"""What storage faults cost: the quickstart's job with failing requests and without.

Both go through the same proxy to the same server, so that its own cost drops out.
"""

import os
import time
from pathlib import Path
from typing import Any

import yaml

from dreambooth_operator.local.seaweed import SeaweedServer
from dreambooth_storage import Storage, StorageSettings
from tests.faulty_s3 import FaultyS3, Rule, sometimes
from tests.trainer.ranks import run_ranks

EXAMPLES = Path(__file__).parents[2] / "examples"
ODDS = 0.05
ROUNDS = 2


def measure(folder: Path) -> list[tuple[str, list[float], float | None]]:
    """Rows of the table."""
    ratios = []
    with SeaweedServer(folder / "seaweedfs") as server, FaultyS3(server.endpoint_url) as proxy:
        os.environ |= server.environment
        for number in range(ROUNDS):
            quiet = _seconds(server, proxy, folder, f"quiet-{number}")
            bad = _seconds(server, proxy, folder, f"bad-{number}", _every_twentieth(number))
            ratios.append(bad / quiet)
    return [("a job while 5 % of requests fail / none", ratios, 1.5)]


def _every_twentieth(seed: int) -> Rule:
    faults = ["500", "503", "429", "reset", "lost", "cut", "truncate", "slow"]
    return sometimes(faults, ODDS, seed)  # type: ignore[arg-type]


def _seconds(
    server: SeaweedServer, proxy: FaultyS3, folder: Path, name: str, *rules: Rule
) -> float:
    """Seconds from the start of the ranks to their ends; every run has a bucket of its own."""
    server.create_bucket(name)
    with Storage(StorageSettings(server.endpoint_url)) as storage:
        storage.upload_tree(EXAMPLES / "tiny-sd" / "model", f"s3://{name}/models/tiny-sd")
        storage.upload_tree(EXAMPLES / "tiny-sd" / "clip", f"s3://{name}/models/tiny-clip")
        storage.upload_tree(EXAMPLES / "subjects", f"s3://{name}/subjects")
    proxy.set_rules(*rules)
    began = time.perf_counter()
    ended = run_ranks(_job(name, proxy.url), folder / name, nodes=2, timeout=1800)
    seconds = time.perf_counter() - began
    proxy.set_rules()
    assert set(ended.codes) == {0}, "\n".join(ended.logs)
    return seconds


def _job(name: str, endpoint: str) -> dict[str, Any]:
    text = (EXAMPLES / "quickstart.yaml").read_text().replace("s3://dreambooth/", f"s3://{name}/")
    job: dict[str, Any] = yaml.safe_load(text)
    job["metadata"] |= {"namespace": "default", "uid": name}
    job["spec"]["storage"] = {"endpointURL": endpoint}
    return job
