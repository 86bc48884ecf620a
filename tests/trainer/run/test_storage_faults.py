"""Whole jobs while the object store fails.

They end with the same weights, or with the right exit code and nothing lost.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from dreambooth_operator.local.seaweed import SeaweedServer
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.checkpoint import CheckpointStore
from tests.faulty_s3 import Fault, FaultyS3, Rule, always, once, sometimes, times
from tests.trainer.checkpoint_saves import load
from tests.trainer.hasty_storage import hasten
from tests.trainer.ranks import Ended, run_ranks

State = dict[str, torch.Tensor]
COMMIT = r"/checkpoints/log/0*[1-9]\d*\.json"
"""A commit's object: the claim that comes before all is number 0."""
STEPS = 8


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[FaultyS3]:
    with FaultyS3(s3_endpoint) as server:
        yield server


@pytest.fixture
def images(s3_endpoint: str, bucket: str, tmp_path: Path) -> str:
    """The subject's images, in the bucket."""
    for number in range(3):
        image = Image.new("RGB", (80, 96), (40 * number, 200, 90))
        ImageDraw.Draw(image).ellipse((10, 10 + number * 5, 60, 70), fill=(220, 40, 50 * number))
        image.save(tmp_path / f"{number}.png")
        with Storage(StorageSettings(s3_endpoint)) as owner:
            owner.upload(tmp_path / f"{number}.png", f"s3://{bucket}/subject/{number}.png")
    return f"s3://{bucket}/subject"


class Run:
    """A short job whose storage is the proxy; `attempt(n)` runs it."""

    def __init__(self, bucket: str, images: str, model: Path, folder: Path, endpoint: str) -> None:
        self._folder = folder
        self._endpoint = endpoint
        self.output = f"s3://{bucket}/output/default/test/run"
        self._spec = {
            "model": {"source": str(model)},
            "subjects": [{"identifier": "sks", "classNoun": "mug", "images": images}],
            "output": f"s3://{bucket}/output",
            "prior": {"count": 4, "steps": 2},
            "training": {
                "method": "lora", "lora": {"rank": 4}, "steps": STEPS, "globalBatch": 2,
                "resolution": 64, "learningRate": 1e-3, "precision": "fp32",
            },
            "checkpoints": {"every": 2, "keep": 2},
            "samples": {"steps": 2, "count": 1},
            "runtime": {"gpusPerNode": 0},
        }  # fmt: skip

    def attempt(self, number: int, proxy: FaultyS3) -> Ended:
        job = {
            "apiVersion": "dreambooth.dev/v1alpha1",
            "kind": "DreamBoothJob",
            "metadata": {"name": "test", "namespace": "default", "uid": "run"},
            "spec": {**self._spec, "storage": {"endpointURL": proxy.url}},
        }
        folder = self._folder / f"attempt-{number}"
        return run_ranks(job, folder, attempt=number, prepare=hasten, timeout=200)

    def state(self) -> tuple[int, State]:
        """Step and tensors of the newest checkpoint that verifies, read without the proxy."""
        with Storage(StorageSettings(self._endpoint)) as owner:
            store = CheckpointStore(owner, f"{self.output}/checkpoints")
            newest = store.checkpoints()[0]
            return newest.step, load(store, newest)

    def names(self) -> set[str]:
        """Everything that the run left behind."""
        with Storage(StorageSettings(self._endpoint)) as owner:
            return {each.relative for each in owner.list(self.output)}


@pytest.fixture
def run(bucket: str, images: str, random_model: Path, tmp_path: Path, s3_endpoint: str) -> Run:
    return Run(bucket, images, random_model, tmp_path, s3_endpoint)


@pytest.fixture(scope="module")
def steady(
    s3_server: SeaweedServer, random_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, State]:
    """Kept for the module: the weights of a quiet day."""
    return {}


@pytest.fixture
def expected(
    steady: dict[str, State], bucket: str, images: str, random_model: Path, tmp_path: Path,
    s3_endpoint: str,
) -> State:  # fmt: skip
    """The final state of the same job on a quiet day."""
    if not steady:
        quiet = Run(f"{bucket}/quiet", images, random_model, tmp_path / "quiet", s3_endpoint)
        with FaultyS3(s3_endpoint) as proxy:
            ended = quiet.attempt(0, proxy)
        assert ended.codes == [0], ended.logs
        step, steady["state"] = quiet.state()
        assert step == STEPS
    return steady["state"]


