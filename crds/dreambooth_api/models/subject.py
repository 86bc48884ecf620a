"""The subject to learn."""

from typing import Annotated, Literal

from pydantic import Field

from dreambooth_api.schema.base import ApiModel, ClassNoun, StorageUri, Word
from dreambooth_api.schema.rules import rule

CLASS_PROMPT = "a photo of a {class}"


class Subject(ApiModel):
    """One subject: 3-5 images of it, the word that will stand for it, and its class."""

    identifier: Word
    """The rare word that will stand for the subject, for example `sks` (paper, section 3.2)."""

    class_noun: ClassNoun
    """The coarse class of the subject, for example `dog` or `coffee mug`."""

    images: StorageUri
    """Folder of the subject's images: `s3://bucket/prefix` or `file:///path`. JPEG, PNG, WebP,
    HEIC, AVIF, BMP, TIFF and GIF are read."""

    captions: StorageUri | None = None
    """Folder of captions, one `<image name>.txt` per image; `.caption` and `metadata.jsonl` are
    read too. Default: the captions beside the images; without them, "a photo of <identifier>
    <class>"."""

    add_identifier: bool | None = None
    """Begin the captions that lack the identifier with "<identifier> <class>, ", as others call a
    trigger. Default: false, with a warning of these captions."""

    evaluation_images: StorageUri | None = None
    """Folder of images of the subject that are not trained on, which `spec.evaluation` compares
    with. Default: the training images."""

    weight: Annotated[float, Field(gt=0, le=100)] | None = None
    """How often this subject is drawn, relative to the other subjects. Default: 1."""

    mask: Literal["alpha", "file"] | None = None
    """Where the subject is in its images, so that the background is not learned. `alpha`: where
    they are opaque (PNG, WebP). `file`: where a file beside them is white, `0-masklabel.png` for
    `0.jpg`; `0.mask.png`, `0-mask.png` and `0_mask.png` are read too. Default: everywhere."""

    mask_weight: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Weight of the loss outside of the masks, where it is 1 within. Default: 0.1."""

    @rule(
        "maskWeight",
        "!has(self.maskWeight) || has(self.mask)",
        "has no effect without masks; set mask to alpha or file, or remove it",
    )
    def _weight_needs_masks(self) -> bool:
        return self.mask_weight is None or self.mask is not None

    @property
    def prompt(self) -> str:
        """The instance prompt (paper, section 3.2): "a photo of <identifier> <class>"."""
        return f"a photo of {self.identifier} {self.class_noun}"

    @property
    def class_prompt(self) -> str:
        """The prompt of the class in general (paper, section 3.3): "a photo of a <class>"."""
        # `class` is a keyword of Python, and cannot be the name of an argument.
        return CLASS_PROMPT.format(**{"class": self.class_noun})
