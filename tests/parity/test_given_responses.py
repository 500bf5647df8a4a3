"""Log-likelihoods of given responses against the specification: models on disk, their templates."""

from __future__ import annotations

from pathlib import Path

import pytest
from conditioned import save_arm
from conftest import make_tokenizer, save_model
from oracle import GREEDY, likelihood_is_specified, templated, with_lora
from rounding import nats
from test_architectures import IN_SLOTS, OWN_CACHES, WORDS, stream_of
from test_lengths import LENGTHS, PHI3
from test_lengths import text as words
from test_local_engine import OTHER_TEMPLATE, PROMPTS, make_lora

import trimtab
from trimtab.engines.local import batch
from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.types import Request
from trimtab.errors import ConfigError


def test_of_models_on_disk(base_dir: Path, arm_dir: Path, tmp_path: Path) -> None:
    """A LoRA with another template, a conditioned ARM and a whole model, on texts and chats."""
    other = save_arm(tmp_path / "x", base_dir, "bilinear", "ab", seed=6)
    lora = make_lora(tmp_path / "e", base_dir, 8, make_tokenizer(template=OTHER_TEMPLATE))
    engine = trimtab.load(str(base_dir), {"x": str(other), "e": str(lora), "f": str(arm_dir)})
    asked = [
        Request(
            p, {name: 1.0 + (i + j) % 3 for j, name in enumerate("abef")}, [1.0, 0.5, 2.0, 0.0][i]
        )
        for i, p in enumerate(PROMPTS)
    ]
    texts = ["happy dog", " the cat sat on the mat. thank you!", "no", "very very big"]
    for end in (False, True):
        found = engine.log_likelihoods(asked, texts, end_of_turn=end)
        for request, text, one in zip(asked, texts, found, strict=True):
            likelihood_is_specified(engine, request, one)
            ids = list(one.token_ids)
            assert (ids[-1] in engine.ends) == end
            assert engine.base.tokenizer.decode(ids[:-1] if end else ids) == text
    # what the tokens are of does not matter, the prompt's template does
    by_ids = engine.log_likelihoods(asked, [one.token_ids for one in found])
    assert by_ids == found


def test_prompts_of_token_ids(base_dir: Path) -> None:
    """They are read as they are, by every stream; an instruction stands before them."""
    told = trimtab.load(str(base_dir), instruct={"plain": "please"}, prompt_format="raw")
    tokenizer = told.base.tokenizer
    text = "the cat sat on"
    ids = tokenizer(text)["input_ids"]
    assert told.log_likelihoods([ids], [" the mat"]) == told.log_likelihoods([text], [" the mat"])
    one, two = (told.generate([prompt], strength=2.0, max_new_tokens=5) for prompt in (ids, text))
    assert one == two


def test_at_the_models_limit(tmp_path: Path) -> None:
    """The last token of a response need not be read: one more than the model reads can be given."""
    engine = trimtab.load(str(save_model(tmp_path / "m", 4)), prompt_format="raw")
    limit = engine.base.context
    assert limit == 256
    ids = [5 + i % 30 for i in range(limit + 1)]
    whole = engine.log_likelihoods([ids[:1]], [ids[1:]])[0]
    last = engine.log_likelihoods([ids[:-1]], [ids[-1:]])[0]
    assert last.logp_fused[0] == nats(whole.logp_fused[-1])
    with pytest.raises(ConfigError, match="the prompt has 256 tokens and the response 2, but"):
        engine.log_likelihoods([ids[:-1]], [[5, 6]])


FAMILIES = {**IN_SLOTS, **OWN_CACHES}


@pytest.mark.parametrize("family", ["gemma3", "mamba", "bloom"])
@pytest.mark.parametrize("bound", [8, 2**24])
def test_of_other_families(family: str, bound: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows, recurrent layers and ALiBi; in steps of one token, and in one."""
    monkeypatch.setattr(batch, "LOGITS", bound)
    make = FAMILIES[family]
    engine = LocalEngine(stream_of("base", make(), 1), [stream_of("a", make(), 2)])
    asked = [Request(words(i, n), None, 1.5 - i, GREEDY) for i, n in enumerate((3, 9))]
    given = [[(5 * i + j * j) % WORDS for j in range(n)] for i, n in enumerate((6, 3))]
    for request, one in zip(asked, engine.log_likelihoods(asked, given), strict=True):
        likelihood_is_specified(engine, request, one)


def test_across_the_length_that_changes_positions() -> None:
    """Rotary positions that depend on the length: every stream crosses it at its own token."""
    base = stream_of("base", PHI3(), 1)
    lora = templated(with_lora(base, "a", 3, layers=("qkv_proj", "o_proj")), "w5 w6 w7 w8")
    engine = LocalEngine(base, [lora, stream_of("b", PHI3(), 2)])
    asked = [Request(words(i, n), sampling=GREEDY) for i, n in enumerate(LENGTHS)]
    given = [[(3 * i + j * j) % WORDS for j in range(10)] for i in range(len(asked))]
    for request, one in zip(asked, engine.log_likelihoods(asked, given), strict=True):
        likelihood_is_specified(engine, request, one)
