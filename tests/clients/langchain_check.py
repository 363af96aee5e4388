"""What LangChain makes of a gateway before upstream.py, by either API; BASE and KEY say where."""

import asyncio
import os
import warnings

os.environ |= {"OPENAI_BASE_URL": os.environ["BASE"], "OPENAI_API_KEY": os.environ["KEY"],
               "LANGSMITH_TRACING": "false"}

# Of its own objects.
warnings.filterwarnings("ignore", "Pydantic serializer warnings")

import langchain_openai
import openai
import pydantic
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


class Stop(pydantic.BaseModel):
    """A stop of a trip."""

    city: str
    days: int
    note: str | None


class Trip(pydantic.BaseModel):
    """A trip."""

    stops: list[Stop]
    far: bool


STOP = Stop(city="Rome", days=7, note="Rome")
TRIP = Trip(stops=[STOP, STOP], far=True)


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


@tool
def time(city: str, zone: str | None = None) -> str:
    """The time in a city."""
    return f"noon in {city}"


TOOLS = {"weather": weather, "time": time}


def model(**more):
    return langchain_openai.ChatOpenAI(model="default", **{"max_retries": 0, "stream_usage": True} | more)


def ask(model, words, streams):
    """The answer, and whatever its chunks are together."""
    if not streams:
        return model.invoke(words)
    whole = None
    for chunk in model.stream(words):
        whole = chunk if whole is None else whole + chunk
    return whole


def says(wanted, *arguments):
    answer = ask(*arguments)
    assert answer.text == wanted, answer
    return answer


def raises(kind, word, act):
    try:
        result = act()
    except kind as error:
        assert word in str(error), error
        return error
    raise AssertionError(f"no {kind.__name__}: {result}")


def loops(model, words, streams):
    """Calls the tools until there is an answer: all the messages."""
    messages = [SystemMessage("be kind"), HumanMessage(words)]
    while True:
        answer = ask(model, messages, streams)
        messages.append(answer)
        if not answer.tool_calls:
            return messages
        messages += [TOOLS[call["name"]].invoke(call) for call in answer.tool_calls]


def all_of(api, streams):
    llm = model(use_responses_api=api)
    answer = says("you said: hello", llm, "hello", streams)
    usage = answer.usage_metadata
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (9, 12, 21), answer
    assert usage["input_token_details"]["cache_read"] == 3, answer
    assert usage["output_token_details"]["reasoning"] == 4, answer
    settings = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 99, "reasoning_effort": "low", "seed": None}
    says("you said: hello", model(use_responses_api=api, **settings), "hello", streams)

    for strict in (None, True):
        tools = llm.bind_tools([weather], strict=strict)
        helped = loops(tools, "call weather", streams)
        assert helped[-1].text.endswith("results: sunny in Rome"), helped
        says("roles: system user assistant tool assistant user", tools, [*helped, HumanMessage("roles")], streams)
    both = llm.bind_tools([weather, time])
    helped = loops(both, "call all", streams)
    assert [len(message.tool_calls) for message in helped if isinstance(message, AIMessage)] == [2, 0], helped
    assert helped[-1].text == "results: sunny in Rome | noon in Rome", helped
    for choice, name in (("any", "weather"), ("time", "time")):
        forced = llm.bind_tools([weather, time], tool_choice=choice, parallel_tool_calls=False)
        answer = ask(forced, "go", streams)
        assert [call["name"] for call in answer.tool_calls] == [name], answer
    assert ask(llm.bind_tools([weather], tool_choice="none"), "call weather", streams).tool_calls == []

    for more in ({}, {"strict": True}, {"method": "function_calling"}, {"include_raw": True}):
        shaped = llm.with_structured_output(Trip, **more)
        answer = shaped.invoke("where") if not streams else list(shaped.stream("where"))[-1]
        found = answer["parsed"] if more.get("include_raw") and not streams else answer
        assert found == TRIP or streams and more.get("include_raw"), (more, answer)
    loose = llm.with_structured_output(Trip, method="json_mode")
    assert loose.invoke(f"as JSON: say {TRIP.model_dump_json()}") == TRIP

    url = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "low"}}
    block = {"type": "image", "base64": PNG, "mime_type": "image/png"}
    file = {"type": "file", "base64": "AAAA", "mime_type": "application/pdf", "filename": "a.pdf"}
    words = {"type": "text", "text": "what is this"}
    says("pictures: 2, files: 1", llm, [HumanMessage([words, url, block, file])], streams)

    for status, kind in ((400, openai.BadRequestError), (401, openai.AuthenticationError),
                         (404, openai.NotFoundError), (429, openai.RateLimitError),
                         (500, openai.InternalServerError)):
        raises(kind, "you asked for", lambda: ask(llm, f"error {status}", streams))
    # In a stream of Responses an error is what LangChain itself raises.
    broken = (ValueError, "agent_unavailable") if api and streams else (openai.APIError, "cut short")
    raises(*broken, lambda: ask(llm, "cut", streams))
    raises(openai.APITimeoutError, "", lambda: ask(
        model(use_responses_api=api, timeout=0.5), "slow", streams))
    raises(openai.AuthenticationError, "key", lambda: ask(
        model(use_responses_api=api, api_key="x" * 40), "hi", streams))
    if api or not streams:
        # In a stream of chat it overlooks it.
        assert "I do not do that." in str(ask(llm, "refuse", streams))
    cut = ask(llm, "long", streams)
    assert cut.text == "you said: long", cut
    said = cut.response_metadata
    assert said.get("finish_reason") == "length" or said["incomplete_details"]["reason"] == "max_output_tokens", cut


def responses_only(streams):
    """Conversations that the gateway keeps, and those that it must not."""
    kept = model(use_responses_api=True, use_previous_response_id=True)
    first = says("you said: one", kept, [HumanMessage("one")], streams)
    second = [HumanMessage("one"), first, HumanMessage("roles")]
    says("roles: user assistant user", kept, second, streams)
    for version in ("v0", "responses/v1", "v1"):
        unkept = model(use_responses_api=True, store=False, output_version=version,
                       include=["reasoning.encrypted_content"], reasoning={"effort": "low", "summary": "auto"})
        helped = loops(unkept.bind_tools([weather]), "call weather", streams)
        says("roles: system user assistant tool assistant user", unkept.bind_tools([weather]),
             [*helped, HumanMessage("roles")], streams)
    raises(openai.BadRequestError, "tools[0].type", lambda: ask(
        model(use_responses_api=True).bind_tools([{"type": "web_search"}]), "x", streams))


async def at_once():
    for api in (False, True):
        llm = model(use_responses_api=api)
        answers = await llm.abatch([f"n{n}" for n in range(8)])
        assert [answer.text for answer in answers] == [f"you said: n{n}" for n in range(8)], answers
        said = "".join([chunk.text async for chunk in llm.astream("hello")])
        assert said == "you said: hello", said


for api in (False, True):
    for streams in (False, True):
        all_of(api, streams)
        if api:
            responses_only(streams)
asyncio.run(at_once())
