"""Tables parted by other marks than commas, and what `datasets` saves."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimtab.data.loading import read_pairs
from trimtab.data.sources import fingerprint, read_rows
from trimtab.errors import DataError

HEADER = ("prompt", "chosen", "rejected")
CELLS = ("a, b; c", 'say "yes"', "no,\nor; never")


def written(mark: str, quoted: bool = True) -> str:
    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if quoted else text

    return mark.join(HEADER) + "\n" + mark.join(map(cell, CELLS)) + "\n"


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_what_parts_the_columns_is_found_in_the_header(
    tmp_path: Path, name: str, mark: str
) -> None:
    if name.endswith("tsv") and mark != "\t":
        return
    path = tmp_path / name
    path.write_text(written(mark))
    assert list(read_rows(path)) == [(f"{name}:3", dict(zip(HEADER, CELLS, strict=True)))]


def test_commas_in_a_quoted_name_part_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('"a, b, or c";prompt\n1;2\n')
    assert [row for _, row in read_rows(path)] == [{"a, b, or c": "1", "prompt": "2"}]


def test_a_quote_that_would_be_cut_is_an_error_in_tsv(tmp_path: Path) -> None:
    """TSV is often written without quoting: the marks in `"Yes," he said` are the text's own."""
    path = tmp_path / "rows.tsv"
    path.write_text('prompt\tchosen\trejected\nq\t"Yes," he said\tno\n')
    with pytest.raises(DataError, match=r"rows\.tsv cannot be read"):
        list(read_rows(path))


def arrow(path: Path, *, stream: bool) -> Path:
    import pyarrow

    table = pyarrow.table({"prompt": ["p", "q"], "chosen": ["a", "b"], "rejected": ["c", "d"]})
    opener = pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file
    with pyarrow.OSFile(str(path), "wb") as sink, opener(sink, table.schema) as writer:
        writer.write_table(table)
    return path


@pytest.mark.parametrize("stream", [True, False])
def test_arrow_files(tmp_path: Path, stream: bool) -> None:
    path = arrow(tmp_path / "rows.arrow", stream=stream)
    assert [row["chosen"] for _, row in read_rows(path)] == ["a", "b"]
    path.write_bytes(b"no arrow at all")
    with pytest.raises(DataError, match=r"rows\.arrow is not Arrow data"):
        list(read_rows(path))


def test_folders_of_datasets(tmp_path: Path) -> None:
    """One split, or several of which `train` is read unless another is named; in several files."""
    import datasets

    datasets.disable_progress_bars()
    rows = [{"prompt": f"p{i}", "chosen": [{"role": "assistant", "content": "a"}],
             "rejected": [{"role": "assistant", "content": "b"}]} for i in range(5)]  # fmt: skip
    one, test = datasets.Dataset.from_list(rows), datasets.Dataset.from_list(rows[:2])
    one.save_to_disk(tmp_path / "one", num_shards=2)
    datasets.DatasetDict({"train": one, "test": test}).save_to_disk(tmp_path / "two")
    pairs, _ = read_pairs([f"helpful={tmp_path / 'one'}"], "helpful")
    assert [(p.prompt[0]["content"], p.chosen) for p in pairs] == [  # type: ignore[index]
        (f"p{i}", "a") for i in range(5)
    ]
    assert pairs[0].source == "one:1"
    assert len(list(read_rows(tmp_path / "two"))) == 5
    assert len(list(read_rows(f"{tmp_path / 'two'}:test"))) == 2
    with pytest.raises(DataError, match=r"has no split 'dev'; write one of .*two:train, .*:test"):
        list(read_rows(f"{tmp_path / 'two'}:dev"))
    prints = [fingerprint([tmp_path / "one"]), fingerprint([f"{tmp_path / 'two'}:test"])]
    assert prints[0] != prints[1] == fingerprint([tmp_path / "two/test"])
    (tmp_path / "one/state.json").write_text("{}")
    with pytest.raises(DataError, match="no whole folder of `save_to_disk`"):
        list(read_rows(tmp_path / "one"))


REAL = {
    "llamafactory-dpo/dpo_en_demo.json.xz": ("ShareGPT pairs", 300),
    "ultrafeedback-1k/eval_clean.jsonl.xz": ("TRL", 199),
    "hh-rlhf/harmless-base.test.jsonl.gz": ("HH-RLHF dialogues", 2303),
    "hh-rlhf/helpful-base.test.json.xz": ("text lists", 2339),
    "hh-rlhf/harmless-base.train5000.lastturn.json.xz": ("TRL", 4999),
    "pandalm/testset-v1.json.xz": ("PandaLM", 842),
}
"""File -> layout and usable pairs. LLaMA-Factory: 300 rows. UltraFeedback: 200, one with equal
sides. HH-RLHF: see test_splits. PandaLM: 999 rows, of which 54 have an empty answer and 103 of the
others no majority, both counted apart by hand from the file."""


@pytest.mark.parametrize("name", REAL)
def test_real_files_are_read_as_they_are(shared: Path, name: str) -> None:
    layout, usable = REAL[name]
    pairs, tally = read_pairs([str(shared / "data" / name)])
    assert tally.layouts == {layout: tally.rows}
    assert len(pairs) == usable == tally.rows - sum(tally.counts.values())


NO_PAIRS = {
    "alpaca-5k/alpaca_5000.json.xz": "Alpaca pairs have such columns",
    "alpaca-eval/outputs.jsonl.xz": "its columns are id, model, output",
    "alpaca-eval/prompts.jsonl.xz": "its columns are id, dataset, instruction",
    "finegrained-qa/dev_feedback.json.xz": "its columns are question, passages",
    "goemotions/dev.tsv.xz": "none has columns like these",
}


@pytest.mark.parametrize("name", NO_PAIRS)
def test_real_files_without_a_known_layout_are_refused(shared: Path, name: str) -> None:
    with pytest.raises(DataError) as caught:
        read_pairs([str(shared / "data" / name)])
    assert "is in no layout that is known" in str(caught.value)
    assert NO_PAIRS[name] in str(caught.value) and "--columns prompt=" in str(caught.value)


def test_the_question_column_case(shared: Path) -> None:
    """Eleven of these forty rows once trained with the prompt "The " or "I "."""
    pairs, tally = read_pairs([str(shared / "cases/data/question_column.jsonl")])
    assert len(pairs) == 40 and not tally.lines()
    for i, pair in enumerate(pairs):
        assert pair.prompt == [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": f"Question number {i}?"},
        ]
