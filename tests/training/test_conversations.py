"""Trainings on conversations: the replies are learned, and everything else works as with texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import STORY
from data.made_up_chats import ANSWERS, ENDINGS, TOPICS, whatsapp_export
from training.small_runs import digests, training_context

import simplellm
from simplellm.app.cli import main
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.run_log import read_log
from simplellm.checkpoint.step_folder import open_model
from simplellm.config.training import TrainConfig
from simplellm.data.chat_template import CHATML, IM_END
from simplellm.data.conversations.conversation import ASSISTANT, USER, Conversation, Turn
from simplellm.data.conversations.options import ReadOptions
from simplellm.data.conversations.split import Split
from simplellm.data.prepared_conversations import ChatData, new_tokenizer
from simplellm.data.prepared_corpus import PREPARED_FOLDER, find_prepared
from simplellm.errors import CheckpointError, SettingError, TextError
from simplellm.training import base_choice
from simplellm.training.base_choice import Choice, choose_start
from simplellm.training.chat_setup import grown_weights
from simplellm.training.preparation import prepare_run
from simplellm.training.resume import resume
from simplellm.training.resume_sources import NamedSources
from simplellm.training.sources import Sources
from simplellm.training.start import start

SETTINGS: dict[str, Any] = {
    "n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 48, "vocab_size": 300, "batch_size": 2,
    "max_steps": 4, "eval_interval": 2, "precision": "float32",
}  # fmt: skip
COLOURS = ("red", "green", "blue", "yellow", "black", "white", "brown", "grey", "pink", "gold")


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    lines = [
        {"messages": [
            {"role": "user", "content": f"Which colour is thing {number}?"},
            {"role": "assistant", "content": f"It is {colour}."},
            {"role": "user", "content": f"Really {colour}?"},
            {"role": "assistant", "content": f"Yes, {colour}."},
        ]}
        for number, colour in enumerate(COLOURS)
    ]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture(scope="module")
def run(chats: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("runs")
    start(Sources((str(chats),)), SETTINGS, "bot", training_context(folder))
    return RunFolder(folder / "bot")


def last_evaluation(run: RunFolder) -> dict[str, Any]:
    return [record for record in read_log(run.log_path) if record["kind"] == "evaluation"][-1]


def test_a_checkpoint_has_the_template_and_ends_its_replies(run: RunFolder) -> None:
    opened = open_model(run.last(), torch.device("cpu"))
    end = opened.tokenizer.special_tokens[IM_END]
    assert opened.generation.chat_template == CHATML and opened.generation.eos_ids == (end,)
    assert json.loads((run.last() / "tokenizer_config.json").read_text())["eos_token"] == IM_END
    assert opened.model.config.vocab_size == opened.tokenizer.vocab_size <= 300


def test_run_json_records_what_was_read(run: RunFolder, chats: Path) -> None:
    facts = run.read_info()
    assert facts["conversations"]["format"] == "messages"
    assert facts["conversations"]["train"] + facts["conversations"]["held_out"] == 10
    assert facts["files"][0]["format"] == "messages" and facts["texts"] == [str(chats)]


def test_a_resumed_training_gives_the_same_weights(
    run: RunFolder, chats: Path, tmp_path: Path
) -> None:
    start(Sources((str(chats),)), SETTINGS, "bot", training_context(tmp_path, stop_after=3))
    again = RunFolder(tmp_path / "bot")
    assert again.last().name == "step-000003"
    resume(again, {}, training_context(tmp_path))
    assert digests(again) == digests(run)


def test_the_best_checkpoint_of_a_bot_has_the_best_accuracy_on_replies(run: RunFolder) -> None:
    evaluations = [one for one in read_log(run.log_path) if one["kind"] == "evaluation"]
    best = max(one["accuracy"] + one["train_accuracy"] for one in evaluations)
    pointer = json.loads((run.path / "best.json").read_text())
    assert all(0 <= one["train_accuracy"] <= 1 for one in evaluations)
    assert pointer["accuracy"] + pointer["train_accuracy"] == pytest.approx(best)


def test_micro_steps_change_nothing_but_rounding(chats: Path, tmp_path: Path) -> None:
    """The mean is over all replies of the step, however many a micro step has."""
    losses = []
    for accumulation in (1, 4):
        settings = {**SETTINGS, "batch_size": 4 // accumulation, "dropout": 0.0,
                    "gradient_accumulation": accumulation}  # fmt: skip
        folder = RunFolder(tmp_path / f"a{accumulation}")
        trainer, _ = prepare_run(
            Sources((str(chats),)), settings, folder, training_context(tmp_path)
        )
        trainer.train_step()
        losses.append((trainer.loss, trainer.gradient_norm))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_evaluate_gives_the_figures_of_the_training(
    run: RunFolder, chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out = Sources((str(chats),)).read(0.1).conversations
    assert held_out is not None
    path = tmp_path / "val.jsonl"
    turns = [
        [{"role": t.role, "content": t.text} for t in c.turns] for c in held_out.split.held_out
    ]
    path.write_text("\n".join(json.dumps({"messages": one}) for one in turns))
    capsys.readouterr()
    arguments = ["evaluate", "--data", str(path), "--run", str(run.last()), "--json"]
    assert main([*arguments, "--device", "cpu"]) == 0
    figures, trained = json.loads(capsys.readouterr().out), last_evaluation(run)
    assert figures["loss"] == pytest.approx(trained["loss"], rel=1e-6)
    assert figures["bits_per_byte"] == pytest.approx(trained["bits_per_byte"], rel=1e-6)
    replies = [turn.text for one in held_out.split.held_out for turn in one.replies]
    assert figures["bytes"] == sum(map(len, replies)) and figures["replies"] == len(replies)
    assert 0 <= figures["exact_match"] <= figures["exact_match_any"] <= 1


def test_texts_and_conversations_are_reported_apart(chats: Path, tmp_path: Path) -> None:
    start(Sources((str(STORY), str(chats))), SETTINGS, "mixed", training_context(tmp_path))
    mixed = RunFolder(tmp_path / "mixed")
    record = last_evaluation(mixed)
    assert record["text_loss"] > 0 and record["text_loss"] != record["loss"]
    assert [file.get("format") for file in mixed.read_info()["files"]] == [None, "messages"]
    before = digests(mixed)
    start(Sources((str(STORY), str(chats))), SETTINGS, "half", training_context(tmp_path, 2))
    resume(RunFolder(tmp_path / "half"), {}, training_context(tmp_path))
    assert digests(RunFolder(tmp_path / "half")) == before


def test_a_text_model_gets_the_tokens_of_chatml(chats: Path, tmp_path: Path) -> None:
    context = training_context(tmp_path)
    start(Sources((str(STORY),)), {**SETTINGS, "max_steps": 1}, "text", context)
    base = RunFolder(tmp_path / "text").best()
    old = open_model(base, torch.device("cpu"))
    start(Sources((str(chats),)), {"max_steps": 2, "batch_size": 2}, "bot", context, base)
    new = open_model(RunFolder(tmp_path / "bot").last(), torch.device("cpu"))
    n_tokens = old.tokenizer.vocab_size
    assert new.tokenizer.special_tokens[IM_END] == n_tokens + 1
    assert new.model.config.vocab_size == old.model.config.vocab_size + 2
    weights = grown_weights(old.model, n_tokens, n_tokens + 2)
    rows = weights["token_embedding.weight"]
    mean = old.model.token_embedding.weight.detach().mean(0)
    torch.testing.assert_close(rows[n_tokens:], mean.expand(2, -1))
    assert torch.equal(rows[:n_tokens], old.model.token_embedding.weight.detach())


def test_the_tokenizer_never_sees_held_out_conversations() -> None:
    def said(text: str) -> Conversation:
        return Conversation((Turn(USER, "Hello"), Turn(ASSISTANT, text)), "here")

    train = (said("Good morning, good morning"),)
    fingerprints = {
        new_tokenizer(ChatData(Split(train, (said(held_out),))), 300).fingerprint
        for held_out in ("Nothing", "zqzqzq " * 50)
    }
    assert len(fingerprints) == 1


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (NamedSources(reading=ReadOptions(format="text")), "--format text"),
        (NamedSources(reading=ReadOptions(me="유나")), "--me"),
        (NamedSources(reading=ReadOptions(gap_seconds=60.0)), "--gap"),
    ],
)
def test_a_resumed_run_reads_conversations_as_before(
    run: RunFolder, named: NamedSources, message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        resume(run, {}, training_context(run.path.parent), named=named)


def test_changed_conversations_are_refused(chats: Path, tmp_path: Path) -> None:
    copy = tmp_path / "chats.jsonl"
    copy.write_text(chats.read_text())
    start(Sources((str(copy),)), SETTINGS, "bot", training_context(tmp_path, stop_after=2))
    copy.write_text(chats.read_text().replace("red", "violet"))
    with pytest.raises(CheckpointError, match="the text changed"):
        resume(RunFolder(tmp_path / "bot"), {}, training_context(tmp_path))


@pytest.mark.parametrize("name", ["bpe_dropout", "renaming", "token_noise", "stride"])
def test_a_setting_that_conversations_do_not_use_is_refused(
    name: str, chats: Path, tmp_path: Path
) -> None:
    value = 3 if name == "stride" else 0.5
    with pytest.raises(SettingError, match=f"{name} has no effect on conversations"):
        start(Sources((str(chats),)), {**SETTINGS, name: value}, "x", training_context(tmp_path))


def test_a_name_of_who_replies_is_refused_for_texts(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="is read as a text") as caught:
        Sources((str(STORY),), reading=ReadOptions(me="유나")).read(0.1)
    assert "--format whatsapp" in caught.value.fix


def test_an_empty_text_beside_conversations_is_named_alone(chats: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(TextError) as caught:
        Sources((str(chats), str(tmp_path / "empty.txt"))).read(0.1)
    assert "empty.txt" in str(caught.value) and "chats.jsonl" not in str(caught.value)


def test_a_prompt_weight_is_refused_for_texts(tmp_path: Path) -> None:
    settings = {**SETTINGS, "prompt_weight": 0.5}
    with pytest.raises(SettingError, match="prompt_weight has no effect on texts"):
        start(Sources((str(STORY),)), settings, "x", training_context(tmp_path))
    assert TrainConfig().prompt_weight == 0


def test_validation_data_are_of_the_kind_of_the_training_data(chats: Path, tmp_path: Path) -> None:
    for texts, val in ((chats, STORY), (STORY, chats)):
        with pytest.raises(SettingError, match="conversations"):
            Sources((str(texts),), str(val)).read(0.1)
    with pytest.raises(TextError, match="also in the validation data"):
        Sources((str(chats),), str(chats)).read(0.1)


# ---------------------------------------------------------------- a chat of two people


def trained_on_chat(folder: Path, n_messages: int, **settings: Any) -> RunFolder:
    """A run that was trained on a made-up export, in which 유나 replies."""
    (folder / "chat.txt").write_text(whatsapp_export(n_messages), encoding="utf-8")
    sources = Sources((str(folder / "chat.txt"),), reading=ReadOptions(me=ANSWERS))
    start(sources, {**SETTINGS, "eval_interval": 1000, **settings}, "bot", training_context(folder))
    return RunFolder(folder / "bot")


def test_an_exported_chat_teaches_the_messages_of_me_only(tmp_path: Path) -> None:
    run = trained_on_chat(tmp_path, 60, max_steps=2)
    facts = run.read_info()
    assert facts["me"] == ANSWERS and facts["conversations"]["format"] == "whatsapp"
    prepared = find_prepared(tmp_path / PREPARED_FOLDER / facts["prepared"])
    assert prepared is not None and prepared.marks is not None
    train, tokenizer = prepared.marks.train, prepared.tokenizer
    learned = tokenizer.decode(train.ids[train.is_learned].tolist())
    others = tokenizer.decode(train.ids[~train.is_learned].tolist())
    assert any(ending in learned for ending in ENDINGS)
    assert not any(question in learned for question in TOPICS)
    assert not any(answer in others for answers in TOPICS.values() for answer in answers)


@pytest.mark.slow
def test_a_bot_of_an_exported_chat_answers_in_the_style_of_me(tmp_path: Path) -> None:
    """After 60 steps; a model with as few weights as this one needs no more."""
    shape = {"n_layer": 2, "n_embd": 64, "block_size": 64, "vocab_size": 400, "batch_size": 16}
    run = trained_on_chat(tmp_path, 200, max_steps=60, induction=False, **shape)
    model = simplellm.load(str(run.path), device="cpu")
    for question, answers in TOPICS.items():
        message = [{"role": "user", "content": question}]
        reply = model.chat(message, temperature=0.0, max_new_tokens=40)
        assert reply.startswith(answers) and reply.endswith(ENDINGS)


# ---------------------------------------------------------------- the start that is chosen


@pytest.mark.parametrize(
    ("budget", "speed", "is_base"), [(0.2, 1.0, False), (60.0, 1.0, True), (60.0, 0.001, False)]
)
def test_the_base_learns_conversations_only_where_the_budget_is_long_enough(
    budget: float, speed: float, is_base: bool, chats: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """By the words of the conversations the base would be chosen."""
    monkeypatch.setattr(base_choice, "is_present", lambda: True)
    monkeypatch.setattr(base_choice, "_choice", lambda *_: Choice(None, "the base"))
    notices: list[str] = []
    context = training_context(tmp_path, notice=notices.append)
    corpora = Sources((str(chats),)).read(0.1)
    choose_start(corpora, TrainConfig(budget=budget), {}, context, speed)
    assert (notices == ["the base"]) is is_base
    assert is_base or "not the base model" in notices[0]
