"""How many tokens a second a server writes for one client and for several at once.

    python -m benchmarks.serve MODEL [--clients 1 8] [--tokens 64]
    python -m benchmarks.serve MODEL --url http://127.0.0.1:8000/v1

Without `--url` it starts `smolalign serve MODEL`; with it, it asks any server with OpenAI's API. Answers are greedy,
and only tokens that were written count.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import openai


def main() -> None:
    """Measure each number of clients once, after a first request that warms up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--url")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    process = None
    url = options.url
    if url is None:
        command = [sys.executable, "-m", "smolalign.cli", "serve", options.model, "--port", "0", "--name", "m"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        url = process.stdout.readline().rpartition(" at ")[2].strip()
    try:
        name = options.model if options.url else "m"
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=3600)
        measure(client, name, 1, 1, 4)
        for clients in options.clients:
            seconds, written = measure(client, name, clients, options.requests, options.tokens)
            print(
                f"{clients} at once: {written} tokens in {seconds:.1f} s, {written / seconds:.1f} a second", flush=True
            )
    finally:
        if process is not None:
            process.terminate()
            process.wait()


def measure(client: openai.OpenAI, model: str, clients: int, requests: int, tokens: int) -> tuple[float, int]:
    """Seconds and tokens of so many requests, of which so many at once."""

    def ask(number: int) -> int:
        answer = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": f"Tell me a long story about the number {number}."}],
            max_tokens=tokens,
            temperature=0,
        )
        assert answer.usage is not None
        return answer.usage.completion_tokens

    began = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        written = sum(pool.map(ask, range(requests)))
    return time.monotonic() - began, written


if __name__ == "__main__":
    main()
