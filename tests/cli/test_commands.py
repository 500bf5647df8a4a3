"""The commands end to end on tiny random models."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import make_tokenizer, save_model, write_jsonl
from rounding import nats

from trimtab.arms.reward_model import RewardModel
from trimtab.cli.main import COMMANDS, main
from trimtab.models.folder import is_adapter

Capture = pytest.CaptureFixture[str]


def run(*argv: object) -> None:
    assert main([str(argument) for argument in argv]) == 0


def run_json(capsys: Capture, *argv: object) -> Any:
    capsys.readouterr()
    run(*argv, "--json")
    return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)  # NaN is no JSON


def rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


@pytest.fixture(scope="module")
def trained(base_dir: Path, pairs_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA ARM for `happy`, from the command line. Underscores and TRL's names are accepted."""
    out = tmp_path_factory.mktemp("trained") / "happy"
    run(
        "train", "--model_name_or_path", base_dir, "--data", pairs_file, "--output_dir", out,
        "--objectives", "happy", "--lora-r", 4, "--num_train_epochs", 8, "--learning-rate", 0.02,
        "--per_device_train_batch_size", 16, "--gradient-accumulation-steps", 1,
        "--eval-strategy", "no", "--save-strategy", "no",
    )  # fmt: skip
    return out


# --- train, accuracy, score, generate, chat -----------------------------------------------------


