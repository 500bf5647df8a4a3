"""`--method` with a reward model, `--policy` and `--amateur`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import test_bad_input
from classifiers import classifier, saved
from conftest import write_jsonl
from sweeps import save_lora
from test_bad_input import Refused

import trimtab
from trimtab.arms.reward_model import RewardModel
from trimtab.cli.main import main
from trimtab.methods.registry import METHODS

refused = test_bad_input.refused
Capture = pytest.CaptureFixture[str]
TEXTS = ["the cat", "moon", "yes"]


def run(*argv: object) -> int:
    return main(["generate", "--max-new-tokens", "6", *map(str, argv)])


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("judge") / "rm", classifier(seed=3))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_search_goes_on_where_it_stopped(
    base_dir: Path, judge: str, tmp_path: Path, capsys: Capture
) -> None:
    prompts = write_jsonl(tmp_path / "in.jsonl", [{"prompt": text} for text in TEXTS])
    out = tmp_path / "out.jsonl"
    ask = ["--base", base_dir, "--input", prompts, "--output", out, "--method", "best-of-n"]
    ask += ["--reward-model", judge, "--method-options", "n=4"]
    assert run(*ask) == 0
    whole = rows(out)
    engine = trimtab.load(str(base_dir))
    expected = trimtab.search(engine, "best-of-n", reward_model=judge, options={"n": 4}).generate(
        TEXTS, max_new_tokens=6, seed=0
    )
    assert [row["text"] for row in whole] == [answer.text for answer in expected]
    assert [row["reward"] for row in whole] == [answer.reward for answer in expected]
    assert all(row["reward"] == max(row["rewards"]) and len(row["rewards"]) == 4 for row in whole)
    assert whole[0]["cost"]["base_passes"] == 6
    out.write_text(out.read_text().splitlines(keepends=True)[0])
    assert run(*ask) == 0
    assert [without_cost(row) for row in rows(out)] == [without_cost(row) for row in whole]
    capsys.readouterr()
    assert run(*ask[:-1], "n=3") == 2
    assert "another run" in capsys.readouterr().err


def without_cost(row: dict[str, Any]) -> dict[str, Any]:
    """What is there to be reused differs from run to run, and rounding with it."""
    rounded = {key: round(value, 4) for key, value in row.items() if key == "reward"}
    return {key: row[key] for key in ("prompt", "text", "seed")} | rounded


def test_an_answer_is_shown(base_dir: Path, judge: str, capsys: Capture) -> None:
    ask = ["--base", base_dir, "--prompt", "the cat", "--method", "args", "--reward-model", judge]
    assert run(*ask) == 0
    [shown] = capsys.readouterr().out.split("\n")[:1]
    [answer] = trimtab.search(trimtab.load(str(base_dir)), "args", reward_model=judge).generate(
        ["the cat"], max_new_tokens=6
    )
    assert shown == answer.text.split("\n")[0]


def test_as_released_and_as_the_paper(base_dir: Path, judge: str, capsys: Capture) -> None:
    """ARGS: temperature 0 in both; in the code w is 1 and the end of the turn is passed over."""
    ask = ["--base", base_dir, "--prompt", "moon", "--method", "args", "--reward-model", judge]
    found = []
    for more in ([], ["--as-released"], ["--method-options", "weight=1", "--ignore-eos"]):
        assert run(*ask, *more, "--max-new-tokens", "24", "--json") == 0
        found.append(json.loads(capsys.readouterr().out)[0])
    assert found[1]["text"] == found[2]["text"] != found[0]["text"]


def test_a_stop_text_ends_every_method(base_dir: Path, judge: str) -> None:
    """The answer is cut before it, as `generate` cuts it, and is whole for the reward model."""
    engine = trimtab.load(str(base_dir))
    model = RewardModel(judge)
    stops = tuple("aeiou")
    for name in METHODS:
        searcher = trimtab.search(engine, name, reward_model=judge)
        [cut] = searcher.generate(["the cat"], max_new_tokens=12, seed=5, stop=stops)
        assert not any(stop in cut.text for stop in stops)
        if cut.finish_reason == "stop" and name not in ("vas", "mcts"):
            [scored] = model.score(["the cat"], [cut.text])
            assert cut.reward == pytest.approx(scored.reward, abs=1e-3)
    [alone] = engine.generate(["the cat"], max_new_tokens=12, seed=5, stop=stops)
    searcher = trimtab.search(engine, "best-of-n", reward_model=judge, options={"n": 1})
    [same] = searcher.generate(["the cat"], max_new_tokens=12, seed=5, stop=stops)
    assert (same.text, same.finish_reason) == (alone.text, alone.finish_reason)


def test_policies_and_an_amateur(
    base_dir: Path, arm_dir: Path, tmp_path: Path, capsys: Capture
) -> None:
    save_lora(tmp_path / "a", base_dir, 5)
    save_lora(tmp_path / "b", base_dir, 6)
    ask = ["--base", base_dir, "--prompt", "the cat", "--temperature", 0]
    alone = ["--policy", f"x={tmp_path / 'a'}"]
    both = [*alone, "--policy", f"y={tmp_path / 'b'}", "--preference", "x=1,y=0"]
    assert run(*ask) == 0
    plain = capsys.readouterr().out
    assert run(*ask, *alone) == 0
    expected = capsys.readouterr().out
    for combine in ("fusion", "forward-kl", "soup", "factor-soup"):
        assert run(*ask, *both, "--combine", combine) == 0
        assert capsys.readouterr().out == expected != plain
        assert run(*ask, *both, "--combine", combine, "--strength", 0) == 0
        assert capsys.readouterr().out == plain
    assert run(*ask, "--amateur", f"0:{arm_dir}", "--plausibility", 1) == 0
    assert capsys.readouterr().out == plain  # of the likeliest token alone, and no penalty
    assert run(*ask, "--amateur", arm_dir) == 0
    assert capsys.readouterr().out != plain


def test_bad_searches(refused: Refused, base_dir: Path, judge: str, tmp_path: Path) -> None:
    several = saved(tmp_path / "several", classifier(labels=3))
    ask = ["generate", "--base", base_dir, "--prompt", "x", "--method"]
    by = ["--reward-model", judge]
    refused(*ask, "best-off-n", names=["unknown method 'best-off-n'", "do you mean best-of-n?"])
    refused(*ask, "args", names=["args needs a reward model", "--reward-model DIR"])
    refused(*ask, "cbs", names=["cbs needs a reward model, or a guide that scores"])
    refused(
        *ask, "args", *by, "--method-options", "beams=2",
        names=["args has no option 'beams' (it is one of cbs)", "weight, candidates"],
    )  # fmt: skip
    refused(*ask, "cards", *by, "--method-options", "beta=0", names=["cards's beta is 0.0"])
    refused(*ask, "cards", *by, "--method-options", "beta=x", names=["cards's beta is 'x'"])
    refused(*ask, "cards", *by, "--method-options", "beta", names=["'beta'", "NAME=VALUE"])
    refused(*ask, "args", "--reward-model", several, names=["3 outputs", "num_labels=1"])
    refused(
        *ask, "args", "--reward-model", base_dir,
        names=["is a language model, which gives no scalar reward", "--arm"],
    )  # fmt: skip
    refused(*ask, "args", *by, "--speculate", "on", names=["no part in args"])
    refused(
        *ask, "vas", *by, "--baseline-reward-model", judge,
        names=["a baseline reward model has no part in vas", "transfer-q"],
    )  # fmt: skip
    refused(
        *ask, "cards", *by, "--method-options", "shortest=9", "longest=4",
        names=["cards's shortest is 9, its longest 4"],
    )  # fmt: skip
    refused(*ask, "best-of-n", *by, "--method-options", "n=9999999", names=["1 to 1048576"])
    refused(*ask, "args", "--reward-model", "", names=["has no place", "--reward-model DIR"])
    refused(
        *ask, "args", *by, "--trust-remote-code", "reward_model",
        names=["no model is called 'reward_model'", "reward-model"],
    )  # fmt: skip
    short = classifier()
    short.config.max_position_embeddings = 40
    refused(
        *ask, "args", "--reward-model", saved(tmp_path / "short", short), "--max-new-tokens", 50,
        names=["the reward model", "short reads 40", "--max-new-tokens"],
    )  # fmt: skip
    plain = ["generate", "--base", base_dir, "--prompt", "x"]
    refused(*plain, *by, names=["no search", "add --method"])
    refused(*plain, "--method-options", "n=3", names=["no search", "add --method"])


def test_guides_that_score_do_not_steer(refused: Refused, base_dir: Path, arm_dir: Path) -> None:
    ask = ["generate", "--base", base_dir, "--prompt", "x", "--method", "best-of-n"]
    arm = ["--arm", f"y={arm_dir}"]
    for more in (["--strength", 0.5], ["--kl-budget", 0], ["--gate", 0.5]):
        refused(*ask, *arm, *more, names=["the guides score in best-of-n", "--reward-model DIR"])
    two = ["--policy", f"x={arm_dir}", "--policy", f"z={arm_dir}", "--combine", "forward-kl"]
    refused(*ask, *two, names=["forward-kl where the policies score"])
    refused(*ask, "--amateur", arm_dir, names=["needs a reward model, or a guide that scores"])


def test_a_report_is_strict_json(base_dir: Path, arm_dir: Path, capsys: Capture) -> None:
    """An amateur's reward of a token that is not plausible is infinite."""
    ask = ["--base", base_dir, "--amateur", arm_dir, "--strength", "0", "--report"]
    assert run(*ask, "--prompt", "the cat") == 0
    json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))


