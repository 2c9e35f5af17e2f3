"""Log probabilities of tokens on their way from the device to the front ends."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tritonlm.engine import messages
from tritonlm.engine.batch import Int32
from tritonlm.engine.table import Rows


@dataclass(frozen=True)
class TokenLogprobs:
    """Those of n tokens of requests, and of the most likely ones in the place of each."""

    rows: Rows
    """Rows of the request table, [n]."""
    positions: Int32
    """Place of each token in its request, prompt and output together, [n]."""
    token_ids: Int32
    """The token itself, then the k most likely ones in falling order, [n, 1 + k]."""
    values: NDArray[np.float32]
    """[n, 1 + k]"""

    def where(self, is_chosen: NDArray[np.bool_]) -> TokenLogprobs:
        """Those of the n tokens that are chosen."""
        return replace(self, **{name: values[is_chosen] for name, values in vars(self).items()})

    def to_message(self, keys: NDArray[np.int64]) -> messages.Logprobs:
        """All of them for a front end whose `keys`, [n], the rows have."""
        return messages.Logprobs(keys.tobytes(), self.positions.tobytes(),
                                 self.token_ids.tobytes(), self.values.tobytes())
