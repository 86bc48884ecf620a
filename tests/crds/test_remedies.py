"""A value that is refused is answered with what to write, not only with what is wrong."""

import pytest

from dreambooth_api import InvalidJobError, load

JOB = """\
apiVersion: dreambooth.dev/v1alpha1
kind: DreamBoothJob
metadata: {name: mug}
spec:
  subjects: [{identifier: sks, classNoun: mug, images: s3://bucket/mug}]
  output: s3://bucket/results
"""
MODEL = "{source: hf://owner/model}"


def problem(spec: str) -> str:
    """The only problem of a job with more in its spec."""
    model = "" if spec.startswith("model:") else f"  model: {MODEL}\n"
    with pytest.raises(InvalidJobError) as caught:
        load(f"{JOB}{model}  {spec}\n")
    (message,) = caught.value.messages
    return message


def remedy(spec: str) -> str:
    return problem(spec).rpartition("; ")[2]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            "training: {method: lokr}",
            "it is a value of spec.training.lora.type, so write it there",
        ),
        (
            "training: {method: qlora}",
            "write method: lora, and model.quantization: {} for the frozen weights",
        ),
        ("training: {method: LORA}", "did you mean lora?"),
        (
            "training: {lora: {type: locon}}",
            "write lora, and set training.lora.targetPreset to convolutions",
        ),
        ("training: {method: GLoRA}", "it is not available, so write lora, which is the nearest"),
        (
            "training: {lora: {type: lora-fa}}",
            "it is not available, so write lora, which trains both matrices",
        ),
        ("training: {crop: bucket}", "did you mean none?"),
        ("training: {timestepSampling: {density: sigmoid}}", "did you mean logit-normal?"),
        (
            "training: {lossWeighting: MIN_SNR_GAMMA}",
            "remove it, and set training.minSnrGamma to 5",
        ),
        (
            "model: {source: hf://owner/model, quantization: {denoiser: none}}",
            "remove model.quantization",
        ),
        ("runtime: {strategy: auto}", "remove it"),
        ("training: {precision: bfloat16}", "did you mean bf16?"),
        ("training: {optimizer: {name: sgd}}", "choose a listed value"),
    ],
)
def test_a_choice_of_another_name_or_field(spec: str, expected: str) -> None:
    assert remedy(spec) == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("model: {source: hf://owner/model, clipSkip: 1}", "raise it, or remove it"),
        ("training: {tagDropout: 0}", "raise it, or remove it"),
        ("samples: {every: 0}", "raise it, or remove it"),
        ("runtime: {offload: {fraction: 0}}", "raise it, or remove runtime.offload"),
        ("training: {learningRate: 0}", "raise it"),
        ("training: {maxGradNorm: none}", "write 0"),
        ("training: {maxGradNorm: false}", "write 0"),
        ("training: {ema: {decay: none}}", "set training.ema.enabled to false"),
        ("training: {steps: auto}", "remove it"),
        (
            "training: {textEncoder: {method: lora, learningRate: 0}}",
            "raise it, or set training.textEncoder.method to frozen",
        ),
    ],
)
def test_what_is_turned_off(spec: str, expected: str) -> None:
    assert remedy(spec) == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("training: {steps: 2k}", "write 2000"),
        ("training: {steps: '1,000'}", "write 1000"),
        ("training: {steps: '800'}", "write it without quotes"),
        ("training: {steps: many}", "write it in digits"),
        ("training: {steps: 800.5}", "round it"),
        ("training: {steps: .inf}", "write a number"),
        ("training: {resolution: '512,768'}", "write it in digits"),  # not 512768
        ("training: {schedule: {warmupSteps: 0.1}}", "write how many, as it is no fraction"),
        ("runtime: {activeDeadlineSeconds: 24h}", "write 86400"),
        ("training: {resolution: 1024x1024}", "write 1024"),
        (
            "training: {resolution: [1024, 768]}",
            "write the highest, and the others as training.lowerResolutions",
        ),
        ("training: {lora: {alpha: None}}", "remove it"),
        ("training: {captionDropout: 5%}", "write 0.05"),
        ("training: {learningRate: '1,5e-4'}", "write 0.00015"),
        ("training: {lora: {alpha: '1,000'}}", "write it in digits"),  # one, or a thousand
        ("training: {learningRate: '1e-4'}", "write it without quotes"),
        (
            "training: {learningRate: [0.01, 0.02]}",
            "write one of them, or try each with dreambooth sweep --set"
            " training.learningRate=0.01,0.02",
        ),
        ("training: {flip: 'true'}", "write true without quotes"),
        ("training: {flip: 'off'}", "write false without quotes"),
        ("training: {flip: 0}", "write false"),
        ("prior: {prompt: [a mug, a cup]}", "write them as prior.prompts"),
    ],
)
def test_a_number_that_is_none(spec: str, expected: str) -> None:
    assert remedy(spec) == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("prior: false", "prior: {enabled: false}"),
        ("training: {ema: true}", "ema: {enabled: true}"),
        ("training: {ema: 0.99}", "ema: {enabled: true, decay: 0.99}"),
        ("training: {optimizer: adam}", "optimizer: {name: adamw}"),
        ("training: {optimizer: prodigy}", "optimizer: {name: prodigy}"),
        ("training: {optimizer: AdamW8bit}", "optimizer: {name: adamw-8bit}"),
        ("training: {schedule: cosine}", "schedule: {name: cosine}"),
        ("model: {source: hf://owner/model, quantization: nf4}", "quantization: {denoiser: nf4}"),
        ("runtime: {offload: 0.5}", "offload: {fraction: 0.5}"),
        ("runtime: {offload: true}", "offload: {}"),
        ("training: {lora: 16}", "lora: {rank: 16}"),
        ("training: {textEncoder: full}", "textEncoder: {method: full}"),
        ("evaluation: {earlyStopping: true}", "earlyStopping: {patience: ...}"),
        ("model: hf://owner/model", "model: {source: hf://owner/model}"),
        ("model: owner/model", "model: {source: hf://owner/model}"),
        ("model: models/mine.safetensors", "model: {source: ...}"),
        ("captioning: {model: owner/model}", "model: {source: hf://owner/model}"),
        ("runtime: {imagePullSecrets: [registry]}", "{name: registry}"),
    ],
)
def test_a_bare_value_is_shown_in_its_section(spec: str, expected: str) -> None:
    assert remedy(spec) == f"write {expected}"


def test_a_section_that_no_value_turns_off() -> None:
    assert remedy("model: {source: hf://owner/model, quantization: none}") == "remove it"
    assert remedy("training: {optimizer: sgd}") == "write its fields below it"


@pytest.mark.parametrize(
    "spec",
    [
        "export: {pushToHub: {repository: me/mug, secretRef: hf_Secret}}",
        "export: {pushToHub: {repository: me/mug, secretRef: {name: hf_Secret}}}",
        "export: {pushToHub: {repository: me/mug, secretRef: {name: hub}, token: hf_Secret}}",
        "storage: {credentials: hf_Secret}",
    ],
)
def test_what_may_be_a_secret_is_not_shown(spec: str) -> None:
    assert "hf_Secret" not in problem(spec)
