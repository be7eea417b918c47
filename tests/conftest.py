"""What the tests share: tiny models, tiny runs, and the folder of real texts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from simplellm.training.threads import SHORT_SPIN, set_defaults

os.environ.setdefault(
    "GOMP_SPINCOUNT", SHORT_SPIN
)  # tests run beside each other and beside other programs
set_defaults(os.environ)  # before torch is imported, as the command line does

import torch  # noqa: E402

from simplellm.app.cli import main  # noqa: E402
from simplellm.checkpoint.run import find_checkpoint, load_model  # noqa: E402
from simplellm.config.model import ModelConfig  # noqa: E402
from simplellm.data.tokenizer import Tokenizer  # noqa: E402
from simplellm.model.transformer import SimpleLLM  # noqa: E402

signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # a shell starts what runs in its background without
ROOT = Path(__file__).resolve().parents[1]
STORY = ROOT / "the-verdict.txt"
SHARED_DATA = Path(os.environ.get("SIMPLELLM_TEST_DATA", ROOT.parent / "shared" / "data"))
posix_only = pytest.mark.skipif(
    os.name != "posix", reason="needs POSIX: modes, links, pipes or signals between processes"
)
TINY_FLAGS = [
    "--n-layer", "2", "--n-head", "2", "--n-embd", "32", "--block-size", "32", "--vocab-size", "384",
    "--batch-size", "8", "--device", "cpu", "--precision", "float32",
]  # fmt: skip


@pytest.fixture(scope="session")
def story() -> str:
    return STORY.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def tokenizer(story: str) -> Tokenizer:
    return Tokenizer.train([story], 512)


@pytest.fixture(params=["modern", "gpt2"])
def tiny_model(request: pytest.FixtureRequest) -> SimpleLLM:
    """Both architectures, 2 layers of 32, with random weights large enough that logits differ."""
    shape = {"n_kv_head": 2} if request.param == "modern" else {}
    config = ModelConfig(
        architecture=request.param,
        n_layer=2,
        n_head=4,
        n_embd=32,
        block_size=32,
        vocab_size=300,
        **shape,
    )
    model = SimpleLLM(config).init_weights(torch.Generator().manual_seed(1)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5).add_(
                torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)), alpha=0.05
            )
    return model


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoints folder with one run, `tiny`, trained for 30 steps on the story."""
    folder = tmp_path_factory.mktemp("checkpoints")
    code = main(["train", str(STORY), "--name", "tiny", "--max-steps", "30", "--eval-interval", "10",
                 "--checkpoints", str(folder), *TINY_FLAGS])  # fmt: skip
    assert code == 0
    return folder


@pytest.fixture
def trained_model(trained: Path) -> tuple[SimpleLLM, Tokenizer]:
    """The model of that run and its tokenizer, loaded anew: a test may change it."""
    return load_model(find_checkpoint("tiny", trained, print), torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of runs for the tests of a file, so that a text is prepared once."""
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def quick_probe() -> Iterator[None]:
    """The machine's speed, which decides the recipe, is that of the trials; measuring it takes a while."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simplellm.training.job.relative_speed", lambda device: 1.0)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real texts; tests that need it are skipped, loudly, where it is not there."""
    if not SHARED_DATA.is_dir():
        pytest.skip(
            f"no test data in {SHARED_DATA}: set SIMPLELLM_TEST_DATA to the folder that has it"
        )
    return SHARED_DATA
