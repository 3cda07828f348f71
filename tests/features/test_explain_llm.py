"""The language-model explainer against a server of our own: what it asks, keeps, refuses and never shows."""

import json
import logging
import re
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from planted import codes, dense, stream

from heredity.errors import ConfigError, ExtraMissingError, HeredityError
from heredity.features.explain import build, explanations_table, name_of
from heredity.features.explain._prompts import activations_of, explanation_of, levels
from heredity.features.explain.llm import Llm
from heredity.features.explain.rules import Rules

pytest.importorskip("httpx2", reason="the extra llm is not installed")
KEY = "sk-test-3f9a1c"
Reply = tuple[int, str, dict[str, str]]


def word(token: int) -> str:
    return f" w{token}"


def completion(content: str, **usage: int) -> Reply:
    usage = usage or {"prompt_tokens": 100, "completion_tokens": 10}
    return 200, json.dumps({"choices": [{"message": {"content": content}}], "usage": usage}), {}


def sensible(request: dict[str, Any], _: int) -> Reply:
    """Explain by the token named most; simulate 9 on tokens that the explanation names."""
    text = request["messages"][1]["content"]
    if text.startswith("Passage 1:"):
        active = re.findall(r'"( w\d+)" \d', text)
        best = max(sorted(set(active)), key=active.count)
        return completion(json.dumps({"explanation": f"the token <{best}>"}))
    named = re.search(r"<(.*)>", text).group(1)
    lines = text.split("Tokens:\n")[1].splitlines()
    numbered = [line.split(": ", 1) for line in lines]
    return completion(
        "Here you are:\n```json\n"
        + json.dumps({"activations": {n: 9 for n, token in numbered if json.loads(token) == named}})
        + "\n```"
    )


class Stub:
    """A server that answers as `behave` says and remembers what it was asked."""

    def __init__(self) -> None:
        self.behave: Callable[[dict[str, Any], int], Reply] = sensible
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self._lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with stub._lock:
                    stub.requests.append(request)
                    stub.headers.append(dict(self.headers))
                    stub.paths.append(self.path)
                    number = len(stub.requests)
                status, body, headers = stub.behave(request, number)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body.encode())), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                return None

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def stub():
    made = Stub()
    yield made
    made.close()


@pytest.fixture(scope="module")
def told():
    """Latents 0 to 3 fire on one token each; 4 is random; 5 never fires."""
    tokens = stream(documents=10)
    names = np.asarray(tokens.tokens)
    values = dense(tokens, 6, rate=0.05, seed=1)
    for latent in range(4):
        values[:, latent] = (names == 5 + latent) * 2.0
    values[:, 5] = 0
    return tokens, codes(values, tokens)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("HEREDITY_TEST_KEY", KEY)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def explainer(stub: Stub, **settings: Any) -> Llm:
    return Llm(**{
        "base_url": stub.url, "model": "tiny", "key_variable": "HEREDITY_TEST_KEY", "backoff_seconds": 0.001,
        "tries": 3, "timeout_seconds": 5.0, "windows": 4, **settings,
    })  # fmt: skip


def table(told, one, folder, latents=(0, 1, 2, 3)):
    tokens, own = told
    return explanations_table(own, tokens, word, latents, seed=0, explainers=[one], folder=folder)


def test_explanations_are_asked_for_simulated_and_scored(stub, told, tmp_path):
    found = table(told, explainer(stub, windows=10), tmp_path)
    assert found["explainer"].to_list() == ["llm"] * 4
    assert found["rule"].to_list() == [f"the token < w{5 + i}>" for i in range(4)]
    assert (found["score"] > 0.99).all()
    assert (found["null_score"] < 0.2).all()
    assert found["n_contexts"].to_list() == [10] * 4
    assert found["n_nulls"].to_list() == [1] * 4
    assert found["failed"].null_count() == 4
    # one explanation, ten windows, ten of the null; a question that two latents share is asked and paid for once
    assert (found["calls"] <= 21).all()
    assert len(stub.requests) == found["calls"].sum()
    assert found["prompt_tokens"].sum() == 100 * len(stub.requests)
    assert found["completion_tokens"].sum() == 10 * len(stub.requests)
    assert set(stub.paths) == {"/v1/chat/completions"}
    assert {request["model"] for request in stub.requests} == {"tiny"}
    assert {request["temperature"] for request in stub.requests} == {0}
    assert {headers["Authorization"] for headers in stub.headers} == {f"Bearer {KEY}"}


