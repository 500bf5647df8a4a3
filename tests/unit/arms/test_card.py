"""Model cards: metadata that the hub takes, and text that tells the truth."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl
from hub_server import metadata_errors
from huggingface_hub import ModelCard

import trimtab
from trimtab.arms.card import Made, is_hub_id, model_card
from trimtab.arms.sidecar import Sidecar
from trimtab.cli.main import main
from trimtab.stats import share

METHODS = ("genarm", "parm", "uniarm", "trajectory")


def made(method: str, **changes: Any) -> Made:
    conditioned = method in ("parm", "uniarm")
    measured = ("helpful", "harmless") if conditioned else ("helpful",)
    facts: dict[str, Any] = {
        "model": "acme/base",
        "place": "alice/arm",
        "is_adapter": True,
        "objectives": measured if conditioned else (),
        "data": ["acme/pairs:train", "mine: 1.jsonl"],
        "datasets": ["acme/pairs"],
        "pairs": {"train": 800, "validation": 100},
        "accuracy": {name: share(70 + i, 100) for i, name in enumerate(measured)},
        "results": {"eval_accuracy": 0.7, "train_loss": 0.5},
        "settings": {"lora_r": 8},
    }
    return Made(**{**facts, **changes})


def sidecar(method: Any) -> Sidecar:
    own = "helpful" if method in ("genarm", "trajectory") else ""
    return Sidecar(method=method, objective=own, command="trimtab train --x 'a b'")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", ["acme/base", "gpt2", "/home/me/base", "./base", "a/b/c.gguf"])
def test_the_metadata_comes_back_as_it_went(tmp_path: Path, method: str, model: str) -> None:
    (tmp_path / "README.md").write_text(model_card(sidecar(method), made(method, model=model)))
    card = ModelCard.load(tmp_path / "README.md")
    front = card.data
    assert metadata_errors(card.content) == []
    at_hub = model in ("acme/base", "gpt2")
    assert front.base_model == (model if at_hub else None)
    assert front.get("base_model_relation") == ("adapter" if at_hub else None)
    assert front.datasets == ["acme/pairs"] and front.license is None
    assert front.library_name == ("trimtab" if method in ("parm", "uniarm") else "peft")
    judges = method == "trajectory"
    assert front.pipeline_tag == ("text-classification" if judges else "text-generation")
    assert {"trimtab", "reward-model", method} <= set(front.tags)
    wanted = {"helpful": 0.7, **({"harmless": 0.71} if front.library_name == "trimtab" else {})}
    found = {result.dataset_config: result for result in front.eval_results}
    assert {name: result.metric_value for name, result in found.items()} == wanted
    for result in found.values():
        assert result.metric_type == "accuracy" and "n=100, 95 % interval 0." in result.metric_name
    assert f"`{model}`" in card.text  # what is no id is said in words


def test_nothing_is_claimed_that_was_not_measured() -> None:
    text = model_card(sidecar("genarm"), made("genarm", accuracy={}, results={}, datasets=[]))
    assert "model-index" not in text and "datasets:" not in text
    assert "Not measured when it was trained" in text


def test_the_interval_is_wilsons() -> None:
    """Wilson (1927): 70 of 100 is .604 to .781."""
    text = model_card(sidecar("genarm"), made("genarm"))
    assert "| helpful | 0.700 | 0.604 – 0.781 | 100 |" in text


@pytest.mark.parametrize("method", ["genarm", "parm", "trajectory"])
def test_its_lines_run(
    method: str, base_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The card of a model just trained, executed as it stands: Python and the command line."""
    labels = {"up": 0, "down": 1}
    rows = [
        {"prompt": f"the cat {i}", "chosen": "happy dog", "rejected": "sad cat", "labels": labels}
        for i in range(40)
    ]
    data = write_jsonl(tmp_path / "pairs.jsonl", rows)
    names = "up,down" if method == "parm" else "up"
    out = tmp_path / "arm"
    trimtab.train(
        model=base_dir, data=data, output_dir=out, objectives=names, method=method, max_steps=1
    )
    card = ModelCard.load(out / "README.md")
    assert metadata_errors(card.content) == []
    [code] = re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL)
    assert len(code.splitlines()) <= 6
    capsys.readouterr()
    exec(code, {})
    assert capsys.readouterr().out.strip()
    commands = re.findall(r"^    trimtab (generate .*)$", card.text, flags=re.MULTILINE)
    assert len(commands) == (method != "trajectory")
    for command in commands:
        assert main([*shlex.split(command), "--max-new-tokens", "2"]) == 0
    found = json.loads((out / "results.json").read_text())
    own = found.get("eval_accuracy_up", found["eval_accuracy"])
    n = int(found["eval_n"]) // len(names.split(","))
    assert re.search(rf"\| up \| {own:.3f} \| .* \| {n} \|", card.text)


def test_an_exported_bias_is_told() -> None:
    facts = Sidecar(method="uniarm", objective="a+b", preference="a=0.5,b=0.5")
    plain, biased = (
        model_card(facts, Made("acme/base", "x/y", True, has_bias=bias)) for bias in (False, True)
    )
    assert "cannot merge" not in plain and "which PEFT applies and cannot merge" in biased
    assert {"a", "b"} <= set(ModelCard(plain).data.tags)


def test_what_is_at_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "here").mkdir(parents=True)
    names = ("gpt2", "a/b", "owner/here", "/a/b", "a/b/c", "../x", "")
    assert list(filter(is_hub_id, names)) == ["gpt2", "a/b"]
