"""A run folder opens elsewhere as it is, says when it is damaged, and is never half there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import STORY, TINY_FLAGS
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.app.cli import main
from simplellm.checkpoint.find_runs import (
    RUN_NAME,
    find_checkpoint,
    find_run,
    free_name,
    list_runs,
    new_run,
)
from simplellm.checkpoint.run import KEPT_LAST, Run
from simplellm.checkpoint.step_folder import load_model
from simplellm.checkpoint.training_state import TrainingState
from simplellm.data.tokenizer import Tokenizer
from simplellm.errors import CheckpointError, SettingError, TokenizerError
from simplellm.model.transformer import SimpleLLM
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
    return Run(trained / "tiny" if request.param == "modern" else gpt2_run).best()


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """A checkpoints folder with the run `tiny`, to be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "checkpoints"))


def files_of(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def model_and_tokenizer(trained: Path) -> tuple[SimpleLLM, Tokenizer]:
    return load_model(Run(trained / "tiny").best(), CPU)


def save(
    run: Run, step: int, loss: float, model: SimpleLLM, tokenizer: Tokenizer, best: bool
) -> Path:
    state = TrainingState({"step": step}, {"x": torch.ones(2)})
    return run.save(step, model, tokenizer, state, {"val_loss": loss}, best)


def test_a_run_folder_holds_the_files_of_the_contract(trained):
    run = trained / "tiny"
    kept = {"run.json", "log.jsonl", "best.json", "last.json"}
    assert {path.name for path in run.iterdir() if path.is_file()} == kept | {
        "report.json",
        "loss.svg",
    }  # those at its end
    assert {path.name for path in run.iterdir() if path.is_dir()} == {"step-000020", "step-000030"}
    assert files_of(run / "step-000030") == STEP_FILES
    info = json.loads((run / "run.json").read_text())
    assert {"model", "training", "fingerprint", "versions", "command", "started_at"} <= set(info)


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


def test_transformers_gives_equal_ids_for_the_story(best, story):
    from transformers import AutoTokenizer

    tokenizer, theirs = load_model(best, CPU)[1], AutoTokenizer.from_pretrained(best)
    assert theirs(story)["input_ids"] == tokenizer.encode(story)
    assert theirs.eos_token_id == tokenizer.end_of_text


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
def test_a_damaged_file_is_named_and_the_previous_checkpoint_used(copy, name, damage):
    run = Run(copy / "tiny")
    newest, previous = run.step_folders()
    DAMAGES[damage](newest / name)
    with pytest.raises(CheckpointError, match="step-000030/" if name == "manifest.json" else name):
        verify_manifest(
            newest
        )  # a digest changed in the manifest looks like a change of the file it is of
    told: list[str] = []
    assert find_checkpoint("tiny", copy, told.append) == previous
    assert len(told) == 1 and str(newest) in told[0]


def test_a_file_that_was_added_is_named(copy):
    folder = Run(copy / "tiny").best()
    (folder / "extra.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"extra\.bin"):
        verify_manifest(folder)


def test_every_bit_counts(copy):
    folder = Run(copy / "tiny").best()

    @settings(max_examples=60, deadline=None)
    @given(st.sampled_from(STEP_FILES), st.integers(0), st.integers(0, 7))
    def law(name: str, place: int, bit: int) -> None:
        whole = (folder / name).read_bytes()
        data = bytearray(whole)
        data[place % len(data)] ^= 1 << bit
        (folder / name).write_bytes(data)
        with pytest.raises(CheckpointError):
            verify_manifest(folder)
        (folder / name).write_bytes(whole)

    law()
    verify_manifest(folder)


def test_without_a_whole_checkpoint_the_run_is_refused(copy):
    for folder in Run(copy / "tiny").step_folders():
        (folder / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="no intact checkpoint"):
        find_checkpoint("tiny", copy, lambda text: None)


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", "null", '{"path": 5}', '{"path": "../../x"}', '{"step": 1}', "\x00"]
)
def test_a_damaged_pointer_costs_nothing(copy, content, tmp_path):
    run = Run(copy / "tiny")
    (run.path / "best.json").write_text(content)
    assert find_checkpoint(None, copy, lambda text: None) == run.path / "step-000030"
    model, tokenizer = load_model(run.best(), CPU)
    save(run, 40, 1.0, model, tokenizer, best=False)
    assert run.last().name == "step-000040"


def test_pointers_follow_the_saves(trained, tmp_path):
    model, tokenizer = model_and_tokenizer(trained)
    run = Run(tmp_path / "run")
    save(run, 1, 2.0, model, tokenizer, best=True)
    save(run, 2, 3.0, model, tokenizer, best=False)
    assert run.pointer("best") == {"step": 1, "path": "step-000001", "val_loss": 2.0}
    assert run.pointer("last") == {"step": 2, "path": "step-000002", "val_loss": 3.0}
    assert (run.best().name, run.last().name) == ("step-000001", "step-000002")


def test_the_best_and_the_last_are_kept(trained, tmp_path):
    model, tokenizer = model_and_tokenizer(trained)
    run = Run(tmp_path / "run")
    for step in range(1, 8):
        save(run, step, 0.0, model, tokenizer, best=step == 2)
    assert {"step-000002", "step-000007"} <= {folder.name for folder in run.step_folders()}
    assert len(run.step_folders()) == 1 + KEPT_LAST
    assert run.best().name == "step-000002"


def test_retention_leaves_other_folders_alone(trained, tmp_path):
    model, tokenizer = model_and_tokenizer(trained)
    others = [
        tmp_path / "run" / "step-notes",
        tmp_path / "run" / "mine",
        tmp_path / "other" / "step-000001",
    ]
    for folder in others:
        folder.mkdir(parents=True)
    for step in range(1, 6):
        save(Run(tmp_path / "run"), step, 0.0, model, tokenizer, best=False)
    assert all(folder.is_dir() for folder in others)


@pytest.mark.parametrize(
    "broken",
    [
        "step_folder.to_hub_state",
        "run.write_checkpoint",
        "step_folder.ManifestWriter",
        "run.new_folder",
    ],
)
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_save_that_fails_leaves_no_trace(trained, tmp_path, monkeypatch, broken, error):
    model, tokenizer = model_and_tokenizer(trained)
    run = Run(tmp_path / "run")
    save(run, 1, 2.0, model, tokenizer, best=True)
    before = files_of(tmp_path)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(f"simplellm.checkpoint.{broken}", fail)
    with pytest.raises(type(error)):
        save(run, 2, 1.0, model, tokenizer, best=True)
    assert files_of(tmp_path) == before
    assert run.best().name == run.last().name == "step-000001"


def test_find_run_takes_names_and_paths(trained):
    tiny = trained / "tiny"
    assert find_run("tiny", trained) == (Run(tiny), None)
    assert find_run(str(tiny), Path("/nowhere")) == (Run(tiny), None)
    assert find_run(None, trained) == (Run(tiny), None)
    run, folder = find_run(str(tiny / "step-000020"), trained)
    assert (run.name, folder) == ("tiny", tiny / "step-000020")
    assert (
        find_checkpoint(str(tiny / "step-000020"), trained, lambda text: None)
        == tiny / "step-000020"
    )


@pytest.mark.parametrize(
    "name", ["a b", ".hidden", "-x", "x" * 101, "é", "a:b", "*", "a\nb", "a\x00b"]
)
def test_a_bad_run_name_is_a_mistake_of_the_command_line(trained, name):
    with pytest.raises(SettingError) as found:
        find_run(name, trained)
    with pytest.raises(SettingError):
        new_run(name, trained)
    assert found.value.exit_code == 2


@pytest.mark.parametrize("name", ["con", "NUL", "aux.txt", "Com1", "lpt9.a.b", "run.", "a.."])
def test_a_new_run_has_a_name_that_every_system_allows(trained, name):
    with pytest.raises(SettingError):
        new_run(name, trained)
    free = free_name(name, trained)
    assert new_run(free, trained).name == free


@pytest.mark.parametrize("name", ["nothing", "./nothing", "/nowhere/at/all"])
def test_a_missing_run_is_a_failure(trained, name):
    with pytest.raises(CheckpointError) as found:
        find_run(name, trained)
    assert found.value.exit_code == 1 and (name != "nothing" or "tiny" in found.value.fix)


def test_a_new_run_takes_no_name_that_is_taken(trained):
    assert not new_run("other", trained).path.exists()
    with pytest.raises(CheckpointError, match="already exists"):
        new_run("tiny", trained)
    with pytest.raises(SettingError):
        new_run("step-000010", trained)


def test_the_newest_run_is_the_one_started_last(tmp_path):
    for name, started in (("a", "2024-05-01"), ("b", "2024-06-01"), ("c", "2024-04-01")):
        Run(tmp_path / name).write_info({"started_at": started})
    assert [run.name for run in list_runs(tmp_path)] == ["b", "a", "c"]


def test_a_run_without_a_checkpoint_is_passed_over(copy):
    Run(copy / "newer").write_info({"started_at": "9999"})
    assert find_checkpoint(None, copy, lambda text: None).parent.name == "tiny"


@given(st.text(max_size=80))
@settings(deadline=None, max_examples=100)
def test_a_free_name_is_always_a_plain_name(stem):
    name = free_name(stem, Path("/nowhere"))
    assert RUN_NAME.fullmatch(name) and new_run(name, Path("/nowhere")).name == name


def test_a_free_name_gets_a_number(trained, tmp_path):
    assert free_name("tiny", trained) == "tiny-2"
    assert free_name("tiny", tmp_path) == "tiny"


CONFIGS = {
    "not JSON": b"\xff{", "a list": b"[]", "deep": b'{"a":' * 100_000, "empty": b"{}", "foreign": b'{"model_type": "llama"}',
    "a list for a type": b'{"model_type": ["qwen3"]}', "no sizes": b'{"model_type": "qwen3"}',
}  # fmt: skip
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


def expect_typed_error(folder: Path, name: str, content: bytes) -> None:
    """Load a checkpoint whose manifest vouches for a hostile file."""
    (folder / name).write_bytes(content)
    (folder / "manifest.json").unlink()
    write_manifest(folder)
    with pytest.raises((CheckpointError, TokenizerError)):
        load_model(folder, CPU)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_hostile_json_file_is_one_typed_error(copy, name, kind):
    expect_typed_error(Run(copy / "tiny").best(), name, CONFIGS[kind])


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
def test_a_hostile_size_is_one_typed_error(copy, key):
    folder = Run(copy / "tiny").best()
    config = json.loads((folder / "config.json").read_text())
    for value in CONFIG_VALUES:
        expect_typed_error(folder, "config.json", json.dumps({**config, key: value}).encode())


@pytest.mark.parametrize("kind", TOKENIZER_CHANGES)
def test_a_hostile_tokenizer_is_one_typed_error(copy, kind):
    folder = Run(copy / "tiny").best()
    data = json.loads((folder / "tokenizer.json").read_text())
    TOKENIZER_CHANGES[kind](data)
    expect_typed_error(folder, "tokenizer.json", json.dumps(data).encode())


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00" * 8, b"\xff" * 64, b"\x10" + b"\x00" * 7 + b'{"a":{"dtype":1}}', b"PK\x03\x04"],
)
def test_garbage_for_weights_is_one_typed_error(copy, content):
    expect_typed_error(Run(copy / "tiny").best(), "model.safetensors", content)


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
def test_weights_that_do_not_fit_are_one_typed_error(copy, kind):
    folder = Run(copy / "tiny").best()
    state = safetensors.torch.load((folder / "model.safetensors").read_bytes())
    WEIGHT_CHANGES[kind](state, "model.embed_tokens.weight")
    expect_typed_error(folder, "model.safetensors", safetensors.torch.save(state))
