"""A cut model against the first layers of the whole one, step by step, and what cannot be cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model
from torch import nn

from trimtab.errors import ConfigError, ModelLoadError
from trimtab.models.first_layers import first_layers
from trimtab.models.load import load_model

IDS = torch.arange(5, 25)[None]


def gemma() -> Any:
    """Layers of two kinds, with a window shorter than the text."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(1)
    config = Gemma3TextConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=4,
        layer_types=["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
        initializer_range=0.3,
    )
    return Gemma3ForCausalLM(config).eval()


def gpt2() -> Any:
    """Other names for all of it: `n_layer` in the config, `h` in the model."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(2)
    config = GPT2Config(vocab_size=64, n_embd=16, n_layer=4, n_head=2, initializer_range=0.3)
    return GPT2LMHeadModel(config).eval()


@pytest.mark.parametrize("make", [lambda: make_model(0, 64, layers=4), gemma, gpt2])
@pytest.mark.parametrize("count", [1, 3])
@torch.no_grad()
def test_it_is_the_first_layers(make: Any, count: int, tmp_path: Path) -> None:
    """Hidden state after `count` layers of the whole, its last norm and its head; saved, too."""
    model = make()
    hidden = model(input_ids=IDS, output_hidden_states=True).hidden_states[count]
    decoder = model.get_decoder()
    norm = decoder.ln_f if hasattr(decoder, "ln_f") else decoder.norm
    wanted = model.lm_head(norm(hidden))
    weak = first_layers(model, count, "it")
    assert weak.config.num_hidden_layers == count
    torch.testing.assert_close(weak(input_ids=IDS).logits, wanted)
    weak.save_pretrained(tmp_path)
    again = load_model(str(tmp_path))
    torch.testing.assert_close(again(input_ids=IDS).logits, wanted)
    assert not torch.allclose(model(input_ids=IDS).logits, wanted, atol=1e-3)


def test_its_weights_are_its_own() -> None:
    model = make_model(0, 64, layers=3)
    before = model.lm_head.weight.clone()
    with torch.no_grad():
        first_layers(model, 2, "it").lm_head.weight.zero_()
    assert torch.equal(model.lm_head.weight, before)


@pytest.mark.parametrize("count", [0, 4, 9])
def test_not_fewer_layers(count: int) -> None:
    with pytest.raises(ConfigError, match=r"layers of it, which has 4"):
        first_layers(make_model(0, 64, layers=4), count, "it")


def test_other_architectures_are_refused_by_name() -> None:
    chained = make_model(0, 64, layers=4)
    chained.model.layers = nn.Sequential(*chained.model.layers)
    with pytest.raises(ModelLoadError, match=r"cannot cut it .* 0 lists of 4 modules"):
        first_layers(chained, 2, "it")
    sharing = make_model(0, 64, layers=4)
    sharing.config.num_kv_shared_layers = 2
    with pytest.raises(ModelLoadError, match=r"cannot cut it .* keys of others"):
        first_layers(sharing, 2, "it")
    deep = make_model(0, 64, layers=4)
    deep.model.layers[1].register_forward_hook(
        lambda module, given, found: found * (1.0 + len(deep.model.layers))
    )  # a layer that does other things the more follow
    with pytest.raises(ModelLoadError, match=r"cannot cut it .* other things"):
        first_layers(deep, 2, "it")
