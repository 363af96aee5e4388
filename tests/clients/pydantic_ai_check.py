"""What pydantic-ai makes of a gateway before upstream.py, by either API; BASE and KEY say where."""

import asyncio
import base64
import os

import openai
import pydantic
from pydantic_ai import Agent, BinaryContent, ImageUrl, ModelSettings, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai import exceptions as errors
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel, OpenAIResponsesModelSettings
from pydantic_ai.providers.openai import OpenAIProvider

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


class Stop(pydantic.BaseModel):
    city: str
    days: int
    note: str | None = None


class Trip(pydantic.BaseModel):
    """A trip."""

    stops: list[Stop]
    far: bool


def model(kind, key=os.environ["KEY"], **more):
    client = openai.AsyncOpenAI(base_url=os.environ["BASE"], api_key=key, **{"max_retries": 0} | more)
    return kind("default", provider=OpenAIProvider(openai_client=client))


def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def time(city: str, zone: str | None = None) -> str:
    """The time in a city."""
    return f"noon in {city}"


async def run(agent, words, streams, **more):
    """The output and the result."""
    if not streams:
        result = await agent.run(words, **more)
        return result.output, result
    async with agent.run_stream(words, **more) as result:
        return await result.get_output(), result


async def says(wanted, *arguments, **more):
    output, result = await run(*arguments, **more)
    assert output == wanted, (output, result.all_messages())
    return result


async def raises(kind, word, *arguments, **more):
    try:
        output, _ = await run(*arguments, **more)
    except kind as error:
        assert word in str(error), error
        return error
    raise AssertionError(f"no {kind}: {output}")


async def all_of(kind, streams):
    known = model(kind)
    plain = Agent(known, instructions="be kind")
    result = await says("you said: hello", plain, "hello", streams)
    usage = result.usage
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens) == (9, 12, 3), usage
    assert usage.details.get("reasoning_tokens") == 4, usage
    settings = ModelSettings(temperature=0.5, top_p=0.9, max_tokens=99, parallel_tool_calls=False, timeout=20)
    await says("you said: hello", plain, "hello", streams, model_settings=settings)

    tools = Agent(known, instructions="be kind", tools=[weather, time])
    helped = await says("results: sunny in Rome", tools, "call weather", streams)
    await says("results: sunny in Rome | noon in Rome", tools, "call all", streams)
    await says("roles: system user assistant tool assistant user", tools, "roles", streams,
               message_history=helped.all_messages())

    for form in (Trip, ToolOutput(Trip, strict=True), NativeOutput(Trip), NativeOutput(Trip, strict=True)):
        for more in ([], [weather]):
            shaped = Agent(known, output_type=form, tools=more)
            output, _ = await run(shaped, "call weather", streams)
            assert len(output.stops) == 2 and output.stops[0].city == "Rome" and output.far, output
    words = 'say {"stops": [], "far": false}'
    assert (await run(Agent(known, output_type=PromptedOutput(Trip)), words, streams))[0].stops == []

    image = BinaryContent(base64.b64decode(PNG), media_type="image/png")
    pictures = ["what is this", image, ImageUrl("https://example.org/a.png")]
    await says("pictures: 2", plain, pictures, streams)
    file = BinaryContent(b"%PDF-1.4", media_type="application/pdf")
    await says("files: 1", plain, ["what is this", file], streams)

    def picture() -> BinaryContent:
        """A picture."""
        return image

    # No message of a tool has a picture: it comes behind it, as a user's.
    output, _ = await run(Agent(known, tools=[picture]), "call picture", streams)
    assert output == "pictures: 1", output

    for status in (400, 401, 404, 429, 500):
        error = await raises(errors.ModelHTTPError, "you asked for", plain, f"error {status}", streams)
        assert error.status_code == status, error
    broken = errors.ModelAPIError if kind is OpenAIResponsesModel and streams else errors.ModelHTTPError
    await raises(broken, "agent_unavailable", plain, "cut", streams)
    await raises(errors.ModelAPIError, "", Agent(model(kind, timeout=0.5)), "slow", streams)
    wrong = Agent(model(kind, key="x" * 40))
    error = await raises(errors.ModelHTTPError, "key", wrong, "hello", streams)
    assert error.status_code == 401, error
    await raises(errors.ContentFilterError, "I do not do that.", plain, "refuse", streams)
    result = await says("you said: long", plain, "long", streams)
    assert result.all_messages()[-1].finish_reason == "length", result.all_messages()


async def responses_only(streams):
    """Conversations that the gateway keeps."""
    agent = Agent(model(OpenAIResponsesModel), instructions="be kind", tools=[weather])
    auto = OpenAIResponsesModelSettings(openai_previous_response_id="auto")
    helped = await says("results: sunny in Rome", agent, "call weather", streams, model_settings=auto)
    await says("roles: system user assistant tool assistant user", agent, "roles", streams,
               model_settings=auto, message_history=helped.all_messages())
    more = OpenAIResponsesModelSettings(
        openai_reasoning_effort="low", openai_reasoning_summary="auto", openai_text_verbosity="low",
        openai_truncation="auto", openai_store=False, openai_include_encrypted_reasoning=True)
    await says("you said: hello", agent, "hello", streams, model_settings=more)


async def main():
    for kind in (OpenAIChatModel, OpenAIResponsesModel):
        for streams in (False, True):
            await all_of(kind, streams)
            if kind is OpenAIResponsesModel:
                await responses_only(streams)


asyncio.run(main())
