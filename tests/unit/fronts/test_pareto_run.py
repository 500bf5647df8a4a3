"""`pareto` end to end on tiny random models: answered, scored, resumed, reported again."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import sweeps
import torch
import transformers
from chat_judge import serving
from conftest import write_jsonl
from sweeps import GUIDE, HAPPY, PROMPTS, rows, sweep, tree, without_time

from trimtab.engines.local import load_engine
from trimtab.errors import TrimtabError

world, in_the_world = sweeps.world, sweeps.in_the_world  # the fixtures

SCORES = ("scores.happy.jsonl", "scores.brief.jsonl")
ALL: dict[str, Any] = {
    "guides": {"fused": "loras", "parm": "parm@2", "seeded": "whole/{seed}"},
    "soups": {"soup": "loras"}, "seeds": [0, 1], "preference_step": 0.5, "costs": ["brief"],
}  # fmt: skip
ENDS: dict[str, Any] = {"guides": GUIDE, "preference_step": 1}
POINTS = [{"happy": 1.0, "brief": 0.0}, {"happy": 0.5, "brief": 0.5}, {"happy": 0.0, "brief": 1.0}]


@pytest.fixture(scope="module")
def swept(base_dir: Path, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of all kinds of guides."""
    out = tmp_path_factory.mktemp("swept") / "front"
    with contextlib.chdir(world):
        sweep(base_dir, out, **ALL)
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


UNTRAINED: dict[str, Any] = {
    "instruct": {"happy": "big red sun", "brief": {"text": "moon", "weight": -0.5}},
    "contrast": {"mixed.happy": "2:whole/0/happy:whole/1/happy"},
}


def test_guides_without_training(base_dir: Path, tmp_path: Path) -> None:
    """Answers are the engine's; texts and weights are the run's identity; a killed run goes on."""
    out, half = tmp_path / "front", "-1.5:the dog"
    given: dict[str, Any] = {**UNTRAINED, "preference_step": 0.5, "strength": 1.5}
    given["instruct"] = {**given["instruct"], "mixed.brief": half}
    front = sweep(base_dir, out, **given)
    assert list(front["guides"]) == ["base", "instructions", "mixed"]
    pair = ("whole/0/happy", "whole/1/happy")
    engines = {
        "instructions": load_engine(str(base_dir), instruct=UNTRAINED["instruct"]),
        "mixed": load_engine(
            str(base_dir),
            instruct={"brief": half},
            contrast={"happy": {"tuned": pair[0], "untuned": pair[1], "weight": 2}},
        ),
    }
    found = rows(out / "records.jsonl")
    for row in found:
        if row["guide"] == "base":
            continue
        [answer] = engines[row["guide"]].generate(
            [row["prompt"]], preference=row["preference"], strength=1.5, max_new_tokens=6,
            seed=row["prompt_index"],
        )  # fmt: skip
        assert row["response"] == answer.text
    assert len({row["response"] for row in found}) > len(PROMPTS) * 3
    table = (out / "table.md").read_text()
    assert 'instructions: happy "big red sun"; brief "moon" (weight -0.5).' in table
    assert f"happy {pair[0]} against {pair[1]} (weight 2)" in table
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["guides"]["mixed"]["contrast"]["happy"]["tuned"] == pair[0]
    path = out / "responses.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:7]))
    sweep(base_dir, out, **given)
    assert without_time(rows(out / "records.jsonl")) == without_time(found)
    for other in ("big blue sun", "2:big red sun"):
        changed = {**given, "instruct": {**given["instruct"], "happy": other}}
        with pytest.raises(TrimtabError, match="another run"):
            sweep(base_dir, out, **changed)
    changed = {**given, "contrast": {"mixed.happy": f"1:{pair[0]}:{pair[1]}"}}
    with pytest.raises(TrimtabError, match="another run"):
        sweep(base_dir, out, **changed)


def test_policies_take_the_bases_place(base_dir: Path, world: Path, tmp_path: Path) -> None:
    """MOD by either KL, at their share: the engine's answers; a killed run goes on."""
    out, place = tmp_path / "front", "whole/{seed}"
    given: dict[str, Any] = {
        "policies": {"mod": place, "mod-f": f"{place}@0.5"}, "combine": {"mod-f": "forward-kl"},
        "seeds": [1], "preference_step": 0.5,
    }  # fmt: skip
    sweep(base_dir, out, **given)
    policy = {name: str(world / "whole" / "1" / name) for name in ("happy", "brief")}
    engines = {
        "mod": (load_engine(str(base_dir), policy=policy), 1.0),
        "mod-f": (load_engine(str(base_dir), policy=policy, combine="forward-kl"), 0.5),
    }
    found = rows(out / "records.jsonl")
    for row in (row for row in found if row["guide"] != "base"):
        engine, strength = engines[row["guide"]]
        [answer] = engine.generate(
            [row["prompt"]], preference=row["preference"], strength=strength, max_new_tokens=6,
            seed=100003 + row["prompt_index"],
        )  # fmt: skip
        assert row["response"] == answer.text
    assert "mod: policies in the base's place" in (out / "table.md").read_text()
    path = out / "responses.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:7]))
    sweep(base_dir, out, **given)
    assert without_time(rows(out / "records.jsonl")) == without_time(found)
    with pytest.raises(TrimtabError, match="another run"):
        sweep(base_dir, out, **{**given, "combine": {}})


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


