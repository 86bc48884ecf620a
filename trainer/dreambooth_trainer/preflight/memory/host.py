"""The memory of a pod that the weights of its ranks take while they are loaded and kept there."""

from torch import nn

from dreambooth_api.models.pods.runtime import ranks_per_node, world_size
from dreambooth_trainer.models.model_config import ModelConfig
from dreambooth_trainer.resolved_job import ResolvedJob


def host_bytes(job: ResolvedJob, config: ModelConfig) -> int:
    """Largest number of bytes of weights that one pod's ranks have in its memory at once.

    Each rank reads one part of the model after the other, and moves it to its GPU. With fsdp and
    with `offload`, the whole denoiser waits on the host until all parts are there; of what
    `offload` keeps there, it is more.
    """
    spec = job.spec
    family = config.build(spec.training)
    sizes = {name: _size(part) for name, part in family.parts.items()}
    at_once = sum if spec.model.layout == "single-file" else max
    loading = at_once(sizes.values())
    offload = spec.runtime.offload
    if offload is None and not (spec.runtime.strategy == "fsdp" and world_size(spec.runtime) > 1):
        return loading * ranks_per_node(spec.runtime)
    denoiser = config.build(spec.training, spec.model.quantization).denoiser
    order = list(family.modules)
    later = order[order.index(family.denoiser_part) + 1 :]
    waiting = _size(denoiser) + max((sizes[name] for name in later), default=0)
    return max(loading, waiting) * ranks_per_node(spec.runtime)


def _size(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
