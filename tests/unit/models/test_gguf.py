"""GGUF files: the model that they hold, or what of them would be left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import make_tokenizer
from gguf_files import write_gguf

import trimtab
from trimtab.arms.load import tokenizer_of
from trimtab.errors import ModelLoadError, TrimtabError
from trimtab.models.dequantize import gguf_folder
from trimtab.models.folder import check_folder, weights_fingerprint
from trimtab.models.load import load_model
from trimtab.models.probe import forward

IDS = [*range(4, 30)]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TRIMTAB_CACHE", str(folder))
    return folder


def test_weights_tokenizer_and_ends_are_the_files(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "tiny.gguf"
    tokenizer = make_tokenizer()
    model = write_gguf(path, tokenizer=tokenizer, fields={"tokenizer.ggml.eot_token_id": 2})
    loaded = load_model(str(path))
    assert torch.equal(forward(loaded, IDS), forward(model, IDS))
    read = tokenizer_of(str(path))
    text = "once upon a time, thank you!<|end|>\n\n1. Zürich 🙂 42"
    assert read(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert read.decode(read(text)["input_ids"]) == text
    assert read.chat_template == tokenizer.chat_template
    assert loaded.generation_config.eos_token_id == [3, 2]  # end of text, end of turn


def test_it_is_dequantised_once_for_each_type(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    one = gguf_folder(str(path), "float32")
    other = gguf_folder(str(path), "bfloat16")
    assert one != other
    monkeypatch.setattr("trimtab.models.dequantize._convert", None)  # nothing is made again
    assert gguf_folder(str(path), "float32") == one
    moved = path.rename(tmp_path / "tiny-2.gguf")
    assert weights_fingerprint(str(moved)) == weights_fingerprint(one) == weights_fingerprint(other)


def test_a_failure_leaves_nothing_in_the_cache(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, tensors=lambda t: {k: v for k, v in t.items() if k != "output_norm.weight"})
    with pytest.raises(ModelLoadError, match=r"lacks tensors: model\.norm\.weight"):
        load_model(str(path))
    assert [p.name for p in (cache / "gguf").iterdir() if "no-weights" not in p.name] == []


def test_an_arm_trained_on_a_file_meets_its_folder(
    tmp_path: Path, cache: Path, pairs_file: Path
) -> None:
    """Trained on the file in float32, on the folder that was made of it in bfloat16."""
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    trimtab.train(
        model=str(path), data=pairs_file, output_dir=str(tmp_path / "arm"), max_steps=2,
        split="none",
    )  # fmt: skip
    config = json.loads((tmp_path / "arm" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(path.resolve())
    for base in (str(path), gguf_folder(str(path), "bfloat16")):
        engine = trimtab.load(base, {"happy": str(tmp_path / "arm")})
        assert len(engine.groups) == 1  # it shares the base's weights
        assert engine.generate(["hello"], max_new_tokens=4)[0].token_ids
    assert trimtab.score(str(tmp_path / "arm"), ["hello"], ["happy"])[0].reward < 0


UNREAD = {
    "yarn": ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}, "yarn"),
    "linear": ({"llama.rope.scaling.type": "linear"}, "linear"),
    "soft cap": ({"llama.attn_logit_softcapping": 50.0}, "attn_logit_softcapping = 50.0"),
    "logit cap": ({"llama.final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    "window": ({"llama.attention.sliding_window": 16}, "sliding_window = 16"),
    "scale": ({"llama.logit_scale": 0.0625}, "logit_scale"),
    "head size": ({"llama.attention.key_length": 4}, "key_length = 4"),
    "unheard of": ({"llama.attention.new_thing": 1}, "new_thing"),
    "pre-tokenizer": ({"tokenizer.ggml.pre": "deepseek-v9"}, "'deepseek-v9'"),
    "no pre-tokenizer": ({"tokenizer.ggml.pre": None}, "pre-tokenizer"),
    "no key heads": ({"llama.attention.head_count_kv": None}, "head_count_kv"),
    "an adapter": ({"general.type": "adapter"}, "holds no model but a adapter"),
    "a part": ({"split.count": 3}, "one part of 3"),
}


@pytest.mark.parametrize("case", UNREAD)
def test_what_would_be_left_out_is_named(case: str, tmp_path: Path) -> None:
    fields, named = UNREAD[case]
    write_gguf(tmp_path / "tiny.gguf", fields=fields)
    with pytest.raises(ModelLoadError, match=named):
        trimtab.load(str(tmp_path / "tiny.gguf"))


HARMLESS: list[dict[str, Any]] = [
    {"llama.rope.scaling.type": "none"},
    {"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 1.0},
    {"llama.attention.key_length": 8, "llama.attention.value_length": 8},
    {"general.author": "somebody", "quantize.imatrix.entries_count": 3},
]


@pytest.mark.parametrize("fields", HARMLESS)
def test_what_the_config_says_too_is_no_reason(fields: dict[str, Any], tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "tiny.gguf", fields=fields)
    assert torch.equal(forward(load_model(str(tmp_path / "tiny.gguf")), IDS), forward(model, IDS))


@pytest.mark.parametrize("name", ["rope_freqs.weight", "blk.0.attn_q.bias"])
def test_tensors_that_no_place_takes_are_named(name: str, tmp_path: Path) -> None:
    """Llama 3.1's rope scaling is a tensor; a bias changes every token. Both were dropped."""
    extra = {name: np.ones(16, dtype=np.float32)}
    write_gguf(tmp_path / "tiny.gguf", tensors=lambda t: {**t, **extra})
    with pytest.raises(ModelLoadError, match=f"does not read: {name}"):
        trimtab.load(str(tmp_path / "tiny.gguf"))


