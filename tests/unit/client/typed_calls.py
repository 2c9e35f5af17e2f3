"""What a user's type checker makes of the client: `make check` reads it, and nothing runs it."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from tritonlm_client import AsyncClient, Chunk, Client, Completion, ServingError

if TYPE_CHECKING:
    from typing_extensions import assert_type


def sync_calls(client: Client) -> None:
    assert_type(client.generate("Hi", max_tokens=3), Completion)
    assert_type(client.generate([{"role": "user", "content": "Hi"}]).text, str)
    for chunk in client.stream([1, 2]):
        assert_type(chunk, Chunk)
    for answer in client.batch(["Hi"]):
        assert_type(answer, Completion)
    for answer_or_error in client.batch(["Hi"], keep_errors=True):
        assert_type(answer_or_error, Completion | ServingError)


async def async_calls(client: AsyncClient) -> None:
    assert_type(await client.generate("Hi"), Completion)
    async with client.stream("Hi") as stream:
        async for chunk in stream:
            assert_type(chunk, Chunk)
    async with aclosing(client.batch(["Hi"])) as answers:
        async for answer in answers:
            assert_type(answer, Completion)
    async for answer_or_error in client.batch(["Hi"], keep_errors=True):
        assert_type(answer_or_error, Completion | ServingError)
    async with aclosing(client.chat().ask("Hi")) as chunks:
        async for chunk in chunks:
            assert_type(chunk, Chunk)
