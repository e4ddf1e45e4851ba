"""`smolalign serve`: a model behind an address, until it is told to stop."""

from __future__ import annotations

import copy
import ipaddress
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolalign.adapters import is_adapter, merging
from smolalign.errors import UserError

# Seconds that answers in the making get to end when the server is told to stop; a second signal ends it at once.
GRACE = 10
# The context of a model whose configuration names none.
UNBOUNDED = 2**31


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients are held to: answers at once and waiting, tokens of an answer, bytes of a request's body."""

    max_batch: int
    max_queue: int
    max_tokens: int
    max_body: int


def serve(
    reference: str,
    *,
    host: str,
    port: int,
    name: str | None,
    api_key: str | None,
    limits: Limits,
    say: Callable[[str], None],
) -> None:
    """Load a model and answer until a signal says to stop.

    Args:
        reference: checkpoint folder, adapter folder, `.gguf` file or Hub id.
        host: an address of this machine, or a name of one.
        port: 0 takes a free one.
        name: what clients call the model; by default `reference`.
        api_key: what clients must show; None lets everyone in.
        limits: what clients are held to.
        say: shows a line.

    Raises:
        UserError: the address cannot be had, the model cannot be loaded or served, or a library is missing.
    """
    uvicorn = _libraries()
    place = _bound(host, port)
    with place:
        if api_key is None and not is_loopback(place.getsockname()[0]):
            say("warning: anyone who reaches this address may use the model; set --api-key or SMOLALIGN_API_KEY")
        if is_adapter(Path(reference)):
            say(f"({merging(Path(reference))})")
        app = _app(reference, name or reference, api_key, limits)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=GRACE,
            lifespan="on",
            server_header=False,
        )
        say(f"serving {name or reference} at {_url(place)}")
        # uvicorn raises the signals that it was stopped by once more, when it has ended in good order.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        uvicorn.Server(config).run(sockets=[place])
        say("stopped")


def _app(reference: str, name: str, api_key: str | None, limits: Limits) -> Any:
    from smolalign.model import load_model, load_tokenizer
    from smolalign.serve.app import Served, build
    from smolalign.serve.engine import Engine, can_batch
    from smolalign.serve.prepare import Preparer

    tokenizer = load_tokenizer(reference)
    model = load_model(reference).eval()
    if not can_batch(model):
        raise UserError(f"{reference} cannot be served: it keeps more than keys and values, or takes no positions")
    engine = Engine(model, tokenizer, max_batch=limits.max_batch, max_queue=limits.max_queue)
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or UNBOUNDED
    most = min(limits.max_tokens, context)
    preparer = Preparer(tokenizer, context=context, max_tokens=most, places=engine.places)
    # Each thread has a tokenizer of its own, as the engine does: one may not be used by two at once.
    return build(Served(name, engine, preparer, copy.deepcopy(tokenizer), api_key, limits.max_body))


def _libraries() -> Any:
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ImportError:
        raise UserError(
            "serve needs starlette and uvicorn, which are not installed", mend="pip install 'smolalign[serve]'"
        ) from None
    return uvicorn


def _bound(host: str, port: int) -> socket.socket:
    """A socket that listens, taken before the model is loaded, so that a wrong address is told at once."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        place = socket.socket(family, kind, protocol)
        if sys.platform != "win32":
            # A server that was just stopped does not keep its successor from the port.
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind(address)
        place.listen(128)
    except OSError as error:
        why = error.strerror or str(error)
        raise UserError(f"cannot listen at {host} port {port}: {why}", mend="choose another --port or --host") from None
    return place


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an address."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _url(place: socket.socket) -> str:
    host, port = place.getsockname()[:2]
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"
