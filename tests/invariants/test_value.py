"""`--method value`: trained on scored responses, saved as a classifier, read at every token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from conftest import save_model, write_jsonl
from rounding import nats
from test_training import Workshop

import trimtab
from trimtab.arms.sidecar import Sidecar
from trimtab.arms.values import ValueModel
from trimtab.cli.main import main
from trimtab.data.samples import read_samples, tokenize_samples
from trimtab.data.tally import RowTally
from trimtab.errors import ConfigError, DataError, ModelLoadError
from trimtab.training.plan import TrainResult


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty responses: each `happy` is worth 1, each `sad` -1."""
    words = ["happy", "sad", "the dog", "ran"]
    rows = [
        {
            "prompt": f"the cat {i}",
            "response": f"{words[i % 4]} {words[i // 4 % 4]}",
            "score": sum({0: 1, 1: -1}.get(k, 0) for k in (i % 4, i // 4 % 4)),
        }
        for i in range(80)
    ]
    return write_jsonl(tmp_path_factory.mktemp("data") / "samples.jsonl", rows)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, base_dir: Path, samples: Path) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("runs"), base_dir, samples)


@pytest.fixture(scope="module")
def lora(shop: Workshop) -> TrainResult:
    return shop.train(
        "lora", method="value", max_steps=150, learning_rate=1e-2, save_strategy="no",
        lora_target_modules=["all-linear"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def full(shop: Workshop) -> TrainResult:
    return shop.train(
        "full", method="value", finetuning="full", max_steps=150, learning_rate=5e-3,
        save_strategy="no",
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_it_learns(shop: Workshop, kind: str, request: pytest.FixtureRequest) -> None:
    result = request.getfixturevalue(kind)
    assert result.metrics["eval_explained_last"] > 0.5
    assert result.metrics["eval_explained"] < result.metrics["eval_explained_last"]
    losses = shop.losses(kind)
    assert sum(losses[-5:]) < 0.3 * sum(losses[:5])
    facts = Sidecar.load(result.output_dir)
    assert (facts.method, facts.objective) == ("value", "helpful")


def classifier(shop: Workshop, result: TrainResult, kind: str) -> Any:
    """As transformers and PEFT load it."""
    auto = transformers.AutoModelForSequenceClassification
    if kind == "full":
        return auto.from_pretrained(result.output_dir).eval()
    plain = auto.from_pretrained(shop.base, num_labels=1)
    plain.config.pad_token_id = 0
    return peft.PeftModel.from_pretrained(plain, result.output_dir).eval()


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_value_of_a_beginning_is_the_classifiers(
    shop: Workshop, kind: str, request: pytest.FixtureRequest
) -> None:
    """Rows of several lengths at once: each prefix has what the plain classifier gives it alone."""
    result = request.getfixturevalue(kind)
    values = ValueModel(result.output_dir)
    plain = classifier(shop, result, kind)
    rows = [[5, 6, 7, 8, 9], [20], [30, 31, 32]]
    with torch.no_grad():
        for row, found in zip(rows, values.values(rows), strict=True):
            alone = [
                float(plain(input_ids=torch.tensor([row[: t + 1]])).logits) for t in range(len(row))
            ]
            assert found == nats(alone)
    [scored] = trimtab.score(result.output_dir, ["the cat"], ["happy dog"])
    [(prompt, response)] = values.reader.read(["the cat"], ["happy dog"])
    assert scored.reward == nats(values.values([prompt + response])[0][-1])


def test_it_guides_nothing(shop: Workshop, lora: TrainResult) -> None:
    with pytest.raises(ModelLoadError, match="was trained with --method value"):
        trimtab.load(str(shop.base), {"helpful": lora.output_dir})
    with pytest.raises(ModelLoadError, match="has no scalar head"):
        ValueModel(str(shop.base))


def test_a_response_that_was_cut_has_no_end(shop: Workshop, tmp_path: Path) -> None:
    rows = [
        {"prompt": "the cat", "text": "happy dog", "reward": 1, "finish_reason": why}
        for why in ("stop", "length")
    ]
    samples, tally = read_samples([str(write_jsonl(tmp_path / "a.jsonl", rows))])
    tokenizer = transformers.AutoTokenizer.from_pretrained(shop.base)
    whole, cut = tokenize_samples(tokenizer, samples, max_length=99, tally=tally)
    assert whole.response_ids == [*cut.response_ids, tokenizer.eos_token_id]
    assert tokenizer.decode(cut.response_ids).strip() == "happy dog"


def test_rows_that_cannot_be_used_are_counted_and_named(tmp_path: Path) -> None:
    good = {"prompt": "a", "response": "b", "score": 1}
    rows = [good, {**good, "response": " "}, {**good, "score": None}, {**good, "score": "high"}]
    path = str(write_jsonl(tmp_path / "a.jsonl", rows))
    with pytest.raises(DataError, match="jsonl:4 has score 'high'"):
        read_samples([path])
    samples, tally = read_samples([path], skip_bad_rows=True)
    assert [sample.score for sample in samples] == [1.0]
    assert tally.counts == {"the response is empty": 1, "no score": 1, "has score 'high'": 1}
    for row, match in (
        ({"prompt": "a", "response": "b"}, "has no `score`"),
        ({"response": "b", "score": 1}, "no text `prompt`"),
        ({**good, "score": True}, "score True"),
    ):
        with pytest.raises(DataError, match=match):
            read_samples([str(write_jsonl(tmp_path / "b.jsonl", [row]))])
    with pytest.raises(DataError, match="no usable row"):
        read_samples([str(write_jsonl(tmp_path / "c.jsonl", [{**good, "score": None}]))])


def test_too_long_a_row_is_left_out(shop: Workshop, tmp_path: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(shop.base)
    samples, _ = read_samples([str(shop.data)])
    tally = RowTally()
    assert tokenize_samples(tokenizer, samples[:3], max_length=99, tally=tally)
    with pytest.raises(DataError, match="none of 3 rows"):
        tokenize_samples(tokenizer, samples[:3], max_length=2, tally=tally)


def test_options_that_mean_nothing_are_refused(shop: Workshop, base_dir: Path) -> None:
    for options, match in (
        ({"beta": 0.1}, "--beta means nothing for --method value"),
        ({"columns": "prompt=question"}, "--columns means nothing"),
        ({"td_lambda": 1.5}, "--td-lambda is 1.5"),
        ({"objectives": "a,b"}, "several objectives"),
        ({"reference": "start"}, "--reference means nothing"),
    ):
        with pytest.raises(ConfigError, match=match):
            shop.train("refused", **{"method": "value", **options})
    with pytest.raises(ConfigError, match="--td-lambda means nothing for --method genarm"):
        shop.train("refused", td_lambda=0.5)
    assert not (shop.root / "refused").exists()


def test_the_command(
    base_dir: Path, samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "value"
    asked = ["train", "--model", base_dir, "--data", samples, "--output-dir", out]
    assert main([*map(str, asked), "--method", "value", "--max-steps", "2", "--json"]) == 0
    [told] = json.loads(capsys.readouterr().out)
    assert {"eval_loss", "eval_explained", "eval_n"} <= told["metrics"].keys()
    card = (out / "README.md").read_text()
    assert "VAS, arXiv 2405.06639" in card
    save_model(tmp_path / "other")
    assert ValueModel(str(out)).values([[4, 5]])
