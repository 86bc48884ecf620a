"""The chart as Helm renders it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.parsing import yamljson

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "dreambooth-operator"
VALUES = Path(__file__).parent / "values"
SETS = sorted(VALUES.glob("*.yaml"))
RELEASE = "dreambooth-operator"
NAMESPACE = "dreambooth-system"
DEFINITION = "templates/crds.yaml"

Values = dict[str, Any]
Manifest = dict[str, Any]


@dataclass(frozen=True)
class Rendered:
    """What a release would consist of."""

    templates: dict[str, str]
    """The text of each template that rendered to something, by its path in the chart."""
    notes: str

    @property
    def manifests(self) -> list[Manifest]:
        """Every object but the definition, which is large."""
        return [m for path in self.templates if path != DEFINITION for m in self._read(path)]

    @property
    def pod(self) -> Manifest:
        """The operator's pod, as its Deployment has it."""
        template: Manifest = self.one("Deployment")["spec"]["template"]
        return template

    @property
    def definitions(self) -> list[Manifest]:
        """The CustomResourceDefinition, if there is one."""
        return self._read(DEFINITION)

    def _read(self, path: str) -> list[Manifest]:
        return [m for m in yamljson.documents(self.templates.get(path, "")) if m]

    def of_kind(self, kind: str) -> list[Manifest]:
        return [manifest for manifest in self.manifests if manifest["kind"] == kind]

    def one(self, kind: str, component: str = "operator") -> Manifest:
        """The object of a kind that belongs to a component, such as `serving`."""
        label = "app.kubernetes.io/component"
        found = [m for m in self.of_kind(kind) if m["metadata"]["labels"][label] == component]
        (manifest,) = found
        return manifest


def values_of(name: str, **changed: Any) -> Values:
    """A set of values by name, with top-level values changed."""
    values: Values = yaml.safe_load((VALUES / f"{name}.yaml").read_text())
    return values | changed


def render(values: Values, chart: Path = CHART) -> Rendered:
    """Render a chart; raises `helm.HelmError` as `helm template` would fail."""
    with helm.Chart.load(chart) as loaded:
        found = loaded.render(values, name=RELEASE, namespace=NAMESPACE)
    templates = {path.partition("/")[2]: text for path, text in sorted(found.items())}
    notes = templates.pop("templates/NOTES.txt")
    return Rendered({path: text for path, text in templates.items() if text.strip()}, notes)


def quickstart() -> DreamBoothJob:
    """A job, for what its pods look like."""
    text = (ROOT / "examples" / "quickstart.yaml").read_text()
    return DreamBoothJob.model_validate(yaml.safe_load(text))
