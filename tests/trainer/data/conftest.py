"""Fixtures of the tests of images."""

import tests.trainer.data.heif_encoder  # noqa: F401 (registers an encoder)
