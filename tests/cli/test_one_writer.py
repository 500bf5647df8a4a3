"""Two runs with one output: the second is refused, whichever command it is."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import conditioned
import pytest
from conftest import write_jsonl

from trimtab.cli.main import main
from trimtab.files import only_writer


@pytest.fixture
def outputs(
    base_dir: Path, pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, list[object]]:
    """Every command that writes, to `out.jsonl` or the folder `out`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "writer_rules.py").write_text("def length(response): return len(response)\n")
    parm = conditioned.save_arm(tmp_path / "parm", base_dir, "bilinear")
    scorers = [w for name in "abc" for w in ("--scorer", f"{name}=writer_rules:length")]
    steered = ["--base", base_dir, "--preference", "a=1,b=0,c=0"]
    folder = ["--output-dir", "out"]
    return {
        "generate": [*steered, "--arm", parm, "--prompt", "x", "--output", "out.jsonl"],
        "score": ["--arm", base_dir, "--input", pairs_file, "--output", "out.jsonl"],
        "label": ["--data", pairs_file, *scorers, "--output", "out.jsonl"],
        "train": ["--model", base_dir, "--data", pairs_file, *folder],
        "export": ["--arm", parm, "--preference", "a=1,b=0,c=0", *folder],
        "pareto": [*steered, "--guide", f"g={parm}", "--prompts", pairs_file, *scorers, *folder],
        "demo": folder,
        "bench": ["speed", *folder],
    }


def test_every_command_asks(
    outputs: dict[str, list[object]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(*arguments: object, **options: object) -> None:
        pytest.fail("weights were loaded")

    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", load)
    with only_writer(Path("out.jsonl")), only_writer(Path("out"), folder=True):
        for command, options in outputs.items():
            code = main([command, *map(str, options)])
            said = capsys.readouterr().err
            assert code == 2 and "another run is writing out" in said, (command, said)
    assert not list(Path().glob("out*"))


def test_generate_twice_at_once(base_dir: Path, tmp_path: Path) -> None:
    """Sixty prompts are sixty rows, and the other process says why it does not write."""
    path = write_jsonl(tmp_path / "in.jsonl", [{"prompt": f"the cat {i}"} for i in range(60)])
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "trimtab", "generate", "--base", str(base_dir)]
    command += ["--input", str(path), "--output", str(out), "--max-new-tokens", "8"]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True)]
    while not (tmp_path / ".out.jsonl.lock").exists():  # long before its weights are loaded
        assert both[0].poll() is None, both[0].communicate()
        time.sleep(0.005)
    both += [subprocess.Popen(command, stderr=subprocess.PIPE, text=True)]
    said = [process.communicate(timeout=120)[1].splitlines()[-1] for process in both]
    assert [process.returncode for process in both] == [0, 2]
    assert said[1] == (
        f"trimtab: error: another run is writing {out}; wait for it to end, or choose another place"
    )
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["index"] for row in rows] == list(range(60))
    assert {p.name for p in tmp_path.iterdir()} == {
        "in.jsonl",
        "out.jsonl",
        "out.jsonl.job.json",
    }
