"""A small world for sweeps of preferences: guides of every kind, prompts and rules; `pareto` in it.

A test file takes the fixtures by name: `world = sweeps.world`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conditioned import save_arm
from conftest import save_model, write_jsonl
from peft import LoraConfig, get_peft_model

from trimtab import pareto

PROMPTS = [{"prompt": f"the {word} {i}"} for i, word in enumerate(["cat", "dog", "sun", "moon"])]
RULES = """
def cheerful(response): return response.count("a") + len(response) / 10
def long(prompt, response): return len(response) - len(prompt)
def moody(response): return None if "e" in response else 1
def fails(response): raise ValueError("out of words")
def unless_asked(prompt, response): return 1 / (response == "Hello there.")
def leaves(response): raise SystemExit(0)
"""
HAPPY = {"happy": "pareto_rules:cheerful"}
RULED = {**HAPPY, "brief": "pareto_rules:long"}
GUIDE = {"g": "loras"}


@pytest.fixture(scope="module")
def world(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Guides of every kind for `happy` and `brief`, prompts, and a module of rules."""
    world = tmp_path_factory.mktemp("world")
    for seed in (0, 1):
        for i, name in enumerate(("happy", "brief")):
            folder = world / "whole" / str(seed) / name
            save_model(folder, seed=10 * seed + i + 3)
            (folder / "trimtab.json").write_text(json.dumps({"objective": name}))
    for i, name in enumerate(("happy", "brief")):
        save_lora(world / "loras" / name, base_dir, seed=i)
        (world / "loras" / name / "trimtab.json").write_text(json.dumps({"objective": name}))
    save_arm(world / "parm", base_dir, "bilinear", ["brief", "happy"])
    write_jsonl(world / "prompts.jsonl", PROMPTS)
    (world / "pareto_rules.py").write_text(RULES)
    return world


def save_lora(folder: Path, base: Path, seed: int) -> None:
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    for name, tensor in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(tensor, std=0.5)
    adapted.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(folder)


@pytest.fixture(autouse=True)
def in_the_world(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)


def sweep(base: Path, out: Path, /, **options: Any) -> dict[str, Any]:
    """`pareto` on the world's prompts with its rules, short and quick, but for these options."""
    given: dict[str, Any] = {"base": str(base), "prompts": "prompts.jsonl", "scorers": RULED}
    given |= {"output_dir": out, "max_new_tokens": 6, "resamples": 100}
    return pareto(**{**given, **options})


def rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def without_time(found: list[Any]) -> list[Any]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found]


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts
    }
