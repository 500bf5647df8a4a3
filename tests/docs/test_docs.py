"""Docs cannot drift: the README's lines run, and the reference is what the commands say."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from classifiers import classifier, saved
from conftest import save_model, write_jsonl
from gguf_files import write_gguf
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import trimtab
from trimtab.arms.objectives import conditioned_on
from trimtab.cli.main import main
from trimtab.methods.registry import METHODS as SEARCHES
from trimtab.models.packaged import MODELS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_six_lines_of_the_readme_run(tmp_path: Path) -> None:
    if not MODELS["smollm2"].folder.is_dir():
        pytest.skip(f"{MODELS['smollm2'].name} is not here (make models)")
    [code] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(code.splitlines()) == 6
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    frozen, steered = re.split(r"^1\.0 ", result.stdout, flags=re.MULTILINE)
    assert frozen.startswith("0.0 ") and len(frozen.split()) > 10
    assert len(steered.split()) > 10 and steered.strip() != frozen[4:].strip()


def commands_of(page: str) -> list[list[str]]:
    """A page's `trimtab …` lines, continuation lines joined, as argument lists."""
    text = page.replace("\\\n", " ")
    lines = re.findall(r"^    trimtab (.*)$", text, flags=re.MULTILINE)
    return [shlex.split(line) for line in lines]


MODEL_NAMES = (
    "MODEL",
    "TUNED",
    "UNTUNED",
    "LARGE",
    "SMALL",
    "SMALL_INSTRUCT",
    "DPO",
    "OTHER_MODEL",
)
LORA_NAMES = ("HELPFUL", "HARMLESS")
REWARD_MODEL_NAMES = ("REWARD_MODEL", "OTHER_REWARD_MODEL", "VALUE_MODEL")
METHODS = sorted((ROOT / "docs/methods").glob("*.md"))
COMPARE = ROOT / "docs/compare.md"
ACCURACY = ROOT / "docs/accuracy.md"
PAGES = [ROOT / "README.md", ROOT / "docs/data.md", ACCURACY, COMPARE, *METHODS]


