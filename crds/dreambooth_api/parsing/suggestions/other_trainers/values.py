"""Values of fields by other names, and values that are written in another field."""

from collections.abc import Mapping

_FP8 = {
    "float8": "fp8",
    "qfloat8": "fp8",
    "fp8e4m3": "fp8",
    "fp8e4m3fn": "fp8",
    "fp8quanto": "fp8",
    "fp8torchao": "fp8",
}
_WEIGHTS = {
    **_FP8,
    "4": "nf4",
    "4bit": "nf4",
    "int4": "nf4",
    "uint4": "nf4",
    "nfloat4": "nf4",
    "fp4": "nf4",
    "8": "int8",
    "8bit": "int8",
    "qint8": "int8",
    "int8quanto": "int8",
    "int8torchao": "int8",
}

_SAMPLERS = {
    "plms": "pndm",
    "keuler": "euler",
    "flowmatch": "euler",
    "flowmatcheuler": "euler",
    "dpm++": "dpm-solver++",
    "dpm++2m": "dpm-solver++",
    "dpmpp2m": "dpm-solver++",
}

VALUES: Mapping[str, Mapping[str, str]] = {
    "samples.sampler": _SAMPLERS,
    "prior.sampler": _SAMPLERS,
    "model.layout": {
        "singlefile": "single-file",
        "checkpoint": "single-file",
        "ckpt": "single-file",
    },
    "model.quantization.denoiser": _WEIGHTS,
    "model.quantization.textEncoders": _WEIGHTS,
    "training.method": {
        "finetune": "full",
        "finetuning": "full",
        "fullfinetune": "full",
        "embedding": "textual-inversion",
        "ti": "textual-inversion",
    },
    "training.textEncoder.method": {"false": "frozen", "none": "frozen", "true": "lora"},
    "training.lora.type": {"peft": "lora", "standard": "lora", "linear": "lora"},
    "training.lora.targetPreset": {
        "alllinear": "linear",
        "attnmlp": "linear",
        "attnonly": "attention",
    },
    "training.crop": {
        "bucket": "none",
        "buckets": "none",
        "aspect": "none",
        "false": "none",
        "centre": "center",
        "true": "center",
    },
    "training.optimizer.name": {
        "adam": "adamw",
        "adam8bit": "adamw-8bit",
        "prodigyopt": "prodigy",
    },
    "training.schedule.name": {"wsd": "warmup-stable-decay", "none": "constant"},
    "training.precision": {
        "bfloat16": "bf16",
        "bf16mixed": "bf16",
        "fullbf16": "bf16",
        "float16": "fp16",
        "half": "fp16",
        "float32": "fp32",
        "float": "fp32",
        "no": "fp32",
        "false": "fp32",
        "tf32": "fp32",
    },
    "training.timestepSampling.density": {
        "linear": "uniform",
        "sigmoid": "logit-normal",
        "normal": "logit-normal",
    },
    "training.lossWeighting": {"constant": "none", "uniform": "none"},
    "runtime.strategy": {
        "deepspeed": "fsdp",
        "fullysharded": "fsdp",
        "zero3": "fsdp",
        "fsdp2": "fsdp",
        "multigpu": "ddp",
    },
}
"""By path below spec: the choice that means the same."""

_QLORA = "write method: lora, and model.quantization: {} for the frozen weights"
_NOT_HERE = "it is not available, so write lora, which"
_VARIANTS = {
    "adalora": f"{_NOT_HERE} has other ranks by training.lora.rankPattern",
    "dylora": f"{_NOT_HERE} trains the one rank of training.lora.rank",
    "glora": f"{_NOT_HERE} is the nearest",
    "lora+": f"{_NOT_HERE} has one rate for both matrices",
    "loraplus": f"{_NOT_HERE} has one rate for both matrices",
    "lorafa": f"{_NOT_HERE} trains both matrices",
    "olora": "it is not available, so write lora, and set training.lora.init to pissa",
}
_MIN_SNR = "remove it, and set training.minSnrGamma to 5"
_WARMUP = "with training.schedule.warmupSteps"

VALUE_ADVICE: Mapping[str, Mapping[str, str]] = {
    "subjects[].captions": {
        "true": "write auto for captions by a model, or remove it for those beside the images",
        "false": "remove it, and the captions beside the images, if there are any",
    },
    "training.method": {
        **_VARIANTS,
        "qlora": _QLORA,
        "locon": "write lora, and set training.lora.targetPreset to convolutions",
        "lycoris": "write lora, and set training.lora.type to lokr or loha",
        "rslora": "write lora, and set training.lora.rslora to true",
        "dreambooth": "write full to train all weights, or lora",
    },
    "training.lora.type": {
        **_VARIANTS,
        "locon": "write lora, and set training.lora.targetPreset to convolutions",
        "lycoris": "write lokr or loha",
        "rslora": "write lora, and set training.lora.rslora to true",
        "qlora": "write lora, and model.quantization: {} for the frozen weights",
    },
    "training.lora.targetPreset": {
        "all": "write linear, or convolutions for these too",
        "full": "write linear, or convolutions for these too",
    },
    "training.schedule.name": {
        "constantwithwarmup": f"write constant, {_WARMUP}",
        "cosinewithwarmup": f"write cosine, {_WARMUP}",
        "linearwithwarmup": f"write linear, {_WARMUP}",
    },
    "training.timestepSampling.density": {
        "shift": "write logit-normal, and set training.timestepSampling.shift",
        "fluxshift": "write logit-normal, as the shift is the model's own by default",
    },
    "training.lossWeighting": {"minsnrgamma": _MIN_SNR, "minsnr": _MIN_SNR, "snr": _MIN_SNR},
    # Sections that a bare value stands for.
    "training.textEncoder": {"true": "write textEncoder: {method: lora}, or full"},
    "training.ema": {"gpu": "write ema: {enabled: true}", "cpu": "write ema: {enabled: true}"},
}
"""By path below spec: what to do about a value, where another field is part of the answer."""

LIST_ADVICE: Mapping[str, str] = {
    "model.source": "name one model, into which model.mergedAdapters merges others' adapters",
    "prior.prompt": "write them as prior.prompts",
    "subjects[].images": "name the folder that holds them",
    "subjects[].identifier": "write one, and each other as a subject of its own",
    "training.resolution": "write the highest, and the others as training.lowerResolutions",
}
"""What to do about several values, where there is a better answer than to train with each."""

OFF: Mapping[str, str] = {
    "model.quantization.denoiser": "remove model.quantization",
    "runtime.offload.fraction": "remove runtime.offload",
    "runtime.gpusPerNode": "write 0",
    "runtime.restart.maxFailures": "write 0",
    "training.ema.decay": "set training.ema.enabled to false",
    "training.maxGradNorm": "write 0",
    "training.optimizer.weightDecay": "write 0",
    "training.schedule.decayFraction": "set training.schedule.name to constant",
    "training.textEncoder.learningRate": "set training.textEncoder.method to frozen",
    "training.textEncoder.stopFraction": "set training.textEncoder.method to frozen",
    "training.tokenLearningRate": "remove subjects[].token",
}
"""How to turn off what is on by default, or what a 0 does not turn off."""

NUMBERS: Mapping[str, str] = {
    "checkpoints": "every",
    "evaluation": "every",
    "samples": "every",
    "training.lora": "rank",
    "training.textEncoder": "learningRate",
}
"""The field that a bare number stands for in a section that has several."""
