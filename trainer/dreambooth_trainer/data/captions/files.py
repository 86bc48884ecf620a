"""Caption files of a folder, found by the names of its images.

The layouts are those of the usual tools: `0.txt`, `0.jpg.txt` or `0.caption` for `0.jpg` (kohya,
OneTrainer, ai-toolkit), and `metadata.jsonl` with `file_name` and `text` (diffusers, datasets).
"""

import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from dreambooth_storage import Storage, StoredObject, printable

MAX_CHARACTERS = 1000
"""Of one caption. Stable Diffusion's text encoder reads 77 tokens, about 300 characters."""
TOO_LONG = f"is over {MAX_CHARACTERS} characters: shorten it to what the image shows"

SUFFIXES = (".txt", ".caption")
METADATA = "metadata.jsonl"
MAX_METADATA_BYTES = 64 * 1024**2
CAPTION_KEYS = ("text", "prompt", "caption")
"""Keys of a caption in metadata.jsonl; `text` is the default of diffusers' scripts."""


@dataclass
class CaptionFiles:
    """The captions of a folder.

    texts: one line each, by the image's name.
    problems: one sentence per caption that cannot be used.
    missing: names of the images that have none.
    """

    texts: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def read_caption_files(
    storage: Storage, listed: Sequence[StoredObject], names: Sequence[str], *, field: str
) -> CaptionFiles:
    """The captions of the images `names` among the listed files of a folder.

    An image's own file comes before its line in metadata.jsonl. Letter case of suffixes and Unicode
    normal forms do not count: macOS decomposes accents in names, other systems do not.

    Raises:
        StorageError: A file cannot be read.
    """
    by_name: dict[str, StoredObject] = {}
    for item in listed:
        by_name.setdefault(_key(item.relative), item)
    found = CaptionFiles()
    files = {name: file for name in names if (file := _own_file(by_name, name)) is not None}
    contents = _read(storage, list({file.uri: file for file in files.values()}.values()), field)
    broken: set[str] = set()
    for name, file in files.items():
        text = _text(contents.get(file.uri))
        if problem := _problem(text, file.size):
            broken.add(f"{printable(file.relative)} {problem}")
        else:
            found.texts[name] = text or ""
    found.problems += sorted(broken)
    found.missing = [name for name in names if name not in files]
    if found.missing and METADATA in by_name:
        _read_metadata(storage, by_name[METADATA], found, field)
    return found


def plain_name(image: str) -> str:
    """The usual name of an image's caption file: `0.txt` for `0.jpg`."""
    return PurePosixPath(image).stem + SUFFIXES[0]


def _key(name: str) -> str:
    """A name in Unicode normal form C, its suffix in lower case."""
    path = PurePosixPath(unicodedata.normalize("NFC", name))
    return str(path.with_suffix(path.suffix.lower())) if path.suffix else str(path)


def _own_file(by_name: dict[str, StoredObject], image: str) -> StoredObject | None:
    name = unicodedata.normalize("NFC", image)
    stem = PurePosixPath(name).stem
    candidates = (start + suffix for suffix in SUFFIXES for start in (name, stem))
    return next((by_name[each] for each in candidates if each in by_name), None)


def _is_too_long(size: int) -> bool:
    # A character takes at most 4 bytes in UTF-8, a byte order mark 3: larger files are not read.
    return size > 4 * MAX_CHARACTERS + 3


def _read(storage: Storage, files: Sequence[StoredObject], field: str) -> dict[str, bytes]:
    readable = [file.uri for file in files if not _is_too_long(file.size)]
    return dict(storage.read_many(readable, field=field))


def _text(data: bytes | None) -> str | None:
    """The caption on one line, or None when it was not read or is not UTF-8."""
    try:
        return " ".join(data.decode("utf-8-sig").split()) if data is not None else None
    except UnicodeDecodeError:
        return None


def _problem(text: str | None, size: int) -> str | None:
    if _is_too_long(size) or (text is not None and len(text) > MAX_CHARACTERS):
        return TOO_LONG
    if text is None or "\0" in text:
        return "is not UTF-8 text: save it as UTF-8"
    return None if text else "is empty: describe the image"


def _read_metadata(storage: Storage, file: StoredObject, found: CaptionFiles, field: str) -> None:
    """Take the captions of images that have no file of their own from metadata.jsonl."""
    if file.size > MAX_METADATA_BYTES:
        limit = MAX_METADATA_BYTES // 1024**2
        found.problems.append(f"{METADATA} is over {limit} MiB: keep the lines of these images")
        return
    names = {_key(name): name for name in found.missing}
    described: set[str] = set()
    for number, name, text in _lines(storage.read(file.uri, field=field)):
        if name is None:
            found.problems.append(f"{METADATA} line {number} is not a JSON object in UTF-8")
        elif text is not None and (image := names.get(_key(name.removeprefix("./")))):
            described.add(image)
            if problem := _problem(text, size=0):
                found.problems.append(f"{METADATA} line {number} {problem}")
            else:
                found.texts[image] = text
    found.missing = [name for name in found.missing if name not in described]


def _lines(data: bytes) -> Iterator[tuple[int, str | None, str | None]]:
    """Number, file name and caption of each line; a name of None is a line that is not JSON."""
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict):
            yield number, None, None
            continue
        texts = (entry[key] for key in CAPTION_KEYS if isinstance(entry.get(key), str))
        text = next((" ".join(text.split()) for text in texts), None)
        yield number, str(entry.get("file_name", "")), text
