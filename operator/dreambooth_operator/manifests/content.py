"""Whether a Service or ConfigMap still has the content that the operator gave it.

Its hash is an annotation. So an edit shows, and a new version of the operator, which may render the
same job differently, does not change what the pods of a running attempt read.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from dreambooth_api.schema.base import GROUP
from dreambooth_operator.manifests.names import Manifest
from dreambooth_operator.manifests.pods import CONFIG_FILE

HASH_ANNOTATION = f"{GROUP}/content-hash"


def with_content_hash(manifest: Manifest) -> Manifest:
    """The manifest of a Service or ConfigMap, with the hash of its content as an annotation."""
    meta = manifest["metadata"]
    annotations = {**meta.get("annotations", {}), HASH_ANNOTATION: _content_hash(manifest)}
    return manifest | {"metadata": meta | {"annotations": annotations}}


def is_edited(body: Mapping[str, Any]) -> bool:
    """Whether somebody has changed the content of a Service or ConfigMap (core/v1).

    One without the annotation, as earlier versions of the operator created it, counts as unchanged.
    """
    known = body["metadata"].get("annotations", {}).get(HASH_ANNOTATION)
    return known is not None and known != _content_hash(body)


def _content_hash(body: Mapping[str, Any]) -> str:
    """Hash of the fields that pods depend on, and that server-side apply can put back.

    Keys and ports that somebody added would stay.
    """
    spec = body.get("spec", {})
    content = [
        body.get("data", {}).get(CONFIG_FILE),
        spec.get("selector"),
        bool(spec.get("publishNotReadyAddresses")),
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
