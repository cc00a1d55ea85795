"""Clients on loopback, in a process of their own: what they cost is not the server's."""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

_BACK_S = 0.05


@dataclass
class Seen:
    """What the clients saw.

    Attributes:
        latencies: Seconds from a request to its answer, of those that were answered.
        batches: How many pictures shared the batch of each.
        wrong: Answers with a label that the library gives neither before nor after the change beside.
        refused: Requests that were told to come back later.
        failed: Why a request failed, if one did.
    """

    latencies: list[float] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    wrong: int = 0
    refused: int = 0
    failed: str | None = None


def ask(url: str, pictures: list[bytes], labels: list[list[str | None]], clients: int, seconds: float) -> Seen:
    """Asks by so many clients, each one picture after the other, for so long.

    Args:
        url: The server's.
        pictures: What they send.
        labels: The answers that are right, of each picture.
        clients: How many there are.
        seconds: How long they ask.
    """
    seen, end = Seen(), monotonic() + seconds
    threads = [
        threading.Thread(target=_client, args=(url, pictures, labels, number, end, seen)) for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def _client(
    url: str, pictures: list[bytes], labels: list[list[str | None]], number: int, end: float, seen: Seen
) -> None:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=120)
    turn = number * len(pictures) // 16
    try:
        while (start := monotonic()) < end:
            place = turn % len(pictures)
            turn += 1
            connection.request("POST", "/recognize", pictures[place], {"Content-Type": "image/jpeg"})
            response = connection.getresponse()
            content = json.loads(response.read())
            if response.status in (429, 503):
                seen.refused += 1
                threading.Event().wait(_BACK_S)
                continue
            if response.status != 200:
                raise RuntimeError(f"{response.status}: {content.get('error')}")
            seen.latencies.append(monotonic() - start)
            seen.batches.append(content["batch"])
            seen.wrong += content["results"][0]["label"] not in labels[place]
    except (OSError, RuntimeError, http.client.HTTPException, ValueError) as error:
        seen.failed = f"{type(error).__name__}: {error}"
    finally:
        connection.close()


def main() -> int:
    """Asks as standard input says, and tells on standard output what was seen."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    args = parser.parse_args()
    asked = json.load(sys.stdin)
    pictures = [Path(name).read_bytes() for name in asked["pictures"]]
    seen = ask(args.url, pictures, asked["labels"], args.clients, args.seconds)
    json.dump(vars(seen), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
