"""ConfigMaps and Secrets, as files of a volume and as variables of a container."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from pathlib import Path

from dreambooth_operator.local.kubelet import to_host_path
from tests.cluster.client import ApiError, Client, Object
from tests.cluster.node.addresses import hostname, peer, pod_address, rendezvous_port

Files = dict[str, bytes]
REFERENCE = re.compile(r"\$(\$)|\$\(([^)]+)\)")
DNS_NAME = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)+")
RENDEZVOUS = {"MASTER_ADDR": "MASTER_PORT", "PET_MASTER_ADDR": "PET_MASTER_PORT"}


class MissingError(Exception):
    """What a pod refers to is not there (yet). The message is the kubelet's."""


class Sources:
    """Reads the ConfigMaps and Secrets that one pod refers to."""

    def __init__(self, client: Client, pod: Object) -> None:
        self._client = client
        self._pod = pod
        self._namespace = pod["metadata"]["namespace"]

    async def volumes(self) -> dict[str, Files]:
        """The files of each volume; raises `MissingError`."""
        return {
            each["name"]: await self._volume(each) for each in self._pod["spec"].get("volumes", [])
        }

    async def _volume(self, volume: Object) -> Files:
        try:
            if "configMap" in volume:
                return await self._chosen("configmap", volume["configMap"], "name")
            if "secret" in volume:
                return await self._chosen("secret", volume["secret"], "secretName")
            if "emptyDir" in volume:
                return {}
            raise MissingError(
                f"this node has no such volumes: {', '.join(set(volume) - {'name'})}"
            )
        except MissingError as error:
            raise MissingError(
                f'MountVolume.SetUp failed for volume "{volume["name"]}" : {error}'
            ) from None

    async def _chosen(self, kind: str, source: Object, name_field: str) -> Files:
        """The files that a volume takes from its ConfigMap or Secret."""
        optional = source.get("optional", False)
        data = await self._data(kind, source[name_field], optional)
        if "items" not in source:
            return data
        wanted = {item["key"]: item["path"] for item in source["items"]}
        absent = sorted(set(wanted) - set(data))
        if absent and not optional:
            raise MissingError(f"references non-existent {kind} key: {absent[0]}")
        return {path: data[key] for key, path in wanted.items() if key in data}

    async def environment(
        self, container: Object, address: str, host: str, paths: Mapping[str, Path]
    ) -> dict[str, str]:
        """The container's own variables, as they are on this machine; raises `MissingError`."""
        variables: dict[str, str] = {}
        for source in container.get("envFrom", []):
            variables |= await self._all_of(source)
        for variable in container.get("env", []):
            value = await self._value(variable, address, host, variables)
            if value is not None:
                variables[variable["name"]] = value
        return self._on_this_machine(variables, paths)

    async def _all_of(self, source: Object) -> dict[str, str]:
        kind = "configmap" if "configMapRef" in source else "secret"
        reference = source.get("configMapRef") or source["secretRef"]
        data = await self._data(kind, reference["name"], reference.get("optional", False))
        prefix = source.get("prefix", "")
        return {f"{prefix}{key}": value.decode() for key, value in data.items()}

    async def _value(
        self, variable: Object, address: str, host: str, known: Mapping[str, str]
    ) -> str | None:
        source = variable.get("valueFrom", {})
        if "fieldRef" in source:
            return self._field(source["fieldRef"]["fieldPath"], address, host)
        if "configMapKeyRef" in source:
            return await self._key("configmap", source["configMapKeyRef"])
        if "secretKeyRef" in source:
            return await self._key("secret", source["secretKeyRef"])
        if source:
            raise MissingError(f"this node has no such variables: {', '.join(source)}")
        return expand(variable.get("value", ""), known)

    async def _key(self, kind: str, reference: Object) -> str | None:
        optional = reference.get("optional", False)
        data = await self._data(kind, reference["name"], optional)
        if reference["key"] in data:
            return data[reference["key"]].decode()
        if optional:
            return None
        written = {"configmap": "ConfigMap", "secret": "Secret"}[kind]
        place = f"{self._namespace}/{reference['name']}"
        raise MissingError(f"couldn't find key {reference['key']} in {written} {place}")

    async def _data(self, kind: str, name: str, optional: bool) -> Files:
        path = f"api/v1/namespaces/{self._namespace}/{kind}s/{name}"
        try:
            content = await self._client.get(path)
        except ApiError as error:
            if error.code != 404:
                raise
            if optional:
                return {}
            raise MissingError(f'{kind} "{name}" not found') from None
        if kind == "secret":
            return _decoded(content.get("data"))
        texts = {key: text.encode() for key, text in (content.get("data") or {}).items()}
        return texts | _decoded(content.get("binaryData"))

    def _field(self, path: str, address: str, host: str) -> str:
        """The value of a field of the downward API."""
        metadata, spec = self._pod["metadata"], self._pod["spec"]
        keyed = re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path)
        if keyed:
            value: str = metadata.get(keyed[1], {}).get(keyed[2], "")
            return value
        fields: dict[str, str] = {
            "metadata.name": metadata["name"],
            "metadata.namespace": metadata["namespace"],
            "metadata.uid": metadata["uid"],
            "spec.nodeName": spec["nodeName"],
            "spec.serviceAccountName": spec.get("serviceAccountName", ""),
            "status.podIP": address,
            "status.podIPs": address,
            "status.hostIP": host,
            "status.hostIPs": host,
        }
        if path not in fields:
            raise MissingError(f"field {path} is not known on this node")
        return fields[path]

    def _on_this_machine(
        self, environment: Mapping[str, str], paths: Mapping[str, Path]
    ) -> dict[str, str]:
        """Paths, DNS names of peers and the rendezvous port as they are without a container."""
        variables = {
            name: to_host_path(self._resolved(value), paths) for name, value in environment.items()
        }
        for address, port in RENDEZVOUS.items():
            master = peer(environment.get(address, ""), self._pod)
            if master and port in variables:
                variables[port] = str(rendezvous_port(self._namespace, master))
        return variables | {"HOSTNAME": hostname(self._pod)}

    def _resolved(self, text: str) -> str:
        """The text with addresses in place of the DNS names of peers."""

        def address(match: re.Match[str]) -> str:
            host = peer(match[0], self._pod)
            return pod_address(self._namespace, host) if host else match[0]

        return DNS_NAME.sub(address, text)


def expand(text: str, known: Mapping[str, str]) -> str:
    """`$(NAME)` becomes the variable's value where it is known; `$$` is a dollar."""

    def value(match: re.Match[str]) -> str:
        return "$" if match[1] else known.get(match[2], match[0])

    return REFERENCE.sub(value, text)


def _decoded(data: Mapping[str, str] | None) -> Files:
    return {key: base64.b64decode(value) for key, value in (data or {}).items()}