def test_both_explainers_are_scored_on_the_same_windows(stub, told, tmp_path):
    tokens, own = told
    both = explanations_table(
        own, tokens, word, [0, 1], seed=0, folder=tmp_path,
        explainers=[Rules(windows=4, nulls=1), explainer(stub)],
    )  # fmt: skip
    assert both["explainer"].to_list() == ["rules", "rules", "llm", "llm"]
    assert both["score"].to_list() == pytest.approx([1.0] * 4)  # the same words in effect, the same windows
    assert both["n_contexts"].to_list() == [4] * 4


def test_passages_show_the_first_half_only(stub, told, tmp_path):
    table(told, explainer(stub), tmp_path, [4])
    shown = stub.requests[0]["messages"][1]["content"]
    passages = re.findall(r"Passage \d+:\n(.*)\nActive on: (.*)", shown)
    assert len(passages) == 10
    peaks = [max(int(level) for level in re.findall(r'" (\d)', active)) for _, active in passages]
    assert peaks[0] == 9
    assert peaks == sorted(peaks, reverse=True)
    asked = [request["messages"][1]["content"] for request in stub.requests[1:]]
    simulated = [
        "".join(json.loads(x) for x in re.findall(r"\d+: (.*)", a.split("Tokens:\n")[1])) for a in asked
    ]
    assert not {text for text, _ in passages} & set(simulated)


def test_a_second_run_asks_nothing_and_gives_the_same_table(stub, told, tmp_path):
    first = table(told, explainer(stub), tmp_path)
    asked = len(stub.requests)
    again = table(told, explainer(stub), tmp_path)
    assert len(stub.requests) == asked
    assert again.equals(first)
    own = told[1].meta
    files = sorted((tmp_path / "llm" / f"{own.member}-{own.seed}").iterdir())
    assert [file.name for file in files] == [f"{i}.json" for i in range(4)]
    files[2].unlink()
    assert table(told, explainer(stub), tmp_path).equals(first)
    assert (
        0 < len(stub.requests) - asked <= 1 + 4 * 4
    )  # that latent's words, and whoever was scored with them
    asked = len(stub.requests)
    table(told, explainer(stub, model="other"), tmp_path, [0])
    assert len(stub.requests) > asked  # another model's answers are not taken for this one's


def test_an_interrupted_run_keeps_what_was_answered(stub, told, tmp_path):
    whole = table(told, explainer(stub), tmp_path / "whole")
    needed = len(stub.requests)
    stub.requests.clear()

    def breaks(request: dict[str, Any], number: int) -> Reply:
        return sensible(request, number) if number <= 12 else (401, "{}", {})

    stub.behave = breaks
    with pytest.raises(ConfigError):
        table(told, explainer(stub), tmp_path / "broken")
    kept = sum(len(json.loads(file.read_text())["answers"]) for file in (tmp_path / "broken").rglob("*.json"))
    assert kept == 12
    stub.behave = sensible
    stub.requests.clear()
    assert table(told, explainer(stub), tmp_path / "broken").equals(whole)
    assert len(stub.requests) == needed - kept


