"""`trimtab pareto` end to end on tiny random models: resumed, reported again, refused."""

from __future__ import annotations

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
import torch
import transformers
from chat_judge import serving
from conditioned import save_arm
from conftest import save_model, write_jsonl
from peft import LoraConfig, get_peft_model

from trimtab.cli.main import main
from trimtab.engines.local import load_engine

Capture = pytest.CaptureFixture[str]

PROMPTS = [{"prompt": f"the {word} {i}"} for i, word in enumerate(["cat", "dog", "sun", "moon"])]
RULES = """
def cheerful(response): return response.count("a") + len(response) / 10
def long(prompt, response): return len(response) - len(prompt)
def moody(response): return None if "e" in response else 1
def fails(response): raise ValueError("out of words")
def unless_asked(prompt, response): return 1 / (response == "Hello there.")
def leaves(response): raise SystemExit(0)
"""


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


SCORES = ("scores.happy.jsonl", "scores.brief.jsonl")
RULED = ["--scorer", "happy=pareto_rules:cheerful", "--scorer", "brief=pareto_rules:long"]


def command(base: object, out: object, *more: object, scorers: Sequence[str] = RULED) -> list[str]:
    given: list[object] = ["pareto", "--base", base, "--prompts", "prompts.jsonl"]
    given += ["--output-dir", out, "--max-new-tokens", 6, "--resamples", 100, *scorers, *more]
    return [str(argument) for argument in given]


def run(*argv: object) -> None:
    assert main([str(argument) for argument in argv]) == 0


def rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def without_time(found: list[Any]) -> list[Any]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found]


ALL = (
    "--guide", "fused=loras", "--guide", "parm=parm@2", "--soup", "soup=loras",
    "--guide", "seeded=whole/{seed}", "--seeds", 0, 1, "--preference-step", 0.5, "--costs", "brief",
)  # fmt: skip
POINTS = [{"happy": 1.0, "brief": 0.0}, {"happy": 0.5, "brief": 0.5}, {"happy": 0.0, "brief": 1.0}]


