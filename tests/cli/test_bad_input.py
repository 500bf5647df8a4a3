"""Bad input: one line that names it, exit code 2, and nothing written or overwritten.

A case or two for a command and a kind of input; what else a function refuses is asserted where that
function is tested (tests/unit: steering, engines, data, models, training).
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import TEMPLATE, make_tokenizer, save_model, write_jsonl

from trimtab.cli.main import main

Refused = Callable[..., str]

GOOD = {"prompt": "the cat sat", "chosen": "happy", "rejected": "sad"}
CHAT = {
    "prompt": [{"role": "user", "content": "hello"}],
    "chosen": [{"role": "assistant", "content": "happy"}],
    "rejected": [{"role": "assistant", "content": "sad"}],
}


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder with its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must be refused; returns its one line."""

    def check(*argv: object, names: Sequence[object]) -> str:
        before = tree(tmp_path)
        try:
            code = main([str(argument) for argument in argv])
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        assert code == 2, (out, err)
        lines = err.splitlines()
        assert len(lines) == 1, err
        assert lines[0].startswith("trimtab: error: ")
        for name in names:
            assert str(name) in lines[0]
        assert out == ""
        assert tree(tmp_path) == before
        return lines[0]

    return check


def train(model: object, data: object, out: object, *more: object) -> list[object]:
    return ["train", "--model", model, "--data", data, "--output-dir", out, *more]


# --- preference files ---------------------------------------------------------------------------


def test_missing_file(refused: Refused, base_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "none.jsonl"
    refused(*train(base_dir, path, tmp_path / "out"), names=["no such file", path])
    refused("accuracy", "--arm", base_dir, "--data", path, names=["no such file", path])
    refused("score", "--arm", base_dir, "--input", path, names=["no such file", path])
    refused("generate", "--base", base_dir, "--input", path, names=["no such file", path])


def test_missing_model(refused: Refused, pairs_file: Path, tmp_path: Path, base_dir: Path) -> None:
    path = tmp_path / "none"
    refused(*train(path, pairs_file, tmp_path / "out"), names=["no model at", path])
    refused("accuracy", "--arm", path, "--data", pairs_file, names=["no reward model", path])
    refused("score", "--arm", path, "--input", pairs_file, names=["no reward model", path])
    arm = f"a={path}"
    refused("generate", "--base", base_dir, "--arm", arm, "--prompt", "x", names=["no ARM", path])


def test_empty_file(refused: Refused, base_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n")
    refused("generate", "--base", base_dir, "--input", path, names=["rows.jsonl is empty"])


def test_nothing_but_equal_sides(refused: Refused, base_dir: Path, tmp_path: Path) -> None:
    """Such rows are counted, in every format; no row that can be used is an error."""
    path = write_jsonl(tmp_path / "rows.jsonl", [{**GOOD, "chosen": "a", "rejected": "a"}] * 2)
    named = ["no usable pair", "2 rows left out: both sides are the same (rows.jsonl:1"]
    refused(*train(base_dir, path, tmp_path / "out"), names=named)
    refused("accuracy", "--arm", base_dir, "--data", path, names=named)


def test_the_models_own_folder_is_no_output(
    refused: Refused, base_dir: Path, pairs_file: Path
) -> None:
    refused(*train(base_dir, pairs_file, base_dir, "--overwrite"), names=["the model's own folder"])


def test_chats_that_the_template_does_not_take(refused: Refused, tmp_path: Path) -> None:
    strict = "{% if messages|length > 1 %}{{ raise_exception('one turn') }}{% endif %}" + TEMPLATE
    base = save_model(tmp_path / "strict", tokenizer=make_tokenizer(template=strict))
    turn = {"role": "user", "content": "hello"}
    path = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "hello"}, {"prompt": [turn, turn]}])
    named = ["row 2 of the input: the chat template does not take this chat (one turn)"]
    refused("generate", "--base", base, "--input", path, names=named)


def test_rows_that_cannot_be_scored(refused: Refused, base_dir: Path, tmp_path: Path) -> None:
    for row, named in (
        ({"prompt": "x", "rejected": "y"}, "has no `chosen`"),
        ({**GOOD, "chosen": ""}, "one side is empty"),
        ({"prompt": 3, "response": "x"}, "`prompt`"),
        ({"prompt": "x", "response": ["y"]}, "`response`"),
    ):
        path = write_jsonl(tmp_path / "rows.jsonl", [GOOD, row])
        refused("score", "--arm", base_dir, "--input", path, names=["rows.jsonl:2", named])


def test_no_batch_to_score(refused: Refused, base_dir: Path, pairs_file: Path) -> None:
    score = ["score", "--arm", base_dir, "--input", pairs_file]
    refused(*score, "--batch-size", "0", names=["--batch-size is 0"])


