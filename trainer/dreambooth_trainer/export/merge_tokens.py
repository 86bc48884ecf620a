"""Makes learned words tokens of a model, as if it had had them from the beginning."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from dreambooth_trainer.export.tokens import EMBEDDINGS, read_words
from dreambooth_trainer.models.family import Family
from dreambooth_trainer.models.tokens.learn import Rows, add_known_words, write_into
from dreambooth_trainer.models.tokens.names import LearnedWord, added_words, misread_tokens
from dreambooth_trainer.process.errors import BadConfigError

FIELD = "--token"


def merge_tokens(family: Family, paths: Sequence[Path]) -> None:
    """Add words to a model's tokenizers, and their rows to its embeddings.

    Args:
        family: The model.
        paths: Files of words, or folders of results.

    Raises:
        BadConfigError: The model has no place for words, or has one of these.
        BadModelError: A file is damaged, or of another kind of model.
    """
    if not paths:
        return
    if not family.learns_tokens:
        raise BadConfigError(f"{FIELD}: models of {family.name} take no learned tokens; remove it")
    words: dict[LearnedWord, Rows] = {}
    for path in paths:
        files = [*_files(path)]
        words |= read_words(family, files, str(files[0].parent))
    _check_new(family, [*words])
    add_known_words(family, words)
    write_into(family)


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    found = sorted((path / EMBEDDINGS).glob("*.safetensors"))
    if not found:
        raise BadConfigError(
            f"{FIELD} {path}: there are no learned tokens in {EMBEDDINGS}/; name their file"
        )
    yield from found


def _check_new(family: Family, words: Sequence[LearnedWord]) -> None:
    for name in family.tokenizers:
        tokenizer = getattr(family.pipeline(), name)
        known = tokenizer.get_vocab()
        tokens = [token for word in words for token in word.tokens]
        if taken := [token for token in tokens if token in known]:
            raise BadConfigError(f"{FIELD}: the model has a token {taken[0]} already; remove it")
        if len(tokens) > len(set(tokens)):
            raise BadConfigError(f"{FIELD}: two of them have the same name; remove one")
        for token, word in misread_tokens([*words, *added_words(tokenizer)]):
            raise BadConfigError(
                f"{FIELD}: {token} would be read as one more vector of the token {word}; remove one"
            )
