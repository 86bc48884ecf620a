"""Lets Pillow write HEIC images, when imported. The trainer's library only reads them."""

import pi_heif
import pillow_heif

pillow_heif.register_heif_opener()
pi_heif.register_heif_opener()  # registered last: what is tested reads as the trainer does