def test_missing_scores_and_reward_models(base_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "front"
    front = sweep(
        base_dir, out, guides=GUIDE, preferences=["happy=3,brief=1", "happy=0,brief=1"],
        prompts_limit=2, scorers={"happy": str(base_dir), "brief": "pareto_rules:long"},
    )  # fmt: skip
    assert front["n_prompts"] == 2
    assert front["preferences"][0] == {"happy": 0.75, "brief": 0.25}
    assert all(row["scores"]["happy"] < 0 for row in rows(out / "records.jsonl"))  # log-probs


def test_scorers_with_a_head_and_scorers_that_give_nan(base_dir: Path, tmp_path: Path) -> None:
    out, judge = tmp_path / "front", tmp_path / "judge"
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base_dir, num_labels=1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base_dir)
    model.save_pretrained(judge)
    tokenizer.save_pretrained(judge)
    scorers = {"happy": str(judge), "brief": "pareto_rules:long"}
    sweep(base_dir, out, **ENDS, scorers=scorers)
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
    said = f"the model {judge} gives NaN for row 1 of responses.jsonl (base); its weights"
    with pytest.raises(TrimtabError, match=re.escape(said)):
        sweep(base_dir, out, **ENDS, scorers=scorers)
    assert (out / "responses.jsonl").read_bytes() == responses
    assert not (out / "front.json").exists()


def test_pairs_and_chats_are_prompts(base_dir: Path, tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "hello"}]
    pair = {"chosen": "happy", "rejected": "sad"}
    given = [{"prompt": chat, **pair}, {"prompt": chat, **pair}, {"prompt": "cat", **pair}]
    given.append({"prompt": "dog", "chosen": "", "rejected": "sad"})
    path = write_jsonl(tmp_path / "pairs.jsonl", given)
    out, said = tmp_path / "front", []
    rules = {**HAPPY, "brief": "pareto_rules:cheerful"}
    sweep(base_dir, out, **ENDS, prompts=str(path), scorers=rules, say=said.append)
    assert said == ["1 row left out: one side is empty (pairs.jsonl:4)"]
    assert [r["prompt"] for r in rows(out / "records.jsonl") if r["guide"] == "base"] == [
        chat,
        "cat",
    ]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["prompts_left_out"] == {"one side is empty": 1}


# --- gone on with -------------------------------------------------------------------------------


