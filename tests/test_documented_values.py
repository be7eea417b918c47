"""Every value that docs/settings.md and docs/chat.md name works as it stands, tried once.

The values are read from the generated tables: ends of ranges, choices, defaults, `auto`, and
examples such as `60s`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from simplellm.app import parser
from simplellm.app.commands.registry import COMMANDS, dispatch
from simplellm.app.commands.settings import COMMAND_SETTINGS
from simplellm.app.parser import parse
from simplellm.app.session import Session
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.step_folder import load_model
from simplellm.config.model import ModelConfig
from simplellm.config.recipe import choose
from simplellm.config.sampling import SamplingParams
from simplellm.config.setting import Setting
from simplellm.config.toml import read_toml
from simplellm.config.training import TrainConfig
from simplellm.data.conversations.options import FORMAT_NAMES
from simplellm.errors import SettingError
from simplellm.evaluation.bench_model import bench_model
from simplellm.inference.beams import reply_to
from simplellm.inference.sampler import Sampler

DOCS = Path(__file__).resolve().parents[1] / "docs"
CONFIGS = {"model": ModelConfig, "training": TrainConfig, "sampling": SamplingParams}
INSIDE = 1e-3  # distance of a value from an end of its range that is not allowed itself
MOST_RUN = 64  # larger numbers of blocks, heads, ... are checked, but not computed with
Row = tuple[str, str, str]  # name of a setting, and one documented value; and its group


def table_rows(block: str) -> Iterator[list[str]]:
    """The cells of a generated table, without its two header lines."""
    text = (DOCS / "settings.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- {block}: .*?-->\n(.*?)<!-- end -->", text, re.DOTALL)
    assert found is not None
    for line in found[1].splitlines()[2:]:
        cells = re.split(r"(?<!\\)\|", line.strip("|"))
        yield [cell.strip().replace("\\|", "|").replace("`", "") for cell in cells]


def documented_settings() -> Iterator[Row]:
    group = ""
    for name, default, range_, meaning in table_rows("settings"):
        if name.startswith("**"):
            group = name.strip("*")
            continue
        for value in values_of(CONFIGS[group].setting(name), default, range_, meaning):
            yield group, name, value


def values_of(setting: Setting, default: str, range_: str, meaning: str) -> list[str]:
    """The values that one row of the table names."""
    found = ["auto"] if setting.auto else [default] if default != "none" else []
    found += re.findall(r"\b\d+[smh]\b", meaning)
    if setting.choices or setting.kind == "bool":
        found += re.split(r", | or ", range_)
    elif number := re.fullmatch(
        r"(over )?([\d.e+-]+)(?: or more| to (under )?([\d.e+-]+))?", range_
    ):
        low, high = float(number[2]), number[4] and float(number[4])
        found.append(f"{low + INSIDE if number[1] else low:g}")
        if high:
            found.append(str(high - INSIDE) if number[3] else number[4])
    return list(dict.fromkeys(found))


ROWS = list(documented_settings())
FLAG_ROWS = [row for row in ROWS if row[0] != "sampling"]
FLAG_VALUES = {
    (group, name): [value for *row, value in FLAG_ROWS if row == [group, name]]
    for group, name, _ in FLAG_ROWS
}
SAMPLING_ROWS = [row for row in ROWS if row[0] == "sampling"]


def flag(name: str, value: str) -> list[str]:
    return [f"--{name.replace('_', '-')}", value]


def test_the_tables_name_values_of_every_setting() -> None:
    known = {name for config in CONFIGS.values() for name in config.names()}
    assert {name for _, name, _ in ROWS} >= known - {"stop"}
    assert ("training", "budget", "10m") in ROWS and ("model", "n_kv_head", "auto") in ROWS


@pytest.mark.parametrize(("group", "name"), FLAG_VALUES)
def test_every_documented_value_is_a_flag_of_train_sweep_and_bench(group, name) -> None:
    for value in FLAG_VALUES[group, name]:
        expected = CONFIGS[group].setting(name).parse(value)
        train = parse(["train", "x.txt", *flag(name, value)])
        assert train.settings[name] == expected
        bench = parse(["bench", "train", *flag(name, value)])
        assert bench.settings[name] == expected
        assert parse(["sweep", *flag(name, value)]).grid[name] == [expected]


def test_a_switch_of_a_sweep_may_also_stand_alone() -> None:
    options = parse(["sweep", "--overfit", "x.txt", "--no-induction", "--compile", "auto,off"])
    assert options.texts == ("x.txt",)
    assert options.grid == {"overfit": [True], "induction": [False], "compile": ["auto", "off"]}
    assert parse(["sweep", "x.txt", "--overfit"]).grid == {"overfit": [True]}
    assert parse(["sweep", "--overfit", "ON,off", "x.txt"]).grid == {"overfit": [True, False]}


def test_the_seed_of_a_training_may_be_auto() -> None:
    assert "seed" not in parse(["train", "x.txt", "--seed", "auto"]).settings
    assert parse(["generate", "--prompt", "x", "--seed", "auto"]).sampling["seed"] is None


@pytest.mark.parametrize(("group", "name"), FLAG_VALUES)
def test_every_documented_value_is_a_value_in_a_toml_file(group, name, tmp_path) -> None:
    setting = CONFIGS[group].setting(name)
    for value in FLAG_VALUES[group, name]:
        is_number = setting.kind in ("int", "float") and value != "auto"
        (tmp_path / "c.toml").write_text(f"{name} = {value if is_number else repr(value)}\n")
        read = read_toml(tmp_path / "c.toml")
        assert setting.check(read[name]) == setting.parse(value)


@pytest.mark.parametrize(("group", "name"), FLAG_VALUES)
def test_every_documented_value_works_alone_in_the_recipe(group, name) -> None:
    for value in FLAG_VALUES[group, name]:
        parsed = CONFIGS[group].setting(name).parse(value)
        given = {name: parsed}
        if name == "freeze" and parsed:
            given["n_layer"] = parsed  # it is a number of blocks that there are
        if name == "r_drop" and parsed:
            given["dropout"] = 0.1
        base = None
        if name.startswith("lora"):
            base = ModelConfig(n_embd=1024, n_head=16)  # as large as the highest rank
            given = {"lora": 1, **given} if name != "lora" else given
        model, train = choose(20_000, given, base)
        assert getattr(model if group == "model" else train, name) == parsed or parsed is None


@pytest.mark.parametrize("name", ModelConfig.names())
def test_every_documented_shape_works_alone_in_a_benchmark(name: str) -> None:
    values = [value for _, other, value in FLAG_ROWS if other == name]
    assert values
    for value in values:
        parsed = ModelConfig.setting(name).parse(value)
        config = bench_model({name: parsed}, {})
        assert getattr(config, name) == parsed


# ---------------------------------------------------------------- sampling


@pytest.fixture(scope="module")
def sampler(trained: Path) -> Sampler:
    return Sampler(*load_model(RunFolder(trained / "tiny").best(), torch.device("cpu")))


def session_of(sampler: Sampler) -> Session:
    params = SamplingParams(max_new_tokens=2, seed=3)
    return Session(sampler, Path("tiny"), params, {"run": "tiny"}, params)


@pytest.mark.parametrize(("group", "name", "value"), SAMPLING_ROWS)
def test_every_documented_sampling_value_is_a_flag_and_a_chat_setting(
    sampler, group, name, value
) -> None:
    expected = SamplingParams.setting(name).parse(value)
    needs = {"chat": [], "generate": ["--prompt", "x"], "analyze": ["--prompt", "x"]}
    for command, more in needs.items():
        sampling = parse([command, *more, *flag(name, value)]).sampling
        assert sampling.get(name) == expected
    commands = [f"/set {name} {value}"]
    commands += [f"/{word} {value}" for word, own in COMMAND_SETTINGS.items() if own == name]
    for command in commands:
        session = session_of(sampler)
        dispatch(session, command)
        assert getattr(session.params, name) == expected
    if not isinstance(expected, int) or expected <= MOST_RUN or name in ("seed", "top_k"):
        reply = reply_to(sampler, sampler.encode("The"), session.params)
        list(reply)
        assert len(reply.new_ids) <= session.params.max_new_tokens


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_offered_argument_of_a_command_is_accepted(sampler, command) -> None:
    for value in command.values:
        session = session_of(sampler)
        own = [text for _, name, text in SAMPLING_ROWS if name == value and text != "auto"]
        small = [text for text in own if len(text) <= 4] or ["'.'", "','"]
        values = {"set": small[:1], "compare": [*small, *small][:2]}.get(command.name, [])
        words = [f"/{command.name}", value, *values]
        if words == ["/mode", "chat"]:  # of a model with a template, see test_chat_mode.py
            with pytest.raises(SettingError, match="no chat template"):
                dispatch(session, "/mode chat")
            continue
        shown = dispatch(session, " ".join(words))
        assert shown is not None or command.name == "quit", words


# ---------------------------------------------------------------- flags with values of their own


EXAMPLES = {  # flags whose documentation names several values
    "--track": ["tensorboard", "wandb", "tensorboard,wandb"],
    "--max-bad-share": ["0", "0.1", "1"],
    "--context": ["2", "4096"],
    "--chart": ["a.svg", "a.html", "a.png"],
    "--save": ["a.svg", "a.html", "a.png"],
    "--prompt": ["text", "-"],
    "--format": [*FORMAT_NAMES],
    "--gap": ["8h", "30m", "2d", "90s"],
}


COMPANIONS = {  # flags that belong to another one, as their help says
    "--max-bad-share": ["--skip-bad"],
    "--yes": ["--prune"],
    "--accept-changes": ["--resume"],
}


def documented_flags() -> Iterator[tuple[str, str, str]]:
    """Command, flag and one value of each flag that is no setting; empty without a value."""
    rows = [("chat", *row) for row in table_rows("common flags")]
    for command, usage, _ in [*rows, *table_rows("command flags")]:
        name, _, value = usage.partition(" ")
        choices = value.split("|") if value == value.lower() else []
        for example in choices or EXAMPLES.get(name, ["1"]):
            yield command, name, example if value else ""


def required_words(command: str, name: str) -> list[str]:
    """The shortest arguments that a command needs besides the flag `name`."""
    words: list[str] = []
    for action in parser.build_parser().commands[command]._actions:
        if action.required and name not in action.option_strings:
            value = next(iter(action.choices), "x") if action.choices else "x"
            words += [*action.option_strings[:1], value]
    for group in parser.build_parser().commands[command]._mutually_exclusive_groups:
        flags = [flag for action in group._group_actions for flag in action.option_strings]
        if group.required and name not in flags:
            words += [flags[0], "x"]
    return words


@pytest.mark.parametrize("command", sorted({command for command, _, _ in documented_flags()}))
def test_every_documented_value_of_a_flag_is_accepted(command) -> None:
    for _, name, value in (row for row in documented_flags() if row[0] == command):
        words = [*required_words(command, name), *COMPANIONS.get(name, [])]
        arguments = (command, *words, name, *([value] if value else []))
        assert parse(arguments).arguments == arguments