def test_the_key_is_sent_and_shown_nowhere(stub, told, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)

    def echoes(request: dict[str, Any], number: int) -> Reply:
        text = request["messages"][1]["content"]
        if number % 5 == 0:
            return 500, f"your key {KEY} is fine, we are not", {}
        if text.startswith("Passage 1:"):
            return completion(json.dumps({"explanation": f"the key {KEY}"}))
        return completion(json.dumps({"activations": {"1": 3}, "seen": KEY}))

    stub.behave = echoes
    one = explainer(stub)
    found = table(told, one, tmp_path)
    stub.behave = lambda request, number: (400, f"bad request with {KEY}", {})
    refused = table(told, one, tmp_path / "other")
    stub.behave = lambda request, number: (401, f"key {KEY} refused", {})
    with pytest.raises(ConfigError) as error:
        table(told, one, tmp_path / "third")
    assert KEY in stub.headers[0]["Authorization"]
    everything = [
        repr(one), str(found.to_dicts()), str(refused.to_dicts()), repr(error.value), str(error.value.hint),
        caplog.text, *(record.getMessage() for record in caplog.records),
        *(file.read_text() for file in tmp_path.rglob("*") if file.is_file()),
    ]  # fmt: skip
    assert not [text for text in everything if KEY in text]
    assert found["rule"][0] == "the key ***"
    assert refused["failed"][0] == "HTTP 400: bad request with ***"
    assert "HEREDITY_TEST_KEY" in error.value.hint


def test_without_a_key_none_is_sent(stub, told, tmp_path, monkeypatch):
    monkeypatch.delenv("HEREDITY_TEST_KEY")
    table(told, explainer(stub, nulls=1), tmp_path, [0])
    assert "Authorization" not in stub.headers[0]
    stub.behave = lambda request, number: (401, "{}", {})
    with pytest.raises(ConfigError, match="a key is wanted"):
        table(told, explainer(stub), tmp_path / "b", [0])


def test_what_may_pass_is_tried_again(stub, told, tmp_path):
    trouble: list[Reply] = [
        (429, "slow down", {"Retry-After": "0"}), (503, "busy", {}),
        (200, "<html>not JSON</html>", {}), (200, '{"choices": []}', {}),
        (200, '{"choices": [{"message": {"content": null}}]}', {}), completion("I would rather not."),
    ]  # fmt: skip

    def at_first(request: dict[str, Any], number: int) -> Reply:
        return trouble[number - 1] if number <= len(trouble) else sensible(request, number)

    stub.behave = at_first
    found = table(told, explainer(stub, tries=6, parallel=1), tmp_path, [0])
    assert found["score"][0] > 0.99
    assert found["calls"][0] == 6  # an answer that cannot be read was paid for too
    assert len(stub.requests) == 6 + 1 + 4


def test_retry_after_is_heeded(stub, told, tmp_path):
    times: list[float] = []

    def once(request: dict[str, Any], number: int) -> Reply:
        times.append(time.monotonic())
        return (429, "", {"Retry-After": "1"}) if number == 1 else sensible(request, number)

    stub.behave = once
    table(told, explainer(stub, windows=2), tmp_path, [0])
    assert times[1] - times[0] >= 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("I would rather not.", "not a JSON object"),
        ('{"explanation": 3}', "no text under 'explanation'"),
        ('{"explanation": "x"', "not a JSON object"),
    ],
)
def test_an_answer_that_cannot_be_read_fails_with_the_reason(stub, told, tmp_path, content, reason):
    def poor(request: dict[str, Any], number: int) -> Reply:
        text = request["messages"][1]["content"]
        about_w6 = text.startswith("Passage 1:") and text.endswith('" w6" 9')
        return completion(content) if about_w6 else sensible(request, number)

    stub.behave = poor
    found = table(told, explainer(stub), tmp_path)
    row = found.row(1, named=True)
    assert reason in row["failed"]
    assert (row["rule"], row["score"], row["null_score"]) == (None, None, None)
    assert row["calls"] == 3
    assert found["failed"].null_count() == 3
    assert (found["score"].drop_nulls() > 0.99).all()
    asked = len(stub.requests)
    stub.behave = sensible
    assert table(told, explainer(stub), tmp_path)["score"][1] > 0.99  # what failed is asked again
    assert len(stub.requests) > asked


def test_simulations_that_fail_leave_no_score(stub, told, tmp_path):
    def wild(request: dict[str, Any], number: int) -> Reply:
        text = request["messages"][1]["content"]
        if "< w6>" in text and "Tokens:" in text:
            return completion('{"activations": {"999": 5}}')
        return sensible(request, number)

    stub.behave = wild
    found = table(told, explainer(stub), tmp_path)
    row = found.row(1, named=True)
    assert row["rule"] == "the token < w6>"
    assert row["score"] is None
    assert row["failed"].startswith("4 of 4 simulations failed: 3 answers cannot be read: token '999'")
    assert row["calls"] >= 1 + 3 * 4


