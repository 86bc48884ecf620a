"""Requests that are sent to Kubernetes' own API server and to the double alike.

Each scenario is a list of requests about a namespace of its own, called NS here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Body = dict[str, Any] | list[Any]

JSON = "application/json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
METADATA = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json"
METADATA_LIST = METADATA.replace("Metadata;", "MetadataList;")

CORE = NAMESPACE = "/api/v1/namespaces/NS"
PODS, CONFIG_MAPS = f"{CORE}/pods", f"{CORE}/configmaps"
SERVICES, SECRETS = f"{CORE}/services", f"{CORE}/secrets"
JOBS = "/apis/batch/v1/namespaces/NS/jobs"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/NS/leases"
DREAM_BOOTH_JOBS = "/apis/dreambooth.dev/v1alpha1/namespaces/NS/dreamboothjobs"


class Step(NamedTuple):
    """One request."""

    method: str
    path: str
    body: Body | bytes | None = None
    content_type: str = JSON
    accept: str = JSON


def get(path: str, accept: str = JSON) -> Step:
    return Step("GET", path, accept=accept)


def post(path: str, body: Body | bytes) -> Step:
    return Step("POST", path, body)


def put(path: str, body: Body) -> Step:
    return Step("PUT", path, body)


def patch(path: str, body: Body, content_type: str = MERGE) -> Step:
    return Step("PATCH", path, body, content_type)


def delete(path: str, **options: Any) -> Step:
    return Step("DELETE", path, options or None)


def apply(path: str, manager: str, body: Body, *, force: bool = False) -> Step:
    forced = "&force=true" if force else ""
    return Step("PATCH", f"{path}?fieldManager={manager}{forced}", body, APPLY)


def named(name: str, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, **metadata}}


CONFIG_MAP = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "c", "labels": {"a": "b"}},
    "data": {"x": "1"},
}
ACCOUNT = {"serviceAccountName": "default", "automountServiceAccountToken": False}
POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "p"},
    "spec": {
        **ACCOUNT,
        "containers": [
            {
                "name": "c",
                "image": "i:1",
                "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "1"}},
                "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                "readinessProbe": {"httpGet": {"port": 80}},
            }
        ],
        "volumes": [{"name": "e"}, {"name": "c", "configMap": {"name": "c"}}],
    },
}
BOUND_POD = {**POD, "spec": POD["spec"] | {"nodeName": "n"}}
BINDING = {
    "apiVersion": "v1",
    "kind": "Binding",
    "metadata": {"name": "p"},
    "target": {"kind": "Node", "name": "n1"},
}
EVICTION = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}
TEMPLATE = {
    "metadata": {"labels": {"x": "y"}},
    "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]},
}
DISRUPTED = {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget"}]}
DREAM_BOOTH_JOB: dict[str, Any] = {
    "apiVersion": "dreambooth.dev/v1alpha1",
    "kind": "DreamBoothJob",
    "metadata": {"name": "d"},
    "spec": {
        "model": {"source": "hf://owner/model"},
        "subjects": [{"identifier": "sks", "classNoun": "dog", "images": "s3://bucket/dog"}],
        "output": "s3://bucket/results",
    },
}


def pod(name: str, **spec: Any) -> Body:
    account = {
        key: POD["spec"][key] for key in ("serviceAccountName", "automountServiceAccountToken")
    }
    return {"apiVersion": "v1", "kind": "Pod", **named(name), "spec": account | spec}


def job(name: str = "j", template: Body = TEMPLATE, **spec: Any) -> dict[str, Any]:
    head = {"apiVersion": "batch/v1", "kind": "Job", **named(name)}
    return {**head, "spec": {"template": template, **spec}}


def indexed(name: str = "j", nodes: int = 2, **spec: Any) -> dict[str, Any]:
    return job(name, completions=nodes, parallelism=nodes, completionMode="Indexed", **spec)


def placed(**selector: str) -> Body:
    """A change of where a Job's pods go."""
    return {"spec": {"template": {"spec": {"nodeSelector": selector}}}}


