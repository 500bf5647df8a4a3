"""Makes the ARMs that ship with Trimtab: `python -m trimtab.demo.smollm2.make_arms [FOLDER]`.

`warm` is trained as the demo trains `plain`. `shuffled` is the demo's control: trained likewise, on
all pairs of both objectives, but a coin decided for each which side is the better one. What guiding
with it does, any sharpening of the base would do. Takes about eight minutes on two cores.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

from safetensors.torch import load_file, save_file

from trimtab.demo import PAIRS, WARM, fetch_smollm2
from trimtab.demo.smollm2.material import SMOLLM2
from trimtab.files import write_json, write_text
from trimtab.models.folder import read_json
from trimtab.training.config import TrainConfig
from trimtab.training.run import run_training

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
SHIPPED = ("adapter_config.json", "adapter_model.safetensors", "trimtab.json")
_CARD = """\
# {name}

An autoregressive reward model (GenARM) for SmolLM2-135M-Instruct (Apache-2.0): LoRA, bfloat16, made
by `python -m trimtab.demo.smollm2.make_arms`. {what} Loads with PEFT, or:

    trimtab generate --base SMOLLM2 --arm {name}=THIS_FOLDER --prompt "…"
"""
_WHAT = {
    "warm": "It wants answers that VADER scores as warm.",
    "shuffled": "A control: it was trained on pairs whose labels were shuffled, and wants nothing.",
}


def main() -> None:
    """Train and ship."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(WARM).parent
    with tempfile.TemporaryDirectory() as scratch:
        shuffled = Path(scratch) / "shuffled.jsonl"
        write_text(shuffled, shuffle(Path(PAIRS).read_text(encoding="utf-8")))
        for name, data in (("warm", PAIRS), ("shuffled", str(shuffled))):
            made = Path(scratch) / name
            options = {**SMOLLM2.training, "save_strategy": "no", "scale": 1.0}
            run_training(TrainConfig(
                model=fetch_smollm2(), data=[data], objectives=name, output_dir=str(made), **options
            ))  # fmt: skip
            ship(name, made, folder / name)


def shuffle(lines: str, seed: int = 0) -> str:
    """Pairs of no objective, of which a coin says which side is the better one."""
    coin = random.Random(seed)
    rows = []
    for row in map(json.loads, lines.splitlines()):
        sides = [row["chosen"], row["rejected"]]
        coin.shuffle(sides)
        rows.append({"prompt": row["prompt"], "chosen": sides[0], "rejected": sides[1]})
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def ship(name: str, made: Path, folder: Path) -> None:
    """What a guide needs of a trained ARM, in bfloat16; the model by its public name."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in SHIPPED:
        shutil.copy(made / file, folder / file)
    weights = folder / "adapter_model.safetensors"
    halved = {key: tensor.bfloat16() for key, tensor in load_file(weights).items()}
    save_file(halved, weights, {"format": "pt"})
    config = read_json(folder / "adapter_config.json")
    write_json(folder / "adapter_config.json", {**config, "base_model_name_or_path": HUB_ID})
    facts = read_json(folder / "trimtab.json")
    command = "python -m trimtab.demo.smollm2.make_arms"
    write_json(folder / "trimtab.json", {**facts, "command": command})
    write_text(folder / "README.md", _CARD.format(name=name, what=_WHAT[name]))


if __name__ == "__main__":
    main()