def test_train_leaves_a_standard_adapter(trained: Path, base_dir: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert names >= {
        "adapter_config.json", "adapter_model.safetensors", "README.md", "trimtab.json",
        "tokenizer.json", "run.json", "results.json", "metrics.jsonl",
    }  # fmt: skip
    assert not [name for name in names if name.startswith(".")]
    config = json.loads((trained / "adapter_config.json").read_text())
    assert (config["r"], config["base_model_name_or_path"]) == (4, str(base_dir))
    facts = json.loads((trained / "trimtab.json").read_text())
    assert (facts["objective"], facts["method"]) == ("happy", "genarm")


def test_accuracy(trained: Path, pairs_file: Path, capsys: Capture) -> None:
    command = ["accuracy", "--arm", trained, "--data", pairs_file, "--split", "all"]
    found = run_json(capsys, *command)
    assert found["arm"]["n"] == 40
    assert found["arm"]["value"] == 1.0  # every pair says the same, and it was trained on most
    assert found["longer"]["value"] == 0.5  # both sides have 19 characters: ties count one half
    assert found["rows"] == {"read": 40}
    assert (found["model"], found["data"]) == (str(trained), [str(pairs_file)])
    assert (found["objective"], found["split"], found["n"]) == ("happy", "all", 40)
    run(*command)
    said = capsys.readouterr().out
    assert "prefer longer" in said and "pairs ranked right on happy (all split)" in said


def test_score(trained: Path, pairs_file: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "rewards.jsonl"
    # Batches of one: the file is written in many pieces, none of which may be lost.
    run("score", "--arm", trained, "--input", pairs_file, "--output", out, "--batch-size", 1)
    found = rows(out)
    assert [row["source"] for row in found[:2]] == [
        "pairs.jsonl:1 chosen",
        "pairs.jsonl:1 rejected",
    ]
    assert len(found) == 80
    for row in found:
        assert "".join(row["tokens"]) == row["response"] + "<|end|>"
        assert row["reward"] == nats(sum(row["token_rewards"]))
    for chosen, rejected in zip(found[::2], found[1::2], strict=True):
        assert chosen["reward"] > rejected["reward"]
    before = out.read_bytes()
    run("score", "--arm", trained, "--input", pairs_file, "--output", out)  # complete: no change
    assert out.read_bytes() == before


def test_score_given_responses(trained: Path, tmp_path: Path, capsys: Capture) -> None:
    given = [{"prompt": "the cat", "response": text} for text in ("happy", "sad")]
    path = write_jsonl(tmp_path / "given.jsonl", given)
    [happy, sad] = run_json(capsys, "score", "--arm", trained, "--input", path)
    assert happy["reward"] > sad["reward"]
    run("score", "--arm", trained, "--input", path)
    assert "given.jsonl:2" in capsys.readouterr().out


def test_score_shows_responses_as_they_stand(
    base_dir: Path, tmp_path: Path, capsys: Capture
) -> None:
    given = [{"prompt": "the cat", "response": "[/INST] [bold]sat[/bold]"}]
    run("score", "--arm", base_dir, "--input", write_jsonl(tmp_path / "given.jsonl", given))
    assert "[/INST] [bold]sat[/bold]" in capsys.readouterr().out


def test_texts_with_an_implicit_prompt_are_judged_as_they_were_trained(
    base_dir: Path, tmp_path: Path, capsys: Capture
) -> None:
    texts = {"chosen": "the cat 1 sat", "rejected": "the cat 1 ran"}
    path = write_jsonl(tmp_path / "texts.jsonl", [texts])
    [found, _] = run_json(capsys, "score", "--arm", base_dir, "--input", path)
    [raw] = RewardModel(str(base_dir)).score([found["prompt"]], [" sat"], prompt_format="raw")
    assert found["reward"] == nats(raw.reward)
    [chat] = RewardModel(str(base_dir)).score([found["prompt"]], [" sat"])
    assert found["reward"] != nats(chat.reward)


def test_accuracy_leaves_out_what_the_model_cannot_read(
    trained: Path, pairs_file: Path, tmp_path: Path, capsys: Capture
) -> None:
    good = [json.loads(line) for line in pairs_file.read_text().splitlines()]
    path = write_jsonl(tmp_path / "rows.jsonl", [*good, {**good[0], "chosen": "happy " * 300}])
    found = run_json(capsys, "accuracy", "--arm", trained, "--data", path, "--split", "all")
    assert found["arm"]["n"] == 40
    assert found["rows"] == {"read": 41, "longer than the 256 tokens the model reads": 1}


def test_accuracy_says_when_nothing_is_held_out(
    base_dir: Path, pairs_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "arm"
    command = ["train", "--model", base_dir, "--data", pairs_file, "--output-dir", out]
    run(*command, "--max-steps", 1, "--split", "none", "--save-strategy", "no")
    run("accuracy", "--arm", out, "--data", pairs_file, "--split", "all")
    assert "nothing is held out" in caplog.text


def test_a_lora_follows_its_base_to_another_place(
    base_dir: Path, pairs_file: Path, tmp_path: Path, capsys: Capture
) -> None:
    before, after, arm = tmp_path / "before", tmp_path / "after", tmp_path / "arm"
    shutil.copytree(base_dir, before)
    run("train", "--model", before, "--data", pairs_file, "--output-dir", arm, "--max-steps", 1)
    before.rename(after)
    command = ["generate", "--base", after, "--arm", f"a={arm}", "--prompt", "the cat"]
    run(*command, "--max-new-tokens", 2)
    capsys.readouterr()
    assert main(["score", "--arm", str(arm), "--input", str(pairs_file)]) == 2
    said = capsys.readouterr().err
    assert str(before) in said
    assert "base_model_name_or_path" in said


def test_a_whole_model_takes_the_place_of_an_adapter(
    base_dir: Path, pairs_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "arm"
    command = ["train", "--model", base_dir, "--data", pairs_file, "--output-dir", out]
    command += ["--max-steps", 1, "--eval-strategy", "no", "--save-strategy", "no"]
    run(*command)
    assert is_adapter(str(out))
    run(*command, "--finetuning", "full", "--overwrite")
    assert not is_adapter(str(out))
    assert not (out / "adapter_model.safetensors").exists()


def test_generate_one_prompt(trained: Path, base_dir: Path, arm_dir: Path, capsys: Capture) -> None:
    command = ["generate", "--base", base_dir, "--prompt", "the cat", "--max-new-tokens", 8]
    command += ["--temperature", 0]
    arm = ["--arm", f"happy={trained}"]
    [alone] = run_json(capsys, *command)
    [off] = run_json(capsys, *command, *arm, "--strength", 0)
    [steered] = run_json(capsys, *command, *arm, "--strength", 4)
    assert off["text"] == alone["text"]
    assert steered["text"] != alone["text"]
    assert steered["preference"] == {"happy": 1.0}
    run(*command, *arm, "--strength", 4)
    assert capsys.readouterr().out == steered["text"] + "\n"
    [named] = run_json(capsys, *command, "--arm", trained, "--strength", 4)  # name from the sidecar
    assert named["text"] == steered["text"]
    # As the strength grows, the greedy answer becomes the ARM's own.
    [own] = run_json(capsys, *command, "--base", arm_dir)
    [pulled] = run_json(capsys, *command, "--arm", f"a={arm_dir}", "--strength", 1e6)
    assert pulled["text"] == own["text"] != alone["text"]
    both = [*arm, "--arm", f"other={arm_dir}", "--preference", "happy=1,other=0"]
    [one_hot] = run_json(capsys, *command, *both, "--strength", 4)
    assert one_hot["text"] == steered["text"]


def test_generate_report_accounts_for_every_token(
    trained: Path, base_dir: Path, capsys: Capture
) -> None:
    command = ["generate", "--base", base_dir, "--arm", f"happy={trained}", "--prompt", "the"]
    [row] = run_json(capsys, *command, "--max-new-tokens", 4, "--report")
    assert 1 <= len(row["tokens"]) <= 4
    for token in row["tokens"]:
        names = {"token_id", "text", "logp_base", "rewards", "logp_fused", "strength", "kl"}
        names |= {"mean_rewards", "alternatives"}
        assert set(token) == names
        assert set(token["rewards"]) == {"happy"}


def test_generate_from_a_file(trained: Path, base_dir: Path, tmp_path: Path) -> None:
    given = [
        {"prompt": "the cat", "id": "one"},
        {"prompt": [{"role": "user", "content": "the dog"}], "strength": 0, "seed": 7},
        {"prompt": "the cat", "preference": "happy=1"},
    ]
    path = write_jsonl(tmp_path / "in.jsonl", given)
    out = tmp_path / "out.jsonl"
    command = ["generate", "--base", base_dir, "--arm", f"happy={trained}", "--input", path]
    command += ["--output", out, "--max-new-tokens", 6]
    run(*command)
    found = rows(out)
    assert [row["index"] for row in found] == [0, 1, 2]
    assert (found[0]["id"], "id" in found[1]) == ("one", False)
    assert [row["seed"] for row in found] == [0, 7, 2]
    assert [row["strength"] for row in found] == [1.0, 0.0, 1.0]
    before = out.read_bytes()
    run(*command)  # complete: nothing is done again
    assert out.read_bytes() == before
    run(*command, "--seed", 5, "--overwrite")
    assert [row["seed"] for row in rows(out)] == [5, 7, 7]


def test_chat(
    trained: Path, base_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    lines = [
        "the cat", "/strength 0", "/preference happy=2", "/preference funny=1", "/strength much",
        "/reset", "the cat", "/strength 4", "/reset", "the cat", "/nonsense", "/strenght 1",
        "/help", "/quit", "never read",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    model = ["--base", base_dir, "--arm", f"happy={trained}"]
    sampling = ["--temperature", 0, "--max-new-tokens", 6]
    run("chat", *model, *sampling, "--strength", 4)
    out, err = capsys.readouterr()
    assert "[preference happy=1; strength 4]" in out
    assert "[preference happy=1; strength 0]" in out  # 2 is normalised
    # A bad command is one line and leaves the settings as they were.
    assert [line for line in err.splitlines() if line.startswith("trimtab: ")] == [
        "trimtab: unknown objective 'funny'; the objectives here are: happy",
        "trimtab: strength is not a number ('much'); use a number >= 0",
        "trimtab: no command '/nonsense'; /help lists the commands",
        "trimtab: no command '/strenght'; did you mean /strength?",
    ]
    steered, base = (
        run_json(capsys, "generate", *model, *sampling, "--prompt", "the cat", "--strength", s)
        for s in (4, 0)
    )
    assert out.count(steered[0]["text"] + "\n") == 2  # first turn, and again after /reset
    assert out.count(base[0]["text"] + "\n") == 1
    assert (
        out.count("/preference helpful=0.7,harmless=0.3") == 2
    )  # the help: at first and when asked for


# --- options ------------------------------------------------------------------------------------


def test_the_command_line_wins_over_the_config_file(
    trained: Path, base_dir: Path, arm_dir: Path, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "options.yaml"
    path.write_text(
        f"base: {base_dir}\n"
        f"arm: [happy={trained}, other={arm_dir}]\n"
        "preference: {happy: 0.5, other: 0.5}\n"
        "max_new_tokens: 3\n"
        "max-new-tokens: 3\n"  # underscores and dashes both
        "temperature: 0\n"
        "prompt: the dog\n"
        "stop: []\n"
    )
    [row] = run_json(capsys, "generate", "--config", path)
    assert (row["prompt"], row["preference"]) == ("the dog", {"happy": 0.5, "other": 0.5})
    [row] = run_json(capsys, "generate", f"--config={path}", "--prompt", "the cat", "--strength=2")
    assert (row["prompt"], row["strength"]) == ("the cat", 2)
    # An option given many times replaces the file's list; it is not added to it.
    one = ["--arm", f"happy={trained}", "--preference", "happy=1"]
    [row] = run_json(capsys, "generate", "--config", path, *one)
    assert row["preference"] == {"happy": 1.0}
    path.write_text(f"base: {base_dir}\narm: {{happy: {trained}, other: {arm_dir}}}\n")
    prompts = tmp_path / "prompts.csv"  # an empty cell says nothing
    prompts.write_text('id,prompt,preference,seed\na,the cat,,\nb,the cat,"happy=1,other=0",3\n')
    command = ["generate", "--config", path, "--input", prompts, "--max-new-tokens", 2]
    found = run_json(capsys, *command)
    assert [(row["id"], row["seed"]) for row in found] == [("a", 0), ("b", 3)]
    assert [row["preference"]["happy"] for row in found] == [0.5, 1.0]


@pytest.mark.parametrize(
    "command", [[c] for c in COMMANDS if c != "bench"] + [["bench", "speed"]], ids=" ".join
)
def test_help_shows_what_is_read_before_the_options(command: list[str], capsys: Capture) -> None:
    """`--config`, which every command takes, and the names that TRL's users type."""
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "--config FILE" in said
    assert ("--model-name-or-path (--model)" in said) == ("--model " in said)


def test_train_from_a_config_file(
    base_dir: Path, pairs_file: Path, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "options.yaml"
    path.write_text(
        f"model_name_or_path: {base_dir}\n"  # TRL's name
        f"data: {pairs_file}\n"
        f"output_dir: {tmp_path / 'out'}\n"
        "max_steps: 1\n"
        "group_by_length: true\n"
        "save_strategy: no\n"  # YAML reads a false here
        "eval-strategy: no\n"
        "lora_target_modules: [q_proj, v_proj]\n"
        "report_to: []\n"
        "chat_template: null\n"
        "lora_r: 2\n"
    )
    [result] = run_json(capsys, "train", "--config", path, "--lora_r", 3, "--no-group-by-length")
    assert result["output_dir"] == str(tmp_path / "out")
    assert result["report"] == {}
    assert set(result["metrics"]) == {"train_loss", "train_seconds"}
    written = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (written["lora_r"], written["group_by_length"]) == (3, False)
    assert (written["save_strategy"], written["eval_strategy"]) == ("no", "no")
    adapter = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert sorted(adapter["target_modules"]) == ["q_proj", "v_proj"]


def test_rows_left_out_are_said_and_reported(
    base_dir: Path,
    pairs_file: Path,
    tmp_path: Path,
    capsys: Capture,
    caplog: pytest.LogCaptureFixture,
) -> None:
    good = [json.loads(line) for line in pairs_file.read_text().splitlines()]
    bad = [{**good[0], "chosen": ""}, {**good[0], "rejected": None}]
    path = write_jsonl(tmp_path / "rows.jsonl", [*good, *bad])
    command = ["train", "--model", base_dir, "--data", path, "--output-dir", tmp_path / "out"]
    command += ["--max-steps", 1, "--eval-strategy", "no", "--save-strategy", "no"]
    [result] = run_json(capsys, *command, "--skip-bad-rows")
    assert result["report"] == {"one side is empty": 1, "has no `rejected`": 1}
    said = [record.message for record in caplog.records]
    assert "1 row left out: one side is empty (rows.jsonl:41)" in said
    assert "1 row left out: has no `rejected` (rows.jsonl:42)" in said
    command = ["accuracy", "--arm", tmp_path / "out", "--data", path, "--skip-bad-rows"]
    assert run_json(capsys, *command)["rows"] == {"read": 42, **result["report"]}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"trimtab {command}" in capsys.readouterr().out


# --- light imports ------------------------------------------------------------------------------

HEAVY = ("torch", "transformers", "peft", "datasets", "numpy", "pyarrow", "rich")

MEASURE = f"""
import contextlib, io, json, sys, time
start = time.perf_counter()
import trimtab
if {{help}}:
    from trimtab.cli.main import main
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["--help"]) == 0
    assert "start here" in out.getvalue()
seconds = time.perf_counter() - start
print(json.dumps([seconds, [name for name in {HEAVY!r} if name in sys.modules]]))
"""


@pytest.mark.parametrize("with_help", [False, True], ids=["import", "help"])
def test_import_and_help_are_light(with_help: bool) -> None:
    seconds = []
    for _ in range(5):
        code = MEASURE.format(help=with_help)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        taken, heavy = json.loads(done.stdout)
        assert heavy == []
        seconds.append(taken)
    assert min(seconds) < 0.3  # the best of five: the machine may be busy


def test_every_public_name_is_there() -> None:
    import trimtab

    assert len(trimtab.__all__) <= 25
    for name in trimtab.__all__:
        assert getattr(trimtab, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        trimtab.nonsense  # noqa: B018


# --- killed and run again -----------------------------------------------------------------------


def test_a_killed_generate_goes_on_without_loss_or_repetition(
    base_dir: Path, arm_dir: Path, tmp_path: Path
) -> None:
    total = 60
    given = [{"prompt": f"the cat {i}", "id": i} for i in range(total)]
    path = write_jsonl(tmp_path / "in.jsonl", given)

    def command(out: Path) -> list[str]:
        models = ["generate", "--base", str(base_dir), "--arm", f"a={arm_dir}"]
        files = ["--input", str(path), "--output", str(out), "--batch-size", "1"]
        return [*models, *files, "--max-new-tokens", "24", "--seed", "3"]

    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    run(*command(whole))
    child = subprocess.Popen(
        [sys.executable, "-m", "trimtab", *command(killed)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    try:
        deadline = time.monotonic() + 120
        while not (killed.exists() and killed.read_bytes().count(b"\n") >= 2):
            assert child.poll() is None, "ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    before = killed.read_bytes()
    assert 2 <= before.count(b"\n") < total
    with killed.open("ab") as handle:  # as if the kill had hit in the middle of a write
        handle.write(b'{"index": 99, "pro')
    run(*command(killed))
    assert killed.read_bytes().startswith(before[: before.rfind(b"\n") + 1])  # not done again
    assert rows(killed) == rows(whole)
    assert [row["id"] for row in rows(killed)] == list(range(total))


def test_an_arm_from_the_hub_is_fetched_whole(
    trained: Path, base_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The hub client is replaced by one that has the folder; sidecar and adapter are both used."""
    asked: list[str] = []

    def snapshot(repo_id: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append(f"{repo_id} {revision}")
        assert "*.safetensors" in allow_patterns and not any("bin" in p for p in allow_patterns)
        return str(trained)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    options = ["--base", base_dir, "--prompt", "hello", "--temperature", 0, "--max-new-tokens", 3]
    [ours] = run_json(capsys, "generate", *options, "--arm", f"happy={trained}")
    hub = ["--arm", "happy=someone/happy-arm"]
    [theirs] = run_json(capsys, "generate", *options, *hub)
    [pinned] = run_json(capsys, "generate", *options, *hub, "--revision", "happy=v2")
    assert theirs == pinned == ours
    assert asked == ["someone/happy-arm None", "someone/happy-arm v2"]


def test_rows_of_a_file_are_printed_and_may_have_their_own_sampling(
    base_dir: Path, tmp_path: Path, capsys: Capture
) -> None:
    prompts = [{"prompt": "hello", "id": "a"}, {"prompt": "hello", "max_new_tokens": 2}]
    path = write_jsonl(tmp_path / "in.jsonl", prompts)
    capsys.readouterr()
    run("generate", "--base", base_dir, "--input", path, "--max-new-tokens", 5, "--temperature", 0)
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["id"] == "a" and len(second["text"]) < len(first["text"])


def test_chat_needs_a_chat_template(tmp_path: Path, capsys: Capture) -> None:
    base = save_model(tmp_path / "base", tokenizer=make_tokenizer(template=None))
    assert main(["chat", "--base", str(base)]) == 2
    assert "has no chat template" in capsys.readouterr().err
