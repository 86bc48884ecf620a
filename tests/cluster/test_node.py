"""The node agent does what a kubelet does, as far as a pod and its Job can tell."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.client import Object
from tests.cluster.control_plane import ControlPlane, control_plane
from tests.cluster.kubectl import Kubectl, eventually
from tests.cluster.nodes import Node

IMAGE = "dreambooth/tests:1"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with control_plane(tmp_path_factory.mktemp("plane")) as plane:
        yield plane


@pytest.fixture(scope="module")
def node(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that no scheduler finds: pods come to it by name."""
    node = start_node(plane, tmp_path_factory.mktemp("node"))
    kubectl = Kubectl(plane.kubeconfig)
    assert eventually(lambda: is_ready(kubectl, node)), node.tail()
    yield node
    node.stop()


@pytest.fixture
def kubectl(plane: ControlPlane) -> Iterator[Kubectl]:
    """Kubectl in a namespace of its own."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    everywhere = Kubectl(plane.kubeconfig)
    everywhere.create_namespace(name)
    kubectl = Kubectl(plane.kubeconfig, name)
    if plane.real:  # it refuses pods before their service account is there
        assert eventually(lambda: kubectl.get("serviceaccount", "default") is not None)
    yield kubectl
    everywhere("delete", "namespace", name, "--wait=false")


@pytest.fixture
def run(kubectl: Kubectl, node: Node) -> Callable[..., None]:
    """A function that creates the pod "p" to run a Python program on the node."""

    def create(program: str, name: str = "p", **spec: Any) -> None:
        kubectl.create(pod(program, node.name, name, **spec))

    return create


def start_node(plane: ControlPlane, folder: Path) -> Node:
    taint = "--taint=dreambooth.dev/by-name=only:NoSchedule"
    options = [taint, "--heartbeat=0.5"]
    name = f"node-{uuid.uuid4().hex[:6]}"
    return Node(plane.kubeconfig, name, folder, IMAGE, options=options)


def pod(program: str, node: str, name: str = "p", **spec: Any) -> Object:
    """A pod on a node; what is no field of PodSpec is one of its container's."""
    container = {"name": "main", "image": IMAGE, "command": ["python", "-c", program]}
    own = ("subdomain", "hostname", "volumes", "restartPolicy", "terminationGracePeriodSeconds")
    container |= {key: value for key, value in spec.items() if key not in own}
    base = {
        "restartPolicy": "Never",
        "nodeName": node,
        "containers": [container],
        "tolerations": [{"operator": "Exists"}],
        "automountServiceAccountToken": False,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"color": "blue"}},
        "spec": base | {key: value for key, value in spec.items() if key in own},
    }


def config_map(name: str, **data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def secret(name: str, **data: str) -> Object:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}


def is_ready(kubectl: Kubectl, node: Node) -> bool:
    node_object = kubectl.get("node", node.name)
    conditions = node_object["status"].get("conditions", []) if node_object else []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def status(kubectl: Kubectl, name: str = "p") -> Object:
    """The pod's status, with its container's state as `state`."""
    pod_object = kubectl.get("pod", name)
    assert pod_object is not None
    containers = pod_object["status"].get("containerStatuses", [{"state": {}}])
    return {**pod_object["status"], "state": containers[0]["state"]}


def wait_phase(kubectl: Kubectl, *phases: str, name: str = "p") -> Object:
    """The pod's status once it is in one of the phases."""
    reached = eventually(lambda: status(kubectl, name).get("phase") in phases)
    assert reached, status(kubectl, name)
    return status(kubectl, name)


def end(kubectl: Kubectl, name: str = "p") -> Object:
    """How the pod's container ended."""
    ended = wait_phase(kubectl, "Succeeded", "Failed", name=name)["state"]["terminated"]
    assert isinstance(ended, dict)
    return ended


def waits(kubectl: Kubectl, reason: str) -> bool:
    """Whether the pod comes to wait for a reason."""
    return eventually(
        lambda: status(kubectl)["state"].get("waiting", {}).get("reason") == reason, seconds=10
    )


def reasons(kubectl: Kubectl) -> set[str]:
    return {event["reason"] for event in kubectl.events("p")}


