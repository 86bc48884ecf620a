"""The base model."""

from typing import Annotated, Literal

from pydantic import StringConstraints

from dreambooth_api.base import ApiModel, ModelSource


class Model(ApiModel):
    """The diffusion model to fine-tune: Stable Diffusion 1.x or 2.x."""

    source: ModelSource
    """Where the weights are: `s3://bucket/prefix`, `hf://owner/name`, or an absolute path inside the pod."""

    layout: Literal["diffusers", "single-file"] = "diffusers"
    """`diffusers`: a folder with model_index.json. `single-file`: one .safetensors or .ckpt file."""

    revision: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    """Branch, tag or commit of an `hf://` source. Pin a commit to make a run repeatable."""

    variant: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$", max_length=32)] | None = None
    """Variant of the weight files, for example `fp16` for `model.fp16.safetensors`."""
