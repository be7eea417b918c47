"""Removes one safeguard at a time from a copy of the project; a test must fail for each.

`python tests/faults/mutations.py` prints a line for each, and exits with 1 if one is not noticed.
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
TESTS_FAILED = 1  # exit code of pytest when tests ran and some failed


@dataclass(frozen=True)
class Mutation:
    """A safeguard in `file`, removed by replacing `text`, which occurs there once, by `without`.

    One of `tests` must fail then: a file of tests, or one test where a whole file takes long.
    """

    safeguard: str
    file: str
    text: str
    without: str
    tests: tuple[str, ...]


MUTATIONS = (
    Mutation(
        "fsync of a file",
        "simplellm/storage/files.py",
        "        file.flush()\n        os.fsync(file.fileno())\n",
        "        file.flush()\n",
        ("tests/storage/test_files.py",),
    ),
    Mutation(
        "fsync of a new folder before its rename",
        "simplellm/storage/files.py",
        "        fsync_folder(Path(folder))\n",
        "        pass\n",
        ("tests/storage/test_files.py",),
    ),
    Mutation(
        "fsync of the parent of a renamed folder",
        "simplellm/storage/files.py",
        "        _rename(os.rename, temporary, path)\n        fsync_folder(path.parent)\n",
        "        _rename(os.rename, temporary, path)\n",
        ("tests/storage/test_files.py",),
    ),
    Mutation(
        "fsync of the parent of a pointer file",
        "simplellm/storage/files.py",
        "        _rename(os.replace, temporary, path)\n        fsync_folder(path.parent)\n",
        "        _rename(os.replace, temporary, path)\n",
        ("tests/storage/test_files.py",),
    ),
    Mutation(
        "SHA-256 of a checkpoint's files",
        "simplellm/storage/manifest.py",
        " == size and sha256_of(folder / name) == digest",
        " == size",
        ("tests/checkpoint/test_step_folder.py",),
    ),
    Mutation(
        "size and SHA-256 of a checkpoint's files",
        "simplellm/storage/manifest.py",
        "matches = (folder / name).stat().st_size == size and sha256_of(folder / name) == digest",
        "matches = (folder / name).exists()",
        ("tests/checkpoint/test_step_folder.py",),
    ),
    Mutation(
        "check of the manifest's own bytes",
        "simplellm/storage/manifest.py",
        "    if not is_as_written:\n",
        "    if False:\n",
        ("tests/checkpoint/test_step_folder.py",),
    ),
    Mutation(
        "lock of a run",
        "simplellm/storage/lock.py",
        "        if try_lock(handle):\n            return True\n",
        "        return True\n",
        ("tests/storage/test_lock.py",),
    ),
    Mutation(
        "finite check of the loss",
        "simplellm/training/training_step.py",
        "if math.isfinite(self.loss) and math.isfinite(self.gradient_norm):",
        "if math.isfinite(self.gradient_norm):",
        ("tests/training/test_trainer.py",),
    ),
    Mutation(
        "finite check of the gradient norm",
        "simplellm/training/training_step.py",
        "if math.isfinite(self.loss) and math.isfinite(self.gradient_norm):",
        "if math.isfinite(self.loss):",
        ("tests/training/test_trainer.py",),
    ),
    Mutation(
        "fsync of the parent of a new folder",
        "simplellm/storage/files.py",
        "        folder.mkdir(exist_ok=True)\n        fsync_folder(folder.parent)\n",
        "        folder.mkdir(exist_ok=True)\n",
        ("tests/faults/test_disk.py::test_a_save_is_durable_in_order",),
    ),
    Mutation(
        "fsync of the prepared ids",
        "simplellm/data/prepared_corpus.py",
        "        file.flush()\n        os.fsync(file.fileno())\n",
        "        file.flush()\n",
        ("tests/faults/test_disk.py::test_a_whole_training_is_durable_in_order",),
    ),
    Mutation(
        "temporary name of a new folder",
        "simplellm/storage/files.py",
        "    temporary, handle = _held_temporary(path)\n",
        "    (temporary := path).mkdir()\n    handle = None\n",
        ("tests/storage/test_files.py",),
    ),
    Mutation(
        "deletion of the temporary file of a failed write",
        "simplellm/storage/files.py",
        "        with contextlib.suppress(OSError):\n"
        "            temporary.unlink()\n"
        "        raise\n",
        "        raise\n",
        ("tests/storage/test_files.py",),
    ),
    Mutation(
        "lock of the temporary folder of a live process",
        "simplellm/storage/files.py",
        "        return not try_lock(handle)\n",
        "        return False\n",
        ("tests/faults/test_kills.py::test_files_of_a_live_process_are_not_leftovers",),
    ),
    Mutation(
        "refusal of links in a checkpoint",
        "simplellm/storage/manifest.py",
        "path.lstat().st_mode",
        "path.stat().st_mode",
        ("tests/faults/test_damage.py::test_a_checkpoint_with_links_or_extra_files_is_refused",),
    ),
    Mutation(
        "SHA-256 of prepared ids",
        "simplellm/storage/files.py",
        "return all(sha256_of(folder / name) == digests[name] for name in names)",
        "return all((folder / name).exists() and name in digests for name in names)",
        ("tests/data/test_prepared_corpus.py",),
    ),
    Mutation(
        "SHA-256 of the text of a resumed run",
        "simplellm/training/resume_changes.py",
        "    if now == then:\n",
        "    if True:\n",
        ("tests/training/test_resume.py",),
    ),
    Mutation(
        "check of the tokenizer of a resumed run",
        "simplellm/training/resume_changes.py",
        "is_same = info.tokenizer_fingerprint in (None, saved.fingerprint)",
        "is_same = True",
        (
            "tests/faults/test_damage.py::"
            "test_resume_refuses_changed_inputs_unless_they_are_accepted",
        ),
    ),
    Mutation(
        "check of the model of a resumed run",
        "simplellm/training/resume_changes.py",
        "if then.get(key) != now.get(key)]",
        "if False]",
        (
            "tests/faults/test_damage.py::"
            "test_resume_refuses_changed_inputs_unless_they_are_accepted",
        ),
    ),
    Mutation(
        "lock of a training",
        "simplellm/training/preparation.py",
        "            lock.acquire()\n",
        "            pass\n",
        (
            "tests/faults/test_kills.py::"
            "test_a_second_training_of_a_run_is_refused_and_changes_nothing",
        ),
    ),
    Mutation(
        "check that the locked file still has its name",
        "simplellm/storage/lock.py",
        "        if _is_at(handle, path):\n            return handle\n",
        "        return handle\n",
        ("tests/storage/test_lock.py",),
    ),
    Mutation(
        "lock of a run folder that is created again",
        "simplellm/training/saver.py",
        "            self.lock.keep()\n",
        "            pass\n",
        ("tests/faults/test_disk.py::test_a_run_folder_created_again_is_locked_again",),
    ),
    Mutation(
        "finite check of what is saved",
        "simplellm/checkpoint/run.py",
        "        refuse_non_finite({**weights, **state.tensors})\n",
        "",
        ("tests/faults/test_finite.py::test_a_save_refuses_non_finite_numbers",),
    ),
    Mutation(
        "finite check of loaded weights",
        "simplellm/checkpoint/hugging_face.py",
        "    refuse_non_finite(dict(zip(place.names, parts, strict=True)), source)\n",
        "",
        ("tests/checkpoint/test_step_folder.py",),
    ),
    Mutation(
        "finite check of loaded training state",
        "simplellm/checkpoint/training_state.py",
        "        refuse_non_finite(tensors)\n",
        "        pass\n",
        ("tests/faults/test_hostile.py::test_training_state_that_does_not_fit_is_refused",),
    ),
    Mutation(
        "check of the offsets in a safetensors header",
        "simplellm/storage/safetensors_header.py",
        "        _check_byte_ranges(entries, size - LENGTH_BYTES - length)\n",
        "",
        ("tests/faults/test_hostile.py::test_an_inconsistent_safetensors_header_is_refused",),
    ),
    Mutation(
        "check of the length of a safetensors header",
        "simplellm/storage/safetensors_header.py",
        "            if not 2 <= length <= min(size - LENGTH_BYTES, MAX_HEADER_BYTES):\n",
        "            if False:\n",
        ("tests/faults/test_hostile.py::test_an_inconsistent_safetensors_header_is_refused",),
    ),
    Mutation(
        "limit of the RoPE table that a config may request",
        "simplellm/checkpoint/step_folder.py",
        "    if rope_bytes > max(",
        "    if 0 > max(",
        ("tests/faults/test_hostile.py::test_a_config_cannot_request_a_huge_rope_table",),
    ),
    Mutation(
        "check of the split pattern of a tokenizer",
        "simplellm/data/tokenizer_file.py",
        "    if pattern is None:\n",
        "    if 0:\n",
        ("tests/data/test_imported_tokenizers.py::test_what_is_not_supported_is_refused_by_name",),
    ),
    Mutation(
        "check of the optimizer state against the weights",
        "simplellm/training/optimizer.py",
        "        self._check_state(state)\n",
        "",
        ("tests/faults/test_hostile.py::test_training_state_that_does_not_fit_is_refused",),
    ),
    Mutation(
        "end of the training after three failed saves",
        "simplellm/training/saver.py",
        "MAX_FAILURES = 3 ",
        "MAX_FAILURES = 9 ",
        ("tests/faults/test_disk.py::test_the_third_failed_save_in_a_row_ends_the_training",),
    ),
    Mutation(
        "rule that a stop is not an evaluation",
        "simplellm/training/trainer.py",
        "if is_best and self.progress.last_counts:",
        "if is_best:",
        ("tests/faults/test_damage.py::test_a_stop_does_not_count_as_an_evaluation",),
    ),
    Mutation(
        "sanitizer of written text",
        "simplellm/app/screen.py",
        "self._wrapped(self._sanitizer.push(text), style)",
        "self._wrapped(text, style)",
        (
            "tests/app/test_screen.py",
            "tests/app/test_hostile_text.py",
        ),
    ),
    Mutation(
        "sanitizer of notices",
        "simplellm/app/screen.py",
        "self._print_words(self.notices, visible(text), style)",
        "self._print_words(self.notices, text, style)",
        (
            "tests/app/test_screen.py",
            "tests/app/test_hostile_text.py",
        ),
    ),
    Mutation(
        "sanitizer of tables",
        "simplellm/app/screen.py",
        "cells = [[visible(cell) for cell in row] for row in rows]",
        "cells = [list(row) for row in rows]",
        (
            "tests/app/test_screen.py",
            "tests/app/test_hostile_text.py",
        ),
    ),
    Mutation(
        "the check of a request's Host",
        "simplellm/server/middleware.py",
        "        if not self._access.allows_host(host):\n",
        "        if False:\n",
        ("tests/server/test_access.py::test_the_guards_of_a_server",),
    ),
    Mutation(
        "the check of a request's Origin",
        "simplellm/server/middleware.py",
        "        if origin is not None and not self._access.allows_origin(origin, host):\n",
        "        if False:\n",
        ("tests/server/test_access.py::test_the_guards_of_a_server",),
    ),
    Mutation(
        "the check of an API key",
        "simplellm/server/access.py",
        '        return hmac.compare_digest((given or "").encode(), self.api_key.encode())\n',
        "        return bool(given)\n",
        ("tests/server/test_access.py::test_keys_are_compared_as_a_whole",),
    ),
    Mutation(
        "the end of a reply whose client has gone",
        "simplellm/server/event_stream.py",
        "        finally:\n            self._close()\n",
        "        finally:\n            pass\n",
        ("tests/server/test_connections.py::test_a_client_that_disconnects_cancels_its_request",),
    ),
    Mutation(
        "the limit of connections",
        "simplellm/server/connections.py",
        "            oldest.transport.abort()\n",
        "            pass\n",
        (
            "tests/server/test_connections.py"
            "::test_the_oldest_idle_connection_is_closed_for_a_new_one",
        ),
    ),
    Mutation(
        "the answer to a failure that names no cause",
        "simplellm/server/api_error.py",
        '    return ApiError(500, INTERNAL, code="internal_error")\n',
        '    return ApiError(500, str(error), code="internal_error")\n',
        (
            "tests/server/test_errors.py"
            "::test_an_answer_to_a_failure_of_the_server_tells_nothing_about_it",
        ),
    ),
)


def copy_of_the_project(folder: Path) -> Path:
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def is_noticed(mutation: Mutation, project: Path) -> bool:
    """Whether a test fails without the safeguard. ValueError if its text is not there once."""
    path = project / mutation.file
    source = path.read_text(encoding="utf-8")
    if (count := source.count(mutation.text)) != 1:
        raise ValueError(f"{mutation.safeguard}: its text is in {mutation.file} {count} times")
    path.write_text(source.replace(mutation.text, mutation.without), encoding="utf-8")
    try:
        return run_tests(mutation.tests, project) == TESTS_FAILED
    finally:
        path.write_text(source, encoding="utf-8")


def run_tests(tests: tuple[str, ...], project: Path) -> int:
    options = ["-q", "-x", "-p", "no:cacheprovider", "-m", "not slow"]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    env = os.environ | {"PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, cwd=project, env=env, capture_output=True, timeout=300
    ).returncode


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        project = copy_of_the_project(Path(folder))
        whole = tuple(sorted({test for mutation in MUTATIONS for test in mutation.tests}))
        if run_tests(whole, project) != 0:
            say("the tests fail without any change")
            return 1
        noticed = 0
        for mutation in MUTATIONS:
            found = is_noticed(mutation, project)
            noticed += found
            say(f"{'noticed' if found else 'NOT NOTICED'}\twithout {mutation.safeguard}")
    say(f"{len(MUTATIONS)} safeguards removed: {len(MUTATIONS) - noticed} unnoticed")
    return 0 if noticed == len(MUTATIONS) else 1


if __name__ == "__main__":
    sys.exit(main())
