"""What is a name in Python is one in CEL: the API server and the trainer mean the same."""

from hypothesis import given, settings
from hypothesis import strategies as st

from dreambooth_api.schema import names
from tests.cluster.apiserver import cel

LETTERS = st.text("sSkKaxX1 _-*<>.,:()\"'\\\\QE[{/\u212a\u017f\u00e9\u4e00\n", max_size=8)
IDENTIFIERS = st.text("sSkK1<>*_-", min_size=1, max_size=3)
ENDINGS = st.sampled_from(["", ".pt", ".PT", ".ckpt", ".cKpt", ".c\u212apt", ".pth"])


def holds(expression: str, one: str, other: str = "") -> bool:
    return cel.broken(expression, {"a": one, "b": other}, None) is None


@settings(max_examples=300, deadline=None, derandomize=True)
@given(before=LETTERS, word=IDENTIFIERS, after=LETTERS, other=IDENTIFIERS)
def test_identifier_in_a_text(before: str, word: str, after: str, other: str) -> None:
    expression = names.has_identifier_cel("self.a", "self.b")
    for text in (f"{before}{word}{after}", f"{before} {word.swapcase()}, {after}", before):
        for identifier in (word, other):
            found = names.has_identifier(text, identifier)
            assert holds(expression, text, identifier) == found, (text, identifier)
    assert names.has_identifier(f"{before} {word}, {after}", word)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(one=st.text("a/", max_size=4), other=st.text("a/", max_size=4))
def test_same_folder(one: str, other: str) -> None:
    same = names.is_same_folder(one, other)
    assert holds(names.is_same_folder_cel("self.a", "self.b"), one, other) == same
    assert same == names.is_same_folder(other, one)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(path=st.text("aT.\u212a", max_size=3), ending=ENDINGS)
def test_ending(path: str, ending: str) -> None:
    expression = names.has_ending_cel("self.a", ".pt", ".ckpt")
    found = names.has_ending(path + ending, ".pt", ".ckpt")
    assert holds(expression, path + ending) == found
    assert found or ending.lower() not in (".pt", ".ckpt") or "\u212a" in ending
