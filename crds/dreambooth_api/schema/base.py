"""What every model of the API shares: camelCase names, no unknown fields, bounded types."""

from typing import Annotated, Any, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from dreambooth_api.schema.rules import BrokenRulesError, rules_of

GROUP = "dreambooth.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "DreamBoothJob"
ACCEPTED = object()
"""A context of validation: that of a job whose rules were checked when it was created. Those that
came later do not count."""


class ApiModel(BaseModel):
    """A part of a DreamBoothJob; an invalid one raises `ValidationError` (pydantic).

    Unknown fields and values of another type are refused, as by the API server. A rule between
    fields that does not hold is a `BrokenRulesError` among its errors.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        # A misspelt field must not silently train something else.
        extra="forbid",
        # As a structural schema: "8" is text, and not the number 8.
        strict=True,
        # JSON has neither, so that no API server could store them.
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        # As in the API server, which has looked for unknown fields before: those stay unknown.
        if not isinstance(data, dict):
            return data
        if cls.model_config.get("extra") == "allow":
            return _without_nulls(data)
        if None not in data.values():
            return data
        known = {*cls.model_fields, *(field.alias for field in cls.model_fields.values())}
        return {
            name: value for name, value in data.items() if value is not None or name not in known
        }

    @model_validator(mode="after")
    def _check_rules(self, info: ValidationInfo) -> Self:
        if info.context is ACCEPTED:
            return self
        broken = [rule.of(self) for rule in rules_of(type(self)) if not rule.holds(self)]
        if broken:
            raise BrokenRulesError(broken)
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler(core_schema)
        rules = [rule.as_validation() for rule in rules_of(cls)]
        # Into the definition, so that every reference to the model has its rules.
        if rules:
            handler.resolve_ref_schema(schema)["x-kubernetes-validations"] = rules
        return schema


# Patterns are anchored, and name their characters: `\s`, `\w` and `\d` mean Unicode to pydantic's
# engine and ASCII to the API server's. The text is for messages and the reference.
_PLAIN = r"^[^ \t\r\n]+$"
# Control characters are refused here, as the contract refuses them in the URIs of a run.
_TEXT = r"[^\x00-\x1f\x7f]"
_HOST = r"[^/\x00-\x1f\x7f]+"
PATTERNS = {
    (_URI := rf"^(s3://{_HOST}(/{_TEXT}*)?|file:///{_TEXT}+)$"): (
        "s3://bucket/prefix or file:///absolute/path"
    ),
    (_CAPTIONS := rf"^(auto|s3://{_HOST}(/{_TEXT}*)?|file:///{_TEXT}+)$"): (
        "auto, s3://bucket/prefix or file:///absolute/path"
    ),
    (_MODEL := rf"^(s3://{_HOST}(/{_TEXT}*)?|hf://{_HOST}/{_TEXT}+|file:///{_TEXT}+|/{_TEXT}+)$"): (
        "s3://bucket/prefix, hf://owner/name, file:///path or an absolute path"
    ),
    (_ENDPOINT := r"^https?://[^/?#]+(/[A-Za-z0-9._~/-]*)?$"): (
        "a URL, with or without a path: https://minio.example.com:9000"
    ),
    (_WORD := r"^[A-Za-z0-9<>*_-]+$"): "one word of letters, digits and <>*_-",
    (_NOUN := r"^[^ \t\r\n]+( [^ \t\r\n]+)*$"): "words with one space between them",
    (_UID := r"^[A-Za-z0-9-]+$"): "letters, digits and -",
    (_LINE := r"^[^\r\n]+$"): "text on one line",
    _PLAIN: "text without spaces",
    (_DNS := r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"): (
        "the name of a Kubernetes object: a-z, 0-9, - and ., a letter or digit at both ends"
    ),
    (_LABEL := r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"): (
        "a label value: letters, digits, -, _ and ., a letter or digit at both ends"
    ),
    (_JOB := r"^[a-z]([-a-z0-9]*[a-z0-9])?$"): (
        "made of a-z, 0-9 and -, with a letter first and a letter or digit last"
    ),
    (_NAMESPACE := r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"): (
        "a namespace: a-z, 0-9 and -, with a letter or digit at both ends"
    ),
    (_QUANTITY := r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"): (
        "a Kubernetes quantity, for example 500m, 4 or 16Gi"
    ),
    (_ENV := r"^[A-Za-z_][A-Za-z0-9_]*$"): "an environment variable: letters, digits and _",
    (_MODULE := r"^[A-Za-z0-9_.]+$"): "the end of a module's name, for example to_q",
    (_REGION := r"^[a-z0-9-]+$"): "a region, for example eu-central-1",
    (_RESOURCE := r"^[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?$"): (
        "a resource's name, for example nvidia.com/gpu"
    ),
    (_SECRET_KEY := r"^[-._a-zA-Z0-9]+$"): "a key of a Secret: letters, digits, -, _ and .",
    (
        CONDITION_TYPE := (
            r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?"
            r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$"
        )
    ): "a condition's type in CamelCase, with or without a domain/ before it",
    (CONDITION_REASON := r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"): (
        "a reason in CamelCase: a letter first, then letters, digits, _, comma and :"
    ),
    (REPOSITORY := r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$"): (
        "a repository of the hub, owner/name, without hf://"
    ),
    (_VARIANT := r"^[a-z0-9_]+$"): "a variant, for example fp16",
    (_BUCKET := r"^[A-Za-z0-9][A-Za-z0-9._-]*$"): (
        "the name of a bucket, without s3://: letters, digits, -, _ and ., a letter or digit first"
    ),
}
"""Every pattern of the API, and its meaning for people."""


def _without_nulls(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _without_nulls(item) for key, item in value.items() if item is not None}


NullIsAbsent = BeforeValidator(_without_nulls)
"""Annotation of a map: what is null in it, at any depth, is absent, but for items of lists."""


def _number_as_text(value: Any) -> Any:
    """Read a whole number as text, as in `cpu: 4` (IntOrString in Kubernetes)."""
    # True and False are integers in Python.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


# Strings and lists are bounded: the API server's CEL cost estimate and etcd's object size both need
# it.
Uri = Annotated[str, StringConstraints(pattern=_URI, max_length=1024)]
StorageUri = Uri
CaptionsSource = Annotated[str, StringConstraints(pattern=_CAPTIONS, max_length=1024)]
Instructions = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
ModelSource = Annotated[str, StringConstraints(pattern=_MODEL, max_length=1024)]
EndpointUrl = Annotated[str, StringConstraints(pattern=_ENDPOINT, max_length=512)]
Prompt = Annotated[str, StringConstraints(pattern=_LINE, max_length=512)]
Word = Annotated[str, StringConstraints(pattern=_WORD, max_length=32)]
ClassNoun = Annotated[str, StringConstraints(pattern=_NOUN, max_length=64)]
PlainText = Annotated[str, StringConstraints(pattern=_PLAIN, max_length=512)]
Revision = Annotated[str, StringConstraints(pattern=_PLAIN, max_length=128)]
Variant = Annotated[str, StringConstraints(pattern=_VARIANT, max_length=32)]
BucketName = Annotated[str, StringConstraints(pattern=_BUCKET, max_length=255)]
Region = Annotated[str, StringConstraints(pattern=_REGION, max_length=64)]
ModuleName = Annotated[str, StringConstraints(pattern=_MODULE, max_length=128)]
EnvName = Annotated[str, StringConstraints(pattern=_ENV, max_length=256)]
ResourceName = Annotated[str, StringConstraints(pattern=_RESOURCE, max_length=253)]
SecretKey = Annotated[str, StringConstraints(pattern=_SECRET_KEY, max_length=253)]
ObjectName = Annotated[str, StringConstraints(pattern=_DNS, max_length=253)]
JobName = Annotated[str, StringConstraints(pattern=_JOB, max_length=40)]
ObjectUid = Annotated[str, StringConstraints(pattern=_UID, min_length=1, max_length=64)]
NamespaceName = Annotated[str, StringConstraints(pattern=_NAMESPACE, max_length=63)]
LabelKey = Annotated[str, StringConstraints(min_length=1, max_length=316)]
LabelValue = Annotated[str, StringConstraints(pattern=_LABEL, max_length=63)]
Quantity = Annotated[
    str,
    StringConstraints(pattern=_QUANTITY, max_length=32),
    BeforeValidator(_number_as_text),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "pattern": _QUANTITY, "maxLength": 32}),
]
ResourceList = Annotated[dict[str, Quantity], Field(max_length=16), NullIsAbsent]
# Image i of a set is made from seed + i, which must stay within torch's 64-bit seeds.
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Steps = Annotated[int, Field(ge=1, le=1_000_000)]
GuidanceScale = Annotated[float, Field(ge=0, le=50)]
Time = Annotated[AwareDatetime, Field(strict=False)]
"""RFC 3339 text in JSON."""