def dream_booth_job(**spec: Any) -> dict[str, Any]:
    return {**DREAM_BOOTH_JOB, "spec": DREAM_BOOTH_JOB["spec"] | spec}


def condition(kind: str, status: str) -> Body:
    time = "2026-01-01T00:00:00Z"
    about = {"reason": "R", "message": "", "lastTransitionTime": time}
    return {"type": kind, "status": status, **about}


def partial(**fields: Any) -> Body:
    """A DreamBoothJob with some fields alone, as a second manager applies it."""
    head = {key: DREAM_BOOTH_JOB[key] for key in ("apiVersion", "kind", "metadata")}
    return {**head, **fields}


APPLIED_TEMPLATE: dict[str, Any] = {
    "metadata": {"labels": {"a": "b"}},
    "spec": {
        "restartPolicy": "Never",
        "containers": [
            {
                "name": "c",
                "image": "i",
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "ports": [{"containerPort": 1, "name": "m"}],
            }
        ],
        "volumes": [{"name": "v", "emptyDir": {}}],
    },
}
SELECTED_TEMPLATE = {
    **APPLIED_TEMPLATE,
    "spec": APPLIED_TEMPLATE["spec"] | {"nodeSelector": {"g": "h"}},
}


def service(name: str, ports: list[Any], **spec: Any) -> Body:
    head = {"apiVersion": "v1", "kind": "Service", **named(name)}
    return {**head, "spec": {"clusterIP": "None", "ports": ports, **spec}}


