"""Where an instruction goes in a prompt."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import make_tokenizer

from trimtab.models.instructions import instructed

SAYS = "be kind"
SYSTEM = {"role": "system", "content": SAYS}
USER = {"role": "user", "content": "hello"}
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}"
)
LEFT_OUT = (
    "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['role'] + ': ' + m['content'] }}"
    "{% endif %}{% endfor %}"
)


def tokenizer(template: str | None = "") -> Any:
    made = make_tokenizer()
    if template != "":
        made.chat_template = template
    return made


def test_a_text_is_a_user_turn_under_a_system_message() -> None:
    assert instructed(tokenizer(), "hello", SAYS) == [SYSTEM, USER]


def test_a_system_message_that_is_there_comes_first() -> None:
    chat = [{"role": "system", "content": "You are a poet."}, USER]
    found = instructed(tokenizer(), chat, SAYS)  # type: ignore[arg-type]
    assert found == [{"role": "system", "content": f"You are a poet.\n\n{SAYS}"}, USER]


def test_tools_stay_on_the_first_message() -> None:
    tools = [{"type": "function"}]
    found = instructed(tokenizer(), [{**USER, "tools": tools}], SAYS)  # type: ignore[list-item]
    assert found == [{**SYSTEM, "tools": tools}, USER]


@pytest.mark.parametrize("template", [NO_SYSTEM, LEFT_OUT])
def test_a_template_without_system_messages(
    template: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One refuses them, the other shows nothing of them; that is said once."""
    made = tokenizer(template)
    for _ in range(2):
        found = instructed(made, "hello", SAYS)
        assert found == [{"role": "user", "content": f"{SAYS}\n\nhello"}]
    assert caplog.text.count("before the first user turn") == 1


@pytest.mark.parametrize(("template", "style"), [(None, "auto"), ("", "raw")])
def test_raw_text(template: Any, style: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert instructed(tokenizer(template), "hello", SAYS, style) == f"{SAYS}\n\nhello"
    assert "before a prompt without a chat template" in caplog.text
