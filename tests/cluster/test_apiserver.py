"""The double by itself: real clients use it, watches behave, faults are injected on request.

That its answers are those of Kubernetes' own API server is test_apiserver_differential's part.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes.aio import client, config, watch

from tests.cluster.api_requests import (
    CONFIG_MAP,
    DREAM_BOOTH_JOB,
    POD,
    Step,
    apply,
    dream_booth_job,
    get,
    indexed,
    named,
    patch,
    post,
)
from tests.cluster.apiserver import cel
from tests.cluster.apiserver.openapi_schemas import published
from tests.cluster.apiserver.server import ApiServerDouble
from tests.cluster.apiserver.settings import Settings
from tests.cluster.kubectl import Kubectl, KubectlError
from tests.cluster.processes import Daemon
from tests.cluster.raw_client import RawClient, Response

ROOT = Path(__file__).parents[2]
CRD = ROOT / "crds" / "dreambooth.dev_dreamboothjobs.yaml"
CORE = "/api/v1/namespaces/default"
CONFIG_MAPS, PODS = f"{CORE}/configmaps", f"{CORE}/pods"
JOBS = "/apis/batch/v1/namespaces/default/jobs"
DREAM_BOOTH_JOBS = "/apis/dreambooth.dev/v1alpha1/namespaces/default/dreamboothjobs"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

COLUMNS = ["NAME", "PHASE", "STAGE", "STEP", "TOTAL", "LOSS", "ETA", "FAILURES", "AGE"]
WIDE_COLUMNS = ["NODES", "QUEUE", "CHECKPOINT", "BEST", "SCORE", "PODS", "MESSAGE"]


@pytest.fixture
def double() -> Iterator[ApiServerDouble]:
    with ApiServerDouble() as running:
        assert ask(running, post(DEFINITIONS, yaml.safe_load(CRD.read_text()))).code == 201
        yield running


@pytest.fixture
def kubectl(double: ApiServerDouble, tmp_path: Path) -> Kubectl:
    return Kubectl(double.write_kubeconfig(tmp_path / "kubeconfig"), "default")


def ask(double: ApiServerDouble, step: Step, user_agent: str = "tests/1") -> Response:
    return RawClient(double.url, user_agent=user_agent).send(step)


def kinds(events: Iterator[dict[str, Any]], count: int) -> list[tuple[str, str]]:
    """Type and name of the next events of a watch."""
    received = [next(events) for _ in range(count)]
    return [(one["type"], one["object"]["metadata"].get("name", "")) for one in received]


def version(answer: Response) -> str:
    resource_version: str = answer.body["metadata"]["resourceVersion"]
    return resource_version


def test_kubectl_carries_a_job_through_its_life(kubectl: Kubectl) -> None:
    text = yaml.safe_dump(DREAM_BOOTH_JOB)
    assert kubectl("apply", "-f", "-", input=text).strip().endswith("created")
    version = kubectl("get", "dbj/d", "-o", "jsonpath={.metadata.resourceVersion}")
    kubectl("apply", "-f", "-", input=text)
    assert kubectl("get", "dbj/d", "-o", "jsonpath={.metadata.resourceVersion}") == version
    header, row = kubectl("get", "dbj").splitlines()
    assert header.split() == COLUMNS
    assert row.split()[0] == "d"
    wide, _ = kubectl("get", "dbj", "--output=wide").splitlines()
    assert wide.split() == [*COLUMNS, *WIDE_COLUMNS]
    assert "Class Noun:" in kubectl("describe", "dreamboothjob", "d")
    kubectl("patch", "dbj", "d", "--type=merge", "-p", '{"spec":{"suspend":true}}')
    assert kubectl("get", "dbj/d", "-o", "jsonpath={.metadata.generation}") == "2"
    kubectl("delete", "dbj", "d")
    assert "NotFound" in kubectl("get", "dbj/d", check=False)


def test_kubectl_selects_jobs_by_the_fields_of_the_definition(kubectl: Kubectl) -> None:
    for name, suspend in (("a", True), ("b", False)):
        job = {**dream_booth_job(suspend=suspend), "metadata": {"name": name}}
        kubectl("create", "-f", "-", input=yaml.safe_dump(job))
    selected = kubectl("get", "dbj", "--field-selector=spec.suspend=true", "--output=name")
    assert selected == "dreamboothjob.dreambooth.dev/a\n"
    unknown = kubectl("get", "dbj", "--field-selector=spec.output=x", check=False)
    assert "field label not supported: spec.output" in unknown


def test_kubectl_prints_why_a_job_is_refused(kubectl: Kubectl) -> None:
    wrong = yaml.safe_dump(dream_booth_job(training={"steps": 0, "precision": "fp16"}))
    with pytest.raises(KubectlError, match='DreamBoothJob "d" is invalid') as caught:
        kubectl("apply", "-f", "-", input=wrong)
    assert "spec.training.steps in body should be greater than or equal to 1" in str(caught.value)


def test_kubectl_applies_on_the_server(kubectl: Kubectl) -> None:
    text = yaml.safe_dump(CONFIG_MAP)
    for _ in range(2):
        kubectl("apply", "--server-side", "-f", "-", input=text)
    kubectl("apply", "--server-side", "--field-manager=other", "-f", "-", input=text)
    with pytest.raises(KubectlError, match=r'conflicts? with "(kubectl|other)"'):
        kubectl("apply", "--server-side", "-f", "-", input=text.replace("'1'", "'2'"))


def test_kubectl_merges_lists_by_their_keys(kubectl: Kubectl) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "s"},
        "spec": {"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 2}]},
    }
    kubectl("apply", "-f", "-", input=yaml.safe_dump(service))
    service["spec"]["ports"].pop(0)  # type: ignore[index]
    kubectl("apply", "-f", "-", input=yaml.safe_dump(service))
    assert kubectl("get", "service/s", "-o", "jsonpath={.spec.ports[*].name}") == "b"


def test_kubectl_waits_for_a_condition(kubectl: Kubectl, double: ApiServerDouble) -> None:
    ask(double, post(PODS, POD))
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    ask(double, patch(f"{PODS}/p/status", ready))
    assert "condition met" in kubectl("wait", "pod/p", "--for=condition=Ready", "--timeout=5s")


def test_the_asynchronous_client_lists_and_watches(double: ApiServerDouble, tmp_path: Path) -> None:
    kubeconfig = double.write_kubeconfig(tmp_path / "kubeconfig")

    async def names() -> list[str]:
        await config.load_kube_config(str(kubeconfig))
        async with client.ApiClient() as connection:
            core = client.CoreV1Api(connection)
            await core.create_namespaced_config_map("default", CONFIG_MAP)
            listed = await core.list_namespaced_config_map("default")
            names = [one.metadata.name for one in listed.items]
            async with watch.Watch().stream(
                core.list_namespaced_config_map, "default", timeout_seconds=1
            ) as stream:
                return names + [event["type"] async for event in stream]

    assert asyncio.run(names()) == ["c", "ADDED"]


def test_a_kopf_operator_sees_events_and_posts_its_own(
    double: ApiServerDouble, tmp_path: Path, kubectl: Kubectl
) -> None:
    program = tmp_path / "operator_of_test.py"
    program.write_text(
        "import kopf\n"
        "@kopf.on.event('dreambooth.dev', 'v1alpha1', 'dreamboothjobs')\n"
        "def seen(type, name, body, **_):\n"
        "    print('SEEN', type, name, flush=True)\n"
        "    if type != 'DELETED':\n"
        "        kopf.info(body, reason='Seen', message='hello')\n"
    )
    environment = {"KUBECONFIG": str(tmp_path / "kubeconfig"), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "kopf", "run", "-A", str(program)]
    operator = Daemon("kopf", command, tmp_path / "kopf.log", environment)
    try:
        ask(double, post(DREAM_BOOTH_JOBS, DREAM_BOOTH_JOB))
        operator.wait_ready(lambda: "hello" in kubectl("get", "events"), 30)
        kubectl("delete", "dbj", "d")
        operator.wait_ready(lambda: "SEEN DELETED d" in operator.tail(), 30)
    finally:
        operator.stop()


def test_a_process_writes_a_kubeconfig_and_says_where_it_listens(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    command = [sys.executable, "-m", "tests.cluster.apiserver", "--kubeconfig", str(kubeconfig)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]["server"] == url
        assert RawClient(url).send(get("/readyz")).body == "ok"
        process.terminate()
        assert process.wait(10) == 0


def test_a_watch_goes_on_where_a_list_ended(double: ApiServerDouble) -> None:
    listed = ask(double, get(CONFIG_MAPS))
    ask(double, post(CONFIG_MAPS, CONFIG_MAP))
    ask(double, patch(f"{CONFIG_MAPS}/c", {"data": {"x": "2"}}))
    ask(double, Step("DELETE", f"{CONFIG_MAPS}/c"))
    path = f"{CONFIG_MAPS}?watch=1&resourceVersion={version(listed)}"
    with RawClient(double.url).watch(path) as events:
        assert kinds(events, 3) == [("ADDED", "c"), ("MODIFIED", "c"), ("DELETED", "c")]


def test_an_object_that_stops_to_match_is_deleted_for_the_watch(double: ApiServerDouble) -> None:
    ask(double, post(CONFIG_MAPS, CONFIG_MAP))
    with RawClient(double.url).watch(f"{CONFIG_MAPS}?watch=1&labelSelector=a%3Db") as events:
        ask(double, patch(f"{CONFIG_MAPS}/c", {"metadata": {"labels": {"a": "other"}}}))
        ask(double, patch(f"{CONFIG_MAPS}/c", {"metadata": {"labels": {"a": "b"}}}))
        assert kinds(events, 3) == [("ADDED", "c"), ("DELETED", "c"), ("ADDED", "c")]


def test_a_streamed_list_ends_with_a_bookmark(double: ApiServerDouble) -> None:
    created = ask(double, post(CONFIG_MAPS, CONFIG_MAP))
    options = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    with RawClient(double.url).watch(f"{CONFIG_MAPS}?watch=1&{options}") as events:
        assert next(events)["type"] == "ADDED"
        bookmark = next(events)
    assert bookmark["type"] == "BOOKMARK"
    assert bookmark["object"]["metadata"] == {
        "resourceVersion": version(created),
        "annotations": {"k8s.io/initial-events-end": "true"},
    }


def test_a_watch_ends_after_its_time(double: ApiServerDouble) -> None:
    path = f"{CONFIG_MAPS}?watch=1&timeoutSeconds=1&allowWatchBookmarks=true"
    with RawClient(double.url).watch(path) as events:
        assert [one["type"] for one in events] == ["BOOKMARK"]


def test_history_that_is_forgotten_is_gone(double: ApiServerDouble) -> None:
    listed = ask(double, get(CONFIG_MAPS))
    double.forget_history()
    path = f"{CONFIG_MAPS}?watch=1&resourceVersion={version(listed)}"
    with RawClient(double.url).watch(path) as events:
        event = next(events)
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == (
        "ERROR",
        410,
        "Expired",
    )


def test_history_is_bounded() -> None:
    with ApiServerDouble(Settings(history=3)) as double:
        listed = ask(double, get(CONFIG_MAPS))
        for number in range(5):
            ask(double, post(CONFIG_MAPS, {**CONFIG_MAP, **named(f"c{number}")}))
        path = f"{CONFIG_MAPS}?watch=1&resourceVersion={version(listed)}"
        with RawClient(double.url).watch(path) as events:
            assert next(events)["object"]["code"] == 410


def test_a_list_comes_in_pages(double: ApiServerDouble) -> None:
    for number in range(3):
        ask(double, post(CONFIG_MAPS, {**CONFIG_MAP, **named(f"c{number}")}))
    first = ask(double, get(f"{CONFIG_MAPS}?limit=2")).body
    token = first["metadata"]["continue"]
    rest = ask(double, get(f"{CONFIG_MAPS}?limit=2&continue={token}")).body
    names = [one["metadata"]["name"] for page in (first, rest) for one in page["items"]]
    assert names == ["c0", "c1", "c2"]
    assert "continue" not in rest["metadata"]
    double.forget_history()
    assert ask(double, get(f"{CONFIG_MAPS}?limit=2&continue={token}")).code == 410


def test_applying_the_same_again_writes_nothing(double: ApiServerDouble) -> None:
    job = indexed(suspend=True)
    first = ask(double, apply(f"{JOBS}/j", "op", job))
    time.sleep(1.1)  # the owners' times would differ
    second = ask(double, apply(f"{JOBS}/j", "op", job))
    assert second.body == first.body


def test_a_definition_whose_default_breaks_a_rule_is_refused(double: ApiServerDouble) -> None:
    definition = yaml.safe_load(CRD.read_text().replace("dreamboothjob", "other"))
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["properties"]["spec"]["properties"]["training"]["default"] = {}
    answer = ask(double, post(DEFINITIONS, definition))
    assert answer.code == 422
    assert "properties[training].default: Invalid value" in answer.body["message"]
    assert "no such key: schedule" in answer.body["message"]


def test_deleting_the_definition_deletes_its_objects(double: ApiServerDouble) -> None:
    ask(double, post(DREAM_BOOTH_JOBS, DREAM_BOOTH_JOB))
    with RawClient(double.url).watch(f"{DREAM_BOOTH_JOBS}?watch=1") as events:
        ask(double, Step("DELETE", f"{DEFINITIONS}/dreamboothjobs.dreambooth.dev"))
        assert kinds(events, 2) == [("ADDED", "d"), ("DELETED", "d")]
    assert ask(double, get(DREAM_BOOTH_JOBS)).code == 404


def test_the_next_requests_fail_as_told(double: ApiServerDouble) -> None:
    double.fail(method="POST", path="/configmaps", code=429, times=2, retry_after=3)
    refused = [ask(double, post(CONFIG_MAPS, CONFIG_MAP)) for _ in range(2)]
    assert [one.code for one in refused] == [429, 429]
    assert refused[0].body["details"] == {"retryAfterSeconds": 3}
    assert ask(double, post(CONFIG_MAPS, CONFIG_MAP)).code == 201


def test_faults_can_be_meant_for_one_client(double: ApiServerDouble) -> None:
    double.fail(agent="operator/", code=500, times=-1)
    assert ask(double, get(PODS), "operator/1").code == 500
    assert ask(double, get(PODS), "kubectl").code == 200


def test_faults_that_last_end_when_healed(double: ApiServerDouble) -> None:
    double.fail(path="/configmaps", code=500, times=-1)
    assert [ask(double, get(CONFIG_MAPS)).code for _ in range(3)] == [500] * 3
    assert ask(double, get(PODS)).code == 200
    double.heal()
    assert ask(double, get(CONFIG_MAPS)).code == 200


def test_answers_can_be_late(double: ApiServerDouble) -> None:
    double.fail(path="/configmaps", delay=0.5)
    start = time.monotonic()
    assert ask(double, get(CONFIG_MAPS)).code == 200
    assert time.monotonic() - start >= 0.5


def test_connections_are_refused_for_a_while(double: ApiServerDouble) -> None:
    with RawClient(double.url).watch(f"{CONFIG_MAPS}?watch=1") as events:
        double.refuse(1.0)
        with pytest.raises((OSError, StopIteration)):
            next(events)
    with pytest.raises(urllib.error.URLError):
        ask(double, get(CONFIG_MAPS))
    time.sleep(1.5)
    assert ask(double, get(CONFIG_MAPS)).code == 200


def test_watches_can_be_closed(double: ApiServerDouble) -> None:
    with RawClient(double.url).watch(f"{CONFIG_MAPS}?watch=1") as events:
        assert double.close_watches() == 1
        assert list(events) == []


def test_silent_watches_send_nothing_and_stay_open(double: ApiServerDouble) -> None:
    with RawClient(double.url).watch(f"{CONFIG_MAPS}?watch=1&timeoutSeconds=1", 2.0) as events:
        double.silence_watches()
        ask(double, post(CONFIG_MAPS, CONFIG_MAP))
        with pytest.raises(TimeoutError):
            next(events)
    with RawClient(double.url).watch(f"{CONFIG_MAPS}?watch=1") as events:
        assert kinds(events, 1) == [("ADDED", "c")]


def test_writes_are_counted_by_who_made_them(double: ApiServerDouble) -> None:
    ask(double, post(CONFIG_MAPS, CONFIG_MAP), "operator/1")
    ask(double, post(CONFIG_MAPS, CONFIG_MAP), "operator/1")  # refused: it is there
    ask(double, get(CONFIG_MAPS), "operator/1")
    assert double.writes("operator") == 1
    assert {
        "verb": "create",
        "resource": "configmaps",
        "userAgent": "operator/1",
        "code": 409,
        "count": 1,
    } in double.requests()
    double.reset_requests()
    assert double.writes() == 0


def test_what_an_older_version_does_not_know_is_noted(double: ApiServerDouble) -> None:
    newer = {**POD, "spec": POD["spec"] | {"hostnameOverride": "h"}}  # since 1.34
    assert ask(double, post(PODS, newer), "operator/1").code == 201
    (violation,) = double.violations()["violations"]
    assert (violation["version"], violation["path"], violation["userAgent"]) == (
        "1.33",
        "spec.hostnameOverride",
        "operator/1",
    )


@pytest.mark.parametrize("wanted", ["1.33", "1.37"])
@pytest.mark.parametrize(
    "change",
    [{}, {"foo": 1}, {"hostNetwork": "yes"}, {"containers": None}, {"activeDeadlineSeconds": 1.5}],
    ids=str,
)
def test_our_check_of_published_schemas_agrees_with_theirs(
    change: dict[str, Any], wanted: str
) -> None:
    pod = {**POD, "spec": POD["spec"] | change}
    try:
        kubernetes_validate.validate(pod, wanted, strict=True)
        valid = True
    except kubernetes_validate.ValidationError:
        valid = False
    assert (published(wanted).faults(pod) == []) == valid == (not change)


def test_a_rule_is_asked_again_when_what_it_sees_changes() -> None:
    rule = "self.a == oldSelf.a || self.b.contains('self.c')"
    assert cel.broken(rule, {"a": 1, "b": "", "c": 1}, {"a": 1}) is None
    assert cel.broken(rule, {"a": 2, "b": "", "c": 1}, {"a": 1}) == ""
    assert cel.broken(rule, {"a": 2, "b": "self.c", "c": 1}, {"a": 1}) is None
    assert cel.broken("self.all(key, key != 'a')", {"b": 1}, None) is None
    assert cel.broken("self.all(key, key != 'a')", {"a": 1}, None) == ""
    assert "no such" in (cel.broken("self.missing == 1", {"a": 1}, None) or "")
