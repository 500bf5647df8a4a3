"""The order of the training pairs, and which layers get a LoRA."""

from __future__ import annotations

from typing import Any

import pytest
import transformers
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import ConfigError
from trimtab.training.targets import lora_targets
from trimtab.training.trainer import LengthGrouped


class TestLengthGrouped:
    @examples(60)
    @given(
        st.lists(st.integers(1, 500), min_size=1, max_size=300),
        st.integers(1, 9),
        st.integers(0, 99),
        st.integers(0, 9),
    )
    def test_every_pair_once_and_repeatable(
        self, lengths: list[int], batch: int, seed: int, epoch: int
    ) -> None:
        sampler = LengthGrouped(lengths, batch, seed)
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert sorted(order) == list(range(len(lengths))) and len(sampler) == len(lengths)
        again = LengthGrouped(lengths, batch, seed)
        again.set_epoch(epoch)
        assert order == list(again) == list(sampler)

    def test_seed_and_epoch_change_the_order(self) -> None:
        lengths = list(range(200))
        orders = []
        for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1)):
            sampler = LengthGrouped(lengths, 4, seed)
            sampler.set_epoch(epoch)
            orders.append(tuple(sampler))
        assert len(set(orders)) == 4

    def test_neighbours_are_alike(self) -> None:
        """Lengths 0 … 255 in batches of 8 are one pool: every batch spans 8 consecutive lengths."""
        order = list(LengthGrouped(list(range(256)), 8, 3))
        batches = [order[i : i + 8] for i in range(0, 256, 8)]
        assert all(max(b) - min(b) == 7 for b in batches)
        assert [min(b) for b in batches] != sorted(min(b) for b in batches)


def config(kind: str) -> Any:
    small: dict[str, Any] = {
        "vocab_size": 16,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    return {
        "llama": lambda: transformers.LlamaConfig(**small),
        "gpt_neox": lambda: transformers.GPTNeoXConfig(**small),
        "gpt2": lambda: transformers.GPT2Config(vocab_size=16, n_embd=8, n_layer=1, n_head=2),
    }[kind]()


class TestTargets:
    @pytest.mark.parametrize(
        ("kind", "found"),
        [
            ("llama", ["q_proj", "k_proj", "v_proj"]),
            ("gpt2", ["c_attn"]),
            ("gpt_neox", ["query_key_value"]),
        ],
    )
    def test_the_attention_is_found(self, kind: str, found: list[str]) -> None:
        assert lora_targets(config(kind), []) == found

    def test_names_that_exist(self) -> None:
        assert lora_targets(config("llama"), ["up_proj"]) == ["up_proj"]
        assert lora_targets(config("llama"), ["all-linear"]) == "all-linear"

    @pytest.mark.parametrize(
        "wanted", [["q_projection"], ["q_proj", "c_attn"], ["proj"], ["lm_head"]]
    )
    def test_names_that_do_not(self, wanted: list[str]) -> None:
        """PEFT ignores a name without a layer as long as another one has; here it is an error."""
        with pytest.raises(ConfigError, match=rf"{wanted[-1]} matches no layer") as refused:
            lora_targets(config("llama"), wanted)
        assert "q_proj" in str(refused.value.hint)
