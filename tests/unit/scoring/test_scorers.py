"""Scorers: what a user may write, what comes of it, and the line a mistake gets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conditioned import save_arm
from conftest import make_tokenizer, save_model

from trimtab.arms.reward_model import RewardModel
from trimtab.errors import ConfigError, DataError, MissingFileError, OutputError
from trimtab.scoring.model_scorer import ModelScorer, model_identity
from trimtab.scoring.rule import Rule
from trimtab.scoring.score_files import (
    Answer,
    ScoreFile,
    made_again,
    missing,
    score_answers,
    score_files,
)
from trimtab.scoring.scorer import Scorer
from trimtab.scoring.specs import load_scorer

RULES = """
import math
constant = 3
def length(response): return len(response)
def asked(prompt, response, weight=2.0): return weight * response.count(str(prompt))
def fails(response): raise KeyError("weights")
def fails_silently(response): raise RuntimeError
def words(response): return response
def nothing(response): return None
def infinite(response): return math.inf
def three(a, b, c): return 0
def optional(response=""): return 0
def keyword(*, response): return 0
def yes(response): return True
def huge(response): return 10 ** 400
def unwritable(response): return 10 ** 5000
def leaves(response): raise SystemExit(3)
"""


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of rules in the current directory, under a name that no test has imported."""
    (tmp_path / f"rules_{tmp_path.name}.py").write_text(RULES)
    (tmp_path / f"broken_{tmp_path.name}.py").write_text("import nonsense_that_is_not_there\n")
    (tmp_path / f"odd_{tmp_path.name}.py").write_text("1 / 0\n")
    (tmp_path / f"leaving_{tmp_path.name}.py").write_text("import sys; sys.exit('bye')\n")
    monkeypatch.chdir(tmp_path)


def rule(tmp_path: Path, name: str) -> Scorer:
    return load_scorer(f"rules_{tmp_path.name}:{name}", "good")


@pytest.mark.usefixtures("rules")
def test_rules_of_response_and_of_both(tmp_path: Path) -> None:
    assert rule(tmp_path, "length").score(["x", "y"], ["four", ""]) == [4.0, 0.0]
    assert rule(tmp_path, "asked").score(["a", "b"], ["aab", "aab"]) == [4.0, 2.0]
    assert rule(tmp_path, "yes").score(["x"], [""]) == [1.0]
    assert load_scorer("trimtab.demo.tiny.rules:cheerful", "good").score(["x"], ["happy joy"]) == [
        2.0
    ]


