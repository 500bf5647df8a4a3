"""Model folders that are refused before a weight is loaded."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from trimtab.errors import MissingFileError, ModelLoadError
from trimtab.models.folder import adapter_base, check_folder, is_adapter, weights_fingerprint


def safetensors(path: Path, values: bytes = b"\x00" * 8, name: str = "w") -> Path:
    """A one-tensor safetensors file, written by hand: header length, header, data."""
    entry = {"dtype": "F32", "shape": [len(values) // 4], "data_offsets": [0, len(values)]}
    header = json.dumps({"__metadata__": {"format": "pt"}, name: entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + values)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    safetensors(tmp_path / "model.safetensors")
    return tmp_path


def test_a_whole_folder_passes(folder: Path) -> None:
    check_folder(str(folder))
    assert not is_adapter(str(folder))


def test_an_adapter_passes_and_names_its_base(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/base"}')
    check_folder(str(folder))
    assert adapter_base(str(folder)) == "owner/base"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin", "weights.pt", "a.ckpt"])
def test_pickles_are_refused_and_not_opened(folder: Path, name: str) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (folder / "opened",))  # type: ignore[return-value]

    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ModelLoadError, match=f"pickle weights .{name}"):
        check_folder(str(folder))
    assert not (folder / "opened").exists()


def test_a_training_state_is_no_pickle_checkpoint(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "optimizer.pt").write_bytes(b"")
    with pytest.raises(ModelLoadError, match="holds no weights"):
        check_folder(str(folder))


def corrupt(path: Path, how: str) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    path.write_bytes(
        {
            "cut": data[:-1],
            "longer": data + b"\0",
            "empty": b"",
            "cut in the header": data[: 8 + length // 2],
            "no length": data[:4],
            "length beyond the file": (2**60).to_bytes(8, "little") + data[8:],
            "header of rubbish": data[:8] + b"\xff" * length + data[8 + length :],
            "header is a list": (2).to_bytes(8, "little") + b"[]",
            "no offsets": (9).to_bytes(8, "little") + b'{"w": {}}',
            "empty offsets": (26).to_bytes(8, "little") + b'{"w": {"data_offsets": []}',
            "empty offsets, closed": (27).to_bytes(8, "little") + b'{"w": {"data_offsets": []}}',
            "a web page": b"<!doctype html><html><body>404</body></html>",
        }[how]
    )


@pytest.mark.parametrize(
    "how",
    [
        "cut",
        "longer",
        "empty",
        "cut in the header",
        "no length",
        "length beyond the file",
        "header of rubbish",
        "header is a list",
        "no offsets",
        "empty offsets",
        "empty offsets, closed",
        "a web page",
    ],
)
def test_corrupt_safetensors_are_refused(folder: Path, how: str) -> None:
    corrupt(folder / "model.safetensors", how)
    with pytest.raises(ModelLoadError, match=r"model\.safetensors is corrupt"):
        check_folder(str(folder))


def test_every_shard_is_checked(folder: Path) -> None:
    corrupt(safetensors(folder / "model-00002.safetensors"), "cut")
    with pytest.raises(ModelLoadError, match=r"model-00002\.safetensors is corrupt"):
        check_folder(str(folder))


def test_missing_and_odd_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no ARM at .*none"):
        check_folder(str(tmp_path / "none"), what="ARM")
    with pytest.raises(MissingFileError, match=r"no model at ./none"):
        check_folder("./none")
    with pytest.raises(ModelLoadError, match=r"neither config\.json nor adapter_config\.json"):
        check_folder(str(tmp_path))
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ModelLoadError, match="is a file"):
        check_folder(str(file))


def test_a_hub_id_is_left_to_the_hub() -> None:
    check_folder("owner/model")


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_a_broken_adapter_config_is_named(folder: Path, text: str) -> None:
    (folder / "adapter_config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelLoadError, match=r"adapter_config\.json"):
        adapter_base(str(folder))


def test_the_fingerprint_goes_by_names_and_values(tmp_path: Path) -> None:
    folders = {}
    for key, (values, name) in {
        "a": (b"\0" * 8, "w"),
        "same": (b"\0" * 8, "w"),
        "values": (b"\0" * 4 + b"\1" * 4, "w"),
        "name": (b"\0" * 8, "v"),
    }.items():
        (tmp_path / key).mkdir()
        safetensors(tmp_path / key / "model.safetensors", values, name)
        folders[key] = weights_fingerprint(str(tmp_path / key))
    assert folders["a"] == folders["same"]
    assert len(set(folders.values())) == 3
    assert weights_fingerprint("owner/model") == ""


def test_the_fingerprint_looks_into_every_tensor(tmp_path: Path) -> None:
    # A merged LoRA leaves the embeddings, which come first in the file, as they were.
    entries = {
        "embed": {"dtype": "F32", "shape": [25000], "data_offsets": [0, 100000]},
        "q_proj": {"dtype": "F32", "shape": [2], "data_offsets": [100000, 100008]},
    }
    header = json.dumps(entries).encode()
    found = set()
    for key in range(2):
        folder = tmp_path / str(key)
        folder.mkdir()
        data = b"\0" * 100000 + bytes([key]) * 8
        (folder / "model.safetensors").write_bytes(
            len(header).to_bytes(8, "little") + header + data
        )
        found.add(weights_fingerprint(str(folder)))
    assert len(found) == 2
