"""Every option of `trimtab bench TABLE`, once: one config a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from trimtab.entries import named_values
from trimtab.errors import ConfigError
from trimtab.models.types import DType
from trimtab.steering import require_name
from trimtab.training.config import TrainConfig

Part = Literal["judge", "guide", "validation", "test"]
"""A pair trains the judge, or what is judged; or settings are tried on it, or all is measured."""

_TRAINING = {field.name: field.default_factory for field in fields(TrainConfig)}
"""Options of a training, and what makes the default of those that are lists."""

HUMAN = "human"
"""What the pairs of --judge-data go by."""


@dataclass(kw_only=True)
class TableConfig:
    """What a table is made of, and how large."""

    base: str
    """The frozen base: a folder or a hub id; `smollm2` and `gemma3` stand for what `make models`
    fetches."""

    data: list[str]
    """Preference files as OBJECTIVE=FILE, in any layout of docs/data.md; several files of an
    objective are read together. The first objective is the one that answers are guided to."""

    output_dir: str
    """Folder of the table: rows.jsonl, manifest.json, table.md, plot.png, and what was trained and
    answered. The same command goes on where a killed one stopped."""

    data_dir: str = ""
    """Where relative paths of --data and --prompts-file begin."""

    judge: str = ""
    """What the judge is trained from: another backbone than the base's, as it judges what the base
    and its guides say. Tables that judge answers need it."""

    judge_chat_template: str | None = None
    """Jinja file with a chat template, for a judge whose tokenizer has none."""

    judge_data: list[str] = field(default_factory=list)
    """Files of pairs with human labels that the judge is measured on as well, and nothing is
    trained on: for --data that a model has labelled. Whether a win is claimed rests on them."""

    prompts_file: str = ""
    """Prompts to be answered; by default those of the data's test pairs. Of a file with prompts of
    the data, those are answered whose pairs are test pairs, or would be."""

    methods: list[str] = field(default_factory=list)
    """Rows of the table, by name; all that it knows by default."""

    search: list[str] = field(default_factory=list)
    """What is tried for a method before it is measured, each method the same number of settings:
    `genarm: strength=0.5,1,2`. The one with the highest reward of the search reward model (not of
    the judge) on validation prompts is taken."""

    costly: list[str] = field(default_factory=list)
    """Methods that answer --costly-prompts prompts alone, and try settings on a quarter of
    --search-prompts."""

    seeds: int = 3
    """Training seeds of ARMs and DPO models; each has its own pairs. Searches take the first."""

    pairs: int = 600
    """Pairs to train on."""

    sizes: list[int] = field(default_factory=list)
    """training: numbers of pairs."""

    judge_pairs: int = 1200
    """Pairs that the judge is trained on; none of their prompts is another part's."""

    test_pairs: int = 1000
    """Held-out pairs that accuracy is measured on."""

    max_length: int = 96
    """Longest prompt plus response of training pairs, in the base's tokens."""

    lengths: list[str] = field(default_factory=list)
    """The same for an objective, as OBJECTIVE=TOKENS."""

    judge_length: int = 0
    """The same for the judge's pairs, where theirs may be longer."""

    test_length: int = 256
    """Longest prompt plus response of test pairs."""

    prompts: int = 48
    """Prompts that are answered."""

    search_prompts: int = 8
    """Validation prompts that settings are tried on."""

    costly_prompts: int = 12
    """Prompts that methods of --costly answer."""

    max_new_tokens: int = 64
    """Tokens of an answer."""

    search_tokens: int = 32
    """Tokens of an answer while settings are tried."""

    repeats: int = 3
    """latency: interleaved runs."""

    preference_step: float = 0.25
    """multi-objective: step of the preferences; 0.25 measures 5 of two objectives."""

    describe: list[str] = field(default_factory=list)
    """multi-objective: what each objective means, as OBJECTIVE=TEXT, for UniARM."""

    layers: int = 8
    """weak-to-strong: the first so many layers of the base are the weak model."""

    samples: int = 4
    """Answers of the base to each of --sampled-prompts training prompts, that value models and the
    weak model are trained on."""

    sampled_prompts: int = 48
    """Training prompts that the base answers for that."""

    batch_size: int = 48
    """Prompts answered together; a quarter as many where a method searches."""

    at_once: int = 1
    """Trainings at a time, each in a process of its own, where one leaves a GPU idle. The times of
    a table's trainings mean nothing then."""

    train: list[str] = field(default_factory=list)
    """Options of `trimtab train` for every training, as NAME=VALUE."""

    train_as: list[str] = field(default_factory=list)
    """Further ones of one kind of training, as METHOD.NAME=VALUE (`judge.lora_r=16`)."""

    dtype: DType = "auto"
    """Type of the weights when answering."""

    device: str | None = None
    """Where the models run; the GPU by default where there is one."""

    time_limit: float | None = None
    """Minutes; a table whose estimate exceeds them is refused before anything is trained."""

    overwrite: bool = False
    """Replace a table that was made with other options."""

    def __post_init__(self) -> None:
        least = {"seeds": 1, "pairs": 2, "test_pairs": 2, "prompts": 1, "max_new_tokens": 1}
        least |= {"search_prompts": 1, "costly_prompts": 1, "repeats": 1}
        least |= {"batch_size": 1, "at_once": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                option = f"--{name.replace('_', '-')}"
                raise ConfigError(f"{option} is {getattr(self, name)}", f"{bound} or more")
        for name in self.files:
            require_name(name)
        if self.judge_data and HUMAN in self.files:
            raise ConfigError(
                f"an objective {HUMAN!r} beside --judge-data", "give it another name in --data"
            )
        for name in (*_named(self.train, "--train"), *_named(self.train_as, "--train-as")):
            if name.rpartition(".")[2] not in _TRAINING:
                raise ConfigError(f"trimtab train has no option {name!r}", "see its --help")

    @property
    def files(self) -> dict[str, list[str]]:
        """Objective -> its files."""
        files: dict[str, list[str]] = {}
        for entry in self.data:
            name, equals, path = entry.partition("=")
            if not equals or not path:
                raise ConfigError(f"cannot read --data {entry}", "write OBJECTIVE=FILE")
            files.setdefault(name, []).append(self.place(path))
        return files

    @property
    def objective(self) -> str:
        """The one that answers are guided to."""
        return next(iter(self.files))

    def rows(self, known: Sequence[str], *always: str) -> list[str]:
        """The rows of a table that are asked for, and those beside which all others are seen."""
        return [way for way in known if way in (*(self.methods or known), *always)]

    def place(self, path: str) -> str:
        """A file as it can be opened."""
        return str(Path(self.data_dir) / path) if self.data_dir else path

    def longest(self, objective: str, part: Part = "guide") -> int:
        """Tokens that a pair may have, prompt and longer response."""
        if part == "test":
            return self.test_length
        own = int(_named(self.lengths, "--lengths").get(objective, self.max_length))
        return max(own, self.judge_length) if part == "judge" else own

    @property
    def tried(self) -> dict[str, list[tuple[str, float]]]:
        """Method -> (option, value) of each setting that is tried for it."""
        return {
            method.strip(): list(_settings(entry, text))
            for entry in self.search
            for method, _, text in [entry.partition(":")]
        }

    def options(self, method: str) -> dict[str, Any]:
        """Of a training by this method (`judge` is one here)."""
        own = {
            name.partition(".")[2]: value
            for name, value in _named(self.train_as, "--train-as").items()
            if name.partition(".")[0] == method
        }
        both = {**_named(self.train, "--train"), **own}
        lists = {name for name, default in _TRAINING.items() if default is list}
        return {n: str(v).split(",") if n in lists else v for n, v in both.items()}


def _settings(entry: str, text: str) -> Sequence[tuple[str, float]]:
    option, _, values = text.strip().partition("=")
    try:
        return [(option.replace("-", "_"), float(value)) for value in values.split(",")]
    except ValueError:
        hint = "write METHOD: OPTION=VALUE,VALUE,…"
        raise ConfigError(f"cannot read --search {entry}", hint) from None


def _named(entries: Sequence[str], option: str) -> dict[str, Any]:
    """NAME=VALUE entries, values as YAML reads them."""
    import yaml

    texts = named_values(
        entries,
        unreadable=lambda entry: ConfigError(f"cannot read {option} {entry}", "write NAME=VALUE"),
        twice=lambda name: ConfigError(f"{option} gives {name} twice", "give it once"),
    )
    return {name: yaml.safe_load(_number(value)) for name, value in texts.items()}


def _number(text: str) -> str:
    """A number as YAML knows it: it takes `3e-4` for a text."""
    try:
        return repr(float(text)) if "e" in text.lower() else text
    except ValueError:
        return text
