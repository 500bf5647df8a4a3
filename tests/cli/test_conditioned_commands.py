"""One ARM for every preference, by the commands alone: train, steer, judge, export, measure."""

from __future__ import annotations

import io
import json
import logging
import sys
from pathlib import Path

import pytest
from conftest import write_jsonl
from rounding import nats
from test_commands import rows, run, run_json

from trimtab import steering
from trimtab.arms.conditioned import ConditionedConfig
from trimtab.cli.main import main

Capture = pytest.CaptureFixture[str]
HAPPY, SAD = "happy happy the dog", "sad sad the cat sat"
QUICK = [
    "--max-steps", 100, "--per-device-train-batch-size", 8, "--gradient-accumulation-steps", 1,
    "--learning-rate", 0.01, "--beta", 0.1, "--lora-dropout", 0, "--preference-draws", "row",
    "--split", "none", "--save-strategy", "no",
]  # fmt: skip
GREEDY = ["--temperature", 0, "--max-new-tokens", 6]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pairs: `up` wants happy and `down` sad. In one file with labels, and in two without."""
    folder = tmp_path_factory.mktemp("data")
    pairs = [{"prompt": f"the cat {i}", "chosen": HAPPY, "rejected": SAD} for i in range(40)]
    write_jsonl(folder / "both.jsonl", [{**p, "labels": {"up": 0, "down": 1}} for p in pairs])
    write_jsonl(folder / "up.jsonl", pairs)
    turned = [{**p, "chosen": SAD, "rejected": HAPPY} for p in pairs]
    write_jsonl(folder / "down.jsonl", turned)
    return folder


@pytest.fixture(scope="module")
def parm(base_dir: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "parm"
    run(
        "train", "--method", "parm", "--model", base_dir, "--data", data / "both.jsonl",
        "--output-dir", out, *QUICK,
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def uniarm(base_dir: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From a file for each objective."""
    out = tmp_path_factory.mktemp("trained") / "uniarm"
    run(
        "train", "--method", "uniarm", "--model", base_dir, "--output-dir", out,
        "--data", f"up={data / 'up.jsonl'}", f"down={data / 'down.jsonl'}",
        "--describe", "up=happy and good", "down=sad and bad", *QUICK,
    )  # fmt: skip
    return out


