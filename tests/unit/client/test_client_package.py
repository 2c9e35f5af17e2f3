import subprocess
import sys

import tritonlm_client


def test_the_client_loads_neither_torch_nor_transformers():
    code = ("import sys, tritonlm_client; "
            "print([name for name in ('torch', 'transformers') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_is_there():
    assert all(hasattr(tritonlm_client, name) for name in tritonlm_client.__all__)
    assert sorted(tritonlm_client.__all__) == tritonlm_client.__all__
