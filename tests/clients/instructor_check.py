"""What instructor makes of a gateway before upstream.py, in each of its modes; BASE and KEY say where."""

import asyncio
import os
import typing

import instructor
import openai
import pydantic
from instructor import Mode

PNG = ("data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
       "rkJggg==")
CONNECTION = {"base_url": os.environ["BASE"], "api_key": os.environ["KEY"], "max_retries": 0}


class Stop(pydantic.BaseModel):
    """A stop of a trip."""

    city: str
    days: int


class Trip(pydantic.BaseModel):
    """A trip."""

    stops: list[Stop]
    far: bool


class Weather(pydantic.BaseModel):
    """The weather in a city."""

    city: str


class Time(pydantic.BaseModel):
    """The time in a city."""

    zone: str


TRIP = Trip(stops=[Stop(city="Rome", days=7)] * 2, far=True)
# Those of its modes that are for OpenAI's API, and which of its endpoints.
CHAT = ["FUNCTIONS", "TOOLS", "TOOLS_STRICT", "JSON", "JSON_SCHEMA", "MD_JSON", "JSON_O1"]
RESPONSES = ["RESPONSES_TOOLS", "RESPONSES_TOOLS_WITH_INBUILT_TOOLS"]
# They are given the schema in words.
IN_WORDS = ["JSON", "MD_JSON", "JSON_O1"]


def user(content):
    return [{"role": "user", "content": content}]


def raises(kind, word, act):
    try:
        result = act()
    except kind as error:
        assert word in str(error), error
        return error
    raise AssertionError(f"no {kind}: {result}")


def check(name):
    mode = Mode[name]
    client = instructor.from_openai(openai.OpenAI(**CONNECTION), mode=mode)

    def words(value, before="where"):
        text = value.model_dump_json()
        return user(f"{before}: say ```json {text} ```" if name == "MD_JSON" else f"{before}: say {text}"
                    ) if name in IN_WORDS else user(before)

    more = {"model": "default"}
    assert client.create(response_model=Trip, messages=words(TRIP), **more) == TRIP
    trip, raw = client.create_with_completion(response_model=Trip, messages=words(TRIP), **more)
    assert trip == TRIP and raw.usage.total_tokens == 21, raw
    trips = list(client.create_partial(response_model=Trip, messages=words(TRIP), **more))
    assert trips[-1].model_dump() == TRIP.model_dump(), trips[-1]
    assert len(trips) > 2, trips

    class Stops(pydantic.BaseModel):
        tasks: list[Stop]

    stops = words(Stops(tasks=TRIP.stops))
    assert list(client.create_iterable(response_model=Stop, messages=stops, **more)) == TRIP.stops
    if name not in ("JSON_O1",):
        parts = [{"type": "text", "text": words(TRIP)[0]["content"]},
                 {"type": "image_url", "image_url": {"url": PNG}}]
        if name in RESPONSES:
            parts = [{"type": "input_text", "text": "where"}, {"type": "input_image", "image_url": PNG, "detail": "auto"}]
        assert client.create(response_model=Trip, messages=user(parts), **more) == TRIP
        image = instructor.Image.from_base64(PNG)
        assert client.create(response_model=Trip, messages=user([words(TRIP)[0]["content"], image]), **more) == TRIP
    for status in (400, 401, 404, 429, 500):
        raises(instructor.exceptions.InstructorRetryException, "you asked for", lambda: client.create(
            response_model=Trip, messages=user(f"error {status}"), max_retries=1, **more))


def parallel():
    client = instructor.from_openai(openai.OpenAI(**CONNECTION), mode=Mode.PARALLEL_TOOLS)
    for kinds in (typing.Iterable[Weather | Time],):
        got = list(client.create(model="default", messages=user("call all"), response_model=kinds))
        assert got == [Weather(city="Rome"), Time(zone="Rome")], got


if __name__ == "__main__":
    print([mode.name for mode in Mode])
    for name in CHAT + RESPONSES:
        try:
            check(name)
            print(name, "ok")
        except Exception as error:
            import traceback
            print(name, type(error), str(error)[:600])
            traceback.print_exc()
    parallel()