@pytest.fixture(scope="module")
def swept(base_dir: Path, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of all kinds of guides."""
    out = tmp_path_factory.mktemp("swept") / "front"
    before = Path.cwd()
    os.chdir(world)
    try:
        run(*command(base_dir, out, *ALL))
    finally:
        os.chdir(before)
    return out


def test_every_guide_answers_every_prompt_at_every_preference(swept: Path) -> None:
    found = rows(swept / "records.jsonl")
    expected = [("base", seed, {}, i) for seed in (0, 1) for i in range(4)]
    for guide in ("fused", "parm", "seeded", "soup"):
        expected += [(guide, s, point, i) for s in (0, 1) for point in POINTS for i in range(4)]
    keys = ("guide", "seed", "preference", "prompt_index")
    assert [tuple(row[key] for key in keys) for row in found] == expected
    for row in found:
        assert row["prompt"] == PROMPTS[row["prompt_index"]]["prompt"]
        assert row["scores"] == {
            "happy": row["response"].count("a") + len(row["response"]) / 10,
            "brief": len(row["response"]) - len(row["prompt"]),
        }
    names = {path.name for path in swept.iterdir()}
    assert names >= {"manifest.json", "front.json", "table.md", "front.png", "responses.jsonl"}
    assert not [name for name in names if name.startswith(".")]


def test_answers_are_those_of_the_engines(base_dir: Path, swept: Path, world: Path) -> None:
    """Seed 100003 s + i, the guide's own strength, {seed} in its folder: as `generate` gives."""
    found = {
        (r["guide"], r["seed"], r["preference"].get("happy"), r["prompt_index"]): r["response"]
        for r in rows(swept / "records.jsonl")
    }
    engines: list[tuple[str, int, dict[str, str], float, dict[str, Any]]] = [
        ("base", 1, {}, 0.0, {}),
        ("parm", 1, {"parm": str(world / "parm")}, 2.0, {}),
        ("seeded", 1, {n: str(world / "whole" / "1" / n) for n in ("happy", "brief")}, 1.0, {}),
        ("soup", 0, {n: str(world / "loras" / n) for n in ("happy", "brief")}, 1.0,
         {"combine": "soup"}),
    ]  # fmt: skip
    for guide, seed, arms, strength, options in engines:
        engine = load_engine(str(base_dir), arms, **options)
        for i, row in enumerate(PROMPTS[:2]):
            preference = None if guide == "base" else POINTS[1]
            [answer] = engine.generate(
                [row["prompt"]], preference=preference, strength=strength, max_new_tokens=6,
                seed=100003 * seed + i,
            )  # fmt: skip
            assert found[guide, seed, preference and 0.5, i] == answer.text


def test_the_numbers_are_written_down(swept: Path) -> None:
    front = json.loads((swept / "front.json").read_text(), parse_constant=pytest.fail)
    assert list(front["guides"]) == ["base", "fused", "parm", "seeded", "soup"]
    assert (front["n_prompts"], front["seeds"], front["costs"]) == (4, [0, 1], ["brief"])
    assert front["preferences"] == POINTS and front["against"] == "fused"
    assert front["reference"]["kind"] == "worst" and front["normalization"]["kind"] == "base"
    for guide in front["guides"].values():
        assert guide["hypervolume"]["low"] <= guide["hypervolume"]["high"]
        assert guide["ms_per_token"] > 0 and guide["missing"] == {"happy": 0, "brief": 0}
    manifest = json.loads((swept / "manifest.json").read_text())
    assert manifest["signs"] == {"happy": 1, "brief": -1}
    assert manifest["guides"]["seeded"]["1"]["happy"] == "whole/1/happy"
    assert manifest["settings"]["sampling"]["max_new_tokens"] == 6
    assert {"torch", "trimtab", "machine"} <= set(manifest["made_with"])
    assert "brief (cost)" in (swept / "table.md").read_text()


def test_a_finished_sweep_only_reports_again(
    base_dir: Path, swept: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ("responses.jsonl", *SCORES, "records.jsonl", "manifest.json")
    before = {name: (swept / name).read_bytes() for name in kept}
    monkeypatch.setattr("trimtab.engines.local.load_engine", None)  # would fail if it were called
    other = command(base_dir, swept, *ALL, "--normalize", "none", "--batch-size", 3, "--json")
    run(*other, "--reference", "happy=-1,brief=3")
    front = json.loads(capsys.readouterr().out)
    assert front["normalization"]["kind"] == "none"
    assert front["reference"]["common"] == {"happy": -1, "brief": -3}
    assert json.loads((swept / "front.json").read_text()) == front
    assert {name: (swept / name).read_bytes() for name in kept} == before
    run(*command(base_dir, swept, *ALL))
    out = capsys.readouterr().out
    assert "joint front" in out and "n = 4 prompts, seeds 0, 1, 3 preferences" in out


def test_few_prompts_are_warned_of(base_dir: Path, swept: Path, capsys: Capture) -> None:
    for more in ((), ("--json",)):
        run(*command(base_dir, swept, *ALL, *more))
        said = "warning: intervals over 4 prompts mean little; take 10 or more"
        assert capsys.readouterr().err.splitlines() == [said]


def test_another_scorer_keeps_the_responses_and_the_other_scores(
    base_dir: Path, swept: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "front"
    subprocess.run(["cp", "-r", str(swept), str(out)], check=True)
    other = ["--scorer", "happy=pareto_rules:cheerful", "--scorer", "brief=pareto_rules:cheerful"]
    monkeypatch.setattr("trimtab.engines.local.load_engine", None)  # would fail if it were called
    run(*command(base_dir, out, *ALL, scorers=other))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "scores of brief are made again: its scorer has changed"
    assert not [line for line in lines if "scoring happy" in line]
    for name in ("responses.jsonl", "scores.happy.jsonl", "scores.happy.jsonl.job.json"):
        assert (out / name).read_bytes() == (swept / name).read_bytes()
    for row in rows(out / "records.jsonl"):
        assert row["scores"]["brief"] == row["scores"]["happy"]


def test_scores_of_other_responses_are_refused(
    base_dir: Path, swept: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "front"
    subprocess.run(["cp", "-r", str(swept), str(out)], check=True)
    (out / "scores.brief.jsonl.job.json").write_text("{}")
    before = tree(out)
    assert main(command(base_dir, out, *ALL)) == 2
    said = "scores.brief.jsonl holds rows of another run; choose another --output-dir, or pass --ov"
    assert said in capsys.readouterr().err and tree(out) == before
    run(*command(base_dir, out, *ALL, "--overwrite"))
    assert rows(out / "records.jsonl") == rows(swept / "records.jsonl")


def test_new_responses_have_no_old_scores(base_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "front"
    run(*command(base_dir, out, *GUIDE, "--preference-step", 1))
    (out / "scores.mine.jsonl").write_text("keep")
    run(*command(base_dir, out, *GUIDE, "--preference-step", 1, "--seeds", 5, "--overwrite"))
    found = rows(out / "records.jsonl")
    assert {row["seed"] for row in found} == {5} and len(found) == 12
    assert all(r["scores"]["brief"] == len(r["response"]) - len(r["prompt"]) for r in found)
    assert (out / "scores.mine.jsonl").read_text() == "keep"


def test_a_torn_sweep_goes_on(base_dir: Path, swept: Path, tmp_path: Path) -> None:
    """Cut in the middle of a line of each guide's part, and of the scores."""
    whole = (swept / "responses.jsonl").read_bytes().splitlines(keepends=True)
    for number in (3, 20, 57):
        out = tmp_path / f"front{number}"
        subprocess.run(["cp", "-r", str(swept), str(out)], check=True)
        for name in (*SCORES, "records.jsonl", "front.json", "table.md", "front.png"):
            (out / name).unlink()
        torn = b"".join(whole[:number]) + whole[number][:25]
        (out / "responses.jsonl").write_bytes(torn)
        run(*command(base_dir, out, *ALL))
        found = (out / "responses.jsonl").read_bytes()
        assert found.startswith(b"".join(whole[:number]))  # not done again
        for name in ("responses.jsonl", "records.jsonl"):
            assert without_time(rows(out / name)) == without_time(rows(swept / name))
        assert (out / "front.png").is_file()


def test_a_killed_sweep_goes_on(base_dir: Path, world: Path, tmp_path: Path) -> None:
    more = ["--guide", "g=loras", "--preference-step", 0.1, "--batch-size", 1]
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
    run(*command(base_dir, out, *more))
    assert path.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    whole = tmp_path / "whole"
    run(*command(base_dir, whole, *more))
    assert without_time(rows(out / "records.jsonl")) == without_time(rows(whole / "records.jsonl"))


def test_missing_scores_and_reward_models(base_dir: Path, tmp_path: Path, capsys: Capture) -> None:
    scorers = ["--scorer", f"happy={base_dir}", "--scorer", "brief=pareto_rules:long"]
    out = tmp_path / "front"
    points = ["--preference", "happy=3,brief=1", "--preference", "happy=0,brief=1"]
    more = ["--guide", "g=loras", *points, "--prompts-limit", 2, "--json"]
    run(*command(base_dir, out, *more, scorers=scorers))
    front = json.loads(capsys.readouterr().out)
    assert front["n_prompts"] == 2
    assert front["preferences"][0] == {"happy": 0.75, "brief": 0.25}
    assert all(row["scores"]["happy"] < 0 for row in rows(out / "records.jsonl"))  # log-probs


def test_a_judge_is_asked_again_for_what_is_missing(
    base_dir: Path, tmp_path: Path, capsys: Capture, caplog: pytest.LogCaptureFixture
) -> None:
    """First it never rates, then all but one answer, then all; the responses stay."""
    out = tmp_path / "front"
    with serving() as server:
        judge = ["--scorer", "happy=pareto_rules:long", "--scorer", f"brief={server.spec}"]
        argv = command(base_dir, out, *GUIDE, "--preference-step", 1, scorers=judge)
        server.replies = [(200, "Well.")]
        assert main(argv) == 2
        said = capsys.readouterr().err.splitlines()
        assert caplog.messages == ["the judge tiny gives no rating at first: 'Well.'"]
        assert "none of 12 answers got a score on 'brief' (instead came 'Well.'); a rep" in said[-1]
        assert not (out / "front.json").exists()
        responses = (out / "responses.jsonl").read_bytes()
        first = len(server.bodies)
        server.replies = [(200, "Rating: 5"), (200, "Well."), (200, "Rating: 5")]  # the probe first
        run(*argv)
        assert "brief: 1 of 12 scores are missing (instead came 'Well." in capsys.readouterr().err
        assert len(server.bodies) == first + 13
        front = json.loads((out / "front.json").read_text())
        assert sum(guide["missing"]["brief"] for guide in front["guides"].values()) == 1
        server.replies = [(200, "Rating: 7")]
        run(*argv)
        assert len(server.bodies) == first + 15  # a probe, and the one that was missing
        assert sorted(r["scores"]["brief"] for r in rows(out / "records.jsonl")) == [5] * 11 + [7]
        assert (out / "responses.jsonl").read_bytes() == responses
        run(*argv)
        assert len(server.bodies) == first + 15


def test_scorers_with_a_head_and_scorers_that_give_nan(
    base_dir: Path, tmp_path: Path, capsys: Capture
) -> None:
    out, judge = tmp_path / "front", tmp_path / "judge"
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base_dir, num_labels=1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base_dir)
    model.save_pretrained(judge)
    tokenizer.save_pretrained(judge)
    scorers = ["--scorer", f"happy={judge}", "--scorer", "brief=pareto_rules:long"]
    argv = command(base_dir, out, *GUIDE, "--preference-step", 1, scorers=scorers)
    run(*argv)
    row = rows(out / "records.jsonl")[5]
    chat = [("user", row["prompt"]), ("assistant", row["response"])]
    text = tokenizer.apply_chat_template([{"role": r, "content": c} for r, c in chat], tokenize=0)
    with torch.no_grad():
        expected = model.eval()(**tokenizer(text, return_tensors="pt")).logits.item()
    assert row["scores"]["happy"] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    with torch.no_grad():
        model.score.weight[0, 3] = float("nan")
    model.save_pretrained(judge)
    responses = (out / "responses.jsonl").read_bytes()
    capsys.readouterr()
    assert main(argv) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"the model {judge} gives NaN for row 1 of responses.jsonl (base); its weights" in said
    assert (out / "responses.jsonl").read_bytes() == responses
    assert not (out / "front.json").exists()


def test_a_prompt_that_a_scorer_cannot_read_is_found_before_the_first_response(
    base_dir: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.engines.local.load_engine", None)  # would fail if it were called
    config = json.loads((base_dir / "config.json").read_text())
    short = tmp_path / "short"
    subprocess.run(["cp", "-r", str(base_dir), str(short)], check=True)
    (short / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 8}))
    scorers = ["--scorer", f"happy={short}", "--scorer", "brief=pareto_rules:long"]
    assert main(command(base_dir, tmp_path / "front", *GUIDE, scorers=scorers)) == 2
    said = capsys.readouterr().err
    assert "error: prompt " in said and "tokens with its prompt, the model reads 8; shorten" in said
    assert not (tmp_path / "front").exists()


def test_pairs_and_chats_are_prompts(base_dir: Path, tmp_path: Path, capsys: Capture) -> None:
    chat = [{"role": "user", "content": "hello"}]
    pair = {"chosen": "happy", "rejected": "sad"}
    given = [{"prompt": chat, **pair}, {"prompt": chat, **pair}, {"prompt": "cat", **pair}]
    given.append({"prompt": "dog", "chosen": "", "rejected": "sad"})
    path = write_jsonl(tmp_path / "pairs.jsonl", given)
    out = tmp_path / "front"
    rules = ["--scorer", "happy=pareto_rules:cheerful", "--scorer", "brief=pareto_rules:cheerful"]
    arguments = command(base_dir, out, "--guide", "g=loras", "--preference-step", 1, scorers=rules)
    arguments[arguments.index("prompts.jsonl")] = str(path)
    run(*arguments)
    assert "1 row left out: one side is empty (pairs.jsonl:4)" in capsys.readouterr().err
    assert [r["prompt"] for r in rows(out / "records.jsonl") if r["guide"] == "base"] == [
        chat,
        "cat",
    ]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["prompts_left_out"] == {"one side is empty": 1}


# --- refused ------------------------------------------------------------------------------------


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts
    }


GUIDE = ("--guide", "g=loras")
REFUSED: list[tuple[Sequence[object], str]] = [
    ((), "no guide to measure; give --guide NAME=FOLDER"),
    (("--guide", "loras"), "cannot read --guide loras"),
    (("--guide", "g=none"), "no guide 'g' at none"),
    (("--guide", "g=loras/happy"), "guide 'g' steers to happy, but the scorers measure happy, br"),
    (("--guide", "base=loras"), "the name 'base' is taken by the unguided base; give loras anot"),
    (("--soup", "s=whole/0"), "only LoRA ARMs make a soup"),
    (("--soup", "s=parm"), "nothing to average"),
    ((*GUIDE, "--guide", "h=loras@-2"), "strength -2 is negative"),
    ((*GUIDE, "--strength", -1), "strength -1.0 is negative"),
    ((*GUIDE, "--scorer", "funny=pareto_rules:long"), "the scorers measure happy, brief, funny"),
    ((*GUIDE, "--scorer", "happy=pareto_rules:long"), "two of --scorer for 'happy'"),
    ((*GUIDE, "--scorer", "happy"), "cannot read --scorer happy; write --scorer helpful=FOLDER"),
    ((*GUIDE, "--costs", "brief,funny"), "--costs names 'funny', which has no --scorer"),
    ((*GUIDE, "--rubric", "funny=ha"), "--rubric names 'funny'"),
    ((*GUIDE, "--rubric", "happy=ha"), "a rubric for 'happy', whose scorer is no judge"),
    ((*GUIDE, "--preference-step", 0.3), "a step of 0.3 does not divide 1"),
    ((*GUIDE, "--preference", "happy=1"), "the preference has no weight for brief"),
    ((*GUIDE, "--preference", "happy=1,funny=1"), "unknown objective 'funny'"),
    ((*GUIDE, *["--preference", "happy=1,brief=0"] * 2), "is given twice"),
    ((*GUIDE, "--seeds", 0, 0), "--seeds are none, or one twice"),
    ((*GUIDE, "--batch-size", 0), "--batch-size is 0; it must be 1 or more"),
    ((*GUIDE, "--scorer-batch-size", 0), "--scorer-batch-size is 0"),
    ((*GUIDE, "--prompts-limit", 0), "--prompts-limit is 0"),
    ((*GUIDE, "--resamples", 10), "--resamples is 10; it must be 100 or more"),
    ((*GUIDE, "--temperature", -1), "temperature is -1.0"),
    ((*GUIDE, "--reference", "best"), "cannot read --reference best"),
    ((*GUIDE, "--reference", "happy=1"), "cannot use --reference happy=1; write worst, base, or"),
    ((*GUIDE, "--reference", "happy=1,brief=x"), "--reference has 'x' for 'brief'"),
    ((*GUIDE, "--reference", "happy=1,brief=inf"), "cannot use --reference"),
    ((*GUIDE, "--prompts", "none.jsonl"), "no such file: none.jsonl"),
    ((*GUIDE, "--base", "none/at/all"), "no base model at none/at/all"),
    (
        (*GUIDE, "--seeds", 0, 1, 2, "--max-responses", 100),
        "the sweep needs 144 responses ((1 base + 1 guides x 11 preferences) x 3 seeds x 4 prompts)"
        ", at most 864 tokens; --max-responses is 100; take a larger --preference-step",
    ),
    ((*GUIDE, "--preference-step", 1e-6), "the sweep needs 4000008 responses"),
    ((*GUIDE, "--max-new-tokens", 1000), "but the model reads 256"),
    (
        (*GUIDE, "--revision", "funny=v2"),
        "no model is called 'funny'; there are base, g, happy",
    ),
    ((*GUIDE, "--revision", "happy=v2"), "a revision for 'happy', whose scorer is no model"),
    ((*GUIDE, "--revision", "g=v2"), "a revision for loras, which is on this machine"),
    ((*GUIDE, "--revision", "v2"), "which is on this machine; leave it out"),
    ((*GUIDE, "--trust-remote-code", "funny"), "no model is called 'funny'"),
]


@pytest.mark.parametrize(("more", "said"), REFUSED, ids=[said[:40] for _, said in REFUSED])
def test_bad_input_is_one_line(
    more: Sequence[object], said: str, base_dir: Path, world: Path, tmp_path: Path, capsys: Capture
) -> None:
    before = tree(world)
    assert main(command(base_dir, tmp_path / "front", *more)) == 2
    out, err = capsys.readouterr()
    assert err.startswith("trimtab: error: ") and len(err.splitlines()) == 1, err
    assert said in err
    assert out == "" and not (tmp_path / "front").exists() and tree(world) == before


@pytest.mark.parametrize(
    ("scorers", "said"),
    [
        ([], "nothing to score with; give --scorer OBJECTIVE=SCORER"),
        (RULED[:2], "one objective makes no front"),
        ([*RULED[:2], "--scorer", "brief=no_such:rule"], "no module 'no_such'"),
        ([*RULED[:2], "--scorer", "brief=pareto_rules:rule"], "has no function 'rule'"),
        ([*RULED[:2], "--scorer", "brief=parm"], "takes a preference as input"),
        ([*RULED[:2], "--scorer", "brief=./none"], "no reward model at ./none"),
        ([*RULED[:2], "--scorer", "brief=judge:m"], "cannot read the judge of 'brief'"),
        (
            [*RULED[:2], "--scorer", "br,ief=pareto_rules:long"],
            "objective 'br,ief' is no name; use letters",
        ),
        ([*RULED[:2], "--scorer", "has space=pareto_rules:long"], "objective 'has space' is no na"),
        ([*RULED[:2], "--scorer", "brief=pareto_rules:fails"], "fails on the first prompt, answer"),
        ([*RULED[:2], "--scorer", "brief=pareto_rules:moody"], "gives None for the first prompt"),
        ([*RULED[:2], "--scorer", "brief=pareto_rules:leaves"], "(SystemExit: 0); mend the rule"),
        (
            [*RULED[:2], "--scorer", "brief=judge:m@http://127.0.0.1:1/v1"],
            "the judge m at http://127.0.0.1:1/v1 does not answer",
        ),
    ],
)
def test_bad_scorers_are_one_line(
    scorers: Sequence[str], said: str, base_dir: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert main(command(base_dir, tmp_path / "front", *GUIDE, scorers=scorers)) == 2
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1
    assert not (tmp_path / "front").exists()


def test_a_folder_of_something_else_is_refused(
    base_dir: Path, swept: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    assert main(command(base_dir, tmp_path, *GUIDE)) == 2
    assert "is not empty; choose another --output-dir, or pass --over" in capsys.readouterr().err
    before = tree(swept)
    assert main(command(base_dir, swept, *ALL, "--top-k", 3)) == 2
    assert "holds rows of another run; choose another --output-dir" in capsys.readouterr().err
    assert tree(swept) == before and [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_rule_that_fails_names_the_row_and_keeps_the_responses(
    base_dir: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "front"
    fails = [*RULED[:2], "--scorer", "brief=pareto_rules:unless_asked"]
    more = [*GUIDE, "--preference-step", 1]
    assert main(command(base_dir, out, *more, scorers=fails)) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "unless_asked fails on row 1 of responses.jsonl (base) (ZeroDivisionError" in last
    assert len(rows(out / "responses.jsonl")) == 12 and not (out / "front.json").exists()
    scores = (out / "scores.happy.jsonl").read_bytes()
    run(*command(base_dir, out, *more))
    assert (out / "scores.happy.jsonl").read_bytes() == scores


def test_guides_of_another_vocabulary_are_refused_before_the_first_response(
    base_dir: Path, tmp_path: Path, capsys: Capture
) -> None:
    for name in ("happy", "brief"):
        folder = save_model(tmp_path / "odd" / name)
        (folder / "trimtab.json").write_text(json.dumps({"objective": name}))
    facts = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = facts["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    (folder / "tokenizer.json").write_text(json.dumps(facts))
    out = tmp_path / "front"
    assert main(command(base_dir, out, *GUIDE, "--guide", f"odd={tmp_path / 'odd'}")) == 2
    err = capsys.readouterr().err
    assert f"the ARM brief of odd ({tmp_path / 'odd' / 'brief'})" in err, err
    assert len(err.splitlines()) == 1 and not out.exists()


def test_help_is_free_of_torch() -> None:
    code = (
        "import sys\nfrom trimtab.cli.main import main\n"
        "try: main([sys.argv[1], '--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    )
    for name in ("pareto", "label"):
        subprocess.run([sys.executable, "-c", code, name], check=True, stdout=subprocess.DEVNULL)
