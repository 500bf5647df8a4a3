"""What needs no weights is refused before they are loaded; most of it before PyTorch is."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import conditioned
import pytest
import test_bad_input
from conftest import save_model, write_jsonl
from test_bad_input import GOOD, Refused

from trimtab.cli.main import main

refused = test_bad_input.refused  # the fixture: it looks at tmp_path before and after

RUN = """
import contextlib, io, json, sys
from trimtab.cli.main import main

found = []
for argv in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as said:
        code = main(argv)
    found.append([code, said.getvalue(), "torch" in sys.modules])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def parm(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return conditioned.save_arm(tmp_path_factory.mktemp("parm") / "arm", base_dir, "bilinear")


@pytest.fixture(scope="module")
def lora(base_dir: Path, pairs_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lora") / "arm"
    command = ["train", "--model", base_dir, "--data", pairs_file, "--output-dir", out]
    command += ["--max-steps", 1, "--eval-strategy", "no"]
    assert main([str(argument) for argument in command]) == 0
    return out


def test_before_pytorch_is_imported(
    base_dir: Path, pairs_file: Path, parm: Path, lora: Path, tmp_path: Path
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("")
    odd = write_jsonl(tmp_path / "odd.jsonl", [{"question": "x", "answer": "y"}])
    new = tmp_path / "new"
    at = ["--preference", "a=1,b=0,c=0"]
    train = ["train", "--model", base_dir, "--data", pairs_file, "--output-dir"]
    score = ["score", "--input", pairs_file, "--arm"]
    calibrate = ["calibrate", "--base", base_dir, "--prompts", pairs_file, "--arm"]
    rules = ["--scorer", "a=string:capwords", "--scorer", "b=string:capwords"]
    pareto = ["pareto", "--base", base_dir, "--prompts", pairs_file, "--output-dir", new, *rules]
    own = write_jsonl(tmp_path / "own.jsonl", [{"prompt": "x", "instructions": {"a": "y"}}])
    generate = ["generate", "--base", base_dir, "--input", own]
    cases: list[tuple[list[object], str]] = [
        (["export", "--arm", parm, *at, "--output-dir", full], "is not empty"),
        (["export", "--arm", lora, "--output-dir", new], "is a standard LoRA folder"),
        (["export", "--arm", parm, "--output-dir", new], "no preference to export at"),
        (["export", "--arm", base_dir, "--output-dir", new], "is a whole model"),
        (["accuracy", "--arm", parm, "--data", pairs_file], "choose what to measure"),
        (["accuracy", "--arm", lora, "--data", odd], "odd.jsonl"),
        ([*score, lora, *at], "takes no preference"),
        ([*score, parm, "--preference", "funny=1"], "unknown objective 'funny'"),
        ([*score, lora, "--output", pairs_file], "holds rows of another run"),
        ([*train, full], "is not empty"),
        ([*train, new, "--model", lora], "is an adapter"),
        ([*train, new, "--data", odd], "odd.jsonl"),
        ([*train, new, "--data", pairs_file, "--method", "parm"], "names no objective"),
        (["demo", "--output-dir", full], "is not empty"),
        ([*calibrate, lora], "nothing to calibrate to"),
        ([*calibrate, "some/arm", "--target-kl", "1", "--save"], "is on the hub"),
        ([*calibrate, lora, "--target-kl", "1", "--output-dir", full], "is not empty"),
        ([*pareto, "--instruct", "a=x"], "guide 'instructions' steers to a, but the scorers"),
        ([*pareto, "--contrast", f"a={parm}:{lora}", "--contrast", f"b={lora}:{lora}"], "is condi"),
        ([*generate, "--instruct", "plain=x"], "row 1 of the input: no instruction is called 'a'"),
        (["bench", "speed", "--output-dir", full], "is not empty"),
        (["compare", odd, pairs_file, *rules], "odd.jsonl:1 is no answer"),
        ([*generate[:3], "--input", pairs_file, "--alpaca-eval", new], "give --generator NAME"),
    ]
    commands = json.dumps([[str(word) for word in command] for command, _ in cases])
    done = subprocess.run(
        [sys.executable, "-c", RUN, commands], capture_output=True, text=True, check=True
    )
    for (command, words), (code, said, heavy) in zip(cases, json.loads(done.stdout), strict=True):
        assert code == 2 and words in said and len(said.splitlines()) == 1, (command, said)
        assert not heavy, command
    assert not new.exists()


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: object, **options: object) -> None:
        pytest.fail("weights were loaded")

    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", load)


@pytest.mark.usefixtures("no_weights")
def test_before_weights_are_loaded(
    refused: Refused, base_dir: Path, pairs_file: Path, tmp_path: Path
) -> None:
    train = ["train", "--model", base_dir, "--data", pairs_file, "--output-dir", tmp_path / "out"]
    refused(*train, "--lora-target-modules", "nonsense", names=["matches no layer", "q_proj"])
    refused(*train, "--max-length", 3, names=["fits in --max-length 3"])
    long = write_jsonl(tmp_path / "long.jsonl", [{**GOOD, "chosen": "happy " * 400}] * 20)
    more = ["--data", long, "--split", "none", "--max-length", 4000]
    refused(*train, *more, names=["the model reads 256"])


def test_another_model_in_the_place_of_the_one_trained_on(
    refused: Refused, base_dir: Path, pairs_file: Path, tmp_path: Path, request: Any
) -> None:
    """Its adapter fits, and would give other rewards: it is refused wherever it meets the model."""
    base, arm = tmp_path / "base", tmp_path / "arm"
    shutil.copytree(base_dir, base)
    command = ["train", "--model", base, "--data", pairs_file, "--output-dir", arm]
    assert main([str(word) for word in [*command, "--max-steps", 1, "--eval-strategy", "no"]]) == 0
    save_model(base, seed=7)
    request.getfixturevalue("capsys").readouterr()
    request.getfixturevalue("no_weights")
    named = [f"{base} no longer holds the weights", str(arm), "base_fingerprint"]
    refused("generate", "--base", base, "--arm", f"a={arm}", "--prompt", "x", names=named)
    refused("score", "--arm", arm, "--input", pairs_file, names=named)
    refused("accuracy", "--arm", arm, "--data", pairs_file, names=named)
    refused("export", "--arm", arm, "--merge", "--output-dir", tmp_path / "new", names=named)
