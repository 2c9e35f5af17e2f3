"""Tokens of a call, as the servers count them."""

from __future__ import annotations

from tritonlm.gateway.pieces import Piece


class Usage:
    """Counts the tokens of each prompt once, and those of each sequence."""

    def __init__(self) -> None:
        self._num_input: dict[int, int] = {}
        self._num_output: dict[tuple[int, int], int] = {}

    def count(self, prompt: int, piece: Piece) -> None:
        """Take in what a piece says."""
        self._num_input[prompt] = piece.num_input_tokens
        self._num_output[prompt, piece.sequence_index] = piece.num_output_tokens

    def count_input(self, num_tokens: int) -> None:
        """Take in the tokens of a call that is answered without tokens."""
        self._num_input[0] = num_tokens

    @property
    def num_input_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(self._num_input.values())

    @property
    def num_output_tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(self._num_output.values())

    def as_json(self) -> dict[str, int]:
        """As OpenAI has it."""
        return {"prompt_tokens": self.num_input_tokens,
                "completion_tokens": self.num_output_tokens,
                "total_tokens": self.num_input_tokens + self.num_output_tokens}

    def of_input(self) -> dict[str, int]:
        """As OpenAI has it for calls that are answered without tokens."""
        return {"prompt_tokens": self.num_input_tokens, "total_tokens": self.num_input_tokens}
