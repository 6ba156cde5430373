# SPDX-License-Identifier: Apache-2.0
"""The peer: `transformers` behind HTTP. One POST of prompts is one padded batch for `generate`.

usage: transformers_server.py HF_DIR DTYPE NUM_THREADS; prints its port when it is ready.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging


def make_handler(hf_dir: str, dtype: str) -> type[BaseHTTPRequestHandler]:
    """A handler that owns the model."""
    tokenizer = AutoTokenizer.from_pretrained(hf_dir, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(hf_dir, dtype=getattr(torch, dtype))

    class Handler(BaseHTTPRequestHandler):
        """`{"prompt": [...], "max_tokens": n}` → the texts, and how many tokens they are."""

        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            inputs = tokenizer(body["prompt"], return_tensors="pt", padding=True)
            num = body["max_tokens"]
            with torch.inference_mode():
                output = model.generate(**inputs, max_new_tokens=num, min_new_tokens=num, do_sample=False)
            new = output[:, inputs["input_ids"].shape[1] :]
            texts = tokenizer.batch_decode(new, skip_special_tokens=True)
            usage = {"completion_tokens": int(new.numel())}
            answer = json.dumps({"choices": [{"text": text} for text in texts], "usage": usage}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Silent."""

    return Handler


def main() -> None:
    """Serve until killed."""
    logging.disable_progress_bar()
    torch.set_num_threads(int(sys.argv[3]))
    server = HTTPServer(("127.0.0.1", 0), make_handler(sys.argv[1], sys.argv[2]))
    print(json.dumps({"port": server.server_port}), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
