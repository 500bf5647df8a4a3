"""A steered model in lm-eval: at strength 0 lm-eval's own numbers, else the specification's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from conftest import TEMPLATE, make_tokenizer, save_model
from oracle import likelihood_is_specified, specified_logp
from rounding import NATS, nats

import trimtab
from trimtab.engines.types import Request
from trimtab.errors import ConfigError, PreferenceError
from trimtab.evaluation import guided_loading
from trimtab.evaluation import lm_eval as command_line

pytestmark = pytest.mark.filterwarnings("ignore")  # lm-eval's and its libraries' own

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not here")
ROOT = Path(__file__).parents[3]
LONG = "the cat sat on the mat. happy little dog ran very big red blue sun " * 12
PAIRS = [
    ("the cat", " sat on the mat"),
    ("the cat ", "sat"),  # its space belongs to what follows
    ("hello\n\n", " thank you"),
    ("", "yes no please"),
    ("<|end|>", " moon"),
    ("once upon", "on a time"),  # a token may reach over the border
    (LONG, " thank you, good dog"),
    ("yes", LONG[:300]),
    ("moon", "<|end|>"),
]
TEXTS = ["the cat sat", LONG, "", "<|end|>happy", LONG[:250]]


def instances(kind: str, args: list[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, each, i) for i, each in enumerate(args)]


def guided(engine: Any, **options: Any) -> Any:
    from trimtab.evaluation.guided_lm import GuidedLM

    return GuidedLM(engine, **options)


@pytest.fixture(scope="module", params=["plain", "bos"])
def folders(request: Any, tmp_path_factory: Any) -> tuple[str, str]:
    """A base and an ARM; with a tokenizer that puts a BOS before every text, or none."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer()
    if request.param == "bos":
        tokenizer.bos_token = "<|user|>"
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<|user|> $A", special_tokens=[("<|user|>", tokenizer.bos_token_id)]
        )
    folder = tmp_path_factory.mktemp(request.param)
    return tuple(  # type: ignore[return-value]
        str(save_model(folder / name, seed, tokenizer=tokenizer))
        for name, seed in (("base", 1), ("arm", 2))
    )


@pytest.fixture(scope="module")
def own(folders: tuple[str, str]) -> Any:
    """lm-eval's own model on the same base."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=folders[0], device="cpu", dtype="float32", batch_size=4)


@pytest.fixture(scope="module")
def engine(folders: tuple[str, str]) -> Any:
    return trimtab.load(folders[0], {"helpful": folders[1]})


def same(found: list[tuple[float, bool]], expected: list[tuple[float, bool]]) -> None:
    for (a, one), (b, other) in zip(found, expected, strict=True):
        assert a == pytest.approx(b, abs=60 * NATS) and one == other


def test_as_lm_evals_own(engine: Any, own: Any) -> None:
    """At strength 0: log-likelihoods, whole texts in windows, and answers."""
    lm = guided(engine, strength=0.0, batch_size=4)
    assert (lm.max_length, lm.prefix_token_id) == (own.max_length, own.prefix_token_id)
    for context, continuation in PAIRS:
        if context:
            assert lm._encode_pair(context, continuation) == own._encode_pair(context, continuation)
    asked = instances("loglikelihood", PAIRS)
    same(lm.loglikelihood(asked, disable_tqdm=True), own.loglikelihood(asked, disable_tqdm=True))
    asked = instances("loglikelihood_rolling", [(text,) for text in TEXTS])
    rolled = lm.loglikelihood_rolling(asked, disable_tqdm=True)
    expected = own.loglikelihood_rolling(asked, disable_tqdm=True)
    assert rolled == pytest.approx(expected, rel=1e-4)
    answers = [
        ("the cat", {"until": ["e"], "max_gen_toks": 12}),
        ("happy dog", {"until": "\n", "max_gen_toks": 8, "do_sample": False}),
        (LONG, {"max_gen_toks": 20, "until": ["zz"]}),
    ]
    for answer in answers:  # one by one: HFLM pads the shorter ones of a batch
        [one] = instances("generate_until", [answer])
        assert lm.generate_until([one], disable_tqdm=True) == own.generate_until([one])


def test_steered_as_specified(engine: Any) -> None:
    lm = guided(engine, strength=1.7, batch_size=3)
    asked = instances("loglikelihood", PAIRS[:2])
    for (context, continuation), found in zip(PAIRS, lm.loglikelihood(asked), strict=False):
        before, ids = lm._encode_pair(context, continuation)
        request = Request(before, strength=1.7)
        total, greedy = 0.0, True
        for t, token in enumerate(ids):
            logp = specified_logp(engine, request, ids[:t])
            total, greedy = total + float(logp[token]), greedy and int(logp.argmax()) == token
        assert found == (pytest.approx(total, abs=10 * NATS), greedy)
        [likely] = engine.log_likelihoods([request], [ids])
        likelihood_is_specified(engine, request, likely)
        assert likely.total == nats(found[0])
    assert (
        abs(lm.loglikelihood(asked)[0][0] - guided(engine, strength=0).loglikelihood(asked)[0][0])
        > 1
    )


def test_an_instruction_takes_room(base_dir: Path) -> None:
    engine = trimtab.load(str(base_dir), instruct={"plain": "please, thank you"})
    lm = guided(engine, strength=2.0)
    taken = len(engine.base.tokenizer("please, thank you\n\n")["input_ids"])
    assert lm.max_length == 256 - taken
    [(total, _)] = lm.loglikelihood(instances("loglikelihood", [(LONG, " happy")]))
    ids = engine.base.tokenizer(LONG.rstrip())["input_ids"]
    tail = engine.base.tokenizer(LONG + " happy")["input_ids"][len(ids) :]
    before = ids[-(lm.max_length + 1 - len(tail)) :]
    [likely] = engine.log_likelihoods([before], [tail], strength=2.0)
    assert total == nats(likely.total)


def test_on_a_task(base_dir: Path, arm_dir: Path, monkeypatch: Any) -> None:
    """A task of this repository, asked for by the model's name."""
    from lm_eval.tasks import TaskManager

    monkeypatch.chdir(ROOT)  # its data are named from there
    found = lm_eval.simple_evaluate(
        model="trimtab",
        model_args=f"base={base_dir},arm=helpful={arm_dir},strength=1.5,device=cuda:0",
        tasks=["everyday"],
        task_manager=TaskManager(include_path="docs/lm-eval", include_defaults=False),
        batch_size=8,
        limit=6,
        bootstrap_iters=0,
    )
    engine = trimtab.load(str(base_dir), {"helpful": str(arm_dir)})
    for sample in found["samples"]["everyday"]:
        pairs = [tuple(arguments[:2]) for arguments in sample["arguments"]]
        expected = guided(engine, strength=1.5).loglikelihood(instances("loglikelihood", pairs))
        same([one for [one] in sample["resps"]], expected)
    assert 0 <= found["results"]["everyday"]["acc,none"] <= 1


