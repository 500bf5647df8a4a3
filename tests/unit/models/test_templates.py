"""How a turn ends in a template, found by rendering; tools, and what a template leaves out."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEMPLATE, make_model, make_tokenizer, write_jsonl

from trimtab.data.chats import prompt_of
from trimtab.data.loading import read_pairs
from trimtab.data.pairs import Pair
from trimtab.data.prompts import read_prompts
from trimtab.data.rows import pairs_of
from trimtab.data.tally import RowTally
from trimtab.data.tokenize import tokenize_pair, tokenize_pairs
from trimtab.engines.local import LocalEngine
from trimtab.engines.local.streams import Stream
from trimtab.errors import DataError
from trimtab.models.prompts import prompt_ids, response_ids
from trimtab.models.templates import TemplateError, apply_template, left_out, turn_end, turn_end_id
from trimtab.models.vocabulary import VocabularyMap

ROLE = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] "
ASKED = "{% if add_generation_prompt %}{{ '<|assistant|>' }}"
ANSWER = "{% if m['role'] == 'assistant' %}"

# name -> (template, special tokens besides eos, the end of a turn); the tokenizer's eos is <|eos|>.
TEMPLATES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "Gemma": (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>' + (m['content'] | trim) + '<turn>\n' }}"
        "{% endfor %}" + ASKED + "{% endif %}",
        ("<turn>", "\n"),  # Gemma's line ends are tokens of their own
        "<turn>",
    ),
    "Llama 3": (ROLE + "+ '<turn>' }}{% endfor %}" + ASKED + "{% endif %}", ("<turn>",), "<turn>"),
    "Phi-3": (
        ROLE + "+ '<turn>\n' }}{% endfor %}" + ASKED + "{% else %}{{ eos_token }}{% endif %}",
        ("<turn>",),
        "<turn>",
    ),
    "Phi-4-mini": (
        ROLE + "+ '<turn>' }}{% endfor %}" + ASKED + "{% else %}{{ eos_token }}{% endif %}",
        ("<turn>",),
        "<turn>",
    ),
    "Mistral": (
        ROLE
        + "}}"
        + ANSWER
        + "{{ ' ' + eos_token }}{% endif %}{% endfor %}"
        + ASKED
        + "{% endif %}",
        (),
        " <|eos|>",
    ),
    "Zephyr": (ROLE + "+ eos_token + '\n' }}{% endfor %}" + ASKED + "{% endif %}", (), "<|eos|>"),
    "gpt-oss": (
        ROLE + "}}{{ '<return>' if loop.last and not add_generation_prompt else '<turn>' }}"
        "{% endfor %}" + ASKED + "{% endif %}",
        ("<turn>", "<return>"),
        "<return>",
    ),
    "Cohere": (
        ROLE + "+ '<answered><turn>' }}{% endfor %}" + ASKED + "{% endif %}",
        ("<answered>", "<turn>"),
        "<answered><turn>",
    ),
    "text behind the end": (
        ROLE + "+ '<turn>\n---\n' }}{% endfor %}" + ASKED + "{% endif %}",
        ("<turn>",),
        "<turn>",
    ),
    "several tokens of text": (
        ROLE + "+ '###END###\n' }}{% endfor %}" + ASKED + "{% else %}{{ eos_token }}{% endif %}",
        (),
        "###END###",
    ),
    "the end of the conversation alone": (
        ROLE + "}}{% endfor %}" + ASKED + "{% else %}{{ eos_token }}{% endif %}",
        (),
        "<|eos|>",
    ),
    "nothing": (ROLE + "}}{% endfor %}" + ASKED + "{% endif %}", (), ""),
    "a line end": (ROLE + "+ '\n\n' }}{% endfor %}" + ASKED + "{% endif %}", (), ""),
    "one turn only": (
        "{% if messages | length > 2 %}{{ raise_exception('one turn') }}{% endif %}"
        + ROLE
        + "+ '<turn>\n' }}{% endfor %}"
        + ASKED
        + "{% endif %}",
        ("<turn>",),
        "<turn>",
    ),
}


def tokenizer_of(name: str) -> tuple[Any, str]:
    template, extra, end = TEMPLATES[name]
    return make_tokenizer(extra, end="<|eos|>", template=template), end


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("said", ["sat", "sat\n", "sat<|eos|>", "satEND", "satEND\n<|eos|>"])
def test_a_response_ends_with_its_turn_and_nothing_after(name: str, said: str) -> None:
    """By hand: the answer's tokens, then those of the end; eos where the template has no end."""
    tokenizer, end = tokenizer_of(name)
    said = said.replace("END", end or "<|eos|>")  # data sometimes carry the end themselves
    assert turn_end(tokenizer)[1] == end
    before, after = response_ids(tokenizer, "the cat", said)
    assert before == prompt_ids(tokenizer, "the cat")
    kept = "sat\n" if said == "sat\n" and name != "Gemma" else "sat"  # Gemma's template trims
    wanted = tokenizer(kept + (end or "<|eos|>"), add_special_tokens=False)["input_ids"]
    assert after == wanted
    assert tokenizer.convert_tokens_to_ids("<|eos|>") not in after[:-1]


