"""`trimtab pareto` the command: its options, what it prints and says, how it ends and goes on."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sweeps
from conftest import write_jsonl
from sweeps import RULED, rows, tree, without_time

from trimtab import pareto
from trimtab.cli import show
from trimtab.cli.main import main
from trimtab.errors import TrimtabError

Capture = pytest.CaptureFixture[str]
world, in_the_world = sweeps.world, sweeps.in_the_world  # the fixtures

SCORERS = [word for name, rule in RULED.items() for word in ("--scorer", f"{name}={rule}")]
GUIDE = ("--guide", "g=loras")
SWEPT = (*GUIDE, "--seeds", 0, 1, "--preference-step", 0.5, "--costs", "brief")


def command(
    base: object, out: object, *more: object, scorers: Sequence[str] = SCORERS
) -> list[str]:
    given: list[object] = ["pareto", "--base", base, "--prompts", "prompts.jsonl"]
    given += ["--output-dir", out, "--max-new-tokens", 6, "--resamples", 100, *scorers, *more]
    return [str(argument) for argument in given]


def run(argv: Sequence[str]) -> None:
    assert main(argv) == 0


@pytest.fixture(scope="module")
def swept(base_dir: Path, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep."""
    out = tmp_path_factory.mktemp("swept") / "front"
    with contextlib.chdir(world):
        run(command(base_dir, out, *SWEPT))
    return out


