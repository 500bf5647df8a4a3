"""A model whose files and config do not fit each other is refused, the tensors named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model, make_tokenizer
from safetensors.torch import load_file, save_file

import trimtab
from trimtab.arms.load import tokenizer_of
from trimtab.cli.main import main
from trimtab.errors import ConfigError, ModelLoadError
from trimtab.models.load import load_model
from trimtab.models.probe import forward

Tensors = dict[str, torch.Tensor]


def changed(folder: Path, base: Path, how: Callable[[Tensors], Tensors], **config: Any) -> Path:
    shutil.copytree(base, folder)
    path = folder / "model.safetensors"
    save_file({k: v.clone() for k, v in how(load_file(path)).items()}, path, {"format": "pt"})
    facts = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**facts, **config}))
    return folder


CASES: dict[str, tuple[Callable[[Tensors], Tensors], dict[str, Any], str]] = {
    "no head": (lambda t: {k: v for k, v in t.items() if k != "lm_head.weight"}, {}, "lm_head"),
    "no layer": (
        lambda t: {k: v for k, v in t.items() if "layers.1.mlp.down_proj" not in k}, {},
        r"model\.layers\.1\.mlp\.down_proj\.weight",
    ),
    "more layers": (lambda t: t, {"num_hidden_layers": 3}, r"model\.layers\.2"),
    "fewer layers": (lambda t: t, {"num_hidden_layers": 1}, r"model\.layers\.1"),
    "another head": (lambda t: {**t, "v_head.weight": torch.ones(1, 16)}, {}, r"v_head\.weight"),
    "another shape": (lambda t: t, {"intermediate_size": 48}, r"mlp\.\w+_proj\.weight"),
    "empty": (
        lambda t: {**t, "model.norm.weight": torch.zeros(0)}, {}, r"model\.norm\.weight is empty"
    ),
    "nan": (lambda t: {**t, "model.norm.weight": torch.full((16,), torch.nan)}, {}, "gives NaN"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_refused_as_base_and_as_arm(
    case: str, base_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how, config, named = CASES[case]
    folder = changed(tmp_path / "model", base_dir, how, **config)
    for load in (
        lambda: trimtab.load(str(folder)),
        lambda: trimtab.load(str(base_dir), {"a": str(folder)}),
        lambda: trimtab.score(str(folder), ["hello"], ["you"]),
    ):
        with pytest.raises(ModelLoadError, match=named):
            load()
    assert main(["generate", "--base", str(folder), "--prompt", "hello"]) == 2
    out, said = capsys.readouterr()
    assert not out and str(folder) in said.splitlines()[-1]


def test_a_tied_head_needs_no_tensor(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    model = make_model(1, len(tokenizer))
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    assert torch.equal(forward(load_model(str(tmp_path)), [5, 6]), forward(model, [5, 6]))
    assert trimtab.load(str(tmp_path)).generate(["hello"], max_new_tokens=2)[0].token_ids


def test_buffers_of_older_versions_are_harmless(base_dir: Path, tmp_path: Path) -> None:
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    folder = changed(tmp_path / "model", base_dir, lambda t: {**t, **old})
    ids = [*range(4, 12)]
    ours, theirs = (forward(load_model(str(f)), ids) for f in (folder, base_dir))
    assert torch.equal(ours, theirs)


def test_a_token_without_an_embedding_is_named(
    base_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tokenizer that grew while the model did not."""
    folder = tmp_path / "model"
    shutil.copytree(base_dir, folder)
    tokenizer = tokenizer_of(str(folder))
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder)
    assert (
        main(["generate", "--base", str(folder), "--prompt", "hello", "--max-new-tokens", "2"]) == 0
    )
    assert main(["generate", "--base", str(folder), "--prompt", "say <new>"]) == 2
    assert "none for token 320, '<new>'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="'<new>'"):
        trimtab.score(str(folder), ["hello"], ["<new>"])


def test_a_template_with_such_a_token_is_told_at_load(base_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(base_dir, folder)
    tokenizer = tokenizer_of(str(folder))
    tokenizer.add_tokens(["<new>"])
    tokenizer.chat_template = "<new>" + tokenizer.chat_template
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelLoadError, match="fails on ordinary text"):
        trimtab.load(str(folder))


def test_a_broken_generation_config_is_not_ignored(base_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(base_dir, folder)
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(ModelLoadError, match="generation_config"):
        trimtab.load(str(folder))
