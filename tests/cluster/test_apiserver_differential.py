"""The double answers as Kubernetes' own API server does: same requests, same answers.

Needs KUBEBUILDER_ASSETS, a folder with Kubernetes' own programs.
"""

from __future__ import annotations

import json
import os
import re
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.api_requests import JSON, SCENARIOS, Step
from tests.cluster.apiserver.server import TOKEN, ApiServerDouble
from tests.cluster.apiserver.settings import Settings
from tests.cluster.envtest import TOLERATION_SECONDS, EnvtestPlane
from tests.cluster.raw_client import RawClient, Response

if "KUBEBUILDER_ASSETS" not in os.environ:
    # One line for all tests against Kubernetes' own programs, those of the controllers included.
    pytest.skip(
        "tests against Kubernetes' own programs need KUBEBUILDER_ASSETS, their folder",
        allow_module_level=True,
    )

ROOT = Path(__file__).parents[2]
CRD = ROOT / "crds" / "dreambooth.dev_dreamboothjobs.yaml"
INVALID = sorted((ROOT / "tests" / "crds" / "jobs" / "invalid").glob("*.yaml"))
UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
GO_WORDS = re.compile(
    r'Go struct field|is unrecognized|"Volumes":null|\n@@ |StorageError|json parse error|strconv'
    r"|illegal base64|patch: Invalid value|value\.valueUnstructured"
)
"""Messages that print Go's own structures: there only the code and the reason have to match."""

SAME = Settings(schema_version="1.36", toleration_seconds=TOLERATION_SECONDS)
"""As `EnvtestPlane` starts the real one."""
REFUSED_DIFFERENTLY = {"api-version-newer", "kind-other"}
"""What says that it is of another kind never reaches the schema of ours."""


def normal(value: Any, key: str = "") -> Any:
    """A value without uids, times, versions and the descriptions of columns."""
    if isinstance(value, dict):
        hidden = {"time", "description"} if "priority" in value or "manager" in value else set()
        return {name: normal(item, name) for name, item in value.items() if name not in hidden} | (
            {"managedFields": normal(_appliers(value), "managedFields")} if "uid" in value else {}
        )
    if isinstance(value, list):
        found = [normal(item, key) for item in value]
        # Some faults are found twice by the real server.
        return [one for i, one in enumerate(found) if key != "causes" or one not in found[:i]]
    if not isinstance(value, str):
        return value
    return "VERSION" if key == "resourceVersion" else TIME.sub("TIME", UID.sub("UID", value))


def _appliers(metadata: dict[str, Any]) -> list[Any]:
    """What appliers own, in one order: the real one is by time, in seconds.

    Of the inner nodes that an update owns the double marks a few more.
    """
    managed = metadata.get("managedFields", [])
    applied = [entry for entry in managed if entry["operation"] == "Apply"]
    return sorted(applied, key=lambda entry: str(entry["manager"]))


def comparable(answer: Response, other: Response) -> Response:
    """The part of a response that both servers must agree on."""
    messages = [
        one.body.get("message", "") for one in (answer, other) if isinstance(one.body, dict)
    ]
    if any(GO_WORDS.search(message) for message in messages):
        return Response(answer.code, answer.body.get("reason"), [])
    return answer._replace(body=normal(answer.body))


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RawClient, RawClient]]:
    """The real one and the double, both with the CRD."""
    folder = tmp_path_factory.mktemp("real")
    with ExitStack() as processes, ApiServerDouble(SAME) as double:
        EnvtestPlane(Path(os.environ["KUBEBUILDER_ASSETS"]), folder).start_server(processes)
        config = yaml.safe_load((folder / "kubeconfig").read_text())
        cluster = config["clusters"][0]["cluster"]
        trust = ssl.create_default_context(cafile=cluster["certificate-authority"])
        trust.verify_flags &= ~ssl.VERIFY_X509_STRICT
        token = config["users"][0]["user"]["token"]
        pair = RawClient(cluster["server"], token, trust), RawClient(double.url, TOKEN)
        for server in pair:
            _install(server)
        yield pair


def _install(server: RawClient) -> None:
    """Install the CRD, and wait until its objects are served."""
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    created = server.send(Step("POST", definitions, yaml.safe_load(CRD.read_text())))
    assert created.code == 201
    jobs = Step("GET", "/apis/dreambooth.dev/v1alpha1/namespaces/default/dreamboothjobs")
    for _ in range(200):
        if server.send(jobs).code == 200:
            return
    raise AssertionError("the CRD is not served")


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_double_answers_as_the_real_server(
    name: str, servers: tuple[RawClient, RawClient]
) -> None:
    namespace = Step("POST", "/api/v1/namespaces", {"metadata": {"name": f"d-{name}"}})
    accounts = f"/api/v1/namespaces/d-{name}/serviceaccounts"
    account = Step("POST", accounts, {"metadata": {"name": "default"}})
    for server in servers:
        assert server.send(namespace).code == 201
        assert server.send(account).code == 201
    for step in SCENARIOS[name]:
        sent = in_namespace(step, f"d-{name}")
        real, ours = (server.send(sent) for server in servers)
        assert comparable(ours, real) == comparable(real, ours), sent


def in_namespace(step: Step, namespace: str) -> Step:
    body = step.body
    if not isinstance(body, bytes | None):
        body = json.loads(json.dumps(body).replace('"NS"', f'"{namespace}"'))
    return step._replace(path=step.path.replace("NS", namespace), body=body)


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_an_invalid_job_is_refused_in_the_same_words(
    path: Path, servers: tuple[RawClient, RawClient]
) -> None:
    url = "/apis/dreambooth.dev/v1alpha1/namespaces/default/dreamboothjobs?fieldValidation=Strict"
    step = Step("POST", url, path.read_bytes(), "application/yaml")
    real, ours = (server.send(step) for server in servers)
    if path.stem in REFUSED_DIFFERENTLY:
        assert {real.code, ours.code} <= {400, 422}
    else:
        assert comparable(ours, real) == comparable(real, ours)


def test_json_is_what_both_answer(servers: tuple[RawClient, RawClient]) -> None:
    """The test itself works: what both say about themselves differs."""
    real, ours = (server.send(Step("GET", "/version", None, JSON)) for server in servers)
    assert real.code == ours.code == 200
    assert real.body["gitVersion"] != ours.body["gitVersion"]
