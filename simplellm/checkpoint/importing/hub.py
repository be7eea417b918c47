"""Downloads a model from the Hugging Face hub: `hf:OWNER/NAME` or `hf:OWNER/NAME@REVISION`.

Only descriptions, safetensors files and the tokenizer are downloaded: no code and no pickle.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from simplellm.errors import CheckpointError, SettingError

HUB_MARK = "hf:"
SPEC = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
NO_ACCESS = (401, 403)  # HTTP status codes
FILES = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


def is_hub_name(source: str) -> bool:
    return source.startswith(HUB_MARK)


def download(source: str) -> tuple[Path, str]:
    """The folder of a downloaded model, and its name with the exact revision.

    huggingface_hub keeps the files in its cache. SettingError for a wrong name or where the package
    is missing, CheckpointError where the model cannot be had.
    """
    match = SPEC.fullmatch(source)
    if match is None:
        raise SettingError(
            f"a model on the hub is hf:OWNER/NAME or hf:OWNER/NAME@REVISION, got {source[:100]!r}",
            fix="hf:HuggingFaceTB/SmolLM2-135M-Instruct",
        )
    name, revision = match.groups()
    hub = _hub()
    try:
        folder = Path(hub.snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except Exception as error:  # of huggingface_hub, its HTTP client or the system
        raise _explained(source, error) from error
    return folder, f"{HUB_MARK}{name}@{folder.name}"


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise SettingError(
            "hf: needs the package huggingface_hub", fix='pip install "simplellm[hub]"'
        ) from error
    return huggingface_hub


def _explained(source: str, error: Exception) -> CheckpointError:
    """What the user can do about it, by the class of the error: it has many base classes."""
    names = {cls.__name__ for cls in type(error).__mro__}
    status = _status_of(error)
    if names & {"GatedRepoError"} or (status in NO_ACCESS and "HfHubHTTPError" in names):
        return CheckpointError(f"{source} asks for an account", fix="hf auth login")
    if names & {"RepositoryNotFoundError", "RevisionNotFoundError", "HFValidationError"}:
        return CheckpointError(f"there is no model {source} on the hub", fix="check its name")
    if status is not None:
        return CheckpointError(
            f"{source} cannot be downloaded: the hub answers {status}", fix="try again later"
        )
    if "LocalEntryNotFoundError" in names or names & {"ConnectionError", "ConnectError"}:
        return CheckpointError(
            f"{source} is not on this machine, and the hub cannot be reached",
            fix="go online, or name a folder",
        )
    if isinstance(error, OSError) and error.strerror:
        return CheckpointError(f"{source} cannot be downloaded: {error.strerror}")
    return CheckpointError(
        f"{source} cannot be downloaded: {type(error).__name__}", fix="try again, or name a folder"
    )


def _status_of(error: BaseException | None) -> int | None:
    """The HTTP status of the answer that caused an error; None where there was no answer."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
        error = error.__cause__ or error.__context__
    return None