def test_a_pod_runs_to_its_end(kubectl: Kubectl, run: Callable[..., None]) -> None:
    run("open('/dev/null'); print('hello')")
    ended = wait_phase(kubectl, "Succeeded", "Failed")
    assert ended["phase"] == "Succeeded"
    assert ended["state"]["terminated"]["exitCode"] == 0
    assert ended["state"]["terminated"]["reason"] == "Completed"
    conditions = {each["type"]: each["status"] for each in ended["conditions"]}
    assert conditions["Initialized"] == "True"
    assert conditions["Ready"] == conditions["ContainersReady"] == "False"
    assert ended["podIP"].startswith("127.")
    assert {"Pulled", "Created", "Started"} <= reasons(kubectl)


def test_the_log_stays_when_the_pod_is_gone(
    kubectl: Kubectl, run: Callable[..., None], node: Node
) -> None:
    run("print('last line')")
    end(kubectl)
    kubectl("delete", "pod", "p")
    assert [log.read_text() for log in node.logs(kubectl.namespace, "p")] == ["last line\n"]


def test_variables_and_volumes(kubectl: Kubectl, run: Callable[..., None], node: Node) -> None:
    kubectl.create(config_map("settings", color="red", shape="round"), secret("keys", id="me"))
    run(
        "import os, pathlib; e = os.environ\n"
        "e['files'] = ','.join(sorted(p.name for p in pathlib.Path(e['FOLDER']).iterdir()))\n"
        "(pathlib.Path(e['SCRATCH']) / 'x').touch()\n"
        "keys = 'NAME NODE LABEL COLOR ID ABSENT P_shape TEXT PLAIN AWS_PROFILE files'.split()\n"
        "print('|'.join(e.get(k, '-') for k in keys))\n"
        "pathlib.Path(e['TERMINATION']).write_text(e['IP'])",
        env=[
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['color']"}}},
            {
                "name": "COLOR",
                "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "color"}},
            },
            {"name": "ID", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "id"}}},
            {
                "name": "ABSENT",
                "valueFrom": {"secretKeyRef": {"name": "none", "key": "k", "optional": True}},
            },
            {"name": "TEXT", "value": "$(NAME)-$(UNKNOWN)-$$(NAME)"},
            {"name": "PLAIN", "value": "example.org/path"},
            {"name": "FOLDER", "value": "/etc/settings"},
            {"name": "SCRATCH", "value": "/scratch"},
            {"name": "TERMINATION", "value": "/dev/termination-log"},
        ],
        envFrom=[{"configMapRef": {"name": "settings"}, "prefix": "P_"}],
        volumeMounts=[
            {"name": "settings", "mountPath": "/etc/settings"},
            {"name": "scratch", "mountPath": "/scratch"},
        ],
        volumes=[
            {"name": "settings", "configMap": {"name": "settings"}},
            {"name": "scratch", "emptyDir": {}},
        ],
    )
    ended = wait_phase(kubectl, "Succeeded", "Failed")
    (log,) = node.logs(kubectl.namespace, "p")
    expected = f"p|{node.name}|blue|red|me|-|round|p-$(UNKNOWN)-$(NAME)|example.org/path|-"
    assert log.read_text() == f"{expected}|color,shape\n"
    assert ended["state"]["terminated"]["message"] == ended["podIP"]


def test_the_log_stands_in_for_the_message_of_a_failure(
    kubectl: Kubectl, run: Callable[..., None]
) -> None:
    run("import sys; sys.exit('rank 0: no')", terminationMessagePolicy="FallbackToLogsOnError")
    ended = end(kubectl)
    assert (ended["exitCode"], ended["reason"]) == (1, "Error")
    assert ended["message"] == "rank 0: no"


def test_a_signal_is_128_and_its_number(kubectl: Kubectl, run: Callable[..., None]) -> None:
    run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert end(kubectl)["exitCode"] == 137


def test_a_command_that_is_not_there(kubectl: Kubectl, run: Callable[..., None]) -> None:
    run("", command=["no-such-command"])
    ended = end(kubectl)
    assert (ended["exitCode"], ended["reason"]) == (128, "StartError")
    assert "no-such-command" in ended["message"]


def test_arguments_alone_are_for_the_images_entrypoint(
    kubectl: Kubectl, run: Callable[..., None]
) -> None:
    run("", command=None, args=["python", "-c", "raise SystemExit(7)"])
    assert end(kubectl)["exitCode"] == 7


