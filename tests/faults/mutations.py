"""Takes one safeguard at a time out of a copy of the project and shows that a test turns red for each.

`python tests/faults/mutations.py` prints a line for each; a safeguard nobody misses is reported, and ends it with 1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("simplellm", "tests", "main.py", "the-verdict.txt", "pyproject.toml", "README.md")
TESTS_FAILED = 1  # what pytest ends with when tests ran and some were red


@dataclass(frozen=True)
class Mutation:
    """A safeguard: where it stands, the text it is taken out of (which is there once), and the tests that should miss it.

    Tests are files, or one test of a file where the others take long.
    """

    safeguard: str
    file: str
    text: str
    without: str
    tests: tuple[str, ...]


MUTATIONS = (
    Mutation(
        "fsync of a file", "simplellm/storage/files.py",
        "        file.flush()\n        os.fsync(file.fileno())\n", "        file.flush()\n", ("tests/storage/test_files.py",),
    ),
    Mutation(
        "fsync of a new folder before it is renamed", "simplellm/storage/files.py",
        "                fsync_folder(Path(folder))\n", "                pass\n", ("tests/storage/test_files.py",),
    ),
    Mutation(
        "fsync of the folder a new one is renamed into", "simplellm/storage/files.py",
        "            _rename(os.rename, temporary, path)\n        fsync_folder(path.parent)\n",
        "            _rename(os.rename, temporary, path)\n",
        ("tests/storage/test_files.py",),
    ),
    Mutation(
        "fsync of the folder of a pointer", "simplellm/storage/files.py",
        "        _rename(os.replace, temporary, path)\n        fsync_folder(path.parent)\n",
        "        _rename(os.replace, temporary, path)\n",
        ("tests/storage/test_files.py",),
    ),
    Mutation(
        "SHA-256 of a checkpoint's files", "simplellm/storage/manifest.py",
        " == size and sha256_of(folder / name) == digest", " == size", ("tests/checkpoint/test_run.py",),
    ),
    Mutation(
        "size of a checkpoint's files and their SHA-256", "simplellm/storage/manifest.py",
        "whole = (folder / name).stat().st_size == size and sha256_of(folder / name) == digest",
        "whole = (folder / name).exists()", ("tests/checkpoint/test_run.py",),
    ),
    Mutation(
        "the manifest's own bytes", "simplellm/storage/manifest.py",
        "    if not is_as_written:\n", "    if False:\n", ("tests/checkpoint/test_run.py",),
    ),
    Mutation(
        "the lock of a run", "simplellm/storage/lock.py",
        "        if try_lock(handle):\n            return True\n", "        return True\n", ("tests/storage/test_lock.py",),
    ),
    Mutation(
        "the look at a loss", "simplellm/training/learner.py",
        "if math.isfinite(self.loss) and math.isfinite(self.gradient_norm):", "if math.isfinite(self.gradient_norm):",
        ("tests/training/test_trainer.py",),
    ),
    Mutation(
        "the look at a gradient", "simplellm/training/learner.py",
        "if math.isfinite(self.loss) and math.isfinite(self.gradient_norm):", "if math.isfinite(self.loss):",
        ("tests/training/test_trainer.py",),
    ),
    Mutation(
        "fsync of the folder in which a new one is made", "simplellm/storage/files.py",
        "        folder.mkdir(exist_ok=True)\n        fsync_folder(folder.parent)\n", "        folder.mkdir(exist_ok=True)\n",
        ("tests/faults/test_disk.py::test_a_save_is_durable_in_order",),
    ),
    Mutation(
        "fsync of the prepared ids", "simplellm/data/prepared.py",
        "        file.flush()\n        os.fsync(file.fileno())\n", "        file.flush()\n",
        ("tests/faults/test_disk.py::test_a_whole_training_is_durable_in_order",),
    ),
    Mutation(
        "the new name of a folder", "simplellm/storage/files.py",
        "    temporary, handle = _held_temporary(path)\n", "    (temporary := path).mkdir()\n    handle = None\n",
        ("tests/storage/test_files.py",),
    ),
    Mutation(
        "deleting what a failed write left", "simplellm/storage/files.py",
        "        with contextlib.suppress(OSError):\n            temporary.unlink()\n        raise\n", "        raise\n",
        ("tests/storage/test_files.py",),
    ),
    Mutation(
        "the hold on what a live process writes", "simplellm/storage/files.py",
        "        return not try_lock(handle)\n", "        return False\n",
        ("tests/faults/test_kills.py::test_what_a_live_process_writes_is_not_taken_for_a_leftover",),
    ),
    Mutation(
        "links that are no part of a checkpoint", "simplellm/storage/manifest.py",
        "path.lstat().st_mode", "path.stat().st_mode",
        ("tests/faults/test_damage.py::test_a_checkpoint_holds_its_own_plain_files_and_nothing_else",),
    ),
    Mutation(
        "SHA-256 of prepared ids", "simplellm/storage/files.py",
        "return all(sha256_of(folder / name) == digests[name] for name in names)",
        "return all((folder / name).exists() and name in digests for name in names)", ("tests/data/test_prepared.py",),
    ),
    Mutation(
        "SHA-256 of the text of a resumed run", "simplellm/training/changes.py",
        "    if now == then:\n", "    if True:\n", ("tests/training/test_job.py",),
    ),
    Mutation(
        "the tokenizer of a resumed run", "simplellm/training/changes.py",
        'is_same = info.get("tokenizer_fingerprint") in (None, saved.fingerprint)', "is_same = True",
        ("tests/faults/test_damage.py::test_resume_refuses_what_changed_and_goes_on_with_it_only_when_told_to",),
    ),
    Mutation(
        "the model of a resumed run", "simplellm/training/changes.py",
        "if then.get(key) != now.get(key)]", "if False]",
        ("tests/faults/test_damage.py::test_resume_refuses_what_changed_and_goes_on_with_it_only_when_told_to",),
    ),
    Mutation(
        "the lock of a training", "simplellm/training/job.py",
        "            lock.acquire()\n", "            pass\n",
        ("tests/faults/test_kills.py::test_the_second_of_two_trainings_names_the_first_and_changes_nothing",),
    ),
    Mutation(
        "that a lock is on the file of that name", "simplellm/storage/lock.py",
        "        if _is_at(handle, path):\n            return handle\n", "        return handle\n",
        ("tests/storage/test_lock.py",),
    ),
    Mutation(
        "the lock of a folder made anew", "simplellm/training/saver.py",
        "            self.lock.keep()\n", "            pass\n",
        ("tests/faults/test_disk.py::test_a_run_folder_made_anew_is_locked_anew",),
    ),
    Mutation(
        "the look at what is saved", "simplellm/checkpoint/run.py",
        "        refuse_non_finite({**model.state_dict(), **state.tensors})\n", "",
        ("tests/faults/test_finite.py::test_a_save_writes_nothing_that_is_not_finite",),
    ),
    Mutation(
        "the look at weights that are loaded", "simplellm/checkpoint/hugging_face.py",
        "    if not bool(torch.isfinite(tensor).all()):\n", "    if False:\n", ("tests/checkpoint/test_run.py",),
    ),
    Mutation(
        "the look at training state that is loaded", "simplellm/checkpoint/training_state.py",
        "        refuse_non_finite(tensors)\n", "        pass\n",
        ("tests/faults/test_hostile.py::test_training_state_that_does_not_fit_is_refused",),
    ),
    Mutation(
        "the places in a header", "simplellm/storage/safetensors_header.py",
        "        _check_places(entries, size - LENGTH_BYTES - length)\n", "",
        ("tests/faults/test_hostile.py::test_a_file_of_tensors_that_does_not_hold_together_is_refused_by_its_header",),
    ),
    Mutation(
        "the length of a header", "simplellm/storage/safetensors_header.py",
        "            if not 2 <= length <= min(size - LENGTH_BYTES, MOST_HEADER_BYTES):\n", "            if False:\n",
        ("tests/faults/test_hostile.py::test_a_file_of_tensors_that_does_not_hold_together_is_refused_by_its_header",),
    ),
    Mutation(
        "the table of positions a file may ask for", "simplellm/checkpoint/step_folder.py",
        "    if rope_bytes > max(", "    if 0 > max(",
        ("tests/faults/test_hostile.py::test_a_small_file_cannot_ask_for_a_large_table_of_positions",),
    ),
    Mutation(
        "the pattern of a tokenizer", "simplellm/data/tokenizer.py",
        "            if pattern not in (", "            if 0 and pattern not in (",
        ("tests/faults/test_hostile.py::test_a_pattern_of_another_kind_is_refused",),
    ),
    Mutation(
        "the optimizer's state against its weights", "simplellm/training/optimizer.py",
        "        self._check_state(state)\n", "",
        ("tests/faults/test_hostile.py::test_training_state_that_does_not_fit_is_refused",),
    ),
    Mutation(
        "the end after three failed saves", "simplellm/training/saver.py",
        "MOST_FAILURES = 3 ", "MOST_FAILURES = 9 ",
        ("tests/faults/test_disk.py::test_the_third_failure_in_a_row_ends_the_training_and_names_the_last_good_checkpoint",),
    ),
    Mutation(
        "that a stop is no evaluation", "simplellm/training/trainer.py",
        "if is_best and self.progress.last_counts:", "if is_best:",
        ("tests/faults/test_damage.py::test_a_stop_uses_up_no_patience_and_is_never_the_best",),
    ),
    Mutation(
        "the sanitizer before a write", "simplellm/app/screen.py",
        "shown = self._foreign.push(text)\n", "shown = text\n", ("tests/app/test_screen.py", "tests/app/test_hostile_text.py"),
    ),
    Mutation(
        "the sanitizer before a notice", "simplellm/app/screen.py",
        "self._print(self.notices, visible(text), style)", "self._print(self.notices, text, style)",
        ("tests/app/test_screen.py", "tests/app/test_hostile_text.py"),
    ),
    Mutation(
        "the sanitizer in a table", "simplellm/app/screen.py",
        "table.add_row(*(Text(visible(cell)) for cell in row))", "table.add_row(*(Text(cell) for cell in row))",
        ("tests/app/test_screen.py", "tests/app/test_hostile_text.py"),
    ),
)  # fmt: skip


def copy_of_the_project(folder: Path) -> Path:
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def is_missed(mutation: Mutation, project: Path) -> bool:
    """Whether a test turns red without the safeguard. ValueError where the safeguard does not stand where it is said to."""
    path = project / mutation.file
    source = path.read_text(encoding="utf-8")
    if source.count(mutation.text) != 1:
        raise ValueError(
            f"{mutation.safeguard}: its text is in {mutation.file} {source.count(mutation.text)} times"
        )
    path.write_text(source.replace(mutation.text, mutation.without), encoding="utf-8")
    try:
        return run_tests(mutation.tests, project) == TESTS_FAILED
    finally:
        path.write_text(source, encoding="utf-8")


def run_tests(tests: tuple[str, ...], project: Path) -> int:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-m",
        "not slow",
        *tests,
    ]
    there = os.environ | {"PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, cwd=project, env=there, capture_output=True, timeout=300
    ).returncode


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        project = copy_of_the_project(Path(folder))
        whole = tuple(sorted({test for mutation in MUTATIONS for test in mutation.tests}))
        if run_tests(whole, project) != 0:
            say("the tests are red with nothing taken out")
            return 1
        missed = 0
        for mutation in MUTATIONS:
            found = is_missed(mutation, project)
            missed += found
            say(f"{'red' if found else 'GREEN, so nobody misses it'}\twithout {mutation.safeguard}")
    say(f"{len(MUTATIONS)} safeguards taken out: {len(MUTATIONS) - missed} unnoticed")
    return 0 if missed == len(MUTATIONS) else 1


if __name__ == "__main__":
    sys.exit(main())
