"""Settings: parsed, checked, and refused by name."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from conftest import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.config.model import ModelConfig
from simplellm.config.sampling import SamplingParams
from simplellm.config.setting import Setting, Settings, show
from simplellm.config.training import TrainConfig
from simplellm.errors import SettingError

CONFIGS = [ModelConfig, TrainConfig, SamplingParams]
OTHER_TYPES: dict[str, list[Any]] = {
    "int": [True, "1", 1.5, ""], "float": [True, "1", ""], "seconds": [True, "one", ""],
    "str": [True, 1, 1.5, "", "\0"],
    "texts": [True, 1, 1.5, "", [""]], "bool": [1, "on"],
}  # fmt: skip
of_each_config = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.title)


def numbers(config: type[Settings]) -> list[Setting]:
    return [item for item in config.settings() if item.kind in ("int", "float", "seconds")]


def limited(config: type[Settings]) -> list[Setting]:
    return [item for item in numbers(config) if item.maximum is not None]


@of_each_config
def test_a_default_is_allowed(config: type[Settings]) -> None:
    for item in config.settings():
        assert item.check(item.default) == item.default


@of_each_config
def test_a_default_can_be_typed(config: type[Settings]) -> None:
    for item in config.settings():
        typed = item.default[0] if item.kind == "texts" and item.default else show(item.default)
        assert item.kind == "texts" or item.parse(typed) == item.default


@of_each_config
def test_a_setting_has_a_range_a_help_a_default_and_a_flag(config: type[Settings]) -> None:
    for item in config.settings():
        assert item.range and item.help and item.default_text and item.flag.startswith("--")


@of_each_config
def test_a_limit_is_allowed_unless_it_is_open(config: type[Settings]) -> None:
    limits = [
        pair
        for item in numbers(config)
        for pair in (
            (item, item.minimum, item.open_minimum),
            (item, item.maximum, item.open_maximum),
        )
    ]
    for item, limit, is_open in limits:
        if limit is not None and is_open:
            with pytest.raises(SettingError):
                item.check(limit)
        elif limit is not None:
            assert item.check(limit) == limit


@of_each_config
def test_a_value_outside_the_range_is_refused_by_name(config: type[Settings]) -> None:
    for item in limited(config):
        for value in (item.minimum - 1, item.maximum + 1, math.inf, -math.inf, math.nan):
            with pytest.raises(SettingError, match=rf"^{item.name} ") as caught:
                config(**{item.name: value})
            assert caught.value.fix


@of_each_config
def test_a_value_of_another_type_is_refused_by_name(config: type[Settings]) -> None:
    never = [object(), {}, b"1", {"a": 1}, [1], 1j]
    for item in config.settings():
        for value in (*never, *OTHER_TYPES[item.kind], *([] if item.auto else [None])):
            with pytest.raises(SettingError, match=rf"^{item.name} is "):
                item.check(value)


@of_each_config
def test_a_number_too_large_for_a_float_is_refused_by_name(config: type[Settings]) -> None:
    for item in limited(config):
        for number in (10**400, -(10**400)):
            with pytest.raises(SettingError, match=rf"^{item.name} is "):
                item.check(number)


@pytest.mark.parametrize("digits", ["1" * 400, "1" * 5000, "-" + "1" * 400], ids=len)
@pytest.mark.parametrize("name", ["n_layer", "dropout"])
def test_a_number_of_many_digits_is_refused_by_name(name: str, digits: str) -> None:
    with pytest.raises(SettingError, match=rf"^{name} is "):
        ModelConfig.setting(name).parse(digits)


def test_a_refused_change_leaves_the_old_object_unchanged() -> None:
    params = SamplingParams(top_k=40)
    with pytest.raises(SettingError):
        replace(params, top_k=-1)
    assert params == SamplingParams(top_k=40)


def test_a_config_cannot_be_changed_in_place() -> None:
    with pytest.raises(FrozenInstanceError):
        SamplingParams().top_k = 3  # type: ignore[misc]


@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_survives_a_round_trip_through_a_mapping(config: type[Settings]) -> None:
    assert config.from_mapping(config().to_mapping()) == config()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("60s", 60),
        ("1.5m", 90),
        ("2h", 7200),
        ("90", 90),
        (" 10m ", 600),
        ("0.5s", 0.5),
        ("auto", None),
    ],
)
def test_a_duration_is_read_with_its_unit(text: str, seconds: float | None) -> None:
    assert TrainConfig.setting("budget").parse(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "-5s",
        "0s",
        "1e3",
        "60 s",
        "1d",
        "1h30m",
        "nan",
        "inf",
        "1.2.3",
        "６０s",
        "2年",
        "60S\n.",
    ],
)
def test_text_that_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match="^budget is a time such as 60s, 10m or 2h, got "):
        TrainConfig.setting("budget").parse(text)


@pytest.mark.parametrize(
    ("name", "text"),
    [("n_layer", "４"), ("dropout", "٠.٥"), ("n_layer", "४"), ("n_layer", "²"), ("seed", "𝟏")],
)
def test_only_ascii_digits_are_digits(name: str, text: str) -> None:
    owner = ModelConfig if name != "seed" else SamplingParams
    with pytest.raises(SettingError, match=f"^{name} "):
        owner.setting(name).parse(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("YES", True), ("on", True), ("1", True), ("off", False), ("No", False)],
)
def test_a_bool_setting_accepts_common_words(text: str, value: bool) -> None:
    assert Setting("lamp", "bool", False, "light").parse(text) is value


@pytest.mark.parametrize("text", ["", "2", "auto", "maybe"])
def test_a_bool_setting_refuses_other_words(text: str) -> None:
    with pytest.raises(SettingError, match="^lamp is true or false"):
        Setting("lamp", "bool", False, "light").parse(text)


@of_each_config
def test_auto_is_allowed_only_where_none_is(config: type[Settings]) -> None:
    for item in numbers(config):
        if item.auto:
            assert item.parse("auto") is None
        else:
            with pytest.raises(SettingError):
                item.parse("auto")


@settings(deadline=None, max_examples=examples(300))
@given(
    st.sampled_from(["modern", "gpt2"]), st.integers(2, 600), st.integers(1, 70),
    st.none() | st.integers(1, 70)
)  # fmt: skip
def test_following_the_suggested_fixes_gives_a_valid_model(
    architecture: str, n_embd: int, n_head: int, n_kv_head: int | None
) -> None:
    values = {
        "architecture": architecture,
        "n_embd": n_embd,
        "n_head": n_head,
        "n_kv_head": n_kv_head,
    }
    for _ in range(4):
        values = _fixed(values)
    assert ModelConfig(**values).n_embd >= n_embd


def _fixed(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with what the error said to do, if there was one."""
    try:
        ModelConfig(**values)
    except SettingError as error:
        flags = re.findall(r"--(n-[a-z-]+) (\d+)", error.fix)
        return values | (
            {name.replace("-", "_"): int(value) for name, value in flags} or {"n_kv_head": None}
        )
    return values


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"n_embd": 100, "n_head": 3}, "n_head has to divide n_embd, got 3 heads for 100"),
        ({"n_head": 4, "n_kv_head": 3}, "n_kv_head has to divide n_head, got 3 for 4 heads"),
        ({"architecture": "gpt2", "n_kv_head": 2}, "as many key heads as heads, got n_kv_head 2"),
        ({"n_embd": 12, "n_head": 4}, "even head size, got 12 / 4 = 3"),
    ],
)
def test_fields_that_do_not_fit_together_are_named(values: dict[str, Any], what: str) -> None:
    with pytest.raises(SettingError, match=re.escape(what)):
        ModelConfig(**values)


