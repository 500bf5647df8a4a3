"""`trimtab label` end to end: relabelled pairs that `trimtab train` reads."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from chat_judge import Server, rated_response, serving
from conftest import write_jsonl
from safetensors.torch import load_file, save_file

from trimtab.arms.reward_model import RewardModel
from trimtab.cli.main import main
from trimtab.data.loading import read_pairs

Capture = pytest.CaptureFixture[str]

CHAT = [{"role": "user", "content": "hello"}]
PAIRS = [
    {"prompt": "the cat", "chosen": "happy happy", "rejected": "sad", "id": 7},
    {"prompt": CHAT, "chosen": "sad dog", "rejected": "happy"},
    {"prompt": "the dog", "chosen": "sat", "rejected": "ran"},
]
RULES = """
def happy(response): return response.count("happy")
def length(prompt, response): return len(response)
def fails(response): return 1 / response.count("happy")
"""
RULED = ("--scorer", "happy=label_rules:happy", "--scorer", "wordy=label_rules:length")


@pytest.fixture(autouse=True)
def in_a_folder_with_rules(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.getbasetemp() / "label_rules"
    folder.mkdir(exist_ok=True)
    (folder / "label_rules.py").write_text(RULES)
    monkeypatch.chdir(folder)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "pairs.jsonl", PAIRS)


def command(data: object, out: object, *more: object, scorers: Sequence[str] = RULED) -> list[str]:
    return ["label", "--data", str(data), "--output", str(out), *scorers, *map(str, more)]


JUDGED = ("--scorer", "nice=judge:tiny@http://127.0.0.1:1/v1")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A judge that rates by length; the list grows by each response it is asked about."""
    found: list[str] = []

    def ask(judge: object, client: object, question: str) -> str:
        found.append(question.split("[Response to rate]")[1].split("[End")[0].strip())
        return f"Rating: {len(found[-1]) % 10}"

    monkeypatch.setattr("trimtab.scoring.judge.Judge._ask", ask)
    return found


def rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_labels_by_hand(data: Path, tmp_path: Path, capsys: Capture) -> None:
    """`wordy` is a cost: shorter is better. The third pair ties on both."""
    out = tmp_path / "labelled.jsonl"
    assert main(command(data, out, "--costs", "wordy", "--json")) == 0
    assert rows(out) == [
        {
            "prompt": "the cat", "chosen": "happy happy", "rejected": "sad",
            "labels": {"happy": 0, "wordy": 1}, "scores": {"happy": [2, 0], "wordy": [11, 3]},
        },
        {
            "prompt": CHAT, "chosen": "sad dog", "rejected": "happy",
            "labels": {"happy": 1, "wordy": 1}, "scores": {"happy": [0, 1], "wordy": [7, 5]},
        },
        {
            "prompt": "the dog", "chosen": "sat", "rejected": "ran",
            "labels": {"happy": None, "wordy": None}, "scores": {"happy": [0, 0], "wordy": [3, 3]},
        },
    ]  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert (found["pairs"], found["rows"]) == (3, {"read": 3})
    assert found["objectives"]["happy"] == {"chosen": 1, "rejected": 1, "tie": 1, "missing": 0}
    assert found["objectives"]["wordy"] == {"chosen": 0, "rejected": 2, "tie": 1, "missing": 0}
    assert {k: (v["value"], v["n"]) for k, v in found["agreement"].items()} == {
        "chosen and happy": (0.5, 2), "chosen and wordy": (0, 2), "happy and wordy": (0.5, 2),
    }  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "labelled.jsonl", "labelled.jsonl.job.json", "pairs.jsonl",
    ]  # fmt: skip
    happy, report = read_pairs([str(out)], "happy")
    assert [(p.chosen, p.rejected) for p in happy] == [("happy happy", "sad"), ("happy", "sad dog")]
    assert report.counts == {"judged on no objective": 1}


