"""The recipes say what their papers say, in options that the commands read."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from conftest import make_tokenizer

from trimtab.cli.generate import GenerateOptions
from trimtab.cli.parse import parse
from trimtab.cli.train import TrainOptions
from trimtab.data.pairs import Pair
from trimtab.data.tokenize import tokenize_pair
from trimtab.models.prompts import StartedPrompt
from trimtab.steering import Steering
from trimtab.training.betas import named_betas
from trimtab.training.checks import check

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs/recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))
OPTIONS: dict[str, type[Any]] = {"train": TrainOptions, "generate": GenerateOptions}


def read(name: str, *more: str) -> Any:
    command = name.split(".")[1]
    return parse(OPTIONS[command], ["--config", str(FOLDER / name), *more], command, "")


def has(options: Any, **values: object) -> bool:
    return {name: getattr(options, name) for name in values} == values


def lora_on_q_k_v(options: Any) -> bool:
    targets = set(options.lora_target_modules) == {"q_proj", "k_proj", "v_proj"}
    return targets and has(options, finetuning="lora", lora_dropout=0.05)


def pairs_a_step(options: Any) -> int:
    return int(options.per_device_train_batch_size * options.gradient_accumulation_steps)


def test_every_recipe_is_in_the_index_and_its_training_can_start() -> None:
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert RECIPES and {p.name for p in RECIPES} == set(re.findall(r"\]\((\S+\.yaml)\)", index))
    for path in RECIPES:
        options = read(path.name)
        if isinstance(options, TrainOptions):
            check(options)
            assert options.chat_template is None or (ROOT / options.chat_template).is_file()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_names_its_paper_and_a_command_that_reads_it(path: Path) -> None:
    head = path.read_text(encoding="utf-8").partition("\n\n")[0]
    paper = {"genarm": "2410.08193", "parm": "2505.06274", "uniarm": "2602.09538"}
    assert f"(arXiv {paper[path.name.partition('-')[0]]})" in head
    assert "Ours" in head or "generate" in path.name
    joined = head.replace("\\\n#", " ")
    [line] = re.findall(r"^#     .*?trimtab ((?:train|generate) .*)$", joined, flags=re.MULTILINE)
    command, *words = shlex.split(line)
    assert words[words.index("--config") + 1] == str(path.relative_to(ROOT))
    words[words.index("--config") + 1] = str(path)
    assert parse(OPTIONS[command], words, command, "")


def test_genarm_on_hh_rlhf() -> None:
    """LoRA r 8, alpha 16, dropout .05 on q, k, v; β_r .05, lr 5e-4 cosine, warmup 100, weight decay
    .05, 1 epoch, batch 32; 128 tokens, w = 1, T = 1; LLaMA-7B SFT both as base and ARM init."""
    train, generate = read("genarm-hh.train.yaml"), read("genarm-hh.generate.yaml")
    assert lora_on_q_k_v(train) and has(train, method="genarm", lora_r=8, lora_alpha=16, beta=0.05)
    assert has(train, learning_rate=5e-4, lr_scheduler_type="cosine", warmup_steps=100)
    assert has(train, weight_decay=0.05, num_train_epochs=1) and pairs_a_step(train) == 32
    assert not train.length_normalize and not train.margin and train.reference == "none"
    assert has(generate, base=train.model, strength=1, temperature=1, max_new_tokens=128)
    assert generate.arm == [f"general={train.output_dir}"]


def test_genarm_weak_to_strong() -> None:
    """Tulu-2 7B ARM fully fine-tuned on UltraFeedback (β_r .1, lr 5e-7, 3 epochs)."""
    train = read("genarm-weak-to-strong.train.yaml")
    assert has(train, model="allenai/tulu-2-7b", finetuning="full", beta=0.1, learning_rate=5e-7)
    assert train.num_train_epochs == 3 and "ultrafeedback" in train.data[0]
    generate = read("genarm-weak-to-strong.generate.yaml", "--base", "allenai/tulu-2-70b")
    assert generate.base == "allenai/tulu-2-70b"  # the command line wins
    assert generate.arm == [f"general={train.output_dir}"]


def test_genarm_on_safe_rlhf() -> None:
    """β_r .5 (helpful), .01 (harmless); (w_help, w_harm) such as (.2, 4) and (.8, 1)."""
    train, generate = read("genarm-safe-rlhf.train.yaml"), read("genarm-safe-rlhf.generate.yaml")
    assert named_betas(train) == {"helpful": 0.5, "harmless": 0.01} and lora_on_q_k_v(train)
    folders = [f"{name}={train.output_dir}/{name}" for name in train.objective_names]
    assert generate.arm == folders and generate.base == train.model
    steering = Steering.of(train.objective_names, generate.preference, generate.strength)
    weights = {name: steering.strength * part for name, part in steering.preference.items()}
    assert weights == pytest.approx({"helpful": 0.2, "harmless": 4})


def test_parm_on_safe_rlhf() -> None:
    """q, k, v; r1 = r2 = 4, s = lora_alpha / r2 of lora_alpha 8, dropout .05; α ~ Dirichlet(0.5),
    one α per micro-batch; β .01 each, lr 5e-4, 2 epochs, batch 32; greedy, 512 tokens, w = 1."""
    train, generate = read("parm-safe-rlhf.train.yaml"), read("parm-safe-rlhf.generate.yaml")
    assert lora_on_q_k_v(train) and has(train, method="parm", beta=0.01, preference_alpha=0.5)
    assert (train.lora_r - train.preference_r, train.preference_r) == (4, 4)
    assert train.lora_alpha / train.lora_r == 8 / 4
    assert has(train, preference_draws="batch", learning_rate=5e-4, num_train_epochs=2)
    assert pairs_a_step(train) == 32 and train.objective_names == ["helpful", "harmless"]
    assert has(generate, arm=[train.output_dir], temperature=0, max_new_tokens=512, strength=1)
    hub = "PKU-Alignment/PKU-SafeRLHF-10K:train"  # as its head says
    human = read("parm-safe-rlhf.train.yaml", "--data", hub, "--split", "hash", "--eval-data")
    assert has(human, data=[hub], split="hash", eval_data=[])


def test_uniarm_is_parms_recipe_but_for_what_is_its_own() -> None:
    """Its settings are not known; ours are PARM's, and the files say: a reconstruction."""
    parm, uniarm = read("parm-safe-rlhf.train.yaml"), read("uniarm-safe-rlhf.train.yaml")
    differ = {name for name, value in vars(uniarm).items() if value != getattr(parm, name)}
    assert differ == {"method", "describe", "preference_r", "output_dir"}
    assert set(uniarm.descriptions) == {"helpful", "harmless"}
    for name in ("train", "generate"):
        text = (FOLDER / f"uniarm-safe-rlhf.{name}.yaml").read_text(encoding="utf-8")
        assert "A reconstruction." in text and "ot known" in text


