"""The subject to learn."""

from typing import Annotated, Literal

from pydantic import Field

from dreambooth_api.schema.base import ApiModel, CaptionsSource, ClassNoun, StorageUri, Word
from dreambooth_api.schema.names import is_same_folder, is_same_folder_cel
from dreambooth_api.schema.rules import rule

CLASS_PROMPT = "a photo of a {class}"
AUTO = "auto"
"""Captions that a vision-language model writes (spec.captioning)."""


class Token(ApiModel):
    """A new word of the text encoders, whose embedding is learned (Gal et al. 2022)."""

    initializer: ClassNoun | None = None
    """A word, or several, whose embedding the new one begins as. Default: the class noun."""

    vectors: Annotated[int, Field(ge=1, le=8)] | None = None
    """Embeddings that the word stands for, each in a place of its own in the prompt: more of them
    hold more detail, and obey the rest of the prompt less. Default: 1."""


class Subject(ApiModel):
    """One subject: 3-5 images of it, the word that will stand for it, and its class."""

    identifier: Word
    """The rare word that will stand for the subject, for example `sks` (paper, section 3.2)."""

    class_noun: ClassNoun
    """The coarse class of the subject, for example `dog` or `coffee mug`."""

    images: StorageUri
    """Folder of the subject's images: `s3://bucket/prefix` or `file:///path`. JPEG, PNG, WebP,
    HEIC, AVIF, BMP, TIFF and GIF are read."""

    captions: CaptionsSource | None = None
    """Folder of captions, one `<image name>.txt` per image; `.caption` and `metadata.jsonl` are
    read too. `auto`: the captions beside the images; the model of `spec.captioning` describes
    images without one. Default: the captions beside the images; without them, "a photo of
    <identifier> <class>"."""

    add_identifier: bool | None = None
    """Begin the captions that lack the identifier with "<identifier> <class>, ", as others call a
    trigger. Default: false, with a warning of these captions."""

    evaluation_images: StorageUri | None = None
    """Folder of images of the subject that are not trained on, which `spec.evaluation` compares
    with. Default: the training images."""

    token: Token | None = None
    """Learn the identifier as a new word: with method `textual-inversion` nothing else, with `lora`
    beside the adapters (pivotal tuning). For Stable Diffusion 1.x, 2.x and SDXL. Default: the
    identifier stays a word that the text encoders know."""

    weight: Annotated[float, Field(gt=0, le=100_000)] | None = None
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

    @rule(
        "evaluationImages",
        "!has(self.evaluationImages)"
        f" || !{is_same_folder_cel('self.evaluationImages', 'self.images')}",
        "must be images that are not trained on; name another folder than images, or set"
        " evaluation.holdOut instead",
    )
    def _evaluation_images_are_others(self) -> bool:
        folder = self.evaluation_images
        return folder is None or not is_same_folder(folder, self.images)

    @property
    def has_auto_captions(self) -> bool:
        """Whether a model describes the images that have no caption beside them."""
        return self.captions == AUTO

    @property
    def captions_folder(self) -> str | None:
        """Folder of the captions; None: they are beside the images."""
        return None if self.has_auto_captions else self.captions

    @property
    def prompt(self) -> str:
        """The instance prompt (paper, section 3.2): "a photo of <identifier> <class>"."""
        return f"a photo of {self.identifier} {self.class_noun}"

    @property
    def class_prompt(self) -> str:
        """The prompt of the class in general (paper, section 3.3): "a photo of a <class>"."""
        # `class` is a keyword of Python, and cannot be the name of an argument.
        return CLASS_PROMPT.format(**{"class": self.class_noun})