@pytest.mark.parametrize("name", TEMPLATES)
def test_generation_ends_where_training_did(name: str) -> None:
    """The last token of a response ends the base's turn, too, whatever its generation config."""
    tokenizer, end = tokenizer_of(name)
    model = make_model(0, len(tokenizer))
    size = len(tokenizer)
    base = Stream("base", model, tokenizer, VocabularyMap(size, size))
    eos = tokenizer.convert_tokens_to_ids("<|eos|>")
    _, after = response_ids(tokenizer, "the cat", "sat")
    assert base.ends == {eos} | ({after[-1]} if end != "###END###" else set())
    assert model.generation_config.eos_token_id == 3 == eos


def test_the_base_stops_at_its_turns_end() -> None:
    """The LM head is rigged: the prompt's last hidden state makes `<turn>` the likeliest token."""
    tokenizer, _ = tokenizer_of("Phi-3")
    size = len(tokenizer)
    model, turn = make_model(0, size), turn_end_id(tokenizer)
    ids = torch.tensor([prompt_ids(tokenizer, "the cat")])
    with torch.no_grad():
        hidden = model.model(ids).last_hidden_state[0, -1]
        model.lm_head.weight.zero_()
        model.lm_head.weight[turn] = hidden
    engine = LocalEngine(Stream("base", model, tokenizer, VocabularyMap(size, size)))
    [found] = engine.generate(["the cat"], temperature=0, max_new_tokens=5)
    assert (list(found.token_ids), found.finish_reason, found.text) == ([turn], "stop", "")


def test_raw_text_ends_with_the_end_of_text() -> None:
    tokenizer, _ = tokenizer_of("Phi-3")
    _, after = response_ids(tokenizer, "the cat", " sat", "raw")
    assert after == tokenizer(" sat<|eos|>")["input_ids"]


def test_a_template_that_rewrites_the_answered_prompt_still_ends_the_turn() -> None:
    template, extra, _ = TEMPLATES["Phi-3"]
    rewriting = "{% if not add_generation_prompt %}{{ 'please ' }}{% endif %}" + template
    tokenizer = make_tokenizer(extra, end="<|eos|>", template=rewriting)
    _, after = response_ids(tokenizer, "the cat", "sat")
    assert after == tokenizer("sat<turn>")["input_ids"]


def test_an_end_that_depends_on_the_answer_comes_once() -> None:
    ending = "{{ '<turn>' if '.' in m['content'] else '.<turn>' }}"
    template = ROLE + "}}" + ANSWER + ending + "{% endif %}{% endfor %}" + ASKED + "{% endif %}"
    tokenizer = make_tokenizer(("<turn>",), end="<|eos|>", template=template)
    for said in ("sat.", "sat"):
        _, after = response_ids(tokenizer, "the cat", said)
        assert after == tokenizer("sat.<turn>")["input_ids"]


def test_tokens_that_are_added_later_are_seen() -> None:
    template, extra, _ = TEMPLATES["Llama 3"]
    tokenizer = make_tokenizer(end="<|eos|>", template=template)
    assert turn_end_id(tokenizer) is None  # "<turn>" is plain text here
    tokenizer.add_special_tokens({"additional_special_tokens": list(extra)})
    assert turn_end_id(tokenizer) == tokenizer.convert_tokens_to_ids("<turn>")


# --- tools --------------------------------------------------------------------------------------

