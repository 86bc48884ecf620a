"""HTML documents from the templates: each is one file, loads nothing, and trusts no text in it."""

import base64
import hashlib
from collections.abc import Callable, Mapping
from importlib import resources
from types import MappingProxyType
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def render_document(
    template: str,
    values: Mapping[str, Any],
    *,
    script: str = "",
    filters: Mapping[str, Callable[..., Any]] = MappingProxyType({}),
) -> str:
    """A template with these values, which are escaped.

    It also has `style`, `script` and `policy`, its Content-Security-Policy.

    Args:
        template: Its file.
        values: By name.
        script: The file of its script; empty: it has none.
        filters: Functions of the template, by name.
    """
    style, code = _read("style.css"), _read(script) if script else ""
    environment = Environment(
        loader=PackageLoader("dreambooth_report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(template).render(
        values, style=Markup(style), script=Markup(code), policy=_policy(style, code)
    )


def _read(name: str) -> str:
    return (resources.files("dreambooth_report") / "template" / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """The Content-Security-Policy: only this style, this script and embedded pictures."""
    scripts = f" script-src {_source(script)};" if script else ""
    return (
        f"default-src 'none'; img-src data:; style-src {_source(style)};{scripts}"
        " base-uri 'none'; form-action 'none'"
    )


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
