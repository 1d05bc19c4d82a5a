"""`memopt serve`: the proxy between OpenAI clients and a model."""

from pathlib import Path
from typing import Annotated

import typer

import memopt
from memopt.base.config import Config
from memopt.base.errors import UsageError
from memopt.base.units import KIB
from memopt.cli.directory import Directory, config_file
from memopt.cli.terminal import say

_SPOOL_BYTES = 16 * KIB
"""Of each open stream: there may be a thousand, and files are read from memory anyway."""


def serve(
    directory: Directory,
    upstream: Annotated[
        str | None,
        typer.Option("--upstream", help="The base URL of the model, such as .../v1."),
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on. [default: 127.0.0.1]")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="0 takes a free one. [default: 8484]")
    ] = None,
    scope: Annotated[
        str | None, typer.Option("--scope", help="Where conversations are. [default: default]")
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option("--settings", metavar="FILE", help="TOML file: keys, limits, upstream."),
    ] = None,
    upstream_key_env: Annotated[
        str | None,
        typer.Option(
            "--upstream-key-env", help="Variable with the key to send. [default: the client's]"
        ),
    ] = None,
) -> None:
    """Stand between OpenAI clients and a model, and keep every conversation. Stop it with Ctrl-C:
    what is open may end first."""
    try:
        from memopt.server.serving import serve as serve_http
        from memopt.server.settings import ServerSettings
    except ImportError as error:
        raise UsageError(f"needs memopt[server]: {error.name} is missing", field="serve") from None
    chosen = ServerSettings.load(
        settings, upstream=upstream, host=host, port=port, scope=scope,
        upstream_key_env=upstream_key_env,
    )  # fmt: skip
    named = Config.named(config_file.get())
    config = Config.load(
        config_file.get(), spool_bytes=None if "spool_bytes" in named else _SPOOL_BYTES
    )
    with memopt.open(directory, config=config) as memory:
        serve_http(memory, chosen, on_ready=lambda url: say(f"Serving {url} for {chosen.upstream}"))
