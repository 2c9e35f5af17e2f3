"""What single tokens stand for: a text, and the bytes of which it may be a part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tritonlm.text.stream import REPLACEMENT

BYTE_TOKENS = {f"<0x{byte:02X}>": byte for byte in range(256)}
"""What every vocabulary with byte fallback calls the tokens of single bytes."""


class TokenText(NamedTuple):
    """A token by itself; its text has replacement characters where it cuts a character."""

    text: str
    raw: bytes


class TokenTexts:
    """Texts of the tokens of a vocabulary.

    `to_token` gives a token's name in the vocabulary, or None; `decode` the text of ids. `anchor`
    are ids of any text, since a token that comes first may lose its space.
    """

    def __init__(
        self, to_token: Callable[[int], str | None], decode: Callable[[Sequence[int]], str],
        anchor: Sequence[int],
    ) -> None:
        self._to_token = to_token
        self._decode = decode
        self._anchor = list(anchor)
        self._anchor_text = decode(self._anchor)
        self._known: dict[int, TokenText] = {}

    def __getitem__(self, token_id: int) -> TokenText:
        """The text of `token_id`; a special token has its name, and an unknown id has none."""
        if token_id not in self._known:
            self._known[token_id] = self._read(token_id)
        return self._known[token_id]

    def _read(self, token_id: int) -> TokenText:
        token = self._to_token(token_id)
        if token is None:
            return TokenText("", b"")
        if token in BYTE_TOKENS:
            raw = bytes([BYTE_TOKENS[token]])
            return TokenText(raw.decode(errors="replace"), raw)
        text = self._decode([*self._anchor, token_id]).removeprefix(self._anchor_text) or token
        raw = text.encode()
        if REPLACEMENT in text and all(char in BYTE_LEVEL for char in token):
            raw = bytes(BYTE_LEVEL[char] for char in token)
        return TokenText(text, raw)


def _byte_level_alphabet() -> dict[str, int]:
    """The characters that byte-level BPE writes bytes with: the visible ones as they are."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    return ({chr(byte): byte for byte in visible}
            | {chr(256 + place): byte for place, byte in enumerate(others)})


BYTE_LEVEL = _byte_level_alphabet()