def test_bad_policies(refused: Refused, base_dir: Path, arm_dir: Path) -> None:
    ask = ["generate", "--base", base_dir, "--prompt", "x", "--policy", f"x={arm_dir}"]
    refused(*ask, "--arm", f"y={arm_dir}", names=["the policy x and the guide y", "--contrast"])
    refused(*ask, "--amateur", arm_dir, names=["policies and an amateur"])
    refused(*ask, "--strength", 1.5, names=["strength 1.5 with a policy", "0 (the base) to 1"])
    refused("chat", *ask[1:3], *ask[5:], "--strength", 2, names=["strength 2 with a policy"])
    plain = ["generate", "--base", base_dir, "--prompt", "x"]
    refused(*plain, "--policy", f"amateur={arm_dir}", names=["a policy is called 'amateur'"])
    refused(*plain, "--policy", "y=./nowhere", names=["no policy y at ./nowhere"])
    refused(*plain, "--plausibility", 0.2, names=["--plausibility without --amateur"])
    refused(
        *plain, "--amateur", arm_dir, "--combine", "forward-kl",
        names=["--combine forward-kl with an amateur"],
    )  # fmt: skip
    refused(*plain, "--policy", "x", names=["cannot read --policy x"])
    refused(
        *plain, "--arm", f"y={arm_dir}", "--combine", "forward-kl",
        names=["--combine forward-kl without policies"],
    )  # fmt: skip
    refused(*plain, "--amateur", f"-1:{arm_dir}", names=["the amateur's penalty is -1.0"])
    refused(*plain, "--amateur", arm_dir, "--plausibility", 2, names=["plausibility is 2"])