SCENARIOS: dict[str, list[Step]] = {
    "pod": [
        post(PODS, POD),
        get(f"{PODS}/p"),
        get(PODS),
        patch(
            f"{PODS}/p/status",
            {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}},
            STRATEGIC,
        ),
        patch(
            f"{PODS}/p/status",
            {
                "status": {"conditions": [{"type": "Other", "status": "True"}]},
                "metadata": {"labels": {"q": "r"}},
            },
            STRATEGIC,
        ),
        patch(f"{PODS}/p", {"spec": {"terminationGracePeriodSeconds": 5}}),
        patch(f"{PODS}/p", {"metadata": {"labels": {"q": "s"}}, "status": {"phase": "Failed"}}),
        patch(f"{PODS}/p", {"spec": {"containers": [{"name": "c", "image": "i:2"}]}}, STRATEGIC),
        post(f"{PODS}/p/binding", BINDING),
        post(f"{PODS}/p/binding", BINDING),
        get(f"{PODS}/p"),
        post(f"{PODS}/p/eviction", EVICTION),
        get(f"{PODS}/p"),
        delete(f"{PODS}/p", gracePeriodSeconds=0),
        get(f"{PODS}/p"),
        delete(f"{PODS}/p"),
    ],
    "pod-with-grace": [
        post(PODS, BOUND_POD),
        delete(f"{PODS}/p"),
        delete(f"{PODS}/p"),
        patch(
            f"{PODS}/p",
            [{"op": "add", "path": "/metadata/finalizers", "value": ["a.b/c"]}],
            JSON_PATCH,
        ),
        delete(f"{PODS}/p?gracePeriodSeconds=3"),
        delete(f"{PODS}/p?gracePeriodSeconds=0"),
        get(f"{PODS}/p"),
    ],
    "pod-with-finalizer": [
        post(PODS, {**BOUND_POD, **named("p", finalizers=["batch.kubernetes.io/job-tracking"])}),
        delete(f"{PODS}/p?gracePeriodSeconds=0"),
        patch(f"{PODS}/p", {"metadata": {"finalizers": ["x.y/z"]}}),
        patch(f"{PODS}/p", {"metadata": {"finalizers": None}}),
        get(f"{PODS}/p"),
    ],
    "pod-that-ended": [
        post(PODS, BOUND_POD),
        patch(f"{PODS}/p/status", {"status": {"phase": "Failed"}}),
        delete(f"{PODS}/p"),
        get(f"{PODS}/p"),
    ],
    "pod-refused": [
        post(PODS, pod("p")),
        post(PODS, pod("p", containers=[{"name": "c"}])),
        post(PODS, pod("p", containers=[{"image": "c"}])),
        post(PODS, pod("p", containers=[{"name": "c", "image": 3}])),
        post(PODS, pod("p", containers=[{"name": "c", "image": "i", "foo": 3}])),
        post(
            f"{PODS}?fieldValidation=Strict",
            pod("q", containers=[{"name": "c", "image": "i", "foo": 3}]),
        ),
        post(PODS, {**POD, **named("labels", labels={"a b": "c"})}),
        post(PODS, pod("no-class", priorityClassName="no", containers=POD["spec"]["containers"])),
    ],
    "job": [
        post(JOBS, job()),
        post(
            JOBS,
            indexed(
                "i",
                backoffLimit=0,
                suspend=True,
                podFailurePolicy={
                    "rules": [
                        DISRUPTED,
                        {
                            "action": "FailJob",
                            "onExitCodes": {"operator": "In", "values": [3, 4]},
                        },
                    ]
                },
            ),
        ),
        get(JOBS),
        patch(f"{JOBS}/i", placed(a="b")),
        patch(f"{JOBS}/i", {"spec": {"template": {"metadata": {"labels": {"n": "m"}}}}}),
        patch(f"{JOBS}/i", {"spec": {"template": {"spec": {"priorityClassName": "x"}}}}),
        patch(
            f"{JOBS}/i",
            {
                "spec": {
                    "template": {
                        "spec": {
                            "containers": [
                                {"name": "c", "image": "i", "resources": {"limits": {"cpu": "2"}}}
                            ]
                        }
                    }
                }
            },
        ),
        patch(f"{JOBS}/i", {"spec": {"suspend": False}}),
        patch(f"{JOBS}/i", placed(a="c")),
        patch(f"{JOBS}/i", {"spec": {"completions": 3}}),
        patch(f"{JOBS}/i", {"spec": {"completions": 3, "parallelism": 3}}),
        patch(f"{JOBS}/i", {"spec": {"parallelism": 1}}),
        patch(f"{JOBS}/i", {"spec": {"backoffLimit": 4, "ttlSecondsAfterFinished": 4}}),
        patch(f"{JOBS}/i", {"spec": {"podFailurePolicy": None}}),
        patch(
            f"{JOBS}/i/status",
            {
                "status": {"active": 1, "startTime": "2026-01-01T00:00:00Z"},
                "spec": {"suspend": True},
            },
        ),
        patch(f"{JOBS}/i", {"spec": {"suspend": True}}),
        patch(f"{JOBS}/i", placed(a="d")),
        delete(f"{JOBS}/i"),
        delete(f"{JOBS}/j", propagationPolicy="Foreground"),
        delete(f"{JOBS}/j", propagationPolicy="Background"),
        get(f"{JOBS}/j"),
    ],
    "job-refused": [
        post(JOBS, job("x" * 64)),
        post(JOBS, indexed("x" * 62)),
        post(JOBS, indexed("a.b")),
        post(JOBS, job(completionMode="Indexed")),
        post(JOBS, job(template={"spec": {"containers": [{"name": "c", "image": "i"}]}})),
        post(JOBS, job(backoffLimit=-1, parallelism=-1)),
        post(JOBS, job(backoffLimit="3")),
        post(JOBS, {"apiVersion": "batch/v1", "kind": "Job", **named("q")}),
        post(
            JOBS,
            job(
                template={**TEMPLATE, "spec": TEMPLATE["spec"] | {"restartPolicy": "OnFailure"}},
                podFailurePolicy={"rules": [DISRUPTED]},
            ),
        ),
        post(
            JOBS,
            job(
                podReplacementPolicy="TerminatingOrFailed",
                podFailurePolicy={
                    "rules": [
                        {"action": "Foo"},
                        {
                            "action": "FailJob",
                            "onExitCodes": {
                                "operator": "In",
                                "values": [0, 4, 3],
                                "containerName": "d",
                            },
                        },
                    ]
                },
            ),
        ),
        post(JOBS, {**job(), **named("l", labels={"a": "b!"})}),
        post(JOBS, {**job(), **named("f", finalizers=["x"])}),
        post(
            JOBS,
            {
                **job(),
                **named(
                    "o",
                    ownerReferences=[
                        {
                            "apiVersion": "v1",
                            "kind": "ConfigMap",
                            "name": name,
                            "uid": name,
                            "controller": True,
                        }
                        for name in ("x", "y")
                    ],
                ),
            },
        ),
        post(
            JOBS,
            {
                **job(),
                **named("o", ownerReferences=[{"apiVersion": "v1", "kind": "", "name": "x"}]),
            },
        ),
    ],
    "config-map": [
        post(CONFIG_MAPS, CONFIG_MAP),
        post(CONFIG_MAPS, CONFIG_MAP),
        put(f"{CONFIG_MAPS}/c", {**CONFIG_MAP, "data": {"x": "2"}}),
        put(f"{CONFIG_MAPS}/c", {**CONFIG_MAP, **named("c", resourceVersion="1")}),
        put(f"{CONFIG_MAPS}/c", {**CONFIG_MAP, **named("c", uid="1")}),
        put(f"{CONFIG_MAPS}/d", CONFIG_MAP),
        patch(f"{CONFIG_MAPS}/c", {"data": {"y": "2"}}),
        patch(f"{CONFIG_MAPS}/c", {"metadata": {"uid": "other"}}),
        patch(f"{CONFIG_MAPS}/c", {"data": {"y": 2}}),
        patch(f"{CONFIG_MAPS}/c", [{"op": "test", "path": "/data/y", "value": "3"}], JSON_PATCH),
        patch(f"{CONFIG_MAPS}/c", [{"op": "remove", "path": "/data/zz"}], JSON_PATCH),
        patch(f"{CONFIG_MAPS}/c", [{"op": "replace", "path": "/data/y", "value": "3"}], JSON_PATCH),
        patch(f"{CONFIG_MAPS}/zz", {"data": {"y": "2"}}),
        patch(f"{CONFIG_MAPS}/c", {"metadata": {"name": "other"}}),
        delete(f"{CONFIG_MAPS}/c", preconditions={"uid": "x"}),
        delete(f"{CONFIG_MAPS}/c", propagationPolicy="Foreground"),
        get(f"{CONFIG_MAPS}/c"),
        patch(f"{CONFIG_MAPS}/c", {"metadata": {"finalizers": []}}),
        get(f"{CONFIG_MAPS}/c"),
    ],
    "selectors": [
        post(CONFIG_MAPS, CONFIG_MAP),
        get(f"{CONFIG_MAPS}?labelSelector=a%3Db&fieldSelector=metadata.name%3Dc"),
        get(f"{CONFIG_MAPS}?labelSelector=a+in+(c,b),a"),
        get(f"{CONFIG_MAPS}?labelSelector=a+notin+(b)"),
        get(f"{CONFIG_MAPS}?labelSelector=a!%3Db"),
        get(f"{CONFIG_MAPS}?fieldSelector=metadata.name!%3Dc,metadata.namespace%3DNS"),
        get(f"{CONFIG_MAPS}?fieldSelector=data.x%3Dc"),
        get(f"{PODS}?fieldSelector=spec.nodeName%3Dn,status.phase!%3DFailed"),
        Step("DELETE", f"{CONFIG_MAPS}?labelSelector=a"),
    ],
    "requests-that-are-wrong": [
        post(CONFIG_MAPS, b"{zz"),
        post(CONFIG_MAPS, {"metadata": {}}),
        post(CONFIG_MAPS, {**named("y"), "data": {"a": 1}}),
        post(CONFIG_MAPS, {**CONFIG_MAP, **named("x", namespace="other")}),
        post(CONFIG_MAPS.replace("NS", "no-such-namespace"), CONFIG_MAP),
        post(f"{CONFIG_MAPS}/x", CONFIG_MAP),
        post(f"{CONFIG_MAPS}?dryRun=All", CONFIG_MAP),
        get(f"{CONFIG_MAPS}/c"),
        get(f"{CORE}/nothing"),
        get("/apis/no.such.group/v1/nothing"),
        get(f"{CONFIG_MAPS}?resourceVersion=x"),
        patch(f"{CONFIG_MAPS}/x", {}, JSON),
        post(SECRETS, {**named("s"), "data": {"a": "!!"}}),
    ],
    "services": [
        post(SERVICES, service("s", [{"port": 80, "name": "x"}], selector={"a": "b"})),
        patch(f"{SERVICES}/s", {"spec": {"publishNotReadyAddresses": True}}),
        patch(f"{SERVICES}/s", {"spec": {"clusterIP": "10.0.0.7"}}),
        post(SERVICES, service("t", [{"port": 80}, {"port": 81}])),
        post(SERVICES, service("u", [])),
        delete(f"{SERVICES}/s"),
    ],
    "other-kinds": [
        post(SECRETS, {**named("s"), "stringData": {"a": "b"}}),
        post(f"{CORE}/serviceaccounts", named("sa")),
        delete(f"{CORE}/serviceaccounts/sa"),
        post(
            f"{CORE}/events",
            {
                **named("e"),
                "involvedObject": {"kind": "Pod", "namespace": "NS", "name": "p"},
                "reason": "R",
                "message": "m",
                "type": "Normal",
                "count": 1,
            },
        ),
        get(f"{CORE}/events?fieldSelector=involvedObject.name%3Dp,reason%3DR,type%3DNormal"),
        post(LEASES, {**named("l"), "spec": {"holderIdentity": "me", "leaseDurationSeconds": 15}}),
        put(f"{LEASES}/l", {**named("l"), "spec": {"holderIdentity": "you"}}),
        post(
            "/apis/apps/v1/namespaces/NS/deployments",
            {
                **named("d"),
                "spec": {
                    "selector": {"matchLabels": {"x": "y"}},
                    "template": {**TEMPLATE, "spec": {"containers": [{"name": "c", "image": "i"}]}},
                },
            },
        ),
        post(
            "/apis/policy/v1/namespaces/NS/poddisruptionbudgets",
            {**named("b"), "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}},
        ),
        post(
            "/apis/networking.k8s.io/v1/namespaces/NS/networkpolicies",
            {**named("n"), "spec": {"podSelector": {}}},
        ),
        post(
            "/apis/rbac.authorization.k8s.io/v1/namespaces/NS/roles",
            {**named("r"), "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]},
        ),
        post("/apis/scheduling.k8s.io/v1/priorityclasses", {**named("NS"), "value": 5}),
        post(PODS, {**POD, "spec": POD["spec"] | {"priorityClassName": "NS"}}),
        delete("/apis/scheduling.k8s.io/v1/priorityclasses/NS"),
        post("/api/v1/nodes", named("NS")),
        patch(
            "/api/v1/nodes/NS/status",
            {"status": {"conditions": [{"type": "Ready", "status": "True"}]}},
            STRATEGIC,
        ),
        patch("/api/v1/nodes/NS", {"spec": {"unschedulable": True}}, STRATEGIC),
        delete("/api/v1/nodes/NS"),
    ],
    "namespace": [
        get(NAMESPACE),
        delete(NAMESPACE),
        delete(NAMESPACE),
        post(CONFIG_MAPS, CONFIG_MAP),
        patch(NAMESPACE, {"metadata": {"labels": {"a": "b"}}}),
        put(
            f"{NAMESPACE}/finalize",
            {"apiVersion": "v1", "kind": "Namespace", **named("NS"), "spec": {}},
        ),
        get(NAMESPACE),
    ],
    "tables": [
        post(PODS, POD),
        get(PODS, TABLE),
        post(JOBS, job()),
        get(JOBS, TABLE),
        get(f"{SERVICES}?includeObject=None", TABLE),
        get(PODS, METADATA_LIST),
        get(f"{PODS}/p", METADATA),
        post(DREAM_BOOTH_JOBS, DREAM_BOOTH_JOB),
        get(DREAM_BOOTH_JOBS, TABLE),
    ],
    "dream-booth-job": [
        post(DREAM_BOOTH_JOBS, DREAM_BOOTH_JOB),
        get(DREAM_BOOTH_JOBS),
        patch(f"{DREAM_BOOTH_JOBS}/d", {"status": {"phase": "Running"}}),
        patch(
            f"{DREAM_BOOTH_JOBS}/d/status",
            {
                "status": {"phase": "Running"},
                "spec": {"output": "s3://x/y"},
                "metadata": {"labels": {"a": "b"}},
            },
        ),
        patch(f"{DREAM_BOOTH_JOBS}/d/status", {"status": {"phase": "Nope", "foo": 1}}),
        patch(f"{DREAM_BOOTH_JOBS}/d/status", {"status": {"phase": "Running"}}),
        put(f"{DREAM_BOOTH_JOBS}/d", DREAM_BOOTH_JOB),
        patch(f"{DREAM_BOOTH_JOBS}/d", {"spec": {"suspend": True}}),
        patch(f"{DREAM_BOOTH_JOBS}/d", {"spec": {"training": {"steps": 3}}}),
        patch(f"{DREAM_BOOTH_JOBS}/d", {"spec": {"runtime": {"nodes": 2}}}),
        patch(f"{DREAM_BOOTH_JOBS}/d", {"spec": {}}, STRATEGIC),
        patch(f"{DREAM_BOOTH_JOBS}/d", {"spec": {"zz": 1}}),
        patch(f"{DREAM_BOOTH_JOBS}/d?fieldValidation=Strict", {"spec": {"zz": 1}}),
        patch(f"{DREAM_BOOTH_JOBS}/d", {"metadata": {"finalizers": ["a.b/c"]}}),
        delete(f"{DREAM_BOOTH_JOBS}/d"),
        delete(f"{DREAM_BOOTH_JOBS}/d"),
        patch(f"{DREAM_BOOTH_JOBS}/d", {"metadata": {"finalizers": ["a.b/c", "d.e/f"]}}),
        patch(f"{DREAM_BOOTH_JOBS}/d", {"metadata": {"finalizers": None}}),
        get(f"{DREAM_BOOTH_JOBS}/d"),
    ],
    "apply-config-map": [
        apply(f"{CONFIG_MAPS}/c", "one", {**CONFIG_MAP, "data": {"x": "1", "y": "2"}}),
        apply(f"{CONFIG_MAPS}/c", "one", {**CONFIG_MAP, "data": {"x": "1", "y": "2"}}),
        apply(f"{CONFIG_MAPS}/c", "two", {**CONFIG_MAP, "data": {"x": "2"}}),
        apply(f"{CONFIG_MAPS}/c", "two", {**CONFIG_MAP, "data": {"x": "2", "y": "3"}}),
        apply(f"{CONFIG_MAPS}/c", "two", {**CONFIG_MAP, "data": {"x": "1", "z": "3"}}),
        apply(f"{CONFIG_MAPS}/c", "one", {**CONFIG_MAP, "data": {"y": "2"}}),
        patch(f"{CONFIG_MAPS}/c?fieldManager=editor", {"data": {"y": "7"}}),
        apply(f"{CONFIG_MAPS}/c", "one", {**CONFIG_MAP, "data": {"y": "2"}}),
        apply(f"{CONFIG_MAPS}/c", "one", {**CONFIG_MAP, "data": {"y": "2"}}, force=True),
        apply(f"{CONFIG_MAPS}/c", "two", {"apiVersion": "v1", "kind": "ConfigMap", **named("c")}),
        get(f"{CONFIG_MAPS}/c"),
        apply(f"{CONFIG_MAPS}/c", "", CONFIG_MAP),
        apply(f"{CONFIG_MAPS}/c", "one", named("c")),
        apply(f"{CONFIG_MAPS}/c", "one", {**CONFIG_MAP, **named("d")}),
        apply(f"{CONFIG_MAPS}/c", "one", {**CONFIG_MAP, "foo": 1}),
        apply(f"{CONFIG_MAPS}/new", "one", {**CONFIG_MAP, **named("new", uid="x")}),
        apply(f"{CONFIG_MAPS}/c", "one", {**CONFIG_MAP, **named("c", uid="x")}, force=True),
    ],
    "apply-job": [
        apply(f"{JOBS}/j", "op", indexed(suspend=True, template=SELECTED_TEMPLATE)),
        apply(f"{JOBS}/j", "op", indexed(suspend=False, template=APPLIED_TEMPLATE)),
        patch(f"{JOBS}/j?fieldManager=kueue", {"spec": {"suspend": True}}),
        apply(f"{JOBS}/j", "op", indexed(suspend=False, template=APPLIED_TEMPLATE)),
        apply(f"{JOBS}/j", "op", indexed(template=APPLIED_TEMPLATE)),
        patch(f"{JOBS}/j/status?fieldManager=controller", {"status": {"active": 1}}),
        apply(
            f"{JOBS}/j/status",
            "other",
            {"apiVersion": "batch/v1", "kind": "Job", **named("j"), "status": {"active": 2}},
        ),
    ],
    "apply-pod": [
        apply(f"{PODS}/p", "op", POD),
        apply(
            f"{PODS}/p",
            "op",
            {
                **POD,
                **named(
                    "p",
                    labels={"a": "b"},
                    annotations={"q": "r"},
                    finalizers=["a.b/c"],
                    ownerReferences=[
                        {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "u"}
                    ],
                ),
            },
        ),
        apply(f"{PODS}/p", "op", POD),
    ],
    "apply-service": [
        apply(
            f"{SERVICES}/s",
            "op",
            service("s", [{"name": "x", "port": 80}], publishNotReadyAddresses=True),
        ),
        apply(f"{SERVICES}/s", "op", service("s", [{"name": "y", "port": 81}])),
    ],
    "apply-dream-booth-job": [
        apply(f"{DREAM_BOOTH_JOBS}/d", "kubectl", DREAM_BOOTH_JOB),
        apply(f"{DREAM_BOOTH_JOBS}/d", "kubectl", DREAM_BOOTH_JOB),
        apply(
            f"{DREAM_BOOTH_JOBS}/d/status",
            "op",
            partial(
                status={
                    "phase": "Running",
                    "conditions": [condition("A", "True"), condition("B", "True")],
                }
            ),
        ),
        apply(
            f"{DREAM_BOOTH_JOBS}/d/status",
            "op",
            partial(status={"phase": "Running", "conditions": [condition("B", "False")]}),
        ),
        apply(f"{DREAM_BOOTH_JOBS}/d", "kubectl", dream_booth_job(zz=1)),
        apply(f"{DREAM_BOOTH_JOBS}/d", "other", partial(spec={"suspend": True})),
        apply(
            f"{DREAM_BOOTH_JOBS}/d",
            "other",
            partial(spec={"output": "s3://b/c", "model": {"source": "hf://a/b"}}),
        ),
    ],
}