def test_a_finished_sweep_only_reports_again(
    base_dir: Path, swept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ("responses.jsonl", *SCORES, "records.jsonl", "manifest.json")
    before = {name: (swept / name).read_bytes() for name in kept}
    first = json.loads((swept / "front.json").read_text())
    monkeypatch.setattr("trimtab.engines.local.load_engine", None)  # would fail if it were called
    said: list[str] = []
    front = sweep(
        base_dir, swept, **ALL, normalize="none", reference="happy=-1,brief=3", batch_size=3,
        say=said.append,
    )  # fmt: skip
    assert front["normalization"]["kind"] == "none"
    assert front["reference"]["common"] == {"happy": -1, "brief": -3}
    assert json.loads((swept / "front.json").read_text()) == front
    assert {name: (swept / name).read_bytes() for name in kept} == before
    assert sweep(base_dir, swept, **ALL, say=said.append) == first and not said


@pytest.mark.slow
def test_a_torn_sweep_goes_on(base_dir: Path, swept: Path, tmp_path: Path) -> None:
    """Cut in the middle of a line of each guide's part, and of the scores."""
    whole = (swept / "responses.jsonl").read_bytes().splitlines(keepends=True)
    for number in (3, 20, 57):
        out = shutil.copytree(swept, tmp_path / f"front{number}")
        for name in (*SCORES, "records.jsonl", "front.json", "table.md", "front.png"):
            (out / name).unlink()
        torn = b"".join(whole[:number]) + whole[number][:25]
        (out / "responses.jsonl").write_bytes(torn)
        sweep(base_dir, out, **ALL)
        found = (out / "responses.jsonl").read_bytes()
        assert found.startswith(b"".join(whole[:number]))  # not done again
        for name in ("responses.jsonl", "records.jsonl"):
            assert without_time(rows(out / name)) == without_time(rows(swept / name))
        assert (out / "front.png").is_file()


def test_another_scorer_keeps_the_responses_and_the_other_scores(
    base_dir: Path, swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(swept, tmp_path / "front")
    monkeypatch.setattr("trimtab.engines.local.load_engine", None)  # would fail if it were called
    heard: list[str] = []
    sweep(
        base_dir, out, **ALL, scorers={**HAPPY, "brief": "pareto_rules:cheerful"},
        say=heard.append, progress=lambda what, done, total: heard.append(what),
    )  # fmt: skip
    assert heard[0] == "scores of brief are made again: its scorer has changed"
    assert set(heard[1:]) == {"scoring brief"}
    for name in ("responses.jsonl", "scores.happy.jsonl", "scores.happy.jsonl.job.json"):
        assert (out / name).read_bytes() == (swept / name).read_bytes()
    for row in rows(out / "records.jsonl"):
        assert row["scores"]["brief"] == row["scores"]["happy"]


def test_scores_of_other_responses_are_refused(base_dir: Path, swept: Path, tmp_path: Path) -> None:
    out = shutil.copytree(swept, tmp_path / "front")
    (out / "scores.brief.jsonl.job.json").write_text("{}")
    before = tree(out)
    said = "scores.brief.jsonl holds rows of another run; choose another --output-dir, or pass --ov"
    with pytest.raises(TrimtabError, match=re.escape(said)):
        sweep(base_dir, out, **ALL)
    assert tree(out) == before
    sweep(base_dir, out, **ALL, overwrite=True)
    assert rows(out / "records.jsonl") == rows(swept / "records.jsonl")


def test_new_responses_have_no_old_scores(base_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "front"
    sweep(base_dir, out, **ENDS)
    (out / "scores.mine.jsonl").write_text("keep")
    sweep(base_dir, out, **ENDS, seeds=[5], overwrite=True)
    found = rows(out / "records.jsonl")
    assert {row["seed"] for row in found} == {5} and len(found) == 12
    assert all(r["scores"]["brief"] == len(r["response"]) - len(r["prompt"]) for r in found)
    assert (out / "scores.mine.jsonl").read_text() == "keep"


def test_a_folder_of_something_else_is_refused(base_dir: Path, swept: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(TrimtabError, match="is not empty; choose another --output-dir, or pass --"):
        sweep(base_dir, tmp_path, guides=GUIDE)
    before = tree(swept)
    with pytest.raises(TrimtabError, match="holds rows of another run; choose another --output-di"):
        sweep(base_dir, swept, **ALL, top_k=3)
    assert tree(swept) == before and [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_judge_is_asked_again_for_what_is_missing(
    base_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """First it never rates, then all but one answer, then all; the responses stay."""
    out, said = tmp_path / "front", []
    with serving() as server:
        judge = {"happy": "pareto_rules:long", "brief": server.spec}
        judged: dict[str, Any] = {**ENDS, "scorers": judge, "say": said.append}
        server.replies = [(200, "Well.")]
        none = r"none of 12 answers got a score on 'brief' \(instead came 'Well\.'\); a rep"
        with pytest.raises(TrimtabError, match=none):
            sweep(base_dir, out, **judged)
        assert caplog.messages == ["the judge tiny gives no rating at first: 'Well.'"]
        assert not (out / "front.json").exists() and not said
        responses = (out / "responses.jsonl").read_bytes()
        first = len(server.bodies)
        server.replies = [(200, "Rating: 5"), (200, "Well."), (200, "Rating: 5")]  # the probe first
        front = sweep(base_dir, out, **judged)
        [line] = said
        assert line.startswith("brief: 1 of 12 scores are missing (instead came 'Well.")
        assert len(server.bodies) == first + 13
        assert json.loads((out / "front.json").read_text()) == front
        assert sum(guide["missing"]["brief"] for guide in front["guides"].values()) == 1
        server.replies = [(200, "Rating: 7")]
        sweep(base_dir, out, **judged)
        assert len(server.bodies) == first + 15  # a probe, and the one that was missing
        assert sorted(r["scores"]["brief"] for r in rows(out / "records.jsonl")) == [5] * 11 + [7]
        assert (out / "responses.jsonl").read_bytes() == responses
        sweep(base_dir, out, **judged)
        assert len(server.bodies) == first + 15 and said == [line]


def test_a_rule_that_fails_names_the_row_and_keeps_the_responses(
    base_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "front"
    said = "unless_asked fails on row 1 of responses.jsonl (base) (ZeroDivisionError"
    with pytest.raises(TrimtabError, match=re.escape(said)):
        sweep(base_dir, out, **ENDS, scorers={**HAPPY, "brief": "pareto_rules:unless_asked"})
    assert len(rows(out / "responses.jsonl")) == 12 and not (out / "front.json").exists()
    scores = (out / "scores.happy.jsonl").read_bytes()
    sweep(base_dir, out, **ENDS)
    assert (out / "scores.happy.jsonl").read_bytes() == scores
