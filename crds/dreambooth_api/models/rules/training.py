"""Rules of what is trained: adapters, learned tokens, and weights in few bits."""

from collections.abc import Callable

from dreambooth_api.models.lora import Lora
from dreambooth_api.models.sections import Sections
from dreambooth_api.schema.rules import rule


def _of_the_adapter(field: str, unset: str | None = None) -> Callable[[Sections], bool]:
    """The rule that a field of `lora` is left as it is beside `model.adapter`, which has its own.

    Args:
        field: The field, as it is written in YAML.
        unset: The end of a CEL expression that holds for its default; None: it has no default.
    """
    name = f"self.training.lora.{field}"
    path, own = f"training.lora.{field}", Lora().model_dump(by_alias=True)[field]
    is_own = f"!has({name})" if unset is None else f"{name}{'' if unset[0] == '.' else ' '}{unset}"

    @rule(path, f"!has(self.model.adapter) || {is_own}", "is that of model.adapter; remove it")
    def is_left_alone(self: Sections) -> bool:
        if self.model.adapter is None:
            return True
        return bool(self.training.lora.model_dump(by_alias=True)[field] == own)

    return is_left_alone


class TrainingRules(Sections):
    """What can be trained together."""

    @rule(
        "model.adapter",
        "!has(self.model.adapter) || self.training.method == 'lora'",
        "is trained further by method lora; set training.method to lora, or name it in"
        " model.mergedAdapters",
    )
    def _adapter_is_trained(self) -> bool:
        return self.model.adapter is None or self.training.method == "lora"

    _type_is_that_of_the_adapter = _of_the_adapter("type", "== 'lora'")
    _init_is_that_of_the_adapter = _of_the_adapter("init", "== 'default'")
    _rslora_is_that_of_the_adapter = _of_the_adapter("rslora", "== false")
    _alpha_is_that_of_the_adapter = _of_the_adapter("alpha")
    _targets_are_those_of_the_adapter = _of_the_adapter("targets")
    _preset_is_that_of_the_adapter = _of_the_adapter("targetPreset")
    _ranks_are_those_of_the_adapter = _of_the_adapter("rankPattern", ".size() == 0")
    _alphas_are_those_of_the_adapter = _of_the_adapter("alphaPattern", ".size() == 0")

    @rule(
        "model.quantization",
        "!has(self.model.quantization) || self.training.method == 'lora'",
        "is for adapters beside frozen weights; set training.method to lora, or remove it",
    )
    def _quantized_weights_are_frozen(self) -> bool:
        return self.model.quantization is None or self.training.method == "lora"

    @rule(
        "training.lora.type",
        "!has(self.model.quantization) || self.training.lora.type != 'dora'",
        "dora trains the lengths of the weights' rows, which model.quantization changes; choose"
        " another type, or remove model.quantization",
    )
    def _quantized_rows_keep_no_length(self) -> bool:
        return self.model.quantization is None or self.training.lora.type != "dora"

    @rule(
        "model.quantization.textEncoders",
        "!has(self.model.quantization) || !has(self.model.quantization.textEncoders)"
        " || self.training.textEncoder.method == 'frozen'",
        "is for text encoders that are not trained; remove it, or training.textEncoder",
    )
    def _quantized_text_encoders_are_frozen(self) -> bool:
        quantization = self.model.quantization
        quantized = quantization is not None and quantization.text_encoders is not None
        return not quantized or self.training.text_encoder.method == "frozen"

    @rule(
        "subjects",
        "self.training.method != 'textual-inversion' || self.subjects.all(s, has(s.token))",
        "each needs a token with training.method textual-inversion, which learns nothing else;"
        " write token: {}",
        lambda spec: f"and {_without_token(spec)} has none",
    )
    def _textual_inversion_has_tokens(self) -> bool:
        tokens = [subject.token for subject in self.subjects]
        return self.training.method != "textual-inversion" or None not in tokens

    @rule(
        "training.method",
        "self.training.method != 'full' || !self.subjects.exists(s, has(s.token))",
        "full changes the model that a subject's token is learned for; use lora or"
        " textual-inversion, or remove token",
    )
    def _tokens_are_of_a_frozen_model(self) -> bool:
        return self.training.method != "full" or not self.learns_tokens

    @rule(
        "training.textEncoder.method",
        "self.training.textEncoder.method == 'frozen'"
        " || !self.subjects.exists(s, has(s.token)) && self.training.method != 'textual-inversion'",
        "must be frozen where a subject has a token, which is learned in place of the text encoder;"
        " remove it, or token",
    )
    def _tokens_have_a_frozen_text_encoder(self) -> bool:
        is_frozen = self.training.text_encoder.method == "frozen"
        return is_frozen or not (self.learns_tokens or self.training.method == "textual-inversion")

    @rule(
        "training.tokenLearningRate",
        "!has(self.training.tokenLearningRate) || self.subjects.exists(s, has(s.token))",
        "has no effect where no subject has a token; give one a token, or remove it",
    )
    def _rate_of_tokens_has_tokens(self) -> bool:
        return self.training.token_learning_rate is None or self.learns_tokens

    @rule(
        "prior.enabled",
        "self.training.method != 'textual-inversion' || !self.prior.enabled",
        "must be false with training.method textual-inversion, which leaves the class as it is; set"
        " it to false",
    )
    def _textual_inversion_keeps_the_class(self) -> bool:
        return self.training.method != "textual-inversion" or not self.prior.enabled

    @rule(
        "model.quantization.textEncoders",
        "!has(self.model.quantization) || !has(self.model.quantization.textEncoders)"
        " || !self.subjects.exists(s, has(s.token))",
        "would fit a subject's token to rounded weights, which the result is not used with; remove"
        " it, or token",
    )
    def _tokens_are_of_whole_text_encoders(self) -> bool:
        quantization = self.model.quantization
        quantized = quantization is not None and quantization.text_encoders is not None
        return not quantized or not self.learns_tokens


def _without_token(spec: Sections) -> str:
    """The first subject that has no token."""
    return f"subjects[{[subject.token for subject in spec.subjects].index(None)}]"
