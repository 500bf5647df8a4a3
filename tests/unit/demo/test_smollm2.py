"""The real demo's material: scores that can be checked, pairs that are what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from trimtab.arms.sidecar import Sidecar
from trimtab.data.loading import read_pairs
from trimtab.demo import PAIRS, WARM
from trimtab.demo.smollm2.make_arms import HUB_ID, shuffle
from trimtab.demo.smollm2.make_pairs import SMALLEST_GAP, Answer, pairs_of, whole_sentences
from trimtab.demo.smollm2.material import SMOLLM2
from trimtab.demo.smollm2.questions import HELD_OUT, SHOWN, TRAINING
from trimtab.demo.smollm2.scorers import SCORERS, grade, plain, warm
from trimtab.models.packaged import MODELS


def test_the_grade_is_the_automated_readability_index() -> None:
    """4.71 characters a word + 0.5 words a sentence − 21.43; marks are characters."""
    characters, words, sentences = len("Thecatsat.Dogsoftenbark."), 6, 2
    wanted = 4.71 * characters / words + 0.5 * words / sentences - 21.43
    text = "The cat sat. Dogs often bark."
    assert grade(text) == pytest.approx(wanted, abs=0.01)
    assert plain(text) == -grade(text)


def test_warmth_is_vaders_mean_over_sentences() -> None:
    """VADER's README gives 0.8316 for this sentence; a sentence without feeling halves the mean."""
    happy = "VADER is smart, handsome, and funny"
    assert warm(happy + ".") == pytest.approx(0.8316, abs=1e-4)
    assert warm(happy + ". It is a table.") == pytest.approx(0.4158, abs=1e-4)
    assert warm("...") == 0.0


def test_every_pair_is_labelled_as_its_scorer_says() -> None:
    rows = [json.loads(line) for line in Path(PAIRS).read_text(encoding="utf-8").splitlines()]
    assert len(rows) > 150
    for row in rows:
        score = SCORERS[row["objective"]]
        gap = score(row["chosen"]) - score(row["rejected"])
        assert gap >= SMALLEST_GAP[row["objective"]]


@pytest.mark.parametrize("objective", SCORERS)
def test_the_demo_reads_its_pairs_and_no_held_out_question_is_among_them(objective: str) -> None:
    pairs, report = read_pairs([PAIRS], objective)
    assert not report.unusable
    asked = {pair.prompt for pair in pairs}
    assert asked <= set(TRAINING)
    assert not asked & set(HELD_OUT)
    assert set(SHOWN) <= set(HELD_OUT)


def test_of_a_questions_answers_the_clearest_two_make_a_pair() -> None:
    answers = [
        Answer("both differ", {"plain": 0.0, "warm": 0.9}),
        Answer("plainer alone", {"plain": -2.0, "warm": 0.1}),
        Answer("neither", {"plain": -12.0, "warm": 0.1}),
    ]
    [first, second] = pairs_of("q", answers)
    assert (first["chosen"], first["rejected"]) == ("plainer alone", "neither")
    assert (second["chosen"], second["rejected"]) == ("both differ", "plainer alone")
    assert not list(pairs_of("q", answers[:1]))


def test_sentences_that_were_cut_off_go() -> None:
    assert whole_sentences("It is 3.5 m. Yes! And th") == "It is 3.5 m. Yes!"
    assert whole_sentences("no end") == ""


def test_shuffled_labels_are_a_coins() -> None:
    rows = [{"prompt": str(i), "chosen": "a", "rejected": "b", "objective": "x"} for i in range(64)]
    found = list(map(json.loads, shuffle("\n".join(map(json.dumps, rows))).splitlines()))
    kept = sum(row["chosen"] == "a" for row in found)
    assert 16 <= kept <= 48  # of fair coins less would happen once in 10^4
    assert all(sorted((row["chosen"], row["rejected"])) == ["a", "b"] for row in found)
    assert "objective" not in found[0]


@pytest.mark.parametrize("folder", [WARM, SMOLLM2.control], ids=["warm", "shuffled"])
def test_a_shipped_arm_is_small_and_names_the_public_model(folder: str) -> None:
    weights = load_file(Path(folder) / "adapter_model.safetensors")
    assert {str(tensor.dtype) for tensor in weights.values()} == {"torch.bfloat16"}
    assert sum(tensor.nbytes for tensor in weights.values()) < 1_500_000
    config = json.loads((Path(folder) / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == HUB_ID
    sidecar = Sidecar.load(folder)
    assert sidecar.base_fingerprint == MODELS["smollm2"].sha256
    assert sidecar.scale == 1.0
