"""What every model of the API shares: camelCase names, no unknown fields, reusable bounded types."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

GROUP = "dreambooth.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "DreamBoothJob"


class ApiModel(BaseModel):
    """A part of a DreamBoothJob. Unknown fields are refused, as the CRD's pruning would lose them in silence."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        extra="forbid",
        use_attribute_docstrings=True,
    )


# Strings and lists are bounded: the API server's CEL cost estimate and etcd's object size both need it.
Uri = Annotated[str, StringConstraints(pattern=r"^(s3|file)://.+$", min_length=6, max_length=1024)]
StorageUri = Uri
ModelSource = Annotated[
    str,
    StringConstraints(pattern=r"^(s3://.+|hf://[^/]+/.+|file:///.+|/.+)$", min_length=2, max_length=1024),
]
Prompt = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Word = Annotated[str, StringConstraints(pattern=r"^\S+$", min_length=1, max_length=32)]
ClassNoun = Annotated[str, StringConstraints(pattern=r"^\S(.*\S)?$", min_length=1, max_length=64)]
ObjectName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", min_length=1, max_length=253)
]
LabelKey = Annotated[str, StringConstraints(min_length=1, max_length=316)]
LabelValue = Annotated[str, StringConstraints(max_length=63)]
Quantity = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$", max_length=32),
]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Port = Annotated[int, Field(ge=1, le=65535)]
Steps = Annotated[int, Field(ge=1, le=1_000_000)]
GuidanceScale = Annotated[float, Field(ge=0, le=50)]