def test_empty_split(refused: Refused, base_dir: Path, tmp_path: Path) -> None:
    # By the hash, "q0" and "q1" are training prompts and "cat" a test prompt: none validates.
    rows = [{**GOOD, "prompt": prompt} for prompt in ("q0", "q1", "cat")]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    named = ["the validation split is empty", "--split none"]
    refused(*train(base_dir, path, tmp_path / "out"), names=named)
    named = ["the validation split is empty", "--split all"]
    command = ["accuracy", "--arm", base_dir, "--data", path, "--split", "validation"]
    refused(*command, names=named)


def test_pairs_beyond_the_models_context(refused: Refused, base_dir: Path, tmp_path: Path) -> None:
    rows = [{**GOOD, "prompt": f"q{i}", "chosen": "z" * 300} for i in range(20)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    named = ["the model reads 256", "--max-length 256"]
    refused(*train(base_dir, path, tmp_path / "out"), names=named)


# --- options ------------------------------------------------------------------------------------


def test_bad_preference(refused: Refused, base_dir: Path, arm_dir: Path, tmp_path: Path) -> None:
    """Wherever one can be given."""
    models = ["--base", base_dir, "--arm", f"a={arm_dir}", "--arm", f"b={arm_dir}"]
    out = ["--output", tmp_path / "out.jsonl"]
    named = ["the weight of 'a' is negative"]
    refused("chat", *models, "--preference", "a=-1,b=2", names=named)
    prompt = ["--prompt", "x", *out]
    refused("generate", *models, *prompt, "--preference", "a=-1,b=2", names=named)
    rows = [{"prompt": "x"}, {"prompt": "y", "preference": "a=-1,b=2"}]
    path = write_jsonl(tmp_path / "in.jsonl", rows)
    named = ["row 2 of the input: the weight of 'a' is negative"]
    refused("generate", *models, "--input", path, *out, names=named)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--strength", "-1"], "strength -1"),
        (["--temperature", "-1"], "temperature is -1"),
        (["--max-new-tokens", "256"], "the model reads 256"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--device", "nowhere"], "cannot use device 'nowhere'"),
        (["--prompt", ""], "the prompt is empty"),
        (["--input", "x.jsonl"], "either --prompt TEXT or --input FILE"),
        (["--arm", "nowhere"], "no ARM at nowhere"),
        (["--config", "none.yaml"], "no config file at none.yaml"),
    ],
)
def test_bad_generate_options(
    refused: Refused, base_dir: Path, tmp_path: Path, options: list[str], named: str
) -> None:
    command = [
        "generate",
        "--base",
        base_dir,
        "--prompt",
        "hello",
        "--output",
        tmp_path / "o.jsonl",
    ]
    refused(*command, *options, names=[named])


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({}, "row 2 of the input has no `prompt`"),
        ({"prompt": "x " * 300}, "row 2 of the input: the prompt has"),
    ],
)
def test_bad_prompt_rows(
    refused: Refused, base_dir: Path, tmp_path: Path, row: dict[str, Any], named: str
) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "hello"}, row])
    files = ["--input", path, "--output", tmp_path / "out.jsonl"]
    refused("generate", "--base", base_dir, *files, names=[named])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (
            ["--lora-target-modules", "nothing_proj"],
            "--lora-target-modules nothing_proj matches no",
        ),
        (["--beta", "0"], "--beta is 0"),
        (["--chat-template", "none.jinja"], "no chat template at none.jinja"),
        (["--resume-from-checkpoint", "none"], "no checkpoint at none"),
        (["--lr-scheduler-type", "cosin"], "cosin is not a valid SchedulerType"),
        (["--report-to", "nothing"], "nothing is not supported"),
        (["--objectives", "a,b"], "the data name no objective"),
    ],
)
def test_bad_train_options(
    refused: Refused, base_dir: Path, pairs_file: Path, tmp_path: Path,
    options: list[str], named: str,
) -> None:  # fmt: skip
    refused(*train(base_dir, pairs_file, tmp_path / "out", *options), names=[named])


