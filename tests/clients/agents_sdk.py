"""What OpenAI's Agents SDK makes of a gateway before upstream.py, by either API; BASE and KEY say where."""

import asyncio
import enum
import os

os.environ |= {"OPENAI_BASE_URL": os.environ["BASE"], "OPENAI_API_KEY": os.environ["KEY"],
               "OPENAI_AGENTS_DISABLE_TRACING": "1"}

import agents
import openai
import pydantic
from agents import Agent, ModelSettings, Runner, function_tool
from openai.types.shared import Reasoning

PNG = ("data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
       "rkJggg==")


class Kind(enum.Enum):
    TOWN = "town"
    CITY = "city"


class Place(pydantic.BaseModel):
    name: str
    kind: Kind
    people: int | None
    within: list["Place"] = pydantic.Field(max_length=0)


class Trip(pydantic.BaseModel):
    stops: list[str]
    kind: Kind
    days: int
    note: str | None


@function_tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


@function_tool
def trip_length(trip: Trip, more: int = 0) -> str:
    """How long a trip takes."""
    return f"{trip.days} days to {', '.join(trip.stops)}"


@function_tool
def picture() -> agents.ToolOutputImage:
    """A picture."""
    return agents.ToolOutputImage(image_url=PNG)


def agent(**more):
    return Agent(name="assistant", instructions="be kind", **more)


async def run(agent, words, streams, **more):
    if not streams:
        return await Runner.run(agent, words, **more)
    result = Runner.run_streamed(agent, words, **more)
    said, items = "", []
    async for event in result.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            said += event.data.delta
        elif event.type == "run_item_stream_event":
            items.append(event.item)
    assert [item.type for item in items] == [item.type for item in result.new_items], items
    if isinstance(result.final_output, str):
        assert said.endswith(result.final_output), (said, result.final_output)
    return result


async def raises(kind, word, *arguments, **more):
    try:
        result = await run(*arguments, **more)
    except kind as error:
        assert word in str(error), error
        return error
    raise AssertionError(f"no {kind.__name__}: {result.final_output}")


async def says(wanted, *arguments, **more):
    result = await run(*arguments, **more)
    assert result.final_output == wanted, (wanted, result.final_output)
    return result


def message(*parts):
    return [{"role": "user", "content": list(parts)}]


