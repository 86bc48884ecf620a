"""Writes Kubernetes objects as YAML that people can read, and kubectl and Python read alike."""

import re
from collections.abc import Iterable

import yaml

from dreambooth_operator.manifests.names import Manifest

NUMBER = re.compile(r"[-+]?[.0-9][.0-9_]*([eE][-+]?[0-9]+)?|0[box][0-9a-fA-F_]+")
"""Quoted always: PyYAML takes 1e4 for text, kubectl for a number."""


class _ManifestDumper(yaml.SafeDumper):
    """SafeDumper that writes multi-line strings as literal blocks and never uses anchors."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - PyYAML calls it so
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else "'" if NUMBER.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_ManifestDumper.add_representer(str, _text)


def to_yaml(manifests: Iterable[Manifest]) -> str:
    """The objects as YAML documents (`---` between them), with their fields in the order given."""
    return yaml.dump_all(
        manifests,
        Dumper=_ManifestDumper,
        sort_keys=False,
        allow_unicode=True,
        width=100,
    )