def test_a_missing_secret_is_waited_for(kubectl: Kubectl, run: Callable[..., None]) -> None:
    reference = {"secretKeyRef": {"name": "keys", "key": "id"}}
    run("pass", env=[{"name": "ID", "valueFrom": reference}])
    assert waits(kubectl, "CreateContainerConfigError"), status(kubectl)
    assert status(kubectl)["state"]["waiting"]["message"] == 'secret "keys" not found'
    kubectl.create(secret("keys", other="x"))
    message = f"couldn't find key id in Secret {kubectl.namespace}/keys"
    assert eventually(lambda: status(kubectl)["state"]["waiting"]["message"] == message)
    kubectl("patch", "secret", "keys", "--patch", '{"stringData": {"id": "me"}}')
    assert end(kubectl)["exitCode"] == 0


def test_a_missing_config_map_is_waited_for(kubectl: Kubectl, run: Callable[..., None]) -> None:
    run(
        "pass",
        volumeMounts=[{"name": "config", "mountPath": "/config"}],
        volumes=[{"name": "config", "configMap": {"name": "settings"}}],
    )
    assert eventually(lambda: "FailedMount" in reasons(kubectl))
    assert status(kubectl)["state"]["waiting"]["reason"] == "ContainerCreating"
    (event,) = [each for each in kubectl.events("p") if each["reason"] == "FailedMount"]
    assert event["message"].endswith('volume "config" : configmap "settings" not found')
    kubectl.create(config_map("settings"))
    assert end(kubectl)["exitCode"] == 0


@pytest.mark.parametrize(
    ("image", "policy", "reason"),
    [
        ("registry.example/no/such:image", "IfNotPresent", "ImagePullBackOff"),
        ("Not An Image", "IfNotPresent", "InvalidImageName"),
        ("registry.example/no/such:image", "Never", "ErrImageNeverPull"),
    ],
)
def test_an_image_that_cannot_be_had(
    kubectl: Kubectl, run: Callable[..., None], image: str, policy: str, reason: str
) -> None:
    run("pass", image=image, imagePullPolicy=policy)
    assert waits(kubectl, reason), status(kubectl)
    assert image in status(kubectl)["state"]["waiting"]["message"]
    assert status(kubectl)["phase"] == "Pending"
    kubectl("delete", "pod", "p")  # returns when it has gone


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ({"restartPolicy": "Always"}, "restartPolicy Never"),
        ({"command": None}, "set `args`"),
        ({"readinessProbe": {"tcpSocket": {"port": 80}}}, "httpGet"),
    ],
)
def test_pods_that_the_node_does_not_run_say_so(
    kubectl: Kubectl, run: Callable[..., None], spec: dict[str, Any], word: str
) -> None:
    run("pass", **spec)
    refused = wait_phase(kubectl, "Failed")
    assert refused["reason"] == "UnsupportedPod"
    assert word in refused["message"]


PATIENT = (
    "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
    "print('up', flush=True); time.sleep(100)"
)
STUBBORN = (
    "import os, signal, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "os.fork(); print('up', flush=True); time.sleep(100)"
)


@pytest.mark.parametrize(
    ("program", "grace", "code"), [(PATIENT, 30, 143), (STUBBORN, 1, 137)], ids=["asked", "killed"]
)
def test_a_deleted_pod_is_asked_to_end_and_then_killed(
    kubectl: Kubectl, node: Node, program: str, grace: int, code: int
) -> None:
    kept = pod(program, node.name, terminationGracePeriodSeconds=grace)
    kept["metadata"]["finalizers"] = ["dreambooth.dev/look"]  # the end stays to be seen
    kubectl.create(kept)
    assert eventually(lambda: any("up" in log.read_text() for log in node.logs(kubectl.namespace)))
    (process,) = node.processes(kubectl.namespace, "p")
    kubectl("delete", "pod", "p", "--wait=false")
    assert end(kubectl)["exitCode"] == code
    assert eventually(lambda: not group_exists(process))
    kubectl("patch", "pod", "p", "--type=merge", '--patch={"metadata": {"finalizers": null}}')
    assert eventually(lambda: kubectl.get("pod", "p") is None)
    assert not list(node.folder.glob(f"pods/{kubectl.namespace}/*"))


