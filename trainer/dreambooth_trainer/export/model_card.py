"""README.md of an exported model."""

import json
from collections.abc import Sequence

from dreambooth_trainer.export.card_scores import describe_scores
from dreambooth_trainer.export.card_words import describe_kind, loading_code, web_ui_text
from dreambooth_trainer.export.provenance import VERSION, Provenance
from dreambooth_trainer.models.family import Family
from dreambooth_trainer.models.published import INHERITED, License

TEMPLATE = """---
base_model: {base}
library_name: diffusers
{license_front}
instance_prompt: {prompt}
tags:
- text-to-image
- {tag}
- dreambooth{more_tags}
---

# {title}

{kind} for {subjects}, trained with DreamBooth {version} in {step} steps.

```python
import torch
from diffusers import {imports}

device = "cuda" if torch.cuda.is_available() else "cpu"
{code}
image = pipe(
{arguments}
).images[0]
```

{web_ui}- Base model: {base}, sha256 `{sha256}`
{merged}{clip_skip}- License of the base model: {license}
{scores}"""


HEADING = """## In ComfyUI, A1111 and other user interfaces

"""
WEB_UI = """Copy `{file}` to `models/{comfy}` of ComfyUI, or to `models/{a1111}` of A1111, where
they know the base model, and choose it there{beside}. Then write {prompt} in the prompt.

"""
"""How to use the file that `model_card` is given."""
WEB_UI_DORA = """## In ComfyUI and Forge

Copy `{file}` to `models/{comfy}` of ComfyUI, or to `models/{a1111}` of Forge, where they know the
base model, and choose it there{beside}. Then write {prompt} in the prompt. A1111 cannot use it: it
reads a DoRA's lengths in another way.

"""
"""The same for a DoRA."""
WITH_MERGED = """Load these LoRAs with it, at their strengths: {names}.

"""
"""For a LoRA that was trained on top of others."""

CLIP_SKIP = "- Clip skip: {number}, which is {layer} of ComfyUI's CLIP Set Last Layer\n"
"""For a model that was trained with another layer of its text encoder."""
TEXT_MODEL = """# diffusers needs it for clip_skip, and transformers from 5.6 on does not have it.
text = pipe.text_encoder
object.__setattr__(text, "text_model", getattr(text, "text_model", text))"""


def model_card(
    family: Family,
    provenance: Provenance,
    *,
    lora: bool,
    adapters: bool = True,
    web_ui_file: str | None = None,
    peft_parts: Sequence[str] = (),
    dora: bool = False,
) -> str:
    """A description of the model and its use, with the front matter that model hubs read.

    Args:
        family: The base model.
        provenance: Of the exported model.
        lora: Whether it goes beside the base model, and is not a whole pipeline.
        adapters: Whether there are adapters, and not learned words alone.
        web_ui_file: The file beside the card that user interfaces load, if there is one.
        peft_parts: The parts whose adapters peft loads, as diffusers does not know them.
        dora: Whether the adapters are DoRAs.
    """
    source = json.dumps(_loadable(provenance.base_model) if lora else ".")
    # One precision for all parts: a base model's text encoder may name another than its UNet.
    pipeline = family.pipeline_class.__name__
    absent = "".join(f", {part}=None" for part in family.missing_parts)
    load = f"{source}, dtype={family.card_dtype}{absent}"
    code = f"pipe = {pipeline}.from_pretrained(\n    {load}\n)"
    if lora:
        code += "".join(f"\n{line}" for each in provenance.merged for line in _merge(*each))
    for part in peft_parts:
        code += f'\nPeftModel.from_pretrained(pipe.{part}, "./peft/{part}")'
    if lora and adapters and not peft_parts:
        code += '\npipe.load_lora_weights(".")'
    code += "".join(f"\n{line}" for line in loading_code(family))
    code += "\npipe.to(device)"
    if provenance.clip_skip and len(family.text_parts()) == 1:
        code += f"\n{TEXT_MODEL}"
    kind = "LyCORIS adapters" if peft_parts else "A DoRA" if dora else "A LoRA"
    kind = (
        describe_kind(family, kind if adapters else None) if lora else f"A {family.name} pipeline"
    )
    imports = [pipeline]
    if peft_parts:
        imports.append("from peft import PeftModel")
    if family.words and len(family.text_encoders) > 1:
        imports.append("from safetensors.torch import load_file")
    tags = ["lora"] * (lora and adapters) + ["textual_inversion"] * bool(family.words)
    usage = _web_ui(web_ui_file, lora, dora, provenance) if web_ui_file else ""
    if family.words:
        usage = f"{usage or HEADING}{web_ui_text(family)}"
    call = {
        "prompt": provenance.prompt,
        "num_inference_steps": provenance.sample_steps,
        **family.card_arguments(provenance.guidance_scale),
        # One less: diffusers counts the layers that are left out.
        **({"clip_skip": provenance.clip_skip - 1} if provenance.clip_skip else {}),
        "height": provenance.resolution,
        "width": provenance.resolution,
    }
    subjects = zip(provenance.identifiers, provenance.class_nouns, strict=True)
    # Values are JSON strings, which are valid YAML: a job's text cannot add front matter.
    return TEMPLATE.format(
        base=json.dumps(provenance.base_model.removeprefix("hf://")),
        license_front=_license_front_matter(provenance.license),
        license=_describe(provenance.license),
        prompt=json.dumps(provenance.prompt),
        more_tags="".join(f"\n- {tag}" for tag in tags),
        title=", ".join(provenance.identifiers),
        kind=kind,
        tag=family.card_tag,
        imports="\n".join(imports),
        subjects=" and ".join(f'"{identifier} {noun}"' for identifier, noun in subjects),
        version=VERSION,
        step=provenance.step,
        code=code,
        scores=describe_scores(provenance.scores) if provenance.scores else "",
        web_ui=usage,
        arguments="\n".join(f"    {name}={_literal(value)}," for name, value in call.items()),
        sha256=provenance.base_model_sha256,
        clip_skip=_describe_clip_skip(family, provenance.clip_skip),
        merged="".join(
            f"- Merged into it before training: {json.dumps(source)}, scale {scale}\n"
            for source, scale in provenance.merged
        ),
    )


