"""A real HTTP server with OpenAI's API around a transformers model, whose faults can be switched on.

It computes what it answers: chat completions by greedy decoding, prompt log-probabilities by one plain forward pass.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

#: Faults that strike one request and are used up: each a status, and what goes with it.
Once = dict[str, Any]


@dataclass
class Behaviour:
    """How the server differs from a good one.

    once: faults for the next requests, one each ({"status", "message", "code", "headers"}, {"body"} of an answer, or
    {"do": "drop", "slow", "garbage", "no choices", "endless"}). key: the key that it wants. context: tokens that fit.
    limit_field: the only field for the limit of tokens that it takes. refused_fields: it answers 400 to them.
    opening: "continue", "assistant" or "closed".
    usage: whether it counts tokens. dialects: how prompt log-probabilities can be asked for. zero_tokens: takes
    max_tokens=0. change_logps: done to the log-probabilities of a prompt's tokens.
    scale: all log-probabilities are multiplied by it. blind: they do not depend on what stands before.
    other_ids: texts are read as other ids.
    chat_only: has no /completions. list_once: statuses with which the next requests for the list of models fail.
    """

    once: list[Once] = field(default_factory=list)
    key: str | None = None
    context: int = 4096
    limit_field: str | None = None
    refused_fields: tuple[str, ...] = ()
    opening: str = "continue"
    usage: bool = True
    dialects: tuple[str, ...] = ("prompt_logprobs", "echo")
    zero_tokens: bool = True
    change_logps: Callable[[list[float | None]], list[float | None]] | None = None
    scale: float = 1.0
    blind: bool = False
    other_ids: bool = False
    chat_only: bool = False
    reply: str | None = None
    finish: str | None = None
    list_once: list[int] = field(default_factory=list)


class RefusedError(Exception):
    """An HTTP error to answer with."""

    def __init__(self, status: int, message: str, code: str = "invalid_request_error", **headers: str) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers


class OpenAIServer:
    """Use as a context manager. requests: bodies of POST requests, in the order in which they came."""

    def __init__(self, model: Any, tokenizer: Any, name: str = "tiny", behaviour: Behaviour | None = None) -> None:
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.behaviour = behaviour or Behaviour()
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.under_way = self.most_under_way = 0
        self.released = threading.Event()
        self.lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> OpenAIServer:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._http.shutdown()
        self._http.server_close()

    def fault(self) -> Once:
        """The fault of this request, {} for none."""
        with self.lock:
            return self.behaviour.once.pop(0) if self.behaviour.once else {}

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """POST /v1/chat/completions."""
        self._check(body)
        ids = self.tokenizer(self._rendered(body), add_special_tokens=False)["input_ids"]
        limit = body.get("max_tokens", body.get("max_completion_tokens", 16))
        self._fit(len(ids) + limit)
        written, reason = self._write(ids, limit)
        text = self.tokenizer.decode(written, skip_special_tokens=True) if self.behaviour.reply is None else ""
        message = {"role": "assistant", "content": text or self.behaviour.reply}
        choice = {"index": 0, "message": message, "finish_reason": self.behaviour.finish or reason}
        return self._answer([choice], len(ids), len(written))

    def completion(self, body: dict[str, Any]) -> dict[str, Any]:
        """POST /v1/completions."""
        self._check(body)
        if self.behaviour.chat_only:
            raise RefusedError(404, "Not Found")
        prompt = body["prompt"]
        ids = self._read(prompt) if isinstance(prompt, str) else list(prompt)
        limit = body.get("max_tokens", 16)
        if limit == 0 and not self.behaviour.zero_tokens:
            raise RefusedError(400, "max_tokens must be at least 1")
        self._fit(len(ids) + limit)
        written, reason = self._write(ids, limit)
        choice: dict[str, Any] = {"index": 0, "text": self.tokenizer.decode(written), "finish_reason": reason}
        choice["logprobs"] = None
        if "prompt_logprobs" in body and "prompt_logprobs" in self.behaviour.dialects:
            choice["prompt_logprobs"] = self._prompt_logprobs(ids, body["prompt_logprobs"])
        if body.get("echo") and body.get("logprobs") and "echo" in self.behaviour.dialects:
            choice["logprobs"] = self._echo([*ids, *written], body["logprobs"])
        return self._answer([choice], len(ids), len(written))

    def _check(self, body: dict[str, Any]) -> None:
        if body.get("model") != self.name:
            raise RefusedError(404, f"The model `{body.get('model')}` does not exist.", "model_not_found")
        wanted = self.behaviour.limit_field
        for name in ("max_tokens", "max_completion_tokens"):
            if wanted and wanted != name and name in body:
                raise RefusedError(
                    400, f"Unsupported parameter: '{name}'. Use '{wanted}' instead.", "unsupported_parameter"
                )
        for name in self.behaviour.refused_fields:
            if name in body:
                raise RefusedError(400, f"Unsupported parameter: '{name}' is not supported with this model.")
        if any("FORBIDDEN" in str(m["content"]) for m in body.get("messages", [])):
            raise RefusedError(400, "Your request was rejected by our safety system.", "content_filter")
        if any("NONSENSE" in str(m["content"]) for m in body.get("messages", [])):
            raise RefusedError(400, "The messages make no sense.")

    def _rendered(self, body: dict[str, Any]) -> str:
        rows, way = body["messages"], self.behaviour.opening
        goes_on = rows[-1]["role"] == "assistant" and (
            way == "assistant" or (way == "continue" and body.get("continue_final_message"))
        )
        options = {"continue_final_message": True} if goes_on else {"add_generation_prompt": True}
        return str(self.tokenizer.apply_chat_template(rows, tokenize=False, **options))

    def _fit(self, length: int) -> None:
        if length > self.behaviour.context:
            said = f"This model's maximum context length is {self.behaviour.context} tokens. You asked for {length}."
            raise RefusedError(400, said, "context_length_exceeded")

    def _read(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return [(7 * token + 3) % 256 for token in ids] if self.behaviour.other_ids else ids

    @torch.inference_mode()
    def _logps(self, ids: Sequence[int]) -> torch.Tensor:
        with self.lock:
            logits = self.model(input_ids=torch.tensor([list(ids)])).logits[0]
        return torch.log_softmax(logits.float(), dim=-1)

    def _write(self, ids: Sequence[int], limit: int) -> tuple[list[int], str]:
        written: list[int] = []
        while len(written) < limit:
            token = int(self._logps([*ids, *written])[-1].argmax())
            if token == self.tokenizer.eos_token_id:
                return written, "stop"
            written.append(token)
        return written, "length"

    def _table(self, ids: Sequence[int]) -> tuple[list[float | None], torch.Tensor]:
        """Each token's log-probability (the first has none), as they will be reported, and all of them."""
        logps_TV = self._logps(ids) * self.behaviour.scale
        if self.behaviour.blind:
            logps_TV = self._logps([0]).expand(len(ids), -1)
        own = [None, *(float(logps_TV[t, token]) for t, token in enumerate(ids[1:]))]
        change = self.behaviour.change_logps
        return (own if change is None else change(own)), logps_TV

    def _prompt_logprobs(self, ids: Sequence[int], top: int) -> list[dict[str, Any] | None]:
        own, logps_TV = self._table(ids)
        table: list[dict[str, Any] | None] = [None]
        for position, value in enumerate(own[1:], start=1):
            likeliest = logps_TV[position - 1].topk(top) if top else None
            entry = (
                {}
                if likeliest is None
                else dict(zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True))
            )
            own_token = ids[position] if position < len(ids) else 0
            row = {**entry, own_token: value}
            table.append({str(k): {"logprob": v, "rank": 1, "decoded_token": "?"} for k, v in row.items()})
        return table

    def _echo(self, ids: Sequence[int], top: int) -> dict[str, Any]:
        own, logps_TV = self._table(ids)
        tokens = [f"token_id:{token}" for token in ids]
        likeliest: list[dict[str, float] | None] = [None]
        for position in range(1, len(ids)):
            found = logps_TV[position - 1].topk(top)
            likeliest.append(
                {f"token_id:{k}": v for k, v in zip(found.indices.tolist(), found.values.tolist(), strict=True)}
            )
        return {"tokens": tokens, "token_logprobs": own, "top_logprobs": likeliest, "text_offset": []}

    def _answer(self, choices: list[dict[str, Any]], prompt: int, written: int) -> dict[str, Any]:
        answer: dict[str, Any] = {"id": "x", "object": "completion", "model": self.name, "choices": choices}
        if self.behaviour.usage:
            total = prompt + written
            answer["usage"] = {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": total}
        return answer


def _handler(server: OpenAIServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # header and body are two writes, which would wait 40 ms for each other

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

        def do_GET(self) -> None:
            if server.behaviour.list_once:
                self._send(server.behaviour.list_once.pop(0), json.dumps({"error": {"message": "not now"}}))
                return
            self._guarded(
                lambda: {"object": "list", "data": [{"id": server.name, "max_model_len": server.behaviour.context}]}
            )

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fault = server.fault()
            with server.lock:
                server.requests.append({"path": self.path, **body})
                server.under_way += 1
                server.most_under_way = max(server.most_under_way, server.under_way)
            try:
                self._post(body, fault)
            finally:
                with server.lock:
                    server.under_way -= 1

        def _post(self, body: dict[str, Any], fault: Once) -> None:
            if fault.get("do") == "drop":
                self.connection.close()
                self.close_connection = True
                return
            if fault.get("do") == "slow":
                server.released.wait(20)
            if fault.get("do") == "endless":
                self._drip()
                return
            if "body" in fault:
                self._send(200, json.dumps(fault["body"]))
                return
            if fault.get("do") in ("garbage", "no choices"):
                self._send(200, '{"choices": [{"mess' if fault["do"] == "garbage" else '{"object": "what"}')
                return
            if "status" in fault:
                error = {"message": fault.get("message", "no reason"), "code": fault.get("code"), "type": None}
                self._send(fault["status"], json.dumps({"error": error}), fault.get("headers", {}))
                return
            ask = {"/v1/chat/completions": server.chat, "/v1/completions": server.completion}.get(self.path)
            self._guarded(lambda: ask(body) if ask else None)

        def _guarded(self, answer: Callable[[], dict[str, Any] | None]) -> None:
            key = self.headers.get("Authorization", "").removeprefix("Bearer ")
            server.keys.append(key)
            if server.behaviour.key is not None and key != server.behaviour.key:
                self._send(
                    401,
                    json.dumps({"error": {"message": f"Incorrect API key provided: {key}", "code": "invalid_api_key"}}),
                )
                return
            try:
                found = answer()
            except RefusedError as error:
                self._send(
                    error.status, json.dumps({"error": {"message": str(error), "code": error.code}}), error.headers
                )
                return
            self._send(200 if found else 404, json.dumps(found or {"detail": "Not Found"}))

        def _drip(self) -> None:
            """Blank by blank, without an end."""
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.close_connection = True
            while not server.released.wait(0.02):
                try:
                    self.wfile.write(b"1\r\n \r\n")
                except OSError:
                    return

        def _send(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
            data = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

    return Handler
