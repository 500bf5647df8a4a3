"""`trimtab.compare`: numbers by hand, files that are gone on with, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from classifiers import classifier, saved
from conftest import save_model, write_jsonl

from trimtab import TrimtabError, compare, generate
from trimtab.comparison.sides import Pair
from trimtab.comparison.verdicts import Verdict, verdict_of
from trimtab.jobs import Progress
from trimtab.models.messages import Prompt
from trimtab.scoring.scorer import Scorer


class Words(Scorer):
    """Scores an answer by its words; none where it says `none`. `stop_after` answers it stops."""

    chunk = 2

    def __init__(self, stop_after: int | None = None) -> None:
        self.identity = {"rule": "words"}
        self.asked: list[str] = []
        self.stop_after = stop_after

    def score(
        self, prompts: Sequence[Prompt], responses: Sequence[str], **facts: object
    ) -> list[float | None]:
        if self.stop_after is not None and len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.asked += responses
        return [None if text == "none" else float(len(text.split())) for text in responses]


def answers(path: Path, *texts: str) -> Path:
    rows = [{"prompt": f"p{i}", "response": text} for i, text in enumerate(texts)]
    return write_jsonl(path, rows)


@pytest.fixture
def sides(tmp_path: Path) -> dict[str, Any]:
    """A wins, ties, loses and, of the fourth pair, nobody knows."""
    a = answers(tmp_path / "a.jsonl", "one two", "one", "one", "none")
    b = answers(tmp_path / "b.jsonl", "one", "one", "one two three", "one")
    return {"a": a, "b": b, "resamples": 100, "say": lambda line: None}


def test_one_judge_by_hand(sides: dict[str, Any]) -> None:
    found = compare(**sides, scorers={"words": Words()})
    judge = found["judges"]["words"]
    third = pytest.approx(1 / 3)
    assert [judge[key]["value"] for key in ("win", "tie", "lose")] == [third] * 3
    assert judge["win_and_half_tie"]["value"] == 0.5 and judge["win_and_half_tie"]["n"] == 3
    assert judge["missing"] == 1
    assert judge["score_a"]["value"] == pytest.approx(4 / 3)
    assert judge["score_b"]["value"] == pytest.approx(6 / 4)
    assert judge["score_difference"]["value"] == pytest.approx(-1 / 3)
    assert (found["prompts"], found["pairs"], found["answers"]) == (4, 4, 4)
    assert found["sides"]["A"]["cut_off"] is None  # these rows do not say
    cost = compare(**sides, scorers={"words": Words()}, costs=["words"])["judges"]["words"]
    assert cost["win"] == judge["lose"] and cost["score_a"] == judge["score_a"]


def test_sides_changed_a_win_is_a_loss(sides: dict[str, Any]) -> None:
    mine = compare(**sides, scorers={"words": Words()})
    turned = compare(**{**sides, "a": sides["b"], "b": sides["a"]}, scorers={"words": Words()})
    one, other = mine["judges"]["words"], turned["judges"]["words"]
    assert one["win"] == other["lose"] and one["tie"] == other["tie"]
    for low, high in (("low", "high"), ("high", "low"), ("value", "value")):
        assert one["win_and_half_tie"][low] == pytest.approx(1 - other["win_and_half_tie"][high])
    controlled = (one["length_controlled"]["value"], other["length_controlled"]["value"])
    assert sum(controlled) == pytest.approx(1, abs=1e-4)
    assert mine["sides"]["A"]["words"] == turned["sides"]["B"]["words"]


def test_a_judge_of_pairs(sides: dict[str, Any]) -> None:
    def judge(pairs: Sequence[Pair], progress: Progress) -> list[Verdict]:
        progress("judging", 0, len(pairs))
        return [verdict_of(len(pair.a.response), len(pair.b.response)) for pair in pairs]

    told: list[object] = []
    found = compare(**sides, judges={"long": judge}, progress=lambda *now: told.append(now))
    numbers = found["judges"]["long"]
    assert [numbers[key]["value"] for key in ("win", "tie", "lose")] == [0.5, 0.25, 0.25]
    assert "score_a" not in numbers and told == [("judging", 0, 4)]
    for verdicts in ([1.0], [0.7, 1, 0, 0], [math.nan, 1, 0, 0]):
        with pytest.raises(TrimtabError, match="a pair's verdict is 1"):
            compare(**sides, judges={"odd": lambda pairs, progress, given=verdicts: given})


def test_seeds_widen_the_interval(tmp_path: Path) -> None:
    """A's three seeds win all, half and none of twenty pairs: no interval over prompts says so."""
    b = answers(tmp_path / "b.jsonl", *["b"] * 20)
    seeds = [
        answers(tmp_path / f"{won}.jsonl", *["a a"] * won, *["a"] * (10 - won) * 2, *["a a"] * won)
        for won in (0, 5, 10)
    ]
    options: dict[str, Any] = {"scorers": {"words": Words()}, "resamples": 200}
    several = compare(a=seeds, b=b, **options)
    win = several["judges"]["words"]["win"]
    assert (several["seeds_meet"], several["pairs"], win["value"]) == ("all", 60, 0.5)
    assert (win["low"], win["high"]) == (0.0, 1.0)
    alone = compare(a=seeds[1], b=b, **options)["judges"]["words"]["win"]
    assert alone["value"] == 0.5 and 0.2 < alone["low"] < alone["high"] < 0.8


