"""Heads and widths that were not given follow those that were."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from simplellm.config.heads import fitted_shape
from simplellm.config.model import ModelConfig
from simplellm.config.recipe import choose

SHAPES = st.fixed_dictionaries(
    {}, optional={"n_kv_head": st.integers(1, 40), "n_head": st.integers(1, 40)}
)


@given(SHAPES, st.sampled_from([64, 128, 192, 256]), st.integers(1, 8))
def test_a_width_that_was_not_given_fits_any_heads(shape, n_embd, n_head) -> None:
    if shape.get("n_head", 0) % shape.get("n_kv_head", 1):
        del shape["n_head"]  # they do not fit together
    found = fitted_shape({"n_embd": n_embd, "n_head": n_head, **shape}, shape)
    config = ModelConfig(**{**shape, **found})
    assert n_embd <= config.n_embd < n_embd + 2 * config.n_head


@given(st.integers(1, 300).map(lambda half: 2 * half), st.integers(1, 16))
def test_heads_that_were_not_given_fit_any_even_width(n_embd, n_head) -> None:
    found = fitted_shape({"n_embd": n_embd, "n_head": n_head}, {"n_embd": n_embd})
    assert ModelConfig(**found).n_embd == n_embd and found["n_head"] <= n_head


def test_a_shape_that_fits_stays() -> None:
    for n_embd, n_head in ((128, 2), (192, 3), (256, 4)):
        shape = {"n_embd": n_embd, "n_head": n_head}
        assert fitted_shape(shape, {}) == shape
    odd = {"n_embd": 128, "n_head": 128, "architecture": "gpt2"}
    assert fitted_shape(odd, {"n_head": 128})["n_embd"] == 128


def test_train_takes_key_heads_alone() -> None:
    model, _ = choose(24_000, {"n_kv_head": 3})
    assert (model.n_kv_head, model.n_head % 3, model.n_embd) == (3, 0, 132)
