"""Many prompts at once, the answers in their order, for asyncio."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from operator import length_hint

from tqdm import tqdm  # type: ignore[import-untyped]

from tritonlm.errors import ServingError
from tritonlm_client.batch import check_concurrency
from tritonlm_client.requests import Prompt
from tritonlm_client.results import Completion


async def batch(
    generate: Callable[[Prompt], Awaitable[Completion]], prompts: Iterable[Prompt],
    concurrency: int, progress: bool, keep_errors: bool,
) -> AsyncGenerator[Completion | ServingError, None]:
    """As `tritonlm_client.batch.Batch`."""
    check_concurrency(concurrency)
    slots = asyncio.Semaphore(concurrency)
    waiting: deque[asyncio.Task[Completion | ServingError]] = deque()
    total = length_hint(prompts) or None

    async def answer(prompt: Prompt) -> Completion | ServingError:
        async with slots:
            try:
                return await generate(prompt)
            except ServingError as error:
                if keep_errors:
                    return error
                raise
            finally:
                bar.update()

    with tqdm(total=total, disable=not progress, unit="prompt") as bar:
        try:
            for prompt in prompts:
                waiting.append(asyncio.create_task(answer(prompt)))
                if len(waiting) >= 2 * concurrency:
                    yield await waiting[0]
                    waiting.popleft()
            while waiting:
                yield await waiting[0]
                waiting.popleft()
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