def _describe_clip_skip(family: Family, clip_skip: int | None) -> str:
    if clip_skip is None:
        return ""
    # ComfyUI counts from the last layer, where SDXL reads the one before by default.
    layer = -clip_skip - (len(family.text_parts()) > 1)
    return CLIP_SKIP.format(number=clip_skip, layer=layer)


def _merge(source: str, scale: float) -> list[str]:
    """Code that merges an adapter into a pipeline."""
    arguments = json.dumps(source)
    if source.startswith("hf://"):
        owner, name, *path = source.removeprefix("hf://").split("/")
        arguments = json.dumps(f"{owner}/{name}")
        if path:
            arguments += f", weight_name={json.dumps('/'.join(path))}"
    return [
        f"pipe.load_lora_weights({arguments})",
        f"pipe.fuse_lora(lora_scale={scale})",
        "pipe.unload_lora_weights()",
    ]


def _web_ui(file: str, lora: bool, dora: bool, provenance: Provenance) -> str:
    names = ", ".join(f"{json.dumps(source)} ({scale})" for source, scale in provenance.merged)
    others = WITH_MERGED.format(names=names) if lora and names else ""
    return others + (WEB_UI_DORA if dora else HEADING + WEB_UI).format(
        file=file,
        comfy="loras" if lora else "checkpoints",
        a1111="Lora" if lora else "Stable-diffusion",
        beside=" beside the base model" if lora else "",
        prompt=json.dumps(f"{provenance.identifiers[0]} {provenance.class_nouns[0]}"),
    )


def _license_front_matter(license: License) -> str:
    if license.is_listed:
        return f"license: {license.name}"
    lines = ["license: other", f"license_name: {json.dumps(license.name)}"]
    return "\n".join([*lines, *([f"license_link: {license.link}"] if license.link else [])])


def _describe(license: License) -> str:
    """Name, what it forbids, and where its text is."""
    if license == INHERITED:
        return "not known; it applies to this model too"
    remark = f" ({license.remark})" if license.remark else ""
    return f"{license.name}{remark}" + (f", {license.link}" if license.link else "")


def _literal(value: object) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _loadable(base_model: str) -> str:
    """The argument of `from_pretrained`: the name on the hub, or a placeholder for a path."""
    if base_model.startswith("hf://"):
        return base_model.removeprefix("hf://")
    return "path/to/the/base/model"
