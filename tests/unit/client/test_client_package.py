import subprocess
import sys
from pathlib import Path

import pytest

import tritonlm
import tritonlm_client
from tritonlm_client import AsyncClient, Client

ROOT = Path(__file__).parents[3]


def test_the_client_loads_neither_torch_nor_transformers():
    code = ("import sys, tritonlm_client; "
            "print([name for name in ('torch', 'transformers') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_is_there():
    assert all(hasattr(tritonlm_client, name) for name in tritonlm_client.__all__)
    assert sorted(tritonlm_client.__all__) == tritonlm_client.__all__


@pytest.mark.parametrize("package", [tritonlm, tritonlm_client])
def test_a_user_s_type_checker_is_told_that_there_are_types(package):
    assert (Path(package.__file__).parent / "py.typed").exists()
    settings = (ROOT / "pyproject.toml").read_text()
    assert f'"{package.__name__}" = ["py.typed"]' in settings


@pytest.mark.parametrize("url", ["localhost:1", "http://localhost:1"])
@pytest.mark.parametrize("call", [
    lambda client: client.generate("Hi"), lambda client: client.embed(["Hi"]),
    lambda client: client.is_live(), lambda client: client.cancel("mine")])
def test_a_client_that_was_closed_says_so(url, call):
    client = Client(url)
    client.close()
    with pytest.raises(ValueError, match="the client is closed"):
        call(client)


async def test_an_async_client_that_was_closed_says_so():
    client = AsyncClient("localhost:1")
    await client.close()
    with pytest.raises(ValueError, match="the client is closed"):
        await client.generate("Hi")
