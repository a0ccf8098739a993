#!/bin/sh
'''exec' "${0%/*}/venv/bin/python3" -I "$0" "$@" #'''
"""A stand-in for a runtime that prints what it is asked, which it should not, and dies where it is asked to."""

import http.server
import json
import os
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, body):
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self):
        self.answer({"status": "ok"})

    def do_POST(self):
        prompt = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["prompt"]
        print("asked:", prompt, flush=True)
        if prompt.startswith("die"):
            sys.stderr.write(f"dying of {prompt}\n")
            sys.stderr.flush()
            os._exit(3)
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        self.answer({"choices": [{"index": 0, "text": "x", "finish_reason": "stop"}], "usage": usage})

    def log_message(self, *_):
        pass


print("listens", flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
