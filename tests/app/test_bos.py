"""Models that expect a special token before each text (BOS), as Llama 3 does, in all commands."""

from __future__ import annotations

import json
import random
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import simplellm
from simplellm.app.cli import main
from simplellm.app.session import Session
from simplellm.checkpoint.export.export import ExportJob
from simplellm.checkpoint.export.exported_model import ExportedModel, source_of
from simplellm.checkpoint.step_folder import OpenedModel, open_model
from simplellm.config.model import ModelConfig
from simplellm.config.sampling import SamplingParams
from simplellm.data.prepared_corpus import find_prepared
from simplellm.data.tokenizer import Tokenizer
from simplellm.inference.sampler import Sampler
from simplellm.model.transformer import SimpleLLM
from tests.model_folders import BOS_TEXT, with_bos

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A model folder with random weights and such a tokenizer."""
    config = ModelConfig(
        architecture="llama", n_layer=2, n_head=2, n_embd=32, n_inner=48, block_size=64,
        vocab_size=tokenizer.vocab_size + 1, tie_embeddings=True,
    )  # fmt: skip
    network = SimpleLLM(config).init_weights(torch.Generator().manual_seed(1))
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(4)  # so that the tokens before have an effect
    model = ExportedModel("llama", source_of(network, with_bos(tokenizer), "llama"))
    folder = tmp_path_factory.mktemp("models") / "llama"
    ExportJob.of("hf", "f32", folder).write(model)
    return folder


@pytest.fixture(scope="module")
def opened(llama: Path) -> OpenedModel:
    return open_model(llama, CPU)


@pytest.fixture
def session(opened: OpenedModel, llama: Path) -> Session:
    params = SamplingParams(temperature=0, max_new_tokens=3)
    return Session(Sampler(opened.model, opened.tokenizer), llama, params, keeps_context=True)


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@torch.no_grad()
def logits_after(opened: OpenedModel, ids: list[int]) -> np.ndarray:
    return opened.model(torch.tensor([ids]))[0, -1].numpy()


# ---------------------------------------------------------------- prompts


def test_a_prompt_begins_with_bos(
    opened: OpenedModel, llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = opened.tokenizer
    ids = [tokenizer.vocab_size - 1, *tokenizer.encode("He was")]
    expected = logits_after(opened, ids)
    reply = answer(capsys, "generate", "--run", llama, "--prompt", "He was", "--max-new-tokens", 2)
    assert reply["prompt_tokens"] == len(ids)
    found = answer(capsys, "analyze", "--run", llama, "--prompt", "He was")["candidates"]
    probabilities = torch.from_numpy(expected).softmax(0)
    assert found[0]["token"] == int(expected.argmax())
    assert found[0]["probability"] == pytest.approx(float(probabilities.max()), rel=1e-4)
    model = simplellm.load(llama)
    assert model.next_tokens("He was")[0].token == int(expected.argmax())
    assert model.next_tokens("")[0].token == int(logits_after(opened, ids[:1]).argmax())


def test_a_text_cannot_contain_bos(opened: OpenedModel) -> None:
    bos = opened.tokenizer.vocab_size - 1
    assert opened.tokenizer.encode_prompt(BOS_TEXT).count(bos) == 1


def test_a_full_context_keeps_bos(opened: OpenedModel) -> None:
    sampler = Sampler(opened.model, opened.tokenizer)
    bos = opened.tokenizer.vocab_size - 1
    for length in (64, 65, 100, 300):
        ids = [bos, *range(10, 10 + length - 1)]
        kept = sampler.truncate(ids)
        assert kept[0] == bos and len(kept) <= 64
        assert kept[1:] == ids[len(ids) - len(kept) + 1 :] and len(kept) > 24
        without = sampler.truncate(ids[1:])
        assert without == ids[len(ids) - len(without) :]


def test_a_chat_has_one_bos_before_all_turns(session: Session) -> None:
    bos = session.sampler.tokenizer.vocab_size - 1
    for text in ("He was", "She was"):
        list(islice(reply := session.ask(text), 3))
        session.keep(reply)
        assert reply.reply.prompt_ids[0] == bos and reply.reply.prompt_ids.count(bos) == 1
    ids = session.ids_before_reply("And")
    assert ids[0] == bos and ids.count(bos) == 1
    assert session.n_context_tokens("And") == len(ids)
    long = session.ids_before_reply("He was a man. " * 200)
    assert long[0] == bos and len(long) <= session.sampler.block_size
    assert len(long) == session.context_limit + 1


# ---------------------------------------------------------------- texts


def test_bos_is_context_of_the_first_token_and_is_not_scored(
    opened: OpenedModel, llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "He was not a man to be trusted."
    (tmp_path / "text.txt").write_text(text)
    ids = opened.tokenizer.encode_prompt(text)
    with torch.no_grad():
        logits = opened.model(torch.tensor([ids[:-1]]))[0]
        loss = float(F.cross_entropy(logits, torch.tensor(ids[1:])))
    found = answer(capsys, "evaluate", "--run", llama, "--data", tmp_path / "text.txt")
    assert found["tokens"] == len(ids) - 1
    assert found["loss"] == pytest.approx(loss, rel=1e-5)
    assert simplellm.load(llama).evaluate(text).loss == pytest.approx(loss, rel=1e-5)


def test_each_document_begins_with_bos_and_only_its_end_is_scored(
    opened: OpenedModel, llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = opened.tokenizer
    bos, texts = tokenizer.vocab_size - 1, ["He was here.", "She was not."]
    lines = [json.dumps({"text": text}) for text in texts]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    first, second = map(tokenizer.encode, texts)
    ids = torch.tensor([bos, *first, tokenizer.end_of_text, bos, *second])
    with torch.no_grad():
        losses = F.cross_entropy(opened.model(ids[None, :-1])[0], ids[1:], reduction="none")
    scored = losses[ids[1:] != bos]
    found = answer(capsys, "evaluate", "--run", llama, "--data", tmp_path / "text.jsonl")
    assert found["tokens"] == len(first) + 1 + len(second)
    assert found["loss"] == pytest.approx(float(scored.mean()), rel=1e-5)


def test_training_sees_bos_before_each_document(
    llama: Path, story: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, draw = story.split(), random.Random(1)
    documents = [" ".join(draw.choices(words, k=150)) for _ in range(10)]  # none repeats another
    (tmp_path / "text.jsonl").write_text("\n".join(json.dumps({"text": d}) for d in documents))
    trained = answer(
        capsys, "train", tmp_path / "text.jsonl", "--from", llama, "--checkpoints", tmp_path,
        "--name", "tuned", "--max-steps", 1, "--block-size", 32, "--batch-size", 2,
        "--precision", "float32", "--device", "cpu",
    )  # fmt: skip
    folder = next((tmp_path / ".prepared").iterdir())
    prepared = find_prepared(folder)
    assert prepared is not None
    ids, bos = prepared.train_ids.tolist(), prepared.tokenizer.vocab_size - 1
    assert ids[0] == bos and prepared.val_ids[0] == bos
    begins = [index for index, token in enumerate(ids) if token == bos][1:]
    assert begins and all(ids[index - 1] == prepared.tokenizer.end_of_text for index in begins)
    texts = [text for text in prepared.train_documents() if text]
    assert len(texts) == len(begins) + 1 and texts[:-1] == documents[: len(begins)]
    saved = open_model(Path(trained["path"]), CPU).tokenizer
    assert saved.bos_ids == (bos,)
    held_out = [json.dumps({"text": text}) for text in prepared.val_documents()]
    (tmp_path / "held-out.jsonl").write_text("\n".join(held_out))
    again = answer(
        capsys, "evaluate", "--run", "tuned", "--checkpoints", tmp_path, "--data",
        tmp_path / "held-out.jsonl",
    )  # fmt: skip
    assert again["bits_per_byte"] == pytest.approx(trained["bits_per_byte"], rel=1e-3)


# ---------------------------------------------------------------- exports


def test_exports_keep_bos(llama: Path, tmp_path: Path) -> None:
    bos = open_model(llama, CPU).tokenizer.bos_ids
    pytest.importorskip("gguf")
    for format, name in (("gguf", "model.gguf"), ("hf", "folder")):
        out = tmp_path / name
        arguments = ["--run", str(llama), "--format", format, "--out", str(out)]
        assert main(["export", *arguments]) == 0
        assert open_model(out, CPU).tokenizer.bos_ids == bos
