"""Serves the page on this machine."""

import errno
import logging
import os
import socket
from importlib.util import find_spec

from papers_to_gpt.settings.demonstration import LOOPBACK, DemonstrationSettings
from papers_to_gpt.settings.wording import counted

logger = logging.getLogger(__name__)

PORTS_TO_TRY = 50
WAITING_CONNECTIONS = 128
SECONDS_TO_END = 1  # for requests that run when the process is stopped


def run(settings: DemonstrationSettings) -> None:
    """Serves the page until the process is stopped.

    Raises:
        ValueError: if a library is missing, the address cannot be used, or there is no model.
    """
    check_libraries()
    # From here on no other program can take the port; a browser that comes too early waits.
    with listen(settings.host, settings.port) as listener:
        # Nothing that is imported below may ask the network.
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["HF_HUB_OFFLINE"] = "1"
        # After the checks: these imports take seconds.
        from transformers.utils import logging as transformers_logging

        from papers_to_gpt.demonstration.finding import find_models

        transformers_logging.disable_progress_bar()
        found = find_models(settings.model_name_or_path, settings.models_dir)

        import uvicorn

        from papers_to_gpt.demonstration.loading import ModelStore
        from papers_to_gpt.demonstration.page import build_app

        app = build_app(ModelStore(found, settings.max_loaded_models), settings)
        if settings.host not in LOOPBACK:
            logger.warning(
                "host is %s: everyone who reaches this machine can use the page, which asks for no password. Leave "
                "host out to keep it to yourself.",
                settings.host,
            )
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        print(f"{counted(len(found), 'model')} at http://{host}:{settings.port} (Ctrl-C stops)", flush=True)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=SECONDS_TO_END)
        uvicorn.Server(config).run(sockets=[listener])


def check_libraries() -> None:
    """Raises ValueError if a library that the page needs is not installed; the message says how to install it."""
    missing = [name for name in ("gradio", "matplotlib") if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"The page needs the package{'s' if missing[1:] else ''} {' and '.join(missing)}: pip install "
            f"{' '.join(missing)} (or the extra `demo` of papers-to-gpt)."
        )


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens at an address.

    Raises:
        ValueError: if the host is not this machine, or the port cannot be used; the message says what to do.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise ValueError(
            f"host is {host}, which is no address ({error.strerror}). Leave it out for this machine alone, or set it "
            "to an address of this machine; 0.0.0.0 is all of them."
        ) from error
    try:
        return _listen(family, host, port)
    except PermissionError as error:
        raise ValueError(f"port is {port}, which this user may not use. Choose one from 1024 up.") from error
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise ValueError(
                f"host is {host}, which is no address of this machine ({error.strerror}). Leave it out for this "
                "machine alone; 0.0.0.0 is all its addresses."
            ) from error
        free = next((other for other in _above(port) if _is_free(family, host, other)), None)
        hint = "Choose another" if free is None else f"Port {free} is free: set --port {free}"
        raise ValueError(
            f"port is {port}, which another program uses, perhaps an earlier demo. {hint}, or stop that program."
        ) from error


def _above(port: int) -> range:
    return range(port + 1, min(port + PORTS_TO_TRY, 65535) + 1)


def _is_free(family: int, host: str, port: int) -> bool:
    try:
        _listen(family, host, port).close()
    except OSError:
        return False
    return True


def _listen(family: int, host: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(WAITING_CONNECTIONS)
    except OSError:
        listener.close()
        raise
    return listener