def assert_finished(run: Run, ended: Ended, expected: State) -> None:
    assert ended.codes == [0], ended.logs
    step, found = run.state()
    assert step == STEPS
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert {"run.json", "history.jsonl", "samples/before-after.png"} <= run.names()
    assert any(name.startswith("export/") for name in run.names())


OBJECTS = r"^/[^?]*($|[?]x-id)"
"""Requests about one object, whose content can be checked. A listing's cannot."""
SURVIVED: dict[str, Callable[[], list[Rule]]] = {
    "5 % fail": lambda: [
        sometimes(["500", "503", "429", "reset", "lost", "cut", "truncate"], 0.05, seed=5)
    ],
    "errors": lambda: [sometimes(["500", "503", "429"], 0.25, seed=1)],
    "broken connections": lambda: [sometimes(["reset", "lost", "cut", "truncate"], 0.25, seed=2)],
    "damage": lambda: [sometimes(["corrupt", "corrupt-request", "shorten"], 0.2, 3, path=OBJECTS)],
    "slow and out of order": lambda: [
        always("shuffle", path="list-type"),
        sometimes(["slow"], 0.1, seed=4),
    ],
    "a lost commit": lambda: [times("lost", "exists", method="PUT", path=COMMIT)],
    "a commit that is refused for nothing": lambda: [times("exists", method="PUT", path=COMMIT)],
    "no deleting": lambda: [always("denied", method="DELETE", path="/checkpoints/")],
}


QUICK = ("5 % fail", "damage", "a lost commit")
"""Days of the normal tier; each is a whole job."""


@pytest.mark.parametrize(
    "day", [day if day in QUICK else pytest.param(day, marks=pytest.mark.slow) for day in SURVIVED]
)
def test_a_job_ends_with_the_same_weights(
    run: Run, proxy: FaultyS3, expected: State, day: str
) -> None:
    proxy.set_rules(*SURVIVED[day]())
    ended = run.attempt(0, proxy)
    assert proxy.faults()
    assert_finished(run, ended, expected)


@pytest.mark.slow  # a request is given up after a minute
def test_requests_that_hang_cost_time_alone(run: Run, proxy: FaultyS3, expected: State) -> None:
    proxy.set_rules(
        times("hang", method="GET", path="/subject/"), times("hang", method="PUT", path=COMMIT)
    )
    ended = run.attempt(0, proxy)
    assert proxy.faults() == ["hang", "hang"]
    assert_finished(run, ended, expected)


STOPPED: dict[Fault, tuple[int, str]] = {
    "denied": (67, r"spec\.output: s3://.* is refused by http.*AccessDenied"),
    "expired": (67, r"spec\.output: s3://.* is refused by http.*ExpiredToken"),
    "full": (1, r"spec\.output: s3://.* has no room left .*; make room there"),
    "503": (1, r"spec\.output: s3://.* is not available from http"),
}


@pytest.mark.parametrize(
    "fault",
    ["denied", "full", *(pytest.param(f, marks=pytest.mark.slow) for f in ("expired", "503"))],
)
def test_a_job_that_may_not_write_any_more_stops_and_goes_on_from_what_it_had_saved(
    run: Run, proxy: FaultyS3, expected: State, fault: Fault
) -> None:
    """The bucket turns bad for good as soon as a checkpoint has been committed."""
    committed = always(fault, method="PUT", path=COMMIT)
    proxy.set_rules(once(committed, then=always(fault, method="PUT|POST")))
    ended = run.attempt(0, proxy)
    code, words = STOPPED[fault]
    assert ended.codes == [code], ended.logs
    assert re.search(f"^{words}", ended.termination.message)
    step, _ = run.state()
    assert 0 < step < STEPS
    assert not any(name.startswith("export/") for name in run.names())

    proxy.set_rules()
    again = run.attempt(1, proxy)
    assert_finished(run, again, expected)


@pytest.mark.parametrize(("fault", "code"), [("expired", 67), ("full", 1)])
def test_a_job_that_may_not_write_at_all_is_refused_before_it_begins(
    run: Run, proxy: FaultyS3, fault: Fault, code: int
) -> None:
    proxy.set_rules(always(fault, method="PUT|POST"))
    ended = run.attempt(0, proxy)
    assert ended.codes == [code]
    assert "spec.output: " in ended.termination.message
    assert run.names() == set()