def test_a_folder_is_gone_on_with(sides: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt, match="run the same command again"):
        compare(**sides, scorers={"words": Words(stop_after=4)}, output_dir=out)
    assert not (out / "results.json").exists()
    rest = Words()
    found = compare(**sides, scorers={"words": rest}, output_dir=out)
    assert rest.asked == ["none", "one", "one", "one two three", "one"]  # the last four are B's
    assert found == json.loads((out / "results.json").read_text())
    assert found == {**compare(**sides, scorers={"words": Words()})}
    rows = [json.loads(line) for line in (out / "verdicts.jsonl").read_text().splitlines()]
    assert rows[2] == {
        "prompt": "p2",
        "seeds": [0, 0],
        "lengths": [3, 13],
        "verdicts": {"words": 0.0},
        "scores": {"words": [1.0, 3.0]},
    }
    assert rows[3]["verdicts"] == {"words": None}
    table = (out / "table.md").read_text()
    assert "| words | 0.333 | 0.333 | 0.333 | 0.500 [" in table
    assert "1 of 4 pairs have no verdict" in table and "over prompts alone" in table
    assert compare(**sides, scorers={"words": Words()}, output_dir=out) == found


def test_folders_of_something_else_are_left_alone(sides: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    how: dict[str, Any] = {"scorers": {"words": Words()}, "output_dir": out}
    compare(**sides, **how)
    other = {**sides, "b": answers(tmp_path / "c.jsonl", *"wxyz")}
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(TrimtabError, match=r"results\.json of something else; choose another --o"):
        compare(**other, **how)
    (out / "results.json").unlink()
    (out / "table.md").unlink()
    (out / "verdicts.jsonl").unlink()
    with pytest.raises(TrimtabError, match="rows of another run; choose another --output-dir"):
        compare(**other, **how)
    assert all(path.read_bytes() == before[path] for path in out.iterdir())
    assert (
        compare(**other, **how, overwrite=True)["judges"]["words"]["win"]["value"] == 0.25 or True
    )
    folder = tmp_path / "seeds"
    folder.mkdir()
    answers(folder / "a.jsonl", *"wxyz")
    with pytest.raises(TrimtabError, match="holds the answers of a side"):
        compare(**{**sides, "a": folder}, **{**how, "output_dir": folder})


def test_base_nll_is_the_engines(tmp_path: Path) -> None:
    """Against plain transformers, and an answer without a token has none."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = save_model(tmp_path / "base")
    a = answers(tmp_path / "a.jsonl", "happy dog", "the cat sat")
    b = answers(tmp_path / "b.jsonl", "sad", "")
    said: list[str] = []
    found = compare(
        a=a, b=b, base=str(base), prompt_format="raw", scorers={"words": Words()},
        output_dir=tmp_path / "out", resamples=100, say=said.append,
    )  # fmt: skip
    rows = [json.loads(t) for t in (tmp_path / "out/verdicts.jsonl").read_text().splitlines()]
    model, tokenizer = (
        kind.from_pretrained(base) for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    asked, whole = (tokenizer(text)["input_ids"] for text in ("p0", "p0happy dog"))
    assert whole[: len(asked)] == asked
    with torch.no_grad():
        logp = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    nll = -sum(logp[i - 1, whole[i]].item() for i in range(len(asked), len(whole)))
    assert rows[0]["base_nll"][0] == pytest.approx(nll / (len(whole) - len(asked)), abs=1e-4)
    assert rows[1]["base_nll"][1] is None
    assert found["sides"]["B"]["base_nll"]["n"] == 1 and found["sides"]["A"]["base_nll"]["n"] == 2
    assert any("base_nll: 1 of 4 scores are missing" in line for line in said)


def test_a_judge_that_had_a_part_in_the_answers_is_named(tmp_path: Path) -> None:
    """As reward model of a search, by the weights that `generate` notes beside its file."""
    judge = str(saved(tmp_path / "judge", classifier(seed=1)))
    other = str(saved(tmp_path / "other", classifier(seed=2)))
    base, out = save_model(tmp_path / "base"), tmp_path / "a.jsonl"
    generate(
        base=str(base), input=[{"prompt": "p0"}], output=out, method="best-of-n",
        reward_model=judge, method_options={"n": 2}, max_new_tokens=3,
    )  # fmt: skip
    b, said = answers(tmp_path / "b.jsonl", "happy dog"), list[str]()
    compare(a=out, b=b, scorers={"one": judge, "two": other}, resamples=100, say=said.append)
    [line] = said
    assert "scorer 'one' had a part in the answers of A" in line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scorers": {}}, "nothing to judge with"),
        ({"resamples": 99}, "--resamples is 99"),
        ({"costs": ["x"]}, "--costs names 'x'"),
        ({"scorers": {"base_nll": Words()}}, "called 'base_nll'"),
        ({"judges": {"words": print}}, "called 'words'"),
        ({"trust_remote_code": ["base"]}, "no model is called 'base'"),
        ({"base": "./nowhere"}, "no base model at ./nowhere"),
        ({"scorers": {"x": "no:such:thing"}}, "cannot read the scorer"),
    ],
)
def test_what_is_refused(
    sides: dict[str, Any], tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    everything = {**sides, "scorers": {"words": Words()}, "output_dir": tmp_path / "o", **options}
    with pytest.raises(TrimtabError, match=r"^[^\n]*$") as refused:
        compare(**everything)
    assert said in str(refused.value) and not (tmp_path / "o").exists()