def blocks_of(page: Path) -> list[str]:
    """A page's Python, with answers of a few tokens."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    return [re.sub(r"max_new_tokens=\d+", "max_new_tokens=3", block) for block in blocks]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every model that the pages name."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(MODEL_NAMES):
        save_model(folder / name, seed)
    for seed, name in enumerate(LORA_NAMES):
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(folder / "MODEL")
        config = LoraConfig(task_type="CAUSAL_LM", r=2, init_lora_weights=False)
        get_peft_model(base, config).save_pretrained(folder / name)
    for seed, name in enumerate(REWARD_MODEL_NAMES):
        saved(folder / name, classifier(seed=seed))
    return folder


WITH_PYTHON = [page for page in (COMPARE, *METHODS) if blocks_of(page)]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(
    page: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: dict[str, Any] = {folder.name: str(folder) for folder in models.iterdir()}
    names["PROMPTS"] = str(write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "hello"}]))
    names["VALUES"] = names["VALUE_MODEL"]
    monkeypatch.chdir(tmp_path)
    for block in blocks_of(page):
        exec(block, names)  # a block goes on from the one before


def test_every_search_method_has_a_page_with_python_and_a_command() -> None:
    table = (ROOT / "docs/methods/search.md").read_text(encoding="utf-8")
    linked = dict(re.findall(r"^\| \[`(.*?)`\]\((.*?)\)", table, flags=re.MULTILINE))
    assert list(linked) == list(SEARCHES)
    for name, page in linked.items():
        text = (ROOT / "docs/methods" / page).read_text(encoding="utf-8")
        assert any(f"--method {name} " in shlex.join(c) for c in commands_of(text)), name
        assert f'trimtab.search(engine, "{name}"' in text, name


def _trained_here(folder: str, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    trimtab.train(output_dir=folder, seed=seed, **options)
    return {"train_seconds": 0.0, "train_loss": 0.0, "peak_bytes": 0}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_command_lines_of_a_page_run(
    page: Path,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(models, tmp_path, dirs_exist_ok=True)
    write_gguf(tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf")  # tests/real runs the real one
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    rows = [
        {"prompt": f"the cat {i}", "chosen": "happy dog", "rejected": "sad cat"} for i in range(40)
    ]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    labels = {"helpful": 0, "harmless": 1}
    write_jsonl(tmp_path / "labelled.jsonl", [{**row, "labels": labels} for row in rows])
    for name in ("helpful", "harmless"):
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    _write_published(tmp_path)
    rules = "def short(response): return -len(response)\ndef kind(response): return response < 'm'"
    (tmp_path / "rules.py").write_text(rules)
    monkeypatch.delitem(sys.modules, "rules", raising=False)  # other tests have rules of their own
    scored = [
        {"prompt": row["prompt"], "response": row[side], "score": score}
        for row in rows
        for side, score in (("chosen", 1), ("rejected", -0.5))
    ]
    write_jsonl(tmp_path / "scored.jsonl", scored)
    write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "hello"}, {"prompt": "yes", "strength": 0}])
    write_jsonl(tmp_path / "alpaca.jsonl", [{"instruction": "hello", "dataset": "koala"}])
    other = [{"instruction": "hello", "output": "happy dog", "generator": "other"}]
    (tmp_path / "other.json").write_text(json.dumps(other))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.input", _end_of_input)
    # tests/cli/test_tables.py has them in processes of their own
    monkeypatch.setattr("trimtab.bench.tables.training.trained", _trained_here)
    commands = commands_of(page.read_text(encoding="utf-8"))
    commands = [c for c in commands if c[0] != "serve"]  # test_serve_page.py
    assert commands
    for command in commands:
        if command[0] == "train" and (tmp_path / "arms").exists():
            command += ["--overwrite"]  # the README's second train line shows another way
        small = ["--shape", "5m", "--repeats", "1", "--new-tokens", "2", "--no-memory"]
        short = ["--max-new-tokens", "4"]
        sweep = [*short, "--preference-step", "0.5", "--resamples", "100"]
        curve = [*short, "--strengths", "0,0.5,1", "--resamples", "100"]
        table = ["--pairs=4", "--judge-pairs=4", "--test-pairs=2", "--prompts=1", "--seeds=1"]
        table += ["--search-prompts=2", "--max-new-tokens=3", "--methods", "base"]
        bench = small if command[:2] == ["bench", "speed"] else table
        more = {"generate": short, "chat": short, "bench": bench, "pareto": sweep}
        more["calibrate"] = curve
        more["distill"] = [*short, "--samples", "1", "--max-steps", "2"]
        extra = more.get(command[0], [])
        assert main([*command, *extra]) == 0, (command, capsys.readouterr().err)
    if page.stem == "README":
        assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2
        assert (tmp_path / "arms/harmless/adapter_model.safetensors").is_file()
        assert (tmp_path / "front/front.png").is_file()
    if page.stem == "data":
        aspects = ["helpfulness", "honesty", "truthfulness"]
        assert conditioned_on("arms/ultrafeedback") == aspects
        assert conditioned_on("arms/helpsteer2") == ["helpfulness", "coherence", "verbosity"]


def test_the_lines_of_the_page_on_transformers_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path / "MODEL")
    save_model(tmp_path / "arms" / "helpful", seed=1)
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/transformers.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(code, {})
    answers = capsys.readouterr().out
    assert answers.startswith("[") and answers.count("bread") == 1


def _write_published(folder: Path) -> None:
    """Rows made up in the shape of UltraFeedback and HelpSteer2, and a table of no known layout."""
    answers = [("happy dog", (5, 1, 2)), ("sad cat", (2, 3, 5)), ("the dog", (1, 2, 3))]
    aspects = ("helpfulness", "honesty", "truthfulness")
    completions = [
        {
            "response": text,
            "annotations": {
                name: {"Rating": str(rating)} for name, rating in zip(aspects, own, strict=True)
            },
            "overall_score": float(sum(own)),
        }
        for text, own in answers
    ]
    prompts = [f"the cat {i}" for i in range(40)]
    rated = [{"instruction": prompt, "completions": completions} for prompt in prompts]
    write_jsonl(folder / "ultrafeedback.jsonl", rated)
    columns = ("helpfulness", "coherence", "verbosity")
    one_each = [
        {"prompt": prompt, "response": text, **dict(zip(columns, own, strict=True))}
        for prompt in prompts
        for text, own in answers[:2]
    ]
    write_jsonl(folder / "helpsteer2.jsonl", one_each)
    lines = [f"the cat {i};happy dog;sad cat" for i in range(40)]
    (folder / "mine.csv").write_text("\n".join(["question;good;bad", *lines]) + "\n")


def _end_of_input(prompt: str = "") -> str:
    raise EOFError


def test_the_reference_is_what_the_commands_say() -> None:
    script = [sys.executable, str(ROOT / "docs/generate.py"), "--check"]
    assert subprocess.run(script).returncode == 0, "stale: run `make docs`"


def test_links_in_the_docs_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), (page.name, target)