TOOL = {"type": "function", "function": {"name": "weather"}}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
CALLED = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "sun", "name": "weather", "tool_call_id": "a1"},
]
ROW = {
    "prompt": CALLED,
    "chosen": [{"role": "assistant", "content": "yes"}],
    "rejected": [{"role": "assistant", "content": "no"}],
    "tools": [TOOL],
}
WITH_TOOLS = (
    "{% if tools %}{{ 'T' + (tools | tojson) }}{% endif %}{% for m in messages %}"
    "{{ '<|' + m['role'] + '|>' + m['content'] }}"
    "{% for c in m.tool_calls or [] %}{{ 'C' + (c.function | tojson) }}{% endfor %}"
    "{% if m.name %}{{ 'N' + m.name + m.tool_call_id }}{% endif %}"
    "{% if m['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    + ASKED
    + "{% endif %}"
)
DEAF = TEMPLATE.replace(
    "{% for m in messages %}", "{% for m in messages if m['role'] in ('user', 'assistant') %}"
)
SHOWN = (
    'T[{"type": "function", "function": {"name": "weather"}}]<|user|>hello<|assistant|>'
    'C{"name": "weather", "arguments": {"city": "Rome"}}<|end|><|tool|>sunNweathera1<|assistant|>'
)


def chat_of(row: dict[str, Any]) -> Any:
    [pair] = pairs_of(row, "f:1")
    return pair.prompt


def test_tools_and_calls_reach_the_template_everywhere() -> None:
    """Written out by hand; a prompts row, a pair and a response are the same tokens."""
    tokenizer = make_tokenizer(template=WITH_TOOLS)
    [pair] = pairs_of(ROW, "f:1")
    assert tokenizer.decode(prompt_ids(tokenizer, pair.prompt)) == SHOWN
    assert prompt_of(ROW, "f:1") == pair.prompt
    assert response_ids(tokenizer, pair.prompt, "yes")[0] == prompt_ids(tokenizer, pair.prompt)
    tokens = tokenize_pair(tokenizer, pair)
    assert tokens.prompt_ids == prompt_ids(tokenizer, pair.prompt)
    assert tokenizer.decode(tokens.chosen_ids) == "yes<|end|>"
    assert left_out(tokenizer, pair.prompt) == []


def filled(value: Any) -> Any:
    """As Arrow gives it: every object has every key."""
    if isinstance(value, dict):
        return {"id": None, **{k: filled(v) for k, v in value.items()}, "strict": None}
    return [filled(v) for v in value] if isinstance(value, list) else value


NO_CONTENT = {"role": "assistant", "content": None, "tool_calls": [CALL]}
AS_TEXT = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
SPELT: dict[str, dict[str, Any]] = {
    "keys of nothing": {**filled(ROW), "id": 3},
    "tools as JSON": {**ROW, "tools": json.dumps([TOOL])},
    "tools as Python": {**ROW, "tools": str([TOOL])},
    "a list of JSON tools": {**ROW, "tools": [json.dumps(TOOL)]},
    "all as text": {**ROW, "prompt": json.dumps(CALLED), "tools": json.dumps([TOOL])},
    "calls as text": {**ROW, "prompt": [CALLED[0], {**CALLED[1], "tool_calls": json.dumps([CALL])},
                                        CALLED[2]]},
    "content is null": {**ROW, "prompt": [CALLED[0], NO_CONTENT, CALLED[2]]},
    "arguments as text": {**ROW, "prompt": [CALLED[0], {**CALLED[1], "tool_calls": [AS_TEXT]},
                                            CALLED[2]]},
    "no prompt of its own": {"chosen": CALLED + ROW["chosen"], "rejected": CALLED + ROW["rejected"],
                             "tools": [TOOL]},
}  # fmt: skip


@pytest.mark.parametrize("name", SPELT)
def test_tools_however_they_are_spelt(name: str) -> None:
    tokenizer = make_tokenizer(template=WITH_TOOLS)
    assert tokenizer.decode(prompt_ids(tokenizer, chat_of(SPELT[name]))) == SHOWN


def test_no_tools_are_no_tools() -> None:
    plain = {"prompt": "hello", "chosen": "a", "rejected": "b"}
    for nothing in (None, [], "", "[]", "null"):
        assert chat_of({**plain, "tools": nothing}) == "hello"
    turns = [{"role": "user", "content": "hello", "tool_calls": [], "name": None}]
    assert chat_of({**plain, "prompt": turns}) == [{"role": "user", "content": "hello"}]