def test_evaluation_data_without_the_objective(
    refused: Refused, base_dir: Path, tmp_path: Path
) -> None:
    pair = {"prompt": "the cat", "chosen": "sat", "rejected": "ran"}
    data = write_jsonl(tmp_path / "data.jsonl", [{**pair, "labels": {"a": 0, "b": 1}}])
    other = write_jsonl(tmp_path / "other.jsonl", [{**pair, "labels": {"z": 0}}])
    options = ["--objectives", "a,b", "--eval-data", other]
    refused(
        *train(base_dir, data, tmp_path / "out", *options, "--split", "none"),
        names=["--eval-data: the data have no", "they have: z"],
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("lora_rank: 8", "unknown option 'lora_rank'"),
        ("[1, 2]", "holds no mapping"),
        ("a: [", "is not YAML"),
        ("model: caf\xe9", "is not YAML"),
    ],
)
def test_bad_config_file(refused: Refused, tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "options.yaml"
    path.write_bytes(text.encode("latin-1"))
    refused("train", "--config", path, names=[path, named])


def test_unknown_command(refused: Refused) -> None:
    refused("trian", names=["unknown command 'trian'", "train"])


# --- models -------------------------------------------------------------------------------------


def test_other_vocabularies(refused: Refused, base_dir: Path, tmp_path: Path) -> None:
    # Same size, other tokens: the user and assistant tokens have changed places.
    tokenizer = make_tokenizer()
    other = tmp_path / "other"
    save_model(other, tokenizer=tokenizer)
    path = other / "tokenizer.json"
    text = path.read_text(encoding="utf-8")
    for old, new in (("user", "X"), ("assistant", "user"), ("X", "assistant")):
        text = text.replace(f"<|{old}|>", f"<|{new}|>")
    path.write_text(text, encoding="utf-8")
    command = ["generate", "--base", base_dir, "--arm", f"a={other}", "--prompt", "x"]
    line = refused(*command, "--output", tmp_path / "out.jsonl", names=[other, "cannot be fused"])
    assert "2 of 320 tokens differ (id 1: base '<|user|>', ARM '<|assistant|>'" in line


def test_corrupt_safetensors(
    refused: Refused, base_dir: Path, pairs_file: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(base_dir, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    named = [weights, "corrupt"]
    refused(*train(broken, pairs_file, tmp_path / "out"), names=named)
    refused("generate", "--base", broken, "--prompt", "x", names=named)
    refused("accuracy", "--arm", broken, "--data", pairs_file, names=named)
    refused("score", "--arm", broken, "--input", pairs_file, names=named)


def test_pickle_checkpoint(
    refused: Refused, base_dir: Path, pairs_file: Path, tmp_path: Path
) -> None:
    pickled = tmp_path / "pickled"
    shutil.copytree(base_dir, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    named = [pickled, "pickle weights (pytorch_model.bin)", "safetensors"]
    refused("generate", "--base", base_dir, "--arm", f"a={pickled}", "--prompt", "x", names=named)


def test_tokenizer_without_the_needed_template(refused: Refused, tmp_path: Path) -> None:
    bare = save_model(tmp_path / "bare", tokenizer=make_tokenizer(template=None))
    path = write_jsonl(tmp_path / "chats.jsonl", [CHAT])
    named = ["no chat template", "--chat-template"]
    refused(*train(bare, path, tmp_path / "out", "--split", "none"), names=named)
    files = ["--input", path, "--output", tmp_path / "out.jsonl"]
    refused("generate", "--base", bare, *files, names=["no chat template"])
    refused("score", "--arm", bare, "--input", path, names=["no chat template"])


# --- output -------------------------------------------------------------------------------------


def test_used_output_directory(
    refused: Refused, base_dir: Path, pairs_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    refused(*train(base_dir, pairs_file, out), names=[out, "is not empty", "--overwrite"])
    file = out / "precious.txt"
    refused(*train(base_dir, pairs_file, file), names=[file, "is a file"])


def test_used_output_file(
    refused: Refused, base_dir: Path, pairs_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text('{"mine": 1}\n')
    named = [out, "--overwrite"]
    refused("generate", "--base", base_dir, "--prompt", "x", "--output", out, names=named)
    refused("score", "--arm", base_dir, "--input", pairs_file, "--output", out, names=named)


def _small_disk() -> None:
    """In the child: no file may grow beyond 24 KiB, and the write fails as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (24 * 1024, 24 * 1024))


@pytest.mark.parametrize("saves", ["no", "steps"], ids=["final save", "checkpoint"])
def test_full_disk(tmp_path: Path, pairs_file: Path, saves: str) -> None:
    # The weights take some 60 KB; everything written before them (settings, metrics) fits.
    model = save_model(tmp_path / "model")
    assert (model / "model.safetensors").stat().st_size > 40_000
    out = tmp_path / "out"
    command = train(model, pairs_file, out, "--finetuning", "full", "--max-steps", 1)
    command += ["--save-strategy", saves, "--save-steps", 1, "--eval-strategy", "no"]
    done = subprocess.run(
        [sys.executable, "-m", "trimtab", *map(str, command)],
        preexec_fn=_small_disk,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    [line] = [line for line in done.stderr.splitlines() if not line.startswith("training: ")]
    assert line.startswith(f"trimtab: error: cannot write {out}: ")
    assert "free some space" in line
    # What is left says that a run began, and is no model that anything would load.
    left = {path.name for path in out.iterdir()}
    assert left <= {"run.json", "metrics.jsonl", "checkpoints"}
    complete = list(out.glob("checkpoints/checkpoint-*/trainer_state.json"))
    assert not complete  # so that no resumed run starts from a torn checkpoint
