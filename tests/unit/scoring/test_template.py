"""Templates of questions: fields checked, texts with braces left as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimtab.errors import ConfigError, MissingFileError
from trimtab.scoring.judge import Judge
from trimtab.scoring.pairwise import NEEDED, OPTIONAL
from trimtab.scoring.template import packaged_template, read_template

GOOD = "{prompt} {answer_1} {answer_2} Better: N"


def read(folder: Path, text: str) -> str:
    file = folder / "mine.txt"
    file.write_text(text, encoding="utf-8")
    texts = {"prompt": "{x}", "answer_1": "{answer_2}", "answer_2": "{{}", "rubric": "{0!r}"}
    return read_template(file, NEEDED, OPTIONAL).fill(**texts)


def test_texts_with_braces_stay_as_they_are(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD + "\n") == "{x} {answer_2} {{} Better: N"
    assert read(tmp_path, '{{"rubric": "{rubric}"}} ' + GOOD).startswith('{"rubric": "{0!r}"} ')


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{prompt} {answer_1}", r"lacks \{answer_2\}; its fields are \{prompt\}, \{answer_1\}"),
        ("", r"lacks \{prompt\}, \{answer_1\}, \{answer_2\}"),
        (GOOD + "{reference}", r"has \{reference\}, which is no field"),
        (GOOD + "{}", r"has \{\}, which is no field"),
        (GOOD + "{prompt.__class__}", "which is no field"),
        (GOOD + "{prompt!r}", "which is no field"),
        (GOOD + "{prompt:>9}", "which is no field"),
        (GOOD + '{"a": 1}', "which is no field"),
        (GOOD + "}", "cannot be read .*written twice"),
        (GOOD + "{", "cannot be read .*written twice"),
    ],
)
def test_fields_that_are_not_right(text: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=complaint):
        read(tmp_path, text)


def test_no_text(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no template"):
        read_template(tmp_path / "none.txt", NEEDED)
    (tmp_path / "latin").write_bytes(b"\xfc")
    for what in (tmp_path, tmp_path / "latin"):
        with pytest.raises(ConfigError, match="cannot read the template"):
            read_template(what, NEEDED)


def test_our_own() -> None:
    assert packaged_template("pairwise", NEEDED, OPTIONAL).fields == {*NEEDED, *OPTIONAL}
    told = Judge("judge:m@http://h/v1", "kind").identity["question_sha256"]
    # scores that were made before the text moved into a file are still this judge's
    assert told == "308870073110b30c202636f452e811e045f961ccaed1d71ddf8cfc3eea603e97"
