"""Relabelling by a judge: scores are paid for once, and those that are missing are said."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import relabelling
from chat_judge import Server, rated_response, serving
from conftest import write_jsonl
from relabelling import PAIRS, UNUSED, names, refused, relabel, rows

data = relabelling.data
in_a_folder_with_rules = relabelling.in_a_folder_with_rules

SILENT = "judge:tiny@http://127.0.0.1:1/v1"  # nobody listens there: it is asked in Python
JUDGED = {"nice": SILENT}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A judge that rates by length; the list grows by each response it is asked about."""
    found: list[str] = []

    def ask(server: object, question: str) -> str:
        found.append(rated_response(question))
        return f"Rating: {len(found[-1]) % 10}"

    monkeypatch.setattr("trimtab.scoring.chat_server.ChatServer.ask", ask)
    return found


def stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def killed_before_the_rows(
    monkeypatch: pytest.MonkeyPatch, data: Path, out: Path, scorers: dict[str, str]
) -> None:
    """All scores are there; Ctrl-C says that they are not lost."""
    with monkeypatch.context() as stopped:
        stopped.setattr("trimtab.scoring.labelling.labelled", stop)
        with pytest.raises(KeyboardInterrupt, match="run the same command again to go on"):
            relabel(data, out, scorers)


def test_scores_of_other_pairs_are_not_used(
    data: Path, tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed run leaves scores; another choice of rows in the same file must not take them."""
    write_jsonl(data, [PAIRS[0], {**PAIRS[2], "objective": "nice"}])
    out = tmp_path / "labelled.jsonl"
    killed_before_the_rows(monkeypatch, data, out, JUDGED)
    relabel(data, out, JUDGED, keep_labels=True, skip_bad_rows=True, overwrite=True)
    assert [row["scores"] for row in rows(out)] == [{"nice": [3, 3]}]


def test_replies_without_a_rating_are_counted(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A judge that rates no text about dogs: no tie, and not dropped in silence."""

    def ask(server: object, question: str) -> str:
        response = question.split("[Response to rate]")[1].split("[End")[0]
        return "I cannot say." if "dog" in response else f"Rating: {len(response) % 10}"

    monkeypatch.setattr("trimtab.scoring.chat_server.ChatServer.ask", ask)
    out = tmp_path / "labelled.jsonl"
    found, _ = relabel(data, out, JUDGED, rubrics={"nice": "is kind"})
    assert [row["scores"]["nice"] for row in rows(out)] == [[3, 5], [None, 7], [5, 5]]
    assert [row["labels"]["nice"] for row in rows(out)] == [1, None, None]
    assert found["objectives"]["nice"] == {"chosen": 0, "rejected": 1, "tie": 1, "missing": 1}


def test_a_mended_rule_costs_no_other_scores(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    """The judge rated all, then the rule failed on the fifth text; mended, it alone runs again."""
    monkeypatch.chdir(tmp_path)
    rules = tmp_path / "mended_rules.py"
    rules.write_text("def happy(response): return 1 / (response != 'sat')\n")
    out = tmp_path / "labelled.jsonl"
    scorers = {**JUDGED, "happy": "mended_rules:happy"}
    refused("fails on pairs.jsonl:3 chosen (ZeroDivisionError", data, out, scorers)
    assert len(asked) == 6 and not out.exists()
    rules.write_text("def happy(response): return len(response)  # mended\n")
    monkeypatch.delitem(sys.modules, "mended_rules")
    relabel(data, out, scorers)
    assert len(asked) == 6
    assert [row["scores"]["happy"] for row in rows(out)] == [[11, 3], [7, 5], [3, 3]]
    assert not [name for name in names(tmp_path) if name.startswith(".")]


def test_a_changed_scorer_is_said_to_be_run_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    """Killed between the scores and the rows; then one rubric and the costs are others."""
    out = tmp_path / "labelled.jsonl"
    both = {**JUDGED, "kind": SILENT}
    killed_before_the_rows(monkeypatch, data, out, both)
    before = len(asked)
    changed = {"rubrics": {"kind": "is gentle"}, "costs": ["kind"]}
    _, said = relabel(data, out, both, **changed, overwrite=True)
    assert said == [UNUSED, "scores of kind are made again: its scorer has changed"]
    assert len(asked) == before + 6 and rows(out)[0]["labels"] == {"nice": 1, "kind": 0}


def test_a_later_scorer_that_cannot_work_is_found_before_the_first(
    data: Path, tmp_path: Path, asked: list[str]
) -> None:
    out = tmp_path / "labelled.jsonl"
    reason = "fails on the first prompt, answered 'Hello there.'"
    refused(reason, data, out, {**JUDGED, "happy": "label_rules:fails"})
    assert asked == [] and names(tmp_path) == ["pairs.jsonl"]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def by_length(question: str) -> str:
    return f"Rating: {len(rated_response(question)) % 10}"


MISSING = (
    "nice: 1 of 6 scores are missing (instead came 'Well.'); the same command asks for them again"
)


def test_a_rerun_asks_again_for_what_is_missing_and_for_nothing_else(
    data: Path, tmp_path: Path, server: Server
) -> None:
    out = tmp_path / "labelled.jsonl"
    scorers = {"nice": server.spec, "wordy": "label_rules:length"}
    server.replies = [(200, lambda q: "Well." if rated_response(q) == "happy" else by_length(q))]
    _, said = relabel(data, out, scorers)
    assert said == [UNUSED, MISSING]
    assert [row["scores"]["nice"] for row in rows(out)] == [[1, 3], [7, None], [3, 3]]
    before, asked = out.read_bytes(), len(server.bodies)
    _, said = relabel(data, out, scorers)  # still mute: the same rows, and the same line
    assert said == [UNUSED, MISSING] and out.read_bytes() == before
    assert server.rated[asked:] == ["happy"]
    server.replies = [(200, by_length)]
    _, said = relabel(data, out, scorers)
    assert said == [UNUSED]
    assert server.rated[asked:] == ["happy"] * 2
    assert [row["scores"]["nice"] for row in rows(out)] == [[1, 3], [7, 5], [3, 3]]
    relabel(data, out, scorers)
    assert len(server.bodies) == asked + 2  # nothing is left to ask
    assert names(tmp_path) == ["labelled.jsonl", "labelled.jsonl.job.json", "pairs.jsonl"]


def test_a_refused_answer_costs_no_other(data: Path, tmp_path: Path, server: Server) -> None:
    filtered = (400, {"error": {"message": "filtered", "code": "content_filter"}})
    server.replies = [(200, lambda q: filtered if rated_response(q) == "ran" else by_length(q))]
    out = tmp_path / "labelled.jsonl"
    found, [_, line] = relabel(data, out, {"nice": server.spec})
    assert "nice: 1 of 6 scores are missing (instead came HTTP 400: " in line
    assert found["objectives"]["nice"]["missing"] == 1
    assert [row["scores"]["nice"][1] for row in rows(out)] == [3, 5, None]


def test_a_judge_that_never_rates_is_an_error_and_asked_again(
    data: Path, tmp_path: Path, server: Server
) -> None:
    server.replies = [(200, "It is a fine answer.")]
    out = tmp_path / "labelled.jsonl"
    reason = (
        "none of 6 answers got a score on 'nice' (instead came 'It is a fine answer.'); a reply"
        " has to end with a line `Rating: N`, N from 1 to 10"
    )
    for times in (1, 2):
        refused(reason, data, out, {"nice": server.spec})
        assert not out.exists() and len(server.bodies) == 6 * times
    server.replies = [(200, by_length)]
    relabel(data, out, {"nice": server.spec})
    assert len(server.bodies) == 18 and len(rows(out)) == 3
