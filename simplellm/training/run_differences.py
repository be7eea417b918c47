"""What differs between two starts of one training, by their run.json: text, device, versions."""

from __future__ import annotations

from collections.abc import Iterator

from simplellm.training.run_info import Facts, RunInfo

COMPARED_VERSIONS = ("simplellm", "torch", "numpy", "tiktoken", "rustbpe")


def of_environment(then: Facts, now: Facts) -> list[str]:
    """Device, number format, processes and package versions that are not as they were."""
    return list(_environment(then, now))


def _environment(then: Facts, now: Facts) -> Iterator[str]:
    if then.get("device") not in (None, now["device"]):
        yield f"the device was {then['device']}, now {now['device']}"
    if then.get("world_size", 1) != now["world_size"]:
        yield f"{then.get('world_size', 1)} processes trained it, now {now['world_size']}"
    versions = then.get("versions") or {}
    for name in COMPARED_VERSIONS if versions else ():
        if versions.get(name) != now["versions"][name]:
            yield f"{name} was {versions.get(name)}, now {now['versions'][name]}"


def of_texts(then: RunInfo, now: RunInfo) -> list[str]:
    """Differences of the content of the texts; their paths do not count."""
    if then.text_digests != now.text_digests:
        known = then.text_digests
        fingerprint: dict[str, str] = now.facts["fingerprint"]
        names = [name for name, digest in fingerprint.items() if digest not in known]
        return [f"the text is another one: {', '.join(names) or 'other files or another order'}"]
    if then.val_digests != now.val_digests:
        return ["the validation text is another one"]
    if then.tokenizer_fingerprint not in (None, now.tokenizer_fingerprint):
        return ["the tokenizer is another one"]
    return []


def of_base(then: RunInfo, now: RunInfo) -> list[str]:
    """A difference of the model that training started from."""
    known, used = (info.facts.get("from_sha256") for info in (then, now))
    if bool(then.facts.get("from")) != bool(now.facts.get("from")) or known not in (None, used):
        return ["the model that training starts from is another one"]
    return []
