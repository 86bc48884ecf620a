"""What values add to the operator's pods and to the labels of all objects."""

from __future__ import annotations

from tests.charts.rendering import RELEASE, render, values_of


def test_replicas_are_kept_on_different_nodes_by_default() -> None:
    rendered = render(values_of("minimal", replicas=2))
    anti = rendered.pod["spec"]["affinity"]["podAntiAffinity"]
    (term,) = anti["preferredDuringSchedulingIgnoredDuringExecution"]
    selected = term["podAffinityTerm"]["labelSelector"]["matchLabels"]
    assert selected == rendered.one("Deployment")["spec"]["selector"]["matchLabels"]
    assert term["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"


def test_affinity_of_the_values_counts() -> None:
    assert "affinity" not in render(values_of("minimal")).pod["spec"]
    own = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
    rendered = render(values_of("minimal", replicas=2, affinity=own))
    assert rendered.pod["spec"]["affinity"] == own


def test_environment_and_volumes_are_added() -> None:
    variable = {"name": "TZ", "value": "UTC"}
    volume = {"name": "ca", "configMap": {"name": "company-ca"}}
    mount = {"name": "ca", "mountPath": "/etc/company", "readOnly": True}
    values = values_of(
        "minimal", extraEnv=[variable], extraVolumes=[volume], extraVolumeMounts=[mount]
    )
    spec = render(values).pod["spec"]
    (container,) = spec["containers"]
    assert container["env"] == [variable]
    assert [each["name"] for each in spec["volumes"]] == ["settings", "ca"]
    assert spec["volumes"][1] == volume
    assert container["volumeMounts"][1] == mount


def test_checksum_of_the_settings_cannot_be_replaced() -> None:
    key = "checksum/settings"
    rendered = render(values_of("minimal", podAnnotations={key: "mine", "owner": "me"}))
    annotations = rendered.pod["metadata"]["annotations"]
    assert annotations == {
        key: render(values_of("minimal")).pod["metadata"]["annotations"][key]
    } | {"owner": "me"}


def test_common_labels_are_on_every_object_and_pod() -> None:
    common = {"team": "platform", "app.kubernetes.io/part-of": "images"}
    values = values_of("monitored", commonLabels=common, kueue={}, rbac={"aggregate": True})
    values["metrics"]["prometheusRule"] = {"enabled": True}
    values["dashboards"] = {"enabled": True}
    rendered = render(values)
    for manifest in [*rendered.manifests, *rendered.definitions, rendered.pod]:
        assert common.items() <= manifest["metadata"]["labels"].items()
    selector = rendered.one("Deployment")["spec"]["selector"]["matchLabels"]
    assert common.keys().isdisjoint(selector)


def test_labels_of_one_object_win_over_common_ones() -> None:
    values = values_of("minimal", commonLabels={"team": "all"}, podLabels={"team": "pods"})
    values["service"] = {"labels": {"team": "service"}}
    rendered = render(values)
    assert rendered.pod["metadata"]["labels"]["team"] == "pods"
    assert rendered.one("Service")["metadata"]["labels"]["team"] == "service"
    assert rendered.one("Service")["metadata"]["labels"]["app.kubernetes.io/instance"] == RELEASE
    assert rendered.one("Deployment")["metadata"]["labels"]["team"] == "all"