@pytest.fixture(params=["parm", "uniarm"])
def arm(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


# --- train --------------------------------------------------------------------------------------


def test_what_training_leaves(arm: Path, base_dir: Path) -> None:
    names = {path.name for path in arm.iterdir()}
    assert names >= {
        "adapter_config.json", "adapter_model.safetensors", "README.md", "trimtab.json",
        "tokenizer.json", "run.json", "results.json", "metrics.jsonl",
    }  # fmt: skip
    assert not [name for name in names if name.startswith(".") or name.endswith(".bin")]
    config, facts = ConditionedConfig.load(arm), json.loads((arm / "trimtab.json").read_text())
    method = {"bilinear": "parm", "affine": "uniarm"}[config.core]
    assert config.objectives == ("up", "down") and arm.name == method == facts["method"]
    assert config.base_model_name_or_path == str(base_dir)
    assert config.descriptions == (
        {"up": "happy and good", "down": "sad and bad"} if method == "uniarm" else {}
    )
    assert (facts["objective"], facts["betas"]) == ("", {"up": 0.1, "down": 0.1})
    card = (arm / "README.md").read_text()
    assert f"trimtab generate --base {base_dir} --arm {arm} --preference up=0.5,down=0.5" in card
    assert "library_name: trimtab" in card


def test_train_says_what_it_made(
    base_dir: Path, data: Path, tmp_path: Path, capsys: Capture, caplog: pytest.LogCaptureFixture
) -> None:
    command = ["train", "--method", "parm", "--model", base_dir, "--max-steps", 1]
    command += ["--data", data / "both.jsonl", "--objectives", "down,up", "--save-strategy", "no"]
    run(*command, "--output-dir", tmp_path / "said", "--eval-strategy", "no")
    assert f"down+up is in {tmp_path / 'said'}" in capsys.readouterr().out
    assert "pairs judged on: down 40, up 40" in [record.message for record in caplog.records]
    assert ConditionedConfig.load(tmp_path / "said").objectives == ("down", "up")
    [found] = run_json(capsys, *command, "--output-dir", tmp_path / "json")
    assert found["objective"] == "down+up"
    assert {"eval_accuracy_up", "eval_accuracy_down"} < found["metrics"].keys()


# --- accuracy and score -------------------------------------------------------------------------


def test_accuracy_of_each_objective(arm: Path, data: Path, capsys: Capture) -> None:
    """Each with all of the preference on it: opposite verdicts, and both are ranked right."""
    for name in ("up", "down"):
        command = ["accuracy", "--arm", arm, "--data", data / "both.jsonl", "--split", "all"]
        found = run_json(capsys, *command, "--objective", name)
        assert (found["arm"]["value"], found["arm"]["n"]) == (1.0, 40)


def test_score_at_a_preference(arm: Path, tmp_path: Path, capsys: Capture) -> None:
    given = [{"prompt": "the cat 3", "response": text} for text in (HAPPY, SAD)]
    command = ["score", "--arm", arm, "--input", write_jsonl(tmp_path / "in.jsonl", given)]
    ahead = []
    for preference in ("up=1,down=0", "up=0.5,down=0.5", "up=0,down=1"):
        happy, sad = run_json(capsys, *command, "--preference", preference)
        ahead.append(happy["reward"] - sad["reward"])
    assert ahead[0] > 5 and ahead[2] < -5 and ahead[0] > ahead[1] > ahead[2]
    happy, sad = run_json(capsys, *command)  # all objectives alike
    assert happy["reward"] - sad["reward"] == nats(ahead[1])


def test_scores_for_another_preference_are_another_job(
    parm: Path, tmp_path: Path, capsys: Capture
) -> None:
    given = [{"prompt": "the cat 3", "response": HAPPY}]
    out = tmp_path / "out.jsonl"
    command = ["score", "--arm", parm, "--output", out]
    command += ["--input", write_jsonl(tmp_path / "in.jsonl", given)]
    run(*command, "--preference", "up=1,down=0")
    before = out.read_bytes()
    assert main([*map(str, command), "--preference", "up=0,down=1"]) == 2
    assert "holds rows of another run" in capsys.readouterr().err
    assert out.read_bytes() == before


# --- generate and chat --------------------------------------------------------------------------


def test_generate(arm: Path, base_dir: Path, capsys: Capture) -> None:
    command = ["generate", "--base", base_dir, "--prompt", "the cat 3", *GREEDY]
    steered = [*command, "--arm", arm, "--strength", 20]
    [found] = run_json(capsys, *steered, "--preference", "up=0.7,down=0.3")
    assert found["preference"] == {"up": 0.7, "down": 0.3}
    [up] = run_json(capsys, *steered, "--preference", "up=1,down=0")
    [down] = run_json(capsys, *steered, "--preference", "down=1,up=0")
    [base] = run_json(capsys, *command)
    assert len({up["text"], down["text"], base["text"]}) == 3
    [alike] = run_json(capsys, *steered)
    assert alike["preference"] == {"up": 0.5, "down": 0.5}
    [off] = run_json(capsys, *command, "--arm", arm, "--strength", 0)
    assert off["text"] == base["text"]
    run(*steered, "--preference", "up=1,down=0")  # streamed
    assert capsys.readouterr().out == up["text"] + "\n"


def test_generate_with_a_preference_for_each_row(arm: Path, base_dir: Path, tmp_path: Path) -> None:
    """In one batch, and each row as it would be alone."""
    wanted = ["up=1,down=0", "up=0,down=1", None, {"down": 0.25, "up": 0.75}]
    given = [{"prompt": f"the cat {i}", "preference": p} for i, p in enumerate(wanted)]
    out = tmp_path / "out.jsonl"
    command = ["generate", "--base", base_dir, "--arm", arm, "--strength", 5, *GREEDY]
    files = ["--input", write_jsonl(tmp_path / "in.jsonl", given), "--output", out]
    run(*command, *files, "--preference", "up=0.4,down=0.6")
    found = rows(out)
    assert [row["preference"] for row in found] == [
        {"up": 1.0, "down": 0.0}, {"up": 0.0, "down": 1.0}, {"up": 0.4, "down": 0.6},
        {"up": 0.75, "down": 0.25},
    ]  # fmt: skip
    alone = tmp_path / "alone.jsonl"
    run(*command, *files[:2], "--output", alone, "--preference", "up=0.4,down=0.6",
        "--batch-size", 1)  # fmt: skip
    assert [row["text"] for row in rows(alone)] == [row["text"] for row in found]


def test_chat(arm: Path, base_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    lines = [
        "the cat 3", "/reset", "/preference up=0,down=3", "the cat 3", "/preference up=1",
        "/preference up=1,sad=1", "/reset", "the cat 3", "/quit",
    ]  # fmt: skip
    models = ["--base", base_dir, "--arm", arm, "--strength", 20, *GREEDY]
    [[up], [down]] = (
        run_json(capsys, "generate", *models, "--prompt", "the cat 3", "--preference", preference)
        for preference in ("up=1,down=0", "up=0,down=1")
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    run("chat", *models, "--preference", "up=1,down=0")
    out, err = capsys.readouterr()
    assert "[preference up=1, down=0; strength 20]\n" + up["text"] + "\n" in out
    assert "[preference up=0, down=1; strength 20]\n" + down["text"] + "\n" in out
    # A bad command is one line and leaves the preference as it was.
    assert out.count(down["text"] + "\n") == 2
    assert [line for line in err.splitlines() if line.startswith("trimtab: ")][-2:] == [
        "trimtab: the preference has no weight for down; weight every objective (up, down), with 0 "
        "where it should not count",
        "trimtab: unknown objective 'sad'; the objectives here are: up, down",
    ]


def test_weights_that_do_not_sum_to_one_are_said_once(
    parm: Path, base_dir: Path, tmp_path: Path, capsys: Capture, caplog: pytest.LogCaptureFixture
) -> None:
    steering._say_normalised_once.cache_clear()
    caplog.set_level(logging.WARNING)
    given = [{"prompt": "the cat"}, {"prompt": "the dog", "preference": "up=3,down=1"}]
    path = write_jsonl(tmp_path / "in.jsonl", given)
    command = ["generate", "--base", base_dir, "--arm", parm, "--input", path, *GREEDY]
    found = run_json(capsys, *command, "--preference", "up=3,down=1")
    assert [row["preference"] for row in found] == [{"up": 0.75, "down": 0.25}] * 2
    said = [record.message for record in caplog.records if "normalised" in record.message]
    assert said == ["preference weights sum to 4, not 1: they are normalised"]


def test_an_objective_that_is_only_described(
    uniarm: Path, base_dir: Path, capsys: Capture, caplog: pytest.LogCaptureFixture
) -> None:
    """A third objective takes part; with all of the preference it steers in its own way."""
    command = ["generate", "--base", base_dir, "--arm", uniarm, "--prompt", "the cat 3", *GREEDY]
    command += ["--report"]
    [up] = run_json(capsys, *command, "--preference", "up=1,down=0")
    more = ["--describe", "brief=please"]
    [found] = run_json(capsys, *command, *more, "--preference", "up=0,down=0,brief=1")
    assert found["preference"] == {"up": 0.0, "down": 0.0, "brief": 1.0}
    [still] = run_json(capsys, *command, *more, "--preference", "up=1,down=0,brief=0")
    firsts = [row["tokens"][0]["rewards"]["up+down"] for row in (up, still, found)]
    assert firsts[0] == nats(firsts[1])
    assert abs(firsts[0] - firsts[2]) > 0.01
    assert "brief is known by description only, which is experimental" in caplog.text


# --- export and bench ---------------------------------------------------------------------------


@pytest.mark.parametrize("merge", [False, True])
def test_export_then_generate(
    arm: Path, base_dir: Path, tmp_path: Path, capsys: Capture, merge: bool
) -> None:
    out, preference = tmp_path / "out", "up=0.9,down=0.1"
    options = ["--merge"] if merge else []
    run("export", "--arm", arm, "--preference", preference, "--output-dir", out, *options)
    kind = "a whole model" if merge else "a standard LoRA"
    said = capsys.readouterr().out
    assert f"{kind} is in {out}\n" in said
    has_bias = arm.name == "uniarm" and not merge
    assert has_bias == ("PEFT applies it, the same but for rounding, but cannot merge it" in said)
    command = ["generate", "--base", base_dir, "--prompt", "the cat 3", *GREEDY, "--strength", 3]
    [wanted] = run_json(capsys, *command, "--arm", arm, "--preference", preference)
    [found] = run_json(capsys, *command, "--arm", f"mix={out}")
    assert found["text"] == wanted["text"] and found["preference"] == {"mix": 1.0}
    [found] = run_json(capsys, *command, "--arm", out)  # called by what it was trained for
    assert found["text"] == wanted["text"] and found["preference"] == {"up+down": 1.0}


def test_bench_of_a_conditioned_arm(arm: Path, base_dir: Path, capsys: Capture) -> None:
    small = ["--points", "2x4", "--new-tokens", 2, "--repeats", 1, "--no-memory"]
    command = ["bench", "speed", "--base", base_dir, "--arm", arm, *small, "--rows", "guided"]
    names = [row["name"] for row in run_json(capsys, *command)["rows"]]
    assert "guided" in names and names[0] == "base alone"