def test_every_option_reaches_the_function(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    given: dict[str, Any] = {}

    def seen(**options: Any) -> None:
        given.update(options)
        raise TrimtabError("seen")

    monkeypatch.setattr("trimtab.fronts.run.pareto", seen)
    argv = """pareto --base B --prompts P --output-dir O --guide g=G --guide h=H@2 --soup s=S
        --policies m=D --combine m=forward-kl --instruct happy=I --contrast m.happy=T:U
        --scorer happy=R --scorer brief=judge:J@U --rubric brief=short --costs brief,happy
        --scorer-batch-size 2 --prompts-limit 3 --preference-step 0.25 --preference happy=1,brief=0
        --preference happy=0,brief=1 --strength 4 --seeds 5 6 --max-new-tokens 7 --temperature 0.8
        --top-k 9 --top-p 0.7 --min-p 0.1 --stop x --stop y --batch-size 10 --max-responses 11
        --normalize none --reference happy=1,brief=2 --resamples 120 --prompt-format raw
        --dtype bfloat16 --device meta --trust-remote-code base g --revision v1 h=v2 --overwrite
    """
    assert main(argv.split()) == 2
    assert capsys.readouterr().err == "trimtab: error: seen\n"
    parameters = inspect.signature(pareto).parameters
    assert set(given) == set(parameters)
    assert given.pop("say") is show.say and callable(given.pop("progress"))
    assert given == {
        "base": "B", "prompts": "P", "output_dir": "O", "guides": ["g=G", "h=H@2"],
        "policies": ["m=D"], "combine": ["m=forward-kl"],
        "instruct": ["happy=I"], "contrast": ["m.happy=T:U"],
        "soups": ["s=S"], "scorers": {"happy": "R", "brief": "judge:J@U"},
        "rubrics": {"brief": "short"}, "costs": ["brief", "happy"], "scorer_batch_size": 2,
        "prompts_limit": 3, "preference_step": 0.25,
        "preferences": ["happy=1,brief=0", "happy=0,brief=1"], "strength": 4.0, "seeds": [5, 6],
        "max_new_tokens": 7, "temperature": 0.8, "top_k": 9, "top_p": 0.7, "min_p": 0.1,
        "stop": ["x", "y"], "batch_size": 10, "max_responses": 11, "normalize": "none",
        "reference": "happy=1,brief=2", "resamples": 120, "prompt_format": "raw",
        "dtype": "bfloat16", "device": "meta", "trust_remote_code": ["base", "g"],
        "revisions": {"base": "v1", "h": "v2"}, "overwrite": True,
    }  # fmt: skip
    assert not [name for name, value in given.items() if value == parameters[name].default]


def test_the_tables_and_what_they_rest_on_are_printed(
    base_dir: Path, swept: Path, capsys: Capture
) -> None:
    run(command(base_dir, swept, *SWEPT))
    out = capsys.readouterr().out
    assert "joint front" in out and "n = 4 prompts, seeds 0, 1, 3 preferences" in out


def test_json_is_the_file(base_dir: Path, swept: Path, capsys: Capture) -> None:
    run(command(base_dir, swept, *SWEPT, "--normalize", "none", "--json"))
    front = json.loads(capsys.readouterr().out)
    assert front["normalization"]["kind"] == "none"
    assert json.loads((swept / "front.json").read_text()) == front


def test_few_prompts_are_warned_of(base_dir: Path, swept: Path, capsys: Capture) -> None:
    for more in ((), ("--json",)):
        run(command(base_dir, swept, *SWEPT, *more))
        said = "warning: intervals over 4 prompts mean little; take 10 or more"
        assert capsys.readouterr().err.splitlines() == [said]


def test_what_is_said_how_far_it_is_and_the_error_are_lines_on_stderr(
    base_dir: Path, tmp_path: Path, capsys: Capture
) -> None:
    pair = {"prompt": "cat", "chosen": "happy", "rejected": "sad"}
    path = write_jsonl(tmp_path / "pairs.jsonl", [pair, {**pair, "chosen": ""}])
    fails = [*SCORERS[:2], "--scorer", "brief=pareto_rules:unless_asked"]
    more = (*GUIDE, "--preference-step", 1, "--prompts", path)
    assert main(command(base_dir, tmp_path / "front", *more, scorers=fails)) == 2
    out, err = capsys.readouterr()
    first, *between, last = err.splitlines()
    assert first == "1 row left out: one side is empty (pairs.jsonl:2)"
    assert "scoring happy: 3/3" in between
    assert last.startswith("trimtab: error: ") and "unless_asked fails on row 1 of resp" in last
    assert out == ""


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((*GUIDE, "--max-new-tokens", 1000), "but the model reads 256"),  # it was loaded, quietly
        ((*GUIDE, "--scorer", "happy=pareto_rules:long"), "two of --scorer for 'happy'"),
        ((*GUIDE, "--scorer", "happy"), "cannot read --scorer happy; write --scorer helpful=FOLDE"),
    ],
)
def test_bad_input_is_one_line(
    more: Sequence[object], said: str, base_dir: Path, world: Path, tmp_path: Path, capsys: Capture
) -> None:
    before = tree(world)
    assert main(command(base_dir, tmp_path / "front", *more)) == 2
    out, err = capsys.readouterr()
    assert err.startswith("trimtab: error: ") and len(err.splitlines()) == 1, err
    assert said in err
    assert out == "" and not (tmp_path / "front").exists() and tree(world) == before


def test_a_killed_sweep_goes_on(base_dir: Path, world: Path, tmp_path: Path) -> None:
    more = [*GUIDE, "--preference-step", 0.1, "--batch-size", 1]
    out = tmp_path / "killed"
    child = subprocess.Popen(
        [sys.executable, "-m", "trimtab", *command(base_dir, out, *more)],
        cwd=world,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    path = out / "responses.jsonl"
    try:
        deadline = time.monotonic() + 120
        while not (path.exists() and path.read_bytes().count(b"\n") >= 6):
            assert child.poll() is None, "ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    before = path.read_bytes()
    assert 6 <= before.count(b"\n") < 48
    assert (out / "manifest.json").is_file() and not (out / "front.json").exists()
    run(command(base_dir, out, *more))
    assert path.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    whole = tmp_path / "whole"
    run(command(base_dir, whole, *more))
    assert without_time(rows(out / "records.jsonl")) == without_time(rows(whole / "records.jsonl"))


def test_help_is_free_of_torch() -> None:
    code = (
        "import sys\nfrom trimtab.cli.main import main\n"
        "try: main([sys.argv[1], '--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    )
    for name in ("pareto", "label"):
        subprocess.run([sys.executable, "-c", code, name], check=True, stdout=subprocess.DEVNULL)
