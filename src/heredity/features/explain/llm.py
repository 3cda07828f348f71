"""A language model as explainer, over any OpenAI-compatible endpoint: it explains from top contexts and simulates.

Explanations come from the strongest windows of the first half; each held-out window is simulated by one question.
Every good answer is kept in FOLDER/llm/MEMBER-SEED/LATENT.json by the digest of its question, so a run that was
interrupted, or is repeated, asks only what has no answer yet. What failed is asked again.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from jaxtyping import Int64
from msgspec import Meta, Struct
from numpy import ndarray

from heredity.atomic import write_bytes
from heredity.errors import ConfigError
from heredity.features.codes import Codes
from heredity.features.explain import _prompts
from heredity.features.explain._chat import Chat, check_address
from heredity.features.explain._explainer import (
    Cost,
    Explainer,
    Explanation,
    ExplanationError,
    NotExplained,
    Simulation,
)
from heredity.features.explain._halves import Halves

_READ_TRIES = 3
Count = Annotated[int, Meta(ge=1)]
T = TypeVar("T")


class Llm(Explainer, frozen=True, kw_only=True):
    """Ask a language model.

    Attributes:
        base_url: of the endpoint, what comes before /chat/completions.
        model: its name there.
        key_variable: environment variable that holds the key; a server that wants none needs none.
        max_latents: latents explained of each SAE, the first of those asked for; the others are marked as not asked.
        shown: windows that an explanation is made from.
        parallel: questions asked at a time.
        timeout_seconds, tries, backoff_seconds: of each question; the wait doubles from try to try.
        options: further fields of each request.
    """

    nulls: Count = 1
    windows: Annotated[int, Meta(ge=2)] | None = 10
    base_url: str
    model: str
    key_variable: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = "OPENAI_API_KEY"
    max_latents: Count = 100
    shown: Count = 10
    parallel: Count = 4
    timeout_seconds: Annotated[float, Meta(gt=0)] = 60.0
    tries: Count = 5
    backoff_seconds: Annotated[float, Meta(ge=0)] = 1.0
    options: dict[str, Any] = msgspec.field(default_factory=lambda: {"temperature": 0})

    def __post_init__(self) -> None:
        check_address(self.base_url)

    @contextmanager
    def explaining(
        self, codes: Codes, latents: Sequence[int], halves: Halves, folder: Path | None
    ) -> Iterator[list[Explanation | NotExplained]]:
        """Explain the first latents; simulations are asked for inside the block.

        Raises:
            ConfigError: no folder to keep answers in; the address, the model or the key is refused.
            HeredityError: there is no server.
            ExtraMissingError: the extra `llm` is not installed.
        """
        if folder is None:
            raise ConfigError("the explainer 'llm' needs a folder to keep its answers in", "give one")
        home = folder / "llm" / f"{codes.meta.member}-{codes.meta.seed}"
        chat = Chat(
            self.base_url, self.model, key_variable=self.key_variable, timeout_seconds=self.timeout_seconds,
            tries=self.tries, backoff_seconds=self.backoff_seconds, options=self.options,
        )  # fmt: skip
        asked = list(latents[: self.max_latents])
        with chat, ThreadPoolExecutor(self.parallel) as threads:
            notes = [_Notes(chat, home / f"{latent}.json") for latent in asked]
            jobs = [
                threads.submit(self._explain, codes, latent, halves, note, threads)
                for latent, note in zip(asked, notes, strict=True)
            ]
            try:
                found = [job.result() for job in jobs]
                beyond = NotExplained(reason=f"not asked: beyond max_latents = {self.max_latents}")
                yield [*found, *[beyond] * (len(latents) - len(asked))]
            finally:
                threads.shutdown(cancel_futures=True)

    def _explain(
        self, codes: Codes, latent: int, halves: Halves, notes: "_Notes", threads: ThreadPoolExecutor
    ) -> Explanation | NotExplained:
        passages = _passages(codes, latent, halves, self.shown)
        if not passages:
            return NotExplained(reason="it does not fire on the half of the contexts that is shown")
        try:
            text, cost = notes.ask(_prompts.explain(passages), _prompts.explanation_of)
        except ExplanationError as error:
            return NotExplained(reason=error.message, cost=error.cost)
        return _Told(text=text, cost=cost, notes=notes, threads=threads)


class _Told(Explanation, frozen=True, eq=False, kw_only=True):
    """A language model's words; the same model simulates from them."""

    notes: "_Notes"
    threads: ThreadPoolExecutor

    def simulate(self, halves: Halves, starts: Int64[ndarray, " windows"], length: int) -> Simulation:
        """Ask for every window's activations, several at a time.

        Raises:
            ExplanationError: a window has no answer.
        """

        def one(start: int) -> tuple[list[int], Cost, str]:
            tokens = [halves.words[i] for i in halves.tokens[start : start + length]]
            question = _prompts.simulate(self.text, tokens)
            try:
                levels, cost = self.notes.ask(question, lambda text: _prompts.activations_of(text, length))
            except ExplanationError as error:
                return [0] * length, error.cost, error.message
            return levels, cost, ""

        answers = list(self.threads.map(one, starts.tolist()))
        cost = sum((paid for _, paid, _ in answers), Cost())
        wrong = [reason for _, _, reason in answers if reason]
        if wrong:
            raise ExplanationError(f"{len(wrong)} of {len(starts)} simulations failed: {wrong[0]}", cost=cost)
        levels = np.array([levels for levels, _, _ in answers], np.float32)
        return Simulation(levels.reshape(len(starts), length), cost)