def tokenizer_with(template: str) -> Any:
    tokenizer = make_tokenizer(("<s>",), template=(FOLDER / template).read_text(encoding="utf-8"))
    tokenizer.bos_token = "<s>"
    return tokenizer


HI, AGAIN = {"role": "user", "content": "hello"}, {"role": "user", "content": "please"}
YES = {"role": "assistant", "content": "yes"}


@pytest.mark.parametrize(
    ("template", "prompt", "answer"),
    [
        (
            "hh-rlhf.jinja",
            "<s>\n\nHuman: hello\n\nAssistant: yes\n\nHuman: please\n\nAssistant:",
            " no",
        ),
        (
            "safe-rlhf.jinja",
            "<s>BEGINNING OF CONVERSATION: USER: hello ASSISTANT:yes<|end|>USER: please ASSISTANT:",
            "no",
        ),
    ],
)
def test_templates_write_prompts_as_the_papers_do(template: str, prompt: str, answer: str) -> None:
    tokenizer = tokenizer_with(template)
    pair = Pair([HI, YES, AGAIN], "no", "sad")  # type: ignore[list-item]
    tokens = tokenize_pair(tokenizer, pair)
    assert tokenizer.decode(tokens.prompt_ids) == prompt
    assert tokenizer.decode(tokens.chosen_ids) == f"{answer}<|end|>"
    assert StartedPrompt.of(tokenizer, pair.prompt, "auto").ids == tokens.prompt_ids
