"""Serves the page on this machine."""

import logging
import os
import socket
import threading
from collections.abc import Iterable
from importlib.util import find_spec

from papers_to_gpt.settings.demonstration import LOOPBACK, DemonstrationSettings

logger = logging.getLogger(__name__)

PORTS_TO_TRY = 50


def run(settings: DemonstrationSettings) -> None:
    """Serves the page until the process is stopped.

    Raises:
        ValueError: if a library is missing, the address cannot be used, or there is no model.
    """
    check_libraries()
    check_address(settings.host, settings.port)
    # Nothing that is imported below may ask the network.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    # After the checks: these imports take seconds.
    from transformers.utils import logging as transformers_logging

    from papers_to_gpt.demonstration.finding import find_models

    transformers_logging.disable_progress_bar()
    found = find_models(settings.model_name_or_path, settings.models_dir)

    import gradio as gr

    from papers_to_gpt.demonstration.loading import ModelStore
    from papers_to_gpt.demonstration.page import CSS, HEAD, build_page

    page = build_page(ModelStore(found, settings.max_loaded_models), settings)
    if settings.host not in LOOPBACK:
        logger.warning(
            "host is %s: everyone who reaches this machine can use the page, which asks for no password. Leave host "
            "out to keep it to yourself.",
            settings.host,
        )
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    try:
        page.launch(
            server_name=f"[{settings.host}]" if ":" in settings.host else settings.host,
            server_port=settings.port,
            theme=gr.themes.Default(primary_hue="blue", **fonts),  # fonts of the user's system, which need no download
            css=CSS,
            head=HEAD,
            share=False,
            ssr_mode=False,
            mcp_server=False,
            run_history=False,
            enable_monitoring=False,
            footer_links=[],
            max_file_size="1kb",  # there is nothing to upload
            prevent_thread_lock=True,
            quiet=True,
        )
    except OSError as error:  # another program was faster
        raise ValueError(describe_used_port(settings.host, settings.port)) from error
    print(f"{len(found)} models at {page.local_url} (Ctrl-C stops)", flush=True)
    try:
        threading.Event().wait()
    finally:
        page.close(verbose=False)


def check_libraries(names: Iterable[str] = ("gradio", "matplotlib")) -> None:
    """Raises ValueError if a library that the page needs is not installed; the message says how to install it."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"The page needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed. "
            f"Install {'it' if len(missing) == 1 else 'them'} (pip install {' '.join(missing)})."
        )


def check_address(host: str, port: int) -> None:
    """Raises ValueError if no page can be served at an address: the host is not this machine, or the port is used."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise ValueError(
            f"host is {host}, which is no address ({error.strerror}). Leave it out for this machine alone, or set it "
            "to an address of this machine; 0.0.0.0 is all of them."
        ) from error
    try:
        _bind(family, host, port)
    except PermissionError as error:
        raise ValueError(f"port is {port}, which this user may not use. Choose one from 1024 up.") from error
    except OSError as error:
        if error.errno is not None and _is_free(family, host, 0):
            raise ValueError(describe_used_port(host, port)) from error
        raise ValueError(
            f"host is {host}, which is no address of this machine ({error.strerror}). Leave it out for this machine "
            "alone; 0.0.0.0 is all its addresses."
        ) from error


def describe_used_port(host: str, port: int) -> str:
    """Returns the message about a port that another program uses, with one that is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    higher = range(port + 1, min(port + PORTS_TO_TRY, 65535) + 1)
    free = next((other for other in higher if _is_free(family, host, other)), None)
    other = "Choose another" if free is None else f"Port {free} is free: set --port {free}"
    return f"port is {port}, which another program uses, perhaps an earlier demo. {other}, or stop that program."


def _is_free(family: int, host: str, port: int) -> bool:
    try:
        _bind(family, host, port)
    except OSError:
        return False
    return True


def _bind(family: int, host: str, port: int) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