def group_exists(process: int) -> bool:
    try:
        os.killpg(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_pod_is_ready_when_its_probe_says_so(
    kubectl: Kubectl, run: Callable[..., None], tmp_path: Path
) -> None:
    gate = tmp_path / "open"
    run(
        "import http.server, os, pathlib\n"
        "class Handler(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        f"        well = pathlib.Path({str(gate)!r}).exists()\n"
        "        self.send_response(200 if well else 503); self.end_headers()\n"
        "http.server.HTTPServer((os.environ['IP'], 9400), Handler).serve_forever()",
        env=[{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        ports=[{"name": "web", "containerPort": 9400}],
        readinessProbe={"httpGet": {"path": "/healthz", "port": "web"}, "periodSeconds": 1},
    )
    wait_phase(kubectl, "Running")
    assert not is_pod_ready(kubectl)
    gate.touch()
    assert eventually(lambda: is_pod_ready(kubectl))
    gate.unlink()
    assert eventually(lambda: not is_pod_ready(kubectl))
    assert "Unhealthy" in reasons(kubectl)


def is_pod_ready(kubectl: Kubectl) -> bool:
    said = {each["type"]: each["status"] for each in status(kubectl)["conditions"]}
    return [said["Ready"], said["ContainersReady"]] == ["True", "True"]


def test_pods_find_each_other_by_name(kubectl: Kubectl, run: Callable[..., None]) -> None:
    rendezvous = [
        {"name": "MASTER_ADDR", "value": "first.peers"},
        {"name": "MASTER_PORT", "value": "29500"},
    ]
    place = "(os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT']))"
    listen = f"import os, socket\nsocket.create_server({place}).accept()"
    call = (
        "import os, socket, time\n"
        "while True:\n"
        f"    try: socket.create_connection({place}); break\n"
        "    except ConnectionRefusedError: time.sleep(0.1)"
    )
    run(listen, name="a", hostname="first", subdomain="peers", env=rendezvous)
    run(call, name="b", hostname="second", subdomain="peers", env=rendezvous)
    assert end(kubectl, "a")["exitCode"] == end(kubectl, "b")["exitCode"] == 0


def test_a_frozen_node_is_lost_while_its_pods_go_on(
    plane: ControlPlane, kubectl: Kubectl, tmp_path: Path
) -> None:
    node = start_node(plane, tmp_path)
    try:
        assert eventually(lambda: is_ready(kubectl, node))
        kubectl.create(pod(PATIENT, node.name))
        wait_phase(kubectl, "Running")
        (process,) = node.processes(kubectl.namespace)
        node.freeze()
        assert eventually(lambda: not is_ready(kubectl, node), seconds=60)
        assert group_exists(process)
        node.thaw()
        assert eventually(lambda: is_ready(kubectl, node))
    finally:
        node.thaw()
        node.stop()


def test_an_agent_that_ends_takes_its_pods_and_its_node_along(
    plane: ControlPlane, kubectl: Kubectl, tmp_path: Path
) -> None:
    node = start_node(plane, tmp_path)
    assert eventually(lambda: is_ready(kubectl, node))
    kubectl.create(pod(STUBBORN, node.name))
    wait_phase(kubectl, "Running")
    (process,) = node.processes(kubectl.namespace)
    node.stop()
    assert eventually(lambda: not group_exists(process))
    assert kubectl.get("node", node.name) is None


def test_a_node_without_power_comes_back_without_its_pods(
    plane: ControlPlane, kubectl: Kubectl, tmp_path: Path
) -> None:
    node = start_node(plane, tmp_path)
    try:
        assert eventually(lambda: is_ready(kubectl, node))
        kubectl.create(pod(STUBBORN, node.name))
        wait_phase(kubectl, "Running")
        (process,) = node.processes(kubectl.namespace)
        node.power_off()
        assert eventually(lambda: not group_exists(process))
        assert status(kubectl)["phase"] == "Running"  # nothing newer was reported
        node.restart()
        assert wait_phase(kubectl, "Failed")["reason"] == "NodeRestarted"
        assert node.processes(kubectl.namespace) == []
    finally:
        node.stop()


def test_what_happens_in_an_outage_is_told_after_it(
    plane: ControlPlane, kubectl: Kubectl, run: Callable[..., None], tmp_path: Path, node: Node
) -> None:
    if plane.server is None:
        pytest.skip("the API server is not ours to stop")
    run("import time; print('up', flush=True); time.sleep(1); raise SystemExit(7)")
    wait_phase(kubectl, "Running")
    (process,) = node.processes(kubectl.namespace)
    plane.server.signal(signal.SIGSTOP)
    try:
        assert eventually(lambda: not group_exists(process))
    finally:
        plane.server.signal(signal.SIGCONT)
    assert end(kubectl)["exitCode"] == 7