async def all_of(api, streams):
    result = await says("you said: hello", agent(), "hello", streams)
    usage = result.context_wrapper.usage
    # Of a stream of chat it asks for none by itself.
    if api == "chat_completions" and streams:
        counts = ModelSettings(include_usage=True)
        usage = (await run(agent(model_settings=counts), "hello", streams)).context_wrapper.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (9, 12, 21), usage
    assert usage.input_tokens_details.cached_tokens == 3, usage
    assert usage.output_tokens_details.reasoning_tokens == 4, usage

    tools = [weather, trip_length]
    helped = await says("results: sunny in Rome", agent(tools=tools), "call weather", streams)
    kinds = [item.type for item in helped.new_items]
    assert kinds == ["tool_call_item", "tool_call_output_item", "message_output_item"], kinds
    both = "results: sunny in Rome | 7 days to Rome, Rome"
    await says(both, agent(tools=tools), "call all", streams)
    one = ModelSettings(parallel_tool_calls=False, tool_choice="required", temperature=0.5, top_p=0.9,
                        max_tokens=99, store=True, truncation="auto", verbosity="low", include_usage=True,
                        metadata={"a": "b"}, reasoning=Reasoning(effort="low", summary="auto"))
    if api == "responses":
        one.response_include = ["reasoning.encrypted_content"]
    await says("results: sunny in Rome", agent(tools=tools, model_settings=one), "call all", streams)
    forced = ModelSettings(tool_choice="trip_length")
    await says("results: 7 days to Rome, Rome", agent(tools=tools, model_settings=forced), "go", streams)

    trip = await run(agent(output_type=Trip), "where", streams)
    assert trip.final_output == Trip(stops=["Rome", "Rome"], kind=Kind.TOWN, days=7, note="Rome"), trip
    loose = agents.AgentOutputSchema(dict[str, int], strict_json_schema=False)
    assert isinstance((await run(agent(output_type=loose), "which", streams)).final_output, dict)
    trip = await run(agent(output_type=Trip, tools=tools), "call weather", streams)
    assert isinstance(trip.final_output, Trip) and len(trip.new_items) == 3, trip

    image = {"type": "input_image", "image_url": PNG, "detail": "auto"}
    words = {"type": "input_text", "text": "what is this"}
    await says("pictures: 2", agent(), message(words, image, image), streams)
    file = {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}
    await says("files: 1", agent(), message(file, words), streams)

    # A conversation in the client, and one handed over to another agent.
    more = [*helped.to_input_list(), {"role": "user", "content": "roles"}]
    roles = "roles: system user assistant tool assistant user"
    await says(roles, agent(tools=tools), more, streams)
    session = agents.SQLiteSession("s")
    await says("results: sunny in Rome", agent(tools=tools), "call weather", streams, session=session)
    await says(roles, agent(tools=tools), "roles", streams, session=session)
    helper = Agent(name="helper", instructions="help", handoff_description="helps", tools=tools)
    first = agent(handoffs=[helper])
    result = await run(first, "call transfer_to_helper", streams)
    assert result.last_agent is helper and "helper" in result.final_output, result
    as_tool = helper.as_tool(tool_name="ask", tool_description="asks")
    await says("results: you said: Rome", agent(tools=[as_tool]), "call ask", streams)

    for status, kind in ((400, openai.BadRequestError), (404, openai.NotFoundError),
                         (429, openai.RateLimitError), (500, openai.InternalServerError)):
        error = await raises(kind, "you asked for", agent(), f"error {status}", streams)
        assert error.status_code == status, error
    # Who may not ask the upstream is the gateway, which says what it was told.
    await raises(openai.AuthenticationError, "you asked for", agent(), "error 401", streams)
    if not streams:
        error = await raises(openai.InternalServerError, "cut short", agent(), "cut", streams)
        assert error.status_code == 503, error
    elif api == "responses":
        await raises(agents.ModelBehaviorError, "agent_unavailable", agent(), "cut", streams)
    else:
        await raises(openai.APIError, "cut short", agent(), "cut", streams)
    error = await raises(agents.ModelRefusalError, "", agent(output_type=Trip), "refuse", streams)
    assert error.refusal == "I do not do that.", error
    slow = agent(model_settings=ModelSettings(timeout=0.5))
    await raises(agents.ModelTimeoutError, "", slow, "slow", streams)


async def responses_only(streams):
    """Conversations that the gateway keeps."""
    tools = [weather]
    first = await says("results: sunny in Rome", agent(tools=tools), "call weather", streams)
    await says("roles: system user assistant tool assistant user", agent(tools=tools), "roles", streams,
               previous_response_id=first.last_response_id)
    await says("results: sunny in Rome", agent(tools=tools), "call weather", streams,
               auto_previous_response_id=True)
    kept = {"role": "user", "content": "roles"}
    for settings in (ModelSettings(store=False), ModelSettings()):
        seen = agent(tools=tools, model_settings=settings)
        await says("roles: system user assistant tool assistant user", seen,
                   [*first.to_input_list(), kept], streams)
    await raises(openai.BadRequestError, "tools[0].type", agent(tools=[agents.WebSearchTool()]), "x", streams)
    await says("pictures: 1", agent(tools=[picture]), "call picture", streams)
    searching = [agents.WebSearchTool(), weather]
    await says("results: sunny in Rome", agent(tools=searching), "call weather", streams)


async def wrong_key(streams):
    client = openai.AsyncOpenAI(api_key="x" * 40)
    for model in (agents.OpenAIResponsesModel, agents.OpenAIChatCompletionsModel):
        wrong = agent(model=model("default", openai_client=client))
        await raises(openai.AuthenticationError, "key", wrong, "hi", streams)


async def main():
    # Its own retries of the errors, of which there are two by default, wait for seconds.
    agents.set_default_openai_client(openai.AsyncOpenAI(max_retries=0), use_for_tracing=False)
    for api in ("responses", "chat_completions"):
        agents.set_default_openai_api(api)
        for streams in (False, True):
            await all_of(api, streams)
            if api == "responses":
                await responses_only(streams)
                await wrong_key(streams)


asyncio.run(main())