def test_labels_that_are_there_are_kept(data: Path, tmp_path: Path, capsys: Capture) -> None:
    """`happy` is the data's own verdict: the third pair is no tie; on the second they differ."""
    out = tmp_path / "labelled.jsonl"
    assert main(command(f"happy={data}", out, "--keep-labels", "--json")) == 0
    assert [row["labels"] for row in rows(out)] == [
        {"happy": 0, "wordy": 0}, {"happy": 0, "wordy": 0}, {"happy": 0, "wordy": None},
    ]  # fmt: skip
    assert [row["kept"] for row in rows(out)] == [["happy"]] * 3
    found = json.loads(capsys.readouterr().out)
    assert found["objectives"]["happy"] == {"chosen": 3, "rejected": 0, "tie": 0, "missing": 0}
    kept = {name: (e["value"], e["n"]) for name, e in found["agreement_with_kept"].items()}
    assert kept == {"happy": (0.5, 2), "wordy": (None, 0)}
    assert list(found["agreement"]) == ["happy and wordy"]  # `chosen` is what was kept
    assert main(command(f"happy={data}", out, "--keep-labels")) == 0
    assert "happy: kept and scored" in capsys.readouterr().out
    assert main(command(f"wordy={data}", out, "--keep-labels")) == 2  # other labels are kept
    assert main(command(data, tmp_path / "no.jsonl", "--keep-labels")) == 2
    assert "names no objective" in capsys.readouterr().err
    more = ("--keep-labels", "--skip-bad-rows", "--json")
    capsys.readouterr()
    write_jsonl(data, [*PAIRS, {**PAIRS[0], "labels": {"happy": 1, "long": 0}}])
    assert main(command(data, tmp_path / "one.jsonl", *more)) == 0  # three name no objective
    found = json.loads(capsys.readouterr().out)
    assert (found["pairs"], list(found["agreement"])) == (
        1, ["happy and wordy", "happy and long", "wordy and long"],
    )  # fmt: skip


