"""What storage faults cost: the quickstart's job with failing requests and without.

Both go through the same proxy to the same server, so that its own cost drops out.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dreambooth_operator.local.seaweed import SeaweedServer
from dreambooth_storage import Storage, StorageSettings
from tests.bench.quality import shorten
from tests.bench.report import Row, credentials, ratio
from tests.faulty_s3 import FaultyS3, Rule, sometimes
from tests.trainer.ranks import run_ranks

EXAMPLES = Path(__file__).parents[2] / "examples"
ODDS = 0.05
ROUNDS = 2


def measure(folder: Path, short: bool) -> Iterator[Row]:
    """What a job costs while requests fail."""
    ratios = []
    with (
        SeaweedServer(folder / "seaweedfs") as server,
        FaultyS3(server.endpoint_url) as proxy,
        credentials(server.environment),
    ):
        bench = _Bench(server, proxy, folder, short)
        for number in range(1 if short else ROUNDS):
            quiet = bench.seconds(f"quiet-{number}")
            bad = bench.seconds(f"bad-{number}", _every_twentieth(number))
            ratios.append(bad / quiet)
    yield ratio("a job while 5 % of requests fail / none", ratios, at_most=1.5)


def _every_twentieth(seed: int) -> Rule:
    faults = ["500", "503", "429", "reset", "lost", "cut", "truncate", "slow"]
    return sometimes(faults, ODDS, seed)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Bench:
    server: SeaweedServer
    proxy: FaultyS3
    folder: Path
    short: bool

    def seconds(self, name: str, *rules: Rule) -> float:
        """Seconds from the start of the ranks to their ends; every run has a bucket of its own."""
        self.server.create_bucket(name)
        with Storage(StorageSettings(self.server.endpoint_url)) as storage:
            storage.upload_tree(EXAMPLES / "tiny-sd" / "model", f"s3://{name}/models/tiny-sd")
            for model in ("clip", "dino"):
                storage.upload_tree(
                    EXAMPLES / "tiny-sd" / model, f"s3://{name}/models/tiny-{model}"
                )
            storage.upload_tree(EXAMPLES / "subjects", f"s3://{name}/subjects")
        self.proxy.set_rules(*rules)
        began = time.perf_counter()
        nodes = 1 if self.short else 2
        ended = run_ranks(self._job(name), self.folder / name, nodes=nodes, timeout=1800)
        seconds = time.perf_counter() - began
        self.proxy.set_rules()
        assert set(ended.codes) == {0}, f"exit codes {ended.codes}\n" + "\n".join(ended.logs)
        return seconds

    def _job(self, name: str) -> dict[str, Any]:
        text = (EXAMPLES / "quickstart.yaml").read_text()
        job: dict[str, Any] = yaml.safe_load(text.replace("s3://dreambooth/", f"s3://{name}/"))
        job["metadata"] |= {"namespace": "default", "uid": name}
        job["spec"]["storage"] = {"endpointURL": self.proxy.url}
        if self.short:
            shorten(job["spec"])
        return job
