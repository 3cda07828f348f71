"""A client of one OpenAI-compatible endpoint: POST …/chat/completions, tried again where that may help.

The key is read from the environment, sent as a header, and nowhere else: what the server says is cleared of it
before it is shown or kept.
"""

import os
import time
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from heredity.errors import ConfigError, ExtraMissingError, HeredityError
from heredity.features.explain._explainer import ExplanationError
from heredity.features.explain._prompts import Message

_AGAIN = (408, 409, 429, 500, 502, 503, 504, 529)
_LONGEST_WAIT_SECONDS = 120.0


class Answer(Struct, frozen=True):
    """What the model said, and what it cost as the server counts; 0 where it does not say."""

    content: str
    prompt_tokens: int
    completion_tokens: int


class Chat:
    """One endpoint, model and key; closed with the block it is opened in. Several threads may ask at once."""

    def __init__(
        self, base_url: str, model: str, *, key_variable: str, timeout_seconds: float, tries: int,
        backoff_seconds: float, options: dict[str, Any],
    ) -> None:  # fmt: skip
        """Make a client; nothing is sent yet.

        Args:
            base_url: what comes before /chat/completions, e.g. "http://localhost:8000/v1".
            model: name of the model there.
            key_variable: environment variable that holds the key; without it none is sent.
            timeout_seconds: of one answer.
            tries: of one question, the first included.
            backoff_seconds: before the second try; doubled before each further one. A server's Retry-After
                counts instead, up to two minutes.
            options: further fields of the request, e.g. {"temperature": 0}.

        Raises:
            ExtraMissingError: the extra `llm` is not installed.
        """
        try:
            import httpx2
        except ModuleNotFoundError as error:
            raise ExtraMissingError("to ask a language model for explanations", "llm") from error
        self._http = httpx2
        self.url, self.model, self.options = f"{base_url.rstrip('/')}/chat/completions", model, options
        self.key_variable, self.tries, self.backoff_seconds = key_variable, tries, backoff_seconds
        self._key = os.environ.get(key_variable, "").strip()
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._client = httpx2.Client(headers=headers, timeout=timeout_seconds, follow_redirects=False)

    def __enter__(self) -> "Chat":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask(self, messages: list[Message]) -> Answer:
        """Return the model's answer.

        Raises:
            ConfigError: the server refuses the key, or knows no such address or model: no other question would
                fare better.
            HeredityError: there is no server.
            ExplanationError: this question has no answer, after all tries; the message says why.
        """
        reason, last = "", self.tries - 1
        for attempt in range(self.tries):
            wait = self.backoff_seconds * 2**attempt
            try:
                response = self._client.post(
                    self.url, json={**self.options, "model": self.model, "messages": messages}
                )
            except self._http.ConnectError as error:
                if attempt == last:
                    raise HeredityError(
                        f"{self.url}: cannot connect ({self.clean(str(error))})",
                        "start the server, or correct base_url; what was answered is kept",
                    ) from None
                reason = "cannot connect"
            except self._http.TimeoutException:
                reason = "no answer in time"
            except self._http.TransportError as error:
                reason = f"the connection broke ({type(error).__name__})"
            else:
                if response.status_code == 200:
                    answer = self._read(response)
                    if answer is not None:
                        return answer
                    reason = "the server's answer is not a chat completion"
                else:
                    self._refuse(response)
                    reason = f"HTTP {response.status_code}"
                    wait = _wait(response.headers.get("retry-after"), wait)
            if attempt < last:
                time.sleep(min(wait, _LONGEST_WAIT_SECONDS))
        raise ExplanationError(f"{reason}, after {self.tries} tries")

    def clean(self, text: str) -> str:
        """Return one short line of a text without the key."""
        if self._key:
            text = text.replace(self._key, "***")
        return " ".join(text.split())[:200]

    def _read(self, response: Any) -> Answer | None:
        try:
            body = response.json()
            content = body["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            return None
        if not isinstance(content, str):
            return None
        if self._key:
            content = content.replace(self._key, "***")
        usage = body.get("usage")
        counts = usage if isinstance(usage, dict) else {}
        return Answer(content, _count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens")))

    def _refuse(self, response: Any) -> None:
        """Raise for a status that another try would not change."""
        status = response.status_code
        if status in (401, 403):
            raise ConfigError(
                f"{self.url}: HTTP {status}, "
                + (f"the key in ${self.key_variable} is refused" if self._key else "a key is wanted"),
                f"put the right key in the environment variable {self.key_variable}",
            )
        if status == 404 or 300 <= status < 400:
            raise ConfigError(
                f"{self.url}: HTTP {status}, no such address, or no model {self.model!r}",
                "correct base_url (it usually ends in /v1) and model",
            )
        if status not in _AGAIN:
            raise ExplanationError(f"HTTP {status}: {self.clean(response.text)}")


def check_address(base_url: str) -> None:
    """Refuse what is not an address, or holds a secret.

    Raises:
        ConfigError: it does; the message does not repeat it.
    """
    try:
        parts = urlsplit(base_url)
        host = parts.hostname
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError("base_url must be an http or https address", "for example http://localhost:8000/v1")
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigError(
            f"base_url of {host} has a user, a query or a fragment in it",
            "a key belongs in the environment variable that key_variable names",
        )


def _wait(retry_after: str | None, otherwise: float) -> float:
    return float(retry_after) if retry_after and retry_after.strip().isdecimal() else otherwise


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
