"""Fixtures that several tests share: models built from a config, no download."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads would only wait for each other

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["served"]  # fixtures of servers

# a run that was started in the background ignores Ctrl-C, and tests of interrupts with it
signal.signal(signal.SIGINT, signal.default_int_handler)

# The law tests explore: other examples in every run, and a failure prints the line that repeats it.
# A busy machine is no failure, so nothing is timed. `--hypothesis-profile` chooses another.
settings.register_profile(
    "default",
    max_examples=100,
    deadline=None,
    derandomize=False,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("fast", settings.get_profile("default"), max_examples=20)
settings.register_profile("nightly", settings.get_profile("default"), max_examples=2000)
settings.load_profile("default")  # also where hypothesis sees a CI, whose profile would not explore

SHARED = Path(os.environ.get("TRIMTAB_SHARED", Path(__file__).parents[2] / "shared"))

WORDS = [
    "the", "a", "cat", "dog", "sat", "ran", "on", "mat", "happy", "sad", "hello", "thank", "you",
    "yes", "no", "please", "story", "once", "upon", "time", "good", "bad", "very", "little",
    "big", "red", "blue", "sun", "moon", ".", ",", "!", "?", "Human", "Assistant", "user",
    "assistant",
]  # fmt: skip

TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ '<|end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def examples(count: int) -> settings:
    """So many examples of a law in `make test`; as many times more or fewer as the profile has."""
    return settings(max_examples=max(2, count * settings().max_examples // 100))


def make_tokenizer(
    extra: tuple[str, ...] = (),
    end: str = "<|end|>",
    template: str | None = TEMPLATE,
    words: Sequence[str] = WORDS,
) -> Any:
    """A small byte-level BPE tokenizer with a chat template; `extra` tokens come last."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|user|>", "<|assistant|>", end]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=special,
        show_progress=False,
    )
    raw.train_from_iterator([" ".join(words)] * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<|pad|>", eos_token=end)
    if extra:
        tokenizer.add_special_tokens({"additional_special_tokens": list(extra)})
    tokenizer.chat_template = template
    return tokenizer


def make_model(seed: int, vocab_size: int, hidden: int = 16, layers: int = 2) -> Any:
    """A random Llama of a few thousand parameters; its logits are spread enough to matter."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=3,
    )
    return LlamaForCausalLM(config).eval()


def save_model(folder: Path, seed: int = 0, *, tokenizer: Any = None, padding: int = 0) -> Path:
    """Save a random model with its tokenizer; `padding` rows are added to the LM head."""
    tokenizer = tokenizer or make_tokenizer()
    make_model(seed, len(tokenizer) + padding).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def command_of_processes(
    processes: int, model: Path, data: Path, output: Path, *options: object
) -> list[str]:
    """`trimtab train` over so many DDP processes, 8 pairs a step together."""
    command = [
        sys.executable,
        *("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"),
        *("-m", "trimtab", "train", "--model", model, "--data", data),
        *("--output-dir", output, "--split", "none", "--lora-dropout", "0", *options),
        *("--learning-rate", "0.01", "--no-group-by-length", "--json"),
        *("--per-device-train-batch-size", 8 // processes),
        *("--gradient-accumulation-steps", "1"),
    ]
    return [str(word) for word in command]


def train_with_processes(
    processes: int, model: Path, data: Path, output: Path, *options: object
) -> dict[str, Any]:
    """The adapter of a training over so many processes."""
    from safetensors.torch import load_file

    command = command_of_processes(processes, model, data, output, *options)
    on_cpu = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}  # two processes cannot share one GPU
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=on_cpu)
    assert len(json.loads(done.stdout)) == 1  # the first process alone prints
    return load_file(output / "adapter_model.safetensors")


@pytest.fixture(scope="session", autouse=True)
def untouched_models() -> Iterator[None]:
    """Engines leave the weights as they are: the specification runs the same models.

    What packed weights give is tested apart (`packing`).
    """
    from trimtab.engines.local import loading

    before = loading.may_pack
    loading.may_pack = lambda models: False
    yield
    loading.may_pack = before


@contextmanager
def packing() -> Iterator[None]:
    """Engines pack weights, as they do for users."""
    from trimtab.engines.local import loading

    before = loading.may_pack
    loading.may_pack = lambda models: True
    yield
    loading.may_pack = before


@pytest.fixture(scope="session")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random causal LM with tokenizer and chat template on disk."""
    return save_model(tmp_path_factory.mktemp("base"), seed=1)


@pytest.fixture(scope="session")
def arm_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another random LM over the same vocabulary: a whole-model ARM."""
    return save_model(tmp_path_factory.mktemp("arm"), seed=2)


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pairs on forty prompts: `happy` is better than `sad`."""
    rows = [
        {
            "prompt": f"the {a} {b} {i}",
            "chosen": "happy happy the dog",
            "rejected": "sad sad the cat sat",
        }
        for i, (a, b) in enumerate([("cat", "sat"), ("dog", "ran")] * 20)
    ]
    return write_jsonl(tmp_path_factory.mktemp("data") / "pairs.jsonl", rows)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and models beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("shared data absent")
    return SHARED
