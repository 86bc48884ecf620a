"""Frozen blocks that wait in host memory while others compute (`spec.runtime.offload`).

By layers of the project's own, as quantized weights have them. The hooks of diffusers' group
offloading take the weights off the device before the backward pass, and FSDP's offloading neither
moves buffers, which quantized weights are, nor works without a process group.
"""
