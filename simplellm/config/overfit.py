"""What the setting `overfit` switches off, for new models and in fine-tuning."""

from __future__ import annotations

from typing import Any

OVERFIT: dict[str, Any] = {  # nothing keeps a model from memorising the text
    "dropout": 0.0,
    "r_drop": 0.0,
    "bpe_dropout": 0.0,
    "renaming": 0.0,
    "token_noise": 0.0,
    "composition": 0.0,
    "label_smoothing": 0.0,
    "weight_decay": 0.0,
    "ema_decay": 0.0,  # an average of weights hides how far the last ones have gone
    "patience": 0,
    "max_epochs": None,
}
