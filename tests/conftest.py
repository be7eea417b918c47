"""Fixtures and settings that all tests share.

A run of whole folders uses a worker process for each core and one more (pytest-xdist): some tests
wait, for a terminal or for the clock. A run of single files, of the slow tests (`-m slow`), of the
interop tests (`-m interop`) or with `-n 0` uses one process.
"""

from __future__ import annotations

import copy
import functools
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from filelock import FileLock
from seeds import SeedsOfTests, seed_libraries

from simplellm.app.cli import main
from simplellm.config.environment import SHORT_SPIN, set_defaults
from simplellm.config.model import ModelConfig

if TYPE_CHECKING:  # the process that starts the workers does not need torch
    from simplellm.data.tokenizer import Tokenizer
    from simplellm.model.transformer import SimpleLLM

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # the workers already use all cores
os.environ.setdefault("GOMP_SPINCOUNT", SHORT_SPIN)  # tests share the machine with other programs
set_defaults(os.environ)  # before torch is imported, as the command line does

# A shell that starts a job in the background sets SIGINT to be ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Examples have no time limit: other workers and other programs slow them down. They are the same in
# each run of the same code; `--hypothesis-profile=random` tries others.
hypothesis.settings.register_profile(
    "tests",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "random", hypothesis.settings.get_profile("tests"), derandomize=False
)
hypothesis.settings.register_profile(
    "few examples", hypothesis.settings.get_profile("tests"), max_examples=30
)
hypothesis.settings.load_profile("tests")
ROOT = Path(__file__).resolve().parents[1]
STORY = ROOT / "tests" / "fixtures" / "the-verdict.txt"  # the beginning of the-verdict.txt
SHARED_DATA = Path(os.environ.get("SIMPLELLM_TEST_DATA", ROOT.parent / "shared" / "data"))
MAX_WORKERS = 8  # each needs about 0.5 GB of memory
SHARED_SERVER = "SIMPLELLM_TEST_SERVER"  # variable: process and folder of tests/fork_server.py
COUNT = "count"  # name of the user property that `report_count` sets
posix_only = pytest.mark.skipif(
    os.name != "posix", reason="needs POSIX: modes, links, pipes or signals between processes"
)
TINY_FLAGS = [
    "--n-layer", "2", "--n-head", "2", "--n-embd", "32", "--block-size", "32",
    "--vocab-size", "384", "--batch-size", "8", "--device", "cpu", "--precision", "float32",
]  # fmt: skip
# Without random segmentations and made-up names, which take a third of a short training to prepare.
NO_AUGMENTATION = ["--bpe-dropout", "0", "--renaming", "0"]


# ---------------------------------------------------------------- parallel runs


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Choose the number of workers where the command line does not."""
    option = config.option
    if is_worker(config):
        return
    if getattr(option, "numprocesses", "no plugin") is None and not _is_for_one_process(config):
        option.numprocesses = min(_n_cores() + 1, option.maxprocesses or MAX_WORKERS)
        # Contiguous shares keep a module in one worker; an idle worker takes over tests of another.
        option.dist = "worksteal"
    if getattr(option, "numprocesses", None):
        os.environ[SHARED_SERVER] = f"{os.getpid()}:{tempfile.mkdtemp()}"


def _n_cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _is_for_one_process(config: pytest.Config) -> bool:
    names_a_file = any(not os.path.isdir(argument) for argument in config.args)
    option = config.option
    return names_a_file or option.markexpr in ("slow", "interop") or option.collectonly


def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr != "slow":
        hypothesis.settings.load_profile("few examples")


def pytest_unconfigure(config: pytest.Config) -> None:
    owner, _, folder = os.environ.get(SHARED_SERVER, "").partition(":")
    if owner == str(os.getpid()):
        shutil.rmtree(folder, ignore_errors=True)


def examples(number: int) -> int:
    """Number of examples of a hypothesis test: a third of `number`, except in the slow tier."""
    is_few = hypothesis.settings().max_examples < 100
    return max(number // 3, 5) if is_few else number


def is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def built_once(request: pytest.FixtureRequest, name: str, build: Callable[[Path], object]) -> Path:
    """A folder filled by `build(folder)` in the first worker that asks; others wait for it.

    The content is shared by all workers: tests must not change it.
    """
    base = request.getfixturevalue("tmp_path_factory").getbasetemp()
    folder = (base.parent if is_worker(request.config) else base) / name
    is_built = folder.with_name(f"{name}.built")
    with FileLock(folder.with_name(f"{name}.lock")):
        if not is_built.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            build(folder)
            is_built.touch()
    return folder


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the files that use `transformers` first, so that few workers import it: that takes 5 s.

    Tests at the end are the ones that another worker takes over. The slow tier runs the hypothesis
    tests too, with all their examples.
    """
    if config.option.markexpr == "slow":
        for item in items:
            if hypothesis.is_hypothesis_test(getattr(item, "obj", None)):
                item.add_marker(pytest.mark.slow)
    files = {item.path for item in items if "transformers" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: (item.path not in files, item.path))


