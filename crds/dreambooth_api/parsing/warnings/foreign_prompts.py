"""Warnings about prompts in the syntax of other tools, of which everything is read as words."""

import re
from collections.abc import Iterator

from dreambooth_api.models.captioning import Captioning
from dreambooth_api.models.spec import Spec
from dreambooth_api.parsing.quote import quoted

IN_ALL_STEPS = "write one of its words, as a prompt stays the same in all steps"
FOREIGN = {
    r"\{[^{}]*\}|\[(?:trigger|name|class|filewords)\]|<(?:trigger|class)>": (
        "write the words that it stands for"
    ),
    r"<(?:lora|lyco|hypernet):[^<>]*>": "remove it, and name what it adds in model.mergedAdapters",
    r"\([^():]+:(?:\d|\d?\.\d+)\)|\({2,}[^()]+\){2,}|\[{2,}[^\[\]]+\]{2,}": (
        "write the words alone, as weights are not known"
    ),
    r"\[[^\[\]:|]*:[^\[\]:|]*:\d+\]|\[[^\[\]:|]*:(?:[^\[\]:|]*:)?\d?\.\d+\]": IN_ALL_STEPS,
    r"\[[^\[\]|]+(?:\|[^\[\]|]+)+\]": IN_ALL_STEPS,
    # Not where it stands in a text in capitals.
    r"(?-i:(?<![A-Z] )\bBREAK\b(?! [A-Z]))": "remove it, as prompts have no parts",
    r"(?<!\S)--[a-z]{1,2}(?!\S)": "remove the options, and set the fields for them",
}
"""Remedies by what is found, as regular expressions without regard to case."""


PLACEHOLDER = re.compile(r"\{ *[a-z]\w* *\}", re.IGNORECASE)
"""A name in braces. Instructions may hold others, such as those of JSON."""


def foreign_prompts(spec: Spec) -> Iterator[str]:
    """Warn about each syntax that a prompt holds: `path: what; what to do`."""
    samples, prior = spec.samples, spec.prior
    prompts = {f"spec.samples.prompts[{i}]": text for i, text in enumerate(samples.prompts)}
    prompts["spec.samples.negativePrompt"] = samples.negative_prompt
    # Of class images, a rule refuses other placeholders than this one.
    for path, text in _class_prompts(prior.prompt, prior.prompts):
        prompts[path] = text.replace("{class}", "")
    words = {subject.identifier.lower() for subject in spec.subjects}
    for path, text in prompts.items():
        for pattern, remedy in FOREIGN.items():
            found = re.search(pattern, text, re.IGNORECASE)
            if found is not None and found[0].lower() not in words:
                yield f"{path}: {quoted(found[0])} is read as words; {remedy}"
    if spec.captioning is not None:
        yield from (f"spec.captioning.{each}" for each in foreign_instructions(spec.captioning))


def foreign_instructions(captioning: Captioning) -> Iterator[str]:
    """Warn of placeholders that a vision-language model would read: `field: what; what to do`."""
    texts = {"systemPrompt": (captioning.system_prompt or "").replace("{class}", "")}
    # In examples, nothing is replaced.
    texts |= {f"examples[{index}]": text for index, text in enumerate(captioning.examples)}
    for field, text in texts.items():
        if found := PLACEHOLDER.search(text):
            noun = "{class} for the class noun, or " if field == "systemPrompt" else ""
            remedy = f"write {noun}the words that it stands for"
            yield f"{field}: {quoted(found[0])} is read as words; {remedy}"


def _class_prompts(prompt: str, prompts: list[str]) -> Iterator[tuple[str, str]]:
    yield "spec.prior.prompt", prompt
    yield from ((f"spec.prior.prompts[{index}]", text) for index, text in enumerate(prompts))
