"""A larger base for the speculation benchmark: tiny-5m with MLPs 18 times as wide, trained on.

    python benchmarks/speculation/grow.py --model ../shared/models/tiny-5m \\
        --data ../shared/data/hh-rlhf --minutes 20 --output-dir work/base-59m

New hidden units start with zero output weights, so the grown model begins as the function that
tiny-5m computes (net2net, arXiv 1511.05641) and goes on from there. It is then trained as a
language model on the training split of HH-RLHF dialogues, chosen and rejected alike: an unaligned
base of 59 M parameters, 10 times tiny-5m and 46 times tiny-1m.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trimtab.arms.load import tokenizer_of
from trimtab.data.loading import read_pairs
from trimtab.data.pairs import split_of
from trimtab.data.tokenize import tokenize_pair
from trimtab.models.load import load_model

FILES = ["harmless-base.test.jsonl.gz", "harmless-base.train5000.lastturn.json.xz"]
FILES += ["helpful-base.test.json.xz"]
WIDTH, CONTEXT, ROWS = 12288, 256, 8


def widen(model: Any, width: int) -> None:
    """Give every MLP more hidden units, in place, without changing what the model computes."""
    for layer in model.model.layers:
        mlp = layer.mlp
        for name in ("gate_proj", "up_proj"):
            old = getattr(mlp, name)
            new = nn.Linear(old.in_features, width, bias=False)
            new.weight.data[: old.out_features] = old.weight.data
            new.weight.data[old.out_features :] = 0.02 * torch.randn_like(
                new.weight.data[old.out_features :]
            )
            setattr(mlp, name, new)
        old = mlp.down_proj
        mlp.down_proj = nn.Linear(width, old.out_features, bias=False)
        mlp.down_proj.weight.data.zero_()[:, : old.in_features] = old.weight.data
        mlp.intermediate_size = width
    model.config.intermediate_size = width


def packed_rows(data: Path, tokenizer: Any, part: str) -> torch.Tensor:
    """Both responses of every pair of a split, end to end, [rows, CONTEXT]."""
    ids: list[int] = []
    pairs, _ = read_pairs([str(data / name) for name in FILES], "text")
    for pair in pairs:
        if split_of(pair.prompt) == part:
            tokens = tokenize_pair(tokenizer, pair)
            for response in (tokens.chosen_ids, tokens.rejected_ids):
                ids += [*tokens.prompt_ids, *response]
    return torch.tensor(ids[: len(ids) // CONTEXT * CONTEXT]).view(-1, CONTEXT)


def main() -> None:
    """Grow, train, save, and say what was done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--output-dir", type=Path, required=True)
    options = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = tokenizer_of(str(options.model))
    model = load_model(str(options.model), dtype="float32", device="cpu")
    widen(model, WIDTH)
    train = packed_rows(options.data, tokenizer, "train")
    held = packed_rows(options.data, tokenizer, "validation")[:64]
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, betas=(0.9, 0.95))

    def nats() -> float:
        model.eval()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            losses = [model(x, labels=x).loss.item() for x in held.split(ROWS)]
        model.train()
        return sum(losses) / len(losses)

    before, start, steps = nats(), time.time(), 0
    print(f"{model.num_parameters() / 1e6:.1f} M parameters, {len(train)} rows; {before:.3f} nats")
    while (done := (time.time() - start) / 60 / options.minutes) < 1:
        rows = train[torch.randint(len(train), (ROWS,))]
        for group in optimizer.param_groups:
            group["lr"] = options.lr * min(1, (steps + 1) / 20) * (1 + math.cos(math.pi * done)) / 2
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(rows, labels=rows).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        steps += 1
        if steps % 20 == 0:
            print(f"step {steps}: {loss.item():.3f}", flush=True)
    facts = {
        "parameters": model.num_parameters(),
        "steps": steps,
        "tokens": steps * train[:ROWS].numel(),
    }
    facts |= {"held_out_nats_before": before, "held_out_nats": nats(), "minutes": options.minutes}
    model.to(torch.bfloat16).save_pretrained(options.output_dir)
    tokenizer.save_pretrained(options.output_dir)
    (options.output_dir / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