@pytest.mark.usefixtures("rules")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fails", r"fails on (row 1|place 9) \(KeyError: 'weights'\); mend the rule"),
        ("fails_silently", r"fails on (row 1|place 9) \(RuntimeError\)"),
        ("words", r"gives 'text' for (row 1|place 9); return a finite number"),
        ("nothing", "gives None for"),
        ("infinite", "gives inf for"),
        ("huge", r"gives 10{76}\.\.\. for (row 1|place 9); return a finite number"),
        ("unwritable", "gives something of type int for"),
        ("leaves", r"fails on (row 1|place 9) \(SystemExit: 3\)"),
    ],
)
def test_a_rule_that_gives_no_number_is_named_with_its_row(
    name: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        rule(tmp_path, name).score(["x"], ["text"])
    with pytest.raises(ConfigError, match=said):
        rule(tmp_path, name).score(["x"], ["text"], places=["place 9"])


@pytest.mark.usefixtures("rules")
@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("rules_{}:none", "has no function 'none'; check its name"),
        ("rules_{}:constant", "has no function 'constant'"),
        ("rules_{}:three", r"takes \(a, b, c\); a rule takes \(response\) or \(prompt, response\)"),
        ("rules_{}:optional", r"takes \(\)"),
        ("rules_{}:keyword", r"takes \(response\); a rule takes"),
        ("no_such_module:length", "no module 'no_such_module'; run where its file is"),
        ("json.no_such_module:length", "no module 'json.no_such_module'"),
        ("broken_{}:length", r"cannot be imported \(No module named 'nonsense.*\); install what"),
        ("odd_{}:length", r"cannot be imported \(ZeroDivisionError: division by zero\); mend it"),
        ("leaving_{}:length", r"cannot be imported \(SystemExit: bye\); mend it"),
        ("a b:c", "cannot read the scorer 'a b:c' of 'good'; a scorer is a folder"),
        ("", "cannot read the scorer ''"),
    ],
)
def test_specs_that_mean_nothing(spec: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        load_scorer(spec.format(tmp_path.name), "good")


@pytest.mark.usefixtures("rules")
def test_the_identity_of_a_rule_is_its_source(tmp_path: Path) -> None:
    found = rule(tmp_path, "length").identity
    assert found["rule"].endswith(":length") and len(found["sha256"]) == 64
    (tmp_path / f"rules_{tmp_path.name}.py").write_text(RULES + "\n")
    assert rule(tmp_path, "length").identity["sha256"] != found["sha256"]


def test_a_rubric_is_for_a_judge() -> None:
    with pytest.raises(ConfigError, match="a rubric for 'good', whose scorer is no judge"):
        load_scorer("trimtab.demo.tiny.rules:cheerful", "good", rubric="be nice")


# --- reward models ------------------------------------------------------------------------------


def test_a_folder_scores_as_its_reward_model(base_dir: Path) -> None:
    prompts, responses = ["the cat", "the dog"], ["sat", "ran on"]
    scorer = load_scorer(str(base_dir), "good")
    assert isinstance(scorer, ModelScorer)
    expected = [s.reward for s in RewardModel(str(base_dir)).score(prompts, responses)]
    assert scorer.score(prompts, responses) == pytest.approx(expected, rel=1e-4)
    raw = RewardModel(str(base_dir)).score(prompts, responses, prompt_format="raw")
    mixed = scorer.score(prompts, responses, verbatim=[True, False])
    assert mixed == pytest.approx([raw[0].reward, expected[1]], rel=1e-4)
    scorer.close()
    assert scorer.score(prompts, responses) == pytest.approx(expected, rel=1e-4)


def test_a_response_to_nothing_is_refused(tmp_path: Path) -> None:
    raw = save_model(tmp_path / "raw", tokenizer=make_tokenizer(template=None))  # and no BOS
    with pytest.raises(ConfigError, match="row 2 has an empty prompt: nothing predicts its first"):
        load_scorer(str(raw), "good").score(["the cat", ""], ["sat", "ran"])


def test_folders_that_are_no_reward_model(base_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no reward model at"):
        load_scorer(str(tmp_path / "none"), "good")
    arm = save_arm(tmp_path / "parm", base_dir, "bilinear", "ab")
    with pytest.raises(ConfigError, match="takes a preference as input and rates no objective"):
        load_scorer(str(arm), "good")


def test_the_identity_of_a_model_is_its_weights_and_facts(tmp_path: Path) -> None:
    one, same, other = (save_model(tmp_path / n, seed=s) for n, s in [("a", 1), ("b", 1), ("c", 2)])
    assert model_identity(str(one)) == model_identity(str(same)) != model_identity(str(other))
    (one / "trimtab.json").write_text(json.dumps({"scale": 2.0}))
    assert model_identity(str(one)) != model_identity(str(same))
    assert model_identity("owner/name") == "owner/name"
    (same / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert model_identity(str(same)) not in (model_identity(str(one)), model_identity(str(other)))


def test_the_identity_of_an_adapter_is_its_bases_too(base_dir: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(base_dir, base)
    arm = save_arm(tmp_path / "parm", base, "bilinear", "ab")
    before = model_identity(str(arm))
    assert before == model_identity(str(arm))
    save_model(base, seed=7)
    assert model_identity(str(arm)) != before
    shutil.rmtree(base)
    assert model_identity(str(arm)) != before  # gone: no error here


def test_scores_in_another_precision_are_other_scores(base_dir: Path) -> None:
    one, other = (load_scorer(str(base_dir), "a", dtype=d) for d in ("float32", "bfloat16"))
    assert one.identity != other.identity


# --- scoring a file -----------------------------------------------------------------------------


class Counting(Scorer):
    """Scores a response by its length times its version; no score for an empty one."""

    def __init__(self, name: str, version: int = 1, stops: int | None = None) -> None:
        self.name, self.version, self.stops = name, version, stops
        self.identity = {"name": name, "version": version}
        self.asked: list[str] = []
        self.closed = self.calls = 0

    def score(self, prompts: Any, responses: Any, **_: Any) -> list[float | None]:
        if self.calls == self.stops:
            raise KeyboardInterrupt
        self.calls += 1
        self.asked += responses
        return [float(self.version * len(text)) or None for text in responses]

    def close(self) -> None:
        self.closed += 1


ANSWERS = [Answer("x", "y" * (i % 5), f"row {i}") for i in range(Counting.chunk + 3)]


def silent(what: str, done: int, total: int) -> None:
    pass


def files(folder: Path, *scorers: Counting, overwrite: bool = False, n: int = 1) -> list[ScoreFile]:
    own: dict[str, Scorer] = {scorer.name: scorer for scorer in scorers}
    return score_files(lambda name: folder / f"{name}.jsonl", {"n": n}, own, overwrite=overwrite)


def test_answers_are_scored_by_one_scorer_after_another(tmp_path: Path) -> None:
    scorers = [Counting("a"), Counting("b")]
    begun = files(tmp_path, *scorers)
    assert all(file.lacks_some(len(ANSWERS)) for file in begun)
    found = score_answers(begun, ANSWERS, silent)
    assert found["a"][:6] == [None, 1, 2, 3, 4, None] and found["a"] == found["b"]
    assert len(found["a"]) == len(ANSWERS)
    assert [(s.closed, len(s.asked)) for s in scorers] == [(1, len(ANSWERS)), (1, len(ANSWERS))]
    assert all(file.lacks_some(len(ANSWERS)) for file in files(tmp_path, *scorers))
    whole = [Answer("x", "y", "row")] * len(ANSWERS)
    score_answers(files(tmp_path, *scorers, n=2, overwrite=True), whole, silent)
    assert not any(file.lacks_some(len(whole)) for file in files(tmp_path, *scorers, n=2))


def test_scores_go_on_where_they_stopped(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        score_answers(files(tmp_path, Counting("a"), Counting("b", stops=1)), ANSWERS, silent)
    with (tmp_path / "b.jsonl").open("ab") as handle:
        handle.write(b'{"first": 128, "sco')
    again, other = Counting("a"), Counting("b")
    begun = files(tmp_path, again, other)
    assert [file.job.done for file in begun] == [2, 1]
    found = score_answers(begun, ANSWERS, silent)
    assert set(again.asked) == {""}  # what was missing
    assert len([text for text in other.asked if text]) == 2 and found["a"] == found["b"]


def test_only_the_scores_of_a_changed_scorer_are_made_again(tmp_path: Path) -> None:
    score_answers(files(tmp_path, Counting("a"), Counting("b")), ANSWERS, silent)
    same, mended = Counting("a"), Counting("b", version=2)
    begun = files(tmp_path, same, mended)
    assert made_again(begun) == ["scores of b are made again: its scorer has changed"]
    assert (tmp_path / "b.jsonl").exists()  # nothing is removed before there is something else
    assert score_answers(begun, ANSWERS, silent)["b"][1] == 2
    assert set(same.asked) == {""} and len(mended.asked) == len(ANSWERS)
    assert made_again(files(tmp_path, same, mended)) == []


def test_scores_of_other_responses_are_refused(tmp_path: Path) -> None:
    score_answers(files(tmp_path, Counting("a")), ANSWERS, silent)
    for changed in (Counting("a"), Counting("a", version=2)):
        with pytest.raises(OutputError, match="holds rows of another run"):
            files(tmp_path, changed, n=2)
    assert made_again(files(tmp_path, Counting("a"), n=2, overwrite=True)) == []
    (tmp_path / "a.jsonl.job.json").write_text("[]")
    with pytest.raises(OutputError, match="holds rows of another run"):
        files(tmp_path, Counting("a"))


def test_a_rule_is_a_rule() -> None:
    assert isinstance(load_scorer("trimtab.demo.tiny.rules:dialogue", "speech"), Rule)


def test_missing_scores_are_asked_for_again(tmp_path: Path) -> None:
    """Where the scorer has learnt to rate them, in their places; the others are not asked for."""

    class Mended(Counting):
        def score(self, prompts: Any, responses: Any, **_: Any) -> list[float | None]:
            self.asked += responses
            return [-1.0 if not text else 9.0 for text in responses]

    first = score_answers(files(tmp_path, Counting("a")), ANSWERS, silent)["a"]
    lost = [i for i, score in enumerate(first) if score is None]
    assert len(lost) == 27
    told: list[tuple[str, int, int]] = []
    mended = Mended("a")
    found = score_answers(files(tmp_path, mended), ANSWERS, lambda *now: told.append(now))["a"]
    assert mended.asked == [""] * 27 and told == [("scoring a again", 27, 27)]
    assert found == [-1.0 if score is None else score for score in first]
    [file] = files(tmp_path, mended)
    assert file.known() == found and not file.lacks_some(len(ANSWERS))


class Mute(Counting):
    """Never gives a score; some replies in small chunks, as a judge's are kept."""

    chunk = 16
    trouble, wanted = "'Well.'", "say a number"

    def score(self, prompts: Any, responses: Any, **_: Any) -> list[float | None]:
        self.asked += responses
        return [None] * len(responses)


@pytest.mark.parametrize(("answers", "asked"), [(3, 3), (63, 63), (64, 64), (131, 64)])
def test_nothing_usable_is_an_error_before_everything_was_asked(
    answers: int, asked: int, tmp_path: Path
) -> None:
    mute = Mute("a")
    said = rf"none of {asked} answers got a score on 'a' \(instead came 'Well\.'\); say a number"
    with pytest.raises(DataError, match=said):
        score_answers(files(tmp_path, mute), ANSWERS[:answers], silent)
    assert len(mute.asked) == asked
    again = Mute("a")
    with pytest.raises(DataError, match=said):
        score_answers(files(tmp_path, again), ANSWERS[:answers], silent)
    assert len(again.asked) == (asked if asked < 64 else 16)  # all of few, the first of many


def test_missing_scores_are_said(tmp_path: Path) -> None:
    begun = files(tmp_path, Counting("a"))
    scores = score_answers(begun, ANSWERS, silent)
    said = "a: 27 of 131 scores are missing (nothing came); the same command asks for them again"
    assert missing(begun, scores) == [said]
    assert missing(begun, {"a": [1.0]}) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_scorer_that_gives_nan_is_named(value: float, tmp_path: Path) -> None:
    class Broken(Counting):
        def score(self, prompts: Any, responses: Any, **_: Any) -> list[float | None]:
            return [1.0, value, 1.0][: len(responses)]

    begun = files(tmp_path, Broken("a"))
    with pytest.raises(ConfigError, match=f"the scorer of 'a' gives {value} for row 1; a score"):
        score_answers(begun, ANSWERS[:3], silent)
    earlier = {"first": 0, "scores": [1.0, value, 1.0]}  # an earlier version wrote it down
    with begun[0].job as job:
        job.append(earlier)
    with pytest.raises(OutputError, match=r"a\.jsonl holds (NaN|Infinity), which is no score"):
        score_answers(files(tmp_path, Counting("a")), ANSWERS[:3], silent)


@pytest.mark.usefixtures("rules")
def test_a_probe_calls_a_rule_and_loads_no_model(tmp_path: Path, base_dir: Path) -> None:
    rule(tmp_path, "length").probe("x")
    with pytest.raises(ConfigError, match=r"fails on the first prompt, answered 'Hello there\.' "):
        rule(tmp_path, "fails").probe("x")
    model = load_scorer(str(base_dir), "good")
    model.probe("x")
    assert isinstance(model, ModelScorer) and model._model is None
