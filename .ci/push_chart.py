"""Pushes the chart to an OCI registry: `python .ci/push_chart.py registry.example.com/team`.

It becomes `oci://registry.example.com/team/charts/dreambooth-operator` with the project's version.
Credentials are those of `helm registry login` or `docker login`.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import helm_python as helm

from dreambooth_charts.version import CHART_FILE, version

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Package and push the chart, then print how it is installed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("registry", help="host and folder, such as registry.example.com/team")
    parser.add_argument("--plain-http", action="store_true", help="the registry has no TLS")
    options = parser.parse_args()
    target = f"oci://{options.registry.removeprefix('oci://').rstrip('/')}/charts"
    with tempfile.TemporaryDirectory() as folder:
        archive = helm.package(ROOT / CHART_FILE.parent, destination=folder)
        try:
            helm.push(archive, target, plain_http=options.plain_http)
        except helm.HelmRegistryError as error:
            sys.exit(f"the chart could not be pushed to {target}: {error}")
    name = CHART_FILE.parent.name
    sys.stdout.write(
        f"\nPushed the chart:\nhelm install {name} {target}/{name} --version {version()}\n"
    )


if __name__ == "__main__":
    main()
