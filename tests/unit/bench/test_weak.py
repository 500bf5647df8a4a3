"""Adapting a cut model: the loss by hand, and that it comes nearer; nats of answers."""

from __future__ import annotations

import pytest
import torch
from conftest import make_model

from trimtab.bench.tables.adapted import Adaptation, Text, _step, adapt, nlls
from trimtab.errors import ConfigError
from trimtab.models.first_layers import first_layers

TEXTS = [[Text([5, 6, 7], [8, 9]), Text([5, 6, 7], [10])], [Text([11, 12], [13, 14, 15, 16])]]


def test_the_loss_is_the_mean_kl_of_all_tokens() -> None:
    """A batch of unequal rows against one row after the other, summed up by hand."""
    whole, weak = make_model(0, 64, layers=3), make_model(1, 64)
    batch = [text for own in TEXTS for text in own]
    total, count = 0.0, 0
    for text in batch:
        ids = torch.tensor([[*text.prompt, *text.answer]])
        with torch.no_grad():
            p, q = (model(input_ids=ids).logits[0, :-1].softmax(-1) for model in (whole, weak))
        total += float((p * (p.log() - q.log())).sum())
        count += ids.shape[1] - 1
    loss, tokens = _step(weak, whole, batch, bf16=False)
    assert tokens == count == 4 + 3 + 5
    assert float(loss.detach()) == pytest.approx(total / count, rel=1e-4)


def test_nats_per_token_of_an_answer() -> None:
    model = make_model(0, 64)
    with torch.no_grad():
        logp = model(input_ids=torch.tensor([[5, 6, 7, 8, 9]])).logits[0].log_softmax(-1)
    wanted = -float(logp[2, 8] + logp[3, 9]) / 2  # after 7, and after 8
    assert nlls(model, [TEXTS[0][0]]) == pytest.approx([wanted], rel=1e-4)


def test_it_comes_nearer_to_the_whole_model() -> None:
    whole = make_model(0, 64, layers=3)
    weak, batch = first_layers(whole, 1, "it"), [text for own in TEXTS for text in own]
    before = float(_step(weak, whole, batch, bf16=False)[0].detach())
    how = Adaptation(num_train_epochs=20, learning_rate=0.01, per_device_train_batch_size=2)
    told = adapt(weak, whole, TEXTS, how)
    assert told["steps"] == 40 and told["tokens"] == 20 * 12
    assert float(_step(weak, whole, batch, bf16=False)[0].detach()) < 0.3 * before


@pytest.mark.parametrize(
    ("option", "value"),
    [("num_train_epochs", 0), ("learning_rate", 0.0), ("learning_rate", "fast"), ("bf16", "yes")],
)
def test_bad_options(option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"weak\.{option} is"):
        Adaptation(**{option: value})  # type: ignore[arg-type]
