"""Frozen weights in few bits, below adapters in their own precision (QLoRA: Dettmers et al. 2023).

The layers are the project's own, and the arithmetic of NF4 is that of bitsandbytes: the tensors of
torchao keep a copy of each weight in full precision for the backward pass.
"""
