"""`trimtab bench TABLE`: a table from pairs to a page, gone on with, and what is refused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trimtab.bench.tables import alignment
from trimtab.bench.tables.answering import Answer
from trimtab.bench.tables.config import TableConfig
from trimtab.bench.tables.material import Material, parts_of
from trimtab.cli.main import main

Capture = pytest.CaptureFixture[str]
SIZES = ["--pairs=8", "--judge-pairs=8", "--test-pairs=6", "--prompts=3", "--search-prompts=2"]
SIZES += [
    "--max-new-tokens=5",
    "--search-tokens=3",
    "--seeds=2",
    "--train",
    "lora_r=2",
    "lora_target_modules=q_proj,v_proj",
]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Two hundred pairs, whose better side is `happy`, with prompts in all parts."""
    nouns = ["cat", "dog", "mat", "story", "sun", "moon"]
    words = ["sat", "ran", "happy", "sad", "big", "red", "blue"]
    rows = [
        {"prompt": f"the {noun} {' '.join(more)}", "chosen": "happy sun", "rejected": "sad dog"}
        for noun, more in itertools.product(nouns, itertools.permutations(words, 2))
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def bench(table: str, base: Path, pairs: Path, out: Path, *arguments: str) -> int:
    models = ["--base", str(base), "--data", f"glad={pairs}", "--output-dir", str(out)]
    return main(["bench", table, *models, *SIZES, *arguments])


@pytest.mark.slow
def test_a_table_is_made_and_gone_on_with(
    base_dir: Path, pairs: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it answers, it goes on there: what was trained and answered stays as it is."""
    out, run = tmp_path / "out", Answer.run
    options = ["--judge", str(base_dir), "--methods", "args", "cooled-base", "--at-once", "3"]
    options += ["--search", "genarm: strength=0.5,2", "--search", "args: weight=1,2"]

    def killed(self: Answer, work: Any) -> dict[str, Any]:
        if self.way == "args":
            raise KeyboardInterrupt
        return run(self, work)

    monkeypatch.setattr(Answer, "run", killed)
    assert bench("alignment", base_dir, pairs, out, *options) == 130
    before = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    monkeypatch.undo()
    assert bench("alignment", base_dir, pairs, out, *options, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert rows[: len(before)] == before
    assert [row["job"] for row in before][-1] == "answer genarm-1"
    assert [line[0] for line in told["rows"]] == ["base", "genarm", "args", "cooled-base"]
    assert [claim[0] for claim in told["claims"]] == ["GenARM wins against args"]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["table"] == "alignment" and manifest["settings"]["pairs"] == 8
    assert (out / "table.md").read_text().count("\n| ") >= 6
    assert (out / "plot.png").stat().st_size > 1000
    judged = next(row for row in rows if row["job"] == "judged")["scores"]
    answers = [json.loads(x) for x in (out / "answers/args-0.jsonl").read_text().splitlines()]
    assert len(judged["answer args-0"]) == len(answers) == 3


@pytest.mark.parametrize(
    ("table", "arguments", "words"),
    [
        ("alignment", [], "--judge"),
        ("latency", ["--methods", "args", "augs"], "augs"),
        ("latency", ["--search", "args weight=1"], "METHOD: OPTION=VALUE"),
        ("accuracy", ["--pairs", "5000"], "5000 guide pairs of glad are wanted"),
        ("accuracy", ["--pairs", "1"], "--pairs is 1"),
        ("accuracy", ["--train", "lora_rank=2"], "no option 'lora_rank'"),
        ("accuracy", ["--costly", "args"], "there are: genarm, trajectory, dpo"),
        ("training", ["--costly", "args"], "leave --costly out"),
        ("training", ["--time-limit", "0.01"], "minutes, more than --time-limit 0.01"),
    ],
)
def test_bad_input(
    table: str,
    arguments: list[str],
    words: str,
    base_dir: Path,
    pairs: Path,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    assert bench(table, base_dir, pairs, tmp_path / "out", *arguments) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out/models").exists()


def test_no_prompt_is_in_two_parts(base_dir: Path, pairs: Path, tmp_path: Path) -> None:
    """With a judge all parts are apart; without one it has no pairs, and the guides have them."""

    def prompts(judge: str) -> dict[str, set[str]]:
        out = str(tmp_path / "out")
        config = TableConfig(
            base="", judge=judge, data=[f"glad={pairs}"], output_dir=out, prompts=1
        )
        found = Material.read(config, str(base_dir)).pairs["glad"]
        return {part: {str(pair.prompt) for pair in pairs} for part, pairs in found.items()}

    judged, alone = prompts("judge"), prompts("")
    for one, other in itertools.combinations(judged.values(), 2):
        assert one and other and not one & other
    assert alone["guide"] == judged["guide"] | judged["judge"] and not alone["judge"]
    assert alone["test"] == judged["test"] | judged["validation"]
    assert parts_of("the cat sat", judged=False) != ("judge",)


def test_wins_of_all_pairs_of_seeds_by_hand() -> None:
    """Two seeds against one on two prompts: three wins and a tie of four meetings."""
    won = alignment.won(np.array([[1.0, 2.0], [3.0, 0.0]]), np.array([[0.0, 0.0]]))
    assert won.value == pytest.approx(3.5 / 4) and won.n == 2
    assert 0 <= won.low <= won.value <= won.high <= 1
    few = alignment.won(np.array([[1.0, 2.0, 9.0]]), np.array([[0.0, 3.0]]))  # one has no third
    assert few.value == 0.5 and few.n == 2
