"""What a checkpoint's files say of its task, beside its weights."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer
from transformers.utils import cached_file

from tritonlm.encoders.config import CAUSAL_HEADS, TaskConfig, misfit
from tritonlm.errors import InvalidArgument, first_line

POOLINGS = {"mean_tokens": "mean", "cls_token": "cls", "lasttoken": "last", "mean": "mean",
            "cls": "cls"}
"""By their names in sentence-transformers."""
PATH_STARTS = ("/", ".", "~")
"""Of what is no hub id."""
MAX_LEN_WITHOUT_LIMIT = 8192
UNKNOWN_MAX_LEN = 10**9
"""Tokenizers that know no limit have a number far beyond this."""
POSITIONS_AFTER_PADDING = frozenset({
    "camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"})
"""Types of models whose first position is the one after the padding id."""


class Checkpoint:
    """A folder or a hub id; raises `InvalidArgument` if it is not for the settings' task."""

    def __init__(self, settings: TaskConfig) -> None:
        self.settings = settings
        if settings.model.startswith(PATH_STARTS) and not Path(settings.model).is_dir():
            raise self.refused("there is no such folder")
        try:
            config = AutoConfig.from_pretrained(settings.model, revision=settings.revision)
        except (OSError, ValueError, KeyError) as error:
            raise self.refused(f"its config cannot be read: {first_line(error)}") from error
        self.config: Any = config
        self.text_config: Any = config.get_text_config()
        reason = misfit(settings.task, config.architectures or [])
        if reason:
            raise self.refused(reason)

    def refused(self, reason: str) -> InvalidArgument:
        """The error that names the checkpoint."""
        return InvalidArgument("model", self.settings.model, reason)

    @property
    def architecture(self) -> str:
        """The class that its weights were saved from."""
        return str((self.config.architectures or [self.config.model_type])[0])

    @property
    def is_causal(self) -> bool:
        """Whether it says the next token."""
        return self.architecture.endswith(CAUSAL_HEADS)

    def tokenizer(self) -> Any:
        """Its tokenizer; raises `InvalidArgument` if it has none that is usable."""
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.settings.model,
                                                      revision=self.settings.revision)
        # Missing, malformed and unknown files raise anything, even Rust's bare Exception.
        except Exception as error:
            raise self.refused("it must have a tokenizer that transformers loads: "
                               f"{' '.join(str(error).split())}") from error
        # Without files, transformers makes some kinds of tokenizers out of nothing.
        if len(tokenizer) <= len(tokenizer.all_special_ids):
            raise self.refused("it must have a tokenizer, and has no file of one")
        return tokenizer

    def max_row_len(self, tokenizer: Any) -> int:
        """Tokens of the longest row; raises `InvalidArgument` for a setting beyond it."""
        positions = getattr(self.text_config, "max_position_embeddings", None)
        if positions and self.config.model_type in POSITIONS_AFTER_PADDING:
            positions -= self.text_config.pad_token_id + 1
        known = [limit for limit in (positions, tokenizer.model_max_length)
                 if limit and limit < UNKNOWN_MAX_LEN] or [MAX_LEN_WITHOUT_LIMIT]
        asked = self.settings.max_model_len
        if asked is not None and asked > min(known):
            raise InvalidArgument("max_model_len", asked,
                                  f"the checkpoint is made for at most {min(known)}")
        usual = self.read_json("sentence_bert_config.json").get("max_seq_length")
        return int(asked or min([*known, *([usual] if usual else [])]))

    @cached_property
    def modules(self) -> dict[str, str]:
        """Folders of sentence-transformers' modules, by their kind; none if it has none."""
        modules = self.read_json("modules.json", [])
        folders = {module["type"].rpartition(".")[2]: module["path"] for module in modules}
        unknown = folders.keys() - {"Transformer", "Pooling", "Normalize"}
        if unknown:
            raise self.refused(f"it has a module {min(unknown)}, which is not supported")
        return folders

    @property
    def pooling(self) -> str | None:
        """Of its sentence-transformers' module, if it has one."""
        if "Pooling" not in self.modules:
            return None
        config = self.read_json(f"{self.modules['Pooling']}/config.json")
        name = str(config.get("pooling_mode", ""))
        modes = [name] if name else [key.removeprefix("pooling_mode_") for key, is_on
                                     in config.items() if is_on is True
                                     and key.startswith("pooling_mode_")]
        if len(modes) != 1 or modes[0] not in POOLINGS:
            raise self.refused(f"its pooling {' and '.join(modes)} is not supported")
        return POOLINGS[modes[0]]

    def read_json(self, name: str, missing: Any = None) -> Any:
        """Content of one of its files, or `missing`, an empty object, if there is none."""
        path = cached_file(self.settings.model, name, revision=self.settings.revision,
                           _raise_exceptions_for_missing_entries=False)
        if path is None:
            return {} if missing is None else missing
        try:
            return json.loads(Path(path).read_bytes())
        except ValueError as error:
            raise self.refused(f"its {name} cannot be read: {error}") from None