def test_an_architecture_that_transformers_does_not_read(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", arch="dream")
    with pytest.raises(ModelLoadError, match="dream"):
        trimtab.load(str(tmp_path / "tiny.gguf"))


@pytest.mark.parametrize("how", ["cut", "text"])
def test_a_damaged_file(how: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] if how == "cut" else b"hello")
    with pytest.raises(TrimtabError, match=r"tiny\.gguf"):
        trimtab.load(str(path))


def test_begin_of_text_is_written_where_the_file_says(tmp_path: Path) -> None:
    """Gemma without its begin-of-text says `The The The`; transformers' reader leaves it out."""
    for begins, expected in ((True, [2]), (False, [])):
        path = tmp_path / f"{begins}.gguf"
        fields = {"tokenizer.ggml.bos_token_id": 2, "tokenizer.ggml.add_bos_token": begins}
        write_gguf(path, fields=fields)
        ids = tokenizer_of(str(path))("hello")["input_ids"]
        assert ids[:1] == expected or (not expected and ids[0] != 2)
        assert ids.count(2) == len(expected)


def test_single_digits_before_byte_level(tmp_path: Path) -> None:
    """SmolLM's: a line end and what follows are split as its own tokenizer does."""
    write_gguf(tmp_path / "tiny.gguf", fields={"tokenizer.ggml.pre": "smollm"})
    read = tokenizer_of(str(tmp_path / "tiny.gguf"))
    pieces = [
        piece for piece, _ in read.backend_tokenizer.pre_tokenizer.pre_tokenize_str("\n\n1. 23")
    ]
    assert pieces == ["ĊĊ", "1", ".", "Ġ", "2", "3"]


def test_a_folder_of_the_cache_is_a_plain_folder(tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "tiny.gguf")
    folder = gguf_folder(str(tmp_path / "tiny.gguf"), "float32")
    check_folder(folder)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(forward(plain, IDS), forward(model, IDS))


def test_layers_beyond_the_count_are_not_dropped(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", fields={"llama.block_count": 1})
    with pytest.raises(ModelLoadError, match=r"does not read: blk\.1\."):
        trimtab.load(str(tmp_path / "tiny.gguf"))


def test_what_lies_beside_the_file_is_not_read(tmp_path: Path) -> None:
    """transformers prefers a tokenizer.json in the file's folder, and takes an adapter there."""
    other = make_tokenizer(extra=("<one>", "<two>"), end="<stop>")
    other.save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    write_gguf(tmp_path / "tiny.gguf")
    read = tokenizer_of(str(tmp_path / "tiny.gguf"))
    assert read.get_vocab() == make_tokenizer().get_vocab()
    assert read.eos_token == "<|end|>"


def test_a_made_folder_that_was_trained_further_is_another_backbone(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    made = gguf_folder(str(tmp_path / "tiny.gguf"), "float32")
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    assert weights_fingerprint(str(copy)) == weights_fingerprint(made)
    model = load_model(str(copy))
    with torch.no_grad():
        model.model.norm.weight += 1
    model.save_pretrained(copy)
    assert weights_fingerprint(str(copy)) != weights_fingerprint(made)