def test_scores_of_other_pairs_are_not_used(
    data: Path, tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed run leaves scores; another choice of rows in the same file must not take them."""
    write_jsonl(data, [PAIRS[0], {**PAIRS[2], "objective": "nice"}])
    out = tmp_path / "labelled.jsonl"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    more = ("--keep-labels", "--skip-bad-rows")
    with monkeypatch.context() as stopped:
        stopped.setattr("trimtab.scoring.labelling.labelled", stop)
        main(command(data, out, scorers=JUDGED))
    assert main(command(data, out, *more, "--overwrite", scorers=JUDGED)) == 0
    assert [row["scores"] for row in rows(out)] == [{"nice": [3, 3]}]


def test_the_counts_are_shown(data: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "labelled.jsonl"
    assert main(command(data, out)) == 0
    said = capsys.readouterr().out
    assert "which side of 3 pairs is better" in said and "happy and wordy" in said
    assert main(command(data, out)) == 0  # complete: the counts again
    assert capsys.readouterr().out == said


def test_labelled_data_train(
    base_dir: Path, pairs_file: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "labelled.jsonl"
    assert main(command(pairs_file, out, "--costs", "wordy")) == 0
    train = ["train", "--model", base_dir, "--data", out, "--output-dir", tmp_path / "arm"]
    train += ["--objectives", "happy", "--max-steps", 1, "--save-strategy", "no"]
    assert main([str(argument) for argument in [*train, "--eval-strategy", "no"]]) == 0
    assert json.loads((tmp_path / "arm" / "trimtab.json").read_text())["objective"] == "happy"


def test_reward_models_label_too(
    base_dir: Path, arm_dir: Path, data: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "labelled.jsonl"
    texts = {"chosen": "the cat 1 sat", "rejected": "the cat 1 ran"}  # raw: an implicit prompt
    write_jsonl(data, [*PAIRS, texts])
    scorers = ["--scorer", f"one={base_dir}", "--scorer", f"two={arm_dir}"]
    assert main(command(data, out, scorers=scorers)) == 0
    found = rows(out)
    model = RewardModel(str(arm_dir))
    expected = model.score([CHAT, CHAT], ["sad dog", "happy"])
    assert found[1]["scores"]["two"] == pytest.approx([s.reward for s in expected], rel=1e-4)
    raw = model.score(["the cat 1"] * 2, [" sat", " ran"], prompt_format="raw")
    assert found[3]["scores"]["two"] == pytest.approx([s.reward for s in raw], rel=1e-4)
    assert "prompt" not in found[3] and found[3]["chosen"] == texts["chosen"]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_torn_file_goes_on(number: int, data: Path, tmp_path: Path) -> None:
    whole, torn = tmp_path / "whole.jsonl", tmp_path / "torn.jsonl"
    for out in (whole, torn):
        assert main(command(data, out)) == 0
    lines = torn.read_bytes().splitlines(keepends=True)
    torn.write_bytes(b"".join(lines[:number]) + lines[number][:20])
    assert main(command(data, torn)) == 0
    assert torn.read_bytes() == whole.read_bytes()


def test_rows_that_cannot_be_used_are_named(data: Path, tmp_path: Path, capsys: Capture) -> None:
    write_jsonl(data, [*PAIRS, {**PAIRS[0], "chosen": ""}, {**PAIRS[0], "chosen": None}])
    out = tmp_path / "labelled.jsonl"
    assert main(command(data, out)) == 2
    err = capsys.readouterr().err
    assert "pairs.jsonl:5 has no `chosen`" in err and not out.exists()
    assert main(command(data, out, "--skip-bad-rows", "--json")) == 0
    printed = capsys.readouterr()
    assert "1 row left out: one side is empty (pairs.jsonl:4)" in printed.err
    assert json.loads(printed.out)["rows"] == {
        "read": 5, "one side is empty": 1, "has no `chosen`": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("more", "scorers", "said"),
    [
        ((), (), "nothing to score with"),
        ((), ("--scorer", "chosen=label_rules:happy"), "an objective is called 'chosen'"),
        ((), ("--scorer", "happy=label_rules:none"), "has no function 'none'"),
        ((), ("--scorer", "happy=none/at/all"), "no reward model at none/at/all"),
        (("--costs", "funny"), RULED, "--costs names 'funny'"),
        (("--data", "none.jsonl"), RULED, "no such file: none.jsonl"),
        ((), ("--scorer", "so happy=label_rules:happy"), "objective 'so happy' is no name; use"),
        ((), ("--scorer", f"{'a' * 300}=label_rules:happy"), "has too long a name"),
        (("--revision", "v2"), RULED, "no model is called 'base'; there are happy, wordy"),
        (("--revision", "happy=v2"), RULED, "a revision for 'happy', whose scorer is no model"),
        (("--trust-remote-code", "funny"), RULED, "no model is called 'funny'"),
        ((), ("--scorer", "happy=judge:m@http://[::1/v1"), "cannot read the judge of 'happy'"),
        ((), ("--scorer", "happy=judge:m@http://h:abc/v1"), "cannot read the judge of 'happy'"),
    ],
)
def test_bad_input_is_one_line(
    more: Sequence[str], scorers: Sequence[str], said: str, data: Path, tmp_path: Path,
    capsys: Capture,
) -> None:  # fmt: skip
    out = tmp_path / "labelled.jsonl"
    assert main(command(data, out, *more, scorers=scorers)) == 2
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_a_rule_that_fails_names_the_row(data: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "labelled.jsonl"
    assert main(command(data, out, scorers=["--scorer", "happy=label_rules:fails"])) == 2
    said = "the rule label_rules:fails fails on pairs.jsonl:1 rejected (ZeroDivisionError"
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_the_file_of_another_run_is_refused(data: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "labelled.jsonl"
    assert main(command(data, out)) == 0
    before = out.read_bytes()
    assert main(command(data, out, "--costs", "wordy")) == 2
    assert "holds rows of another run; choose another --output" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert main(command(data, out, "--costs", "wordy", "--overwrite")) == 0
    assert rows(out)[0]["labels"] == {"happy": 0, "wordy": 1}


def test_replies_without_a_rating_are_counted(
    data: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A judge that rates no text about dogs: no tie, and not dropped in silence."""

    def ask(judge: object, client: object, question: str) -> str:
        response = question.split("[Response to rate]")[1].split("[End")[0]
        return "I cannot say." if "dog" in response else f"Rating: {len(response) % 10}"

    monkeypatch.setattr("trimtab.scoring.judge.Judge._ask", ask)
    out = tmp_path / "labelled.jsonl"
    judge = ["--scorer", "nice=judge:tiny@http://127.0.0.1:1/v1", "--rubric", "nice=is kind"]
    assert main(command(data, out, "--json", scorers=judge)) == 0
    assert [row["scores"]["nice"] for row in rows(out)] == [[3, 5], [None, 7], [5, 5]]
    assert [row["labels"]["nice"] for row in rows(out)] == [1, None, None]
    found = json.loads(capsys.readouterr().out)["objectives"]["nice"]
    assert found == {"chosen": 0, "rejected": 1, "tie": 1, "missing": 1}


def test_a_mended_rule_costs_no_other_scores(
    data: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    """The judge rated all, then the rule failed on the fifth text; mended, it alone runs again."""
    monkeypatch.chdir(tmp_path)
    rules = tmp_path / "mended_rules.py"
    rules.write_text("def happy(response): return 1 / (response != 'sat')\n")
    out = tmp_path / "labelled.jsonl"
    argv = command(data, out, scorers=[*JUDGED, "--scorer", "happy=mended_rules:happy"])
    assert main(argv) == 2
    assert "fails on pairs.jsonl:3 chosen (ZeroDivisionError" in capsys.readouterr().err
    assert len(asked) == 6 and not out.exists()
    rules.write_text("def happy(response): return len(response)  # mended\n")
    monkeypatch.delitem(sys.modules, "mended_rules")
    assert main(argv) == 0
    assert len(asked) == 6
    assert [row["scores"]["happy"] for row in rows(out)] == [[11, 3], [7, 5], [3, 3]]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_changed_scorer_is_said_to_be_run_again(
    data: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    """Killed between the scores and the rows; then one rubric and the costs are others."""
    out = tmp_path / "labelled.jsonl"
    more = ["--scorer", "kind=judge:tiny@http://127.0.0.1:1/v1"]

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr("trimtab.scoring.labelling.labelled", stop)
        assert main(command(data, out, scorers=[*JUDGED, *more])) == 130
    before = len(asked)
    more += ["--rubric", "kind=is gentle", "--costs", "kind"]
    capsys.readouterr()
    assert main(command(data, out, "--overwrite", scorers=[*JUDGED, *more])) == 0
    said = "scores of kind are made again: its scorer has changed"
    assert [line for line in capsys.readouterr().err.splitlines() if "again" in line] == [said]
    assert len(asked) == before + 6 and rows(out)[0]["labels"] == {"nice": 1, "kind": 0}


def test_a_later_scorer_that_cannot_work_is_found_before_the_first(
    data: Path, tmp_path: Path, capsys: Capture, asked: list[str]
) -> None:
    out = tmp_path / "labelled.jsonl"
    argv = command(data, out, scorers=[*JUDGED, "--scorer", "happy=label_rules:fails"])
    assert main(argv) == 2
    assert "fails on the first prompt, answered 'Hello there.'" in capsys.readouterr().err
    assert asked == [] and [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def judged(server: Server) -> list[str]:
    return ["--scorer", f"nice={server.spec}"]


def by_length(question: str) -> str:
    return f"Rating: {len(rated_response(question)) % 10}"


MISSING = "nice: 1 of 6 scores are missing (instead came 'Well.'); the same command asks for them"


def test_a_rerun_asks_again_for_what_is_missing_and_for_nothing_else(
    data: Path, tmp_path: Path, capsys: Capture, server: Server
) -> None:
    out = tmp_path / "labelled.jsonl"
    argv = command(data, out, scorers=[*judged(server), "--scorer", "wordy=label_rules:length"])
    server.replies = [(200, lambda q: "Well." if rated_response(q) == "happy" else by_length(q))]
    assert main(argv) == 0
    said = capsys.readouterr()
    assert MISSING in said.err and "Train on it" in said.out
    assert [row["scores"]["nice"] for row in rows(out)] == [[1, 3], [7, None], [3, 3]]
    before, asked = out.read_bytes(), len(server.bodies)
    assert main(argv) == 0  # still mute: the same rows, and the same line
    assert MISSING in capsys.readouterr().err and out.read_bytes() == before
    assert server.rated[asked:] == ["happy"]
    server.replies = [(200, by_length)]
    assert main(argv) == 0
    assert "missing (" not in capsys.readouterr().err
    assert server.rated[asked:] == ["happy"] * 2
    assert [row["scores"]["nice"] for row in rows(out)] == [[1, 3], [7, 5], [3, 3]]
    assert main(argv) == 0 and len(server.bodies) == asked + 2  # nothing is left to ask
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"labelled.jsonl", "labelled.jsonl.job.json", "pairs.jsonl"}


def test_a_refused_answer_costs_no_other(
    data: Path, tmp_path: Path, capsys: Capture, server: Server
) -> None:
    filtered = (400, {"error": {"message": "filtered", "code": "content_filter"}})
    server.replies = [(200, lambda q: filtered if rated_response(q) == "ran" else by_length(q))]
    out = tmp_path / "labelled.jsonl"
    assert main(command(data, out, "--json", scorers=judged(server))) == 0
    said = capsys.readouterr()
    assert "nice: 1 of 6 scores are missing (instead came HTTP 400: " in said.err
    assert json.loads(said.out)["objectives"]["nice"]["missing"] == 1
    assert [row["scores"]["nice"][1] for row in rows(out)] == [3, 5, None]


def test_a_judge_that_never_rates_is_an_error_and_asked_again(
    data: Path, tmp_path: Path, capsys: Capture, server: Server
) -> None:
    server.replies = [(200, "It is a fine answer.")]
    out = tmp_path / "labelled.jsonl"
    for times in (1, 2):
        assert main(command(data, out, scorers=judged(server))) == 2
        said = capsys.readouterr()
        assert (
            "none of 6 answers got a score on 'nice' (instead came 'It is a fine answer.'); a reply"
            " has to end with a line `Rating: N`, N from 1 to 10" in said.err
        )
        assert "Train on it" not in said.out and not out.exists()
        assert len(server.bodies) == 6 * times
    server.replies = [(200, by_length)]
    assert main(command(data, out, scorers=judged(server))) == 0
    assert len(server.bodies) == 18 and len(rows(out)) == 3


def test_a_scorer_that_decides_nothing_is_no_training_data(
    data: Path, tmp_path: Path, capsys: Capture
) -> None:
    write_jsonl(data, [PAIRS[2]])
    assert main(command(data, tmp_path / "out.jsonl")) == 0
    said = capsys.readouterr()
    assert "warning: no pair is decided on happy: it cannot be trained" in said.err
    assert "Train on it" not in said.out


def test_nan_gives_no_label(tmp_path: Path, data: Path, capsys: Capture, base_dir: Path) -> None:
    """A reward model with one broken weight: once, every pair was labelled 0."""
    broken = tmp_path / "broken"
    shutil.copytree(base_dir, broken)
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    out = tmp_path / "labelled.jsonl"
    assert main(command(data, out, scorers=["--scorer", f"good={broken}"])) == 2
    err = capsys.readouterr().err
    assert f"{broken} gives NaN on ordinary text; its weights are damaged" in err
    assert not out.exists()
    assert main(["score", "--arm", str(broken), "--input", str(data)]) == 2
    assert f"{broken} gives NaN on ordinary text" in capsys.readouterr().err


def test_what_the_second_scorer_cannot_read_is_found_before_the_first_is_loaded(
    base_dir: Path, tmp_path: Path, data: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.arms.reward_model.load_arm", None)  # would fail if called
    write_jsonl(data, [*PAIRS, {**PAIRS[0], "chosen": "happy " * 300}])
    both = ["--scorer", "happy=label_rules:happy", "--scorer", f"good={base_dir}"]
    out = tmp_path / "labelled.jsonl"
    assert main(command(data, out, scorers=both)) == 2
    err = capsys.readouterr().err
    assert "pairs.jsonl:4 chosen has" in err and "the model reads 256; shorten it" in err
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]
    score = ["score", "--arm", str(base_dir), "--input", str(data)]
    assert main(score) == 2 and "pairs.jsonl:4 chosen has" in capsys.readouterr().err
    write_jsonl(data, PAIRS)
    assert main([*score, "--preference", "a=1"]) == 2
    assert "takes no preference; leave --preference out" in capsys.readouterr().err
    assert main([*score, "--batch-size", "0"]) == 2
    assert "--batch-size is 0; it must be 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["itself", "named", "relative", "linked", "settings", "second"])
def test_the_data_is_never_written_over(
    how: str, data: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out, more = str(data), data, []
    if how == "named":
        source = f"happy={data}"
    elif how == "relative":
        monkeypatch.syspath_prepend(Path.cwd())
        monkeypatch.chdir(tmp_path)
        out = Path("../") / tmp_path.name / "pairs.jsonl"
    elif how == "linked":
        out = tmp_path / "link.jsonl"
        out.symlink_to(data)
    elif how == "settings":
        source = str(data.rename(tmp_path / "pairs.jsonl.job.json"))
    elif how == "second":
        more = ["--data", str(write_jsonl(tmp_path / "other.jsonl", PAIRS))]
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert main(command(source, out, "--overwrite", *more)) == 2
    err = capsys.readouterr().err
    assert "is read as --data: writing it would destroy it; choose another --output" in err
    assert len(err.splitlines()) == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