def test_a_server_that_is_slow_down_or_absent(stub, told, tmp_path):
    def slow(request: dict[str, Any], number: int) -> Reply:
        time.sleep(0.15)
        return sensible(request, number)

    stub.behave = slow
    late = table(told, explainer(stub, timeout_seconds=0.05, tries=2), tmp_path, [0])
    assert late["failed"].to_list() == ["no answer in time, after 2 tries"]
    stub.behave = lambda request, number: (503, "", {})
    busy = table(told, explainer(stub, tries=2), tmp_path, [0])
    assert busy["failed"].to_list() == ["HTTP 503, after 2 tries"]
    stub.behave = lambda request, number: (404, "", {})
    with pytest.raises(ConfigError, match="no model 'tiny'"):
        table(told, explainer(stub), tmp_path, [0])
    stub.behave = lambda request, number: (307, "", {"Location": "http://127.0.0.1:9/"})
    with pytest.raises(ConfigError, match="307"):  # a key follows no redirection
        table(told, explainer(stub), tmp_path, [0])
    gone = explainer(stub, base_url="http://127.0.0.1:9/v1", tries=2)
    with pytest.raises(HeredityError, match="cannot connect") as error:
        table(told, gone, tmp_path, [0])
    assert "kept" in error.value.hint


def test_latents_beyond_the_cap_are_marked_as_not_asked(stub, told, tmp_path):
    found = table(told, explainer(stub, max_latents=2, windows=2), tmp_path, [3, 0, 1, 2])
    assert found["failed"].to_list() == [None, None, *["not asked: beyond max_latents = 2"] * 2]
    assert found["score"][:2].null_count() == 0
    assert found["score"][2:].null_count() == 2


def test_a_latent_without_passages_is_not_asked_about(stub, told, tmp_path):
    found = table(told, explainer(stub), tmp_path, [5])
    assert "does not fire" in found["failed"][0]
    assert stub.requests == []


def test_settings_that_would_leak_or_fail_are_refused(told, monkeypatch):
    plain = {"name": "llm", "base_url": "https://example.org/v1", "model": "m"}
    assert name_of(build(plain)) == "llm"
    for changes in (
        {"base_url": f"https://user:{KEY}@example.org/v1"}, {"base_url": f"https://example.org/v1?key={KEY}"},
        {"base_url": "example.org"}, {"base_url": "ftp://example.org"}, {"base_url": "http://[x"},
        {"key_variable": KEY}, {"windows": 1}, {"tries": 0}, {"colour": "red"},
    ):  # fmt: skip
        with pytest.raises(ConfigError) as error:
            build(plain | changes)
        assert KEY not in f"{error.value.message} {error.value.hint}"
    with pytest.raises(ConfigError, match="folder"):
        table(told, build(plain), None)


def test_the_missing_extra_is_named(told, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(ExtraMissingError, match="'llm'"):
        table(told, Llm(base_url="http://localhost:1/v1", model="m"), tmp_path)


def test_answers_are_read_strictly():
    assert explanation_of('Sure: {"explanation": " a  b\\nc "} ok') == "a b c"
    assert activations_of('{"activations": {"0": 9, "2": 0}}', 3) == [9, 0, 0]
    assert activations_of('{"activations": {}}', 2) == [0, 0]
    for answer in (
        '{"activations": [1, 2]}', '{"activations": {"3": 1}}', '{"activations": {"-1": 1}}', "[]", "{}",
        '{"activations": {"0": 10}}', '{"activations": {"0": 1.5}}', '{"activations": {"0": true}}',
        '{"activations": {"x": 1}}', "", "{" * 5000,
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"JSON|activation|token"):
            activations_of(answer, 3)
    assert levels(np.array([0, 0.01, 0.5, 1.0]), 1.0) == [0, 1, 5, 9]
