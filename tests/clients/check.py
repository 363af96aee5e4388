"""What OpenAI's client for Python makes of the gateway: check.py CASE; BASE, KEY and DIR say where."""

import asyncio
import os
import sys
import time
from pathlib import Path

import openai
import pydantic
from openai import AsyncOpenAI, OpenAI

BASE, KEY, DIR = os.environ["BASE"], os.environ["KEY"], Path(os.environ["DIR"])
client = OpenAI(base_url=BASE, api_key=KEY, max_retries=0, timeout=30)


def user(content):
    return [{"role": "user", "content": content}]


def chat(content, client=client, **more):
    return client.chat.completions.create(model="default", messages=user(content), **more)


def text(completion):
    return completion.choices[0].message.content


def raises(kind, status, word, act):
    try:
        result = act()
    except kind as error:
        assert status is None or error.status_code == status, error
        assert word in str(error), error
        return error
    raise AssertionError(f"no {kind.__name__}: {result}")


def models():
    assert [model.id for model in client.models.list()] == ["default"]
    assert client.models.retrieve("default").object == "model"
    raises(openai.NotFoundError, 404, "none", lambda: client.models.retrieve("none"))


def chats():
    whole = chat("hi")
    assert text(whole) == "text=hi", whole
    assert whole.choices[0].finish_reason == "stop" and whole.object == "chat.completion"
    assert whole.usage.total_tokens == 8, whole
    for options in ({}, {"stream_options": {"include_usage": True}}):
        chunks = list(chat("hi", stream=True, **options))
        said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert said == "text=hi", chunks
        assert chunks[0].choices[0].delta.role == "assistant", chunks[0]
        ends = [c.choices[0].finish_reason for c in chunks if c.choices]
        assert ends[-1] == "stop" and set(ends[:-1]) == {None}, ends
        usage = [c.usage.total_tokens for c in chunks if c.usage]
        assert usage == ([8] if options else []), chunks
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert text(chat(parts)) == "text=a\nb"
    image = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    raises(openai.BadRequestError, 400, "image_url", lambda: chat(image))
    raises(openai.BadRequestError, 400, '"n"', lambda: chat("hi", n=2))
    assert text(chat("hi", n=1, user="me", temperature=0.5, extra_body={"more": [1]})) == "text=hi"
    messages = [
        {"role": "system", "content": "S"},
        {"role": "developer", "content": "D"},
        {"role": "user", "content": "U"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c", "content": "T"},
    ]
    said = text(client.chat.completions.create(model="any", messages=messages))
    assert said.startswith("text=U\n"), said
    assert all(f'"{word}"' in said for word in "SDT"), said


async def at_once():
    async with AsyncOpenAI(base_url=BASE, api_key=KEY) as client:
        def ask(n):
            return client.chat.completions.create(model="default", messages=user(f"n{n}"))
        replies = await asyncio.gather(*(ask(n) for n in range(20)))
        assert [text(reply) for reply in replies] == [f"text=n{n}" for n in range(20)]


def sessions():
    headers = {"X-Hermes-Session-Id": "python"}
    assert text(chat("one", extra_headers=headers)) == "text=one"
    said = text(chat("two", extra_headers=headers))
    assert said.startswith("text=two\n") and '"one"' in said, said
    headers = {"Idempotency-Key": "python-1"}
    raw = client.chat.completions.with_raw_response
    replies = [
        raw.create(model="default", messages=user("once"), extra_headers=headers) for _ in range(2)
    ]
    assert replies[0].parse().id == replies[1].parse().id
    assert [reply.headers.get("idempotent-replayed") for reply in replies] == [None, "true"]


def outage():
    # Its own retries, as they are by default: what it sends again must not run twice.
    patient = OpenAI(base_url=BASE, api_key=KEY)
    assert text(chat("away", patient, extra_headers={"X-Hermes-Session-Id": "out"})) == "text=away"
    assert (DIR / "ran").read_text() == "x\n"
    said = client.get("/sessions/out", cast_to=object)["messages"]
    assert [message["status"] for message in said] == ["cancelled", "done"], said


def errors():
    raises(openai.AuthenticationError, 401, "key", lambda: chat("hi", client.with_options(api_key="x" * 40)))
    raises(openai.NotFoundError, 404, "", lambda: client.get("/nothing", cast_to=object))
    raises(openai.APIStatusError, 413, "", lambda: chat("x" * 2_000_000))
    raises(openai.InternalServerError, 502, "it cannot be done", lambda: chat("fail"))
    raises(openai.InternalServerError, 502, "fail", lambda: chat("fail", stream=True))
    # A failure that may pass is tried again, as often as the client wants.
    raises(openai.InternalServerError, 503, "75", lambda: chat("busy", client.with_options(max_retries=1)))
    assert (DIR / "attempts").read_text() == "x\n" * 2
    raises(openai.APIError, None, "exit status 1", lambda: list(chat("half", stream=True)))
    raises(openai.APITimeoutError, None, "", lambda: chat("slow", client.with_options(timeout=0.5)))
    pid = int((DIR / "slow").read_text())
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, "the agent of a client that has gone goes on"
        time.sleep(0.05)


def responses():
    first = client.responses.create(model="default", input="one", instructions="be kind")
    assert first.output_text.startswith("text=one\n") and "be kind" in first.output_text, first
    assert first.status == "completed" and first.usage.total_tokens == 8, first
    second = client.responses.create(
        model="default",
        input=[{"role": "user", "content": [{"type": "input_text", "text": "two"}]}],
        previous_response_id=first.id,
    )
    assert second.output_text.startswith("text=two\n") and '"one"' in second.output_text, second
    assert client.responses.retrieve(second.id).output_text == second.output_text
    client.responses.delete(second.id)
    raises(openai.NotFoundError, 404, "", lambda: client.responses.retrieve(second.id))
    raises(openai.NotFoundError, 404, "", lambda: client.responses.create(
        model="default", input="x", previous_response_id=second.id))
    unstored = client.responses.create(model="default", input="x", store=False)
    raises(openai.NotFoundError, 404, "", lambda: client.responses.retrieve(unstored.id))
    events = list(client.responses.create(model="default", input="hi", stream=True))
    names = [event.type.removeprefix("response.") for event in events]
    assert names[:4] == ["created", "in_progress", "output_item.added", "content_part.added"], names
    assert names[-4:] == ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert set(names[4:-4]) == {"output_text.delta"}, names
    assert [event.sequence_number for event in events] == list(range(len(events)))
    with client.responses.stream(model="default", input="hi") as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == "text=hi"
    failed = list(client.responses.create(model="default", input="half", stream=True))
    assert failed[-1].type == "response.failed" and failed[-2].type == "error", failed
    raises(openai.InternalServerError, 502, "", lambda: client.responses.create(
        model="default", input="fail"))


def understood(events):
    """Each event and all in it is just what the client's own types ask for."""
    for event in events:
        assert not type(event).__name__.startswith("Unknown"), event
        type(event).model_validate(event.to_dict())
    assert [event.sequence_number for event in events] == list(range(len(events)))
    return events[-1].response


def tools():
    tool = {"type": "function", "name": "weather", "strict": True, "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}
    more = {"model": "default", "tools": [tool]}
    for store in (True, False):
        whole = client.responses.create(input="q", store=store, **more)
        events = list(client.responses.create(input="q", store=store, stream=True, **more))
        for first in (whole, understood(events)):
            type(first).model_validate(first.to_dict())
            [call] = first.output
            assert (call.type, call.name, call.arguments) == ("function_call", "weather", '{"city":"Rome"}')
            assert first.usage.input_tokens_details.cached_tokens == 0, first
            result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
            ways = [{"input": [*user("q"), call, result]}]
            if store:
                reference = {"type": "item_reference", "id": call.id}
                ways += [{"input": [result], "previous_response_id": first.id},
                         {"input": [*user("q"), reference, result]}]
            for way in ways:
                assert client.responses.create(**way, **more).output_text == "it is sunny"
                end = understood(list(client.responses.create(**way, **more, stream=True)))
                assert end.output_text == "it is sunny"
            if store:
                items = list(client.responses.input_items.list(first.id))
                assert [item.content[0].text for item in items] == ["q"], items
    two = [tool, tool | {"name": "time"}]
    with client.responses.stream(model="default", input="q", tools=two) as stream:
        names = [event.type for event in stream]
        calls = stream.get_final_response().output
    assert [(call.name, call.arguments) for call in calls] == [
        ("weather", '{"city":"Rome"}'), ("time", '{"city":"Rome"}')], calls
    assert names.count("response.function_call_arguments.done") == 2, names

    class Place(pydantic.BaseModel):
        city: str

    parsed = client.responses.parse(model="default", input="where", text_format=Place)
    assert parsed.output_parsed == Place(city="Rome"), parsed
    image = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"}
    seen = client.responses.create(model="default", input=user([image]))
    assert seen.output_text == "pictures: 1", seen
    for wrong, param in (({"tools": [{"type": "web_search"}]}, "tools[0].type"),
                         ({"background": True}, "background")):
        error = raises(openai.BadRequestError, 400, "", lambda: client.responses.create(
            model="default", input="q", **wrong))
        assert error.param == param, error.body


def litellm():
    import litellm

    litellm.telemetry = False
    more = {"model": "openai/default", "api_base": BASE, "api_key": KEY, "messages": user("hi")}
    assert text(litellm.completion(**more)) == "text=hi"
    chunks = litellm.completion(**more, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "text=hi"
    try:
        litellm.completion(**more | {"api_key": "x" * 40})
    except litellm.AuthenticationError:
        return
    raise AssertionError("a wrong key came in")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        case = globals()[name]
        asyncio.run(case()) if asyncio.iscoroutinefunction(case) else case()
