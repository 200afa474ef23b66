"""Several servers of one model as an agent: ``replicas(urls=["http://a:8000/v1","http://b:8000/v1"])`` (extra: api).

A conversation goes on where its beginning is cached, unless that server has much more to do than another; a server that
is down is passed over.  For what many processes share, put a router between: ``docs/many_machines.md``.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

from dream_envs.agents.engines.endpoint import Endpoint
from dream_envs.agents.engines.server import load_adapter
from dream_envs.core import DreamEnvsError, content_hash
from dream_envs.registry import check_kwargs

#: A conversation moves where its server has more than twice as much under way as the idlest, and so many more.
MORE = 4
#: Seconds that a server is passed over for after it did not answer, or answered 5xx.
REST = 10.0
#: Beginnings of conversations that are remembered.
KNOWN = 65_536


class Served(msgspec.Struct):
    """What one replica did so far, and has under way now."""

    answered: int = 0
    failed: int = 0
    live: int = 0
    resting: float = 0.0  # until then, in seconds of the monotonic clock


class Replicas(Endpoint):
    """One model behind several URLs.

    ``served``: by URL, what each has answered.

    Args:
        urls: as ``base_url`` of ``openai``, each once; they serve the same model under the same name.
        model: as for ``openai``, and so are further arguments; ``concurrency`` is of all replicas together.

    Raises:
        DreamEnvsError: for no URL or one that is there twice, and as ``openai`` does.
    """

    def __init__(self, urls: Sequence[str], model: str = "", **endpoint: Any) -> None:
        check_kwargs(Endpoint, endpoint, "replicas")
        if isinstance(urls, str) or not urls or len(set(urls)) < len(urls):
            raise DreamEnvsError(f'urls={urls!r:.80}: a list of one or more, each once: ["http://a/v1","http://b/v1"]')
        for url in urls:
            super().__init__(url, model, **endpoint)
        self.served = {url.rstrip("/"): Served() for url in urls}
        self._last: dict[str, str] = {}  # by beginning of a conversation, where it went

    def load(self, name: str, folder: str | Path) -> Self:
        """Load an adapter into every replica; the agent that speaks with it.

        Raises:
            DreamEnvsError: where one does not take it, after all others have; loading it again is no error.
        """
        missing = []
        for url in self.served:
            try:
                load_adapter(url, name, folder)
            except DreamEnvsError as error:
                missing.append(str(error))
        if missing:
            there = len(self.served) - len(missing)
            raise DreamEnvsError(f"on {there} of {len(self.served)} replicas; {missing[0]}; then load it again")
        twin = copy.copy(self)
        twin.model = name
        return twin

    async def _first_model(self, client: Any) -> str:
        self.base_url, found = next(iter(self.served)), dict[str, str]()
        for url in self.served:
            try:
                found[url] = (await self._once(lambda url=url: client.get(f"{url}/models")))["data"][0]["id"]
            except Exception:  # down now; who stays so is told of by its requests
                continue
        if len(names := set(found.values())) > 1:
            raise DreamEnvsError(f"replicas serve {' and '.join(map(repr, sorted(names)))}: name one, model=NAME")
        return names.pop() if names else await super()._first_model(client)

    async def _send(self, client: Any, path: str, body: dict[str, Any] | None = None) -> Any:
        """As the endpoint's, from whichever replica answers."""
        beginnings = _beginnings(body["messages"]) if body else []
        tried = set[str]()
        while True:
            url = self._chosen(beginnings, tried)
            here = self.served[url]
            here.live += 1
            try:
                sent = client.get(f"{url}/{path}") if body is None else client.post(f"{url}/{path}", json=body)
                response = await sent
                if response.status_code < 500:
                    here.answered += 1
                    return response
                failure: Exception | None = None
            except self._http.HTTPError as error:
                failure = error
            except asyncio.CancelledError:  # the endpoint's own time limit, mostly
                here.failed, here.resting = here.failed + 1, time.monotonic() + REST
                raise
            finally:
                here.live -= 1
            here.failed, here.resting = here.failed + 1, time.monotonic() + REST
            tried.add(url)
            if len(tried) == len(self.served):
                if failure is not None:
                    raise failure
                return response

    def _chosen(self, beginnings: Sequence[str], tried: set[str]) -> str:
        """Where this conversation last went, or the idlest; of those that rest only where there are no others."""
        now = time.monotonic()
        left = [url for url in self.served if url not in tried]
        left = [url for url in left if self.served[url].resting <= now] or left
        least = min(left, key=lambda url: (self.served[url].live, self.served[url].answered))
        last = next((self._last[b] for b in reversed(beginnings) if b in self._last), None)
        sticky = last in left and self.served[last].live <= 2 * self.served[least].live + MORE
        chosen = last if sticky and last is not None else least
        for beginning in beginnings:
            self._last.pop(beginning, None)  # to the end: the oldest go first
            self._last[beginning] = chosen
        while len(self._last) > KNOWN:
            del self._last[next(iter(self._last))]
        return chosen


def _beginnings(messages: Sequence[Any]) -> list[str]:
    """A hash of every beginning that holds more than the system's message, which many conversations share."""
    found, so_far = [], ""
    for message in messages:
        so_far = content_hash(so_far, message["role"], str(message["content"]))
        if message["role"] != "system":
            found.append(so_far)
    return found
