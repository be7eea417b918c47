"""A checkpoint: `transformers` opens it, damage is found, and invalid files raise typed errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import STORY, TINY_FLAGS, examples
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.app.cli import main
from simplellm.checkpoint.find_runs import (
    find_checkpoint,
)
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.step_folder import load_model
from simplellm.errors import CheckpointError, TokenizerError
from simplellm.storage.manifest import verify_manifest, write_manifest

CPU = torch.device("cpu")
MODEL_FILES = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
]
STEP_FILES = sorted(
    [*MODEL_FILES, "manifest.json", "training/state.json", "training/state.safetensors"]
)


@pytest.fixture(scope="module")
def gpt2_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt2")
    flags = [
        *TINY_FLAGS,
        "--architecture",
        "gpt2",
        "--max-steps",
        "3",
        "--checkpoints",
        str(folder),
    ]
    assert main(["train", str(STORY), "--name", "tiny", *flags]) == 0
    return folder / "tiny"


@pytest.fixture(params=["modern", "gpt2"])
def best(request: pytest.FixtureRequest, trained: Path, gpt2_run: Path) -> Path:
    """A checkpoint of each architecture, not to be changed."""
    return RunFolder(trained / "tiny" if request.param == "modern" else gpt2_run).best()


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """A checkpoints folder with the run `tiny`, which a test may damage."""
    return Path(shutil.copytree(trained, tmp_path / "checkpoints"))


@pytest.mark.usefixtures("transformers")
def test_transformers_opens_a_checkpoint_with_equal_logits(best):
    from transformers import AutoModelForCausalLM

    model, _ = load_model(best, CPU)
    theirs = AutoModelForCausalLM.from_pretrained(best).eval()
    ids = torch.randint(
        model.config.vocab_size,
        (2, model.config.block_size),
        generator=torch.Generator().manual_seed(1),
    )
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, model(ids), atol=1e-4, rtol=0)


@pytest.mark.usefixtures("transformers")
@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "안녕하세요, 세상!",
        "👩‍👩‍👧 🇰🇷 ok",
        "a<|endoftext|>b",
        "  x\n\n\ty  12345 it's",
        "café 각",
    ],
)
def test_transformers_opens_a_checkpoint_with_equal_ids(best, text):
    from transformers import AutoTokenizer

    tokenizer, theirs = load_model(best, CPU)[1], AutoTokenizer.from_pretrained(best)
    assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)
    assert theirs.decode(tokenizer.encode(text)) == text


@pytest.mark.usefixtures("transformers")
def test_transformers_gives_equal_ids_for_the_story(best, story):
    from transformers import AutoTokenizer

    tokenizer, theirs = load_model(best, CPU)[1], AutoTokenizer.from_pretrained(best)
    assert theirs(story)["input_ids"] == tokenizer.encode(story)
    assert theirs.eos_token_id == tokenizer.end_of_text


@pytest.mark.usefixtures("transformers")
def test_transformers_pads_a_batch_of_texts(best):
    from transformers import AutoTokenizer

    batch = AutoTokenizer.from_pretrained(best)(["a", "a longer text"], padding=True)
    assert len({len(ids) for ids in batch["input_ids"]}) == 1
    assert [sum(mask) for mask in batch["attention_mask"]][0] == 1


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES = {
    "flipped": flip,
    "truncated": truncate,
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", STEP_FILES)
def test_a_damaged_file_is_named_and_the_previous_checkpoint_is_used(copy, name, damage):
    run = RunFolder(copy / "tiny")
    newest, previous = run.step_folders()
    DAMAGES[damage](newest / name)
    with pytest.raises(CheckpointError, match="step-000030/" if name == "manifest.json" else name):
        verify_manifest(newest)  # a changed digest looks like a change of its file
    notices: list[str] = []
    assert find_checkpoint("tiny", copy, notices.append) == previous
    assert len(notices) == 1 and str(newest) in notices[0]


def test_an_added_file_is_named(copy):
    folder = RunFolder(copy / "tiny").best()
    (folder / "extra.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"extra\.bin"):
        verify_manifest(folder)


def test_every_flipped_bit_is_found(copy):
    folder = RunFolder(copy / "tiny").best()

    @settings(max_examples=examples(60), deadline=None)
    @given(st.sampled_from(STEP_FILES), st.integers(0), st.integers(0, 7))
    def law(name: str, position: int, bit: int) -> None:
        intact = (folder / name).read_bytes()
        data = bytearray(intact)
        data[position % len(data)] ^= 1 << bit
        (folder / name).write_bytes(data)
        with pytest.raises(CheckpointError):
            verify_manifest(folder)
        (folder / name).write_bytes(intact)

    law()
    verify_manifest(folder)


def test_a_run_without_an_intact_checkpoint_is_refused(copy):
    for folder in RunFolder(copy / "tiny").step_folders():
        (folder / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="no intact checkpoint"):
        find_checkpoint("tiny", copy, lambda text: None)


CONFIGS = {
    "not JSON": b"\xff{",
    "a list": b"[]",
    "deep": b'{"a":' * 100_000,
    "empty": b"{}",
    "foreign": b'{"model_type": "llama"}',
    "a list for a type": b'{"model_type": ["qwen3"]}',
    "no sizes": b'{"model_type": "qwen3"}',
}
CONFIG_VALUES = ["x", None, -1, 0, 2**40, 1.5, True, [], {}, float("inf")]
TOKENIZER_CHANGES = {
    "vocab is a list": lambda data: data["model"].update(vocab=[]),
    "ranks are texts": lambda data: data["model"].update(
        vocab=dict.fromkeys(data["model"]["vocab"], "1")
    ),
    "ranks are negative": lambda data: data["model"].update(
        vocab={token: -1 for token in data["model"]["vocab"]}
    ),
    "ranks are equal": lambda data: data["model"].update(
        vocab=dict.fromkeys(data["model"]["vocab"], 3)
    ),
    "ranks are fractions": lambda data: data["model"].update(
        vocab=dict.fromkeys(data["model"]["vocab"], 0.5)
    ),
    "a byte is missing": lambda data: data["model"]["vocab"].pop("a"),
    "ranks leave a gap": lambda data: data["model"]["vocab"].update(
        {list(data["model"]["vocab"])[-1]: 10**6}
    ),
    "a foreign character": lambda data: data["model"]["vocab"].update({"\u4e00": 300}),
    "no model": lambda data: data.pop("model"),
    "no special token": lambda data: data.update(added_tokens=[]),
    "a special token that is a text": lambda data: data.update(added_tokens=["x"]),
    "a special token that is a word": lambda data: data["added_tokens"][0].update(id=5),
    "a special token that is huge": lambda data: data["added_tokens"][0].update(id=2**40),
    "a special token that is null": lambda data: data["added_tokens"][0].update(id=None),
    "a pattern that is none": lambda data: data["pre_tokenizer"]["pretokenizers"][0][
        "pattern"
    ].update(Regex="(["),
    "a pattern that is a number": lambda data: data["pre_tokenizer"]["pretokenizers"][0][
        "pattern"
    ].update(Regex=7),
    "no pattern": lambda data: data["pre_tokenizer"].update(pretokenizers=[]),
}


def assert_typed_error(folder: Path, name: str, content: bytes) -> None:
    """Loading fails with a typed error although the manifest of the changed file is valid."""
    (folder / name).write_bytes(content)
    (folder / "manifest.json").unlink()
    write_manifest(folder)
    with pytest.raises((CheckpointError, TokenizerError)):
        load_model(folder, CPU)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_an_invalid_json_file_raises_a_typed_error(copy, name, kind):
    assert_typed_error(RunFolder(copy / "tiny").best(), name, CONFIGS[kind])


@pytest.mark.parametrize(
    "key",
    [
        "num_hidden_layers",
        "num_attention_heads",
        "hidden_size",
        "vocab_size",
        "max_position_embeddings",
    ],
)
def test_an_invalid_size_raises_a_typed_error(copy, key):
    folder = RunFolder(copy / "tiny").best()
    config = json.loads((folder / "config.json").read_text())
    for value in CONFIG_VALUES:
        assert_typed_error(folder, "config.json", json.dumps({**config, key: value}).encode())


@pytest.mark.parametrize("kind", TOKENIZER_CHANGES)
def test_an_invalid_tokenizer_raises_a_typed_error(copy, kind):
    folder = RunFolder(copy / "tiny").best()
    data = json.loads((folder / "tokenizer.json").read_text())
    TOKENIZER_CHANGES[kind](data)
    assert_typed_error(folder, "tokenizer.json", json.dumps(data).encode())


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00" * 8, b"\xff" * 64, b"\x10" + b"\x00" * 7 + b'{"a":{"dtype":1}}', b"PK\x03\x04"],
)
def test_invalid_weights_raise_a_typed_error(copy, content):
    assert_typed_error(RunFolder(copy / "tiny").best(), "model.safetensors", content)


WEIGHT_CHANGES = {
    "another shape": lambda state, name: state.update({name: state[name][:1]}),
    "transposed": lambda state, name: state.update({name: state[name].t().contiguous()}),
    "missing": lambda state, name: state.pop(name),
    "unknown": lambda state, name: state.update(extra=torch.ones(1)),
    "integers": lambda state, name: state.update({name: state[name].long()}),
    "NaN": lambda state, name: state.update({name: state[name] * float("nan")}),
    "8-bit floats": lambda state, name: state.update({name: state[name].to(torch.float8_e4m3fn)}),
    "complex": lambda state, name: state.update({name: state[name].to(torch.complex64)}),
}


@pytest.mark.parametrize("kind", WEIGHT_CHANGES)
def test_weights_that_do_not_fit_raise_a_typed_error(copy, kind):
    folder = RunFolder(copy / "tiny").best()
    state = safetensors.torch.load((folder / "model.safetensors").read_bytes())
    WEIGHT_CHANGES[kind](state, "model.embed_tokens.weight")
    assert_typed_error(folder, "model.safetensors", safetensors.torch.save(state))