def test_the_command_line(monkeypatch: Any, capsys: Any) -> None:
    """It is lm-eval's own, which knows the model by then; what Trimtab refuses is one line."""
    import lm_eval.__main__ as theirs
    from lm_eval.api.registry import get_model

    monkeypatch.setattr(theirs, "cli_evaluate", lambda: get_model("trimtab")(strength=1))
    assert command_line.main() == 2
    assert capsys.readouterr().err == (
        "trimtab: error: no base is named; --model_args base=FOLDER\n"
    )


def test_in_a_chat(tmp_path: Path) -> None:
    """One text for all models: a guide that reads chats otherwise is refused."""
    base = save_model(tmp_path / "base", 1)
    same_template = save_model(tmp_path / "same", 2)
    other = save_model(tmp_path / "other", 3, tokenizer=make_tokenizer(template="! " + TEMPLATE))
    chat = [{"role": "user", "content": "the cat"}]
    lm = guided(trimtab.load(str(base), {"a": str(same_template)}))
    text = "<|user|>the cat<|assistant|>"
    assert lm.apply_chat_template(chat) == text
    assert "<|assistant|>" in lm.chat_template(True)
    for options, why in (
        ({"arms": {"a": str(other)}}, "a reads chats in another template"),
        ({"instruct": {"plain": "please"}}, "plain is an instruction"),
    ):
        with pytest.raises(ConfigError, match=why):
            guided(trimtab.load(str(base), **options)).apply_chat_template(chat)


def test_what_cannot_be_asked(engine: Any, folders: tuple[str, str]) -> None:
    lm = guided(engine)
    for options, why in (
        ({"repetition_penalty": 1.1}, "repetition_penalty, which has no effect here"),
        ({"max_gen_toks": 256}, "wants 256 tokens of an answer, but the models read 256"),
        ({"do_sample": True}, "samples at temperature 0"),
    ):
        with pytest.raises(ConfigError, match=why):
            lm.generate_until(instances("generate_until", [("the cat", options)]))
    with pytest.raises(ConfigError, match="a continuation has 0 tokens"):
        lm.loglikelihood(instances("loglikelihood", [("the cat", "")]))
    with pytest.raises(ConfigError, match="give one of both"):
        guided(engine, base=folders[0])
    for steering in ({"preference": "harmless=1"}, {"strength": -1}):
        with pytest.raises(PreferenceError):
            guided(None, base=folders[0], arm=f"helpful={folders[1]}", **steering)
    with pytest.raises(ConfigError, match="batch_size is 'many'"):
        guided_loading.texts_at_once("many")
    assert [guided_loading.texts_at_once(n) for n in (4, "8", "auto", "auto:3")] == [4, 8, 32, 32]


def test_the_python_of_the_page_runs(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """docs/lm-eval.md, with its own small task in place of one that has to be fetched."""
    from lm_eval.tasks import TaskManager

    save_model(tmp_path / "MODEL", 1)
    save_model(tmp_path / "arms/helpful", 2)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    run = lm_eval.simple_evaluate
    tasks = TaskManager(include_path="docs/lm-eval", include_defaults=False)
    monkeypatch.setattr(
        lm_eval,
        "simple_evaluate",
        lambda **given: run(**given, limit=4, bootstrap_iters=0, task_manager=tasks),
    )
    page = (ROOT / "docs/lm-eval.md").read_text(encoding="utf-8").replace("arc_easy", "everyday")
    exec("\n".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["0.0", "1.0"] and len(lines) == 3
