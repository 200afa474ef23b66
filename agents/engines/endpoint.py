"""An OpenAI-compatible endpoint as an agent: vLLM, llama.cpp, a hosted model (extra: api).

Every request fails by itself.  What may pass (429, 5xx, connections, time-outs, bodies that are cut or no JSON, empty
choices) is tried again, later each time and with jitter drawn from the request's seed; what is left has status
``timeout`` or ``error`` and is never a wrong answer.
"""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec

from dream_envs.core import Action, DreamEnvsError, Request, Usage
from dream_envs.seeds import stream

_AGAIN = frozenset({408, 409, 425, 429})  # and all of 5xx
_LONGEST_WAIT = 60.0  # seconds between two tries


class Spent(msgspec.Struct):
    """What an endpoint was asked so far.  ``cost`` is in the unit of the prices."""

    requests: int = 0
    retries: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


class Again(Exception):
    """A failure that may pass; ``after``: seconds that the server asks to wait."""

    def __init__(self, why: str, after: float = 0.0, timeout: bool = False) -> None:
        super().__init__(why)
        self.after, self.timeout = after, timeout


class Endpoint:
    """A model behind a URL.

    Args:
        base_url: up to ``/v1``.
        model: as the server names it; "": the first that it lists.
        temperature: 0 to 10; None: the server's own.  The next three are the server's where they are left as they are.
        top_p: nucleus sampling.
        top_k: 0 is off; not every server knows it.
        min_p: 0 is off; not every server knows it.
        system: stands before every conversation that has no system message.
        template: arguments of the chat template, for servers that take ``chat_template_kwargs`` (vLLM).
        token_ids: ask for ids and log-probabilities of the completion (vLLM).
        tokenizer: the served model's folder or hub id, of which tokenizer and template are read (extra: train).  Only
            with it can a user's turn be written (``Request.writes``): no chat route asks for one, so that its prompt
            goes as token ids to ``/completions``, with ``stop_token_ids`` (vLLM).
        key: name of the environment variable that holds the key.
        concurrency: requests under way at once.
        retries: further tries of one request.
        timeout: seconds for one try.
        price: for a million tokens read and a million written.
        extra: further fields of the request's body.

    Raises:
        DreamEnvsError: for a value out of range, or where httpx2 is not installed.
    """

    asynchronous = True

    def __init__(
        self,
        base_url: str,
        model: str = "",
        *,
        temperature: float | None = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        system: str = "",
        template: Mapping[str, Any] | None = None,
        token_ids: bool = False,
        tokenizer: str = "",
        key: str = "OPENAI_API_KEY",
        concurrency: int = 64,
        retries: int = 6,
        timeout: float = 300.0,
        price: Sequence[float] = (0.0, 0.0),
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            import httpx2
        except ImportError as error:
            raise DreamEnvsError("an endpoint needs the extra api: pip install 'dream-envs[api]'") from error
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise DreamEnvsError(f"base_url={base_url!r:.80}: http://HOST:PORT/v1, or https")
        for name, value, low, high in (
            ("temperature", temperature or 0.0, 0, 10), ("top_p", top_p, 0, 1), ("min_p", min_p, 0, 1),
            ("top_k", top_k, 0, 10**6), ("concurrency", concurrency, 1, 4096), ("retries", retries, 0, 100),
            ("timeout", timeout, 0.001, 86_400),
        ):  # fmt: skip
            if not low <= value <= high:
                raise DreamEnvsError(f"{name}={value!r}: {low} to {high}")
        self.base_url, self.model, self.key = base_url.rstrip("/"), model, key
        self.concurrency, self.retries, self.timeout, self.price = concurrency, retries, timeout, tuple(price)
        self.system, self.token_ids, self.spent = system, token_ids, Spent()
        self._http = httpx2
        self._body: dict[str, Any] = dict(extra or {})
        if template:
            self._body["chat_template_kwargs"] = dict(template)
        if token_ids:
            self._body |= {"logprobs": True, "return_token_ids": True}
        self._set(temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p)
        self._here: tuple[Any, Any, asyncio.Semaphore] | None = None
        self._chat: Any = None
        if tokenizer:
            from dream_envs.agents.engines.chat import of_folder
            from dream_envs.agents.engines.models import resolve

            self._chat = of_folder(resolve(tokenizer), system, dict(template or {}))

    def _set(self, **decoding: Any) -> None:
        off = {"temperature": None, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
        self._body = {k: v for k, v in self._body.items() if k not in off}
        self._body |= {name: value for name, value in decoding.items() if value != off[name]}

    def decoding(self, **changed: Any) -> Self:
        """An agent on the same endpoint with another ``temperature``, ``top_p``, ``top_k`` or ``min_p``."""
        import copy

        twin = copy.copy(self)
        off = {"temperature": None, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
        twin._set(**{**off, **{k: self._body[k] for k in off if k in self._body}, **changed})
        return twin

    async def act(self, requests: Sequence[Request]) -> list[Action]:
        """Answer all requests at once, each by itself; of no more than ``concurrency`` under way.

        Raises:
            DreamEnvsError: where a user's turn is asked for and there is no ``tokenizer``.
        """
        if self._chat is None and any(request.writes != "assistant" for request in requests):
            raise DreamEnvsError(
                "writes='user': a chat route writes no user's turn; give the served model's tokenizer=FOLDER, "
                "and vLLM's /completions is asked"
            )
        client, gate = self._client()
        if not self.model:
            self.model = await self._first_model(client)
        return list(await asyncio.gather(*[self._answer(client, gate, request) for request in requests]))

    def _client(self) -> tuple[Any, asyncio.Semaphore]:
        """The connections of this event loop: they cannot be shared between loops."""
        loop = asyncio.get_running_loop()
        if self._here is None or self._here[0] is not loop:
            token = os.environ.get(self.key, "")
            limits = self._http.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency)
            client = self._http.AsyncClient(
                headers={"Authorization": f"Bearer {token}"} if token else {}, limits=limits,
                timeout=self._http.Timeout(self.timeout, pool=None),
            )  # fmt: skip
            self._here = loop, client, asyncio.Semaphore(self.concurrency)
        return self._here[1], self._here[2]

    async def _first_model(self, client: Any) -> str:
        data = await self._tried(lambda: self._send(client, "models"), seed=0)
        try:
            return str(data["data"][0]["id"])
        except (KeyError, IndexError, TypeError) as error:
            raise DreamEnvsError(f"{self.base_url}/models lists no model: name one, model=NAME") from error

    async def _send(self, client: Any, path: str, body: dict[str, Any] | None = None) -> Any:
        """One try of one request; GET where there is no body."""
        url = f"{self.base_url}/{path}"
        return await (client.get(url) if body is None else client.post(url, json=body))

    async def _answer(self, client: Any, gate: asyncio.Semaphore, request: Request) -> Action:
        route, body = self._asked(request)
        self.spent.requests += 1
        async with gate:
            try:
                data = await self._tried(lambda: self._send(client, route, body), request.seed, _action)
            except Again as failure:
                return self._failed(failure, "timeout" if failure.timeout else "error")
            except DreamEnvsError as failure:
                return self._failed(failure, "error")
        usage = data.usage
        self.spent.prompt_tokens += usage.prompt_tokens
        self.spent.completion_tokens += usage.completion_tokens
        self.spent.cost += (usage.prompt_tokens * self.price[0] + usage.completion_tokens * self.price[1]) / 1e6
        return data

    def _asked(self, request: Request) -> tuple[str, dict[str, Any]]:
        """The route and the body of a request."""
        body = {
            "model": self.model, "max_tokens": request.limits.max_tokens, "seed": request.seed % 2**31, **self._body,
        }  # fmt: skip
        if request.writes == "user":
            body.pop("chat_template_kwargs", None)
            if self.token_ids:
                body["logprobs"] = 0  # a number of alternatives on this route
            prompt, stops = self._chat.encode_user(request.messages), self._chat.stops(request)
            return "completions", {**body, "prompt": list(prompt), "stop_token_ids": stops}
        messages: list[Any] = list(request.messages)
        if self.system and (not messages or messages[0]["role"] != "system"):
            messages = [{"role": "system", "content": self.system}, *messages]
        return "chat/completions", {**body, "messages": messages}

    def _failed(self, why: Exception, status: Any) -> Action:
        self.spent.failures += 1
        if self.spent.failures == 1:
            warnings.warn(f"{self.base_url}: {why}; such completions have status {status!r}", stacklevel=2)
        return Action("", status=status)

    async def _tried(self, call: Any, seed: int, read: Any = lambda data: data) -> Any:
        """What a call gives, tried again while it may pass.

        Raises:
            Again: if it did not pass.
            DreamEnvsError: for an answer that will not change (a wrong key, an unknown model).
        """
        rng = stream("endpoint", seed)
        for attempt in range(self.retries + 1):
            try:
                return read(await self._once(call))
            except Again as failure:
                if attempt == self.retries:
                    raise
                self.spent.retries += 1
                wait = max(failure.after, min(_LONGEST_WAIT, 0.5 * 2**attempt)) * (0.5 + float(rng.random()))
                await asyncio.sleep(min(wait, 2 * _LONGEST_WAIT))
        raise AssertionError("the last attempt raises or returns")

    async def _once(self, call: Any) -> Any:
        try:
            async with asyncio.timeout(self.timeout):  # of the whole try: a trickle of bytes would never time out
                response = await call()
        except (TimeoutError, self._http.TimeoutException) as error:
            raise Again(f"no answer within {self.timeout:g} s", timeout=True) from error
        except self._http.HTTPError as error:
            raise Again(f"{type(error).__name__}: {error}") from error
        code = response.status_code
        if code in _AGAIN or code >= 500:
            raise Again(f"HTTP {code}", _seconds(response.headers.get("retry-after", "")), timeout=code in (408, 504))
        if code != 200:
            told = " ".join(response.text.split())[:200]
            raise DreamEnvsError(f"HTTP {code}: {told}")
        try:
            return response.json()
        except ValueError as error:
            raise Again("the body is no JSON") from error


def _seconds(text: str) -> float:
    """``Retry-After`` in seconds; dates and nonsense are 0."""
    try:
        return min(max(float(text), 0.0), _LONGEST_WAIT)
    except ValueError:
        return 0.0


def _action(data: Any) -> Action:
    """The completion in a response of either route.

    Raises:
        Again: for a body without one.
    """
    try:
        choice = data["choices"][0]
        message = choice["message"] if "message" in choice else {"content": choice["text"]}
        text = message.get("content")
        reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
        if text is None and not reasoning:
            raise Again("a choice without text")
        if reasoning:  # the server cut it out of the reply; unclosed where nothing came behind it
            text = f"<think>\n{reasoning}" + (f"\n</think>\n\n{text}" if text else "")
        if not isinstance(text, str):
            raise Again("a choice whose text is no string")
        usage = data.get("usage") or {}
        ids = choice.get("token_ids")
        given = choice.get("logprobs") or {}
        found = given.get("token_logprobs") or [each["logprob"] for each in given.get("content") or ()] or None
        return Action(
            text, ids, None if found is None or ids is None else [float(each) for each in found],
            Usage(int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)),
            finish_reason=str(choice.get("finish_reason") or ""),
        )  # fmt: skip
    except Again:
        raise
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise Again(f"a body without a completion ({type(error).__name__})") from error
