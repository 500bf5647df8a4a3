"""What is used of transformers' objects, which come untyped. Imports nothing heavy.

N rows, T tokens, V vocabulary, H hidden size. A tuned or adapted model has more than is told here;
where an object is changed rather than read, its type is `Any`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, overload

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Tokenizer(Protocol):
    """A transformers tokenizer."""

    chat_template: str | None
    pad_token: str | None
    name_or_path: str

    @property
    def eos_token(self) -> str | None:
        """Text of the token that ends a text."""

    @property
    def eos_token_id(self) -> int | None:
        """Its id."""

    @property
    def bos_token_id(self) -> int | None:
        """The token that begins a text, if any."""

    @property
    def pad_token_id(self) -> int | None:
        """The token that fills a batch's rectangle."""

    @property
    def all_special_tokens(self) -> list[str]:
        """Texts of the tokens with a part to play: BOS, EOS and the like."""

    @property
    def all_special_ids(self) -> list[int]:
        """Their ids."""

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]:
        """id -> `AddedToken`, whose `content` is its text."""

    def __len__(self) -> int:
        """Number of tokens, added ones included."""

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> Mapping[str, list[int]]:
        """`input_ids` of a text."""

    def apply_chat_template(
        self, conversation: Sequence[Mapping[str, Any]], *, tokenize: bool, **options: Any
    ) -> str:
        """The text of a chat, with `tokenize=False`."""

    @overload
    def convert_ids_to_tokens(self, ids: int) -> str: ...
    @overload
    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]: ...
    def convert_tokens_to_ids(self, tokens: str) -> int:
        """The id of a token."""

    def decode(self, token_ids: Sequence[int], **options: Any) -> str:
        """The text of ids."""

    def get_vocab(self) -> dict[str, int]:
        """Token -> id, added tokens included."""

    def save_pretrained(self, save_directory: Any) -> Any:
        """Write its files into a folder."""


class TextConfig(Protocol):
    """The part of a model's config that is about its language model."""

    vocab_size: int
    pad_token_id: int | None


class Config(Protocol):
    """A model's config."""

    model_type: str
    is_encoder_decoder: bool

    def get_text_config(self) -> TextConfig:
        """Its text part; itself, where it has no parts."""


class CausalLM(Protocol):
    """A causal language model that is read: a transformers model, or PEFT's wrapper of one."""

    @property
    def config(self) -> Config:
        """Its config."""

    @property
    def device(self) -> torch.device:
        """Where its first weights are."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of its first weights."""

    @property
    def training(self) -> bool:
        """Whether its dropout is on."""

    def __call__(self, **inputs: Any) -> Any:
        """Its forward: `logits` [N, T, V]; more, where it is asked for."""

    def train(self, mode: bool = True) -> Any:
        """Turn its dropout on or off."""

    def eval(self) -> Any:
        """Turn its dropout off."""

    def get_input_embeddings(self) -> nn.Embedding:
        """Its embeddings; `weight` is [V, H]."""

    def get_output_embeddings(self) -> nn.Module:
        """Its LM head."""

    def modules(self) -> Iterator[nn.Module]:
        """Itself and all modules inside."""

    def named_modules(self) -> Iterable[tuple[str, nn.Module]]:
        """The same with their names."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its weights, tied ones once."""

    def buffers(self) -> Iterator[Tensor]:
        """What it computes itself."""

    def named_parameters(
        self, *, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Its weights with their names."""
