"""What counts as the same name: an identifier in a text, a folder, a file's ending.

Each in Python and as the CEL of the same meaning, for rules; captions and prompts are read by the
former, too.
"""

import re

_LETTER, _OTHER = "[a-z0-9]", "[^a-z0-9]"
"""What cannot stand beside an identifier, and what can."""


def lower_ascii(text: str) -> str:
    """Lower the case of ASCII letters only, as `lowerAscii()` in CEL."""
    return "".join(letter.lower() if letter.isascii() else letter for letter in text)


def has_identifier(text: str, identifier: str) -> bool:
    """Whether the text names the identifier: not as a part of a longer word.

    Letter case does not count, as tokenizers lower it. Words are of ASCII letters and digits, so
    `(sks:1.2)`, `sks-mug` and `一张sks的照片` name `sks`.
    """
    flags = re.ASCII | re.IGNORECASE
    return re.search(identifier_pattern(identifier), text, flags) is not None


def identifier_pattern(identifier: str) -> str:
    """The identifier as `has_identifier` finds it: a regular expression, without regard to case."""
    return f"(?<!{_LETTER}){re.escape(identifier)}(?!{_LETTER})"


def has_identifier_cel(text: str, identifier: str) -> str:
    """`has_identifier` of two expressions; the identifier is one of letters, digits and <>*_-."""
    # RE2 (CEL) does not look ahead or behind.
    lowered = f"'(^|{_OTHER})\\\\Q' + {identifier}.lowerAscii() + '\\\\E({_OTHER}|$)'"
    return f"{text}.lowerAscii().matches({lowered})"


def is_same_folder(one: str, other: str) -> bool:
    """Whether two URIs name one folder: with or without a slash at the end."""
    return one in (other, f"{other}/") or other == f"{one}/"


def is_same_folder_cel(one: str, other: str) -> str:
    """`is_same_folder` of two expressions."""
    return f"({one} in [{other}, {other} + '/'] || {other} == {one} + '/')"


def has_ending(path: str, *endings: str) -> bool:
    """Whether a path ends in one of `endings`, which are in lower case; its own does not count."""
    return lower_ascii(path).endswith(endings)


def has_ending_cel(path: str, *endings: str) -> str:
    """`has_ending` of an expression."""
    return " || ".join(f"{path}.lowerAscii().endsWith('{each}')" for each in endings)
