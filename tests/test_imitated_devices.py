"""All commands on an imitated Apple GPU and an imitated CUDA card, without hidden synchronizations.

Commands run in this process through `main`. imitation.py describes what is checked.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import sys
import types
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from conftest import STORY
from imitation import Imitation, has_kernel, kernel_table
from program import QUICK_CONSTANTS
from torch import Tensor

from simplellm.app.cli import main
from simplellm.device import relative_speed
from simplellm.training.trainer import Trainer

SHAPE = [
    "--n-layer", "2", "--n-head", "2", "--n-embd", "32", "--block-size", "16",
    "--vocab-size", "300",
]  # fmt: skip
TINY = [
    *SHAPE, "--batch-size", "2", "--eval-tokens", "64", "--eval-interval", "2",
    "--log-interval", "1",
]  # fmt: skip
EVERYTHING = [  # with `--architecture modern`
    "--gradient-accumulation", "2", "--optimizer", "muon", "--ema-decay", "0.9",
    "--composition", "1", "--r-drop", "1", "--dropout", "0.2", "--bpe-dropout", "0.3",
    "--token-noise", "0.1", "--label-smoothing", "0.1", "--grad-clip", "0.5",
]  # fmt: skip
PLAIN = [
    "--dropout", "0", "--bpe-dropout", "0", "--token-noise", "0", "--composition", "0",
    "--renaming", "0", "--r-drop", "0",
]  # fmt: skip
READS = {"mps": 1, "cuda": 1}  # per step: the loss and the gradient norm in one transfer
FP16_READS = 1  # per step: GradScaler checks the gradients of Muon, which is not fused
# Per micro step: ids and targets. CUDA copies them from pinned memory without waiting.
UPLOADS = {"mps": 2, "cuda": 0}


@dataclass
class Outcome:
    """The result of a command."""

    code: int
    out: str
    err: str
    imitation: Imitation
    steps: list[Counter[str]] = field(default_factory=list)  # kinds of waits in each training step

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def is_clean(self) -> bool:
        """Exit code 0, nothing refused, the device used and no other used or queried."""
        imitation = self.imitation
        assert (self.code, imitation.refused, imitation.touched) == (0, [], []), self.err
        assert imitation.queried <= {imitation.kind}, f"{imitation.queried} were queried"
        assert imitation.kind == "cpu" or {"embedding", "clone"} & imitation.operators, (
            "nothing ran on the device"
        )
        return True


def run(
    kind: str,
    *arguments: str,
    device: str | None = None,
    stdin: str = "",
    prepare: Callable[[Imitation], None] = lambda imitation: None,
    **options: Any,
) -> Outcome:
    """Run `main` on an imitated device with `--device kind`, or `--device device` if given."""
    steps: list[Counter[str]] = []
    step, out, err = Trainer.train_step, io.StringIO(), io.StringIO()
    reader = io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, Imitation(kind, **options) as imitation:

        def counted(trainer: Trainer, *rate: float) -> None:
            before = len(imitation.waits)
            step(trainer, *rate)
            steps.append(Counter(wait.kind for wait in imitation.waits[before:]))

        for name, value in QUICK_CONSTANTS.items():
            patch.setattr(name, value)
        patch.setattr("simplellm.training.preparation.relative_speed", relative_speed)
        patch.setattr(Trainer, "train_step", counted)
        patch.setattr(sys, "stdin", reader)
        prepare(imitation)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([*arguments, "--device", device or kind])
    return Outcome(code, out.getvalue(), err.getvalue(), imitation, steps)


def weights(path: str | Path) -> dict[str, Tensor]:
    return safetensors.torch.load((Path(path) / "model.safetensors").read_bytes())


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "story.txt"
    path.write_text(STORY.read_text(encoding="utf-8")[:4000], encoding="utf-8")
    return str(path)


@pytest.fixture
def train(text: str, folder: Path) -> Callable[..., Outcome]:
    """`train(kind, name, *flags)`: train a tiny run in the folder of this file."""

    def train(kind: str, name: str, *flags: str, **options: Any) -> Outcome:
        return run(
            kind,
            "train",
            text,
            "--name",
            name,
            "--checkpoints",
            str(folder),
            *TINY,
            *flags,
            "--json",
            **options,
        )

    return train


# ---------------------------------------------------------------- training


CASES = [
    ("mps", "float32"),
    pytest.param("cuda", "bf16", marks=pytest.mark.slow),
    ("cuda", "fp16"),
]


@pytest.mark.parametrize(("kind", "precision"), CASES)
def test_training_with_all_features_and_all_uses_of_a_run(
    train: Callable[..., Outcome], folder: Path, text: str, kind: str, precision: str
) -> None:
    name = f"{kind}-{precision}"
    trained = train(kind, name, *EVERYTHING, "--max-steps", "3", "--precision", precision)
    assert trained.is_clean() and math.isfinite(trained.json["val_loss"])
    assert (
        "_fused_adamw_" in trained.imitation.operators
        and "linalg_vector_norm" in trained.imitation.operators
    )
    waits = {"read": READS[kind], "upload": 2 * UPLOADS[kind]}
    allowed = [Counter(waits)]
    if precision == "fp16":  # not in a step that is skipped because of an overflow
        allowed.append(Counter({**waits, "read": READS[kind] + FP16_READS}))
    assert trained.steps and all(step in allowed for step in trained.steps), trained.steps
    if precision == "bf16":
        return  # inference uses float32 after any training
    of_run = ["--run", name, "--checkpoints", str(folder)]
    sampling = ["--max-new-tokens", "4", "--prompt", "The"]
    chatted = run(
        kind,
        "chat",
        *of_run,
        "--max-new-tokens",
        "3",
        stdin="Once upon\n/attn\n/next 2\n/regen\nand\n/quit\n",
    )
    assert chatted.is_clean() and "error" not in chatted.err, chatted.err
    for flags in (["--seed", "1", "--probs"], ["--num-beams", "2"], ["--quantize", "int8"]):
        assert run(kind, "generate", *of_run, *sampling, *flags).is_clean()
    analyzed = run(kind, "analyze", *of_run, "--prompt", "The", "--json")
    assert analyzed.is_clean() and analyzed.json["candidates"]
    scores = [run(where, "evaluate", *of_run, "--data", text, "--json") for where in (kind, "cpu")]
    assert all(score.is_clean() for score in scores)
    assert scores[0].json == pytest.approx(scores[1].json, rel=1e-5), (
        "the device and the CPU disagree"
    )


@pytest.mark.parametrize("kind", ["mps", pytest.param("cuda", marks=pytest.mark.slow)])
def test_gpt2_and_fine_tuning(
    train: Callable[..., Outcome], folder: Path, text: str, kind: str
) -> None:
    flags = [
        "--architecture",
        "gpt2",
        "--optimizer",
        "adamw",
        "--gradient-checkpointing",
        "--log-gradients",
    ]
    first = train(kind, f"{kind}-gpt2", *PLAIN, *flags, "--max-steps", "2")
    assert first.is_clean()
    assert all(step["read"] == READS[kind] + 1 for step in first.steps), (
        "one more read for the norms of all layers"
    )
    second = run(
        kind, "train", text, "--from", f"{kind}-gpt2", "--freeze", "1", "--max-steps", "1",
        "--batch-size", "2", "--eval-tokens", "64", "--name", f"{kind}-tuned",
        "--checkpoints", str(folder), "--json",
    )  # fmt: skip
    assert second.is_clean()
    before, after = weights(first.json["path"]), weights(second.json["path"])
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and not any("wte" in name or "h.0." in name for name in moved)


@pytest.mark.parametrize("kind", [pytest.param("mps", marks=pytest.mark.slow), "cuda"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    train: Callable[..., Outcome], folder: Path, kind: str
) -> None:
    flags = [
        *PLAIN,
        *EVERYTHING[:8],
        "--dropout",
        "0.2",
        "--schedule",
        "constant",
        "--warmup-steps",
        "1",
    ]
    whole = train(kind, f"{kind}-whole", *flags, "--max-steps", "2")
    half = train(kind, f"{kind}-half", *flags, "--max-steps", "1")
    resumed = run(
        kind,
        "train",
        "--resume",
        "--name",
        f"{kind}-half",
        "--max-steps",
        "2",
        "--checkpoints",
        str(folder),
        "--json",
    )
    assert whole.is_clean() and half.is_clean() and resumed.is_clean()
    ends = [weights(folder / f"{kind}-{name}" / "step-000002") for name in ("whole", "half")]
    assert ends[0].keys() == ends[1].keys() and all(
        torch.equal(ends[0][name], ends[1][name]) for name in ends[0]
    )


@pytest.mark.parametrize("kind", ["mps"])  # torch restores the random state of CUDA itself
def test_gradient_checkpointing_repeats_the_dropout_masks(
    train: Callable[..., Outcome], kind: str
) -> None:
    flags = [*PLAIN, "--max-steps", "1", "--dropout", "0.5", "--precision", "float32"]
    cases = [("kept", "--no-gradient-checkpointing"), ("again", "--gradient-checkpointing")]
    runs = [train(kind, f"{kind}-{name}", *flags, flag) for name, flag in cases]
    assert all(one.is_clean() for one in runs)
    assert runs[0].json["val_loss"] == runs[1].json["val_loss"]


@pytest.mark.parametrize("kind", ["mps", "cuda"])
def test_a_device_trains_as_the_cpu_does(train: Callable[..., Outcome], kind: str) -> None:
    flags = [*PLAIN, "--max-steps", "1", "--precision", "float32"]
    runs = [train(where, f"{kind}-as-{where}", *flags) for where in (kind, "cpu")]
    assert all(one.is_clean() for one in runs)
    assert runs[0].json["val_loss"] == pytest.approx(runs[1].json["val_loss"], rel=1e-3)


def test_an_fp16_overflow_is_counted_and_leaves_the_weights(
    train: Callable[..., Outcome], folder: Path
) -> None:
    seen: list[tuple[int, bool]] = []

    def watch(imitation: Imitation) -> None:
        step = Trainer.train_step

        def watched(trainer: Trainer, *rate: float) -> None:
            before = [weight.detach().clone() for weight in trainer.model.parameters()]
            step(trainer, *rate)
            after = trainer.model.parameters()
            seen.append(
                (
                    trainer.progress.overflows,
                    all(torch.equal(a, b) for a, b in zip(before, after, strict=True)),
                )
            )

        imitation_patch.setattr(Trainer, "train_step", watched)

    with pytest.MonkeyPatch.context() as imitation_patch:
        outcome = train(
            "cuda", "overflow", "--precision", "fp16", "--max-steps", "12",
            "--eval-interval", "12", *PLAIN, prepare=watch, init_scale=2.0**20,
        )  # fmt: skip
    assert (outcome.code, outcome.imitation.refused) == (0, [])
    state = json.loads(
        (folder / "overflow" / "step-000012" / "training" / "state.json").read_text()
    )
    n_overflows = state["overflows"]
    assert (
        0 < n_overflows < 12
        and state["scaler"]["scale"] == 2.0 ** (20 - n_overflows)
        and state["skipped_steps"] == 0
    )
    steps_of_the_run = seen[-12:]
    assert [count for count, _ in steps_of_the_run] == [min(i + 1, n_overflows) for i in range(12)]
    assert [is_same for _, is_same in steps_of_the_run] == [i < n_overflows for i in range(12)]


@pytest.mark.parametrize("kind", ["mps", pytest.param("cuda", marks=pytest.mark.slow)])
def test_experiments_run_on_a_device(text: str, folder: Path, kind: str) -> None:
    common = ["--checkpoints", str(folder), "--json"]
    found = run(kind, "train", text, "--find-lr", *TINY, *PLAIN, *common)
    assert found.is_clean() and found.json["suggestion"] > 0
    swept = run(
        kind, "sweep", text, *TINY, *PLAIN, "--max-steps", "1", "--optimizer", "muon,adamw", *common
    )
    assert swept.is_clean() and len(swept.json) == 2
    for flags in (
        ["train", "--compile", "off", "--batch-size", "2"],
        ["generate", "--quantize", "int8", "--max-new-tokens", "4"],
    ):
        measured = run(kind, "bench", *flags, *SHAPE, "--json")
        assert measured.is_clean() and measured.json["device"].startswith(kind)


def test_auto_chooses_the_available_gpu(
    folder: Path, text: str, train: Callable[..., Outcome]
) -> None:
    train("cpu", "auto", *PLAIN, "--max-steps", "1")
    for kind in ("cuda", "mps"):
        scored = run(
            kind,
            "evaluate",
            "--run",
            "auto",
            "--checkpoints",
            str(folder),
            "--data",
            text,
            device="auto",
        )
        assert (scored.code, scored.imitation.refused, scored.imitation.touched) == (0, [], [])
        assert "embedding" in scored.imitation.operators


@pytest.mark.parametrize("kind", ["mps", "cuda"])
def test_a_run_of_the_cpu_is_scored_on_a_device(trained: Path, text: str, kind: str) -> None:
    assert run(
        kind, "evaluate", "--run", "tiny", "--checkpoints", str(trained), "--data", text, "--json"
    ).is_clean()


# ---------------------------------------------------------------- GPU failures


FAULT = RuntimeError("MPS backend failed: no such kernel\nand a long trace")


def broken(*operators: str) -> Callable[[Imitation], None]:
    return lambda imitation: imitation.broken.update(dict.fromkeys(operators, FAULT))


def lines_about(err: str, word: str) -> list[str]:
    assert "Traceback" not in err
    return [line for line in err.splitlines() if word in line]


NOTICE = "the Apple GPU failed: MPS backend failed: no such kernel; continuing on the CPU"


def test_training_continues_on_the_cpu_if_the_gpu_fails_at_once(
    train: Callable[..., Outcome], folder: Path, text: str
) -> None:
    story = Path(text).read_text(encoding="utf-8")
    outcome = run(
        "mps", "train", "-", "--name", "piped", "--checkpoints", str(folder), *TINY, *PLAIN,
        "--max-steps", "2", "--json",
        device="auto", stdin=story, prepare=broken("embedding_dense_backward"),
    )  # fmt: skip
    assert outcome.code == 0 and outcome.json["run"] == "piped" and outcome.json["steps"] == 2
    assert lines_about(outcome.err, "failed") == [NOTICE]
    assert json.loads((folder / "piped" / "run.json").read_text())["device"].startswith("cpu")


def test_a_named_gpu_that_fails_is_an_error_and_the_name_stays_free(
    train: Callable[..., Outcome],
) -> None:
    outcome = train(
        "mps", "named", *PLAIN, "--max-steps", "2", prepare=broken("embedding_dense_backward")
    )
    assert outcome.code == 1 and outcome.out == ""
    assert lines_about(outcome.err, "failed") == [
        "error: the Apple GPU failed: MPS backend failed: no such kernel"
    ]
    assert "use --device cpu" in outcome.err
    assert train("cpu", "named", *PLAIN, "--max-steps", "1").code == 0


@pytest.mark.parametrize("device", ["auto", pytest.param("mps", marks=pytest.mark.slow)])
def test_a_later_gpu_failure_is_an_error_that_names_the_last_checkpoint(
    train: Callable[..., Outcome], device: str
) -> None:
    def later(imitation: Imitation) -> None:
        evaluate = Trainer.evaluate_and_save

        def then_broken(trainer: Trainer) -> Any:
            result = evaluate(trainer)
            broken("embedding")(imitation)
            return result

        patch.setattr(Trainer, "evaluate_and_save", then_broken)

    with pytest.MonkeyPatch.context() as patch:
        outcome = train(
            "mps", f"later-{device}", *PLAIN, "--max-steps", "6", device=device, prepare=later
        )
    assert outcome.code == 1 and len(lines_about(outcome.err, "the Apple GPU failed")) == 1
    (fix,) = lines_about(outcome.err, "--resume")
    assert "step-000002" in fix and f"--name later-{device} --device cpu" in fix


@pytest.mark.parametrize(
    ("arguments", "operator"),
    [
        (["generate", "--prompt", "The", "--max-new-tokens", "3", "--json"], "embedding"),
        (
            ["generate", "--prompt", "The", "--max-new-tokens", "3", "--num-beams", "2", "--json"],
            "index_select",
        ),
        (["analyze", "--prompt", "The", "--json"], "embedding"),
        (["evaluate", "--data", str(STORY), "--json"], "argmax"),
        (["chat", "--max-new-tokens", "2"], "embedding"),
        (
            ["bench", "train", *SHAPE, "--batch-size", "2", "--compile", "off", "--json"],
            "embedding_dense_backward",
        ),
        (["train", str(STORY), "--find-lr", *TINY, *PLAIN, "--json"], "embedding_dense_backward"),
    ],
    ids=lambda value: (
        "-".join(word.strip("-") for word in value[:2]) if isinstance(value, list) else value
    ),
)
def test_other_commands_continue_on_the_cpu_too(
    trained: Path, arguments: list[str], operator: str
) -> None:
    place = ["--checkpoints", str(trained)]
    outcome = run(
        "mps", *arguments, *place, device="auto", stdin="Once\n/quit\n", prepare=broken(operator)
    )
    assert outcome.code == 0 and outcome.out and lines_about(outcome.err, "failed") == [NOTICE]
    if operator == "index_select":
        failed = run("mps", *arguments, *place, stdin="Once\n/quit\n", prepare=broken(operator))
        assert (
            failed.code == 1
            and failed.out == ""
            and len(lines_about(failed.err, "the Apple GPU failed")) == 1
        )


def test_running_out_of_memory_does_not_restart_on_the_cpu(train: Callable[..., Outcome]) -> None:
    def full(imitation: Imitation) -> None:
        imitation.broken["embedding_dense_backward"] = torch.OutOfMemoryError("out of memory")

    outcome = train("mps", "full", *PLAIN, "--max-steps", "2", device="auto", prepare=full)
    assert outcome.code == 1 and "continuing" not in outcome.err and "--batch-size 1" in outcome.err


# ---------------------------------------------------------------- the imitation itself


def test_the_kernel_table_is_that_of_the_installed_torch(
    record_property: Callable[[str, object], None],
) -> None:
    record_property("torch", str(torch.__version__))
    known = {
        "mm": True,
        "addmm": True,
        "_fused_adamw_": True,
        "view": True,
        "segment_reduce": False,
        "special_airy_ai": False,
    }
    found = {name: has_kernel(name) for name in known}
    assert found == known and len(kernel_table()) > 2000, (
        f"native_functions.yaml of torch {torch.__version__}"
    )
    assert (
        not has_kernel("no_such_operator")
        and has_kernel("mm", is_sparse=True)
        and not has_kernel("cumsum", is_sparse=True)
    )


def on(kind: str, *shape: int, **options: Any) -> Tensor:
    return torch.ones(*shape, device=kind, **options)


def _clip(foreach: bool | None) -> Callable[[str], object]:
    def clip(kind: str) -> None:
        weight = on(kind, 2).requires_grad_()
        weight.sum().backward()
        torch.nn.utils.clip_grad_norm_([weight], 1.0, foreach=foreach)

    return clip


Call = Callable[[str], object]
NO_MPS_FORMAT = "TypeError: Cannot convert a MPS Tensor to"
NO_MPS_KERNEL = "NotImplementedError: The operator"
NOT_PINNED = "RuntimeError: Cannot use pinned memory"
OTHER_DEVICE = "RuntimeError: Expected all tensors to be on the same device"
OTHER_GENERATOR = "RuntimeError: Expected a '(mps|cuda)' device type for generator"
NO_NUMPY = "TypeError: can't convert (mps|cuda):0 device type tensor to numpy"
OTHER_GPU = "AssertionError: (mps|cuda)(:0)? is used"
REFUSED_BY_BOTH: list[tuple[str, Call]] = [
    (OTHER_DEVICE, lambda kind: on(kind, 2) + torch.ones(2)),
    (OTHER_DEVICE, lambda kind: torch.ones(2) @ on(kind, 2)),
    (OTHER_DEVICE, lambda kind: torch.ones(()).add_(on(kind, 1)[0])),
    (OTHER_DEVICE, lambda kind: torch.cat([on(kind, 2), torch.ones(2)])),
    (OTHER_DEVICE, lambda kind: torch.add(on(kind, 2), 1, out=torch.empty(2))),
    (OTHER_DEVICE, lambda kind: on(kind, 3).index_select(0, torch.tensor([0]))),
    (OTHER_GENERATOR, lambda kind: on(kind, 2).normal_(generator=torch.Generator())),
    (NO_NUMPY, lambda kind: on(kind, 2).numpy()),
    (OTHER_GPU, lambda kind: torch.ones(2, device="cuda" if kind == "mps" else "mps")),
]
REFUSED: list[tuple[str, str, Call]] = [
    ("mps", f"{NO_MPS_FORMAT} float64", lambda kind: on(kind, 2).double()),
    ("mps", f"{NO_MPS_FORMAT} float64", lambda kind: on(kind, 2).to(torch.float64)),
    ("mps", f"{NO_MPS_FORMAT} float64", lambda kind: on(kind, 2, dtype=torch.float64)),
    ("mps", f"{NO_MPS_FORMAT} float64", lambda kind: torch.ones(2, dtype=torch.float64).to(kind)),
    ("mps", f"{NO_MPS_FORMAT} complex64", lambda kind: torch.complex(on(kind, 2), on(kind, 2))),
    ("mps", f"{NO_MPS_FORMAT} uint16", lambda kind: torch.ones(2, dtype=torch.uint16).to(kind)),
    (
        "mps",
        f"{NO_MPS_KERNEL} 'aten::segment_reduce'",
        lambda kind: torch.segment_reduce(
            on(kind, 4), "sum", lengths=torch.tensor([4], device=kind)
        ),
    ),
    (
        "mps",
        f"{NO_MPS_KERNEL} 'aten::cumsum'",
        lambda kind: torch.eye(2).to_sparse().to(kind).cumsum(0),
    ),
    ("mps", NOT_PINNED, lambda kind: torch.ones(2).pin_memory()),
    ("mps", NOT_PINNED, lambda kind: torch.ones(2, pin_memory=True)),
    ("cuda", "RuntimeError: cannot pin", lambda kind: on(kind, 2).pin_memory()),
    *((kind, pattern, call) for kind in ("mps", "cuda") for pattern, call in REFUSED_BY_BOTH),
]


@pytest.mark.parametrize(("kind", "pattern", "call"), REFUSED)
def test_the_imitation_refuses_what_the_device_refuses(
    kind: str, pattern: str, call: Callable[[str], object]
) -> None:
    with Imitation(kind) as imitation, pytest.raises((RuntimeError, TypeError, AssertionError)):
        call(kind)
    assert len(imitation.refused) == 1 and re.match(pattern, imitation.refused[0]), (
        imitation.refused
    )


def test_foreach_functions_are_refused_on_mps() -> None:
    with Imitation("mps"), pytest.raises(RuntimeError, match="can't use the foreach API on mps"):
        _clip(True)("mps")
    for kind, foreach in (("mps", None), ("cuda", True), ("cuda", None)):
        with Imitation(kind) as imitation:
            _clip(foreach)(kind)
        assert ("_foreach_norm.Scalar" in imitation.operators) == (kind == "cuda")


def test_a_step_count_on_the_host_is_refused_by_the_fused_optimizer() -> None:
    with Imitation("cuda"), pytest.raises(RuntimeError, match="same device"):
        weight = on("cuda", 2).requires_grad_()
        optimizer = torch.optim.AdamW([weight], fused=True)
        for _ in range(2):
            weight.sum().backward()
            optimizer.step()
            optimizer.state[weight]["step"] = optimizer.state[weight]["step"].cpu()


ALLOWED: list[Callable[[str], Tensor]] = [
    lambda kind: on(kind, 2) * torch.tensor(2.0) + 1,
    lambda kind: on(kind, 3)[torch.tensor([0, 2])],
    lambda kind: torch.ones(2).to(kind)[1:].view(1).t().contiguous().half(),
    lambda kind: torch.nn.Parameter(on(kind, 2)).data,
    lambda kind: torch.empty(2).copy_(on(kind, 2)).to(kind),
    lambda kind: torch.nn.Linear(2, 2).to(kind)(on(kind, 1, 2)),
    lambda kind: torch.sparse.mm(torch.eye(2).to_sparse().to(kind), on(kind, 2, 2)),
    lambda kind: torch.from_numpy(torch.ones(2).numpy()).to(kind, non_blocking=True),
    lambda kind: torch.ones(2, device="meta").to(torch.float16).new_empty(2, device=kind),
    lambda kind: torch.nn.functional.dropout(torch.rand(2, device=torch.device(kind, 0)), 0.5),
]


@pytest.mark.parametrize("kind", ["mps", "cuda"])
@pytest.mark.parametrize("make", ALLOWED)
def test_allowed_operations_give_tensors_on_the_device(
    kind: str, make: Callable[[str], Tensor]
) -> None:
    with Imitation(kind) as imitation:
        tensor = make(kind)
        assert tensor.device == torch.device(kind, 0) and (tensor.is_cuda, tensor.is_mps) == (
            kind == "cuda",
            kind == "mps",
        )
        assert (
            tensor.cpu().device.type == "cpu"
            and tensor.detach().to("cpu").is_cpu
            and imitation.refused == []
        )


@pytest.mark.parametrize("kind", ["mps", "cuda"])
def test_gradients_and_saved_tensors_stay_on_the_device(kind: str) -> None:
    class Cubed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x, x * x)
            return x * x * x

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            x, square = ctx.saved_tensors
            assert all(imitation.holds(tensor) for tensor in (x, square, grad))
            return 3 * square * grad

    with Imitation(kind) as imitation:
        weight = on(kind, 2, 2).requires_grad_()
        split = torch.nn.functional.scaled_dot_product_attention(
            *[weight[None, None]] * 3, is_causal=True
        )
        (Cubed.apply(split).sum() + weight[0].float().mean()).backward()
        assert (
            weight.grad is not None and weight.grad.device.type == kind and imitation.refused == []
        )


def test_synchronizations_are_counted() -> None:
    with Imitation("cuda") as imitation:
        tensor, pinned = on("cuda", 3), torch.ones(3).pin_memory()
        reads: list[Callable[[], object]] = [
            lambda: tensor[0].item(),
            lambda: float(tensor[0]),
            lambda: bool(tensor[0] > 0),
            tensor.tolist,
            tensor.cpu,
            lambda: tensor.nonzero(),
            lambda: tensor[tensor > 0],
            lambda: torch.ones(3).copy_(tensor),
            lambda: torch.equal(tensor, tensor),
            lambda: tensor.to("cpu", non_blocking=True),
            lambda: tensor.unique(),
        ]
        uploads: list[Callable[[], object]] = [
            lambda: torch.ones(2).to("cuda"),
            lambda: torch.tensor([1], device="cuda"),
            lambda: torch.ones(2).cuda(),
            lambda: pinned.to("cuda"),
            lambda: torch.ones(2).to("cuda", non_blocking=True),
            lambda: tensor.copy_(torch.ones(3)),
        ]
        free: list[Callable[[], object]] = [
            lambda: pinned.to("cuda", non_blocking=True),
            lambda: tensor + 1,
            lambda: tensor.to("cuda"),
            lambda: tensor.half(),
            lambda: torch.where(tensor > 0, tensor, 0.0),
            lambda: torch.zeros(2, device="cuda"),
        ]
        for kind, calls in (("read", reads), ("upload", uploads), ("", free)):
            for call in calls:
                imitation.waits.clear()
                call()
                assert [wait.kind for wait in imitation.waits] == ([kind] if kind else []), (
                    kind,
                    calls.index(call),
                )
        torch.cuda.synchronize()
        assert imitation.waits[-1].kind == "synchronize"


def test_calls_and_queries_of_other_devices_are_recorded() -> None:
    with Imitation("mps") as imitation:
        torch.manual_seed(1)
        assert not torch.cuda.is_available() and torch.backends.mps.is_available()
    assert imitation.touched == ["torch.cuda.manual_seed_all []"]
    with Imitation("cpu") as imitation:
        assert torch.cuda.is_available() and torch.backends.mps.is_available()
        exec(
            compile(
                "import torch; torch.cuda.is_available()",
                f"{STORY.parent}/simplellm/line.py",
                "exec",
            ),
            {},
        )
    assert imitation.queried == {"cuda"}


def test_a_device_has_its_own_generator() -> None:
    with Imitation("mps"):
        torch.mps.manual_seed(3)
        first, host = torch.rand(4, device="mps"), torch.get_rng_state()
        torch.rand(4, device="mps")
        assert torch.equal(torch.get_rng_state(), host)
        torch.mps.manual_seed(3)
        assert torch.equal(torch.rand(4, device="mps"), first)


@pytest.mark.parametrize(
    ("kind", "dtype"), [("cuda", torch.bfloat16), ("cuda", torch.float16), ("mps", torch.float16)]
)
def test_autocast_and_the_scaler_are_real(kind: str, dtype: torch.dtype) -> None:
    with Imitation(kind) as imitation:
        weight = on(kind, 2, 2).requires_grad_()
        optimizer, scaler = (
            torch.optim.SGD([weight], lr=1.0),
            torch.amp.GradScaler(kind, init_scale=2.0**126),
        )
        with torch.autocast(kind, dtype=dtype):
            product = weight @ weight
        assert (
            product.dtype == dtype
            and torch.is_autocast_enabled(kind) is False
            and scaler.is_enabled()
        )
        scaler.scale(product.float().sum() * 8).backward()
        scaler.step(optimizer)
        scaler.update()
        assert (
            scaler.get_scale() == 2.0**125
            and torch.equal(weight, on(kind, 2, 2))
            and imitation.refused == []
        )


def test_torch_is_restored_afterwards() -> None:
    functions = [
        torch.cuda.is_available,
        torch.autocast,
        torch.backends.mps.is_available,
        torch.amp.GradScaler,
    ]
    with Imitation("cuda", init_scale=2.0):
        pass
    assert [
        torch.cuda.is_available,
        torch.autocast,
        torch.backends.mps.is_available,
        torch.amp.GradScaler,
    ] == functions
    assert torch.ones(1).device.type == "cpu" and isinstance(
        torch.cuda.manual_seed, types.FunctionType
    )
