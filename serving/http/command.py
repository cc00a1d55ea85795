"""`rar-serve`: answers over HTTP what pictures show, and serves a page to try it."""

from __future__ import annotations

import argparse
import io
import ipaddress
import logging
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from rar.runtime import Recognizer
from rar.runtime.bundle.regular import open_regular
from rar.runtime.cli.arguments import Parser
from rar.runtime.cli.guard import guard
from rar.runtime.errors import InputError
from rar.runtime.picture.load import Reading
from rar.runtime.session import CHOICES

from .limits import Keys, Limits

if TYPE_CHECKING:
    from .protocol import Server
    from .service import Service

_LOG = logging.getLogger("rar.serving")
_KEY = "RAR_API_KEY"
_SHORTEST_KEY = 16
# Phones take pictures of 12 to 50 million pixels.
_MAX_PIXELS = 50_000_000
_MAX_BATCH = 1024
_BACKLOG = 512

# How the limits are called, and what they are; the defaults are those of `Limits`.
_LIMITS = {
    "body": ("--max-body", "bytes of one request"),
    "held": ("--max-held", "bytes of all requests together"),
    "pictures": ("--max-pictures", "pictures, or boxes, of one request"),
    "queue": ("--queue", "pictures that wait"),
    "connections": ("--connections", "open connections"),
    "rate": ("--rate", "requests a second of one address (default: any number)"),
    "timeout": ("--timeout", "seconds until a picture is answered"),
    "slow": ("--slow", "seconds to send a request's head, and then its body"),
    "drain": ("--drain", "seconds that running requests have at the end"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns 0 when it was told to end, or 2 if it cannot serve."""
    args = _parser().parse_args(argv)
    return guard("rar-serve", lambda: _run(args), "cpu,serve")


def _parser() -> Parser:
    parser = Parser(prog="rar-serve", description=__doc__)
    parser.add_argument("bundle", metavar="BUNDLE", help="folder made by rar-export")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s, this machine)")
    parser.add_argument("--port", type=int, default=8000, help="default: %(default)s; 0 for any")
    parser.add_argument(
        "--api-key-file", metavar="FILE", help=f"keys, one a line, that clients must send (or one in ${_KEY})"
    )
    parser.add_argument(
        "--no-key", action="store_true", help="let everyone in who reaches an address that is not this machine's alone"
    )
    parser.add_argument("--name", action="append", default=[], metavar="HOST", help="what else this server is called")
    parser.add_argument("--certificate", metavar="FILE", help="for HTTPS (.pem); phones give their camera to no other")
    parser.add_argument("--certificate-key", metavar="FILE", help="its key (.pem)")
    parser.add_argument("--pictures", metavar="DIR", help="where the memory's pictures lie, to show them on the page")
    parser.add_argument("--model-name", default="rar", metavar="NAME", help="in /v2/models/NAME (default: %(default)s)")
    parser.add_argument("--provider", default="auto", choices=CHOICES, help="what runs the models")
    parser.add_argument("--threads", type=int, metavar="N", help="of each session (default: one a core)")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="pictures at once (default: 16)")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="batches answered side by side (default: %(default)s)"
    )
    parser.add_argument("--max-pixels", type=int, default=_MAX_PIXELS, metavar="N", help="default: 50 million")
    group = parser.add_argument_group("limits")
    for one in fields(Limits):
        flag, text = _LIMITS[one.name]
        number = int if isinstance(one.default, int) else float
        text += "" if one.default is None else f" (default: {one.default})"
        group.add_argument(flag, dest=f"limit_{one.name}", type=number, default=one.default, metavar="N", help=text)
    parser.add_argument("--verbose", action="store_true", help="log what runs the models, and each batch that failed")
    return parser


def _run(args: argparse.Namespace) -> int:
    logging.basicConfig(format="%(name)s: %(message)s")
    logging.getLogger("rar").setLevel(logging.INFO if args.verbose else logging.WARNING)
    limits = Limits(**{one.name: getattr(args, f"limit_{one.name}") for one in fields(Limits)})
    keys = read_keys(args.api_key_file, os.environ.get("RAR_API_KEY"))
    _check(args, keys)
    with Recognizer.open(
        args.bundle, args.provider, threads=args.threads, reading=Reading(max_pixels=args.max_pixels)
    ) as recognizer:
        own, server = opened(recognizer, args, limits, keys)
        try:
            _warm(recognizer)
            server.run(sockets=[_listening(args)])
        finally:
            own.close()
    return 0


def opened(recognizer: Recognizer, args: argparse.Namespace, limits: Limits, keys: Keys) -> tuple[Service, Server]:
    """The service of a recognizer, and the server that it is asked through."""
    from .app import application
    from .batching import Batcher
    from .metrics import Metrics
    from .protocol import configured
    from .service import Service
    from .thumbnails import Thumbnails

    folder = None if args.pictures is None else Path(args.pictures)
    thumbnails = Thumbnails(Path(args.bundle), folder, Reading(max_pixels=args.max_pixels))
    batcher = Batcher(recognizer, args.batch_size, args.workers, limits.queue)
    own = Service(recognizer, batcher, limits, Metrics(), thumbnails, args.model_name)
    certificate = None if args.certificate is None else (args.certificate, args.certificate_key)
    try:
        app = application(own, keys, tuple(args.name))
        return own, configured(app, limits, args.host, args.port, certificate)
    except BaseException:
        own.close()  # its threads would keep the process
        raise


def read_keys(file: str | None, given: str | None) -> Keys:
    """The keys of a file, one a line, and of the environment.

    Raises:
        InputError: The file cannot be read, or others may read it; it holds no key, or one that can be guessed.
    """
    keys = [] if given is None else [given.strip()]
    if file is not None:
        try:
            with os.fdopen(open_regular(file, os.O_RDONLY), encoding="utf-8") as lines:
                if os.fstat(lines.fileno()).st_mode & 0o077:
                    raise InputError(f"{file}: others may read the keys; run `chmod 600 {file}`")
                found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        except OSError as error:
            raise InputError(f"{file}: the keys cannot be read ({error.strerror}); check the path") from error
        if not found:
            raise InputError(f"{file}: holds no key; write one a line")
        keys += found
    for key in keys:
        if len(key) < _SHORTEST_KEY or not (key.isascii() and key.isprintable()) or " " in key:
            raise InputError(
                f"a key is shorter than {_SHORTEST_KEY} letters and digits, or has others in it; take one of "
                "`openssl rand -hex 24`"
            )
    return Keys(tuple(keys))


def _check(args: argparse.Namespace, keys: Keys) -> None:
    """Checks that the options go together.

    Raises:
        InputError: They do not.
    """
    try:
        alone = ipaddress.ip_address(args.host).is_loopback
    except ValueError:
        alone = args.host == "localhost"
    if not alone and not keys and not args.no_key:
        raise InputError(
            f"--host {args.host} lets others in: give --api-key-file FILE or set {_KEY}; or say --no-key to let "
            "everyone read and change the memory"
        )
    if (args.certificate is None) != (args.certificate_key is None):
        raise InputError("--certificate and --certificate-key go together")
    for file in (args.certificate, args.certificate_key):
        if file is not None and not Path(file).is_file():
            raise InputError(f"{file}: no such file; check the path")
    if args.pictures is not None and not Path(args.pictures).is_dir():
        raise InputError(f"{args.pictures}: no such folder of pictures")
    if not 0 <= args.port <= 65535:
        raise InputError(f"--port {args.port}; give 1 to 65535, or 0 for any")
    if not 1 <= args.batch_size <= _MAX_BATCH or not 1 <= args.workers <= 64:
        raise InputError(f"--batch-size {args.batch_size} --workers {args.workers}; give 1 to {_MAX_BATCH}, 1 to 64")
    if not args.model_name or not args.model_name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise InputError(f"--model-name {args.model_name!r}; give letters, digits, dots and hyphens")


def _warm(recognizer: Recognizer) -> None:
    """Answers one picture, so that the first client does not wait for what is loaded once."""
    if not recognizer.memory.classes:
        return
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (127, 127, 127)).save(file, "PNG")
    for result in recognizer.recognize(file.getvalue()):
        if result.error is not None:
            raise result.error


def _listening(args: argparse.Namespace) -> socket.socket:
    """A socket that clients may come to; its address is told on stderr.

    Raises:
        InputError: Nobody can listen there.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(args.host, args.port, type=socket.SOCK_STREAM)[0]
        own = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        raise InputError(f"--host {args.host} --port {args.port}: {error}; choose another") from error
    host, port = own.getsockname()[:2]
    scheme = "http" if args.certificate is None else "https"
    shown = f"[{host}]" if family == socket.AF_INET6 else host
    print(f"rar-serve: {scheme}://{shown}:{port}/", file=sys.stderr, flush=True)
    return own


if __name__ == "__main__":
    sys.exit(main())
