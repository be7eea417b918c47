"""The command `serve`: an HTTP server in the shape of OpenAI's API, with a chat page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from simplellm.app.console import write_json
from simplellm.app.loaded_run import display_name
from simplellm.app.options import ServeOptions
from simplellm.app.screen import Screen
from simplellm.app.subcommands.shared import checkpoint_of, device_of, load_sampler, screen_of
from simplellm.base.packaged import BASE, is_base
from simplellm.checkpoint.find_runs import run_of
from simplellm.config.sampling import SamplingParams
from simplellm.errors import SettingError, SimpleLLMError
from simplellm.inference.engine.engine import Engine
from simplellm.server.access import Access

if TYPE_CHECKING:  # needs the extra `serve`
    from simplellm.server.running import Listeners
    from simplellm.server.served_model import ServedModel

API_KEY_VARIABLE = "SIMPLELLM_API_KEY"


def serve(options: ServeOptions) -> int:
    screen = screen_of(options)
    access = _access(options)
    try:
        from simplellm.server.running import addresses, bound_sockets
    except ImportError as error:
        raise SimpleLLMError(
            f"serve needs the packages starlette and uvicorn ({error})",
            fix='pip install "simplellm[serve]"',
        ) from error
    # Before the model is loaded, so that a mistake is reported at once.
    listeners = bound_sockets(options.host, options.port)
    try:
        access.check_exposure(addresses(listeners), API_KEY_VARIABLE)
        return _serve(options, access, listeners, screen)
    finally:
        for listener in listeners:
            listener.close()


def _serve(options: ServeOptions, access: Access, listeners: Listeners, screen: Screen) -> int:
    from simplellm.server.application import create_app
    from simplellm.server.insight import insight_routes
    from simplellm.server.page_files import page_routes
    from simplellm.server.running import run_server
    from simplellm.server.service import Service

    folder = checkpoint_of(options, screen)
    sampler = device_of(options, screen).run(lambda device: load_sampler(folder, device, options))
    url = page_url(options.host, listeners[0].getsockname()[1])
    with Engine(sampler) as engine:
        model = _served_model(folder, engine, options)
        service = Service(model, access, screen.notice)
        return run_server(
            create_app(service, [*insight_routes(model), *page_routes()]),
            service,
            listeners,
            lambda: _announce(url, model.name, options, screen),
        )


def page_url(host: str, port: int) -> str:
    """The address of the page for a browser on this machine."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    if ":" in name and not name.startswith("["):
        name = f"[{name}]"
    return f"http://{name}:{port}/"


def _access(options: ServeOptions) -> Access:
    """Who may use the server; SettingError for settings that do not fit."""
    if SamplingParams(**options.sampling).num_beams > 1:
        raise SettingError(
            "serve samples its replies and has no beam search",
            fix="leave --num-beams out, or use generate",
        )
    api_key = options.api_key
    if api_key is None:
        api_key = os.environ.get(API_KEY_VARIABLE) or None
    return Access(options.host, api_key, options.allowed_hosts, options.cors_origins)


def _served_model(folder: Path, engine: Engine, options: ServeOptions) -> ServedModel:
    """The model of a checkpoint as the API shows it, under the name of its run."""
    from simplellm.server.served_model import ServedModel

    return ServedModel(
        name=BASE if is_base(folder) else display_name(run_of(folder).name),
        folder=folder,
        created=int(folder.stat().st_mtime),
        sampler=engine.sampler,
        engine=engine,
        defaults=SamplingParams(**options.sampling),
        chat_defaults=SamplingParams.of_chat(**options.sampling),
    )


def _announce(url: str, name: str, options: ServeOptions, screen: Screen) -> None:
    if options.json:
        write_json({"url": url, "model": name})
    else:
        screen.notice(f"{name}: {url} (API: {url}v1); Ctrl-C stops")
