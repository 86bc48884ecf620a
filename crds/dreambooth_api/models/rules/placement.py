"""Rules of where a job trains: ranks, precision, sharding and offload."""

from dreambooth_api.models.pods.runtime import world_size
from dreambooth_api.models.sections import Sections
from dreambooth_api.schema.rules import rule


class PlacementRules(Sections):
    """What the pods and their GPUs can do."""

    @rule(
        "training.globalBatch",
        "!has(self.training.globalBatch) || self.training.globalBatch %"
        " (self.runtime.nodes * (self.runtime.gpusPerNode > 0 ? self.runtime.gpusPerNode :"
        " (has(self.runtime.processesPerNode) ? self.runtime.processesPerNode : 1))"
        " * self.training.accumulation) == 0",
        "must be a multiple of nodes x gpusPerNode (or processesPerNode) x accumulation;"
        " change it, or set perDeviceBatch instead",
        lambda spec: f"here of {_parts_of_the_batch(spec)}",
    )
    def _ranks_divide_the_batch(self) -> bool:
        return (self.training.global_batch or 0) % _parts_of_the_batch(self) == 0

    @rule(
        "training.precision",
        "self.training.precision != 'fp16' || self.runtime.gpusPerNode > 0",
        "fp16 needs a GPU; use fp32 or bf16, or set runtime.gpusPerNode",
    )
    def _fp16_is_for_gpus(self) -> bool:
        return self.training.precision != "fp16" or self.runtime.gpus_per_node > 0

    @rule(
        "runtime.strategy",
        "!has(self.runtime.strategy) || self.runtime.strategy != 'fsdp'"
        " || self.training.precision != 'fp16'",
        "fsdp has no scale for fp16's gradients; use training.precision bf16",
    )
    def _sharding_is_not_for_fp16(self) -> bool:
        return self.runtime.strategy != "fsdp" or self.training.precision != "fp16"

    @rule(
        "runtime.strategy",
        "!has(self.runtime.strategy) || self.runtime.strategy != 'fsdp'"
        " || self.training.method != 'full'"
        " || self.training.optimizer.name in ['adamw', 'lion']",
        "with training.method full, fsdp divides the state of adamw and lion alone; choose one of"
        " them as training.optimizer.name, or training.method lora",
    )
    def _sharding_divides_the_state(self) -> bool:
        training = self.training
        divided = self.runtime.strategy == "fsdp" and training.method == "full"
        return not divided or training.optimizer.name in ("adamw", "lion")

    @rule(
        "runtime.strategy",
        "!has(self.runtime.strategy) || self.runtime.strategy != 'fsdp'"
        " || self.training.method != 'lora'"
        " || self.training.lora.type != 'dora' && self.training.lora.init != 'pissa'"
        " && self.training.textEncoder.method != 'full'",
        "with training.method lora, dora, pissa and textEncoder.method full need whole weights,"
        " which fsdp divides; choose other adapters and textEncoder.method, or ddp",
    )
    def _sharding_leaves_no_whole_weight(self) -> bool:
        training = self.training
        if self.runtime.strategy != "fsdp" or training.method != "lora":
            return True
        reads_base = training.lora.type == "dora" or training.lora.init == "pissa"
        return not reads_base and training.text_encoder.method != "full"

    @rule(
        "runtime.strategy",
        "!has(self.runtime.strategy) || self.runtime.strategy != 'fsdp'"
        " || !has(self.model.quantization)",
        "fsdp does not divide quantized weights; use ddp, or remove model.quantization",
    )
    def _quantized_weights_are_whole(self) -> bool:
        return self.runtime.strategy != "fsdp" or self.model.quantization is None

    @rule(
        "runtime.strategy",
        "!has(self.runtime.strategy) || self.runtime.strategy != 'fsdp'"
        " || !self.subjects.exists(s, has(s.token))",
        "fsdp is for models that no GPU holds, in which no token is learned; use ddp, or remove"
        " token",
    )
    def _tokens_are_of_whole_models(self) -> bool:
        return self.runtime.strategy != "fsdp" or not self.learns_tokens

    @rule(
        "runtime.offload",
        "!has(self.runtime.offload) || self.training.method == 'lora'",
        "is for frozen weights beside adapters; set training.method to lora, or remove it",
    )
    def _offloaded_weights_are_frozen(self) -> bool:
        return self.runtime.offload is None or self.training.method == "lora"

    @rule(
        "runtime.offload",
        "!has(self.runtime.offload) || !has(self.runtime.strategy)"
        " || self.runtime.strategy != 'fsdp'",
        "is for weights that each GPU needs as a whole, which fsdp divides; remove one of the two",
    )
    def _offloaded_weights_are_whole(self) -> bool:
        return self.runtime.offload is None or self.runtime.strategy != "fsdp"

    @rule(
        "runtime.offload",
        "!has(self.runtime.offload) || self.training.method != 'lora'"
        " || self.training.lora.type != 'dora' && self.training.textEncoder.method != 'full'",
        "dora and textEncoder.method full need all weights on the GPU; choose another type or"
        " method, or remove runtime.offload",
    )
    def _offloaded_weights_are_read_block_by_block(self) -> bool:
        training = self.training
        if self.runtime.offload is None or training.method != "lora":
            return True
        return training.lora.type != "dora" and training.text_encoder.method != "full"


def _parts_of_the_batch(spec: Sections) -> int:
    """Forward passes of all ranks in an optimizer step, each with its part of the batch."""
    return world_size(spec.runtime) * spec.training.accumulation
