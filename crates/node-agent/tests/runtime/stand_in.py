#!/bin/sh
'''exec' "${0%/*}/venv/bin/python3" -I "$0" "$@" #'''
"""A stand-in for a runtime: no model, and no inference. It misbehaves as it is told, and tells what it can do.

    stand_in.py --port N [--never-healthy] [--exit STATUS] [--child] [--probe JSON]

A request's `model` names what is done with it: see `Handler.do_POST`.
"""

import argparse
import ctypes
import http.server
import json
import os
import resource
import socket
import subprocess
import sys
import threading
import time

MIB = 1 << 20


def attempt(act):
    """What comes of an act: `done`, or the name of the error."""
    try:
        act()
        return "done"
    except OSError as error:
        return type(error).__name__


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def start(path):
    write(path, "#!/bin/sh\nexit 0\n")
    os.chmod(path, 0o700)
    subprocess.run([path], check=True)


def listen(port):
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen()


def send(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("127.0.0.1", port))


def is_open(number):
    try:
        os.fstat(number)
        return True
    except OSError:
        return False


def probe(wishes):
    """Tries everything that a runtime must not be able to do, and some of what it must."""
    return {
        "read": {path: attempt(lambda: open(path).close()) for path in wishes["read"]},
        "list": {path: attempt(lambda: os.listdir(path)) for path in wishes["list"]},
        "write": {path: attempt(lambda: write(path, "x")) for path in wishes["write"]},
        "connect": attempt(lambda: socket.create_connection(("127.0.0.1", wishes["connect"]), 2).close()),
        "send": attempt(lambda: send(wishes["connect"])),
        "listen": attempt(lambda: listen(wishes["listen"])),
        "signal": attempt(lambda: os.kill(wishes["signal"], 0)),
        "start_own_file": attempt(lambda: start("./program")),
        "write_own_folder": attempt(lambda: write("file", "x")),
        "environment": dict(os.environ),
        "descriptors": [number for number in range(1024) if is_open(number)],
        "users": [*os.getresuid(), *os.getresgid()],
        "groups": os.getgroups(),
        "no_new_privileges": ctypes.CDLL(None).prctl(39, 0, 0, 0, 0),
        "core_bytes": resource.getrlimit(resource.RLIMIT_CORE)[1],
        "folder": os.getcwd(),
        "folder_mode": oct(os.stat(".").st_mode & 0o777),
    }


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    options = None

    def log_message(self, *_):
        pass

    def answer(self, status, body, content_type="application/json"):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        # A server without /health, as some are.
        if self.path != "/v1/models":
            self.answer(404, {})
        elif self.options.never_healthy:
            self.answer(500, {})
        else:
            self.answer(200, {"data": []})

    def stream(self, *chunks):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        for chunk in chunks:
            self.wfile.write(f"data: {chunk}\r\n\r\n".encode())
            self.wfile.flush()
        self.close_connection = True

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        chunk = {"choices": [{"index": 0, "delta": {"content": "x"}}]}
        last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}

        def choice(text):
            message = {"role": "assistant", "content": text}
            return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}

        match body["model"]:
            case "echo":
                said = {"path": self.path, "key": self.headers["Authorization"], "body": body}
                self.answer(200, choice(json.dumps(said)))
            case "refuse":
                self.answer(422, {"error": {"message": "CANARY is not allowed", "code": 422}})
            case "refuse in text":
                self.answer(500, b"it broke\n", "text/plain")
            case "loading":
                self.answer(503, {"error": {"message": "CANARY", "code": 503}})
            case "redirect":
                self.send_response(307)
                self.send_header("Location", "/v1/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()
            case "malformed":
                self.answer(200, b"CANARY")
            case "no usage":
                self.answer(200, {"choices": [{}]})
            case "too large":
                self.answer(200, choice("x" * (16 * MIB)))
            case "without end":
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Connection", "close")
                self.end_headers()
                while True:
                    self.wfile.write(b" " * MIB)
            case "cut":
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", "100")
                self.end_headers()
                self.wfile.write(b"{")
                self.close_connection = True
            case "silent":
                self.close_connection = True
            case "cut stream":
                self.stream(json.dumps(chunk), json.dumps(chunk))
            case "stream without done":
                self.stream(json.dumps(chunk), json.dumps(last), json.dumps({"choices": [], "usage": usage}))
            case "error in stream":
                self.stream(json.dumps(chunk), json.dumps({"error": {"code": 500, "message": "CANARY"}}))
            case "malformed stream":
                self.stream("CANARY")
            case "uninvited stream":
                self.stream("[DONE]")
            case "large stream":
                piece = json.dumps({"choices": [{"index": 0, "delta": {"content": "x" * MIB}}]})
                self.stream(*[piece] * 20, "[DONE]")
            case "long stream":
                chunks = [json.dumps(chunk)] * 1000
                self.stream(*chunks, json.dumps(last), json.dumps({"choices": [], "usage": usage}), "[DONE]")
            case "hang":
                time.sleep(3600)
            case "turn sick":
                self.options.never_healthy = True
                self.answer(200, choice("x"))
            case "probe":
                self.answer(200, choice(json.dumps(probe(json.loads(self.options.probe)))))
            case other:
                self.answer(404, {"error": {"message": f"no such trick: {other}"}})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--never-healthy", action="store_true")
    parser.add_argument("--exit", type=int)
    parser.add_argument("--child", action="store_true")
    parser.add_argument("--probe")
    options = parser.parse_args()
    if options.child:
        # Its own session, and an orphan: no process group reaches it.
        command = "setsid sleep 3600 & exit 0"
        subprocess.run(["/bin/sh", "-c", command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if options.exit is not None:
        print("these are my last words", file=sys.stderr, flush=True)
        sys.exit(options.exit)
    Handler.options = options
    server = http.server.ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
    print("listening", flush=True)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever).start()


if __name__ == "__main__":
    main()