FORMER_NAMES = [
    pytest.param(config, alias, item, id=alias)
    for config in CONFIGS
    for item in config.settings()
    for alias in item.aliases
]


def test_the_former_names_of_settings_are_these() -> None:
    former = {alias: item.name for _, alias, item in (case.values for case in FORMER_NAMES)}
    assert former == {"min_learning_rate": "min_lr_ratio", "consistency": "r_drop"}


@pytest.mark.parametrize(("config", "alias", "item"), FORMER_NAMES)
def test_a_former_name_is_read_as_the_current_one(
    config: type[Settings], alias: str, item: Setting
) -> None:
    assert config.from_mapping({alias: 0.5}) == config.from_mapping({item.name: 0.5})
    assert alias not in config().to_mapping()


@pytest.mark.parametrize(("config", "alias", "item"), FORMER_NAMES)
def test_a_setting_given_by_both_its_names_is_refused(
    config: type[Settings], alias: str, item: Setting
) -> None:
    for names in ((alias, item.name), (item.name, alias)):
        with pytest.raises(SettingError, match=f"^{alias} is the former name of {item.name}") as e:
            config.from_mapping(dict.fromkeys(names, 0.5))
        assert e.value.fix == f"leave {alias} out"


def test_settings_do_not_import_torch_or_numpy() -> None:
    modules = "simplellm.config.model, simplellm.config.sampling, simplellm.config.toml"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
