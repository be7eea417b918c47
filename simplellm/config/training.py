"""Settings of training: flags of `train`, `sweep`, `bench`, keys of [training] in a TOML file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from simplellm.config.setting import Settings, setting
from simplellm.errors import SettingError


@dataclass(frozen=True)
class TrainConfig(Settings):
    """How long a model is trained, on what batches, and with which loss, optimizer and schedule."""

    title: ClassVar[str] = "training"

    budget: float | None = setting(
        "seconds",
        None,
        "wall time for the whole training, such as 60s, 10m or 2h; suspensions do not count",
        minimum=0,
        open_minimum=True,
        maximum=31_536_000,
        auto="60s where max_steps is not given",
    )
    max_steps: int | None = setting(
        "int",
        None,
        "optimizer updates",
        minimum=1,
        maximum=1_000_000_000,
        auto="as many as fit the budget",
    )
    max_epochs: float | None = setting(
        "float",
        None,
        "maximum number of passes over the text",
        minimum=0,
        open_minimum=True,
        maximum=1_000_000,
        auto="no limit",
    )
    batch_size: int = setting("int", 32, "blocks in one micro step", minimum=1, maximum=1_000_000)
    gradient_accumulation: int = setting(
        "int", 1, "micro steps in one step", minimum=1, maximum=1_000_000
    )
    stride: int | None = setting(
        "int",
        None,
        "tokens from the start of one block to the next; blocks overlap below block_size",
        minimum=1,
        maximum=1_048_576,
        auto="block_size",
    )
    tokenizer: str = setting(
        "str", "bpe", "bpe (trained on your text) or gpt2", choices=("bpe", "gpt2")
    )
    bpe_dropout: float = setting(
        "float",
        0.0,
        "share of BPE merges skipped, at random in each epoch; falls to 0 in the second half",
        minimum=0,
        maximum=1,
        open_maximum=True,
    )
    renaming: float = setting(
        "float",
        0.0,
        "share of the names in a passage replaced by other names, at random in each epoch",
        minimum=0,
        maximum=1,
    )
    token_noise: float = setting(
        "float",
        0.0,
        "share of input tokens replaced by random tokens of the text",
        minimum=0,
        maximum=1,
        open_maximum=True,
    )
    induction: bool = setting(
        "bool", False, "initialize two attention heads so that they copy from the context"
    )
    composition: float = setting(
        "float",
        0.0,
        "weight of the embeddings of a token's parts in its own embedding; 0 is off",
        minimum=0,
        maximum=10,
    )
    label_smoothing: float = setting(
        "float",
        0.0,
        "share of each target spread over the whole vocabulary",
        minimum=0,
        maximum=1,
        open_maximum=True,
    )
    r_drop: float = setting(
        "float",
        0.0,
        "R-Drop: weight of the divergence between two passes with different dropout; 0 is one pass",
        minimum=0,
        maximum=100,
        aliases=("consistency",),
    )
    prompt_weight: float = setting(
        "float",
        0.0,
        "of conversations: weight of what is no reply in the loss; a reply has 1",
        minimum=0,
        maximum=1,
    )
    val_fraction: float = setting(
        "float",
        0.1,
        "last part of the text, and share of the conversations, held out for validation",
        minimum=0,
        open_minimum=True,
        maximum=0.9,
    )
    overfit: bool = setting(
        "bool",
        False,
        "show overfitting: switch all regularization off, and never stop early",
    )
    optimizer: str = setting(
        "str", "muon", "muon (matrices; AdamW for the rest) or adamw", choices=("muon", "adamw")
    )
    learning_rate: float = setting(
        "float", 3e-3, "peak learning rate of AdamW", minimum=0, open_minimum=True, maximum=10
    )
    muon_learning_rate: float = setting(
        "float", 0.02, "peak learning rate of Muon", minimum=0, open_minimum=True, maximum=10
    )
    weight_decay: float = setting(
        "float", 0.1, "weight decay of the matrices", minimum=0, maximum=10
    )
    beta1: float = setting(
        "float",
        0.9,
        "AdamW's decay of the mean gradient",
        minimum=0,
        maximum=1,
        open_maximum=True,
    )
    beta2: float = setting(
        "float",
        0.99,
        "AdamW's decay of the mean squared gradient",
        minimum=0,
        maximum=1,
        open_maximum=True,
    )
    grad_clip: float = setting(
        "float", 1.0, "maximum gradient norm; 0 is no limit", minimum=0, maximum=1_000_000
    )
    warmup_steps: int | None = setting(
        "int",
        None,
        "steps over which the learning rate rises to its peak",
        minimum=0,
        maximum=1_000_000_000,
        auto="2% of the steps",
    )
    schedule: str = setting(
        "str",
        "linear",
        "how the learning rate falls after the warm-up",
        choices=("linear", "cosine", "constant", "wsd", "noam"),
    )
    min_lr_ratio: float = setting(
        "float",
        0.0,
        "final learning rate as a share of the peak",
        minimum=0,
        maximum=1,
        aliases=("min_learning_rate",),
    )
    ema_decay: float = setting(
        "float",
        0.0,
        "decay of the exponential moving average of the weights; 0 is off",
        minimum=0,
        maximum=1,
        open_maximum=True,
    )
    eval_interval: int | None = setting(
        "int",
        None,
        "steps between evaluations",
        minimum=1,
        maximum=1_000_000_000,
        auto="about 20 in a run",
    )
    eval_tokens: int = setting(
        "int",
        20_000,
        "validation tokens scored at each evaluation except the last",
        minimum=64,
        maximum=1_000_000_000,
    )
    patience: int = setting(
        "int",
        0,
        "evaluations without a new best after which training ends; 0 is never",
        minimum=0,
        maximum=1_000_000,
    )
    log_interval: int = setting(
        "int", 10, "steps between lines of the log", minimum=1, maximum=1_000_000_000
    )
    seed: int = setting("int", 1337, "seed of all random numbers", minimum=0, maximum=2**63 - 1)
    gradient_checkpointing: bool = setting(
        "bool", False, "recompute activations in the backward pass: less memory, more time"
    )
    compile: str = setting(
        "str",
        "auto",
        "torch.compile; auto uses it where it makes a long run faster",
        choices=("auto", "on", "off"),
    )
    log_gradients: bool = setting("bool", False, "log the gradient norm of every layer")
    freeze: int = setting(
        "int",
        0,
        "number of first blocks that are not trained; over 0 also freezes the embeddings",
        minimum=0,
        maximum=1000,
    )
    lora: int = setting(
        "int",
        0,
        "rank of the LoRA adapters that are trained instead of the model's weights; 0 is none",
        minimum=0,
        maximum=1024,
    )
    lora_alpha: float | None = setting(
        "float",
        None,
        "strength of the adapters: they are multiplied by lora_alpha / lora",
        minimum=0,
        open_minimum=True,
        maximum=1_000_000,
        auto="2 x lora",
    )
    lora_dropout: float = setting(
        "float",
        0.0,
        "share of the inputs of the adapters set to zero in a training step",
        minimum=0,
        maximum=1,
        open_maximum=True,
    )
    lora_targets: str = setting(
        "str", "all", "matrices that get adapters: all, or names such as q_proj,v_proj"
    )
    precision: str = setting(
        "str",
        "auto",
        "number format of the matrix products",
        choices=("auto", "float32", "bf16", "fp16"),
    )

    def check_fit(self) -> None:
        """SettingError where a setting contradicts `lora`, or belongs to it and it is off."""
        if self.lora:
            self._check_lora()
            return
        for name in ("lora_alpha", "lora_dropout", "lora_targets"):
            if getattr(self, name) != self.setting(name).default:
                raise SettingError(
                    f"{name} belongs to lora, got it without", fix="add --lora 8, or leave it out"
                )

    def _check_lora(self) -> None:
        if self.freeze:
            raise SettingError(
                f"with lora all weights of the model are frozen, got freeze {self.freeze}",
                fix="leave --freeze out",
            )
        if self.optimizer != "adamw":
            raise SettingError(
                f"adapters are trained with adamw, got optimizer {self.optimizer}",
                fix="leave --optimizer out",
            )
