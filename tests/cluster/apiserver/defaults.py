"""Defaults of built-in objects, as the API server fills them in (pods, jobs, services, ...).

Only what an object leaves out is filled in. Objects are changed in place: they are the caller's
own copies.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import Any

from tests.cluster.apiserver.resources import Json, Resource

NODE_INFO = (
    *("architecture", "bootID", "containerRuntimeVersion", "kernelVersion", "kubeProxyVersion"),
    *("kubeletVersion", "machineID", "operatingSystem", "osImage", "systemUUID"),
)


def fill_in(resource: Resource, content: Json) -> None:
    """Fill in the defaults of a built-in object."""
    filler = FILLERS.get(resource.qualified)
    if filler:
        filler(content)


def fill(target: Json, **defaults: Any) -> None:
    for key, value in defaults.items():
        if target.get(key) is None:
            target[key] = value


def pod(content: Json) -> None:
    spec = content.setdefault("spec", {})
    pod_spec(spec)
    fill(spec, enableServiceLinks=True)
    for one in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        _requests(one["resources"])
    for condition in (content.get("status") or {}).get("conditions") or []:
        condition.setdefault("lastProbeTime", None)
        condition.setdefault("lastTransitionTime", None)


def pod_spec(spec: Json) -> None:
    fill(
        spec,
        restartPolicy="Always",
        terminationGracePeriodSeconds=30,
        dnsPolicy="ClusterFirst",
        schedulerName="default-scheduler",
        securityContext={},
    )
    if spec.get("serviceAccountName") or spec.get("serviceAccount"):
        account = spec.get("serviceAccountName") or spec["serviceAccount"]
        fill(spec, serviceAccountName=account, serviceAccount=account)
    for one in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        container(one)
    for volume in spec.get("volumes") or []:
        _volume(volume)


def container(content: Json) -> None:
    image = content.get("image", "")
    untagged = ":" not in image.rpartition("/")[2] and "@" not in image
    always = untagged or image.endswith(":latest")
    fill(
        content,
        resources={},
        terminationMessagePath="/dev/termination-log",
        terminationMessagePolicy="File",
        imagePullPolicy="Always" if always else "IfNotPresent",
    )
    for port in content.get("ports") or []:
        fill(port, protocol="TCP")
    for variable in content.get("env") or []:
        reference = (variable.get("valueFrom") or {}).get("fieldRef")
        if reference:
            fill(reference, apiVersion="v1")
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if content.get(name):
            _probe(content[name])


def _requests(resources: Json) -> None:
    """What a container is limited to, it asks for, where it does not say otherwise."""
    if resources.get("limits"):
        resources["requests"] = resources["limits"] | (resources.get("requests") or {})


def _probe(content: Json) -> None:
    fill(content, timeoutSeconds=1, periodSeconds=10, successThreshold=1, failureThreshold=3)
    if content.get("httpGet"):
        fill(content["httpGet"], path="/", scheme="HTTP")


def _volume(content: Json) -> None:
    for kind in ("configMap", "secret", "projected", "downwardAPI"):
        if content.get(kind) is not None:
            fill(content[kind], defaultMode=420)
    for source in (content.get("projected") or {}).get("sources") or []:
        if source.get("serviceAccountToken"):
            fill(source["serviceAccountToken"], expirationSeconds=3600)
    if len(content) == 1:
        content["emptyDir"] = {}


def job(content: Json) -> None:
    spec = content.setdefault("spec", {})
    fill(spec, completionMode="NonIndexed", suspend=False, manualSelector=False)
    if spec.get("completions") is None and spec.get("parallelism") is None:
        fill(spec, completions=1)
    fill(spec, parallelism=1)
    per_index = spec.get("backoffLimitPerIndex") is not None
    fill(spec, backoffLimit=2147483647 if per_index else 6)
    policy = spec.get("podFailurePolicy")
    fill(spec, podReplacementPolicy="Failed" if policy else "TerminatingOrFailed")
    for rule in (policy or {}).get("rules") or []:
        for condition in rule.get("onPodConditions") or []:
            fill(condition, status="True")
    template = spec.setdefault("template", {})
    pod_spec(template.setdefault("spec", {}))


def secret(content: Json) -> None:
    fill(content, type="Opaque")
    texts = content.pop("stringData", None) or {}
    if texts:
        encoded = {key: b64encode(text.encode()).decode() for key, text in texts.items()}
        content["data"] = (content.get("data") or {}) | encoded


def service(content: Json) -> None:
    spec = content.setdefault("spec", {})
    fill(spec, sessionAffinity="None", type="ClusterIP", internalTrafficPolicy="Cluster")
    for port in spec.get("ports") or []:
        fill(port, protocol="TCP", targetPort=port.get("port"))
    if spec.get("clusterIP"):
        fill(spec, clusterIPs=[spec["clusterIP"]])
    if spec.get("clusterIP") == "None" and not spec.get("selector"):
        fill(spec, ipFamilies=["IPv4", "IPv6"], ipFamilyPolicy="RequireDualStack")
    fill(spec, ipFamilies=["IPv4"], ipFamilyPolicy="SingleStack")


def deployment(content: Json) -> None:
    spec = content.setdefault("spec", {})
    rolling = {"type": "RollingUpdate"}
    fill(spec, replicas=1, revisionHistoryLimit=10, progressDeadlineSeconds=600, strategy=rolling)
    if spec["strategy"].get("type", "RollingUpdate") == "RollingUpdate":
        fill(spec["strategy"], type="RollingUpdate", rollingUpdate={})
        fill(spec["strategy"]["rollingUpdate"], maxSurge="25%", maxUnavailable="25%")
    pod_spec(spec.setdefault("template", {}).setdefault("spec", {}))


def namespace(content: Json) -> None:
    fill(content, spec={"finalizers": ["kubernetes"]})
    fill(content["metadata"], labels={})
    name = content["metadata"].get("name", "")
    fill(content["metadata"]["labels"], **{"kubernetes.io/metadata.name": name})


def event(content: Json) -> None:
    fill(content, source={}, reportingComponent="", reportingInstance="")
    for name in ("eventTime", "firstTimestamp", "lastTimestamp"):
        content.setdefault(name, None)


def node(content: Json) -> None:
    status = content.setdefault("status", {})
    fill(status, daemonEndpoints={"kubeletEndpoint": {"Port": 0}}, nodeInfo={})
    fill(status["nodeInfo"], **dict.fromkeys(NODE_INFO, ""))
    for condition in status.get("conditions") or []:
        condition.setdefault("lastHeartbeatTime", None)
        condition.setdefault("lastTransitionTime", None)


def role_binding(content: Json) -> None:
    for subject in content.get("subjects") or []:
        if subject.get("kind") in ("User", "Group"):
            fill(subject, apiGroup="rbac.authorization.k8s.io")


def custom_resource_definition(content: Json) -> None:
    names = content["spec"]["names"]
    fill(names, singular=names["kind"].lower(), listKind=f"{names['kind']}List")
    fill(content["spec"], conversion={"strategy": "None"})


FILLERS: dict[str, Callable[[Json], None]] = {
    "pods": pod,
    "jobs.batch": job,
    "services": service,
    "events": event,
    "nodes": node,
    "secrets": secret,
    "namespaces": namespace,
    "deployments.apps": deployment,
    "rolebindings.rbac.authorization.k8s.io": role_binding,
    "clusterrolebindings.rbac.authorization.k8s.io": role_binding,
    "priorityclasses.scheduling.k8s.io": lambda content: fill(
        content, value=0, preemptionPolicy="PreemptLowerPriority"
    ),
    "networkpolicies.networking.k8s.io": lambda content: fill(
        content["spec"], policyTypes=["Ingress"]
    ),
    "customresourcedefinitions.apiextensions.k8s.io": custom_resource_definition,
}