class Backwards(pytest.Dir):
    """A folder of tests whose files are collected in reverse order."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        return reversed(list(super().collect()))


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Let every second worker begin with the last files, and read what the others have compiled.

    In a new clone pytest compiles each file of tests, which takes each worker 8 s otherwise.
    """
    name = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    is_second = int(name.removeprefix("gw")) % 2 == 1
    if not is_second or (path / "__init__.py").exists():
        return None
    return Backwards.from_parent(parent, path=path)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    seed_libraries(item.nodeid)


# ---------------------------------------------------------------- counts of the fault tests


@pytest.fixture
def report_count(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """`report_count(line)` prints a line about what was tried in the summary of the run."""
    return lambda line: record_property(COUNT, line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if getattr(report, "when", "") == "call"
    ]
    lines = [value for report in reports for name, value in report.user_properties if name == COUNT]
    if lines:
        terminalreporter.section("what was tried")
        for line in lines:
            terminalreporter.write_line(str(line))


# ---------------------------------------------------------------- fixtures


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """One thread is faster for tiny models, and gives the same sums on every machine."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def fixed_speed() -> Iterator[None]:
    """Trainings assume the speed of the reference machine: measuring it takes 0.3 s each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simplellm.training.preparation.relative_speed", lambda device: 1.0)
        yield


@pytest.fixture(scope="session", autouse=True)
def one_timed_step() -> Iterator[None]:
    """The plan of a training times one step and one evaluation instead of five and three."""
    with pytest.MonkeyPatch.context() as patch:
        for name, number in ("TIMED_STEPS", 1), ("WARM_UP_STEPS", 0), ("TIMED_EVALUATIONS", 1):
            patch.setattr(f"simplellm.training.plan.{name}", number)
        yield


@pytest.fixture(scope="session", autouse=True)
def short_samples() -> Iterator[None]:
    """Trainings show few tokens: sampling 60 and 256 takes 40% of the time of one with 1 step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simplellm.app.training_monitor.PREVIEW_TOKENS", 4)
        patch.setattr("simplellm.app.training_monitor.REPORT_TOKENS", 8)
        yield


@pytest.fixture(scope="session", autouse=True)
def parser_built_once() -> Iterator[None]:
    """All commands share the parser: building it takes as long as a short command."""
    from simplellm.app import parser

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parser, "build_parser", functools.cache(parser.build_parser))
        yield


@pytest.fixture(scope="session", autouse=True)
def tokenizers_trained_once() -> Iterator[None]:
    """Trainings on the same text share its tokenizer: learning the merges takes 40 ms each time."""
    from simplellm.data import prepared_corpus

    new_tokenizer, known = prepared_corpus._new_tokenizer, {}
    learn = prepared_corpus.Tokenizer.train.__func__

    def shared(name: str, split: Any, vocab_size: int) -> Tokenizer:
        key = (name, str(prepared_corpus._identity(split.train)), split.train_stop, vocab_size)
        if getattr(prepared_corpus.Tokenizer.train, "__func__", None) is not learn:
            return new_tokenizer(name, split, vocab_size)  # a test has replaced it
        if key not in known:
            known[key] = new_tokenizer(name, split, vocab_size)
        return copy.copy(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared_corpus, "_new_tokenizer", shared)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_wait_for_the_disk() -> Iterator[None]:
    """`os.fsync` only checks its handle: the tests observe the calls, not what the disk does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(scope="session", autouse=True)
def seeds_of_tests() -> Iterator[None]:
    """A reply without a seed draws one that depends only on the name of the test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simplellm.inference.reply.secrets", SeedsOfTests())
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Compiled libraries go into a folder of the tests instead of the user's cache folder.

    All workers share it, because compiling takes 2 s.
    """
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        folder = (base.parent if is_worker(request.config) else base) / "cache"
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_base_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trainings in the process of the tests find no base model but one that a test makes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simplellm.base.packaged.FOLDER", tmp_path_factory.mktemp("base") / "none")
        yield


@pytest.fixture
def small_base(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run `tiny` as the base model of the package, in a folder that a test may change."""
    import torch

    from simplellm.checkpoint.find_runs import find_checkpoint
    from simplellm.checkpoint.int8_folder import write_int8_folder
    from simplellm.checkpoint.step_folder import load_model

    folder = tmp_path / "base"
    folder.mkdir()
    checkpoint = find_checkpoint("tiny", trained, print)
    write_int8_folder(folder, *load_model(checkpoint, torch.device("cpu")), "# A small model")
    monkeypatch.setattr("simplellm.base.packaged.FOLDER", folder)
    return folder


@pytest.fixture
def quick_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten what takes long in commands and what the test does not examine."""
    from program import QUICK_CONSTANTS

    for name, value in QUICK_CONSTANTS.items():
        monkeypatch.setattr(name, value)


@pytest.fixture(scope="session")
def transformers() -> ModuleType:
    """The package `transformers`. Every test that imports it requests this fixture."""
    return pytest.importorskip("transformers")


@pytest.fixture(scope="session")
def story() -> str:
    return STORY.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def tokenizer(story: str) -> Tokenizer:
    from simplellm.data.tokenizer import Tokenizer

    return Tokenizer.train([story], 512)


@pytest.fixture(params=["modern", "gpt2"])
def tiny_model(request: pytest.FixtureRequest) -> SimpleLLM:
    """Both architectures, 2 layers of width 32, random weights large enough that logits differ."""
    import torch

    from simplellm.model.transformer import SimpleLLM

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
            noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
            weight.mul_(1.5).add_(noise, alpha=0.05)
    return model


@pytest.fixture(scope="session")
def trained(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    fixed_speed: None,
    no_wait_for_the_disk: None,
) -> Path:
    """A checkpoints folder with one run, `tiny`, trained for 30 steps on the story."""

    def train(folder: Path) -> None:
        flags = ["--name", "tiny", "--max-steps", "30", "--eval-interval", "10", *TINY_FLAGS]
        assert main(["train", str(STORY), "--checkpoints", str(folder), *flags]) == 0

    shared = built_once(request, "trained", train)
    return shutil.copytree(shared, tmp_path_factory.mktemp("checkpoints") / "runs")


@pytest.fixture
def trained_model(trained: Path) -> tuple[SimpleLLM, Tokenizer]:
    """The model of that run and its tokenizer, loaded for each test: a test may change them."""
    import torch

    from simplellm.checkpoint.find_runs import find_checkpoint
    from simplellm.checkpoint.step_folder import load_model

    return load_model(find_checkpoint("tiny", trained, print), torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs shared by the tests of a file, so that a text is prepared once."""
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real texts; tests that need it skip with a message where it is missing."""
    if not SHARED_DATA.is_dir():
        pytest.skip(
            f"no test data in {SHARED_DATA}: set SIMPLELLM_TEST_DATA to the folder that has it"
        )
    return SHARED_DATA
