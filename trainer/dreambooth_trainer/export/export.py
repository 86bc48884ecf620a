"""What the user takes home: a LoRA file or a whole pipeline, as plain diffusers loads them, and a
model card.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

VERSION = version("dreambooth-trainer")

LORA_FILE = "pytorch_lora_weights.safetensors"
"""The name that `pipe.load_lora_weights(folder)` looks for."""

INHERITED = "inherits the base model's licence"

_LORA_FIELDS = (
    "r",
    "lora_alpha",
    "target_modules",
    "lora_dropout",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "use_dora",
)


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from. It travels in the metadata of every exported file and in the
    model card.
    """

    base_model: str
    base_model_sha256: str
    identifiers: tuple[str, ...]
    class_nouns: tuple[str, ...]
    prompt: str
    step: int
    base_model_license: str | None = None

    @property
    def license(self) -> str:
        """Licence of the result."""
        return self.base_model_license or INHERITED

    def metadata(self) -> dict[str, str]:
        """As safetensors metadata, which holds strings only."""
        return {
            "format": "pt",
            "dreambooth.version": VERSION,
            "dreambooth.base_model": self.base_model,
            "dreambooth.base_model_sha256": self.base_model_sha256,
            "dreambooth.identifiers": json.dumps(self.identifiers),
            "dreambooth.class_nouns": json.dumps(self.class_nouns),
            "dreambooth.prompt": self.prompt,
            "dreambooth.step": str(self.step),
            "license": self.license,
        }


def export_lora(pipeline: Any, folder: Path, about: Provenance, adapter: str = "default") -> None:
    """Write the adapters of the pipeline's UNet and text encoder to `folder`.

    `StableDiffusionPipeline.load_lora_weights(folder)` loads them. Rank, alpha and targets go into
    the file's metadata (key `lora_adapter_metadata`), so a scale alpha / rank other than 1 is
    kept. Weights keep their dtype.
    """
    weights: dict[str, Tensor] = {}
    configs: dict[str, Any] = {}
    for part in ("unet", "text_encoder"):
        module = getattr(pipeline, part)
        config = getattr(module, "peft_config", {}).get(adapter)
        if config is not None:
            state = get_peft_model_state_dict(module, adapter_name=adapter)
            weights |= {f"{part}.{_portable(part, name)}": value for name, value in state.items()}
            configs |= {f"{part}.{name}": value for name, value in _lora_fields(config).items()}
    if not weights:
        raise ValueError(f"neither the UNet nor the text encoder has an adapter named {adapter!r}")
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {**about.metadata(), "lora_adapter_metadata": json.dumps(configs, sort_keys=True)}
    _save(weights, folder / LORA_FILE, metadata)
    (folder / "README.md").write_text(model_card(about, lora=True))


def _portable(part: str, name: str) -> str:
    """Transformers 5 dropped the level `text_model` from CLIP's names; with it, old and new
    versions load the file.
    """
    if part == "text_encoder" and not name.startswith("text_model."):
        return f"text_model.{name}"
    return name


def _lora_fields(config: LoraConfig) -> dict[str, Any]:
    """Only what changes the arithmetic: a peft that is older or newer may not know the other
    fields.
    """
    fields = {name: getattr(config, name) for name in _LORA_FIELDS}
    return {name: sorted(v) if isinstance(v, set) else v for name, v in fields.items()}


def export_pipeline(
    pipeline: Any, folder: Path, about: Provenance, dtype: torch.dtype = torch.float16
) -> None:
    """Write the whole pipeline to `folder` in the diffusers layout, its weights as safetensors in
    `dtype`.

    Adapters are merged into the weights. The pipeline itself stays as it is.
    """
    merged = type(pipeline)(**{name: _merged(part) for name, part in pipeline.components.items()})
    merged.save_pretrained(folder, safe_serialization=True)
    for path in sorted(folder.rglob("*.safetensors")):
        _rewrite(path, dtype, about.metadata())
    for path in sorted(folder.rglob("config.json")):
        _clean_config(path)
    (folder / "README.md").write_text(model_card(about, lora=False))


def _merged(part: Any) -> Any:
    """The component without adapters: itself, or a copy that they are merged into."""
    if not isinstance(part, nn.Module) or not any(
        isinstance(m, BaseTunerLayer) for m in part.modules()
    ):
        return part
    plain = copy.deepcopy(part).float()  # a small change is lost when it is added in bf16
    for name, layer in list(plain.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            plain.set_submodule(name, layer.get_base_layer())
    del plain.peft_config
    plain._hf_peft_config_loaded = False  # type: ignore[assignment]
    return plain


def _rewrite(path: Path, dtype: torch.dtype, metadata: Mapping[str, str]) -> None:
    weights = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in safetensors.torch.load_file(path).items()
    }
    _save(weights, path, metadata)


def _clean_config(path: Path) -> None:
    """Forget the folder that the part was loaded from, and have it loaded in fp32 by default.

    Where no dtype is asked for, diffusers loads fp32, but transformers what the config names;
    mixed, they do not run. The published Stable Diffusion models say fp32 too.
    """
    config = json.loads(path.read_text())
    config.pop("_name_or_path", None)
    if "dtype" in config:
        config["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _save(weights: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    contiguous = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    safetensors.torch.save_file(contiguous, path, metadata=dict(metadata))


_CARD = """---
base_model: {base}
library_name: diffusers
license: other
license_name: {license}
instance_prompt: {prompt}
tags:
- text-to-image
- stable-diffusion
- dreambooth{lora_tag}
---

# {title}

{kind} that knows {subjects}, made with DreamBooth {version} in {step} steps.

```python
from diffusers import StableDiffusionPipeline

{code}
image = pipe({prompt}).images[0]
```

- Base model: {base}, sha256 `{sha256}`
- Licence: {license}
"""


def _loadable(base_model: str) -> str:
    """What `from_pretrained` takes: the name on the hub, or a path, which is the reader's own."""
    if base_model.startswith("hf://"):
        return base_model.removeprefix("hf://")
    return "path/to/the/base/model"


def model_card(about: Provenance, *, lora: bool) -> str:
    """README.md of an export: what it is and how it is used, with the front matter that model
    hubs read.
    """
    pairs = zip(about.identifiers, about.class_nouns, strict=True)
    source = json.dumps(_loadable(about.base_model)) if lora else '"."'
    code = f"pipe = StableDiffusionPipeline.from_pretrained({source})"
    return _CARD.format(
        base=json.dumps(about.base_model.removeprefix("hf://")),
        license=json.dumps(about.license),
        prompt=json.dumps(about.prompt),
        lora_tag="\n- lora" if lora else "",
        title=", ".join(about.identifiers),
        kind="A LoRA" if lora else "A Stable Diffusion pipeline",
        subjects=" and ".join(f'"{word} {noun}"' for word, noun in pairs),
        version=VERSION,
        step=about.step,
        code=code + ('\npipe.load_lora_weights(".")' if lora else ""),
        sha256=about.base_model_sha256,
    )