class _Notes:
    """The answers about one latent, on disk; written whole after each."""

    def __init__(self, chat: Chat, path: Path) -> None:
        self.chat, self.path = chat, path
        self._lock = Lock()
        self._counted: frozenset[str] = frozenset()  # an answer that two scores need is paid for once
        self._kept: dict[str, _Kept] = {}
        with suppress(OSError, msgspec.MsgspecError):  # no answers yet, or a file that is none of ours: ask
            self._kept = msgspec.json.decode(path.read_bytes(), type=_File).answers

    def ask(self, messages: list[_prompts.Message], read: Callable[[str], T]) -> tuple[T, Cost]:
        """Return what a question's answer says, from the notes when it is there.

        Raises:
            ExplanationError: no answer could be had, or none that can be read in three tries.
        """
        digest = self._digest(messages)
        with self._lock:
            kept = self._kept.get(digest)
            known, self._counted = digest in self._counted, self._counted | {digest}
        if kept is not None:
            return read(kept.content), Cost() if known else kept.cost
        cost, reason = Cost(), ""
        for _ in range(_READ_TRIES):
            try:
                answer = self.chat.ask(messages)
            except ExplanationError as error:
                raise ExplanationError(error.message, cost=cost) from None
            cost += Cost(1, answer.prompt_tokens, answer.completion_tokens)
            try:
                value = read(answer.content)
            except ValueError as error:
                reason = str(error)
                continue
            with self._lock:
                self._kept[digest] = _Kept(answer.content, cost)
                ordered = _File(answers=dict(sorted(self._kept.items())))
                write_bytes(self.path, msgspec.json.format(msgspec.json.encode(ordered)) + b"\n")
            return value, cost
        raise ExplanationError(f"{_READ_TRIES} answers cannot be read: {reason}", cost=cost)

    def _digest(self, messages: list[_prompts.Message]) -> str:
        question = [self.chat.url, self.chat.model, self.chat.options, messages]
        return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()


class _Kept(Struct, frozen=True):
    """An answer, and what it cost with those before it that could not be read."""

    content: str
    cost: Cost


class _File(Struct, kw_only=True):
    schema: int = 1
    answers: dict[str, _Kept]


def _passages(codes: Codes, latent: int, halves: Halves, n: int) -> list[tuple[list[str], list[int]]]:
    """Return the windows of the first half where a latent fires most, strongest first, on the scale 0 to 9."""
    length, context = halves.window_tokens, halves.stream.context
    tokens, values = codes.of_latent(latent)
    own = halves.first_tokens[tokens]
    tokens, values = tokens[own].astype(np.int64), values[own].astype(np.float64)
    starts = tokens // context * context + tokens % context // length * length
    taken: list[int] = []
    for start in starts[np.lexsort((tokens, -values))].tolist():
        if start not in taken:
            taken.append(start)
        if len(taken) == n:
            break
    passages = []
    for start in taken:
        stop = min(start + length, (start // context + 1) * context)
        shown = np.zeros(stop - start)
        inside = (tokens >= start) & (tokens < stop)
        shown[tokens[inside] - start] = values[inside]
        words = [halves.words[i] for i in halves.tokens[start:stop]]
        passages.append((words, _prompts.levels(shown, float(values.max()))))
    return passages
