import subprocess
import sys

from tests.small_tokenizers import KINDS, build_tokenizer
from transformers import PreTrainedTokenizerFast

ENCODE = """
import sys
from tritonlm.backend.stub import leave_torch_out

leave_torch_out()

from tritonlm.config import ModelConfig
from tritonlm.contract import Prompt
from tritonlm.text.encoding import Encoder

for folder in sys.argv[1:]:
    print(Encoder(ModelConfig(model=folder)).encode(Prompt(text="The cat sat")).tolist())
assert not any(name.startswith("torch.") for name in sys.modules)
"""


def test_tokenizers_are_the_same_without_torch(tmp_path):
    tokenizers = {tmp_path / kind: build_tokenizer(kind) for kind in KINDS}
    for folder, tokenizer in tokenizers.items():
        PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    done = subprocess.run([sys.executable, "-c", ENCODE, *map(str, tokenizers)],
                          capture_output=True, text=True, check=True)
    expected = [str(tokenizer.encode("The cat sat").ids) for tokenizer in tokenizers.values()]
    assert done.stdout.splitlines() == expected
    assert "PyTorch" not in done.stderr
