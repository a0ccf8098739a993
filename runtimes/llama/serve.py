#!/bin/sh
'''exec' "${0%/*}/venv/bin/python3" -I "$0" "$@" #'''
"""llama.cpp's own server, in this process, with one model: chat, completions, models, health.

    RUNTIME_API_KEY=<key> serve.py --host 127.0.0.1 --port 8080 --model model.gguf

It is for base models, which were never taught to chat: a conversation is put to them as questions and
answers, one line each, so what they say ends at the first newline. A request that brings its own `stop`
replaces that. With the prompt cache off, the same request gives the same answer.

It keeps nothing, prints no prompt, and has no page of its own. The two lines at the top start the
interpreter of the virtual environment beside this file, wherever that is, so that the file's digest is
the same on every machine. The digest covers this file and not the environment: its packages are
checked against `runtimes/requirements.txt` when they are installed.
"""

import argparse
import os
import signal
import sys

import xllamacpp

TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}Answer: {{ message.content }}\n"
    "{% elif message.role == 'user' %}Question: {{ message.content }}\n"
    "{% else %}{{ message.content }}\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Answer:{% endif %}"
)


def parameters(arguments):
    """What the server is started with; refuses to serve without a key."""
    key = os.environ.get("RUNTIME_API_KEY")
    if not key:
        sys.exit("set RUNTIME_API_KEY: without a key every process of this machine could ask")
    params = xllamacpp.CommonParams()
    params.model.path = arguments.model
    params.model_alias = {arguments.alias}
    params.hostnames = [arguments.host]
    params.port = arguments.port
    params.api_keys = [key]
    params.ui = False
    params.endpoint_slots = False
    # The context is divided by the number of slots.
    params.n_parallel = arguments.parallel
    params.n_ctx = arguments.context * arguments.parallel
    params.cpuparams.n_threads = arguments.threads
    params.chat_template = TEMPLATE
    params.antiprompt = ["\n"]
    params.cache_prompt = False
    params.cache_ram_mib = 0
    # Errors alone: what says more may quote what is asked.
    params.verbosity = 1
    return params


def threads():
    """Half of the processors. Threads wait for each other at every layer, so one that has to share its processor
    with the Agent or anybody else slows all of them down, on two processors to a tenth."""
    return max(1, len(os.sched_getaffinity(0)) // 2)


def main():
    parser = argparse.ArgumentParser(description="llama.cpp's server with one model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument("--alias", default="gemma-3-270m", help="the model's name in answers")
    parser.add_argument("--context", type=int, default=2048, help="tokens of one request and its answer")
    parser.add_argument("--parallel", type=int, default=2, help="requests served at once")
    parser.add_argument("--threads", type=int, default=threads(), help="default: half of the processors")
    server = xllamacpp.Server(parameters(parser.parse_args()))
    print(f"ready on {server.listening_address}", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    # There is nothing to save, and the server's own end waits for those who are being answered.
    os._exit(0)


if __name__ == "__main__":
    main()