def test_a_text_with_tools_is_the_users_turn() -> None:
    row = {"prompt": "hello", "chosen": "a", "rejected": "b", "tools": [TOOL]}
    assert chat_of(row) == [{"role": "user", "content": "hello", "tools": [TOOL]}]


@pytest.mark.parametrize("tools", [3, "weather", [3], ["weather"], "[3]", '[{"a": 1}'])
def test_tools_that_are_none_are_refused(tools: Any) -> None:
    with pytest.raises(DataError, match="f:1 has `tools` that are no list of objects"):
        chat_of({**ROW, "tools": tools})


def test_tools_of_text_without_a_prompt_are_refused() -> None:
    row = {"chosen": "the cat sat", "rejected": "the cat ran", "tools": [TOOL]}
    with pytest.raises(DataError, match="f:1 has `tools` and no `prompt`"):
        chat_of(row)


def test_prompts_that_differ_in_their_tools_alone_are_two(tmp_path: Path) -> None:
    other = {"type": "function", "function": {"name": "time"}}
    rows = [{"prompt": "hello", "tools": [TOOL]}, {"prompt": "hello", "tools": [other]}, ROW]
    prompts, _ = read_prompts(str(write_jsonl(tmp_path / "rows.jsonl", rows)))
    assert len(prompts) == 3


def test_a_prompt_with_tools_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    """`label` writes the prompt of a pair; so does `generate`."""
    row = {"prompt": chat_of(ROW), "chosen": "yes", "rejected": "no"}
    [pair], _ = read_pairs([str(write_jsonl(tmp_path / "rows.jsonl", [row]))])
    assert pair.prompt == chat_of(ROW)


# --- what a template leaves out -----------------------------------------------------------------


def test_what_is_left_out_is_named() -> None:
    chat = chat_of(ROW)
    partly = make_tokenizer()  # writes any role and its content, nothing else
    assert left_out(partly, chat) == ["`tools`", "`tool_calls`"]
    deaf = make_tokenizer(template=DEAF)
    assert left_out(deaf, chat) == ["`tools`", "`tool_calls`", "`tool` turns"]
    system = [{"role": "system", "content": "be brief"}, CALLED[0]]
    assert left_out(deaf, system) == ["`system` turns"]  # type: ignore[arg-type]
    assert left_out(partly, system) == []  # type: ignore[arg-type]
    assert left_out(deaf, "hello") == left_out(deaf, [CALLED[0]]) == []  # type: ignore[list-item]


def test_training_counts_the_rows_whose_tools_are_not_shown() -> None:
    pairs = [*pairs_of(ROW, "f:1"), Pair("hello", "yes", "no", source="f:2"), *pairs_of(ROW, "f:3")]
    tally = RowTally()
    assert len(tokenize_pairs(make_tokenizer(), pairs, max_length=200, tally=tally)) == 3
    assert tally.counts == {}  # they are used
    assert tally.lines() == [
        "2 rows: the chat template does not show `tools` (f:1, f:3)",
        "2 rows: the chat template does not show `tool_calls` (f:1, f:3)",
    ]
    total = RowTally()
    total.add(tally)
    assert total.lines() == tally.lines()


def test_decoding_and_scoring_say_it_once(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer, chat = make_tokenizer(), chat_of(ROW)
    with caplog.at_level(logging.WARNING, "trimtab"):
        for _ in range(3):
            prompt_ids(tokenizer, chat)
            response_ids(tokenizer, chat, "yes")
    said = sorted(record.message for record in caplog.records)
    assert len(said) == 2
    assert "does not show `tool_calls`" in said[0] and "does not show `tools`" in said[1]


@pytest.mark.parametrize("text", ["hello \ud83d", [{"role": "user", "content": "\udc00"}]])
def test_half_a_character_is_refused_by_the_library_too(text: Any) -> None:
    tokenizer = make_tokenizer()
    with pytest.raises(DataError, match="half a character"):
        prompt_ids(tokenizer, text)
    with pytest.raises(DataError, match="half a character"):
        response_ids(tokenizer, "hello", "\ud83d")


def test_a_template_that_fails_on_a_chat_is_named() -> None:
    adding = make_tokenizer(template="{% for m in messages %}{{ 'a' + m['content'] }}{% endfor %}")
    with pytest.raises(TemplateError, match="does not take this chat"):
        apply_template(adding, [{"role": "user", "content": None}])  # type: ignore[typeddict-item]
