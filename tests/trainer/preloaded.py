"""What the server of forks does once, so that not every rank has to do it again.

Ranks inherit the modules, caches and a garbage collector that passes over all that is there by now.
"""

import gc
from contextlib import suppress

from PIL import Image

import dreambooth_trainer.run.evaluate
import dreambooth_trainer.run.train  # noqa: F401

Image.init()  # its plugins
with suppress(ImportError):  # not in every version; transformers compiles hundreds of patterns here
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    get_checkpoint_conversion_mapping("clip_text_model")
gc.collect()
gc.freeze()
